"""All benchmarks, and their tables as docs/performance.md.

python -m benchmarks.report [--only inference batch8 training startup odd layers accuracy] [--runs 2] [--threads 1 2]
    [--seconds 1] [--again] [--models ...] [--cases ...] [--peers ...] [--folder build/performance]
    [--out docs/performance.md]

Leaves: a JSON file for each part, number of threads and run in the folder, and the page, made from all files there.
Figures that a file holds are not measured again, so a run that was interrupted goes on where it stopped; with
`--again` those of the parts, models and cases named are, and take the place of the old ones. Every benchmark is a
process of its own, and all of a run end before the next run begins, so that figures side by side were taken at
different times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from .goals import BATCH8, INFERENCE
from .measure import arguments, cores
from .odd import SHAPES as ODD
from .page import page
from .peers import PEERS
from .training import CASES

ROOT = Path(__file__).parent.parent
TORCH = ("eager", "NHWC", "inductor")
LAYERS = ("lenet5", "resnet18", "resnet50", "vgg16")
PARTS = ("inference", "batch8", "training", "startup", "odd", "layers", "accuracy")
ONCE = ("layers", "accuracy")  # parts that a second run would only repeat
HOPELESS = ["--hopeless", "1.5"]
Row = Mapping[str, object]


@dataclass(frozen=True)
class Job:
    """One benchmark to run: `name` of its file, module and arguments, the option that names its rows, and the rows."""

    name: str
    module: str
    arguments: tuple[str, ...]
    option: str = ""
    rows: tuple[str, ...] = ()

    def command(self, rows: Sequence[str]) -> list[str]:
        more = [self.option, *rows] if self.option else []
        return [sys.executable, "-m", f"benchmarks.{self.module}", "--json", *self.arguments, *more]


def jobs(options: Namespace) -> Iterator[Job]:
    """What a run consists of."""
    files = ["--files", str(Path(options.folder, "models").absolute())]
    peers = ["--seconds", str(options.seconds), *HOPELESS, "--peers", *options.peers]
    for threads in options.threads:
        many = ["--threads", str(threads)]
        yield Job(f"inference-{threads}", "inference", (*many, *peers, *files), "--models", tuple(options.models))
        batch = [m for m in options.models if m in BATCH8.rows]
        yield Job(f"batch8-{threads}", "inference", ("--batch", "8", *many, *peers, *files), "--models", tuple(batch))
        theirs = [p for p in options.peers if p in TORCH]
        if theirs:
            more = (*many, "--seconds", str(options.seconds), "--peers", *theirs)
            yield Job(f"training-{threads}", "training", more, "--cases", tuple(options.cases))
    yield Job("startup", "startup", ("--runs", "30", "--compiles", "2"))
    yield Job("odd", "layers", ("--odd",), "--shapes", tuple(ODD))
    yield Job("layers", "layers", (), "--models", LAYERS)
    yield Job("accuracy", "accuracy", (), "--models", tuple(options.models))


def key_of(row: Row) -> object:
    """What a row is about: its first value."""
    return next(iter(row.values()))


def kept(path: Path) -> list[dict]:
    """The results that a file holds, the oldest first."""
    return json.loads(path.read_text()) if path.exists() else []


def merged(results: Sequence[dict]) -> dict:
    """The newest row of each kind, in the order in which they first came; notes of all, and where rows differ in
    commit or date, those of each."""
    rows = {key_of(row): row for result in results for row in result["rows"]}
    facts = [result["machine"] for result in results]
    machine = {name: ", ".join(dict.fromkeys(f[name] for f in facts if name in f)) for f in facts for name in f}
    notes = dict.fromkeys(note for result in results for note in result["notes"])
    return {**results[-1], "rows": list(rows.values()), "notes": list(notes), "machine": machine}


def measure(job: Job, path: Path, again: bool) -> None:
    """Runs what the file lacks, or all with `again`, and adds it. What fails is told and left out."""
    results = kept(path)
    have = {key_of(row) for result in results for row in result["rows"]}
    missing = [row for row in job.rows if again or row not in have]
    if not missing and (job.rows or (have and not again)):
        return
    told = " ".join(missing) if len(missing) < 10 else f"{len(missing)} rows"
    print(f"{path.stem}: {told}", end=" ", file=sys.stderr, flush=True)
    start = perf_counter()
    done = subprocess.run(job.command(missing), cwd=ROOT, capture_output=True, text=True)
    print(f"{perf_counter() - start:.0f} s", file=sys.stderr)
    if done.returncode:
        print(f"{path.stem} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
    if done.stdout and (found := json.loads(done.stdout))["rows"]:
        fresh = {key_of(row) for row in found["rows"]}
        older = [{**r, "rows": [row for row in r["rows"] if key_of(row) not in fresh]} for r in results]
        path.write_text(json.dumps([*(r for r in older if r["rows"]), found], indent=1))


def collected(folder: Path) -> dict[str, list[dict]]:
    """Everything in the folder by the job's name, in the page's order, one result for each run."""
    found: dict[str, list[dict]] = {}
    order = {part: i for i, part in enumerate(PARTS)}
    paths = [p for p in folder.glob("*.*.json") if p.stem.split(".")[0].split("-")[0] in order]
    for path in sorted(paths, key=lambda p: (order[p.stem.split(".")[0].split("-")[0]], p.name)):
        found.setdefault(path.stem.split(".")[0], []).append(merged(kept(path)))
    return found


def main() -> None:
    options = arguments(
        __doc__,
        only=list(PARTS),
        runs=2,
        threads=[n for n in (1, 2) if n <= len(cores())],
        seconds=1.0,
        models=list(INFERENCE.rows),
        cases=list(CASES),
        peers=list(PEERS),
        again=False,
        folder=str(ROOT / "build/performance"),
        out=str(ROOT / "docs/performance.md"),
    )
    if unknown := [p for p in options.only if p not in PARTS]:
        sys.exit(f"no part {', '.join(unknown)}\n  expected some of {', '.join(PARTS)}")
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for run in range(1, options.runs + 1):
        for job in jobs(options):
            part = job.name.split("-")[0]
            if part in options.only and (run == 1 or part not in ONCE):
                measure(job, folder / f"{job.name}.{run}.json", options.again)
    found = collected(folder)
    if not found:
        sys.exit("no benchmark gave a result")
    Path(options.out).write_text(page(found))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

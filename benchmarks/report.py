"""All benchmarks, and their tables as docs/performance.md.

python -m benchmarks.report [--runs 2] [--threads 1 2] [--seconds 5] [--models ...] [--cases ...] [--peers ...]
    [--folder build/performance] [--reuse 0] [--out docs/performance.md]

Enters: nothing, or with `--reuse 1` the JSON files that an earlier run left in the folder. Leaves: one JSON file for
each benchmark, number of threads and run, and the page. Every benchmark is a process of its own, and all of a run end
before the next run begins, so that figures side by side were taken at different times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from graphc.models import ZOO

from .measure import arguments, cell, cores, geometric_mean
from .peers import PEERS
from .training import CASES

ROOT = Path(__file__).parent.parent
TORCH = ("eager", "NHWC", "inductor")
LAYERS = ("lenet5", "resnet18", "resnet50", "vgg16", "odd")
Result = Mapping[str, object]

INTRODUCTION = """# Performance

Written by `python -m benchmarks.report`; nothing here is typed by hand. All programs of a row ran in one process, in
turn, pinned to the same cores, in float32, on the same weights, and their outputs or losses were compared. Times are
medians; a ratio is graphc's time over the best peer's in the same run, so below 1 graphc is faster, and **bold** ratios
are those that graphc loses. Where figures stand side by side they are of separate runs, one after the other. GFLOP/s
and shares of the peak count the multiply-adds of the network as written: Winograd convolutions need fewer of them, and
may pass 100 %.
"""
PEERS_ARE = """
Peers: onnxruntime, OpenVINO and MNN read one ONNX file. PyTorch runs as eager, as NHWC (eager, weights and images
channels-last), and as inductor (torch.compile). A peer without a figure was not installed or cannot run the network;
the notes below a table say which. Of peers the figure of the first run is shown.
"""


def wanted(options) -> Iterator[tuple[str, str, list[str]]]:
    """Name of the result, module and arguments of each benchmark of one run."""
    seconds = ["--seconds", str(options.seconds)]
    for threads in options.threads:
        many = ["--threads", str(threads), *seconds]
        peers = ["--peers", *options.peers]
        yield f"inference-{threads}", "inference", [*many, *peers, "--models", *options.models]
    for threads in options.threads:
        peers = [p for p in options.peers if p in TORCH]
        if peers and options.cases:
            many = ["--threads", str(threads), *seconds]
            yield f"training-{threads}", "training", [*many, "--peers", *peers, "--cases", *options.cases]
    yield "startup", "startup", []
    yield "layers", "layers", ["--models", *LAYERS]


def collect(options, folder: Path) -> dict[str, list[Result]]:
    """Results by name, one for each run. What fails is told on the standard error
    and left out."""
    found: dict[str, list[Result]] = {}
    for run in range(1, options.runs + 1):
        for name, module, more in wanted(options):
            path = folder / f"{name}.{run}.json"
            if not (options.reuse and path.exists()):
                print(f"run {run}: {module} {' '.join(more)}", file=sys.stderr, flush=True)
                command = [sys.executable, "-m", f"benchmarks.{module}", "--json", *more]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                if not done.stdout:
                    continue
                path.write_text(done.stdout)
            found.setdefault(name, []).append(json.loads(path.read_text()))
    return found


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, first column text and the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def ratio(value: object) -> str:
    if not isinstance(value, float):
        return ""
    return f"**{value:.2f}**" if value > 1 else f"{value:.2f}"


def beside(values: Sequence[object], shown: Callable[[object], str] = cell) -> str:
    """One figure of each run."""
    return " / ".join(map(shown, values))


def compared(results: Sequence[Result], key: str, details: Sequence[str]) -> str:
    """Rows of programs beside their peers; a peer's figure is of the run named first."""
    first = results[0]["rows"]
    runs = [{row[key]: row for row in result["rows"]} for result in results]
    kept = [row for row in first if all(row[key] in run for run in runs)]
    peers = [p for p in PEERS if p in first[0]]
    header = [
        key,
        *(d.replace("%_peak", "% of FMA peak") for d in details),
        "graphc, ms",
        *(f"{p}, ms" for p in peers),
        "best peer",
        "ratio",
    ]
    rows = []
    for row in kept:
        own = [run[row[key]] for run in runs]
        told = [beside([r[d] for r in own]) if isinstance(row[d], float) and d != "GMAC" else cell(row[d])
                for d in details]  # fmt: skip
        times = [beside([r["graphc_ms"] for r in own]), *(cell(row[p]) for p in peers)]
        best = " / ".join(dict.fromkeys(r["best_peer"] for r in own))
        rows.append([row[key], *told, *times, best, beside([r["ratio"] for r in own], ratio)])
    means = [geometric_mean([r["ratio"] for r in result["rows"] if r["ratio"]] or [1.0]) for result in results]
    return "\n".join([table(header, rows), f"Geometric mean of the ratios: {beside(means, ratio)}.\n", notes(results)])


def notes(results: Sequence[Result]) -> str:
    told = dict.fromkeys(n for r in results for n in r.get("notes", ()) if "geometric mean" not in n)
    return "".join(f"- {note}\n" for note in told)


def started(results: Sequence[Result]) -> str:
    columns = ("peak_memory_MB", "file_MB", "installed_MB")
    rows = [
        [
            row["process"],
            beside([r["rows"][i]["ms"] for r in results]),
            *(cell(row[c]) for c in columns),
            f"{row['ratio']:.4f}",
        ]
        for i, row in enumerate(results[0]["rows"])
    ]
    header = ["process", "ms", "peak memory, MB", "model file, MB", "packages, MB", "graphc / it"]
    return "\n".join([table(header, rows), notes(results)])


def kernels(results: Sequence[Result]) -> str:
    """What the kernels of each network reach, and the slowest; the share is of one core's peak."""
    rows = []
    for row in results[0]["rows"]:
        made = [k for k in row["kernels"] if k["%_peak"]]
        ranked = sorted(made, key=lambda k: k["%_peak"])
        slow = "; ".join(f"{k['layer']} {k['%_peak']:.0f} %" for k in ranked[:3])
        rows.append([row["network"], len(made), cell(ranked[len(ranked) // 2]["%_peak"]), slow])
    return table(["contractions of", "shapes", "median, % of the FMA peak", "slowest"], rows)


def facts(results: Sequence[Result]) -> str:
    """Machine and versions, with the load at each run."""
    first = results[0]["machine"]
    loads = beside([r["machine"]["load"] for r in results], str)
    listed = {**first, "load at the end of each run": loads}
    listed.pop("load", None)
    return "".join(f"- {name}: {value}\n" for name, value in listed.items())


def page(found: Mapping[str, Sequence[Result]]) -> str:
    """The whole document."""
    parts = [INTRODUCTION, facts(next(iter(found.values()))), PEERS_ARE]
    for name, results in found.items():
        kind, _, threads = name.partition("-")
        many = f", {threads} thread{'s' * (threads != '1')}"
        if kind == "inference":
            parts += [f"## Inference{many}", f"Batch 1. `python -m benchmarks.inference --threads {threads}`"]
            parts.append(compared(results, "model", ["GMAC", "GFLOP/s", "%_peak"]))
        elif kind == "training":
            parts += [f"## Training step{many}", f"`python -m benchmarks.training --threads {threads}`"]
            parts.append(compared(results, "step", ["input", "optimizer"]))
        elif kind == "startup":
            parts += ["## A whole process: lenet5", "From its start to its end. `python -m benchmarks.startup`"]
            parts.append(started(results))
        else:
            parts += ["## Single kernels", "Each alone, operands warm, one thread. `python -m benchmarks.layers`"]
            parts.append(kernels(results))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main() -> None:
    here = [name for name, case in CASES.items() if case.model in ZOO]
    options = arguments(
        __doc__,
        runs=2,
        threads=[n for n in (1, 2) if n <= len(cores())],
        seconds=5.0,
        models=list(ZOO),
        cases=here,
        peers=list(PEERS),
        folder="build/performance",
        reuse=0,
        out="docs/performance.md",
    )
    folder = ROOT / options.folder
    folder.mkdir(parents=True, exist_ok=True)
    found = collect(options, folder)
    if not found:
        sys.exit("no benchmark gave a result")
    (ROOT / options.out).write_text(page(found))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

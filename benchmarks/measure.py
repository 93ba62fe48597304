"""What the benchmarks share: pinning, fair timing of several programs, facts about the machine, tables and JSON.

Programs that are compared run in turn in short blocks, so that a change of the clock or of other load meets all alike,
while the threads that one program leaves spinning for its next call do not take the processor from another. Speed-ups
are taken round by round: on a machine whose speed changes by a fifth from one second to the next, as a shared one's
does, ratios of medians over a minute wandered from 0.93 to 1.18, medians of the rounds' ratios from 1.09 to 1.13.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter, sleep

from rich import box
from rich.console import Console
from rich.table import Table

PAUSE = 0.05  # seconds before a block: longer than the threads of any peer spin
BLOCK = 0.2  # seconds of calls
WIDE = 150
PACKAGES = ("graphc-compiler", "numpy", "llvmlite", "onnxruntime", "openvino", "mnn", "torch")
LEAST, ROUNDS = 30, 9  # samples and blocks of each program, unless they take longer than the seconds allowed for them
# Samples however long they take: of five rounds of a step of a second the median ratio wandered from 1.26 to 1.34, as
# the core was shared with another program for some of them.
FEWEST = 9
WARM = 3  # calls before the first sample


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median, the 10th and 90th percentile, and the median of each block."""

    median: float
    low: float
    high: float
    runs: int
    blocks: tuple[float, ...]

    @staticmethod
    def of(*blocks: Sequence[float]) -> Timing:
        ranked = sorted(seconds for block in blocks for seconds in block)
        tenth, medians = len(ranked) // 10, tuple(map(statistics.median, blocks))
        return Timing(statistics.median(ranked), ranked[tenth], ranked[-1 - tenth], len(ranked), medians)


def interleaved(
    programs: Mapping[str, Callable[[], object]], seconds: float, hopeless: float = 0.0
) -> dict[str, Timing]:
    """Times each program until every one has `LEAST` samples and `ROUNDS` blocks, or blocks of `seconds` and `FEWEST`
    samples.

    The first program is ours, the others are its peers. With `hopeless`, a peer whose best time of the first round is
    more than so many times the best peer's is timed no further: what counts is the best peer.
    """
    for program in programs.values():
        warmed(program)
    times: dict[str, list[list[float]]] = {name: [] for name in programs}
    spent, going = dict.fromkeys(programs, 0.0), list(programs)

    def unfinished(name: str) -> bool:
        samples, rounds = sum(map(len, times[name])), len(times[name])
        return samples < FEWEST or ((samples < LEAST or rounds < ROUNDS) and spent[name] < seconds)

    while any(map(unfinished, going)):
        for name in going:
            sleep(PAUSE)
            begin, program, block = perf_counter(), programs[name], []
            program()
            stop = perf_counter() + min(BLOCK, seconds)
            while perf_counter() < stop or not block:
                start = perf_counter()
                program()
                block.append(perf_counter() - start)
            times[name].append(block)
            spent[name] += perf_counter() - begin
        ours, *peers = going
        if hopeless and peers:
            bound = hopeless * min(min(times[p][0]) for p in peers)
            going = [ours, *(p for p in peers if min(times[p][0]) <= bound)]
    return {name: Timing.of(*blocks) for name, blocks in times.items()}


def speedup(ours: Timing, peer: Timing) -> float:
    """The peer's time over ours: the median over the rounds in which both ran."""
    return statistics.median(b / a for a, b in zip(ours.blocks, peer.blocks, strict=False))


def against_best(timed: Mapping[str, Timing], ours: str = "graphc") -> dict[str, object]:
    """The columns that name the peer over which the speed-up is smallest, and tell it."""
    found = {name: speedup(timed[ours], timing) for name, timing in timed.items() if name != ours}
    best = min(found, key=found.__getitem__, default=None)
    return {"best_peer": best or "", "speedup": found.get(best)}


def warmed(program: Callable[[], object]) -> None:
    """Up to `WARM` calls of a program that was called before; fewer of a slow one."""
    stop = perf_counter() + BLOCK
    for _ in range(WARM):
        program()
        if perf_counter() > stop:
            break


def cores() -> list[int]:
    """CPUs this process may use, the first thread of each physical core only."""
    first = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first.setdefault(siblings.read_text() if siblings.exists() else cpu, cpu)
    return list(first.values())


def pin(available: Sequence[int], threads: int) -> None:
    """This thread, and threads it starts from now on, run on the last `threads` of the available cores."""
    os.sched_setaffinity(0, available[-threads:])


def machine() -> dict[str, str]:
    """Date, CPU, system, load of the last minute and versions, for the foot of a table."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    today = datetime.date.today().isoformat()
    facts = {"date": today, "cpu": names[0] if names else platform.machine(), "system": platform.platform(terse=True)}
    facts["commit"] = commit()
    facts["load"] = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def commit() -> str:
    """The commit of the working tree, with a + where it has changes other than to the page that the figures go to;
    empty outside a repository."""
    folder = Path(__file__).parent.parent
    told = [
        subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
        for words in (
            ["rev-parse", "--short", "HEAD"],
            ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/performance.md"],
        )
    ]
    return told[0] + "+" * bool(told[1])


def show(title: str, rows: Sequence[Mapping[str, object]], as_json: bool, notes: Sequence[str] = ()) -> None:
    """The rows as a table with notes and the machine below it, or as one JSON object. Of a row's values, mappings are
    detail that goes to JSON only."""
    if as_json:
        facts = {"benchmark": title, "rows": list(rows), "notes": list(notes), "machine": machine()}
        print(json.dumps(facts, indent=2))
        return
    if not rows:
        sys.exit("\n".join([f"{title}: no figures", *notes]))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    columns = [name for name, value in rows[0].items() if not isinstance(value, Mapping)]
    for column in columns:
        justify = "left" if isinstance(rows[0][column], str) else "right"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    # A file or a pipe has no width: then lines are as long as they are.
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
    console.print(" · ".join(f"{name} {value}" for name, value in machine().items()), highlight=False)


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def ms(timing: Timing) -> float:
    return timing.median * 1e3


def detail(timing: Timing) -> dict[str, float]:
    """All of a timing, ms."""
    blocks = [seconds * 1e3 for seconds in timing.blocks]
    return {"median": ms(timing), "p10": timing.low * 1e3, "p90": timing.high * 1e3, "runs": timing.runs,
            "blocks": blocks}  # fmt: skip


def attempted(
    names: Sequence[str], compare: Callable[[str], Mapping[str, object]], notes: list[str]
) -> tuple[list[Mapping[str, object]], list[str]]:
    """The rows of those names for which there are some, and the names that failed, with the reasons in `notes`: one
    network that does not compile or whose answers differ must not take the others' figures with it."""
    rows, failed = [], []
    for name in names:
        try:
            rows.append(compare(name))
        except Exception as error:
            traceback.print_exc()
            notes.append(f"{name} FAILED with {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            failed.append(name)
    return rows, failed


def geometric_mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values)


def spread(timing: Timing) -> str:
    """How far single runs lie apart: 10th to 90th percentile, ms."""
    return f"{cell(timing.low * 1e3)}..{cell(timing.high * 1e3)}"


def arguments(description: str, **defaults: object) -> argparse.Namespace:
    """`--json`, and an option for each default, of its type; a flag for False."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    for name, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
            continue
        kind = type(default) if not isinstance(default, list) else type(default[0])
        count = {"nargs": "+"} if isinstance(default, list) else {}
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"default: {default}", **count)
    return parser.parse_args()

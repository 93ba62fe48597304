"""What the benchmarks share: pinning, fair timing of several programs, facts about the machine, tables and JSON.

Programs that are compared run in turn in short blocks, so that a change of the clock or of other load meets all alike,
while the threads that one program leaves spinning for its next call do not take the processor from another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
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
WIDE = 120
PACKAGES = ("graphc-compiler", "numpy", "llvmlite", "onnxruntime", "torch")


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float
    runs: int

    @staticmethod
    def of(seconds: Sequence[float]) -> Timing:
        ranked = sorted(seconds)
        tenth = len(ranked) // 10
        return Timing(statistics.median(ranked), ranked[tenth], ranked[-1 - tenth], len(ranked))


def interleaved(
    programs: Mapping[str, Callable[[], object]], seconds: float, warm: int = 3, least: int = 5
) -> dict[str, Timing]:
    """Times each program; all of them together take about `seconds`."""
    for program in programs.values():
        for _ in range(warm):
            program()
    times: dict[str, list[float]] = {name: [] for name in programs}
    end = perf_counter() + seconds
    while perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, program in programs.items():
            sleep(PAUSE)
            program()
            stop = perf_counter() + BLOCK
            while not times[name] or perf_counter() < stop:
                start = perf_counter()
                program()
                times[name].append(perf_counter() - start)
    return {name: Timing.of(taken) for name, taken in times.items()}


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
    """CPU, system and versions, for the foot of a table."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    facts = {"cpu": names[0] if names else platform.machine(), "system": platform.platform(terse=True)}
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def show(title: str, rows: Sequence[Mapping[str, object]], as_json: bool) -> None:
    """The rows as a table with the machine below it, or as one JSON object."""
    if as_json:
        print(json.dumps({"benchmark": title, "rows": list(rows), "machine": machine()}, indent=2))
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column, first in rows[0].items():
        justify = "left" if isinstance(first, str) else "right"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    # A file or a pipe has no width: then lines are as long as they are.
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    console.print(table)
    console.print(" · ".join(f"{name} {value}" for name, value in machine().items()), highlight=False)


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def ms(timing: Timing) -> float:
    return timing.median * 1e3


def spread(timing: Timing) -> str:
    """How far single runs lie apart: 10th to 90th percentile, ms."""
    return f"{cell(timing.low * 1e3)}..{cell(timing.high * 1e3)}"


def arguments(description: str, **defaults: object) -> argparse.Namespace:
    """`--json`, and an option for each default, of its type."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    for name, default in defaults.items():
        kind = type(default) if not isinstance(default, list) else type(default[0])
        count = {"nargs": "+"} if isinstance(default, list) else {}
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"default: {default}", **count)
    return parser.parse_args()


def peer(name: str, remedy: str):
    """An imported peer, or the end of the program with what to install."""
    try:
        return __import__(name)
    except ImportError:
        sys.exit(f"{name} is not installed, and this benchmark compares with it\n  {remedy}")

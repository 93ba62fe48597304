"""docs/performance.md from results: by the name of a job, such as `inference-1`, one result of each run.

Ratios here are speed-ups, the best peer's time over graphc's; `goals` says what they are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .goals import ODD_SHARE, REASONS, Goal, goals_of
from .measure import cell, geometric_mean
from .peers import PEERS

Result = Mapping[str, object]
Misses = list[tuple[str, str, str]]  # row, what it reached, what was asked

INTRODUCTION = """# Performance

Written by `python -m benchmarks.report`; nothing here is typed by hand but the reasons of what is missed. All programs
of a row ran in one process, in turn, pinned to the same cores, in float32, on the same weights, and their outputs or
losses were compared. Times are medians of a run. A speed-up is the best peer's time over graphc's, so above 1 graphc is
faster: the median of the ratios of all rounds, as the machine's speed changes from one round to the next. Where figures
stand side by side they are of separate runs, one after the other; the worse of them counts for the last column: the
`aim` is met, or what is `required`, or the row is **missed**. GFLOP/s and shares of the peak count the multiply-adds of
the network as written: Winograd convolutions need fewer of them, and may pass 100 %; so do parts that no output reads.
"""
PEERS_ARE = """
Peers: onnxruntime, OpenVINO and MNN read one ONNX file. PyTorch runs as eager, as NHWC (eager, weights and images
channels-last) and, where a table has that column, as inductor (torch.compile). A peer without a figure was not
installed or cannot run the network; the notes below a table say which. Of peers the figure of the first run is shown; a
peer that was 1.5 times slower than the best one in the first round of an inference was timed no further.
"""
ODD_IS = """One convolution as a program of its own, operands warm, one thread, beside the same at the nearest multiple
of 16 channels: what share of the rate of its multiply-adds it keeps, and of what the same work costs there. Work is
what the roofline says it is: multiply-adds at the peak, or every array read or stored once at a cache's rate, whichever
takes longer. The two differ where one channel meets a 1x1 window: one product for each result is no work beside storing
it."""
# Columns that rows of a training step may have beside the times.
MEMORY = {"graphc_MB": "graphc, MB", "peer_MB": "PyTorch eager, MB"}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, first column text and the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def beside(values: Sequence[object], shown: Callable[[object], str] = cell) -> str:
    """One figure of each run; one alone where all look alike."""
    return " / ".join(map(shown, values))


def speedup(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else ""


def judged(values: Sequence[float], goal: Goal | None) -> list[str]:
    """The last columns: speed-ups of the runs, required, aim and verdict."""
    shown = beside(values, speedup)
    if goal is None or not values:
        return [shown, "", "", ""]
    return [shown, cell(goal.required), cell(goal.aim), goal.verdict(list(values))]


def compared(name: str, results: Sequence[Result], key: str, details: Sequence[str], misses: Misses) -> str:
    """Rows of programs beside their peers; a peer's figure is of the run named first."""
    part, _, threads = name.partition("-")
    goals = goals_of(part, int(threads))
    runs = [{row[key]: row for row in result["rows"]} for result in results]
    kept = [row for row in results[0]["rows"] if all(row[key] in run for run in runs)]
    ranked = {name: i for i, name in enumerate(goals.rows)}
    kept.sort(key=lambda row: ranked.get(row[key], len(ranked)))
    peers = [p for p in PEERS if any(p in row for row in kept)]
    memory = [c for c in MEMORY if any(c in row for row in kept)]
    header = [
        key,
        *(d.replace("%_peak", "% of FMA peak") for d in details),
        "graphc, ms",
        *(f"{p}, ms" for p in peers),
        *(MEMORY[c] for c in memory),
        "best peer",
        "speed-up",
        "required",
        "aim",
        "met",
    ]
    rows, counted = [], []
    for row in kept:
        own, goal = [run[row[key]] for run in runs], goals.rows.get(row[key])
        told = [
            beside([r[d] for r in own]) if isinstance(row[d], float) and d != "GMAC" else cell(row[d]) for d in details
        ]
        times = [beside([r["graphc_ms"] for r in own]), *(cell(row.get(p)) for p in peers)]
        used = [beside([r.get(c) for r in own]) if c == memory[0] else cell(row.get(c)) for c in memory]
        best = " / ".join(dict.fromkeys(r["best_peer"] for r in own))
        ratios = [r["speedup"] for r in own if r["speedup"]]
        ends = judged(ratios, goal)
        rows.append([row[key], *told, *times, *used, best, *ends])
        noted(misses, f"{name}/{row[key]}", ratios, goal)
        if goal:
            counted.append(ratios)
    means = [geometric_mean(of_run) for of_run in zip(*counted, strict=True)] if all(counted) else []
    whole = goals.mean if len(counted) == len(goals.rows) else None
    shown, required, aim, verdict = judged(means, whole)
    held = f"; required {required}{aim and f', aim {aim}'}: {verdict}" if verdict else ""
    noted(misses, f"{name}/geometric mean", means, whole)
    return "\n".join([table(header, rows), f"Geometric mean of the speed-ups: {shown}{held}.\n", notes(results)])


def noted(misses: Misses, row: str, values: Sequence[float], goal: Goal | None) -> None:
    """Adds a row that misses what is required or its aim."""
    if not goal or not values or (met := goal.verdict(list(values))) == "aim" or (met == "required" and not goal.aim):
        return
    asked = f"required {goal.required:g}" if met != "required" else f"aim {goal.aim:g}"
    misses.append((row, beside(values, speedup), asked))


def notes(results: Sequence[Result]) -> str:
    told = dict.fromkeys(n for r in results for n in r.get("notes", ()) if "geometric mean" not in n)
    return "".join(f"- {note}\n" for note in told)


def started(results: Sequence[Result]) -> str:
    columns = ("peak_memory_MB", "file_MB", "installed_MB")
    runs = [{row["process"]: row for row in result["rows"]} for result in results]
    rows = [
        [
            row["process"],
            beside([run[row["process"]]["ms"] for run in runs if row["process"] in run]),
            *(cell(row[c]) for c in columns),
            f"{row['speedup']:.3g}",
        ]
        for row in results[0]["rows"]
    ]
    header = ["process", "ms", "peak memory, MB", "model file, MB", "packages, MB", "speed-up"]
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


def odd(name: str, results: Sequence[Result], misses: Misses) -> str:
    """Each odd shape beside the same at a multiple of 16 channels; the best of the runs counts, as noise only slows."""
    runs = [{row["shape"]: row for row in result["rows"]} for result in results]
    rows = []
    for row in results[0]["rows"]:
        shares = [run[row["shape"]]["share_%"] for run in runs if row["shape"] in run]
        low = max(shares) < ODD_SHARE
        if low:
            misses.append((f"{name}/{row['shape']}", beside(shares), f"required {ODD_SHARE} %"))
        met = "**missed**" if low else "required"
        figures = (cell(row[c]) for c in ("us", "GFLOP/s", "even_GFLOP/s", "rate_%"))
        rows.append([row["shape"], row["even"], *figures, beside(shares), met])
    header = ["shape", "beside", "us", "GFLOP/s", "GFLOP/s beside", "rate, %", f"work, % (required {ODD_SHARE})", "met"]
    return table(header, rows)


def errors(results: Sequence[Result]) -> str:
    columns = ("exact_rms", "exact_max", "fast_rms", "fast_max", "rms_ratio")
    rows = [[row["model"], row["input"], *(f"{row[c]:.2g}" for c in columns)] for row in results[0]["rows"]]
    return table(["model", "input", "exact, RMS", "exact, max", "fast, RMS", "fast, max", "fast / exact, RMS"], rows)


def missed(misses: Misses) -> str:
    """All rows that miss something, with the reason where one was found."""
    rows = [[row, reached, asked, REASONS.get(row, "")] for row, reached, asked in misses]
    return table(["row", "reached", "asked", "reason found by measurement"], rows) if rows else "None.\n"


def facts(found: Mapping[str, Sequence[Result]]) -> str:
    """Machine and versions; what differs from run to run, of each."""
    machines = [result["machine"] for results in found.values() for result in results]
    names = dict.fromkeys(name for machine in machines for name in machine if name != "load")
    told = {n: dict.fromkeys(part for m in machines if m.get(n) for part in m[n].split(", ")) for n in names}
    return "".join(f"- {n}: {', '.join(parts)}\n" for n, parts in told.items())


def page(found: Mapping[str, Sequence[Result]]) -> str:
    """The whole document."""
    parts, misses = [INTRODUCTION, facts(found), PEERS_ARE], []
    for name, results in found.items():
        kind, _, threads = name.partition("-")
        many = f"{threads} thread{'s' * (threads != '1')}"
        loads = "Load at the end of each run: " + beside([r["machine"].get("load", "") for r in results], str) + "."
        if kind in ("inference", "batch8"):
            batch = 8 if kind == "batch8" else 1
            command = f"python -m benchmarks.inference --threads {threads}" + " --batch 8" * (batch == 8)
            parts += [f"## Inference, batch {batch}, {many}", f"`{command}`. {loads}"]
            parts.append(compared(name, results, "model", ["GMAC", "GFLOP/s", "%_peak"], misses))
        elif kind == "training":
            parts += [f"## Training step, {many}", f"`python -m benchmarks.training --threads {threads}`. {loads}"]
            parts.append(compared(name, results, "step", ["input", "optimizer"], misses))
        elif kind == "startup":
            parts += [
                "## A whole process: lenet5",
                f"From its start to its end. `python -m benchmarks.startup`. {loads}",
            ]
            parts.append(started(results))
        elif kind == "odd":
            parts += ["## Odd shapes", f"{ODD_IS} `python -m benchmarks.layers --odd`. {loads}"]
            parts.append(odd(name, results, misses))
        elif kind == "accuracy":
            text = "Against float64, of the output's scale; untrained weights. `python -m benchmarks.accuracy`"
            parts += ["## Errors of both precisions", text, errors(results)]
        else:
            parts += ["## Single kernels", "Each alone, operands warm, one thread. `python -m benchmarks.layers`"]
            parts.append(kernels(results))
    parts += ["## Missed", "Rows below what is required, or below their aim.", missed(misses)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"

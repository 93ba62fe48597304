"""Inference beside other tools: the same network and weights, outputs compared, calls in turn on the same cores.

python -m benchmarks.inference [--threads 1] [--batch 1] [--models lenet5 resnet18] [--peers onnxruntime openvino]
    [--seconds 5] [--hopeless 0] [--files FOLDER] [--json]

One run is for one number of threads: the peers' pools keep the cores they first see. Every peer that is installed takes
part: onnxruntime, openvino and MNN on one ONNX file, PyTorch eager, channels-last (NHWC) and by its inductor.
`--files` keeps the peers' model files for the next run. `--hopeless 2` times a peer no further that is more than twice
as slow as the best peer in the first round.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

import graphc
from graphc.backends.llvm import target
from graphc.backends.llvm.calibrate import Peak, measured
from graphc.driver import traced_graph
from graphc.models import get
from graphc.passes import inference_mode

from .goals import INFERENCE
from .measure import (
    Timing,
    against_best,
    arguments,
    attempted,
    cores,
    detail,
    geometric_mean,
    interleaved,
    ms,
    pin,
    show,
)
from .peers import PEERS, Missing, Network, Run

# All compute in float32 in their own order; MNN's Winograd convolutions lose a digit more than direct ones.
AGREE = 1e-3


def peers_of(network: Network, names: Sequence[str], threads: int, notes: list[str]) -> dict[str, Run]:
    """The callables of those peers that can run the network; of the others the reason goes to `notes`."""
    made = {}
    for name in names:
        try:
            made[name] = PEERS[name](network, threads)
            made[name]()
        except Missing as reason:
            note = f"{name} takes no part: {reason}"
        except Exception as error:  # a peer's failure is an entry in the table, not the end of it
            made.pop(name, None)
            note = f"{network.graph.name}: {name} fails with {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        else:
            continue
        if note not in notes:
            notes.append(note)
    return made


def compare(name: str, options, peak: Peak, notes: list[str]) -> dict[str, object]:
    """One row: all programs timed, and how far their outputs lie apart (of the output's scale)."""
    entry = get(name)
    model, shape = entry.make(), (options.batch, *entry.input[1:])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    net = graphc.compile(model, shape, threads=options.threads)
    expected = net(x)
    with folder_of(options.files) as folder:
        network = Network(inference_mode(traced_graph(model, shape)), x, Path(folder))
        peers = peers_of(network, options.peers, options.threads, notes)
        apart = {p: float(np.abs(run() - expected).max() / np.abs(expected).max()) for p, run in peers.items()}
        for peer, difference in apart.items():
            if not difference < AGREE:
                raise ValueError(f"{peer}'s output differs by {difference:.2g} of its scale, expected at most {AGREE}")
        peak.measure()
        timed = interleaved({"graphc": lambda: net(x), **peers}, options.seconds, options.hopeless)
        peak.measure()
    return row(name, graphc.summary(model, shape).totals.macs, timed, options.peers, peak, apart)


def folder_of(path: str):
    """A folder for the peers' files that stays, or without a path one for this time only."""
    if not path:
        return tempfile.TemporaryDirectory()
    Path(path).mkdir(parents=True, exist_ok=True)
    return nullcontext(path)


def row(
    name: str, macs: int, timed: dict[str, Timing], peers: Sequence[str], peak: Peak, apart: dict[str, float]
) -> dict[str, object]:
    ours = timed["graphc"]
    return {
        "model": name,
        "GMAC": macs / 1e9,
        "graphc_ms": ms(ours),
        "GFLOP/s": 2e-9 * macs / ours.median,
        "%_peak": 0.0,
        **{peer: ms(timed[peer]) if peer in timed else None for peer in peers},
        **against_best(timed),
        "samples": {program: detail(t) for program, t in timed.items()},
        "difference": apart,
    }


def main() -> None:
    options = arguments(
        __doc__, models=list(INFERENCE.rows), peers=list(PEERS), threads=1, batch=1, seconds=5.0, hopeless=0.0, files=""
    )
    if unknown := [p for p in options.peers if p not in PEERS]:
        sys.exit(f"no peer {', '.join(unknown)}\n  expected some of {', '.join(PEERS)}")
    available = cores()
    if options.threads > len(available):
        sys.exit(f"{options.threads} threads on {len(available)} cores would measure how they take turns")
    pin(available, options.threads)
    machine, notes = target.host(), []
    limits, peak = measured(machine, options.threads), Peak(machine, options.threads)
    rows, failed = attempted(options.models, lambda name: compare(name, options, peak, notes), notes)
    for line in rows:  # the peak is the best of the whole run
        line["%_peak"] = 100e9 * line["GFLOP/s"] / peak.best
    if speedups := [line["speedup"] for line in rows if line["speedup"]]:
        notes.insert(0, f"speed-up over the best peer, geometric mean: {geometric_mean(speedups):.3f}")
    reads = ", ".join(f"{name} {rate / 1e9:.0f} GB/s" for name, _, rate in limits.reads)
    notes.append(f"limits of the machine in this run: {peak.best / 1e9:.0f} GFLOP/s of multiply-adds, {reads}")
    title = f"inference, batch {options.batch}, {options.threads} thread(s), ms; speed-up above 1: graphc is faster"
    show(title, rows, options.json, notes)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

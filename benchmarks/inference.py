"""Inference beside onnxruntime: the same network and weights, outputs compared, calls in turn on the same cores.

python -m benchmarks.inference [--models lenet5 resnet18] [--threads 1 2] [--batch 1] [--seconds 4] [--json]
"""

from __future__ import annotations

import numpy as np

import graphc
from graphc.models import ZOO
from graphc.nn.trace import trace
from graphc.passes import inference_mode

from .measure import Timing, arguments, cores, interleaved, ms, peer, pin, show, spread

# Both sum in float32 in their own order; a ResNet's scores agree to a few units of the sixth digit.
AGREE = 1e-4


def session(model, shape: tuple[int, ...], threads: int):
    """An onnxruntime session of the network on this many threads, with all its graph optimisations (the default)."""
    runtime = peer("onnxruntime", 'pip install "graphc-compiler[bench]"')
    peer("onnx", 'pip install "graphc-compiler[bench]"')
    from .onnx_export import export

    traced = trace(model, [graphc.input(shape, name="x")])
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    proto = export(inference_mode(traced.graph("network")))
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(name: str, batch: int, threads: int, seconds: float) -> dict[str, object]:
    """One row: both programs timed, and how far their outputs lie apart (of the output's scale)."""
    entry = ZOO[name]
    model, shape = entry.make(), (batch, *entry.input[1:])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    net = graphc.compile(model, shape, threads=threads)
    ort = session(model, shape, threads)
    ours, theirs = net(x), ort.run(None, {"x": x})[0]
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not error < AGREE:
        raise SystemExit(f"{name}: outputs differ by {error:.2g} of their scale, expected at most {AGREE}")
    timed = interleaved({"graphc": lambda: net(x), "onnxruntime": lambda: ort.run(None, {"x": x})}, seconds)
    return row(name, batch, threads, timed["graphc"], timed["onnxruntime"], error)


def row(name: str, batch: int, threads: int, ours: Timing, theirs: Timing, error: float) -> dict[str, object]:
    return {
        "model": name,
        "batch": batch,
        "threads": threads,
        "graphc_ms": ms(ours),
        "10..90%": spread(ours),
        "onnxruntime_ms": ms(theirs),
        "peer_10..90%": spread(theirs),
        "ratio": ms(ours) / ms(theirs),
        "difference": error,
    }


def main() -> None:
    options = arguments(__doc__, models=["lenet5", "resnet18"], threads=[1, 2], batch=1, seconds=4.0)
    available, rows = cores(), []
    for threads in options.threads:
        if threads <= len(available):
            pin(available, threads)
            rows += [compare(name, options.batch, threads, options.seconds) for name in options.models]
    show("inference, graphc beside onnxruntime (ratio below 1: graphc is faster)", rows, options.json)


if __name__ == "__main__":
    main()

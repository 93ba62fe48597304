"""How far a network's compiled answers lie from exact ones: what its float32 arithmetic costs in each precision.

A network and a shape enter; for each precision an `Accuracy` leaves. Exact means the network as the user wrote it,
in float64 by the reference backend, on the same weights and random inputs: the rounding of folded weights and of
Winograd's transforms counts as the program's.
"""

from __future__ import annotations

import numpy as np

from graphc import driver
from graphc.ir import NUMPY, TensorType
from graphc.ir.frozen import frozen
from graphc.passes import inference_mode


@frozen
class Accuracy:
    """Errors of all outputs together, as parts of the largest exact magnitude of the output they are in."""

    precision: str
    rms: float
    max: float

    def __str__(self) -> str:
        return f"{self.precision:6} against float64, of the output's scale: RMS {self.rms:.2e}, max {self.max:.2e}"


def accuracy(
    model, input: driver.Shapes, threads: int = 1, name: str | None = None, backend: str = "llvm"
) -> list[Accuracy]:
    """One `Accuracy` for each precision of the backend; `model`, `input`, `threads` and `backend` are those of
    `compile`."""
    exact = driver.backend_of("reference").compile(None, inference_mode(driver.traced_graph(model, input, name=name)))
    inputs = [random_input(v.type) for v in exact.graph.inputs]
    expected = exact(*inputs)

    def errors(precision: str) -> np.ndarray:
        net = driver.compile(model, input, backend=backend, threads=threads, precision=precision, name=name)
        pairs = zip(net.program(*inputs), expected, strict=True)
        return np.concatenate([np.ravel(np.float64(y) - want) / (np.abs(want).max() or 1.0) for y, want in pairs])

    found = {precision: errors(precision) for precision in driver.backend_of(backend).PRECISIONS}
    return [Accuracy(p, float(np.sqrt(np.mean(e * e))), float(np.abs(e).max())) for p, e in found.items()]


def random_input(kind: TensorType) -> np.ndarray:
    """Standard normal numbers, the same every time; whole ones from 0 on for integer types."""
    numbers = np.random.Generator(np.random.Philox(0)).standard_normal(kind.shape, np.float32)
    return numbers if kind.dtype == "f32" else np.abs(numbers * 10).astype(NUMPY[kind.dtype])

"""What `compile` and `compile_training` give back: programs with the user's names for their weights and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from graphc.ir import Graph, GraphcError, GraphcTypeError, GraphcValueError
from graphc.ir.frozen import frozen
from graphc.nn.parameter import Parameter

HOST_MEMORY = (1, 3)  # DLPack's kDLCPU, and kDLCUDAHost, which the processor reads too

if TYPE_CHECKING:
    from graphc.schedule import Schedule


class Program(Protocol):
    """What a backend's `compile` gives: a callable on arrays in the order of the graph's inputs, and, by the user's
    names, the state that calls of a training program change. `source` is its code as text, `making` a line on what it
    took to make, empty where that is nothing."""

    source: Mapping[str, str]
    making: str

    def __call__(self, *inputs) -> tuple[np.ndarray, ...]: ...

    def read_state(self, name: str) -> np.ndarray: ...

    def write_state(self, name: str, array: np.ndarray) -> None: ...

    def share_state(self, other: Program) -> bool: ...

    def load_weights(self, schedule: Schedule | None, graph: Graph) -> None: ...


class KernelTimes(Protocol):
    """What a backend's `kernel_times` gives: prints as a table, and as data for JSON."""

    def data(self) -> dict[str, object]: ...


class CompiledNetwork:
    """A compiled network: call it on arrays. `graph` is the graph after all passes, `schedule` its kernels, buffers and
    memory plan (None for the reference backend), `program.source` the generated code as text."""

    def __init__(self, source: Graph, graph: Graph, schedule: Schedule | None, program: Program,
                 build: Callable[..., None], lower: Callable[[], tuple[Graph, Schedule | None]]):  # fmt: skip
        self.source, self.graph, self.schedule, self.program = source, graph, schedule, program
        self._build, self._lower = build, lower

    def __call__(self, *inputs):
        """The output array, or a tuple of them where the network has several. Inputs are NumPy arrays (anything that
        converts; numbers for scalars) of exactly the compiled shapes and element types."""
        outputs = self.program(*inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def refresh(self) -> None:
        """Take the model's weights as they are now. The code stays: no pass looks at the numbers of a weight."""
        self.graph, self.schedule = self._lower()
        self.program.load_weights(self.schedule, self.graph)

    def build(self, path, **options) -> None:
        """Write the network as a standalone executable; options as of `graphc.build`. The weights are the model's
        present ones."""
        self._build(path, **options)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{v.name}: {v.type}" for v in self.graph.inputs)
        return f"CompiledNetwork({self.graph.name}: ({inputs}) -> {', '.join(str(v.type) for v in self.graph.outputs)})"


@frozen
class Variant:
    """The step for one batch size."""

    graph: Graph
    schedule: Schedule | None
    program: Program


class Resident:
    """Where a parameter's numbers are while a training program owns them."""

    def __init__(self, step: CompiledStep, name: str):
        self.step, self.name = step, name

    def read(self) -> np.ndarray:
        return self.step.program.read_state(self.name)

    def write(self, array: np.ndarray) -> None:
        self.step.program.write_state(self.name, array)


def on_device(x: object) -> bool:
    """Whether an array lies in the memory of a GPU, by the interfaces that such arrays show."""
    place = getattr(x, "__dlpack_device__", None)
    return hasattr(x, "__cuda_array_interface__") or (place is not None and place()[0] not in HOST_MEMORY)


class CompiledStep:
    """A compiled training step: `loss = step(images, target)` updates the model's weights in place.

    `outputs` are the network's outputs of the last call (`scores` the first of them), from before its update. `lr`
    reads and sets the learning rate of the next call. `graph`, `schedule` and `program` belong to the last batch size.
    """

    def __init__(self, make: Callable[[int], tuple], batch: int, parameters: Mapping[str, Parameter]):
        self._make = make
        self._variants: dict[int, Variant] = {batch: Variant(*make(batch))}
        self._now = self._variants[batch]
        self.outputs: tuple[np.ndarray, ...] = ()
        weights = {v.name for v in self._now.graph.weights}
        for name, parameter in parameters.items():
            if name in weights:
                parameter.attach(Resident(self, name))

    @property
    def graph(self) -> Graph:
        return self._now.graph

    @property
    def schedule(self) -> Schedule | None:
        return self._now.schedule

    @property
    def program(self) -> Program:
        return self._now.program

    @property
    def scores(self) -> np.ndarray:
        return self.outputs[0]

    def __call__(self, *inputs) -> float:
        """One step. Inputs are the network's, then the loss's target (integer class labels may have any integer type;
        those that lie on a GPU are not checked). Returns the loss, taken before the update."""
        arrays = [x if on_device(x) else np.asarray(x) for x in inputs]
        expected = self._now.graph.inputs
        if len(arrays) != len(expected):
            names = ", ".join(v.name for v in expected)
            raise GraphcTypeError(
                f"{self._now.graph.name}: a training step takes {len(expected)} inputs ({names}), got {len(arrays)}\n"
                f"  call it as step({names})"
            )
        shape = expected[0].shape
        if arrays[0].ndim == len(shape) and arrays[0].shape[1:] == shape[1:] and arrays[0].shape[0] != shape[0]:
            self._use(int(arrays[0].shape[0]))
        if isinstance(arrays[-1], np.ndarray):
            self._check_labels(arrays[-1])
        loss, *outputs = self._now.program(*arrays)
        self.outputs = tuple(outputs)
        return float(loss)

    def _check_labels(self, labels: np.ndarray) -> None:
        target, scores = self._now.graph.inputs[-1], self._now.graph.outputs[1]
        if target.dtype != "i32" or labels.dtype.kind not in "iu" or not labels.size or len(scores.shape) != 2:
            return
        least, most, classes = labels.min(), labels.max(), scores.shape[1]
        if least < 0 or most >= classes:
            raise GraphcError(
                f"labels from {least} to {most}\n  expected classes 0 to {classes - 1}, as the network has "
                f"{classes} outputs"
            )

    def prepare(self, batch: int) -> None:
        """Compile the step for this batch size, which otherwise happens when such a batch first comes."""
        if batch < 1:
            raise GraphcError("the batch is empty")
        if batch not in self._variants:
            self._variants[batch] = Variant(*self._make(batch))

    def _use(self, batch: int) -> None:
        """Continue with the program for this batch size, over the same state."""
        self.prepare(batch)
        before, now = self._now, self._variants[batch]
        if not now.program.share_state(before.program):
            for name in self._names(before.graph):
                now.program.write_state(name, before.program.read_state(name))
        self._now = now

    @staticmethod
    def _names(graph: Graph) -> list[str]:
        return [v.name for v in graph.weights + graph.state]

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.program.read_state("optimizer.lr"))

    @lr.setter
    def lr(self, rate: float) -> None:
        if not isinstance(rate, int | float | np.number | np.ndarray) or not rate >= 0:
            raise GraphcValueError(f"lr: expected a number from 0, got {rate!r}")
        self.program.write_state("optimizer.lr", np.asarray(rate, np.float32))

    def save(self) -> dict[str, np.ndarray]:
        """A copy of all that a step changes, by name: weights, statistics, optimizer state, random key."""
        return {name: self.program.read_state(name) for name in self._names(self.graph)}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Back to what `save` returned."""
        missing = [n for n in self._names(self.graph) if n not in saved]
        if missing:
            raise GraphcError(f"saved state lacks {', '.join(missing)}")
        for name in self._names(self.graph):
            self.program.write_state(name, saved[name])

    def __repr__(self) -> str:
        inputs = ", ".join(f"{v.name}: {v.type}" for v in self.graph.inputs)
        return f"CompiledStep({self.graph.name}: ({inputs}) -> loss)"

"""What a kernel means: slow and obvious NumPy. The oracle of every emitter's tests.

What enters: a kernel, over logical indices or flattened, the buffers it names and their physical arrays. What leaves:
the arrays with the kernel's stores made. All parallel points are evaluated together, since they carry no dependence;
the axes of a stage are walked one iteration after another, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from .expr import Aff, Bound, E
from .flat import IDENTITY, LEAST, FlatContraction, FlatLoops
from .kernels import Block, Contraction, Kernel, Loops, Reduce, Stage, Store
from .layout import NUMPY, Buffer
from .rewriting import substitute
from .scalar import apply

Arrays = Mapping[str, np.ndarray]


def run_kernel(kernel: Kernel, buffers: Mapping[str, Buffer], arrays: Arrays, real: type = np.float32) -> None:
    """Runs `kernel` on `arrays` (buffer name -> physical array, contiguous, any shape), in place.

    Arithmetic on f32 is done in `real`: float32, or float64 where the arrays are. Sums are taken one term after the
    other in axis order; emitters take them in another fixed order, so compare with a tolerance. IndexError where a
    load or store whose guards hold leaves its buffer.
    """
    if isinstance(kernel, Block):
        own = {n: np.full(buffers[n].elements, np.nan).astype(real) for n in kernel.local}
        for point in product(*(range(extent) for _, extent in kernel.steps)):
            at = {a: Aff(k) for (a, _), k in zip(kernel.steps, point, strict=True)}
            for part in kernel.body:
                run_kernel(_one_step(part, at, buffers), buffers, {**arrays, **own}, real)
        return
    flat = isinstance(kernel, FlatLoops | FlatContraction)
    loops = kernel.to_loops(buffers) if isinstance(kernel, Contraction) else kernel
    _Run(loops, buffers, arrays, real, flat).run()


def _one_step(kernel: Loops | Contraction, at: Mapping[str, Aff], buffers: Mapping[str, Buffer]) -> Loops:
    """A kernel of a block in one of the steps."""
    loops = kernel.to_loops(buffers) if isinstance(kernel, Contraction) else kernel
    par = tuple(a for a in loops.par if a[0] not in at)
    return replace(loops, par=par, stages=tuple(substitute(s, at) for s in loops.stages))


class _Run:
    """One run. Every value is an array that broadcasts against the shape of the parallel axes."""

    def __init__(self, kernel: Loops, buffers: Mapping[str, Buffer], arrays: Arrays, real: type, flat: bool):
        self.kernel, self.real, self.flat = kernel, real, flat
        self.shape = tuple(extent for _, extent in kernel.par)
        self.buffers = {**buffers, **{b.name: b for b in kernel.scratch}}
        self.arrays = {name: self.numbers(name, array).reshape(-1) for name, array in arrays.items()}
        # each parallel point has its own scratch: one row of this array
        self.rows = {
            b.name: np.full((*self.shape, b.elements), np.nan).astype(self.kind(b.dtype)) for b in kernel.scratch
        }
        grid = np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij", sparse=True) if self.shape else []
        self.axes: dict[str, np.ndarray | int] = {a: g for (a, _), g in zip(kernel.par, grid, strict=True)}
        self.temps: dict[str, np.ndarray] = {}

    def kind(self, dtype: str) -> type:
        return self.real if dtype == "f32" else NUMPY[dtype]

    def numbers(self, name: str, array: np.ndarray) -> np.ndarray:
        """The physical array of a buffer, that of one in 24 bits as float32."""
        b = self.buffers.get(name)
        return replace(b, dtype="f32").pack(b.unpack(array)) if b and b.dtype == "f24" else array

    def run(self) -> None:
        for stage in self.kernel.stages:
            self.stage(stage)

    def stage(self, stage: Stage) -> None:
        best: dict[str, np.ndarray] = {}
        index: dict[str, np.ndarray] = {}
        for out in stage.outs:
            if isinstance(out, Reduce):
                start = IDENTITY[out.op] if out.expr.dtype == "f32" else LEAST[out.op]
                best[out.name] = np.full(self.shape, start, self.kind(out.expr.dtype))
        for point in product(*(range(extent) for _, extent in stage.axes)):
            self.axes.update(zip((a for a, _ in stage.axes), point, strict=True))
            memo: dict[E, np.ndarray] = {}
            everywhere = np.ones(self.shape, bool)
            values = [
                self.value(out.expr, self.holds(out.valid), {})
                if isinstance(out, Store) and out.valid
                else self.value(out.expr, everywhere, memo)
                for out in stage.outs
            ]
            for out, value in zip(stage.outs, values, strict=True):
                if isinstance(out, Store):
                    self.store(out, value, memo)
                elif out.op == "argmax":
                    at = self.value(out.index, everywhere, memo) + np.zeros(self.shape, np.int32)
                    old = best[out.name]
                    better = (value > old) | (np.isnan(value) & ~np.isnan(old))
                    best[out.name] = np.where(better, value, old)
                    index[out.name] = np.where(better, at, index.get(out.name, at))
                else:
                    op = "add" if out.op == "sum" else out.op
                    best[out.name] = apply(op, out.expr.dtype, best[out.name], value, real=self.real)
        self.temps |= best
        self.temps |= {f"{name}.i": at for name, at in index.items()}

    def store(self, out: Store, value: np.ndarray, memo: dict[E, np.ndarray]) -> None:
        where = self.holds(out.valid)
        at, exists = self.place(out.buffer, out.indices, where, memo)
        if not np.all(exists | ~where):
            raise IndexError(f"kernel {self.kernel.name}: store to %{out.buffer} leaves the buffer")
        value = np.broadcast_to(value, self.shape)
        if out.buffer in self.rows:
            np.put_along_axis(self.rows[out.buffer], at[..., None], value[..., None], -1)
        else:
            self.arrays[out.buffer][at[where]] = value[where]

    def value(self, e: E, alive: np.ndarray, memo: dict[E, np.ndarray]) -> np.ndarray:
        """`alive`: the points where the guards around hold; elsewhere any value will do."""
        if e.op == "guard":
            inside = alive & self.holds(e.attr)
            # loads below depend on the guard, so what they give is not to be shared with their other uses
            return np.where(self.holds(e.attr), self.value(e.args[0], inside, {}), self.value(e.args[1], alive, memo))
        if e not in memo:
            memo[e] = self.node(e, alive, memo)
        return memo[e]

    def node(self, e: E, alive: np.ndarray, memo: dict[E, np.ndarray]) -> np.ndarray:
        match e.op:
            case "const":
                return np.asarray(e.attr, self.kind(e.dtype))
            case "axis":
                return np.asarray(self.aff(e.attr), np.int32)
            case "temp":
                return self.temps[e.attr]
            case "load":
                return self.load(e, alive, memo)
        return apply(e.op, e.dtype, *(self.value(a, alive, memo) for a in e.args), real=self.real)

    def load(self, e: E, alive: np.ndarray, memo: dict[E, np.ndarray]) -> np.ndarray:
        name, indices = e.attr
        at, exists = self.place(name, indices, alive, memo)
        if not np.all(exists | ~alive):
            raise IndexError(f"kernel {self.kernel.name}: load of %{name}[{', '.join(map(str, indices))}] leaves it")
        at = np.where(exists, at, 0)
        if name in self.rows:
            return np.take_along_axis(self.rows[name], at[..., None], -1)[..., 0]
        return self.arrays[name][at].astype(self.kind(e.dtype))

    def place(
        self, name: str, indices: tuple[Aff | E, ...], alive: np.ndarray, memo: dict
    ) -> tuple[np.ndarray, np.ndarray]:
        """The element's offset in the physical array, and whether it exists; both of the parallel shape."""
        buffer = self.buffers[name]
        values = [self.aff(i) if isinstance(i, Aff) else self.value(i, alive, memo).astype(np.int64) for i in indices]
        values = [np.broadcast_to(v, self.shape) for v in values]
        if self.flat:
            (offset,) = values
            return offset, (offset >= 0) & (offset < buffer.elements)
        offset, exists = np.zeros(self.shape, np.int64), np.ones(self.shape, bool)
        for (dim, part), stride, extent in zip(buffer.layout.order, buffer.strides, buffer.pshape, strict=True):
            physical = values[dim] + buffer.layout.halos.get(dim, (0, 0))[0]
            if part == "outer":
                physical = physical // buffer.layout.block
            elif part == "inner":
                physical = physical % buffer.layout.block
            exists = exists & (physical >= 0) & (physical < extent)
            offset = offset + physical * stride
        return offset, exists

    def holds(self, bounds: tuple[Bound, ...]) -> np.ndarray:
        inside = np.ones(self.shape, bool)
        for aff, lo, hi in bounds:
            inside = inside & (self.aff(aff) >= lo) & (self.aff(aff) < hi)
        return inside

    def aff(self, aff: Aff) -> np.ndarray | int:
        return aff.const + sum((coef * self.axes[a] for a, coef in aff.terms), np.int64(0))

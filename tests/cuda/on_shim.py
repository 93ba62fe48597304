"""Programs of the CUDA backend on the CPU: a device whose memory is this process's and whose kernels run on the shim.

Memory that nothing was written to holds the shim's poison, so that a checked run reports who reads it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from shim.build import Library, compile_kernels, poison

from graphc.backends import cuda
from graphc.backends.cuda.assemble import Module
from graphc.backends.cuda.program import Bound, CudaProgram
from graphc.backends.cuda.target import HOPPER, Target
from graphc.ir import Graph
from graphc.schedule import Schedule, make_schedule
from graphc.schedule.image import state_image, weight_image

ALIGNMENT = 256


@dataclass
class ShimMemory:
    address: int
    nbytes: int
    owner: np.ndarray


class ShimDevice:
    """`checked`: every access is watched; `order` of blocks, warps and lanes, see `Library.launch`. `library` is taken
    instead of compiling a module, if it holds the module's kernels."""

    def __init__(
        self,
        checked: bool = False,
        order: str | int = "forward",
        library: Library | None = None,
        target: Target = HOPPER,
    ):
        self.checked, self.order, self.library, self.target = checked, order, library, target

    def allocate(self, nbytes: int) -> ShimMemory:
        raw = poison(np.empty(-(-nbytes // 4) + ALIGNMENT, np.uint32))
        return ShimMemory(raw.ctypes.data + -raw.ctypes.data % ALIGNMENT, nbytes, raw)

    def upload(self, address: int, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def resident(self, x: object, argument: object) -> None:
        """Nothing is."""

    def load(self, module: Module) -> Library:
        return self.library or compile_kernels(module.kernels, self.checked)

    def record(self, loaded: Library, launches: Sequence[Bound]) -> Callable[[], None]:
        def run() -> None:
            for code, arguments in launches:
                loaded.launch_at(
                    code.name, code.grid, code.threads, code.shared, arguments, self.order, names=code.arguments
                )

        return run


def program(graph: Graph, device: ShimDevice | None = None, precision: str = "exact") -> CudaProgram:
    """A decomposed graph as a program on the shim."""
    return program_of(make_schedule(graph, cuda.TRAITS), device, precision)


def program_of(schedule: Schedule, device: ShimDevice | None = None, precision: str = "exact") -> CudaProgram:
    arithmetic = cuda.PRECISIONS[precision]
    return CudaProgram(schedule, weight_image(schedule), state_image(schedule), device or ShimDevice(), arithmetic)

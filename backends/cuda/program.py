"""A compiled schedule on a device: a callable on NumPy arrays, and on arrays that are on the device already.

What enters: a planned schedule, the bytes of its weights and its state, a device. What leaves: output arrays. Weights,
state, the arena and places for inputs and outputs are allocated once, at fixed addresses; the launches are recorded
once, and a call is one launch of the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Protocol

import numpy as np

from graphc.ir import GraphcError
from graphc.schedule import image
from graphc.schedule.arguments import Argument, wrong_number
from graphc.schedule.kernels import Schedule
from graphc.schedule.layout import ALIGNMENT, NUMPY, Buffer

from .assemble import Module, assemble
from .emit import KernelCode
from .target import Target

SLOT = 256  # bytes; every input and output begins on a multiple of it, as allocations do
SHOWN = 3  # buffers that an error about memory names


class Memory(Protocol):
    """An allocation: its address on the device, and its size."""

    address: int
    nbytes: int


Bound = tuple[KernelCode, Sequence[tuple[int, int, bool]]]  # a launch: code; address, bytes and whether written


class OutOfMemory(Exception):
    """The device has not the memory asked for; `free` bytes are left."""

    def __init__(self, free: int | None = None):
        self.free = free


class Device(Protocol):
    """What runs kernels. `target` is what code is emitted for."""

    target: Target

    def allocate(self, nbytes: int) -> Memory:
        """Memory of its own, not cleared. Raises OutOfMemory."""

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array of the host."""

    def download(self, address: int, array: np.ndarray) -> None:
        """Fill a contiguous array of the host, when all launches before have run."""

    def resident(self, x: object, argument: Argument) -> object | None:
        """An array that is on this device, checked, as one of the device's own; None for arrays of the host."""

    def copy_in(self, address: int, x: object) -> None:
        """Copy a resident array."""

    def copy_out(self, address: int, shape: tuple[int, ...], dtype: type) -> object:
        """A new array of the device with what lies at the address."""

    def load(self, module: Module) -> object:
        """The module, compiled and loaded."""

    def record(self, loaded: object, launches: Sequence[Bound]) -> Callable[[], None]:
        """The launches in order, as one."""


class CudaProgram:
    """`program(*inputs) -> outputs`, tuples of arrays in the schedule's order: NumPy arrays, or arrays of the device
    where an input was one.

    weights   the bytes of the weight memory (uint8)
    state     the bytes of the state memory; calls of a training program change it on the device
    arithmetic   how contractions multiply: "f32", "tf32", "bf16"

    Calls from several threads take turns: a program has one arena.
    """

    def __init__(self, schedule: Schedule, weights: np.ndarray, state: np.ndarray, device: Device, arithmetic: str):
        self.schedule, self.device, self.arithmetic = schedule, device, arithmetic
        self.module = assemble(schedule, device.target, arithmetic)
        self.source: Mapping[str, str] = {".cu": self.module.annotated(schedule)}
        self._inputs = [Argument(schedule.buffers[n]) for n in schedule.inputs]
        self._slots, slots_bytes = slots([schedule.buffers[n] for n in (*schedule.inputs, *schedule.outputs)])
        self._stored = image.state_buffers(schedule)
        self._lock = Lock()
        sizes = {"weights": weights.nbytes, "state": state.nbytes, "arena": schedule.arena_bytes, "slots": slots_bytes}
        try:
            self._memories = {name: device.allocate(max(size, ALIGNMENT)) for name, size in sizes.items()}
        except OutOfMemory as error:
            raise _too_large(schedule, sizes, error.free) from None
        device.upload(self._memories["weights"].address, weights)
        device.upload(self._memories["state"].address, state)
        self.loaded = device.load(self.module)
        self._run = self._record()

    @property
    def making(self) -> str:
        """What it is made of, as a line."""
        return f"{len(self.module.launches)} launches of {len(self.module.codes)} different kernels"

    def __call__(self, *arrays) -> tuple[object, ...]:
        """One run. GraphcTypeError for a wrong number, dtype or device of inputs, GraphcValueError for a wrong
        shape."""
        if len(arrays) != len(self._inputs):
            raise wrong_number(self.schedule, len(arrays))
        taken = [self.device.resident(x, take) for x, take in zip(arrays, self._inputs, strict=True)]
        hosts = [None if y is not None else take(x) for x, y, take in zip(arrays, taken, self._inputs, strict=True)]
        outputs = [self.schedule.buffers[n] for n in self.schedule.outputs]
        with self._lock:
            for name, there, here in zip(self.schedule.inputs, taken, hosts, strict=True):
                if there is not None:
                    self.device.copy_in(self._slot(name), there)
                else:
                    self.device.upload(self._slot(name), here)
            self._run()
            if any(y is not None for y in taken):
                return tuple(self.device.copy_out(self._slot(b.name), b.shape, NUMPY[b.dtype]) for b in outputs)
            found = tuple(np.empty(b.shape, NUMPY[b.dtype]) for b in outputs)
            for b, array in zip(outputs, found, strict=True):
                self.device.download(self._slot(b.name), array)
        return found

    def poison(self) -> None:
        """Fills the arena and the outputs with NaN: a result that no kernel has written cannot go unnoticed."""
        for name in ("arena", "slots"):
            memory = self._memories[name]
            self.device.upload(memory.address, np.full(memory.nbytes // 4, np.nan, np.float32))

    def read_state(self, name: str) -> np.ndarray:
        """A copy of a weight or state, by the user's name, in its logical shape."""
        b = self._stored[name]
        physical = np.empty(b.pshape, NUMPY[b.dtype])
        self.device.download(self._memories["state"].address + b.offset, physical)
        return b.unpack(physical)

    def write_state(self, name: str, array: np.ndarray) -> None:
        """Sets a weight or state."""
        b = self._stored[name]
        self.device.upload(self._memories["state"].address + b.offset, b.pack(array))

    def save_state(self) -> np.ndarray:
        """A copy of the state memory's bytes."""
        memory = np.empty(self.schedule.state_bytes, np.uint8)
        self.device.download(self._memories["state"].address, memory)
        return memory

    def restore_state(self, memory: np.ndarray) -> None:
        """Back to what `save_state` returned."""
        self.device.upload(self._memories["state"].address, memory)

    def load_weights(self, schedule: Schedule, graph: object) -> None:
        """Go on with the weights of a schedule that differs from the program's in their numbers alone."""
        self.device.upload(self._memories["weights"].address, image.weight_image(schedule))

    def share_state(self, other: CudaProgram) -> bool:
        """Go on with the state memory of another program, if both lay it out in the same way."""
        mine, theirs = (
            {n: (b.shape, b.dtype, b.layout, b.offset) for n, b in p._stored.items()} for p in (self, other)
        )
        if mine != theirs or self.device is not other.device:
            return False
        if self._memories["state"] is not other._memories["state"]:
            self._memories["state"] = other._memories["state"]
            self._run = self._record()  # addresses are part of the record
        return True

    def bound(self) -> list[Bound]:
        """The launches with the addresses of their arguments."""
        made = []
        for launch in self.module.launches:
            places = [(self._address(a.place), a.place.stop - a.place.start, a.written) for a in launch.arguments]
            made.append((launch.code, places))
        return made

    def _record(self) -> Callable[[], None]:
        return self.device.record(self.loaded, self.bound())

    def _slot(self, name: str) -> int:
        return self._memories["slots"].address + self._slots[name]

    def _address(self, place) -> int:
        if place.memory in ("inputs", "outputs"):
            return self._slot(getattr(self.schedule, place.memory)[place.number])
        return self._memories[place.memory].address + place.start


def slots(buffers: Sequence[Buffer]) -> tuple[dict[str, int], int]:
    """Offsets for the caller's arrays, and the bytes of all."""
    offsets, end = {}, 0
    for b in buffers:
        offsets[b.name] = end
        end += -(-b.bytes // SLOT) * SLOT
    return offsets, end


def _too_large(schedule: Schedule, sizes: Mapping[str, int], free: int | None) -> GraphcError:
    """The error for a program that the device has no room for."""
    largest = sorted((b for n, b in schedule.buffers.items() if n not in schedule.aliases), key=lambda b: -b.bytes)
    has = "" if free is None else f", {free:,} are free"
    return GraphcError(
        f"{schedule.name}: the device is out of memory\n"
        f"  planned {sum(sizes.values()):,} bytes ({', '.join(f'{n} {s:,}' for n, s in sizes.items())}){has}\n"
        f"  largest: {', '.join(f'{b.name} {b.bytes:,}' for b in largest[:SHOWN])}\n"
        "  take a smaller batch or image, or free memory that other programs hold"
    )

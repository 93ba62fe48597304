"""A compiled schedule in this process: a callable on NumPy arrays.

What enters: a planned schedule, the bytes of its weights and its state. What leaves: output arrays. The object code
that runs is the one an executable links.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from threading import Lock

import numpy as np

from graphc.ir import GraphcError
from graphc.schedule import image
from graphc.schedule.arguments import Argument, wrong_number
from graphc.schedule.image import aligned_zeros
from graphc.schedule.kernels import Schedule
from graphc.schedule.layout import ALIGNMENT, NUMPY

from . import jit
from .assemble import assemble
from .objects import compile_objects
from .target import Target, host, runs_here

RUN = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5, ctypes.c_int)
CLOSE = ctypes.CFUNCTYPE(None)
PREFIX = "graphc"
HEAD = object.__basicsize__


_programs: weakref.WeakSet[LlvmProgram] = weakref.WeakSet()


def _in_child() -> None:
    """After a fork: a call that another thread was in will never return here, so its lock is nobody's."""
    for program in _programs:
        program._unlock()


os.register_at_fork(after_in_child=_in_child)


class LlvmProgram:
    """`program(*inputs) -> outputs`, tuples of arrays in the schedule's order.

    weights  the bytes of the weight memory (uint8), kept without a copy where they are aligned; or a function that
             gives them, called while its last code is compiled
    state    the bytes of the state memory; calls of a training program change `program.state` in place
    threads  how many threads a call uses; may be changed between calls, and never changes a bit of the result. A
             program with little work that was made for one thread stays on it

    Calls from several threads take turns: a program has one arena.
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: np.ndarray | Callable[[], np.ndarray],
        state: np.ndarray | None = None,
        target: Target | None = None,
        threads: int = 1,
    ):
        self.schedule, self.target, self.threads = schedule, target or host(), threads
        if not runs_here(self.target):
            raise GraphcError(
                f"a program for {self.target.name} cannot run here: this processor is a {host().cpu}\n"
                '  take cpu="native", or build an executable for the other machine'
            )
        self.state = np.zeros(0, np.uint8) if state is None else state

        def pack() -> None:
            self.weights = _aligned(weights() if callable(weights) else weights, schedule.weight_bytes, "weights")

        self.objects = compile_objects(schedule, self.target, PREFIX, threads=threads, meanwhile=pack)
        self.source: Mapping[str, str] = _Source(schedule, self.target)
        loaded = jit.load_object(self.objects.code, [f"{PREFIX}_run", f"{PREFIX}_close"])
        self._run = RUN(loaded.address(f"{PREFIX}_run"))
        # the pool's threads sleep inside the code: they end before it goes
        weakref.finalize(self, _close, loaded)
        self._arena = aligned_zeros(schedule.arena_bytes)
        self._inputs = tuple(Argument(schedule.buffers[n]) for n in schedule.inputs)
        self._outputs = tuple((b.shape, NUMPY[b.dtype]) for b in (schedule.buffers[n] for n in schedule.outputs))
        self._stored = image.state_buffers(schedule)
        self._unlock()
        _programs.add(self)
        self._in = (ctypes.c_void_p * len(schedule.inputs))()
        self._out = (ctypes.c_void_p * len(schedule.outputs))()
        self._fixed = (self.weights.ctypes.data, ctypes.addressof(self._in), ctypes.addressof(self._out),
                       self._arena.ctypes.data)  # fmt: skip

    @property
    def making(self) -> str:
        """What compiling it took, as a line."""
        return str(self.objects)

    def _unlock(self) -> None:
        self._lock = Lock()

    @property
    def state(self) -> np.ndarray:
        """The state memory, uint8. Setting it makes the program go on with that very memory, where it is aligned."""
        return self._state

    @state.setter
    def state(self, memory: np.ndarray) -> None:
        self._state = _aligned(memory, self.schedule.state_bytes, "state")
        self._state_address = self._state.ctypes.data

    def __call__(self, *arrays) -> tuple[np.ndarray, ...]:
        """One run. Contiguous inputs are read where they are; outputs are fresh arrays. GraphcTypeError for a wrong
        number or dtype of inputs, GraphcValueError for a wrong shape or a label that int32 cannot hold."""
        if len(arrays) != len(self._inputs):
            raise wrong_number(self.schedule, len(arrays))
        inputs = [take(x) for take, x in zip(self._inputs, arrays, strict=True)]
        outputs = tuple([np.empty(shape, dtype) for shape, dtype in self._outputs])
        weights, in_, out, arena = self._fixed
        with self._lock:
            for k, x in enumerate(inputs):
                self._in[k] = address_of(x)
            for k, y in enumerate(outputs):
                self._out[k] = address_of(y)
            self._run(weights, self._state_address, in_, out, arena, self.threads)
        return outputs

    def poison(self) -> None:
        """Fills the arena with NaN: a result that depends on what no kernel has written cannot go unnoticed."""
        self._arena.view(np.float32)[:] = np.nan

    def read_state(self, name: str) -> np.ndarray:
        """A copy of a weight or state, by the user's name, in its logical shape."""
        return image.read(self.state, self._stored[name])

    def write_state(self, name: str, array: np.ndarray) -> None:
        """Sets a weight or state."""
        image.write(self.state, self._stored[name], array)

    def load_weights(self, schedule: Schedule, graph: object) -> None:
        """Go on with the weights of a schedule that differs from the program's in their numbers alone."""
        self.weights[:] = image.weight_image(schedule)

    def share_state(self, other: LlvmProgram) -> bool:
        """Go on with the state memory of another program, if both lay it out in the same way."""
        mine, theirs = (
            {n: (b.shape, b.dtype, b.layout, b.offset) for n, b in p._stored.items()} for p in (self, other)
        )
        if mine == theirs:
            self.state = other.state
        return mine == theirs


class _Source(Mapping[str, str]):
    """The program as text, made when asked for: optimised LLVM IR (".ll") and assembly (".s")."""

    _makers: Mapping = {".ll": jit.optimised, ".s": jit.assembly}

    def __init__(self, schedule: Schedule, target: Target):
        self._schedule, self._target, self._made = schedule, target, {}

    def __getitem__(self, kind: str) -> str:
        if kind not in self._made:
            modules = assemble(self._schedule, self._target, PREFIX)
            self._made[kind] = "\n".join(self._makers[kind](module, self._target) for module in modules)
        return self._made[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _behind_the_head(x: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(x) + HEAD).value


def _by_ctypes(x: np.ndarray) -> int:
    return x.ctypes.data


# An array's address. NumPy's binary interface has it right behind the object's head; to read it there takes 0.2 us,
# `x.ctypes` takes 2.7. Where the head is another one (a Python without a global lock), the slow way.
_PROBE = np.zeros(1)
address_of = _behind_the_head if _behind_the_head(_PROBE) == _PROBE.ctypes.data else _by_ctypes


def _close(loaded: jit.Loaded) -> None:
    CLOSE(loaded.address(f"{PREFIX}_close"))()


def _aligned(memory: np.ndarray, size: int, what: str) -> np.ndarray:
    """`memory` itself where it is aligned and contiguous, else a copy."""
    if memory.dtype != np.uint8 or memory.shape != (size,):
        raise ValueError(f"{what}: expected {size} bytes as a uint8 array, got {memory.dtype} of shape {memory.shape}")
    if memory.flags.c_contiguous and memory.ctypes.data % ALIGNMENT == 0:
        return memory
    copy = aligned_zeros(size)
    copy[:] = memory
    return copy

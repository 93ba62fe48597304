"""Memory images: what the weight and state memories of a planned schedule hold when a program starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from graphc.ir import GraphcError, array_of

from .kernels import Schedule
from .layout import ALIGNMENT, Buffer


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def aligned_zeros(size: int) -> np.ndarray:
    """`size` zero bytes that start on an aligned address."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def weight_image(schedule: Schedule) -> np.ndarray:
    """The packed weights and constants, as bytes."""
    return image(schedule, ("weight", "const"), schedule.weight_bytes)


def state_image(schedule: Schedule) -> np.ndarray:
    """The packed initial state, as bytes."""
    return image(schedule, ("state",), schedule.state_bytes)


def image(schedule: Schedule, places: tuple[str, ...], size: int) -> np.ndarray:
    memory, sources = aligned_zeros(size), []
    for name, b in schedule.buffers.items():
        if b.place in places and name not in schedule.aliases:
            key = schedule.leaves.get(name, name)
            if key not in schedule.data:
                raise GraphcError(f"{schedule.name}: no data for {key}: a program needs the numbers of all its weights")
            sources.append((b, schedule.data[key]))
    with ThreadPoolExecutor(processors()) as threads:  # NumPy draws, transforms and copies without Python's lock
        for _ in threads.map(lambda source: write(memory, source[0], array_of(source[1])), sources):
            pass
    return memory


def view(memory: np.ndarray, b: Buffer) -> np.ndarray:
    """The bytes of one buffer in the memory as its physical array."""
    return memory[b.offset : b.offset + b.bytes].view(b.kind)


def write(memory: np.ndarray, b: Buffer, array: np.ndarray) -> None:
    """Pack a logical array into its place."""
    b.pack(array, view(memory, b).reshape(b.stored))


def read(memory: np.ndarray, b: Buffer) -> np.ndarray:
    """A copy of the logical array from its place."""
    return b.unpack(view(memory, b))


def state_buffers(schedule: Schedule) -> Mapping[str, Buffer]:
    """State buffers by the user's names."""
    return {leaf: b for name, leaf in schedule.leaves.items() if (b := schedule.buffers[name]).place == "state"}

"""Runs a planned schedule with the interpreter of its kernels: arena poisoned, memory shared as the plan says."""

from __future__ import annotations

import numpy as np

from graphc.ir import array_of
from graphc.schedule.interpret import run_kernel


def run_schedule(schedule, *inputs, real=np.float32):
    """Outputs, and the state after the run by the user's names. f32 is held in `real`."""
    scale = np.dtype(real).itemsize // 4
    kind = lambda b: np.dtype(real) if b.dtype == "f32" else b.kind  # noqa: E731
    arena = np.frombuffer(
        np.full(scale * schedule.arena_bytes // 4 + 16, np.nan, np.float32).tobytes(), np.uint8
    ).copy()
    arrays = {}
    for name, b in schedule.buffers.items():
        if b.place == "arena":
            start = b.offset * scale
            arrays[name] = arena[start : start + b.elements * kind(b).itemsize].view(kind(b))
        elif b.place in ("weight", "state", "const") and name not in schedule.aliases:
            data = schedule.data[schedule.leaves.get(name, name)]
            arrays[name] = b.pack(array_of(data)).astype(kind(b)).reshape(-1)
        elif b.place == "output":
            arrays[name] = np.full(b.elements, np.nan).astype(kind(b))
    for name, value in zip(schedule.inputs, inputs, strict=True):
        b = schedule.buffers[name]
        arrays[name] = np.array(np.broadcast_to(value, b.shape), kind(b)).reshape(-1)
    for name, root in schedule.aliases.items():
        arrays[name] = arrays[root]
    for kernel in schedule.kernels:
        run_kernel(kernel, schedule.buffers, arrays, real)
    outputs = [arrays[n].reshape(schedule.buffers[n].shape) for n in schedule.outputs]
    state = {leaf: schedule.buffers[b].unpack(arrays[b]) for b, leaf in schedule.leaves.items()}
    return outputs, state

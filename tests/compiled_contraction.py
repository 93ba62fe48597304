"""Contractions compiled alone, with memory around them in which every mistake shows."""

import ctypes
from dataclasses import replace

import numpy as np

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.kernels.contraction import emit_contraction

HOST = target.host()
# every width and register count that tiles are made for; LLVM cuts vectors that this machine does not have
SHAPES = [replace(HOST, vector_bytes=b, vector_registers=r) for b, r in ((32, 16), (64, 32), (16, 32))]


def aligned(count):
    room = np.full(count + 64, np.nan, np.float32)
    start = (-room.ctypes.data % 64) // 4 + 16
    return room, room[start : start + count]


def poisoned(buffer):
    """NaN wherever a kernel must write: the interior and the padding lanes; the halo is zero."""
    block = buffer.layout.block
    full = [-(-n // block) * block if d in buffer.layout.blocked_dims else n for d, n in enumerate(buffer.shape)]
    return replace(buffer, shape=tuple(full)).pack(np.full(full, np.nan)).reshape(-1)


class Compiled:
    """A kernel with operands in memory. NaN surrounds every buffer."""

    def __init__(self, kernel, buffers, machine, seed=0):
        module = ir.Module("test")
        self.code = emit_contraction(module, "k", kernel, buffers, machine)
        self.code.function.linkage = "external"
        self._loaded = jit.load_object([jit.compile_object(module, machine)], ["k"])
        types = [ctypes.c_void_p] * len(self.code.arguments) + [ctypes.c_int64] * 2
        self._call = ctypes.CFUNCTYPE(None, *types)(self._loaded.address("k"))
        self.buffers, random = buffers, np.random.default_rng(seed)
        self.logical, self.memory, self._rooms = {}, {}, {}
        for name, b in buffers.items():
            self._rooms[name], self.memory[name] = aligned(b.bytes // 4)
            self.logical[name] = random.standard_normal(b.shape).astype(np.float32)
            self.memory[name] = self.memory[name].view(b.kind)
            self.memory[name][:] = b.pack(self.logical[name]).reshape(-1)

    def run(self, ranges=None):
        self.memory["y"][:] = poisoned(self.buffers["y"])
        pointers = [self.memory[name].ctypes.data for name in self.code.arguments]
        for lo, hi in ranges or [(0, self.code.units)]:
            self._call(*pointers, lo, hi)
        for room in self._rooms.values():
            assert np.isnan(room[:15]).all() and np.isnan(room[-15:]).all()
        return self.memory["y"].copy()

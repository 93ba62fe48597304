"""A body on a compiled thread pool, for tests of the pool: called with a table of numbers and a number of threads."""

import ctypes
from collections.abc import Callable

import numpy as np

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.emit import I32, PTR, function
from graphc.backends.llvm.pool import Pool, emit_pool

Emitted = Callable[[ir.Module, Pool, ir.IRBuilder, ir.Value, ir.Value, ir.Value], None]


class Pooled:
    """`emit(module, pool, builder, table, thread, threads)` writes what every thread runs."""

    def __init__(self, emit: Emitted):
        module = ir.Module("pooled")
        pool = emit_pool(module, target.host())
        body, b = function(module, "body", [PTR, I32, I32], ["table", "thread", "threads"])
        emit(module, pool, b, *body.args)
        b.ret_void()
        entry, b = function(module, "entry", [PTR, I32], ["table", "threads"], linkage="external")
        b.call(pool.run, [body, *entry.args])
        b.ret_void()
        self._loaded = jit.load_object([jit.compile_object(module, target.host())], ["entry", "pool_close"])
        self._entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(self._loaded.address("entry"))
        self.close = ctypes.CFUNCTYPE(None)(self._loaded.address("pool_close"))

    def __call__(self, table: np.ndarray, threads: int) -> None:
        self._entry(table.ctypes.data, threads)

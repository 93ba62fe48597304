"""From LLVM IR to machine code: optimise, assemble into an object file, load it into this process.

What enters: a module (or its text) and a target. What leaves: the bytes of a relocatable object, which an
executable links and this process loads just as they are, so both run the same instructions. Modules may be compiled on
several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL, string_at
from functools import lru_cache
from itertools import count
from threading import Lock, local

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from . import ir
from .target import Target

# Kernels are emitted tiled, unrolled and vectorised, so that a few passes do: lenet5, resnet18 and a training step run
# as fast as after LLVM's whole level 2, whose guesses at loops would only spill, and compile in half the time.
PASSES = ("sroa", "new_gvn", "instruction_combine", "simplify_cfg", "dead_code_elimination",
          "global_dead_code_eliminate")  # fmt: skip
_once = Lock()
_numbers = count()


@lru_cache(maxsize=1)
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@lru_cache(maxsize=1)
def _linker() -> llvm.orcjit.LLJIT:
    _initialise()
    return llvm.create_lljit_compiler(use_jit_link=True)


def _machine(target: Target) -> llvm.TargetMachine:
    with _once:
        _initialise()
    made = llvm.Target.from_triple(target.triple)
    # position independent and small: links into a static executable, and loads anywhere here
    return made.create_target_machine(target.cpu, target.features, opt=3, reloc="pic", codemodel="small")


@lru_cache
def _unlocked(name: str):
    """A function of LLVM without llvmlite's lock, which lets one thread at a time into any part of LLVM. Machines and
    contexts are not shared between threads here, which is all that LLVM asks for. Where llvmlite does not say where its
    library lies, threads take turns."""
    locked, library = getattr(ffi.lib, name), getattr(ffi.lib, "_name", None)
    if library is None:
        return locked
    free = CDLL(library)[name]
    free.argtypes, free.restype = locked.argtypes, locked.restype
    return free


class _Compiler(local):
    """LLVM's tools for one target, which each thread makes for itself and keeps."""

    def __init__(self, target: Target):
        self.target, self.machine = target, _machine(target)
        self.layout = str(self.machine.target_data)
        self.builder = llvm.create_pass_builder(self.machine, llvm.create_pipeline_tuning_options(speed_level=2))
        self.passes = llvm.create_new_module_pass_manager()
        for name in PASSES:
            getattr(self.passes, f"add_{name}_pass")()

    def optimised(self, module: ir.Module | str) -> llvm.ModuleRef:
        parsed = llvm.parse_assembly(str(module), llvm.create_context())  # of its own: threads then need no turns
        parsed.triple, parsed.data_layout = self.target.triple, self.layout
        parsed.verify()
        _unlocked("LLVMPY_RunNewModulePassManager")(self.passes, parsed, self.builder)
        return parsed


_compiler = lru_cache(_Compiler)


def compile_object(module: ir.Module | str, target: Target) -> bytes:
    """The module as a relocatable object file for `target`. Invalid IR raises RuntimeError with LLVM's words."""
    compiler = _compiler(target)
    optimised_ = compiler.optimised(module)
    with ffi.OutputString() as error:
        buffer = _unlocked("LLVMPY_TargetMachineEmitToMemory")(compiler.machine, optimised_, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        return string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def assembly(module: ir.Module | str, target: Target) -> str:
    """The module's machine code as assembly text."""
    compiler = _compiler(target)
    return compiler.machine.emit_assembly(compiler.optimised(module))


def optimised(module: ir.Module | str, target: Target) -> str:
    """The module as LLVM IR after optimisation, as text."""
    return str(_compiler(target).optimised(module))


class Loaded:
    """Object code in this process. Its memory goes when the object does, so nothing may run in it by then."""

    def __init__(self, objects: Sequence[bytes], symbols: Sequence[str]):
        library = llvm.JITLibraryBuilder()
        for data in objects:
            library.add_object_img(data)
        library.add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        with _once:
            self._tracker = library.link(_linker(), f"graphc.{next(_numbers)}")

    def address(self, symbol: str) -> int:
        """The address of one of the symbols asked for."""
        return self._tracker[symbol]


def load_object(objects: Sequence[bytes], symbols: Sequence[str]) -> Loaded:
    """Object files linked into this process; `symbols` are the ones whose addresses will be wanted."""
    return Loaded(objects, symbols)

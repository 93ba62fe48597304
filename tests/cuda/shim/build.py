"""Emitted kernels on the CPU: `compile_kernels` makes a library of their text, `Library.launch` runs one of them.

Enters: what follows the prelude of a module (KERNEL functions), and NumPy arrays. Leaves: the arrays as the kernel left
them, or a CheckError that says what it did wrong and where. A fast library (checked=False) only sees barriers and warp
operations that not all threads come to; a checked one sees every access to memory, at about a tenth of the speed.
Compilers: g++, clang++, else the `ziglang` package. Libraries are kept in the object cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import mmap
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from graphc.backends.cuda.emit import KernelCode
from graphc.cache import CODE, key

from . import lines

HERE = Path(__file__).parent
PRELUDE = (HERE / "prelude.h").read_text()
RUNTIME = "".join((HERE / name).read_text() for name in ("state.h", "traffic.h", "checker.h", "runtime.cc"))
FLAGS = ("-std=c++17", "-fPIC", "-fno-exceptions", "-fno-rtti", "-w", "-fvisibility=hidden", "-gdwarf-4")
# Vectorised accesses of more than 16 bytes have no hook.
CHECKED = ("-O1", "-DSHIM_CHECKED", "-fsanitize=thread", "-fno-vectorize", "-fno-slp-vectorize")
CHECKED_GCC = ("-O1", "-DSHIM_CHECKED", "-fsanitize=thread", "-fno-tree-vectorize", "-fno-tree-slp-vectorize")
BARE = ("-nostdlib", "-lc")  # else zig builds its runtime libraries first, which takes half a minute
GAP = 1 << 20  # bytes between the arrays of a checked launch that belong to none
KERNEL = re.compile(r"^\s*KERNEL\(\s*(\w+)", re.MULTILINE)
MOST_ARGUMENTS = 4000
POISON = 0xFFDEADBE  # a word of global memory with these bits was never written
LAUNCHING = Lock()  # all libraries share one workspace
ORDERS = {"forward": 0, "backward": 1}
# The kinds of a mistake, in the order of runtime.cc, and what each one is.
KINDS = {
    "bounds": "touches what lies in no array",
    "misaligned": "address is not a multiple of the access's size",
    "read-only": "writes to an argument that it may only read",
    "unwritten": "reads what was never written",
    "race-warp": "two lanes of a warp touch an element without __syncwarp between, one of them writing",
    "race-block": "two threads of a block touch an element without a barrier between, one of them writing",
    "race-grid": "two blocks touch an element, one of them writing",
    "in-flight": "touches what an asynchronous copy is being written to",
    "never-waited": "ends before its asynchronous copy was waited for",
    "divergent-barrier": "threads wait at different barriers",
    "thread-gone": "waits at a barrier that another thread of the block never comes to",
    "partial-warp": "not all lanes of the warp come to this warp operation",
    "shared-bytes": "asks for more shared memory than the launch gives",
}


class CheckError(AssertionError):
    """A kernel's mistake. `kind` is of KINDS; `line` of the text, counted from 1, 0 where unknown; `text` says all."""

    def __init__(self, kind: str, kernel: str, line: int, block: tuple[int, ...], thread: int, text: str):
        super().__init__(text)
        self.kind, self.kernel, self.line, self.block, self.thread, self.text = kind, kernel, line, block, thread, text


@dataclass(frozen=True)
class Traffic:
    """What the accesses of one line to global or to shared memory moved: `requests` of warps, `accesses` of lanes,
    32-byte `sectors` of global memory, `wavefronts` of shared memory (1 a request of 4 bytes a lane without bank
    conflicts, 4 of 16 bytes)."""

    requests: int
    accesses: int
    sectors: int
    wavefronts: int
    shared: bool
    write: bool


@dataclass(frozen=True)
class Compiler:
    name: str
    command: tuple[str, ...]


@lru_cache(maxsize=1)
def compilers() -> dict[str, Compiler]:
    """What there is on this machine, best first; nothing on Windows, where the shim does not run."""
    found = {}
    if platform.system() == "Windows":
        return found
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            found[name] = Compiler(name, (path,))
    if importlib.util.find_spec("ziglang") is not None:
        found["zig"] = Compiler("zig", (sys.executable, "-m", "ziglang", "cc"))
    return found


def _run(compiler: Compiler, *arguments: str | Path) -> None:
    done = subprocess.run([*compiler.command, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{compiler.name} fails:\n{done.stderr[:8000]}")


@lru_cache(maxsize=1)
def _machine() -> str:
    """What -march=native depends on."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = platform.processor()
    return platform.machine() + "".join(sorted(set(re.findall(r"^(?:flags|Features)\s*:.*", told, re.MULTILINE))))


def compile_kernels(text: str, checked: bool, compiler: str | None = None) -> Library:
    """The library of all KERNEL functions of `text`. `compiler` is a key of `compilers()`, the first by default."""
    chosen = compilers()[compiler] if compiler else next(iter(compilers().values()))
    entries = "".join(f"SHIM_ENTRY({k})\n" for k in KERNEL.findall(text))
    unit = (
        f'{PRELUDE}\n#line 1 "kernels.cu"\n{text}\n#line 1 "entries.cu"\n'
        f'extern "C" {{ extern const int shim_checked = {int(checked)}; }}\n{entries}'
    )
    level = (CHECKED_GCC if chosen.name == "g++" else CHECKED) if checked else ("-O2",)
    march = ("-march=native",) if platform.machine().lower() in ("x86_64", "amd64") else ("-mcpu=native",)
    objects = [_object(chosen, (*march, *level), unit), _object(chosen, ("-O2",), RUNTIME)]
    return Library(text, _linked(chosen, objects), checked)


def _object(compiler: Compiler, flags: tuple[str, ...], source: str) -> bytes:
    """The object file of a C++ source, perhaps an earlier one."""
    flags = (*FLAGS, *flags, *(() if compiler.name == "g++" else ("-fno-sanitize=undefined",)), "-x", "c++")
    name = key(_machine(), *compiler.command, *flags, source)
    made = CODE.get(name)
    if made is None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "unit.cc").write_text(source)
            _run(compiler, *flags, "-c", place / "unit.cc", "-o", place / "unit.o")
            made = (place / "unit.o").read_bytes()
        CODE.put(name, made)
    return made


def _linked(compiler: Compiler, objects: Sequence[bytes]) -> bytes:
    name = key("linked", *compiler.command, *BARE, *(hashlib.sha256(o).hexdigest() for o in objects))
    made = CODE.get(name)
    if made is None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            for i, data in enumerate(objects):
                (place / f"{i}.o").write_bytes(data)
            inputs = [place / f"{i}.o" for i in range(len(objects))]
            bare = () if compiler.name == "g++" else BARE
            _run(compiler, "-shared", *inputs, "-o", place / "kernels.so", *bare, "-lm")
            made = (place / "kernels.so").read_bytes()
        CODE.put(name, made)
    return made


class _Argument(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("base", "bytes")] + [
        (n, ctypes.c_int32) for n in ("grain", "read_only", "index", "pad")
    ]


class _Fault(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int32) for n in ("kind", "thread", "region", "other", "line", "shared")),
        ("pc", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("block", ctypes.c_uint32 * 3),
        ("name", ctypes.c_char * 64),
    ]


class _Traffic(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_uint64) for n in ("id", "requests", "accesses", "sectors", "wavefronts")),
        ("shared", ctypes.c_int64),
        ("write", ctypes.c_int64),
    ]


class Library:
    """Compiled kernels of one text, in this process. One launch at a time."""

    def __init__(self, text: str, library: bytes, checked: bool):
        self.text, self.checked, self._bytes = text, checked, library
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(library)
            file.flush()
            self._library = ctypes.CDLL(file.name)
        self._library.shim_fault.restype = ctypes.POINTER(_Fault)
        self._library.shim_traffic.restype = ctypes.POINTER(_Traffic)
        self._library.shim_base.restype = ctypes.c_uint64
        self._library.shim_workspace.restype = ctypes.c_uint64

    def parameters(self, name: str) -> list[tuple[int, bool]]:
        """Of each parameter of a kernel: the bytes of an element, and whether it is const."""
        tell, found = getattr(self._library, f"{name}_parameter"), []
        while (told := tell(len(found))) >= 0:
            found.append((told & 255, told >= 256))
        return found

    def launch(
        self, code: KernelCode, arrays: Mapping[str, np.ndarray], order: str | int = "forward", count: bool = False
    ) -> None:
        """Runs a kernel on arrays by the names of its buffers. They are contiguous, of the physical shape (any rank),
        and hold the results afterwards. `order` of blocks, warps and lanes: "forward", "backward" or the seed of a
        random one. `count`: also count traffic (checked libraries)."""
        given = [arrays[a] for a in code.arguments]
        assert all(a.flags.c_contiguous for a in given), "arrays must be contiguous"
        parameters = self.parameters(code.name)
        assert len(parameters) == len(given), f"{code.name} takes {len(parameters)} arrays, got {len(given)}"
        for name, array, (size, _) in zip(code.arguments, given, parameters, strict=True):
            assert array.itemsize == size, f"{name}: elements of {size} bytes expected, got {array.dtype}"
        triples = [(a.ctypes.data, a.nbytes, not const) for a, (_, const) in zip(given, parameters, strict=True)]
        names = code.arguments
        self.launch_at(code.name, code.grid, code.threads, code.shared, triples, order, count, names, aligned=False)

    def launch_at(
        self,
        name: str,
        grid: Sequence[int],
        threads: int,
        shared: int,
        arguments: Sequence[tuple[int, int, bool]],
        order: str | int = "forward",
        count: bool = False,
        names: Sequence[str] = (),
        aligned: bool = True,
    ) -> None:
        """The same with memory by (address, bytes, may be written). A checked library runs on copies with wide gaps
        between them (arguments that overlap stay together), so that an access beyond one meets no other. Arguments that
        are not `aligned` to 64 bytes are copied too."""
        parameters = self.parameters(name)
        assert len(parameters) == len(arguments), f"{name} takes {len(parameters)} arguments, got {len(arguments)}"
        assert threads % 32 == 0 and 0 < threads <= 1024, f"{name}: {threads} threads in a block"
        assert len(arguments) <= MOST_ARGUMENTS, f"{name}: {len(arguments)} arguments"
        assert not count or self.checked, "traffic is counted in checked libraries"
        ranges = _merged(arguments)
        moved = self.checked or not aligned
        memory = mmap.mmap(-1, sum(_room(n) for _, n in ranges) + GAP) if moved else None
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory)) if moved else 0
        places, at = [], start + GAP // 2
        for base, size in ranges:
            places.append(at if moved else base)
            if moved:
                ctypes.memmove(at, base, size)
                at += _room(size)
        found = [next(k for k, (b, n) in enumerate(ranges) if b <= a <= b + n - (n > 0)) for a, _, _ in arguments]
        pointers = [places[k] + a - ranges[k][0] for k, (a, _, _) in zip(found, arguments, strict=True)]
        regions = []
        for k, (_, size) in enumerate(ranges):
            users = [i for i, f in enumerate(found) if f == k]
            frozen = all(parameters[i][1] or not arguments[i][2] for i in users)
            regions.append(_Argument(places[k], size, min(parameters[i][0] for i in users), frozen, users[0], 0))
        with LAUNCHING:
            kind = self._library.shim_launch(
                ctypes.cast(getattr(self._library, f"{name}_enter"), ctypes.c_void_p),
                (ctypes.c_void_p * max(1, len(pointers)))(*pointers),
                (_Argument * max(1, len(regions)))(*regions),
                len(regions),
                (ctypes.c_uint * 3)(*grid),
                threads,
                shared,
                ORDERS.get(order, 2),
                ctypes.c_uint64(order if isinstance(order, int) else 0),
                int(count),
                ctypes.byref(_workspace(self._library.shim_workspace())),
            )
        if moved:
            for (base, size), region in zip(ranges, regions, strict=True):
                if not region.read_only:
                    ctypes.memmove(base, region.base, size)
        if kind:
            raise self._error(name, self._library.shim_fault().contents, names)

    def traffic(self) -> dict[int, list[Traffic]]:
        """What the last launch that counted moved, by line of the text: for a line up to four, of reads and of writes
        of either memory. A compiler may have made several instructions of one, or one of several equal loads."""
        count = ctypes.c_uint64()
        rows = self._library.shim_traffic(ctypes.byref(count))
        sums: dict[tuple[int, bool, bool], np.ndarray] = {}
        for row in rows[: count.value]:
            line = row.id & ~(1 << 63) if row.id >> 63 else self._line(row.id)
            moved = np.array([row.requests, row.accesses, row.sectors, row.wavefronts])
            where = (line, bool(row.shared), bool(row.write))
            sums[where] = sums.get(where, 0) + moved
        found: dict[int, list[Traffic]] = {}
        for (line, shared, write), moved in sums.items():
            found.setdefault(line, []).append(Traffic(*moved.tolist(), shared, write))
        return found

    @cached_property
    def _rows(self) -> list[tuple[int, int]]:
        """Where the instructions of each line of the text begin. Those of the prelude count to the line before."""
        base = self._library.shim_base()
        return [(base + a, line) for a, file, line in lines.rows(self._bytes) if file == "kernels.cu" or not line]

    def _line(self, pc: int) -> int:
        at = bisect_right(self._rows, (pc - 1, 1 << 30)) - 1
        return self._rows[at][1] if at >= 0 else 0

    def _error(self, name: str, fault: _Fault, names: Sequence[str]) -> CheckError:
        kind = list(KINDS)[fault.kind - 1]
        line = fault.line or (self._line(fault.pc) if fault.pc else 0)
        block = tuple(fault.block)
        what = f"{name}, line {line}, block {block}, thread {fault.thread}: {kind}: {KINDS[kind]}"
        if fault.name or fault.region >= 0:
            array = f"shared array {fault.name.decode()}" if fault.shared else f"argument {fault.region}"
            if not fault.shared and fault.region < len(names):
                array += f" ({names[fault.region]})"
            what += f"\n  {array}, byte {fault.offset}"
        if fault.other >= 0:
            what += f"\n  the other thread: {fault.other}"
        source = self.text.splitlines()
        if 0 < line <= len(source):
            what += f"\n  {source[line - 1].strip()}"
        return CheckError(kind, name, line, block, fault.thread, what)


@lru_cache(maxsize=1)
def _workspace(size: int) -> ctypes.Array:
    """Memory for shared arrays and stacks, one for all libraries of the process, never given back. Large
    pages where they may be had: a barrier of 256 threads costs about 15 ns a thread instead of 40."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return (ctypes.c_char * size).from_buffer(memory)


def _room(size: int) -> int:
    return -(-size // 64) * 64 + GAP


def _merged(arguments: Iterable[tuple[int, int, bool]]) -> list[tuple[int, int]]:
    """The ranges (address, bytes) that the arguments lie in, those that overlap as one."""
    ranges: list[tuple[int, int]] = []
    for base, size, _ in sorted(arguments):
        if ranges and base < ranges[-1][0] + ranges[-1][1]:
            start, length = ranges[-1]
            ranges[-1] = (start, max(length, base + size - start))
        elif not ranges or ranges[-1] != (base, size):
            ranges.append((base, size))
    return ranges


def poison(array: np.ndarray) -> np.ndarray:
    """Marks an array of 4-byte elements as never written: a checked library reports a read of what is so still."""
    array.view(np.uint32)[...] = POISON
    return array


def run(
    code: KernelCode,
    arrays: Mapping[str, np.ndarray],
    checked: bool = True,
    order: str | int = "forward",
    compiler: str | None = None,
) -> None:
    """Compiles and launches one kernel."""
    compile_kernels(code.text, checked, compiler).launch(code, arrays, order)

"""Text of kernels to machine code, by NVIDIA's run-time compiler NVRTC through ctypes. No driver and no GPU is needed.

What enters: the whole text of a module (the prelude in front) and an architecture such as "sm_80". What leaves: the
cubin, and what ptxas tells of every kernel: registers, shared memory, spills. Both are kept in graphc.cache under the
text, the options and NVRTC's version. The library is that of the package nvidia-cuda-nvrtc, else the system's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from graphc.cache import CODE, key
from graphc.ir import GraphcError
from graphc.ir.frozen import frozen

FORMAT = "graphc cubin 1"
# Numbers as IEEE wants them, denormals and divisions included; only a product and a sum may become one rounding.
OPTIONS = ("-std=c++17", "-fmad=true", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "--ptxas-options=-v")
QUIET = ("-diag-suppress=177",)  # functions of the prelude that a module does not use
FILE = "kernels.cu"
START = f'#line 1 "{FILE}"\n'  # of what is counted in lines
KERNEL = re.compile(r"^\s*KERNEL\(\s*(\w+)", re.MULTILINE)
INSTALL = "pip install nvidia-cuda-nvrtc  (or the CUDA toolkit, version 12 or 13)"
PACKAGED = ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12", "cu13/bin/x86_64/nvrtc64_130_0.dll")
SYSTEM = ("libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll")


class NvrtcMissing(GraphcError):
    """There is no NVRTC library on this machine."""

    exit_status = 1


class NvrtcError(GraphcError):
    """NVRTC refuses a module. The message shows the kernel, its line of the emitted text, and the log."""

    exit_status = 1


@frozen
class Resources:
    """What one kernel takes of a multiprocessor: registers of a thread, bytes of shared memory that the text declares
    (what a launch adds is not known here), bytes of a thread spilled from registers and its stack, barriers."""

    registers: int
    shared: int
    spill_stores: int
    spill_loads: int
    stack: int
    barriers: int


@frozen
class Compiled:
    """A module for one architecture: its cubin, the resources of each kernel by name, and the compiler's log."""

    cubin: bytes
    kernels: Mapping[str, Resources]
    log: str


def compile_module(text: str, arch: str) -> Compiled:
    """Compiles a module, or takes it from the cache.

    Raises NvrtcMissing without NVRTC, NvrtcError where it refuses the text or the architecture.
    """
    nvrtc = load()
    name = key(f"{FORMAT}, NVRTC {version()}", text, arch, *OPTIONS, *QUIET)
    entry = CODE.get(name)
    if entry is not None:
        facts, _, cubin = entry.partition(b"\n")
        told = json.loads(facts)
        return Compiled(cubin, {k: Resources(**r) for k, r in told["kernels"].items()}, told["log"])
    made = _compile(nvrtc, text, arch)
    told = {"kernels": {k: asdict(r) for k, r in made.kernels.items()}, "log": made.log}
    CODE.put(name, json.dumps(told).encode() + b"\n" + made.cubin)
    return made


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """The library. Raises NvrtcMissing, with what to install."""
    for place in _places():
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise NvrtcMissing(f"cuda: NVRTC, the compiler of CUDA kernels, is not installed\n  {INSTALL}")


def _places() -> Iterator[str]:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield from (str(path) for name in PACKAGED if (path := Path(folder) / name).exists())
    yield from SYSTEM


@lru_cache(maxsize=1)
def version() -> str:
    """Of NVRTC, such as "13.5"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    load().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@lru_cache(maxsize=1)
def architectures() -> tuple[str, ...]:
    """All that this NVRTC compiles for."""
    count = ctypes.c_int()
    load().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    load().nvrtcGetSupportedArchs(numbers)
    return tuple(f"sm_{n}" for n in numbers)


def _compile(nvrtc: ctypes.CDLL, text: str, arch: str) -> Compiled:
    if arch.rstrip("af") not in architectures():
        raise NvrtcError(
            f"cuda: NVRTC {version()} does not compile for {arch}\n  it does for {', '.join(architectures())}"
        )
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), FILE.encode(), 0, None, None)
    try:
        options = [o.encode() for o in (f"-arch={arch}", *OPTIONS, *QUIET)]
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _bytes(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            raise NvrtcError(explained(text, arch, log))
        return Compiled(_bytes(nvrtc, program, "CUBIN"), resources(log), log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, data)
    return data.raw


def resources(log: str) -> dict[str, Resources]:
    """What `--ptxas-options=-v` tells of each kernel."""
    found: dict[str, dict[str, int]] = {}
    entry = function = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            entry = match[1]
            found[entry] = dict.fromkeys(Resources.__dataclass_fields__, 0)
        elif match := re.search(r"Function properties for (\w+)", line):
            function = match[1]
        elif function == entry and (
            match := re.search(r"(\d+) bytes stack frame, (\d+) .*stores, (\d+) .*loads", line)
        ):
            found[entry] |= dict(zip(("stack", "spill_stores", "spill_loads"), map(int, match.groups()), strict=True))
        elif entry and "Used " in line:
            counts = {
                "registers": r"Used (\d+) registers",
                "barriers": r"used (\d+) barriers",
                "shared": r"(\d+) bytes smem",
            }
            found[entry] |= {k: int(m[1]) for k, pattern in counts.items() if (m := re.search(pattern, line))}
    return {name: Resources(**numbers) for name, numbers in found.items()}


def explained(text: str, arch: str, log: str) -> str:
    """The message for a module that does not compile."""
    own = text.split(START, 1)[-1]
    where = ""
    if match := re.search(re.escape(FILE) + r"\((\d+)\): (?:catastrophic )?error", log):
        number = int(match[1])
        lines = own.splitlines()
        before = KERNEL.findall("\n".join(lines[:number]))
        kernel = before[-1] if before else "before the first kernel"
        shown = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        where = f"\n  kernel {kernel}, line {number}: {shown}"
    elif match := re.search(r"(?:Entry function|function) '(\w+)'", log):
        where = f"\n  kernel {match[1]}"
    indented = "\n".join(f"  {line}" for line in log.strip().splitlines())
    return f"cuda: NVRTC {version()} refuses a module for {arch}{where}\n{indented}"

"""Finds a C compiler that can link a static program, and calls it.

Enters: source and object files in a folder. Leaves: one stripped static executable, or a BuildError with the remedy.
`cc` (or gcc, clang) is taken where it really links with -static; else the `ziglang` package, which carries a C library.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock

from graphc.ir import GraphcError, GraphcValueError
from graphc.ir.frozen import frozen

C_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fno-pie", "-pthread")
_LOCK = Lock()
ZIG_ARCH = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
INSTALL = 'pip install "graphc-compiler[toolchain]"  (or install a C compiler: cc, gcc or clang)'


class BuildError(GraphcError):
    """A program could not be built: no linker, a failing one, or a place that cannot be written."""

    exit_status = 1  # of the command line: a failure at work, not a bad request


@frozen
class Toolchain:
    """A C compiler and linker: `name` is "cc" or "zig", `command` the start of its command line."""

    name: str
    command: tuple[str, ...]


def find(choice: str | None = None, arch: str | None = None) -> Toolchain:
    """The toolchain for `arch` (x86_64, aarch64; None: this machine). `choice` "cc" or "zig" forces one.

    Raises BuildError where there is none, GraphcValueError for another choice.
    """
    here = _arch(platform.machine())
    arch = here if arch is None else _arch(arch)
    if choice not in (None, "cc", "zig"):
        raise GraphcValueError(f'cc: no linker {choice!r}\n  expected "cc", "zig" or None')
    if choice != "zig" and arch == here:
        for name in ("cc", "gcc", "clang"):
            path = shutil.which(name)
            if path and links_static(path):
                return Toolchain("cc", (path,))
    if choice != "cc" and importlib.util.find_spec("ziglang") is not None:
        return Toolchain(
            "zig", (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-musl", "-fno-sanitize=undefined")
        )
    raise BuildError(f"{_missing(choice, arch, here)}\n  {INSTALL}")


def _arch(machine: str) -> str:
    return ZIG_ARCH.get(machine.lower(), machine)


def _missing(choice: str | None, arch: str, here: str) -> str:
    if choice == "zig":
        return "no linker: the ziglang package is not installed"
    if choice == "cc" and arch != here:
        return f'no linker: "cc" builds for {here} only\n  expected a program for {arch}, which ziglang can link'
    if choice == "cc":
        return "no linker: no C compiler here links with -static\n  expected cc, gcc or clang with a static C library"
    return "no linker: found neither a C compiler that links with -static nor the ziglang package"


@lru_cache
def links_static(path: str) -> bool:
    """Whether this compiler links a static program; some systems have the compiler without the static C library."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text("int main(void) { return 0; }\n")
        try:
            link(Toolchain("cc", (path,)), [source.name], Path(folder), "empty")
        except BuildError:
            return False
        return True


@lru_cache
def compile_c(toolchain: Toolchain, sources: tuple[Path, ...]) -> tuple[bytes, ...]:
    """The object code of C sources, one compiler each at the same time; kept for the next program of this process."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        outputs = [Path(name, f"{source.stem}.o") for source in sources]
        commands = [["-c", str(source), "-o", str(output)] for source, output in zip(sources, outputs, strict=True)]
        for done in [pool.submit(_call, toolchain, command, Path(name)) for command in commands]:
            done.result()
        return tuple(output.read_bytes() for output in outputs)


def link(toolchain: Toolchain, files: Sequence[str], folder: Path, output: str) -> None:
    """Compiles and links `files` (names in `folder`, the working folder) into the static executable `output`."""
    _call(toolchain, [*files, "-static", "-no-pie", "-s", "-o", output], folder)


def environment(toolchain: Toolchain) -> dict[str, str]:
    """The environment a toolchain runs in. zig keeps the C library, which it compiles once, in the user's cache folder;
    where that cannot be written it gets a folder that lasts as long as this process."""
    if toolchain.name != "zig" or "ZIG_GLOBAL_CACHE_DIR" in os.environ or _has_cache():
        return dict(os.environ)
    with _LOCK:  # several compilers start at the same time, and share it
        return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": _passing_cache()}


def _has_cache() -> bool:
    home = os.environ.get("HOME")
    root = os.environ.get("XDG_CACHE_HOME") or (home and os.path.join(home, ".cache"))
    if not root:
        return False
    folder = os.path.join(root, "zig")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


@lru_cache
def _passing_cache() -> str:
    folder = tempfile.mkdtemp(prefix="graphc-zig-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _call(toolchain: Toolchain, arguments: Sequence[str], folder: Path) -> None:
    command = [*toolchain.command, *C_FLAGS, *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False,
                              env=environment(toolchain))  # fmt: skip
    except OSError as error:
        raise BuildError(f"the linker {toolchain.command[0]} does not start: {error.strerror}\n  {INSTALL}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-20:]
        text = "\n  ".join(["building the program failed", f"{toolchain.name} ended with {done.returncode}:", *lines])
        raise BuildError(text)

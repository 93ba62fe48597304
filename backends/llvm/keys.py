"""Keys of object code in graphc.cache. What enters: texts that say what is compiled. What leaves: a key that also holds
the version of all that turns them into code, our own sources among it."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache

import llvmlite
import llvmlite.binding as llvm

import graphc.cache
import graphc.schedule
from graphc.version import __version__

FORMAT = "graphc object code 1"
SOURCES = (os.path.dirname(__file__), os.path.dirname(graphc.schedule.__file__))


@lru_cache(maxsize=1)
def compiler() -> str:
    """The version of all that turns a kernel into code: our own sources, Python, llvmlite and LLVM."""
    versions = (FORMAT, __version__, platform.python_version(), llvmlite.__version__, repr(llvm.llvm_version_info))
    made = hashlib.sha256("\n".join(versions).encode())
    for folder in SOURCES:
        # by os.walk, as every compilation waits for it: 2.5 ms, with pathlib 6
        for place, _, names in sorted(os.walk(folder)):
            for path in (os.path.join(place, name) for name in sorted(names) if name.endswith(".py")):
                with open(path, "rb") as file:
                    made.update(f"\n{path[len(folder) :]}\n".encode() + file.read())
    return made.hexdigest()


def key(*parts: str) -> str:
    """A name for what these texts and this compiler make."""
    return graphc.cache.key(compiler(), *parts)

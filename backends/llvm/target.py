"""Targets: the little that kernels and code generation must know about a processor.

A target never decides a result's bits, only its speed: vector width, registers and caches choose tiles and loop order,
while the order of every sum is fixed by the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from graphc.ir.frozen import frozen

LINUX_X86, LINUX_ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
KIB = 1024


@frozen
class Target:
    """A processor: LLVM's `triple`, `cpu` and `features`, and what the kernels' shapes follow from (bytes, counts)."""

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    l1_bytes: int
    l2_bytes: int

    @property
    def vl(self) -> int:
        """Floats in one vector."""
        return self.vector_bytes // 4

    @property
    def arch(self) -> str:
        return self.triple.split("-", 1)[0]


def x86_64_v3() -> Target:
    """AVX2 and FMA: Haswell, Zen 1 and everything newer."""
    return Target("x86-64-v3", LINUX_X86, "x86-64-v3", "", 32, 16, 32 * KIB, 256 * KIB)


def x86_64_v4() -> Target:
    """AVX-512 (F, BW, CD, DQ, VL), with whole 512-bit vectors."""
    return Target("x86-64-v4", LINUX_X86, "x86-64-v4", "-prefer-256-bit", 64, 32, 32 * KIB, 1024 * KIB)


def aarch64() -> Target:
    """64-bit Arm with NEON, as every ARMv8-A core has it."""
    return Target("aarch64", LINUX_ARM, "generic", "+neon", 16, 32, 32 * KIB, 512 * KIB)


@lru_cache(maxsize=1)
def host() -> Target:
    """The processor this process runs on, with all its features."""
    triple, features = llvm.get_process_triple(), llvm.get_host_cpu_features()
    vector_bytes, registers = _vectors(triple, features)
    if vector_bytes == 64:
        features["prefer-256-bit"] = False
    return Target(
        "native",
        triple,
        llvm.get_host_cpu_name(),
        features.flatten(),
        vector_bytes,
        registers,
        cache_bytes(1, 32 * KIB),
        cache_bytes(2, 256 * KIB),
    )


_NAMED = {"native": host, "x86-64-v3": x86_64_v3, "x86-64-v4": x86_64_v4, "aarch64": aarch64}


def by_name(name: str) -> Target:
    """A target by its name: native, x86-64-v3, x86-64-v4 or aarch64."""
    if name not in _NAMED:
        raise ValueError(f"no target {name!r}\n  expected one of {', '.join(_NAMED)}")
    return _NAMED[name]()


def runs_here(target: Target) -> bool:
    """Whether this processor has the instructions of `target`, by its architecture and vectors."""
    here = host()
    return target.arch == here.arch and target.vector_bytes <= here.vector_bytes


def _vectors(triple: str, features: Mapping[str, bool]) -> tuple[int, int]:
    """Bytes of a vector register and the number of them."""
    if triple.startswith(("aarch64", "arm64")):
        return 16, 32
    has = features.get
    if has("avx512f") and has("avx512bw") and has("avx512dq") and has("avx512vl"):
        return 64, 32
    if has("avx2") and has("fma"):
        return 32, 16
    raise RuntimeError(
        f"this processor ({llvm.get_host_cpu_name()}) is too old for compiled programs\n"
        "  expected x86-64 with AVX2 and FMA (2013 and newer), or 64-bit Arm\n"
        "  use the reference backend instead"
    )


def cache_bytes(level: int, default: int) -> int:
    """Bytes of the data cache of this level as Linux reports it for the first core; `default` where it does not."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            found, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if int(found) == level and kind != "Instruction" and size.endswith("K"):
            return int(size[:-1]) * KIB
    return default

"""What the emitters must know of a CUDA device: its compute capability, and the limits that follow from it.

Figures are those of NVIDIA's CUDA C++ programming guide, section "Compute capabilities".
"""

from __future__ import annotations

from dataclasses import replace

from graphc.ir import GraphcError
from graphc.ir.frozen import frozen


@frozen
class Target:
    """A device of compute capability `arch`, such as "sm_80". Bytes of shared memory are the most that one block may
    take, and what a multiprocessor holds for all its blocks."""

    arch: str
    multiprocessors: int
    shared_block: int
    shared_processor: int
    warp: int = 32
    threads_block: int = 1024
    threads_processor: int = 2048
    registers_processor: int = 65536
    registers_thread: int = 255
    static_shared: int = 49152  # bytes of shared memory that a kernel may declare; more is asked for at the launch


# Of A100 and H100 (SXM). Where a device with fewer multiprocessors runs the code, it is right and less well balanced.
AMPERE = Target("sm_80", 108, 163 << 10, 164 << 10)
HOPPER = Target("sm_90", 132, 227 << 10, 228 << 10)
# Of the same generations for graphics and workstations (RTX A6000, RTX 4090), and Blackwell (B200, RTX 5090).
SMALL_AMPERE = replace(AMPERE, arch="sm_86", multiprocessors=84, shared_block=99 << 10, shared_processor=100 << 10,
                       threads_processor=1536)  # fmt: skip
ADA = replace(SMALL_AMPERE, arch="sm_89", multiprocessors=128)
BLACKWELL = replace(HOPPER, arch="sm_100", multiprocessors=148)
SMALL_BLACKWELL = replace(ADA, arch="sm_120", multiprocessors=170)
TARGETS = {t.arch: t for t in (AMPERE, HOPPER, SMALL_AMPERE, ADA, BLACKWELL, SMALL_BLACKWELL)}


def of_capability(capability: str) -> Target:
    """The target of a device, from its compute capability without the dot, such as "86". GraphcError below 8.0, where
    asynchronous copies and the tensor cores' tf32 and bf16 are missing."""
    major, minor = int(capability[:-1]), int(capability[-1])
    found = [t for arch, t in TARGETS.items() if (int(arch[3:-1]), int(arch[-1])) <= (major, minor)]
    if major < 8:
        raise GraphcError(
            f"backend cuda: this GPU has compute capability {major}.{minor}\n  expected 8.0 (Ampere) or newer\n"
            '  take backend="llvm"'
        )
    return replace(max(found, key=lambda t: int(t.arch[3:])), arch=f"sm_{capability}")

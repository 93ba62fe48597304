"""What the emitters must know of a CUDA device: its compute capability, and the limits that follow from it.

Figures are those of NVIDIA's CUDA C++ programming guide, section "Compute capabilities".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
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
TARGETS = {t.arch: t for t in (AMPERE, HOPPER)}

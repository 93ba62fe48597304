"""What NVRTC says of emitted kernels: that they compile, without spills, within the limits of a device."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from graphc.backends.cuda.assemble import Module
from graphc.backends.cuda.nvrtc import NvrtcMissing, compile_module, load
from graphc.backends.cuda.prelude import DEVICE
from graphc.backends.cuda.target import Target

PRODUCTS = ("conv2d", "matmul")  # kinds of contractions, which kernels are named by


def check_resources(modules: Sequence[Module], target: Target) -> None:
    """All kernels of the modules compile for the target; registers and shared memory fit, and contractions do not
    spill."""
    try:
        load()
    except NvrtcMissing as reason:
        pytest.skip(str(reason))
    codes = {name: code for module in modules for name, code in module.codes.items()}
    if not codes:
        return
    made = compile_module("\n".join([DEVICE, *(code.text for code in codes.values())]), target.arch)
    wrong = []
    for name, code in codes.items():
        used = made.kernels[name]
        if used.registers * code.threads > target.registers_processor or used.registers > target.registers_thread:
            wrong.append(f"{name}: {used.registers} registers in each of {code.threads} threads")
        if used.shared > target.static_shared or used.shared + code.shared > target.shared_block:
            wrong.append(f"{name}: {used.shared} + {code.shared} bytes of shared memory")
        if used.spill_stores + used.spill_loads and name.startswith(PRODUCTS):
            wrong.append(f"{name}: {used.spill_stores} + {used.spill_loads} bytes spilled")
    assert not wrong, "\n".join(wrong)

"""Where the tests of the CUDA backend run their programs: on the shim, or with `--device` on the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from on_shim import ShimDevice
from shim.build import compilers


@pytest.fixture(scope="session")
def on(request) -> Callable:
    """`on(**options)` gives a device; the options are those of `ShimDevice` and mean nothing to a GPU."""
    if request.config.getoption("--device"):
        from graphc.backends.cuda.device import current

        return lambda **_: current()
    if not compilers():
        pytest.skip("the shim needs a C++ compiler: g++, clang++ or the ziglang package, on Linux or macOS")
    return ShimDevice

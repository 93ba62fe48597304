"""exp, log, tanh, erf of the LLVM backend: against float64 over all exponents, special values, equal bits, no calls."""

import ctypes
import math
import re

import numpy as np
import pytest

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm import math as vector_math
from graphc.backends.llvm.emit import F32, I64, PTR, function, load_, loop, store_

# the greatest error in ulp over all float32 values, found by running every one of them once
WORST = {"exp": 0.91, "log": 1.07, "tanh": 5.35, "erf": 5.70}
EXACT = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": np.vectorize(math.erf, otypes=[float])}
WIDTHS = (None, 4, 8, 16)
INF, NAN = math.inf, math.nan


def module(width: int | None, names=tuple(WORST)) -> ir.Module:
    """`NAME(x, y, n)`: y[i] = f(x[i]), `width` elements at a time; n is a multiple of the width."""
    made = ir.Module("math")
    for name in names:
        f, b = function(made, name, [PTR, PTR, I64], ["x", "y", "n"], linkage="external", noalias=("x", "y"))
        x, y, n = f.args
        with loop(b, 0, n, width or 1) as i:
            store_(b, getattr(vector_math, name)(b, load_(b, x, F32, width, i)), y, i)
        b.ret_void()
    return made


@pytest.fixture(scope="module")
def run():
    """run(name, x, width) -> y, on this machine."""
    loaded = {w: jit.load_object([jit.compile_object(module(w), target.host())], list(WORST)) for w in WIDTHS}
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

    def call(name: str, x: np.ndarray, width: int | None = 8) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        signature(loaded[width].address(name))(x.ctypes.data, y.ctypes.data, x.size)
        return y

    return call


def samples() -> np.ndarray:
    """About 170 of the 2**23 mantissas of every exponent and sign, infinities and NaN among them; a multiple of 16."""
    bits = np.arange(0, 2**32, 49999, dtype=np.uint64).astype(np.uint32)
    return bits[: len(bits) // 16 * 16].view(np.float32)


@pytest.mark.parametrize("name", WORST)
def test_error_in_ulp(run, name):
    x = samples()
    with np.errstate(all="ignore"):
        exact = EXACT[name](np.where(np.isnan(x), 0, x).astype(np.float64))
        rounded = exact.astype(np.float32)
        keep = np.isfinite(x) & np.isfinite(rounded)
        ulp = np.spacing(np.abs(rounded[keep])).astype(np.float64)  # a denormal result has the ulp 2**-149
    error = np.abs(run(name, x)[keep] - exact[keep]) / ulp
    assert keep.sum() > 40_000
    assert error.max() <= WORST[name], f"worst at {x[keep][error.argmax()]!r}"


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("exp", [0.0, -0.0, INF, -INF, NAN, 1e-45, 88.73, -100, -103.2, -104, -1e30, 1e30],
         [1.0, 1.0, INF, 0.0, NAN, 1.0, INF, 3.783506e-44, 1.401298e-45, 0.0, 0.0, INF]),
        ("log", [1.0, 0.0, -0.0, INF, -INF, NAN, -1.0, -1e-45, 1e-45, 1.1754944e-38],
         [0.0, -INF, -INF, INF, NAN, NAN, NAN, NAN, -103.278929903, -87.3365447505531]),
        ("tanh", [0.0, -0.0, INF, -INF, NAN, 1e-45, -1e-40, 20, -1e30], [0.0, -0.0, 1, -1, NAN, 1e-45, -1e-40, 1, -1]),
        ("erf", [0.0, -0.0, INF, -INF, NAN, 1e-45, -1e-40, 4, -1e30],
         [0.0, -0.0, 1, -1, NAN, 1e-45, -1.1283792e-40, 1, -1]),
    ],
)  # fmt: skip
def test_special_values(run, name, x, y):
    got, expected = run(name, np.float32(x), None), np.float32(y)
    np.testing.assert_array_max_ulp(got, expected, maxulp=1)
    assert np.array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(expected[~np.isnan(got)]))
    assert np.array_equal(np.isnan(got), np.isnan(expected))


@pytest.mark.parametrize("name", WORST)
def test_bits_do_not_depend_on_the_width(run, name):
    x = samples()
    scalar = run(name, x, None).view(np.uint32)
    for width in WIDTHS[1:]:
        assert np.array_equal(run(name, x, width).view(np.uint32), scalar)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_never_beyond_one(run, name):
    x = np.linspace(2, 12, 2**16, dtype=np.float32)
    assert run(name, x).max() == 1
    assert np.array_equal(run(name, -x), -run(name, x))


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.x86_64_v4(), target.aarch64()], ids=lambda t: t.name)
@pytest.mark.parametrize("width", [None, "vl"])
def test_no_library_call(machine, width):
    text = jit.assembly(module(machine.vl if width else None), machine)
    assert not re.findall(r"^\s+(?:callq?\s|bl\s|(?:b|jmp)\s+[a-z_]).*", text, re.MULTILINE)
    assert re.search(r"^erf:", text, re.MULTILINE)

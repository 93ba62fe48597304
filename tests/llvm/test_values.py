"""Expressions as LLVM values against the interpreter: every primitive, loads of all strides, guards, masks, stores.

Every buffer ends at a page that may not be touched, and begins after one, so a lane that reads or writes outside ends
the test run.
"""

import ctypes
import mmap
from contextlib import ExitStack

import numpy as np
import pytest

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.emit import I64, PTR, function, loop, prefix_mask
from graphc.backends.llvm.values import Lanes, Values
from graphc.schedule.expr import COMPARISONS, Aff, axis, binary, cast, const, fma, guard, load, select, temp, unary
from graphc.schedule.flat import FlatLoops
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import Stage, Store
from graphc.schedule.layout import NUMPY, Buffer

PAGE = mmap.PAGESIZE
ROWS, COLUMNS = 3, 21  # 21 leaves a tail for every width
H, I = Aff.of("h"), Aff.of("i")
FLAT = H * COLUMNS + I
WIDTHS = (None, 8, 16)


class Fenced:
    """An array between two pages that may not be touched, at the end of its own pages or at their start."""

    def __init__(self, array: np.ndarray, at_end: bool):
        pages = -(-array.nbytes // PAGE)
        self._map = mmap.mmap(-1, (pages + 2) * PAGE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        offset = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
        self.array = np.frombuffer(self._map, array.dtype, array.size, offset)
        self.array[:] = array.reshape(-1)
        self._fences = (self._start, self._start + (pages + 1) * PAGE)
        self._protect(mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0)

    def _protect(self, mode: int) -> None:
        for fence in self._fences:
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), mode) == 0

    def __enter__(self) -> np.ndarray:
        return self.array

    def __exit__(self, *_) -> None:
        self._protect(mmap.PROT_READ | mmap.PROT_WRITE)


def emit(module, name, expr, buffers, index, width, known, temps=()):
    """`name(buffers in sorted order)`: out[index] = expr for all h, i; vectors along i, the last one masked."""
    names = sorted(buffers)
    made, b = function(module, name, [PTR] * len(names), names, linkage="external", noalias=names)
    pointers = dict(zip(names, made.args, strict=True))
    extents = {"h": ROWS, "i": COLUMNS} if known else {}
    with loop(b, 0, ROWS) as h, loop(b, 0, COLUMNS, width or 1) as i:
        lanes = Lanes("i", width, prefix_mask(b, width, b.sub(ir.const(I64, COLUMNS), i))) if width else None
        env = {"h": h, "i": i}
        values = Values(b, buffers, pointers, env, target.host(), lanes, {}, extents)
        values.temps = {name: values.value(e) for name, e in temps}
        values.store("out", index, values.value(expr))
    b.ret_void()


class Compiled:
    """A module in this process: `call(name, arrays)`, the arrays in sorted order of the buffers' names."""

    def __init__(self, module, names):
        self._loaded = jit.load_object([jit.compile_object(module, target.host())], names)

    def call(self, name, *arrays):
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))
        kind(self._loaded.address(name))(*(a.ctypes.data for a in arrays))


def check(expr, arrays=None, index=FLAT, elements=ROWS * COLUMNS, rtol=0.0):
    """The expression at all widths, with and without known extents, against the interpreter."""
    arrays = arrays or {}
    dtypes = {np.dtype(kind): name for name, kind in NUMPY.items()}
    buffers = {n: Buffer(n, a.shape, dtypes[a.dtype]) for n, a in arrays.items()}
    buffers["out"] = Buffer("out", (elements,), expr.dtype)
    start = np.full(elements, 77).astype(NUMPY[expr.dtype])
    expected = {**{n: a.copy() for n, a in arrays.items()}, "out": start.copy()}
    stage = Stage((), (Store("out", (index,), expr),))
    run_kernel(FlatLoops("k", (("h", ROWS), ("i", COLUMNS)), (stage,)), buffers, expected)
    module = ir.Module("values")
    variants = {f"width {width}, extents {known}": (width, known) for width in WIDTHS for known in (True, False)}
    for name, (width, known) in variants.items():
        emit(module, name, expr, buffers, index, width, known)
    functions = Compiled(module, list(variants))
    for k, name in enumerate(variants):
        with ExitStack() as stack:
            places = {n: stack.enter_context(Fenced(a, k % 2 == 0)) for n, a in (arrays | {"out": start}).items()}
            functions.call(name, *(places[n] for n in sorted(places)))
            got = places["out"].copy()
        np.testing.assert_allclose(got, expected["out"], rtol=rtol, err_msg=name)
        if not rtol and expr.dtype == "f32":
            number = ~np.isnan(got)
            assert np.array_equal(np.signbit(got[number]), np.signbit(expected["out"][number]))


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(*shape, low=-50, high=50, dtype=np.int32, seed=1):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def x(name="x", dtype="f32", index=FLAT):
    return load(name, (index,), dtype)


SPECIAL = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1.5, 2.5, 7e8])


@pytest.mark.parametrize("op", ["neg", "abs", "sqrt", "floor", "exp", "log", "tanh", "erf"])
def test_unary(op):
    data = np.concatenate([SPECIAL, floats(ROWS * COLUMNS - SPECIAL.size)])
    # exp, log, tanh, erf have a few ulp of their own (see test_math), NumPy's float32 versions up to 2 more
    check(unary(op, x()), {"x": data}, rtol=0 if op in ("neg", "abs", "sqrt", "floor") else 1e-6)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "max", "min", *COMPARISONS])
def test_binary_floats(op):
    a, b = np.resize(SPECIAL, ROWS * COLUMNS), np.repeat(SPECIAL, 7)
    if op in ("max", "min"):  # of two zeros with different signs either may come
        a = np.where(a == 0, np.float32(3), a)
    check(binary(op, x("x"), x("y")), {"x": a, "y": b})


def test_fma_rounds_once():
    a, b = np.resize(SPECIAL, ROWS * COLUMNS), np.repeat(SPECIAL, 7)
    check(fma(x("x"), x("y"), x("z")), {"x": a, "y": b, "z": floats(ROWS * COLUMNS)})
    near = 1 + floats(ROWS * COLUMNS) / 1000
    square = near * near
    check(fma(x("x"), x("x"), -x("z")), {"x": near, "z": square})
    assert (near.astype(np.float64) ** 2 != square).any()  # what is left would be zero, were the product rounded


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("limit", [0.0, 1.5, np.nan])
def test_extremum_with_a_constant_keeps_nan(op, limit):
    data = np.resize(SPECIAL[1:], ROWS * COLUMNS)
    data[data == 0] = 1
    check(binary(op, x(), const(limit)), {"x": data})


INTEGER = ["add", "sub", "mul", "max", "min", "and", "or", "xor", "shl", "shr", "umulhi", "idiv", "imod", *COMPARISONS]


@pytest.mark.parametrize("op", INTEGER)
def test_binary_integers(op):
    a = whole(ROWS * COLUMNS, low=-(2**31), high=2**31)
    y = whole(ROWS * COLUMNS, seed=2, low=0, high=31) if op in ("shl", "shr") else whole(ROWS * COLUMNS, seed=2)
    y[y == 0] = 7 if op in ("idiv", "imod") else 0
    check(binary(op, x("x", "i32"), x("y", "i32")), {"x": a, "y": y})


@pytest.mark.parametrize("op", ["and", "or", "xor", "eq", "not"])
def test_logic(op):
    data = {"x": whole(ROWS * COLUMNS, low=0, high=2, dtype=bool), "y": whole(63, low=0, high=2, dtype=bool, seed=3)}
    a, b = x("x", "i1"), x("y", "i1")
    check(unary(op, a) if op == "not" else binary(op, a, b), data)


@pytest.mark.parametrize("to", ["f32", "i32", "u8", "i1"])
@pytest.mark.parametrize("dtype", ["f32", "i32", "u8", "i1"])
def test_cast(dtype, to):
    high = {"i1": 2, "u8": 256}.get(dtype, 100)
    data = whole(ROWS * COLUMNS, low=0, high=high) / (4 if dtype == "f32" else 1)
    check(cast(x("x", dtype), to), {"x": data.astype(NUMPY[dtype])})


def test_cast_of_what_no_integer_holds_saturates():
    data = np.resize(np.float32([np.nan, 3e9, -3e9, np.inf]), ROWS * COLUMNS)
    buffers, module = {"x": Buffer("x", (63,), "f32"), "out": Buffer("out", (63,), "i32")}, ir.Module("m")
    emit(module, "k", cast(x(), "i32"), buffers, FLAT, 8, True)
    out = np.zeros(63, np.int32)
    Compiled(module, ["k"]).call("k", out, data)
    assert out[:4].tolist() == [0, 2**31 - 1, -(2**31), 2**31 - 1]


@pytest.mark.parametrize("dtype", ["f32", "i32", "u8", "i1"])
@pytest.mark.parametrize("stride", [0, 1, 2, -1, -3])
def test_loads_by_stride(dtype, stride):
    first = Aff(0 if stride >= 0 else -stride * (COLUMNS - 1))
    data = whole(ROWS * abs(stride) * COLUMNS + ROWS, low=0, high=2).astype(NUMPY[dtype])
    check(x("x", dtype, first + H + I * stride), {"x": data})


def test_select_and_axis_values():
    even = binary("eq", binary("imod", axis(I * 3 + H), const(2, "i32")), const(0, "i32"))
    check(select(even, x(), axis_as_float(H * 7 - I)), {"x": floats(ROWS * COLUMNS)})
    uniform = binary("lt", axis(H), const(1, "i32"))
    check(select(uniform, x(), const(2.5)), {"x": floats(ROWS * COLUMNS)})


def axis_as_float(aff):
    return cast(axis(aff), "f32")


PADDED = ((H * 2 - 1, 0, ROWS), (I * 2 - 3, 0, COLUMNS))


@pytest.mark.parametrize(
    "bounds",
    [PADDED[:1], PADDED[1:], PADDED, ((I, 5, 9),), ((I - 30, 0, 5),), ((H, 0, ROWS), (I, 0, COLUMNS))],
    ids=["uniform", "lanes", "both", "inside", "never", "always"],
)
def test_guards_read_nothing_outside(bounds):
    shifted = Aff(0)
    for k, (aff, _, _) in enumerate(bounds):
        shifted = shifted + aff * (COLUMNS if k == 0 and len(bounds) > 1 else 1)
    check(guard(x(index=shifted) * 2.0, const(-9.0), bounds), {"x": floats(ROWS * COLUMNS)})


def test_guard_around_loads_of_every_stride():
    narrow = ((I, 2, 2 + 5), (H, 1, 2))
    inside = I - 2
    body = x(index=inside) + x(index=inside * 2) + x("u", index=H - 1) + x(index=inside * -1 + 4)
    check(guard(body, const(0.5), narrow), {"x": floats(9), "u": floats(1)})


def test_nested_guards_and_a_load_shared_with_the_outside():
    inner = guard(x(index=I - 4), const(1.0), ((I, 4, COLUMNS),))
    outer = guard(inner + x("u", index=H - 1), inner * 0.5, ((H, 1, ROWS),))
    check(outer + x(index=I), {"x": floats(COLUMNS), "u": floats(ROWS - 1)})


def test_computed_indices():
    """table[h] * 21 + i is a vector load, table[i] a gather, and either may stand under a guard."""
    row = load("rows", (H,), "i32") * const(COLUMNS, "i32") + axis(I)
    pick = load("order", (I,), "i32")
    arrays = {
        "x": floats(ROWS * COLUMNS), "rows": np.int32([2, 0, 1]),
        "order": np.random.default_rng(5).permutation(COLUMNS).astype(np.int32),
    }  # fmt: skip
    check(load("x", (row,)), arrays)
    check(load("x", (pick,)) + guard(load("x", (pick,)), const(3.0), ((I, 3, 11),)), arrays)


@pytest.mark.parametrize("stride", [1, 2, -1])
def test_stores_by_stride(stride):
    index = H * (2 * COLUMNS) + I * stride + (0 if stride > 0 else COLUMNS - 1)
    check(x() + 1.0, {"x": floats(ROWS * COLUMNS)}, index, elements=ROWS * 2 * COLUMNS)


def test_store_at_a_computed_index():
    arrays = {"x": floats(ROWS * COLUMNS), "order": np.random.default_rng(6).permutation(63).astype(np.int32)}
    check(x(), arrays, load("order", (FLAT,), "i32"))


@pytest.mark.parametrize("dtype", ["i32", "u8", "i1"])
def test_stores_of_other_dtypes(dtype):
    check(x("x", dtype), {"x": whole(ROWS * COLUMNS, low=0, high=2).astype(NUMPY[dtype])})


def test_temps_are_values_of_the_caller():
    buffers = {"x": Buffer("x", (63,), "f32"), "out": Buffer("out", (63,), "f32")}
    module, data, out = ir.Module("m"), floats(ROWS, COLUMNS), np.zeros((ROWS, COLUMNS), np.float32)
    emit(module, "k", temp("t") * 2.0 + temp("u"), buffers, FLAT, 8, True, [("t", x()), ("u", x(index=H))])
    Compiled(module, ["k"]).call("k", out, data)
    assert np.array_equal(out, data * 2 + data.reshape(-1)[:ROWS, None])


def test_a_vector_does_not_fit_one_element():
    buffers = {"x": Buffer("x", (63,), "f32"), "out": Buffer("out", (63,), "f32")}
    with pytest.raises(ValueError, match="into one element of out"):
        emit(ir.Module("m"), "k", x(), buffers, H, 8, True)


def test_equal_expressions_are_one_value():
    made, b = function(ir.Module("m"), "k", [PTR], ["x"])
    values = Values(b, {"x": Buffer("x", (63,), "f32")}, {"x": made.args[0]}, {"h": 0, "i": 0}, target.host())
    assert values.value(x() * 2.0) is values.value(x() * 2.0)
    assert str(made).count("load") == 1


def test_an_unknown_primitive_is_named():
    _, b = function(ir.Module("m"), "k", [], [])
    with pytest.raises(NotImplementedError, match=r"no exp of \['i32'\]"):
        Values(b, {}, {}, {}, target.host()).value(unary("exp", const(1, "i32")))

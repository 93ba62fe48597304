"""Expressions as CUDA C against the interpreter: every primitive, loads of all strides, guards, lanes, stores.

All cases are compiled at once, each for single elements and for lanes of four, with and without known extents. The
checked build ends a test that reads or writes outside of a buffer, or a vector at an address it may not have.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from shim.build import compile_kernels, compilers

from graphc.backends.cuda.emit import KernelCode, Writer, affine, parameters, positions
from graphc.backends.cuda.values import Lanes, Values
from graphc.schedule.expr import COMPARISONS, Aff, E, axis, binary, cast, const, fma, guard, load, select, temp, unary
from graphc.schedule.flat import FlatLoops
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import Stage, Store
from graphc.schedule.layout import NUMPY, Buffer

pytestmark = pytest.mark.skipif(
    not compilers(), reason="no C++ compiler for the shim: g++, clang++ or pip install ziglang"
)
ROWS, COLUMNS = 3, 20  # rows of whole vectors
SIZE = ROWS * COLUMNS
H, I = Aff.of("h"), Aff.of("i")
FLAT = H * COLUMNS + I
VARIANTS = [(lanes, known) for lanes in (False, True) for known in (False, True)]
SPECIAL = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1.5, 2.5, 7e8])


@dataclass(frozen=True)
class Case:
    """out[index] = expr for all h, i."""

    expr: E
    arrays: dict[str, np.ndarray]
    index: Aff | E = FLAT
    elements: int = SIZE
    rtol: float = 0.0
    clip: tuple = ()

    @property
    def buffers(self) -> dict[str, Buffer]:
        dtypes = {np.dtype(kind): name for name, kind in NUMPY.items()}
        given = {n: Buffer(n, (a.size,), dtypes[a.dtype]) for n, a in self.arrays.items()}
        return {**given, "out": Buffer("out", (self.elements,), self.expr.dtype)}

    @property
    def store(self) -> Store:
        return Store("out", (self.index,), self.expr, self.clip)

    def begin(self) -> dict[str, np.ndarray]:
        start = np.full(self.elements, 77).astype(NUMPY[self.expr.dtype])
        return {**{n: a.reshape(-1).copy() for n, a in self.arrays.items()}, "out": start}


def emit(name: str, case: Case, lanes: bool, known: bool, live=(), temps=()) -> KernelCode:
    """A block for each h, a thread for each i or four of them."""
    write, names = Writer(), tuple(sorted(case.buffers))
    declared, pointers = parameters(names, ["out"], case.buffers)
    for taken in ("h", "i", *pointers.values()):
        write.name(taken)
    with write.block(f"KERNEL({name}, 32, 1)({declared})"):
        write("const int h = blockIdx.x;", f"const int i = threadIdx.x * {4 if lanes else 1};")
        with write.block(f"if (i < {COLUMNS})"):
            values = Values(
                write,
                case.buffers,
                pointers,
                {"h": "h", "i": "i"},
                {},
                Lanes("i") if lanes else None,
                {"h": ROWS, "i": COLUMNS} if known else None,
                live=live,
            )
            values.temps = {name: values.parts(e) for name, e in temps}
            values.store(case.store)
    return KernelCode(name, write.text, names, (ROWS, 1, 1), 32)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(*shape, low=-50, high=50, dtype=np.int32, seed=1):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def x(name="x", dtype="f32", index=FLAT):
    return load(name, (index,), dtype)


def _primitives():
    data = np.concatenate([SPECIAL, floats(SIZE - SPECIAL.size)])
    for op in ("neg", "abs", "sqrt", "floor", "exp", "log", "tanh", "erf"):
        # the accurate functions of CUDA have up to 2 ulp of their own, NumPy's too
        yield f"{op} f32", Case(unary(op, x()), {"x": data}, rtol=0 if op in ("neg", "abs", "sqrt", "floor") else 1e-6)
    a, b = np.resize(SPECIAL, SIZE), np.repeat(SPECIAL, 7)[:SIZE]
    for op in ("add", "sub", "mul", "div", "max", "min", *COMPARISONS):
        some = np.where(a == 0, np.float32(3), a) if op in ("max", "min") else a  # of two zeros either may come
        yield f"{op} f32", Case(binary(op, x("x"), x("y")), {"x": some, "y": b})
    near = 1 + floats(SIZE) / 1000
    yield "fma f32", Case(fma(x("x"), x("x"), -x("z")), {"x": near, "z": near * near})
    for op in ("max", "min"):
        for limit in (0.0, 1.5, np.nan):
            some = np.where(a == 0, np.float32(1), a)
            yield f"{op} f32 {limit}", Case(binary(op, x(), const(limit)), {"x": some})
    for op in (
        *["add", "sub", "mul", "max", "min", "and", "or", "xor", "shl", "shr", "umulhi", "idiv", "imod"],
        *COMPARISONS,
    ):
        i = whole(SIZE, low=-(2**31), high=2**31)
        j = whole(SIZE, seed=2, low=0, high=31) if op in ("shl", "shr") else whole(SIZE, seed=2)
        j[j == 0] = 7 if op in ("idiv", "imod") else 0
        yield f"{op} i32", Case(binary(op, x("x", "i32"), x("y", "i32")), {"x": i, "y": j})
    for op in ("neg", "abs", "not"):
        i = whole(SIZE, low=-(2**31) + 1, high=2**31)
        yield f"{op} i32", Case(unary(op, x("x", "i32")), {"x": i})
    for op in ("idiv", "imod"):
        for divisor in (7, -7):
            yield f"{op} by {divisor}", Case(binary(op, x("x", "i32"), const(divisor, "i32")), {"x": whole(SIZE)})
    for op in (*["add", "sub", "mul", "max", "min", "and", "or", "xor", "idiv", "imod"], *COMPARISONS):
        i, j = whole(SIZE, low=0, high=256, dtype=np.uint8), whole(SIZE, low=1, high=256, dtype=np.uint8, seed=2)
        yield f"{op} u8", Case(binary(op, x("x", "u8"), x("y", "u8")), {"x": i, "y": j})
    data = {"x": whole(SIZE, low=0, high=2, dtype=bool), "y": whole(SIZE, low=0, high=2, dtype=bool, seed=3)}
    for op in ("and", "or", "xor", "eq"):
        a, b = x("x", "i1"), x("y", "i1")
        yield (
            f"{op} i1",
            Case(unary(op, a) if op == "not" else binary(op, a, b), data if op != "not" else {"x": data["x"]}),
        )
    for dtype in NUMPY:
        high = {"i1": 2, "u8": 256}.get(dtype, 100)
        some = (whole(SIZE, low=0, high=high) / (4 if dtype == "f32" else 1)).astype(NUMPY[dtype])
        for to in NUMPY:
            yield f"cast {dtype} {to}", Case(cast(x("x", dtype), to), {"x": some})


PADDED = ((H * 2 - 1, 0, ROWS), (I * 2 - 3, 0, COLUMNS))


def _accesses():
    for dtype in NUMPY:
        for stride in (0, 1, 2, -1, -3):
            first = Aff(0 if stride >= 0 else -stride * (COLUMNS - 1))
            data = whole(ROWS * abs(stride) * COLUMNS + ROWS, low=0, high=2).astype(NUMPY[dtype])
            yield f"load {dtype} {stride}", Case(x("x", dtype, first + H + I * stride), {"x": data})
        yield f"store {dtype}", Case(x("x", dtype), {"x": whole(SIZE, low=0, high=2).astype(NUMPY[dtype])})
    for stride in (1, 2, -1):
        index = H * (2 * COLUMNS) + I * stride + (0 if stride > 0 else COLUMNS - 1)
        yield f"store by {stride}", Case(x() + 1.0, {"x": floats(SIZE)}, index, ROWS * 2 * COLUMNS)
    order = np.random.default_rng(6).permutation(SIZE).astype(np.int32)
    yield "store computed", Case(x(), {"x": floats(SIZE), "order": order}, load("order", (FLAT,), "i32"))
    row = load("rows", (H,), "i32") * const(COLUMNS, "i32") + axis(I)
    pick = load("order", (I,), "i32")
    arrays = {
        "x": floats(SIZE), "rows": np.int32([2, 0, 1]),
        "order": np.random.default_rng(5).permutation(COLUMNS).astype(np.int32),
    }  # fmt: skip
    there = {n: arrays[n] for n in ("x", "rows")}
    yield "row of a table", Case(load("x", (row,)), there)
    yield "row under a guard", Case(guard(load("x", (row,)), const(3.0), ((I, 3, 11),)), there)
    here = {n: arrays[n] for n in ("x", "order")}
    yield "gather", Case(load("x", (pick,)) + guard(load("x", (pick,)), const(3.0), ((I, 3, 11),)), here)
    yield (
        "row under a guard",
        Case(guard(load("x", (row,)), const(3.0), ((I, 3, 11),)), {n: arrays[n] for n in ("x", "rows")}),
    )
    even = binary("eq", binary("imod", axis(I * 3 + H), const(2, "i32")), const(0, "i32"))
    yield "select lanes", Case(select(even, x(), cast(axis(H * 7 - I), "f32")), {"x": floats(SIZE)})
    yield "select rows", Case(select(axis(H) < const(1, "i32"), x(), const(2.5)), {"x": floats(SIZE)})
    kinds = {"uniform": PADDED[:1], "lanes": PADDED[1:], "both": PADDED, "inside": ((I, 5, 9),),
             "never": ((I - 30, 0, 5),), "always": ((H, 0, ROWS), (I, 0, COLUMNS))}  # fmt: skip
    for name, bounds in kinds.items():
        shifted = Aff(0)
        for k, (aff, _, _) in enumerate(bounds):
            shifted = shifted + aff * (COLUMNS if k == 0 and len(bounds) > 1 else 1)
        body = x(index=shifted)
        yield f"guard {name}", Case(guard(body * 2.0, const(-9.0), bounds), {"x": floats(SIZE)})
        yield f"guarded load {name}", Case(guard(body, const(-np.inf), bounds), {"x": floats(SIZE)})
        yield f"clipped {name}", Case(const(1.0), {}, clip=bounds)
    inside = I - 2
    body = x(index=inside) + x(index=inside * 2) + x("u", index=H - 1) + x(index=inside * -1 + 4)
    yield "guard strides", Case(guard(body, const(0.5), ((I, 2, 7), (H, 1, 2))), {"x": floats(9), "u": floats(1)})
    inner = guard(x(index=I - 4), const(1.0), ((I, 4, COLUMNS),))
    outer = guard(inner + x("u", index=H - 1), inner * 0.5, ((H, 1, ROWS),))
    yield "nested guards", Case(outer + x(index=I), {"x": floats(COLUMNS), "u": floats(ROWS - 1)})


CASES = dict([*_primitives(), *_accesses()])


@cache
def compiled():
    codes = {
        (name, *variant): emit(f"k{k}_{v}", case, *variant)
        for k, (name, case) in enumerate(CASES.items())
        for v, variant in enumerate(VARIANTS)
    }
    return codes, compile_kernels("".join(c.text for c in codes.values()), checked=True)


@pytest.mark.parametrize("name", CASES)
def test_value(name):
    case, (codes, library) = CASES[name], compiled()
    expected = case.begin()
    with np.errstate(all="ignore"):
        kernel = FlatLoops("k", (("h", ROWS), ("i", COLUMNS)), (Stage((), (case.store,)),))
        run_kernel(kernel, case.buffers, expected)
    for variant in VARIANTS:
        arrays = case.begin()
        library.launch(codes[name, *variant], arrays)
        got, want = arrays["out"], expected["out"]
        np.testing.assert_allclose(got, want, rtol=case.rtol, err_msg=f"lanes, extents: {variant}")
        if not case.rtol and got.dtype == np.float32:
            number = ~np.isnan(got)
            assert np.array_equal(np.signbit(got[number]), np.signbit(want[number]))


def run(case: Case, lanes: bool, **how) -> np.ndarray:
    code, arrays = emit("k", case, lanes, True, **how), case.begin()
    compile_kernels(code.text, checked=True).launch(code, arrays)
    return arrays["out"]


def test_cast_of_what_no_integer_holds_saturates():
    out = run(Case(cast(x(), "i32"), {"x": np.resize(np.float32([np.nan, 3e9, -3e9, np.inf]), SIZE)}), True)
    assert out[:4].tolist() == [0, 2**31 - 1, -(2**31), 2**31 - 1]


@pytest.mark.parametrize("op", ["idiv", "imod"])
def test_a_divisor_of_zero_counts_as_one(op):
    data = {"x": whole(SIZE), "y": np.zeros(SIZE, np.int32)}
    out = run(Case(binary(op, x("x", "i32"), x("y", "i32")), data), False)
    assert np.array_equal(out, data["x"] if op == "idiv" else data["y"])


def test_temps_are_the_callers_and_nothing_is_touched_where_it_is_not_live():
    case = Case(temp("t") * 2.0 + temp("u"), {"x": floats(SIZE), "v": floats(ROWS)})
    out = run(case, True, live=("h > 0",), temps=[("t", x()), ("u", x("v", index=H))])
    data = case.arrays["x"].reshape(ROWS, COLUMNS) * 2 + case.arrays["v"][:, None]
    assert (out[:COLUMNS] == 77).all() and np.array_equal(out[COLUMNS:], data.reshape(-1)[COLUMNS:])


def text(case: Case, lanes: bool = True) -> str:
    return emit("k", case, lanes, True).text


def test_vectors_where_their_address_is_proven():
    here = text(Case(x() + x("row", index=H), {"x": floats(SIZE), "row": floats(ROWS)}))
    assert len(re.findall(r"\bld4\(", here)) == 1 and len(re.findall(r"\bst4\(", here)) == 1
    odd = text(Case(x(index=FLAT + 1), {"x": floats(SIZE + 1)}, index=H * 21 + I, elements=63))
    assert "ld4" not in odd and "st4" not in odd
    bytes_ = text(Case(x("x", "u8"), {"x": whole(SIZE, low=0, dtype=np.uint8)}))
    assert "ld4b" in bytes_ and "st4b" in bytes_


def test_equal_expressions_are_one_value():
    write = Writer()
    values = Values(write, {"x": Buffer("x", (63,), "f32")}, {"x": "b0"}, {"h": "0", "i": "0"})
    assert values.value(x() * 2.0) == values.value(x() * 2.0)
    assert write.text.count("b0[") == 1


def test_a_guard_is_computed_once_for_all_it_guards():
    bounds = ((I - 1, 0, COLUMNS),)
    both = guard(x(index=FLAT), const(0.0), bounds) * guard(x("y"), const(0.0), bounds)
    assert text(Case(both, {"x": floats(SIZE), "y": floats(SIZE)}), lanes=False).count("const bool") == 1


def test_what_a_guard_does_not_decide_is_read_without_it():
    product = guard(x("u", index=H) * x(index=FLAT - 1), const(0.0), ((I - 1, 0, COLUMNS),))
    here = text(Case(product, {"x": floats(SIZE), "u": floats(ROWS)}), lanes=False)
    assert re.search(r"= b1\[h\];", here) and re.search(r"\? b2\[h \* 20 \+ i - 1\] : 0;", here)


def test_lanes_do_not_fit_one_element():
    with pytest.raises(ValueError, match="into one element of %out"):
        emit("k", Case(x(), {"x": floats(SIZE)}, index=H), True, True)


def test_an_unknown_primitive_is_named():
    with pytest.raises(NotImplementedError, match=r"no exp of \['i32'\]"):
        Values(Writer(), {}, {}, {}).value(unary("exp", const(1, "i32")))


def test_indices_as_text():
    at = {"h": "h", "i": "i", "k": "3"}
    assert affine(H * -7 + I + Aff.of("k") * 2 - 6, at) == "-h * 7 + i"
    assert affine(Aff(-2), at) == "-2"
    assert positions("e", (("h", 3), ("i", 20)), 4) == {"h": "(int)(e / 5u)", "i": "(int)(e % 5u) * 4"}


def test_names_are_given_once():
    write = Writer()
    given = [write.name(hint) for hint in ("b1", "b", "b", "b", "int", "conv 1", "conv_1")]
    assert len(set(given)) == len(given) and "int" not in given and all(n.isidentifier() for n in given)

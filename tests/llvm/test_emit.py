"""The emission helpers: what is folded in Python leaves no code, and what is emitted computes as said."""

import ctypes

import numpy as np
import pytest

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.emit import (
    F32,
    I1,
    I8,
    I32,
    I64,
    PTR,
    add,
    affine,
    const,
    fma,
    function,
    i64,
    if_,
    if_else,
    load_,
    loop,
    loop_carry,
    mul,
    prefix_mask,
    splat,
    stack,
    store_,
    vec,
)
from graphc.schedule.expr import Aff


def made(arguments="xyn"):
    """A function of the given arguments: n is i64, the others are pointers. Returns (function, builder)."""
    module = ir.Module("emit")
    types = [I64 if name == "n" else PTR for name in arguments]
    return function(module, "f", types, list(arguments), linkage="external")


def call(f: ir.Function, b: ir.IRBuilder, *arguments):
    """Ends the function, compiles it and calls it."""
    b.ret_void()
    loaded = jit.load_object([jit.compile_object(f.module, target.host())], ["f"])
    values = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
    types = [ctypes.c_void_p if isinstance(a, np.ndarray) else ctypes.c_int64 for a in arguments]
    ctypes.CFUNCTYPE(None, *types)(loaded.address("f"))(*values)


def instructions(f: ir.Function) -> int:
    return sum(len(block.instructions) for block in f.blocks)


# indices


def test_numbers_fold():
    f, b = made("n")
    (n,) = f.args
    assert add(b, 2, 3) == 5 and mul(b, 2, 3) == 6
    assert add(b, n, 0) is n and add(b, 0, n) is n and mul(b, 1, n) is n and mul(b, n, 0) == 0
    assert affine(b, Aff.of("i") * 3 + Aff.of("j") + 4, {"i": 5, "j": 6}) == 25
    assert affine(b, Aff.of("i"), {"i": n}) is n
    assert instructions(f) == 0


def test_affine_adds_the_constant_last():
    f, b = made("n")
    value = affine(b, Aff.of("i") * 3 + Aff.of("j") * 2 + 4, {"i": f.args[0], "j": 5})
    assert value.op == "add" and value.operands[1].constant == 14


@pytest.mark.parametrize("value", [0.0, -0.0, 1e39, -1.5, 1e-45, float("nan"), [1.0, 2.0, 1e-50, -1e39]])
def test_constants_round_to_float32(value):
    f, b = made("y")
    store_(b, const(vec(F32, 4), value), f.args[0], 0)
    y = np.zeros(4, np.float32)
    call(f, b, y)
    with np.errstate(over="ignore"):
        expected = np.array(value if isinstance(value, list) else [value] * 4).astype(np.float32)
    assert np.array_equal(y, expected, equal_nan=True)
    assert np.array_equal(np.signbit(y), np.signbit(expected))


# loops


def test_a_loop_that_never_runs_leaves_nothing():
    f, b = made("x")
    with loop(b, 3, 3), loop(b, 0, 5) as i:
        store_(b, const(F32, 1), f.args[0], i)
    with if_(b, False):
        store_(b, const(F32, 1), f.args[0], 0)
    assert len(f.blocks) == 1 and instructions(f) == 0


def test_a_loop_of_one_iteration_is_straight_code():
    f, b = made("x")
    with loop(b, 2, 7, 8) as i:
        assert i == 2
        store_(b, const(F32, 1), f.args[0], i)
    assert len(f.blocks) == 1


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(
    ("start", "stop", "step"), [(0, 10, 1), (0, 10, 3), (4, 5, 1), (5, 5, 2), (7, 3, 1), (-3, 4, 2)]
)
def test_loops_visit_what_range_does(start, stop, step, fixed):
    f, b = made("yn")
    y, n = f.args
    end = stop if fixed else n
    zero = const(I64, 0)
    with loop_carry(b, start, end, step, [zero, zero]) as (i, [count, total], result):
        result.yield_([b.add(count, const(I64, 1)), b.add(total, b.mul(const(I64, 2), i64(i)))])
    for k, value in enumerate(result.values):
        store_(b, value, y, k)
    seen = np.zeros(2, np.int64)
    call(f, b, seen, stop)
    assert seen.tolist() == [len(range(start, stop, step)), 2 * sum(range(start, stop, step))]


def test_nested_loops_carry_values():
    f, b = made("yn")
    with loop_carry(b, 0, f.args[1], 1, [const(I64, 1)]) as (_, [outer], result):
        with loop_carry(b, 0, 3, 1, [outer]) as (_, [inner], below):
            below.yield_([b.mul(inner, const(I64, 2))])
        result.yield_(below.values)
    store_(b, result.values[0], f.args[0], 0)
    y = np.zeros(1, np.int64)
    call(f, b, y, 4)
    assert y[0] == 2**12


def test_a_body_that_forgets_its_values_is_told():
    _, b = made("n")
    with pytest.raises(ValueError, match="did not yield"), loop_carry(b, 0, 5, 1, [const(I64, 0)]):
        pass
    with pytest.raises(ValueError, match="carries 1 values"), loop_carry(b, 0, 5, 1, [const(I64, 0)]) as (_, _, result):
        result.yield_([])


def test_branches():
    f, b = made("yn")
    y, n = f.args
    for k, condition in enumerate([b.icmp_signed("<", n, const(I64, 5)), True, False]):
        with if_else(b, condition) as (then, otherwise):
            with then:
                store_(b, const(I32, 1), y, k)
            with otherwise:
                store_(b, const(I32, 2), y, k)
    got = np.zeros(3, np.int32)
    call(f, b, got, 7)
    assert got.tolist() == [2, 1, 2]


# memory


@pytest.mark.parametrize(("element", "dtype"), [(F32, np.float32), (I32, np.int32), (I8, np.uint8)])
def test_masked_loads_give_zero_and_masked_stores_leave_alone(element, dtype):
    f, b = made("xyn")
    x, y, n = f.args
    mask = prefix_mask(b, 8, n)
    got = load_(b, x, element, 8, 1, mask)
    store_(b, got, y, 0)
    store_(b, got, y, 8, mask)
    data, out = np.arange(1, 10).astype(dtype), np.full(16, 99, dtype)
    call(f, b, data, out, 3)
    assert out.tolist() == [2, 3, 4, 0, 0, 0, 0, 0, 2, 3, 4, 99, 99, 99, 99, 99]


@pytest.mark.parametrize("count", [-1, 0, 3, 8, 2**33])
def test_prefix_masks_of_any_count(count):
    for known in (True, False):
        f, b = made("yn")
        mask = prefix_mask(b, 8, count if known else f.args[1])
        store_(b, b.zext(mask, vec(I8, 8)), f.args[0], 0)
        out = np.zeros(8, np.uint8)
        call(f, b, out, count)
        assert out.tolist() == [int(k < count) for k in range(8)]


def test_stack_memory_is_reserved_once_at_the_entry():
    f, b = made("yn")
    with loop(b, 0, f.args[1]) as i:
        room = stack(b, F32, 16)
        store_(b, splat(b, b.sitofp(i, F32), 16), room, 0)
        store_(b, load_(b, room, F32, None, i), f.args[0], i)
    assert [any("alloca" in str(i) for i in block.instructions) for block in f.blocks] == [True, False, False]
    y = np.zeros(5, np.float32)
    call(f, b, y, 5)
    assert y.tolist() == [0, 1, 2, 3, 4]


def test_fma_rounds_once():
    f, b = made("y")
    x = const(F32, 1 + 2**-12)
    store_(b, fma(b, x, x, const(F32, -(1 + 2**-11))), f.args[0], 0)  # the product needs 25 bits
    y = np.zeros(1, np.float32)
    call(f, b, y)
    assert y[0] == 2.0**-24


# targets and machine code


def test_named_targets():
    widths = {name: target.by_name(name).vl for name in ("x86-64-v3", "x86-64-v4", "aarch64")}
    assert widths == {"x86-64-v3": 8, "x86-64-v4": 16, "aarch64": 4}
    assert target.by_name("native") == target.host()
    with pytest.raises(ValueError, match="no target 'z80'"):
        target.by_name("z80")


def test_wide_vectors_stay_whole_on_avx512():
    f, b = made("xy")
    store_(b, fma(b, *[load_(b, f.args[0], F32, 16, 16 * k) for k in range(3)]), f.args[1], 0)
    b.ret_void()
    text = jit.assembly(f.module, target.x86_64_v4())
    assert "%zmm" in text and "%ymm" not in text


def test_invalid_ir_is_refused():
    with pytest.raises(RuntimeError):
        jit.compile_object("define void @f() { ret i32 0 }", target.host())


def test_objects_call_each_other():
    """Several object files load as one program, and the C library is there."""
    caller = "declare i32 @g(i32)\ndefine i32 @f(i32 %x) { %y = call i32 @g(i32 %x) ret i32 %y }"
    callee = "declare i32 @abs(i32)\ndefine i32 @g(i32 %x) { %y = call i32 @abs(i32 %x) ret i32 %y }"
    loaded = jit.load_object([jit.compile_object(t, target.host()) for t in (caller, callee)], ["f"])
    assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(loaded.address("f"))(-7) == 7


def test_masks_are_single_bits():
    assert prefix_mask(made("n")[1], 4, 2).type == vec(I1, 4)

"""Text that LLVM reads: constants, names, and mistakes that are found where they are made."""

import re
from math import inf, nan

import numpy as np
import pytest

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.ir import F32, I1, I8, I32, I64, PTR, VOID, const, vec


def made(types=(), names=(), result=VOID):
    """A function of a new module, and a builder at its entry."""
    f = ir.Function(ir.Module("m"), "f", result, types, names)
    return f, ir.IRBuilder(f.append_basic_block("entry"))


def test_chains_by_turns_use_nothing_before_it_is_there():
    """Three chains: of two instructions, of none, and of two of which the last uses the last of the first chain."""
    f, b = made([I32], ["n"])
    (n,) = f.args
    square = b.mul(n, n)
    done = []

    def chain():
        done.append(b.mul(b.add(square, n), n))
        return done[0]

    assert b.by_turns([chain, lambda: n, lambda: b.sub(b.sub(n, square), done[0])])[:2] == [done[0], n]
    assert [x.split(" = ")[1] for x in f.blocks[0].instructions[1:]] == [
        'add i32 %.1, %"n"',
        'sub i32 %"n", %.1',
        'mul i32 %.2, %"n"',
        "sub i32 %.4, %.3",
    ]


def test_chains_by_turns_stay_in_one_block():
    _, b = made()
    with pytest.raises(ValueError, match="must stay in one block"):
        b.by_turns([lambda: b.position_at_end(b.append_basic_block("other"))])


def test_a_module_is_text_that_llvm_reads():
    f, b = made([PTR, I32], ["p", "n"])
    b.store(b.add(f.args[1], const(I32, 1), flags=("nsw",)), f.args[0], 4)
    b.ret_void()
    assert str(f).splitlines() == [
        'define void @"f"(ptr %"p", i32 %"n") {',
        '"entry":',
        '  %.1 = add nsw i32 %"n", 1',
        '  store i32 %.1, ptr %"p", align 4',
        "  ret void",
        "}",
    ]
    assert "add nsw i32" in jit.optimised(f.module, target.host())


def test_types_are_made_once():
    assert vec(F32, 8) is vec(F32, 8) and vec(F32, 8) is not vec(F32, 4)
    assert (vec(F32, 8).text, vec(PTR, 4).overload, I64.lanes) == ("<8 x float>", "v4p0", None)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, 1e-40, 0.1, 1e300, inf, -inf, nan])
def test_floats_keep_their_bits(value):
    bits = int(const(F32, value).ref, 16)
    with np.errstate(over="ignore"):
        want = np.float32(value)
    assert np.array([bits], np.uint64).view(np.float64)[0].astype(np.float32).tobytes() == want.tobytes()


@pytest.mark.parametrize(
    "constant, text",
    [
        (const(I8, True), "1"),
        (const(PTR, None), "null"),
        (const(vec(I32, 8), -1), "splat (i32 -1)"),
        (const(vec(I1, 2), [1, 0]), "<i1 1, i1 0>"),
    ],
)
def test_constants(constant, text):
    assert constant.ref == text


def test_names_that_are_taken_get_a_number():
    f, b = made([I64], ["i"])
    assert [f.append_basic_block("i").name for _ in range(2)] == ["i.1", "i.2"]
    assert b.phi(I64, "i").ref == '%"i.3"'


def test_room_is_reserved_before_the_entry_ends():
    f, b = made()
    after = b.append_basic_block("after")
    b.branch(after)
    b.position_at_end(after)
    room = b.alloca(ir.array(F32, 4), 16)
    b.ret_void()
    assert b.block is after and f.blocks[0].instructions == [
        f"  {room.ref} = alloca [4 x float], align 16",
        '  br label %"after"',
    ]


MISTAKES = {
    "operands": (lambda f, b: b.add(const(I32, 1), const(I64, 1)), "expected operands of one type, got i32 and i64"),
    "arguments": (lambda f, b: b.call(f, [const(I32, 1)]), "f: expected arguments (ptr), got (i32)"),
    "phi": (lambda f, b: b.phi(I32).add_incoming(const(I64, 1), b.block), "%.1 is of type i32, got i64"),
    "end": (lambda f, b: (b.ret_void(), b.ret_void()), "block entry has ended already"),
    "lanes": (lambda f, b: const(vec(I32, 4), [1, 2]), "a constant <4 x i32> has 4 lanes, got 2 numbers"),
    "name": (lambda f, b: ir.Function(f.module, "f", VOID, []), "module m has a f already"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_where_they_are_made(name):
    make, message = MISTAKES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        make(*made([PTR], ["p"]))

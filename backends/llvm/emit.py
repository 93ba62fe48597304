"""Thin helpers over the builder of instructions: constants, addresses, loads and stores, loops that carry values.

What enters: an `ir.IRBuilder` at some point of a function. What leaves: the builder moved on. Python numbers are folded
here, in Python, so emitted text is short: a loop of constant extent 0 leaves nothing, one of extent 1 no branch.
Everything computes addresses in *elements*, as i64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff

from . import ir

VOID, I1, I8, I16, I32, I64, F32, PTR = ir.VOID, ir.I1, ir.I8, ir.I16, ir.I32, ir.I64, ir.F32, ir.PTR
const, poison, vec = ir.const, ir.poison, ir.vec
MEMORY = {"f32": F32, "i32": I32, "u8": I8, "i1": I8}  # how an element of each dtype lies in memory
SIZE = {F32: 4, I32: 4, I8: 1, I64: 8, I16: 2, PTR: 8}

Number = ir.Value | int  # an index: folded while it is an int


@frozen
class KernelCode:
    """An emitted kernel `void f(ptr..., i64 lo, i64 hi)`: its buffers in argument order, and how many units it has."""

    function: ir.Function
    arguments: tuple[str, ...]
    units: int


# types and constants


def i64(x: Number) -> ir.Value:
    return const(I64, x) if isinstance(x, int) else x


def lanes_of(value: ir.Value) -> int | None:
    """The number of lanes of a vector value, None for a scalar."""
    return value.type.lanes


def element_of(type_: ir.Type) -> ir.Type:
    return type_.element


def like(type_: ir.Type, lanes: int | None) -> ir.Type:
    return type_ if lanes is None else vec(type_, lanes)


def splat(b: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    if isinstance(scalar, ir.Constant):
        return const(vec(scalar.type, lanes), scalar.constant)
    vector = vec(scalar.type, lanes)
    first = b.insert_element(poison(vector), scalar, const(I32, 0))
    return b.shuffle_vector(first, poison(vector), const(vec(I32, lanes), 0))


def iota(type_: ir.Type, lanes: int) -> ir.Constant:
    return const(vec(type_, lanes), list(range(lanes)))


def prefix_mask(b: ir.IRBuilder, lanes: int, count: Number) -> ir.Value:
    """<lanes x i1>: true in the first `count` lanes."""
    if isinstance(count, int):
        return const(vec(I1, lanes), [int(k < count) for k in range(lanes)])
    # bounded by the number of lanes, the count survives the cut to 32 bits
    least = b.select(b.icmp_signed("<", count, const(I64, lanes)), count, const(I64, lanes))
    return b.icmp_signed("<", iota(I32, lanes), splat(b, b.trunc(least, I32), lanes))


# indices


def add(b: ir.IRBuilder, x: Number, y: Number) -> Number:
    if isinstance(x, int) and isinstance(y, int):
        return x + y
    if isinstance(x, int):
        x, y = y, x
    if isinstance(y, int) and y == 0:
        return x
    return b.add(x, i64(y), flags=("nsw",))


def parts(x: Number) -> tuple[ir.Value | None, int]:
    """x = value + number, as `add` put it together; no value where x is known."""
    if isinstance(x, int):
        return None, x
    if isinstance(x, ir.Instruction) and x.op == "add" and isinstance(x.operands[1], ir.Constant):
        value, number = parts(x.operands[0])
        return value, number + x.operands[1].constant
    return x, 0


def mul(b: ir.IRBuilder, x: Number, y: Number) -> Number:
    if isinstance(x, int) and isinstance(y, int):
        return x * y
    if isinstance(x, int):
        x, y = y, x
    if isinstance(y, int) and y in (0, 1):
        return x if y else 0
    return b.mul(x, i64(y), flags=("nsw",))


def affine(b: ir.IRBuilder, aff: Aff, env: Mapping[str, Number]) -> Number:
    """The value of `aff`: an int when all its axes are ints in `env`, else i64. Constants are added last, so that
    they become the displacement of an address."""
    total, constant = 0, aff.const
    for axis, coef in aff.terms:
        value = env[axis]
        if isinstance(value, int):
            constant += coef * value
        else:
            total = add(b, total, mul(b, value, coef))
    return add(b, total, constant)


def divided(b: ir.IRBuilder, x: Number, by: int) -> tuple[Number, Number]:
    """Quotient and remainder."""
    if isinstance(x, int) or by == 1:
        return divmod(x, by) if isinstance(x, int) else (x, 0)
    quotient = b.udiv(x, i64(by))
    return quotient, b.sub(x, mul(b, quotient, by), flags=("nsw",))


def coordinates(b: ir.IRBuilder, flat: Number, extents: Sequence[int]) -> list[Number]:
    """A flat number as coordinates, the last one fastest."""
    out: list[Number] = []
    for extent in extents[:0:-1]:
        flat, rest = divided(b, flat, extent)
        out.append(rest)
    return [*([flat] if extents else []), *out[::-1]]


# memory


def address(b: ir.IRBuilder, pointer: ir.Value, element: ir.Type, offset: Number) -> ir.Value:
    """The address of element number `offset`."""
    if isinstance(offset, int) and offset == 0:
        return pointer
    return b.gep(pointer, i64(offset), element, inbounds=True)


def intrinsic(b: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[ir.Value], suffix: str = "") -> ir.Value:
    """A call of `llvm.{name}{suffix}`, declared on first use. `suffix` is the overload, such as `.v8f32`."""
    full = f"llvm.{name}{suffix}"
    declared = b.module.globals.get(full)
    if declared is None:
        declared = ir.Function(b.module, full, result, [a.type for a in args])
    return b.call(declared, args)


def overload(type_: ir.Type) -> str:
    """How LLVM spells a type inside an intrinsic's name."""
    return f".{type_.overload}"


def load_(
    b: ir.IRBuilder,
    pointer: ir.Value,
    element: ir.Type,
    lanes: int | None,
    offset: Number,
    mask: ir.Value | None = None,
    aligned: int | None = None,
) -> ir.Value:
    """`lanes` elements (None: one, as a scalar) from element `offset` on. Masked lanes are not touched and give zero.
    `aligned` is the known alignment in bytes; without it, that of the element."""
    place, align = address(b, pointer, element, offset), aligned or SIZE[element]
    type_ = like(element, lanes)
    if mask is None:
        return b.load(place, type_, align)
    # this form with an alignment operand is read by every LLVM so far; newer ones rewrite it
    args = [place, const(I32, align), mask, const(type_, 0)]
    return intrinsic(b, "masked.load", type_, args, overload(type_) + ".p0")


def store_(
    b: ir.IRBuilder,
    value: ir.Value,
    pointer: ir.Value,
    offset: Number,
    mask: ir.Value | None = None,
    aligned: int | None = None,
) -> None:
    """A scalar or vector `value` to element `offset` on; masked lanes are left as they are."""
    element = element_of(value.type)
    place, align = address(b, pointer, element, offset), aligned or SIZE[element]
    if mask is None:
        b.store(value, place, align)
    else:
        intrinsic(b, "masked.store", VOID, [value, place, const(I32, align), mask], overload(value.type) + ".p0")


def beyond(b: ir.IRBuilder, pointer: ir.Value, offset: Number) -> ir.Value:
    """The address `offset` bytes after `pointer`, which may lie outside of every object."""
    return b.gep(pointer, i64(offset), I8)


def prefetch(b: ir.IRBuilder, place: ir.Value, written: bool = False, level: int = 2) -> None:
    """Asks for the line of this address to be brought into the cache of this level, or where it will be `written` into
    this core's alone. Nothing is read, nor can it fail."""
    writing, locality, data = (const(I32, n) for n in (int(written), 4 - level, 1))
    intrinsic(b, "prefetch", VOID, [place, writing, locality, data], ".p0")


def stack(b: ir.IRBuilder, element: ir.Type, count: int, align: int = 64) -> ir.Value:
    """Room for `count` elements in the function's frame, reserved once at its entry."""
    return b.alloca(ir.array(element, count), align)


def fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x * y + z with one rounding, on every target."""
    return intrinsic(b, "fma", x.type, [x, y, z], overload(x.type))


def freeze(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same value, where LLVM does not look behind it. Of addresses that a loop starts from: what it knows of their
    arithmetic it would take apart and try to spread over the loop's registers in some other way, which takes half the
    time of compiling a contraction and does not make it faster."""
    return b.freeze(value)


# control


class Carried:
    """The values that a loop carries: `values` are this iteration's inside the loop and the last ones after it."""

    def __init__(self, values: Sequence[ir.Value]):
        self.values: list[ir.Value] = list(values)
        self._next: list[ir.Value] | None = None

    def yield_(self, values: Sequence[ir.Value]) -> None:
        """Hand over the next iteration's values; once, at the end of the body."""
        if self._next is not None or len(values) != len(self.values):
            raise ValueError(f"a loop carries {len(self.values)} values and takes them once, got {len(values)}")
        self._next = list(values)

    def take(self) -> list[ir.Value]:
        if self._next is None and self.values:
            raise ValueError("the loop's body did not yield its values")
        return self._next or []


@contextmanager
def loop_carry(
    b: ir.IRBuilder, start: Number, stop: Number, step: int, values: Sequence[ir.Value], name: str = "i"
) -> Iterator[tuple[Number, list[ir.Value], Carried]]:
    """`for i in range(start, stop, step)` with `values` carried from iteration to iteration.

    with loop_carry(b, 0, n, 1, [zero]) as (i, [acc], result):
        result.yield_([fma(b, x(i), y(i), acc)])
    total = result.values[0]
    """
    carried = Carried(values)
    fixed = isinstance(start, int) and isinstance(stop, int)
    if fixed and start >= stop:
        with _discarded(b):
            yield start, carried.values, carried
        return
    if fixed and start + step >= stop:
        yield start, carried.values, carried
        carried.values = carried.take()
        return
    body, done = b.append_basic_block(name), b.append_basic_block(f"{name}.end")
    before, first = b.block, list(values)
    if fixed:
        b.branch(body)
    else:
        b.cbranch(b.icmp_signed("<", i64(start), i64(stop)), body, done)
    b.position_at_end(body)
    index = b.phi(I64, name)
    phis = [b.phi(v.type) for v in first]
    carried.values = list(phis)
    yield index, carried.values, carried
    last = carried.take()
    following = b.add(index, const(I64, step), flags=("nsw",))
    latch = b.block
    b.cbranch(b.icmp_signed("<", following, i64(stop)), body, done)
    for phi, enter, again in zip([index, *phis], [i64(start), *first], [following, *last], strict=True):
        phi.add_incoming(enter, before)
        phi.add_incoming(again, latch)
    b.position_at_end(done)
    if fixed:
        carried.values = last
        return
    carried.values = []
    for enter, again in zip(first, last, strict=True):
        phi = b.phi(enter.type)
        phi.add_incoming(enter, before)
        phi.add_incoming(again, latch)
        carried.values.append(phi)


@contextmanager
def loop(b: ir.IRBuilder, start: Number, stop: Number, step: int = 1, name: str = "i") -> Iterator[Number]:
    """`for i in range(start, stop, step)`; i is an int where it is known, else i64."""
    with loop_carry(b, start, stop, step, (), name) as (index, _, _):
        yield index


@contextmanager
def if_(b: ir.IRBuilder, condition: ir.Value | bool) -> Iterator[None]:
    """The body under `condition` (i1, or a Python bool that is decided now)."""
    if condition is True:
        yield
    elif condition is False:
        with _discarded(b):
            yield
    else:
        with b.if_then(condition):
            yield


@contextmanager
def if_else(b: ir.IRBuilder, condition: ir.Value | bool) -> Iterator[tuple]:
    """`with if_else(b, c) as (then, otherwise):`, each a context manager, to be entered in this order."""
    if isinstance(condition, bool):
        yield if_(b, condition), if_(b, not condition)
    else:
        with b.if_else(condition) as both:
            yield both


@contextmanager
def _discarded(b: ir.IRBuilder) -> Iterator[None]:
    """What is emitted inside is dropped: the body of a loop that never runs."""
    here, blocks = b.block, list(b.function.blocks)
    b.position_at_end(b.append_basic_block("never"))
    yield
    b.function.blocks[:] = blocks
    b.position_at_end(here)


# functions


def function(
    module: ir.Module,
    name: str,
    arg_types: Sequence[ir.Type],
    arg_names: Sequence[str],
    *,
    result: ir.Type = VOID,
    linkage: str = "internal",
    noalias: Sequence[str] = (),
    readonly: Sequence[str] = (),
    align: Mapping[str, int] | None = None,
) -> tuple[ir.Function, ir.IRBuilder]:
    """A function and a builder at its entry. `noalias` and `readonly` name pointer arguments, `align` gives the known
    alignment of some in bytes."""
    attributes = [
        " ".join(word for word, given in (("noalias", n in noalias), ("readonly", n in readonly)) if given)
        + (f" align {align[n]}" if align and n in align else "")
        for n in arg_names
    ]
    # vectors are explicit; without this an Intel AVX-512 core would cut 512-bit ones in two
    own = '"prefer-vector-width"="512" nounwind'
    made = ir.Function(module, name, result, arg_types, arg_names, attributes, own, linkage)
    return made, ir.IRBuilder(made.append_basic_block("entry"))

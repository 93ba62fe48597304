"""Instructions written into a block, one method each.

What enters: operands, and where to write. What leaves: a line of text at the end of the block, and the value that the
instruction makes. Operands that must be of one type are checked here, where the caller is known; the rest by LLVM.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from .text import I1, PTR, VOID, Block, Constant, Function, Instruction, Module, Phi, Switch, Type, Value, const, vec

T = TypeVar("T")
_NUMBERED = re.compile(r"%\.\d+")
_MADE = re.compile(r"  (%\.\d+) = ")
SIGNS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


def _same(op: str, x: Value, y: Value) -> None:
    if x.type is not y.type:
        raise ValueError(f"{op}: expected operands of one type, got {x.type} and {y.type}")


def _binary(op: str) -> Callable[..., Instruction]:
    def method(self: IRBuilder, x: Value, y: Value, flags: Sequence[str] = ()) -> Instruction:
        _same(op, x, y)
        name = " ".join((op, *flags)) if flags else op
        return self.made(x.type, op, (x, y), f"{name} {x.type.text} {x.ref}, {y.ref}")

    return method


def _cast(op: str) -> Callable[[IRBuilder, Value, Type], Value]:
    def method(self: IRBuilder, x: Value, type_: Type) -> Value:
        if x.type is type_:
            return x
        return self.made(type_, op, (x,), f"{op} {x.type.text} {x.ref} to {type_.text}")

    return method


def _comparison(op: str, prefix: str) -> Callable[[IRBuilder, str, Value, Value], Instruction]:
    signs = {sign: name if op == "icmp" and name in ("eq", "ne") else prefix + name for sign, name in SIGNS.items()}
    signs |= {"ord": "ord", "uno": "uno"}  # of floats: neither is NaN, or one is

    def method(self: IRBuilder, sign: str, x: Value, y: Value) -> Instruction:
        _same(op, x, y)
        type_ = vec(I1, x.type.lanes) if x.type.lanes else I1
        return self.made(type_, op, (x, y), f"{op} {signs[sign]} {x.type.text} {x.ref}, {y.ref}")

    return method


class IRBuilder:
    """Writes at the end of `block`."""

    def __init__(self, block: Block):
        self.block, self.function = block, block.function

    @property
    def module(self) -> Module:
        return self.function.module

    def made(self, type_: Type, op: str, operands: Sequence[Value], text: str) -> Instruction:
        """The value of an instruction, written as `text`."""
        self.function.numbered += 1
        ref = f"%.{self.function.numbered}"
        self.block.instructions.append(f"  {ref} = {text}")
        return Instruction(type_, ref, op, operands)

    def done(self, text: str) -> None:
        """An instruction without a value."""
        self.block.instructions.append(f"  {text}")

    def end(self, last: str | Switch) -> None:
        """What the block ends with."""
        if self.block.terminated:
            raise ValueError(f"block {self.block.name} has ended already")
        self.block.instructions.append(last)
        self.block.terminated = True

    # arithmetic

    add, sub, mul, shl = (_binary(op) for op in ("add", "sub", "mul", "shl"))
    lshr, ashr, udiv, sdiv = (_binary(op) for op in ("lshr", "ashr", "udiv", "sdiv"))
    urem, srem, and_, or_, xor = (_binary(op) for op in ("urem", "srem", "and", "or", "xor"))
    fadd, fsub, fmul, fdiv = (_binary(op) for op in ("fadd", "fsub", "fmul", "fdiv"))
    trunc, zext, sext, bitcast = (_cast(op) for op in ("trunc", "zext", "sext", "bitcast"))
    sitofp, uitofp, ptrtoint, inttoptr = (_cast(op) for op in ("sitofp", "uitofp", "ptrtoint", "inttoptr"))
    icmp_signed, icmp_unsigned = _comparison("icmp", "s"), _comparison("icmp", "u")
    fcmp_ordered, fcmp_unordered = _comparison("fcmp", "o"), _comparison("fcmp", "u")

    def fneg(self, x: Value) -> Instruction:
        return self.made(x.type, "fneg", (x,), f"fneg {x.type.text} {x.ref}")

    def neg(self, x: Value) -> Instruction:
        return self.sub(const(x.type, 0), x)

    def not_(self, x: Value) -> Instruction:
        return self.xor(x, const(x.type, -1))

    def freeze(self, x: Value) -> Instruction:
        return self.made(x.type, "freeze", (x,), f"freeze {x.type.text} {x.ref}")

    def select(self, condition: Value, then: Value, other: Value) -> Instruction:
        _same("select", then, other)
        text = f"{then.type.text} {then.ref}, {then.type.text} {other.ref}"
        text = f"select {condition.type.text} {condition.ref}, {text}"
        return self.made(then.type, "select", (condition, then, other), text)

    # vectors

    def extract_element(self, vector: Value, lane: Value) -> Instruction:
        text = f"extractelement {vector.type.text} {vector.ref}, {lane.type.text} {lane.ref}"
        return self.made(vector.type.element, "extractelement", (vector, lane), text)

    def insert_element(self, vector: Value, x: Value, lane: Value) -> Instruction:
        text = f"{vector.type.text} {vector.ref}, {x.type.text} {x.ref}, {lane.type.text} {lane.ref}"
        return self.made(vector.type, "insertelement", (vector, x, lane), f"insertelement {text}")

    def shuffle_vector(self, x: Value, y: Value, lanes: Constant) -> Instruction:
        _same("shufflevector", x, y)
        text = f"{x.type.text} {x.ref}, {y.type.text} {y.ref}, {lanes.type.text} {lanes.ref}"
        type_ = vec(x.type.element, lanes.type.lanes)
        return self.made(type_, "shufflevector", (x, y, lanes), f"shufflevector {text}")

    # memory

    def gep(self, pointer: Value, index: Value, element: Type, inbounds: bool = False) -> Instruction:
        """The address of element number `index`; of several for a vector of numbers."""
        type_ = vec(PTR, index.type.lanes) if index.type.lanes else PTR
        text = f"{element.text}, ptr {pointer.ref}, {index.type.text} {index.ref}"
        text = f"getelementptr inbounds {text}" if inbounds else f"getelementptr {text}"
        return self.made(type_, "getelementptr", (pointer, index), text)

    def load(self, pointer: Value, type_: Type, align: int) -> Instruction:
        return self.made(type_, "load", (pointer,), f"load {type_.text}, ptr {pointer.ref}, align {align}")

    def store(self, value: Value, pointer: Value, align: int) -> None:
        self.done(f"store {value.type.text} {value.ref}, ptr {pointer.ref}, align {align}")

    def alloca(self, type_: Type, align: int) -> Instruction:
        """Room in the function's frame, reserved at the end of its entry."""
        here, self.block = self.block, self.function.blocks[0]
        lines = self.block.instructions
        made = self.made(PTR, "alloca", (), f"alloca {type_}, align {align}")
        if self.block.terminated:
            lines[-2:] = lines[:-3:-1]
        self.block = here
        return made

    def load_atomic(self, pointer: Value, type_: Type, ordering: str, align: int) -> Instruction:
        text = f"load atomic {type_}, ptr {pointer.ref} {ordering}, align {align}"
        return self.made(type_, "load", (pointer,), text)

    def atomic_rmw(self, op: str, pointer: Value, value: Value, ordering: str) -> Instruction:
        """What was there before."""
        text = f"atomicrmw {op} ptr {pointer.ref}, {value.type} {value.ref} {ordering}"
        return self.made(value.type, "atomicrmw", (pointer, value), text)

    def cmpxchg(self, pointer: Value, old: Value, new: Value, ordering: str) -> Instruction:
        """Whether `old` was there, and is `new` now."""
        both, type_ = (pointer, old, new), Type(f"{{{old.type}, i1}}")
        text = f"cmpxchg ptr {pointer.ref}, {old.type} {old.ref}, {new.type} {new.ref} {ordering} {ordering}"
        got = self.made(type_, "cmpxchg", both, text)
        return self.made(I1, "extractvalue", (got,), f"extractvalue {type_} {got.ref}, 1")

    def fence(self, ordering: str, scope: str) -> None:
        self.done(f'fence syncscope("{scope}") {ordering}')

    # order

    def by_turns(self, chains: Iterable[Callable[[], T]]) -> list[T]:
        """What each function gives, with the instructions that they write, in one block, by turns. A processor sees a
        hundred instructions or so ahead: where each chain is a long polynomial, those of all of them must lie that
        near for one to go on while another waits. A function may use what one before it has made."""
        lines, made, parts = self.block.instructions, [], []
        first = len(lines)
        for chain in chains:
            made.append(chain())
            if self.block.instructions is not lines:
                raise ValueError("chains that go by turns must stay in one block")
            parts.append(deque((line, _MADE.match(line), _NUMBERED.findall(line)) for line in lines[first:]))
            del lines[first:]
        waiting = {result[1] for part in parts for _, result, _ in part if result}
        while any(parts):
            for part in filter(None, parts):
                line, result, names = part[0]
                if waiting.isdisjoint(names[1:] if result else names):
                    lines.append(line)
                    waiting -= {*names[: bool(result)]}
                    part.popleft()
        return made

    # control

    def append_basic_block(self, name: str) -> Block:
        """A new block at the end of the function; the builder stays where it is."""
        return self.function.append_basic_block(name)

    def position_at_end(self, block: Block) -> None:
        self.block = block

    def phi(self, type_: Type, name: str = "") -> Phi:
        self.function.numbered += not name
        made = Phi(type_, f'%"{self.function.unique(name)}"' if name else f"%.{self.function.numbered}")
        self.block.instructions.append(made)
        return made

    def call(self, function: Value, args: Sequence[Value], result: Type | None = None) -> Instruction | None:
        """`result` must be said of what is an address only, and no `Function`. None where nothing comes back."""
        if isinstance(function, Function):
            result, got = function.result, tuple(a.type for a in args)
            if got != function.types:
                expected, got = (", ".join(map(str, types)) for types in (function.types, got))
                raise ValueError(f"{function.name}: expected arguments ({expected}), got ({got})")
        text = f"call {result.text} {function.ref}({', '.join([f'{a.type.text} {a.ref}' for a in args])})"
        if result is VOID:
            return self.done(text)
        return self.made(result, "call", (function, *args), text)

    def branch(self, target: Block) -> None:
        self.end(f"  br label {target.ref}")

    def cbranch(self, condition: Value, then: Block, other: Block) -> None:
        self.end(f"  br i1 {condition.ref}, label {then.ref}, label {other.ref}")

    def switch(self, value: Value, default: Block) -> Switch:
        made = Switch(value, default)
        self.end(made)
        return made

    def ret(self, value: Value) -> None:
        self.end(f"  ret {value.type} {value.ref}")

    def ret_void(self) -> None:
        self.end("  ret void")

    @contextmanager
    def if_then(self, condition: Value) -> Iterator[None]:
        """The body where `condition` holds; then on, unless the body has ended its block."""
        inside, after = (self.append_basic_block(name) for name in ("if", "endif"))
        self.cbranch(condition, inside, after)
        with self._inside(inside, after):
            yield
        self.position_at_end(after)

    @contextmanager
    def if_else(self, condition: Value) -> Iterator[tuple]:
        """`with b.if_else(condition) as (then, otherwise):`, each a context manager, to be entered in this order."""
        inside, other, after = (self.append_basic_block(name) for name in ("if", "else", "endif"))
        self.cbranch(condition, inside, other)
        yield self._inside(inside, after), self._inside(other, after)
        self.position_at_end(after)

    @contextmanager
    def _inside(self, block: Block, after: Block) -> Iterator[None]:
        self.position_at_end(block)
        yield
        if not self.block.terminated:
            self.branch(after)

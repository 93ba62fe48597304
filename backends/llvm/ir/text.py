"""LLVM IR as text: types, constants, values, and the blocks, functions and modules that hold them.

What enters: instructions, from `builder.py`, each of which is a line of text at once. What leaves: `str(module)`, which
LLVM parses. Types and constants are made once, so `is` compares types. Only what the emitters use exists; LLVM's
verifier, which every module meets, checks the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ctypes import c_float
from functools import lru_cache
from math import copysign


class Type:
    """A type: its `text`; how it is spelled inside an intrinsic's name (`overload`); of vectors the element's type and
    the number of `lanes`, which is None of all others."""

    __slots__ = ("element", "lanes", "overload", "text")

    def __init__(self, text: str, overload: str = "", element: Type | None = None, lanes: int | None = None):
        self.text, self.overload, self.element, self.lanes = text, overload or text, element or self, lanes

    def __str__(self) -> str:
        return self.text


VOID, F32, PTR = Type("void"), Type("float", "f32"), Type("ptr", "p0")
I1, I8, I16, I32, I64 = (Type(f"i{bits}") for bits in (1, 8, 16, 32, 64))


@lru_cache(None)
def vec(element: Type, lanes: int) -> Type:
    return Type(f"<{lanes} x {element}>", f"v{lanes}{element.overload}", element, lanes)


@lru_cache(None)
def array(element: Type, count: int) -> Type:
    """So many elements in memory."""
    return Type(f"[{count} x {element}]")


class Value:
    """What an instruction may take: its `type`, and `ref`, its name in the text."""

    __slots__ = ("ref", "type")

    def __init__(self, type_: Type, ref: str):
        self.type, self.ref = type_, ref

    def __repr__(self) -> str:
        return f"<{self.type} {self.ref}>"


# constants


class Constant(Value):
    """`constant` is the number, of a vector with equal lanes that of each lane, or a sequence of numbers."""

    __slots__ = ("constant",)

    def __init__(self, type_: Type, ref: str, constant: float | int | Sequence | None):
        super().__init__(type_, ref)
        self.constant = constant


def const(type_: Type, value: float | int | Sequence | None) -> Constant:
    """A constant; on a vector type one value fills all lanes. Floats round to float32 first (overflow gives inf). None
    is the null pointer."""
    if not isinstance(value, Sequence):
        return _constant(type_, value, isinstance(value, float) and copysign(1, value) < 0)
    if len(value) != type_.lanes:
        raise ValueError(f"a constant {type_} has {type_.lanes} lanes, got {len(value)} numbers")
    lanes = ", ".join(f"{type_.element} {_number(type_.element, v)}" for v in value)
    return Constant(type_, f"<{lanes}>", value)


@lru_cache(1 << 14, typed=True)  # half of what is emitted are constants, most of them seen before
def _constant(type_: Type, value: float | int | None, negative: bool) -> Constant:
    """`negative` tells apart zeros, which are equal otherwise."""
    number = _number(type_.element, value)
    return Constant(type_, f"splat ({type_.element} {number})" if type_.lanes else number, value)


def _number(type_: Type, value: float | int | None) -> str:
    if type_ is F32:  # in hexadecimal digits of the double of the same value
        return f"0x{int.from_bytes(struct.pack('>d', c_float(value).value)):016X}"
    return "null" if value is None else str(int(value))


@lru_cache(None)
def poison(type_: Type) -> Value:
    """A vector of no particular lanes, to insert into."""
    return Value(type_, "poison")


# instructions


class Instruction(Value):
    """The result of an instruction: what it was made by, and of what."""

    __slots__ = ("op", "operands")

    def __init__(self, type_: Type, ref: str, op: str, operands: Sequence[Value]):
        super().__init__(type_, ref)
        self.op, self.operands = op, operands


class Phi(Instruction):
    """A value that depends on which block came before; `add_incoming` says so of each."""

    __slots__ = ()

    def __init__(self, type_: Type, ref: str):
        super().__init__(type_, ref, "phi", [])

    def add_incoming(self, value: Value, block: Block) -> None:
        if value.type is not self.type:
            raise ValueError(f"{self.ref} is of type {self.type}, got {value.type}")
        self.operands.append((value, block))

    def __str__(self) -> str:
        return f"  {self.ref} = phi {self.type} {', '.join(f'[{v.ref}, {b.ref}]' for v, b in self.operands)}"


class Switch:
    """The end of a block that goes on in one of several; `add_case` adds to them."""

    def __init__(self, value: Value, default: Block):
        self.value, self.default, self.cases = value, default, []

    def add_case(self, value: Constant, block: Block) -> None:
        self.cases.append((value, block))

    def __str__(self) -> str:
        cases = " ".join(f"{v.type} {v.ref}, label {b.ref}" for v, b in self.cases)
        return f"  switch {self.value.type} {self.value.ref}, label {self.default.ref} [{cases}]"


class Block:
    """Instructions as lines, or as what prints as one; the last of them ends a block that is `terminated`."""

    __slots__ = ("function", "instructions", "name", "ref", "terminated")

    def __init__(self, function: Function, name: str):
        self.function, self.name, self.ref = function, name, f'%"{name}"'
        self.instructions: list[str | Phi | Switch] = []
        self.terminated = False

    def __str__(self) -> str:
        return "\n".join((f'"{self.name}":', *map(str, self.instructions)))


# functions, memory, modules


class Argument(Value):
    """An argument of a function, with its attributes as text."""

    __slots__ = ("attributes",)

    def __init__(self, type_: Type, name: str, attributes: str):
        super().__init__(type_, f'%"{name}"')
        self.attributes = attributes

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.type), self.attributes, self.ref)))


class Function(Value):
    """A function of `module`, which it joins: declared, until it has blocks. Its arguments' names, and their attributes
    and the function's own as text, belong to functions that will have some. As a value it is an address."""

    def __init__(
        self,
        module: Module,
        name: str,
        result: Type,
        types: Sequence[Type],
        names: Sequence[str] = (),
        arguments: Sequence[str] = (),
        attributes: str = "",
        linkage: str = "",
    ):
        super().__init__(PTR, f'@"{name}"')
        self.module, self.name, self.result, self.types = module, name, result, tuple(types)
        self.attributes, self.linkage = attributes, linkage
        self.blocks: list[Block] = []
        self.numbered = 0  # values without a name so far
        self._names: dict[str, int] = {}  # each with how many came after it
        given = zip(types, names, arguments or [""] * len(names), strict=True) if names else ()
        self.args = tuple(Argument(t, self.unique(n), a) for t, n, a in given)
        module.add(name, self)

    def append_basic_block(self, name: str) -> Block:
        self.blocks.append(Block(self, self.unique(name)))
        return self.blocks[-1]

    def unique(self, name: str) -> str:
        """The name itself, or where it is taken with a number behind it."""
        base = name
        while name in self._names:
            self._names[base] += 1
            name = f"{base}.{self._names[base]}"
        self._names[name] = 0
        return name

    def __str__(self) -> str:
        if not self.blocks:
            return f"declare {self.result} {self.ref}({', '.join(map(str, self.types))})"
        head = " ".join(filter(None, ("define", self.linkage, str(self.result))))
        body = "\n".join(map(str, self.blocks))
        attributes = f" {self.attributes}" * bool(self.attributes)
        return f"{head} {self.ref}({', '.join(map(str, self.args))}){attributes} {{\n{body}\n}}"


class Memory(Value):
    """`size` bytes of a module's own, zero at first, on cache lines of their own."""

    def __init__(self, module: Module, name: str, size: int):
        super().__init__(PTR, f'@"{name}"')
        self.size = size
        module.add(name, self)

    def __str__(self) -> str:
        return f"{self.ref} = internal global {array(I8, self.size)} zeroinitializer, align 64"


class Module:
    """Functions and memory by name, in the order in which they were made; `triple` names the machine."""

    def __init__(self, name: str, triple: str = ""):
        self.name, self.triple = name, triple
        self.globals: dict[str, Function | Memory] = {}

    def add(self, name: str, made: Function | Memory) -> None:
        if name in self.globals:
            raise ValueError(f"module {self.name} has a {name} already")
        self.globals[name] = made

    def __str__(self) -> str:
        head = (f'; ModuleID = "{self.name}"', f'target triple = "{self.triple}"')
        return "\n".join((*head, *map(str, self.globals.values()), ""))

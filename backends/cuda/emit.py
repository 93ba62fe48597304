"""What emitters write: an indenting writer of CUDA C, and an emitted kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from string import Template
from textwrap import dedent

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff
from graphc.schedule.kernels import Axis
from graphc.schedule.layout import Buffer

SCALAR = {"f32": "float", "i32": "int", "u8": "unsigned char", "i1": "bool"}  # an element as a value
MEMORY = {"f32": "float", "i32": "int", "u8": "unsigned char", "i1": "unsigned char"}  # and in memory
# Words of C++ and macros of the prelude, which names must not be.
RESERVED = (
    "auto", "bool", "break", "case", "char", "class", "const", "continue", "default", "delete", "do", "double",
    "else", "enum", "extern", "false", "float", "for", "friend", "goto", "if", "inline", "int", "long", "new",
    "operator", "private", "public", "return", "short", "signed", "sizeof", "static", "struct", "switch", "template",
    "this", "throw", "true", "try", "typedef", "union", "unsigned", "using", "virtual", "void", "volatile", "while",
    "and", "or", "xor", "not", "KERNEL", "SHARED", "SHARED_DYN", "FULL", "INLINE", "INFINITY", "NAN", "HERE", "MATH",
)  # fmt: skip
LIMIT = 1 << 31  # elements of a buffer and points of a kernel: indices are ints


@frozen
class KernelCode:
    """One `KERNEL(...)` function as text. `arguments` are the buffers whose first elements (of the physical array, halo
    included) it takes as pointers, in order; `grid` counts its blocks, `threads` the threads of each (a multiple of
    32), `shared` the bytes of shared memory it does not declare itself."""

    name: str
    text: str
    arguments: tuple[str, ...]
    grid: tuple[int, int, int]
    threads: int
    shared: int = 0


@dataclass
class Writer:
    """Lines of C. `with block("for (...)"):` writes braces around what is written inside."""

    lines: list[str] = field(default_factory=list)
    depth: int = 0
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESERVED, 0))

    def __call__(self, *lines: str) -> None:
        self.lines += ["  " * self.depth + line if line else "" for line in lines]

    def fill(self, template: str, **holes: object) -> None:
        """The template's lines, indented as it is in itself, with `$name` filled in."""
        self(*Template(dedent(template).strip("\n")).substitute(holes).splitlines())

    @contextmanager
    def block(self, head: str = "", tail: str = "") -> Iterator[None]:
        self(f"{head} {{".lstrip())
        self.depth += 1
        yield
        self.depth -= 1
        self(f"}}{tail}")

    def name(self, hint: str) -> str:
        """A C identifier like `hint` that this writer gave to nobody before."""
        name = hint = re.sub(r"\W", "_", hint)
        while name in self.taken:
            self.taken[hint] += 1
            name = f"{hint}{self.taken[hint]}"
        self.taken[name] = 0
        return name

    def let(self, type_: str, text: str, hint: str = "v") -> str:
        """`const TYPE NAME = text;` -> NAME."""
        name = self.name(hint)
        self(f"const {type_} {name} = {text};")
        return name

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def affine(aff: Aff, axes: Mapping[str, str], shift: int = 0) -> str:
    """`aff + shift` as a C expression of `int`; a sum, so to be put in parentheses before it is multiplied. `axes`: the
    C expression of each axis, a name or a number."""
    constant, terms = aff.const + shift, []
    for axis, coef in aff.terms:
        at = axes[axis]
        if at.isdigit():
            constant += coef * int(at)
        else:
            terms.append((coef, at if abs(coef) == 1 else f"{at} * {abs(coef)}"))
    if constant or not terms:
        terms.append((constant, str(abs(constant))))
    sign, first = terms[0]
    text = f"-{first}" if sign < 0 else first
    return text + "".join(f" - {term}" if sign < 0 else f" + {term}" for sign, term in terms[1:])


def positions(index: str, axes: Sequence[Axis], width: int = 1) -> dict[str, str]:
    """Where each axis stands at iteration `index`, an expression of `unsigned`, of the nest over `axes`, the last one
    in steps of `width`: C expressions of `int`."""
    out, inner = {}, 1
    for k, (axis, extent) in reversed(list(enumerate(axes))):
        last = k == len(axes) - 1
        count = -(-extent // width) if last else extent
        text = index if inner == 1 else f"{index} / {inner}u"
        text = text if k == 0 else f"{text} % {count}u"
        text = "0" if k and count == 1 else f"(int){text}" if text == index else f"(int)({text})"
        out[axis] = f"{text} * {width}" if last and width > 1 else text
        inner *= count
    return dict(reversed(out.items()))


def parameters(names: Sequence[str], written: Sequence[str], buffers: Mapping[str, Buffer]) -> tuple[str, dict]:
    """The parameter list of a kernel over the buffers `names`, and the pointer of each."""
    pointers = {name: f"b{k}" for k, name in enumerate(names)}
    kinds = [
        f"{MEMORY[buffers[n].dtype]} *{p}" if n in written else f"const {MEMORY[buffers[n].dtype]} *__restrict__ {p}"
        for n, p in pointers.items()
    ]
    return ", ".join(kinds), pointers

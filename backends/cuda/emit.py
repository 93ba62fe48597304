"""What emitters write: an indenting writer of CUDA C, and an emitted kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
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

    def __call__(self, *lines: str) -> None:
        self.lines += ["  " * self.depth + line if line else "" for line in lines]

    @contextmanager
    def block(self, head: str = "", tail: str = "") -> Iterator[None]:
        self(f"{head} {{".lstrip())
        self.depth += 1
        yield
        self.depth -= 1
        self(f"}}{tail}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

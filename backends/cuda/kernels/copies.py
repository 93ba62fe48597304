"""Asynchronous copies of an operand's tiles from global memory to the stages in shared memory.

What enters: an operand, the size of its tile, and the threads that share the work. What leaves: C text that declares
what each thread copies, and that copies one slice of the sum. Rows beyond the operand's end read its last row instead,
since nobody stores their sums; depths beyond the end of the sum are zeros.
"""

from __future__ import annotations

from graphc.ir.frozen import frozen

from ..emit import Writer
from .form import Operand
from .tiles import Stage

MOST_DIVIDED = 8  # passes in a row whose places are found by division: more at once take registers from the sums


@frozen
class Copies:
    """`operand`, its rows from `first` (a C name) on, into `stage`; `rows` and `depth` are how many exist in all, and
    `pointer` is the C pointer to the batch point's element (0, 0)."""

    operand: Operand
    stage: Stage
    first: str
    rows: int
    depth: int
    pointer: str
    threads: int

    @property
    def width(self) -> int:
        return self.operand.width

    @property
    def _line(self) -> int:
        """Copies that cover one row of the stage."""
        return (self.stage.depth if self.stage.deep else self.stage.rows) // self.width

    @property
    def _count(self) -> int:
        return (self.stage.rows if self.stage.deep else self.stage.depth) * self._line

    @property
    def _step(self) -> int:
        """Rows of the stage that all threads cover in one pass."""
        return self.threads // self._line

    @property
    def _passes(self) -> int:
        return max(1, self._count // self.threads)

    @property
    def _even(self) -> bool:
        """Whether the last digit of the depth is the same straight way through every slice: the rest of the offset then
        depends on the slice alone, not on the thread."""
        return self.operand.depth.digits[-1][0] % self.stage.depth == 0

    def declare(self, write: Writer) -> None:
        """This thread's place in each slice."""
        name, stage = self.stage.name, self.stage
        fast, slow = f"{name}_fast", f"{name}_slow"
        write(f"const int {fast} = thread % {self._line} * {self.width}, {slow} = {self._slow()};")
        stride = self.operand.depth.digits[-1][1] if self._even else 0
        start = f"{self.pointer} + {fast if stage.deep else slow} * {stride}" if stride else self.pointer
        if stage.deep:
            write(f"const float *{name}_from = {start};", f"int {name}_at[{self._passes}];", "#pragma unroll")
            with write.block(f"for (int i = 0; i < {self._passes}; ++i)"):
                self._row(write, "row", f"{slow} + i * {self._step}")
                write(f"{name}_at[i] = {self.operand.rows.offset('row')};")
        else:
            self._row(write, f"{name}_row", fast)
            write(f"const float *{name}_from = {start} + {self.operand.rows.offset(f'{name}_row')};")

    def copy(self, write: Writer) -> None:
        """The slice `tile` into the stage `stage`, as `load(tile, stage)` of the kernel has them."""
        stage, name = self.stage, self.stage.name
        ends = self.depth % stage.depth != 0
        copy, live = (f"copy{4 * self.width}_if", ", live") if ends else (f"copy{4 * self.width}", "")
        with write.block(f"if (thread < {self._count})" if self._count < self.threads else ""):
            write(f"float *to = {name}s + stage * {stage.elements} + {name}_slow * {stage.pitch} + {name}_fast;")
            if stage.deep:
                self._depth(write, f"{name}_fast", ends)
            divided = not stage.deep and not self._even  # places that each pass finds by division
            write("#pragma unroll 4" if divided and self._passes > MOST_DIVIDED else "#pragma unroll")
            with write.block(f"for (int i = 0; i < {self._passes}; ++i)"):
                to = f"to + i * {self._step * stage.pitch}"
                if stage.deep:
                    write(f"{copy}({to}, from + {name}_at[i]{live});")
                else:
                    self._depth(write, f"{name}_slow", ends, f"i * {self._step}")
                    write(f"{copy}({to}, from{live});")

    def _depth(self, write: Writer, start: str, ends: bool, passed: str = "") -> None:
        """`from`: the pointer to depth `start + passed` of the slice; `live`: whether that exists."""
        line, size, name = self.operand.depth, self.stage.depth, self.stage.name
        if self._even:
            more = f" + {passed} * {line.digits[-1][1]}" if passed and line.digits[-1][1] else ""
            write(f"const unsigned k = tile * {size};", f"const float *from = {name}_from + {line.offset('k')}{more};")
            return
        inside = " + ".join(filter(None, (f"tile * {size}", start, passed)))
        if ends:
            write(f"const bool live = {inside} < {self.depth};", f"const unsigned k = live ? {inside} : 0;")
        else:
            write(f"const unsigned k = {inside};")
        write(f"const float *from = {name}_from + {line.offset('k')};")

    def _row(self, write: Writer, name: str, inside: str) -> None:
        """`name`: a row of the tile, counted from the operand's first."""
        at = f"{self.first} + {inside}"
        if self.rows % self.stage.rows:
            last = self.rows - (1 if self.stage.deep else self.width)
            at = f"{at} < {last} ? {at} : {last}"
        write(f"const unsigned {name} = {at};")

    def _slow(self) -> str:
        """Eight lanes of a store of 16 bytes meet in no bank: where a row of the stage is four such stores, half of the
        lanes take a row four further on."""
        at = f"thread / {self._line}"
        if self.stage.deep and self.stage.depth == 16 and self._step % 8 == 0:
            return f"{at} % 2 * 4 + {at} / 2 % 4 + {at} / 8 * 8"
        return at

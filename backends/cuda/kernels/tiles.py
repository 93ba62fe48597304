"""The part of a contraction that one block computes: which thread holds which sums, and how it multiplies.

What enters: two operands staged in shared memory, one slice of the sum at a time. What leaves: C text that adds their
products to the sums in registers, and where each thread's sums lie in the tile. `FmaTile` multiplies in float32, each
thread a rectangle of results; `MmaTile` leaves rectangles of 16 x 8 to the tensor cores, a warp together.

An operand is staged "deep", elements of one row side by side, or else those of one depth. In both cases a lane's
fragment is made of neighbours in memory and lanes meet in no bank; which logical row or depth of an `mma` operand that
is does not matter as long as both operands and the sums agree.
"""

from __future__ import annotations

from graphc.ir.frozen import frozen

from ..emit import Writer

PAD = 4  # floats behind each row of a stage: rows then begin in banks 4 apart (mod 16), as fragments need them
FRAGMENTS = 96  # registers of a thread for sums and operands


@frozen
class Stage:
    """`rows` x `depth` elements of an operand in shared memory, in array `name`s."""

    name: str
    rows: int
    depth: int
    deep: bool

    @property
    def pitch(self) -> int:
        return (self.depth if self.deep else self.rows) + PAD

    @property
    def elements(self) -> int:
        return (self.rows if self.deep else self.depth) * self.pitch

    def at(self, row: str, depth: str) -> str:
        slow, fast = (row, depth) if self.deep else (depth, row)
        return f"({slow}) * {self.pitch} + {fast}"


@frozen
class FmaTile:
    """`warps` down and across, 4 x 8 lanes in each; a thread holds `tm` x `tn` sums."""

    warps: tuple[int, int]
    tm: int
    tn: int
    depth: int = 16
    arithmetic: str = "f32"

    @property
    def threads(self) -> int:
        return 32 * self.warps[0] * self.warps[1]

    @property
    def rows(self) -> int:
        return self.warps[0] * 4 * self.tm

    @property
    def columns(self) -> int:
        return self.warps[1] * 8 * self.tn

    @property
    def sums(self) -> int:
        return self.tm * self.tn

    def declare(self, write: Writer) -> None:
        write(
            f"const int down = warp / {self.warps[1]} * 4 + lane / 8, across = warp % {self.warps[1]} * 8 + lane % 8;",
            f"float acc[{self.tm}][{self.tn}] = {{}};",
        )

    def multiply(self, write: Writer, x: Stage, w: Stage) -> None:
        """One slice of the sum, in steps as long as the vectors that deep operands are read by: as long as registers
        hold beside the sums."""
        deep = self.tm * x.deep + self.tn * w.deep
        step = max(s for s in (1, 2, 4) if s * deep <= (FRAGMENTS - self.sums) // 2) if deep else 1
        operands = (("a", "down", self.warps[0] * 4, self.tm, x), ("b", "across", self.warps[1] * 8, self.tn, w))
        write(f"#pragma unroll {2 if step == 1 else 1}")
        with write.block(f"for (int k = 0; k < {self.depth}; k += {step})"):
            for name, at, lanes, count, stage in operands:
                if stage.deep:
                    write(f"float {name}[{step}][{count}];")
                    _deep_fragment(write, name, stage, at, lanes, count, step)
            write("#pragma unroll")
            with write.block(f"for (int s = 0; s < {step}; ++s)"):
                for name, at, lanes, count, stage in operands:
                    if not stage.deep:
                        write(f"float {name}[{count}];")
                        _row_fragment(write, name, stage, at, lanes, count)
                a, b = "a[s][i]" if x.deep else "a[i]", "b[s][j]" if w.deep else "b[j]"
                write.fill(
                    """
                    #pragma unroll
                    for (int i = 0; i < $tm; ++i)
                      #pragma unroll
                      for (int j = 0; j < $tn; ++j) acc[i][j] = fmaf($a, $b, acc[i][j]);
                    """,
                    tm=self.tm, tn=self.tn, a=a, b=b,
                )  # fmt: skip

    def row_count(self) -> int:
        return self.tm

    def row(self, x: Stage) -> str:
        """The row in the tile of a thread's row `i`."""
        return self._place("down", "i", self.warps[0] * 4, self.tm, x)

    def groups(self, w: Stage) -> tuple[int, int]:
        """How many groups of columns a thread has, and how many neighbours are in one."""
        return (self.tn, 1) if w.deep else (self.tn // 4, 4)

    def column(self, w: Stage) -> str:
        """The column in the tile of the first of a thread's group `q`."""
        lanes = self.warps[1] * 8
        return f"across + q * {lanes}" if w.deep else f"across * 4 + q * {4 * lanes}"

    def sum(self, w: Stage, e: int) -> str:
        """Row `i`, column `e` of group `q`."""
        return "acc[i][q]" if w.deep else f"acc[i][4 * q + {e}]"

    @staticmethod
    def _place(at: str, index: str, lanes: int, count: int, stage: Stage) -> str:
        if stage.deep:
            return f"{at} + {index} * {lanes}"
        near = min(count, 4)
        return f"{at} * {near} + {index} / {near} * {near * lanes} + {index} % {near}"


@frozen
class MmaTile:
    """`warps` down and across; each computes `mt` x `nt` rectangles of 16 x 8. Sums are in float32, products of
    `arithmetic`: "tf32" or "bf16", to which operands are rounded here.

    Lane 4 g + t holds column g of b's rectangles and columns 2 t, 2 t + 1 of the sums'. Where it reads four neighbours
    of w, one for each of four rectangles, `spread` is where they lie among 32: then what four lanes store at once are
    16 neighbours, whole sectors, and lanes g and g + 1 meet in no bank.
    """

    warps: tuple[int, int]
    mt: int
    nt: int
    arithmetic: str
    depth: int

    @property
    def threads(self) -> int:
        return 32 * self.warps[0] * self.warps[1]

    @property
    def rows(self) -> int:
        return self.warps[0] * 16 * self.mt

    @property
    def columns(self) -> int:
        return self.warps[1] * 8 * self.nt

    @property
    def sums(self) -> int:
        return self.mt * self.nt * 4

    def declare(self, write: Writer) -> None:
        across = self.warps[1]
        write(
            f"const int down = warp / {across} * {16 * self.mt}, across = warp % {across} * {8 * self.nt};",
            "const int g = lane / 4, t = lane % 4;",
            "const int spread = g % 2 ? 16 + (g / 2 + 1) % 4 * 4 : g * 2;",
            f"float acc[{self.mt}][{self.nt}][4] = {{}};",
        )

    def multiply(self, write: Writer, x: Stage, w: Stage) -> None:
        """One slice of the sum, 8 (tf32) or 16 (bf16) of its depth at a time. A lane's depths t and t + 4 (pairs of
        them in bf16) are 2 t and 2 t + 1 in memory."""
        halves = 2 if self.arithmetic == "bf16" else 1
        write("#pragma unroll 1")
        with write.block(f"for (int k = 0; k < {self.depth}; k += {8 * halves})"):
            write(f"unsigned a[{self.mt}][4], b[{self.nt}][2];")
            for half in range(halves):
                self._fragment(write, x, 2 * self.mt, "down", half)
                self._fragment(write, w, self.nt, "across", half)
            write(f"mma_{self.arithmetic}<{self.mt}, {self.nt}>(acc, a, b);")

    def _near(self, stage: Stage, count: int) -> int:
        """Rows of an operand that one lane takes side by side, of the `count` in its fragment."""
        return 4 if not stage.deep and count % 4 == 0 else 2

    def _fragment(self, write: Writer, stage: Stage, count: int, at: str, half: int) -> None:
        near, letter = self._near(stage, count), "a" if at == "down" else "b"
        depth = f"k + {8 * half} + 2 * t" if half else "k + 2 * t"
        write("#pragma unroll")
        with write.block(f"for (int r = 0; r < {count}; r += {near})"):
            row = f"{at} + {'spread' if at == 'across' and near == 4 else f'{near} * g'} + r * 8"
            parts = "xyzw"[:near]
            if stage.deep:
                for j in range(near):
                    write(f"const float2 v{j} = ld2(&{stage.name}_now[{stage.at(f'{row} + {j}', depth)}]);")
                pairs = [(f"v{j}.x", f"v{j}.y") for j in range(near)]
            else:
                for e in (0, 1):
                    address = stage.at(row, f"{depth} + {e}" if e else depth)
                    write(f"const float{near} v{e} = ld{near}(&{stage.name}_now[{address}]);")
                pairs = [(f"v0.{c}", f"v1.{c}") for c in parts]
            for j, (even, odd) in enumerate(pairs):
                write(*self._rounded(letter, j, half, even, odd))

    def _rounded(self, letter: str, j: int, half: int, even: str, odd: str) -> tuple[str, ...]:
        """Row r + j of a fragment put in its place: of a, rows 2 i and 2 i + 1 are the halves of rectangle i."""
        row, place = (f"a[(r + {j}) / 2]", "{0} + " + str(j % 2)) if letter == "a" else (f"b[r + {j}]", "{0}")
        by = 2 if letter == "a" else 1
        if self.arithmetic == "bf16":
            return (f"{row}[{place.format(by * half)}] = pack_bf16({even}, {odd});",)
        return tuple(f"{row}[{place.format(by * e)}] = to_tf32({v});" for e, v in enumerate((even, odd)))

    def row_count(self) -> int:
        return 2 * self.mt

    def row(self, x: Stage) -> str:
        near = self._near(x, 2 * self.mt)
        return f"down + {near} * g + i / {near} * {8 * near} + i % {near}"

    def groups(self, w: Stage) -> tuple[int, int]:
        return self.nt // 2, 4

    def column(self, w: Stage) -> str:
        if self._near(w, self.nt) == 4:
            return "across + q / 2 * 32 + (q % 2 ? 16 + (t + 1) % 4 * 4 : t * 4)"
        return "across + 4 * t + q * 16"

    def sum(self, w: Stage, e: int) -> str:
        if self._near(w, self.nt) == 4:
            return f"acc[i / 2][q / 2 * 4 + {e}][i % 2 * 2 + q % 2]"
        return f"acc[i / 2][q * 2 + {e % 2}][i % 2 * 2 + {e // 2}]"


def _deep_fragment(write: Writer, name: str, stage: Stage, at: str, lanes: int, count: int, step: int) -> None:
    write("#pragma unroll")
    with write.block(f"for (int i = 0; i < {count}; ++i)"):
        place = f"{stage.name}_now[{stage.at(f'{at} + i * {lanes}', 'k')}]"
        if step == 1:
            write(f"{name}[0][i] = {place};")
            return
        write(f"const float{step} v = ld{step}(&{place});")
        write(" ".join(f"{name}[{s}][i] = v.{c};" for s, c in enumerate("xyzw"[:step])))


def _row_fragment(write: Writer, name: str, stage: Stage, at: str, lanes: int, count: int) -> None:
    near = min(count, 4)
    write("#pragma unroll")
    with write.block(f"for (int i = 0; i < {count}; i += {near})"):
        write(
            f"const float{near} v = ld{near}(&{stage.name}_now[{stage.at(f'{at} * {near} + i * {lanes}', 'k + s')}]);"
        )
        write(" ".join(f"{name}[i + {e}] = v.{c};" for e, c in enumerate("xyzw"[:near])))


FMA_TILES = (
    FmaTile((4, 2), 8, 8),  # 128 x 128
    FmaTile((4, 1), 8, 8),  # 128 x 64
    FmaTile((2, 2), 8, 8),  # 64 x 128
    FmaTile((2, 2), 8, 4),  # 64 x 64
    FmaTile((4, 1), 4, 4, 32),  # 64 x 32
    FmaTile((2, 2), 4, 4, 32),  # 32 x 64
    FmaTile((4, 1), 2, 4, 32),  # 32 x 32
    FmaTile((2, 2), 2, 4, 32),  # 16 x 64
)


def mma_tiles(arithmetic: str) -> tuple[MmaTile, ...]:
    """Tiles with 64 sums a thread have registers for fragments of two steps of "bf16" in blocks of 128 threads only."""
    large = MmaTile((2, 4), 4, 4, "tf32", 16)  # 128 x 128
    shallow = 16 if arithmetic == "tf32" else 32
    return (
        *((large,) if arithmetic == "tf32" else ()),
        MmaTile((2, 2), 4, 4, arithmetic, shallow),  # 128 x 64
        MmaTile((1, 4), 4, 4, arithmetic, shallow),  # 64 x 128
        MmaTile((2, 2), 2, 4, arithmetic, 32),  # 64 x 64
        MmaTile((2, 2), 2, 2, arithmetic, 32),  # 64 x 32
        MmaTile((2, 2), 1, 4, arithmetic, 32),  # 32 x 64
        MmaTile((2, 2), 1, 2, arithmetic, 32),  # 32 x 32
        MmaTile((1, 4), 1, 2, arithmetic, 32),  # 16 x 64
    )

"""What becomes of a tile's sums: the stores of a contraction, four neighbours along the lanes at a time.

What enters: the sums in registers, as `acc` of the stores' expressions. What leaves: C text that evaluates and stores
them, each for the rows and columns that exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.schedule.kernels import Axis
from graphc.schedule.layout import Buffer

from ..emit import Writer, positions
from ..values import Lanes, Values
from .form import Form
from .plans import Plan

Buffers = Mapping[str, Buffer]


def write_epilogue(write: Writer, form: Form, plan: Plan, buffers: Buffers, pointers: Mapping[str, str]) -> None:
    """All stores of a thread, `m0`, `n0` and `batch` being the block's first row, column and its point of the batch."""
    tile = plan.tile
    count, width = tile.groups(plan.w)
    axes = place(write, "batch", form.axes.batch)
    write("#pragma unroll")
    with write.block(f"for (int i = 0; i < {tile.row_count()}; ++i)"):
        write(f"const int row = m0 + {tile.row(plan.x)};")
        # always: the branch also keeps the loads of one row behind the stores of another, which saves registers
        with write.block(f"if (row < {form.m})"):
            axes |= place(write, "row", form.axes.points)
            write("#pragma unroll")
            with write.block(f"for (int q = 0; q < {count}; ++q)"):
                write(f"const int column = n0 + {tile.column(plan.w)};")
                sums = tuple(tile.sum(plan.w, e) for e in range(width))
                write_columns(write, form, buffers, pointers, axes, sums, form.n % tile.columns != 0)


def place(write: Writer, number: str, axes: Sequence[Axis]) -> dict[str, str]:
    """Where the axes stand that make up a number: names of C."""
    if len(axes) == 1:
        return {axes[0][0]: number}
    return {a: write.let("int", text, f"at_{a}") for a, text in positions(f"unsigned({number})", axes).items()}


def write_columns(
    write: Writer,
    form: Form,
    buffers: Buffers,
    pointers: Mapping[str, str],
    axes: Mapping[str, str],
    sums: tuple[str, ...],
    ends: bool,
) -> None:
    """The stores of `width` columns from `column` on, a sum for each; `ends`: some of them may not exist. They
    are neighbours along the last lanes axis where groups of them never leave it."""
    lanes, width = form.axes.lanes, len(sums)
    sizes = dict((*form.axes.batch, *form.axes.points, *lanes))

    def stores(at: Mapping[str, str], temps, live=(), along: Lanes | None = None) -> None:
        values = Values(write, buffers, pointers, {**axes, **at}, {"acc": temps}, lanes=along, sizes=sizes, live=live)
        values.store(*form.stores)

    if width > 1 and lanes[-1][1] % width == 0:
        with write.block(f"if (column < {form.n})" if ends else ""):
            stores(place(write, "column", lanes), sums, along=Lanes(lanes[-1][0], width))
    elif width > 1 and len(lanes) == 1:
        live = tuple(f"column + {e} < {form.n}" for e in range(width))
        stores({lanes[0][0]: "column"}, sums, live, Lanes(lanes[0][0], width))
    else:
        for e, one in enumerate(sums):
            with write.block(f"if (column + {e} < {form.n})" if ends else ""):
                write(f"const int one = column + {e};")
                stores(place(write, "one", lanes), one)

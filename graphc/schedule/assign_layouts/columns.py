"""Strided convolutions of the caller's image with few output channels, column by column: lanes run along the image's
rows as they lie, each with the weights of its own column.

What enters: a contraction whose results lie further apart than the image's columns. What leaves: loops of sums over
channels and rows of the window, for every column of the image and a few rows of results at once, and loops that add,
for each result, what its columns found. The image is not copied.

A column meets one of `period` places along the window's row, those it lies under when the window has moved by whole
strides; these are its slots. One row of the image times one place of the window, for every place, takes `stride` times
as many products as are wanted; one row times the slots takes hardly more than those.

Letters: C channels, H W of the image, OH OW of the results, KH KW of the window.
"""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import NamedTuple

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff, E, axis, binary, const, guard, load, select, temp
from graphc.schedule.kernels import (
    ACC,
    Access,
    Axis,
    AxisNames,
    Contraction,
    Loops,
    Reduce,
    Schedule,
    Stage,
    Store,
    extents,
)
from graphc.schedule.layout import BLOCK, Buffer
from graphc.schedule.rewriting import map_expressions

from .taps import Parted

MOST = 2  # output channels: three take up to 1.6 times as long as sums along blocks of channels, two 0.8 in the mean
IDLE = 3  # times as many products as are wanted, at most
LEAST_COLUMNS = BLOCK // 2  # of the image: with fewer, most lanes of a row would idle
# Rows of results at once, by slots; one where there are more. Their sums, the weights of the slots and what tells the
# columns apart share 16 registers. Beside up to four sums goes a second vector of each, which one slot gains from.
ROWS = {1: 4, 2: 5, 3: 4, 4: 2, 5: 2}


@frozen
class Columns:
    """Which places of the window's row, a step of `dilation` apart, the columns of an image meet: column w those with
    `w = stride * ow + dilation * kw + first` for some ow."""

    stride: int
    dilation: int
    first: int
    window: int

    @property
    def period(self) -> int:
        """From one place that a column meets to the next."""
        return self.stride // math.gcd(self.stride, self.dilation)

    @property
    def slots(self) -> int:
        return -(-self.window // self.period)

    @property
    def rows(self) -> int:
        return ROWS.get(self.slots, 1)

    def weights(self, slot: int, column: str, weight: list[E]) -> E:
        """The weight that each column meets in its slot; 0 where there is none."""
        rest = binary("imod", axis(Aff.of(column) + -self.first % self.stride), const(self.stride, "i32"))
        met = range(slot * self.period, min((slot + 1) * self.period, self.window))
        whole = len(met) == self.stride
        value = weight[met[-1]] if whole else const(0.0)  # the last: slots with fewer places ask for the same rests
        for k in met[: len(met) - whole]:
            value = select(rest.equal(const(self.dilation * k % self.stride, "i32")), weight[k], value)
        return value


class Rows(NamedTuple):
    """`count` rows of results from `first` on, `times` one behind the other. `beyond`: the bounds of the rows of the
    image, where they read beyond them."""

    first: int
    count: int
    times: int
    beyond: tuple[int, int] | None


@frozen
class Parts:
    """A convolution in two parts: the operands, which columns meet what, the buffer `found` of what they find, and in
    it the first slot of an output."""

    kernel: Contraction
    image: Access
    weights: Access
    columns: Columns
    found: Buffer
    first_slot: Aff

    def sums(self, rows: Rows, name: str) -> Loops:
        """The kernel of some rows of results: a sum for each of them and each slot."""
        kernel, (row, column), fresh = self.kernel, self.image.indices[2:], AxisNames(tuple(extents(self.kernel)))
        (oh, _), (ow, _), (kw, _) = moving(row, kernel.par), moving(column, kernel.par), moving(column, kernel.red)
        w, block = fresh("w"), fresh("rows")
        places = ({kw: Aff(k)} for k in range(self.columns.window))
        weight = [load(self.weights.buffer, tuple(i.substitute(p) for i in self.weights.indices)) for p in places]
        sums, stores = [], []
        for r in range(rows.count):
            at = Aff.of(block) * (rows.count if rows.times > 1 else 0) + rows.first + r
            read = row.substitute({oh: at})
            x = load(self.image.buffer, (*self.image.indices[:2], read, Aff.of(w)))
            bounds = ((read, *rows.beyond),) if rows.beyond else ()
            for slot in range(self.columns.slots):
                acc = temp(f"acc{r}.{slot}")
                product = x * self.columns.weights(slot, w, weight)
                sums.append(Reduce(acc.attr, "sum", guard(product, const(0.0), bounds)))
                here = (self.image.indices[0], self.first_slot + slot, at, Aff.of(w))
                stores.append(Store(self.found.name, here, acc))
        others = tuple((a, n) for a, n in kernel.par if a not in (oh, ow))
        blocks = ((block, rows.times),) if rows.times > 1 else ()
        summed = tuple((a, n) for a, n in kernel.red if a != kw)
        stages = Stage(summed, tuple(sums)), Stage((), tuple(stores))
        return Loops(name, (*others, *blocks, (w, self.found.shape[3])), stages, scope=kernel.scope)

    def total(self) -> Loops:
        """The kernel that adds what the columns under the window found, and stores it."""
        (row, column), terms = self.image.indices[2:], []
        (oh, _), (kw, _) = moving(row, self.kernel.par), moving(column, self.kernel.red)
        for k in range(self.columns.window):
            slot, w = self.first_slot + k // self.columns.period, column.substitute({kw: Aff(k)})
            term = load(self.found.name, (self.image.indices[0], slot, Aff.of(oh) if oh else Aff(), w))
            terms.append(guard(term, const(0.0), ((w, 0, self.found.shape[3]),)))
        total = reduce(add, terms)
        stores = map_expressions(Stage((), self.kernel.stores), lambda e: total if e is ACC else None)
        return Loops(self.kernel.name, self.kernel.par, (stores,), scope=self.kernel.scope)


def column_by_column(kernel: Contraction, schedule: Schedule, names: AxisNames) -> Parted | None:
    """`out[oh, ow] = sum c, kh, kw: image[c, s*oh+kh, s*ow+kw] * weights[c, kh, kw]` as
    `columns[j, oh, w] = sum c, kh: image[c, s*oh+kh, w] * weights[c, kh, the place that w meets in its slot j]`, then
    `out[oh, ow] = sum kw: columns[kw // period, oh, s*ow+kw]`; and the buffer between them. None where it costs more:
    what another kernel makes may as well lie in blocks of channels, and networks then take 0.6 to 1.0 of the time.
    """
    image, weights = (kernel.w, kernel.x) if kernel.along_rows else (kernel.x, kernel.w)
    held, (row, column) = schedule.buffers[image.buffer], image.indices[2:]
    (ow, _), (kw, window) = moving(column, kernel.par), moving(column, kernel.red)
    columns = Columns(column.coef(ow), column.coef(kw), column.const, window)
    outputs = [(a, n) for a, n in kernel.par if any(i.coef(a) for i in weights.indices)]
    steps = math.prod(n for a, n in kernel.red if row.coef(a) or column.coef(a))
    if columns.stride < 2 or columns.slots * columns.stride > IDLE * window or steps == 1:
        return None
    if held.place != "input" or math.prod(n for _, n in outputs) > MOST or held.shape[3] < LEAST_COLUMNS:
        return None
    (_, height), first_slot, count = moving(row, kernel.par), Aff(), columns.slots
    for a, extent in reversed(outputs):
        first_slot, count = first_slot + Aff.of(a) * count, count * extent
    found = Buffer(names(f"{kernel.name}.columns"), (held.shape[0], count, height, held.shape[3]), held.dtype)
    parts = Parts(kernel, image, weights, columns, found, first_slot)
    rows = in_rows(kernel, row, held.shape[2], columns.rows)
    return tuple(parts.sums(r, f"{found.name}.{n}") for n, r in enumerate(rows)), parts.total(), found


def moving(index: Aff, axes: tuple[Axis, ...]) -> Axis:
    """The axis that moves an index, one of these; one of no name and extent 1 where none does."""
    return next(((a, n) for a, n in axes if index.coef(a)), ("", 1))


def in_rows(kernel: Contraction, row: Aff, height: int, most: int) -> list[Rows]:
    """The rows of results, at most so many at once, and as even as can be. Those that reach beyond the image go by
    themselves: which rows of the window do is then known."""
    sizes, found = extents(kernel), []
    oh, extent = moving(row, kernel.par)
    size = -(-extent // -(-extent // most))
    for first in range(0, extent, size):
        count = min(size, extent - first)
        low, high = row.substitute({oh: Aff(first)}).range(sizes)
        beyond = low < 0 or high + (count - 1) * row.coef(oh) >= height
        if found and found[-1].count == count and not (beyond or found[-1].beyond):
            found[-1] = found[-1]._replace(times=found[-1].times + 1)
        else:
            found.append(Rows(first, count, 1, (0, height) if beyond else None))
    return found

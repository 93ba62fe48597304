"""What the schedule has to know of a kind of machine. Everything else about it is the backend's.

Layouts and cuts follow from these numbers and from shapes alone, never from the machine at hand: results have the same
bits on every machine of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphc.ir.frozen import frozen

from .layout import BLOCK, Layout


@frozen
class Traits:
    """`layouts`: by rank, how tensors lie that contractions work on; `block`: how many channels lie side by side there
    before the next position begins, 1 where all of them do. Weights are packed likewise.

    `units` and `lanes`: how many units of work a kernel should have, and how many results side by side make one; a long
    reduction with fewer is cut. `products`: contractions too, if that many units of them keep the machine busy (0:
    they are not cut). `late`: updates of weights or state that touch no more bytes wait for the end, where one launch
    runs many (0: all run as soon as they may). `in_step`: whether chains of kernels can share a thread's cache, as
    `Block`s. `winograd`: whether precision="fast" means minimal filtering. `compact`: from how many bytes on it means
    24 bits for weights that are read once, for one product each (0: never); others stay near and are worked on.
    """

    name: str
    block: int
    layouts: Mapping[int, Layout]
    units: int
    lanes: int
    products: int
    late: int
    in_step: bool
    winograd: bool
    compact: int

    @property
    def exact(self) -> Traits:
        """The same kind of machine for precision="exact"."""
        return replace(self, compact=0)

    @property
    def channels(self) -> Mapping[int, int]:
        """The dimension that lies innermost, by rank."""
        return {rank: layout.order[-1][0] for rank, layout in self.layouts.items()}


# Panels of 16 columns, each with all rows in a row: a product that reads a column of the matrix stays within few pages,
# where rows a power of two apart would meet in few sets of the cache.
# A batch of matrices likewise, all of them inside a panel: a kernel that works on one place of every matrix at once, as
# Winograd's transforms do, stays within few pages.
CPU = Traits(
    "cpu",
    BLOCK,
    {
        2: Layout(((1, "outer"), (0, "whole"), (1, "inner")), BLOCK),
        3: Layout(((2, "outer"), (0, "whole"), (1, "whole"), (2, "inner")), BLOCK),
        4: Layout.blocked(4, BLOCK),
    },
    units=64,  # enough for any number of threads that small kernels are worth
    lanes=16,
    products=0,
    late=0,
    in_step=True,
    winograd=True,
    compact=4 << 20,  # what no second-level cache keeps
)

# Channels last: a row of a matrix for the tensor cores is then a row of memory.
GPU = Traits(
    "gpu",
    1,
    {4: Layout(((0, "whole"), (2, "whole"), (3, "whole"), (1, "whole")))},
    units=512,
    lanes=32,
    products=264,
    late=256 << 10,
    in_step=False,
    winograd=False,
    compact=0,
)

"""Buffers and layouts: how logical coordinates lie in memory. The only file that knows the mapping.

A `Layout` is an ordered list of dimensions, outermost first. A blocked dimension appears twice, as its blocks (`outer`)
and as the lane inside the block (`inner`). A halo is a margin around a dimension that holds zeros, so that consumers
with padding read past the edge without a guard. The invariant that every kernel keeps: halo and the padding lanes of
an incomplete last block are zero when a consumer reads them. Spare elements behind a dimension only move apart what
follows; nobody reads or writes them.

Of dtype "f24" is a matrix of float32 numbers whose panels are stored in 24 bits (`fixed_point.py`). Offsets count its
elements as if it was stored in float32.
"""

from __future__ import annotations

import math
from dataclasses import field, replace
from functools import cached_property

import numpy as np

from graphc.ir.frozen import frozen

from . import fixed_point
from .expr import Aff, E, Extents

ITEMSIZE = {"f32": 4, "i32": 4, "u8": 1, "i1": 1}
NUMPY = {"f32": np.float32, "i32": np.int32, "u8": np.uint8, "i1": np.bool_}
PLACES = ("input", "output", "weight", "state", "const", "arena", "scratch", "thread")
ALIGNMENT = 64  # bytes; every buffer starts on such an address
# channels in a block: one AVX-512 vector, two AVX2, four NEON; the packing is the same for all
BLOCK = fixed_point.LANES


@frozen
class Layout:
    """`order`: (dimension, "whole" | "outer" | "inner") from slowest to fastest; `halo`: (dimension, before, after);
    `spare`: (dimension, elements behind it), of whole dimensions."""

    order: tuple[tuple[int, str], ...]
    block: int = 1
    halo: tuple[tuple[int, int, int], ...] = ()
    spare: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def plain(rank: int) -> Layout:
        """Row-major, as NumPy's C order."""
        return Layout(tuple((d, "whole") for d in range(rank)))

    @staticmethod
    def blocked(rank: int, block: int, dims: tuple[int, ...] = (1,)) -> Layout:
        """`dims` cut into blocks, their lanes innermost in the order given: NCHW16c is `blocked(4, 16)`."""
        outer = tuple((d, "outer" if d in dims else "whole") for d in range(rank))
        return Layout(outer + tuple((d, "inner") for d in dims), block)

    @cached_property
    def blocked_dims(self) -> frozenset[int]:
        return frozenset(d for d, part in self.order if part == "inner")

    @cached_property
    def halos(self) -> dict[int, tuple[int, int]]:
        return {d: (lo, hi) for d, lo, hi in self.halo}

    def with_halo(self, halo: dict[int, tuple[int, int]]) -> Layout:
        return replace(self, halo=tuple((d, lo, hi) for d, (lo, hi) in sorted(halo.items()) if lo or hi))

    def extents(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The physical extent of each entry of `order`."""
        out, spare = [], dict(self.spare)
        for dim, part in self.order:
            lo, hi = self.halos.get(dim, (0, 0))
            size = shape[dim] + lo + hi
            out.append({"whole": size + spare.get(dim, 0), "outer": -(-size // self.block), "inner": self.block}[part])
        return tuple(out)

    def __str__(self) -> str:
        letters = "NCHWDEFG"
        name = lambda d: letters[d] if d < len(letters) else f"d{d}"  # noqa: E731
        parts = [name(d) if part != "inner" else f"{self.block}{name(d).lower()}" for d, part in self.order]
        text = "".join(parts)
        if self.halo:
            text += " halo(" + ",".join(f"{name(d)}:{lo},{hi}" for d, lo, hi in self.halo) + ")"
        if self.spare:
            text += " spare(" + ",".join(f"{name(d)}:{n}" for d, n in self.spare) + ")"
        return text or "scalar"


@frozen
class Buffer:
    """A named place for one tensor: logical `shape`, `dtype`, `layout`, and `place` with the byte `offset` in it.

    Places: `input` and `output` are the caller's arrays (always plain); `weight` is read-only, packed at compile time;
    `state` is what a step changes; `const` holds tables; `arena` is planned working memory; `scratch` belongs to one
    thread within one unit of one kernel, `thread` to one thread within one step of a `Block`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: Layout = field(default=None)  # type: ignore[assignment]  # None means plain
    place: str = "arena"
    offset: int | None = None

    def __post_init__(self):
        if self.layout is None:
            object.__setattr__(self, "layout", Layout.plain(len(self.shape)))
        if self.place not in PLACES:
            raise ValueError(f"buffer {self.name}: no place {self.place!r}")

    @cached_property
    def pshape(self) -> tuple[int, ...]:
        """Physical shape, one entry for each entry of `layout.order`."""
        return self.layout.extents(self.shape)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Element stride of each entry of `layout.order`."""
        out, stride = [], 1
        for extent in reversed(self.pshape):
            out.append(stride)
            stride *= extent
        return tuple(reversed(out))

    @property
    def elements(self) -> int:
        return math.prod(self.pshape)

    @property
    def bytes(self) -> int:
        if self.dtype == "f24":
            return math.prod(self.stored) * self.kind.itemsize
        return self.elements * ITEMSIZE[self.dtype]

    @property
    def kind(self) -> np.dtype:
        """What the array that holds the buffer is made of."""
        return fixed_point.GROUP if self.dtype == "f24" else np.dtype(NUMPY[self.dtype])

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of the array that holds the buffer: `pshape`; of "f24", (panels, groups)."""
        return (self.pshape[0], fixed_point.groups(self.pshape[1])) if self.dtype == "f24" else self.pshape

    @property
    def padded(self) -> bool:
        """Whether a last block is incomplete, so that padding lanes exist."""
        return any(self.shape[d] % self.layout.block for d in self.layout.blocked_dims)

    def linear(self, indices: tuple[Aff | E, ...], extents: Extents) -> tuple[Aff, list[tuple[E, int]]]:
        """Logical indices as an element offset: an affine part, and (expression, stride) pairs for computed indices.

        A blocked dimension takes an affine index that splits as block * q + r with 0 <= r < block for all values of
        the axes; anything else raises ValueError, and the caller splits the axis first.
        """
        if len(indices) != len(self.shape):
            raise ValueError(f"buffer {self.name} has {len(self.shape)} dimensions, got {len(indices)} indices")
        offset, computed = Aff(), []
        for (dim, part), stride in zip(self.layout.order, self.strides, strict=True):
            index = indices[dim]
            before = self.layout.halos.get(dim, (0, 0))[0]
            if isinstance(index, E):
                if part != "whole":
                    raise ValueError(f"buffer {self.name}: computed index in blocked dimension {dim}")
                computed.append((index, stride))
                offset = offset + before * stride
                continue
            index = index + before
            if part != "whole":
                q, r = split(index, self.layout.block, extents, f"buffer {self.name}, dimension {dim}")
                index = q if part == "outer" else r
            offset = offset + index * stride
        return offset, computed

    def pack(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """A logical array as its physical one: halo, padding lanes and spare elements zero. Shape `stored`, C order;
        written to `out` where that is given."""
        if self.dtype == "f24":
            out = np.empty(self.stored, self.kind) if out is None else out
            fixed_point.pack(self._rows(np.asarray(array, np.float32).reshape(self.shape)), out)
            return out
        array = np.asarray(array, NUMPY[self.dtype]).reshape(self.shape)
        block, halos, spare = self.layout.block, self.layout.halos, dict(self.layout.spare)
        pad = []
        for dim, size in enumerate(self.shape):
            lo, hi = halos.get(dim, (0, 0))
            rest = -(size + lo + hi) % block if dim in self.layout.blocked_dims else spare.get(dim, 0)
            pad.append((lo, hi + rest))
        if any(p != (0, 0) for p in pad):
            array = np.pad(array, pad)
        split_shape, position = [], {}
        for dim, size in enumerate(array.shape):
            if dim in self.layout.blocked_dims:
                position[dim, "outer"], position[dim, "inner"] = len(split_shape), len(split_shape) + 1
                split_shape += [size // block, block]
            else:
                position[dim, "whole"] = len(split_shape)
                split_shape.append(size)
        out = np.empty(self.pshape, array.dtype) if out is None else out
        np.copyto(out, array.reshape(split_shape).transpose([position[o] for o in self.layout.order]))
        return out

    def unpack(self, physical: np.ndarray) -> np.ndarray:
        """The logical array inside a physical one: the inverse of `pack`. A fresh C-ordered array."""
        physical = np.asarray(physical).reshape(self.stored)
        if self.dtype == "f24":
            rows, columns = self._rows(np.empty(self.shape)).shape
            return np.array(self._rows(fixed_point.unpack(physical, rows, columns)), order="C")
        axes, shape, crop, spare = [], [], [], dict(self.layout.spare)
        for dim, size in enumerate(self.shape):
            parts = ("outer", "inner") if dim in self.layout.blocked_dims else ("whole",)
            axes += [self.layout.order.index((dim, part)) for part in parts]
            lo, hi = self.layout.halos.get(dim, (0, 0))
            full = size + lo + hi + spare.get(dim, 0)
            shape.append(-(-full // self.layout.block) * self.layout.block if len(parts) == 2 else full)
            crop.append(slice(lo, lo + size))
        return np.array(physical.transpose(axes).reshape(shape)[tuple(crop)], order="C")

    def _rows(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix with the dimension that lies in panels as its columns, and back."""
        return matrix if self.layout.order[0][0] else matrix.T


def split(index: Aff, block: int, extents: Extents, what: str = "index") -> tuple[Aff, Aff]:
    """`index = block * q + r` with 0 <= r < block for all values of the axes."""
    q = Aff(index.const // block, tuple((a, c // block) for a, c in index.terms if c % block == 0))
    r = Aff(index.const % block, tuple((a, c) for a, c in index.terms if c % block))
    lo, hi = r.range(extents)
    if lo < 0 or hi >= block:
        raise ValueError(f"{what}: {index} does not split into blocks of {block}")
    return q, r

"""Tensors with a label for each dimension, as in Einstein's notation: what `reassociate` computes with.

`viewed` writes a view of a product as `x w + ...` over labels, where reshapes, transposes and slices have become
labels and parts of x and w; `contract` is the product of two labelled tensors, as a batch of matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from graphc.ir import Op
from graphc.ir.frozen import frozen
from graphc.ops import Tensor
from graphc.ops.contraction import Linear, MatMul
from graphc.ops.elementwise import Add
from graphc.ops.shape import Reshape, Slice, Transpose

from .matching import made_by

Labels = tuple[int, ...]
Dims = tuple[Labels, ...]  # for each dimension of a tensor the labels it runs over, in C order; none for extent 1


@frozen
class Labelled:
    """A tensor and the label of each dimension, all different. Extents of 1 have no dimension."""

    tensor: Tensor
    labels: Labels

    @property
    def sizes(self) -> dict[int, int]:
        return dict(zip(self.labels, self.tensor.shape, strict=True))

    def arranged(self, labels: Sequence[int]) -> Tensor:
        """The tensor with its dimensions in the order of these labels; those it has not are of extent 1."""
        axes = tuple(self.labels.index(n) for n in labels if n in self.labels)
        t = self.tensor if axes == tuple(range(len(axes))) else self.tensor.apply(Transpose(axes))
        return reshaped(t, [self.sizes.get(n, 1) for n in labels])

    def summed(self, keep: Collection[int]) -> Labelled:
        """The sum over the labels that are not kept."""
        gone = tuple(i for i, n in enumerate(self.labels) if n not in keep)
        return Labelled(self.tensor.sum(gone), tuple(n for n in self.labels if n in keep)) if gone else self

    def split(self, label: int, parts: Mapping[int, int]) -> Labelled:
        """The label as several, given with their extents."""
        if label not in self.labels:
            return self
        i, shape = self.labels.index(label), self.tensor.shape
        t = self.tensor.apply(Reshape((*shape[:i], *parts.values(), *shape[i + 1 :])))
        return Labelled(t, (*self.labels[:i], *parts, *self.labels[i + 1 :]))

    def cut(self, ranges: Mapping[int, range]) -> Labelled:
        """The part of the tensor in which labels are in these ranges."""
        if not any(n in ranges for n in self.labels):
            return self
        parts = [ranges.get(n, range(size)) for n, size in self.sizes.items()]
        t = self.tensor.apply(Slice(*zip(*((r.start, r.stop, r.step) for r in parts), strict=True)))
        return labelled(t, [(n,) if len(r) > 1 else () for n, r in zip(self.labels, parts, strict=True)])


def labelled(t: Tensor, dims: Iterable[Labels], sizes: Mapping[int, int] | None = None) -> Labelled:
    """A tensor whose dimensions run over these labels, of these extents; they are the dimensions' own where each runs
    over one label or, being of extent 1, over none."""
    flat = tuple(n for d in dims for n in d)
    return Labelled(reshaped(t, [sizes[n] for n in flat] if sizes else [n for n in t.shape if n != 1]), flat)


def reshaped(t: Tensor, shape: Sequence[int]) -> Tensor:
    return t if t.shape == tuple(shape) else t.apply(Reshape(tuple(shape)))


def own(shape: Sequence[int], labels: Sequence[int]) -> Dims:
    """A label for each dimension that is not of extent 1."""
    return tuple((n,) if size > 1 else () for size, n in zip(shape, labels, strict=True))


@frozen
class Viewed:
    """A view of what a product gave: the sum over what `dims` has not of x w, and tensors added to it."""

    product: Tensor
    dims: Dims
    x: Labelled
    w: Labelled
    added: tuple[Labelled, ...] = ()

    @property
    def sizes(self) -> dict[int, int]:
        return {**self.x.sizes, **self.w.sizes}

    @property
    def unused(self) -> int:
        """A number from which on labels are free."""
        return 1 + max(self.sizes, default=0)

    def each(self, change: Callable[[Labelled], Labelled]) -> Viewed:
        return replace(self, x=change(self.x), w=change(self.w), added=tuple(map(change, self.added)))


def viewed(t: Tensor) -> Viewed | None:
    """A tensor as a view of a product, where it is one and each of its dimensions runs over labels of its own."""
    if t.node is None:
        return None
    if made_by(t, MatMul, Linear):
        return product(t)
    if made_by(t, Add):
        return with_bias(t)
    if type(t.node.op) not in VIEWS:
        return None
    view = viewed(t.parents[0])
    return view and VIEWS[type(t.node.op)](view, t)


def product(t: Tensor) -> Viewed:
    """A product itself: labels are the numbers of its dimensions, and one more of what is summed."""
    sides = (*runs_along(t), (t.ndim - 1,))[: len(t.parents)]
    x, w, *bias = (labelled(f, own(f.shape, labels)) for f, labels in zip(t.parents, sides, strict=True))
    return Viewed(t, own(t.shape, range(t.ndim)), x, w, tuple(bias))


def runs_along(t: Tensor) -> tuple[Labels, Labels]:
    """Of a product, for each dimension of its two operands the dimension of the result, or `ndim` for the summed."""
    *rows, n = range(t.ndim)
    k, op = t.ndim, t.node.op
    if isinstance(op, Linear):
        return (*rows, k), (n, k)
    *batch, m = rows
    return (*batch, k, m) if op.transpose_a else (*batch, m, k), (*batch, n, k) if op.transpose_b else (*batch, k, n)


def with_bias(t: Tensor) -> Viewed | None:
    """A view and what is added along one of its dimensions."""
    x, b = t.parents if t.parents[1].type.elements < t.parents[0].type.elements else t.parents[::-1]
    view = viewed(x) if x.shape == t.shape and b.type.elements == max(b.shape, default=1) else None
    if view is None:
        return None
    dims = [d if size > 1 else () for size, d in zip(b.shape, view.dims[t.ndim - b.ndim :], strict=True)]
    return replace(view, added=(*view.added, labelled(b, dims, view.sizes)))


def reshaped_view(view: Viewed, t: Tensor) -> Viewed | None:
    """The labels in their order, shared out to the new dimensions; one that falls into several is split."""
    rest, dims = [n for d in view.dims for n in d], []
    for extent in t.shape:
        mine = []
        while extent > 1:
            n = rest.pop(0)
            size = view.sizes[n]
            if size > extent:
                if size % extent:
                    return None
                parts = {view.unused: extent, view.unused + 1: size // extent}
                view = view.each(lambda f, n=n, parts=parts: f.split(n, parts))
                n, inner = parts
                rest.insert(0, inner)
            elif extent % size:
                return None
            mine.append(n)
            extent //= view.sizes[n]
        dims.append(tuple(mine))
    return replace(view, dims=tuple(dims))


def transposed_view(view: Viewed, t: Tensor) -> Viewed:
    return replace(view, dims=tuple(view.dims[a] for a in t.node.op.axes))


def sliced_view(view: Viewed, t: Tensor) -> Viewed | None:
    """Slices of x and w, of dimensions that run over one label."""
    ranges, dims = {}, []
    for labels, size, old, part in zip(view.dims, t.shape, t.parents[0].shape, t.node.op.ranges(), strict=True):
        if size != old and len(labels) != 1:
            return None
        if size != old:
            ranges[labels[0]] = range(*part)
        dims.append(labels if size > 1 else ())
    return replace(view.each(lambda f: f.cut(ranges)), dims=tuple(dims))


VIEWS: Mapping[type[Op], Callable[[Viewed, Tensor], Viewed | None]] = {
    Reshape: reshaped_view,
    Transpose: transposed_view,
    Slice: sliced_view,
}


def contract(a: Labelled, b: Labelled, keep: Collection[int]) -> Labelled:
    """The product of two tensors, summed over the labels of both that are not kept: a batch of matrix products, whose
    batch are the labels of both that are. What only a has comes before what only b has."""
    shared = [n for n in a.labels if n in b.labels]
    batch, summed = [n for n in shared if n in keep], [n for n in shared if n not in keep]
    rows, columns = ([n for n in f.labels if n not in shared] for f in (a, b))
    left, transpose_a = matrices(a, batch, rows, summed)
    right, transpose_b = matrices(b, batch, summed, columns)
    labels, sizes = (*batch, *rows, *columns), {**a.sizes, **b.sizes}
    return labelled(left.apply(MatMul(transpose_a, transpose_b), right), [labels], sizes)


def matrices(f: Labelled, batch: list[int], rows: list[int], columns: list[int]) -> tuple[Tensor, bool]:
    """The tensor as a batch of matrices, and whether they are the transposed ones, which may be how they lie."""
    turned = f.labels == (*batch, *columns, *rows) != (*batch, *rows, *columns)
    first, second = (columns, rows) if turned else (rows, columns)
    shape = [math.prod(f.sizes[n] for n in group) for group in (*((n,) for n in batch), first, second)]
    return reshaped(f.arranged([*batch, *first, *second]), shape), turned

"""Identities of ops that move elements, for `simplify`: rules on the result tensor of a node, `before -> after`."""

from __future__ import annotations

from graphc.ir import Op
from graphc.ops import Tensor, apply
from graphc.ops.contraction import MatMul
from graphc.ops.reduce import Max, Sum
from graphc.ops.shape import Concat, Constant, Expand, Pad, Reshape, Slice, Transpose

from .matching import Rule, made_by, replaced, uniform


def reshape_same(t: Tensor) -> Tensor | None:
    """reshape(x, shape of x) -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def reshape_twice(t: Tensor) -> Tensor | None:
    """reshape(reshape(x)) -> reshape(x)"""
    x = t.parents[0]
    return x.parents[0].apply(Reshape(t.shape)) if made_by(x, Reshape) else None


def reshape_constant(t: Tensor) -> Tensor | None:
    """reshape(constant), expand(constant) -> constant, for one value everywhere"""
    value = uniform(t.parents[0])
    return None if value is None else apply(Constant((value,), t.dtype, t.shape))


def transpose_same(t: Tensor) -> Tensor | None:
    """transpose(x, 0, 1, ...) -> x"""
    axes = t.node.op.axes
    return t.parents[0] if axes == tuple(range(len(axes))) else None


def transpose_twice(t: Tensor) -> Tensor | None:
    """transpose(transpose(x)) -> transpose(x)"""
    x = t.parents[0]
    if not made_by(x, Transpose):
        return None
    return x.parents[0].apply(Transpose(tuple(x.node.op.axes[a] for a in t.node.op.axes)))


def transpose_units(t: Tensor) -> Tensor | None:
    """transpose(x) -> reshape(x) where only extents of 1 change places"""
    x = t.parents[0]
    moved = [a for a in t.node.op.axes if x.shape[a] != 1]
    return x.apply(Reshape(t.shape)) if moved == sorted(moved) else None


def expand_same(t: Tensor) -> Tensor | None:
    """expand(x, shape of x) -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def expand_twice(t: Tensor) -> Tensor | None:
    """expand(expand(x)) -> expand(x)"""
    x = t.parents[0]
    return x.parents[0].apply(Expand(t.shape)) if made_by(x, Expand) else None


def slice_all(t: Tensor) -> Tensor | None:
    """x[:] -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def slice_twice(t: Tensor) -> Tensor | None:
    """x[a:b:s][c:d:r] -> x[a + c*s : ... : s*r]"""
    x = t.parents[0]
    if not made_by(x, Slice) or 0 in t.shape:
        return None
    inner, outer = x.node.op, t.node.op
    start = tuple(a + c * s for a, c, s in zip(inner.start, outer.start, inner.step, strict=True))
    step = tuple(r * s for r, s in zip(outer.step, inner.step, strict=True))
    stop = tuple(a + (n - 1) * s + 1 for a, n, s in zip(start, t.shape, step, strict=True))
    return x.parents[0].apply(Slice(start, stop, step))


def slice_of_concat(t: Tensor) -> Tensor | None:
    """concat(x, y, ...)[where y lies] -> y, and a slice within one operand -> a slice of it"""
    joined, op = t.parents[0], t.node.op
    if not made_by(joined, Concat):
        return None
    axis, offset = joined.node.op.axis, 0
    for x in joined.parents:
        end = offset + x.shape[axis]
        if offset <= op.start[axis] and op.stop[axis] <= end and op.start[axis] < end:
            start = replaced(op.start, axis, op.start[axis] - offset)
            return x.apply(Slice(start, replaced(op.stop, axis, op.stop[axis] - offset), op.step))
        offset = end
    return None


def slice_of_pad(t: Tensor) -> Tensor | None:
    """pad(x)[where x lies] -> x"""
    padded, op = t.parents[0], t.node.op
    if not made_by(padded, Pad) or padded.parents[0].shape != t.shape or 0 in t.shape:
        return None
    put = padded.node.op
    steps = tuple(i + 1 for i in put.interior)
    same_steps = all(s == p or n == 1 for s, p, n in zip(op.step, steps, t.shape, strict=True))
    return padded.parents[0] if op.start == put.before and same_steps else None


def pad_nothing(t: Tensor) -> Tensor | None:
    """pad(x, 0) -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def pad_twice(t: Tensor) -> Tensor | None:
    """pad(pad(x)) -> pad(x) where neither puts zeros in between"""
    x, outer = t.parents[0], t.node.op
    if not made_by(x, Pad) or any(outer.interior + x.node.op.interior):
        return None
    before = tuple(map(sum, zip(outer.before, x.node.op.before, strict=True)))
    after = tuple(map(sum, zip(outer.after, x.node.op.after, strict=True)))
    return x.parents[0].apply(Pad(before, after, outer.interior))


def concat_one(t: Tensor) -> Tensor | None:
    """concat(x) -> x, and operands without elements go"""
    axis = t.node.op.axis
    full = [x for x in t.parents if x.shape[axis]] or t.parents[:1]
    if len(full) == len(t.parents) > 1:
        return None
    return full[0] if len(full) == 1 else apply(t.node.op, *full)


def reduce_units(t: Tensor) -> Tensor | None:
    """sum(x), max(x) over axes of extent 1 -> reshape(x)"""
    x = t.parents[0]
    return x.apply(Reshape(t.shape)) if all(x.shape[a] == 1 for a in t.node.op.axes) else None


def matmul_of_transpose(t: Tensor) -> Tensor | None:
    """matmul(a.T, b) -> matmul(a, b, transpose_a), likewise for b; the last two axes only"""
    (a, b), op = t.parents, t.node.op
    left, right = swaps_last(a), swaps_last(b)
    if not (left or right):
        return None
    a, b = (a.parents[0] if left else a), (b.parents[0] if right else b)
    return a.apply(MatMul(op.transpose_a != left, op.transpose_b != right), b)


def swaps_last(t: Tensor) -> bool:
    rank = t.ndim
    return made_by(t, Transpose) and t.node.op.axes == (*range(rank - 2), rank - 1, rank - 2)


SHAPES: dict[type[Op], tuple[Rule, ...]] = {
    Reshape: (reshape_same, reshape_twice, reshape_constant),
    Transpose: (transpose_same, transpose_twice, transpose_units),
    Expand: (expand_same, expand_twice, reshape_constant),
    Slice: (slice_all, slice_twice, slice_of_concat, slice_of_pad),
    Pad: (pad_nothing, pad_twice),
    Concat: (concat_one,),
    Sum: (reduce_units,),
    Max: (reduce_units,),
    MatMul: (matmul_of_transpose,),
}

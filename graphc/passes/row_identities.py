"""Identities of tensors that are matrices with their rows under several dimensions, such as the tokens of the images of
a batch, for `simplify`: what works on single elements or rows works on the matrix, and the rows are split afterwards.

Linear layers take and give matrices. So what stands between two of them has its operands as they lie, and can become a
part of their kernels.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.ops import Tensor, apply
from graphc.ops.shape import Reshape

from .matching import made_by


def rows_of_elementwise(t: Tensor) -> Tensor | None:
    """f(reshape(x), y) -> reshape(f(x, reshape(y))), where the reshape splits the rows of a matrix x"""
    if not any(splits_rows(p) and p.shape[:-1] == t.shape[:-1] for p in t.parents):
        return None
    rows = math.prod(t.shape[:-1])
    flat = []
    for p in t.parents:
        if p.ndim == t.ndim and p.shape[:-1] == t.shape[:-1]:
            flat.append(p.apply(Reshape((rows, p.shape[-1]))))
        elif math.prod(p.shape[:-1]) == 1:
            flat.append(p.apply(Reshape(p.shape[-1:])))
        else:
            return None
    return apply(t.node.op, *flat).apply(Reshape(t.shape))


def rows_of_reduction(t: Tensor) -> Tensor | None:
    """sum(reshape(x), last axis) -> reshape(sum(x, 1)), sum(reshape(x), all other axes) -> sum(x, 0), where the reshape
    splits the rows of a matrix x; likewise max"""
    (x,), op = t.parents, t.node.op
    along, across = op.axes == (x.ndim - 1,), op.axes == tuple(range(x.ndim - 1))
    if not (splits_rows(x) and (along or across)):
        return None
    flat = x.apply(Reshape((math.prod(x.shape[:-1]), x.shape[-1])))
    return flat.apply(replace(op, axes=(1,) if along else (0,))).apply(Reshape(t.shape))


def splits_rows(t: Tensor) -> bool:
    """Whether t is a matrix, or one number a row of it, with its rows under several dimensions."""
    if not made_by(t, Reshape) or sum(n > 1 for n in t.shape[:-1]) < 2:
        return False
    rows, source = math.prod(t.shape[:-1]), t.parents[0].shape
    return source == (rows, t.shape[-1]) or (t.shape[-1] == 1 and source == (rows,))

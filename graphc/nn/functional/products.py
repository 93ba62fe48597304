"""Matrix products, and attention."""

from __future__ import annotations

import math

import numpy as np

from graphc.ops import Tensor, apply, constant
from graphc.ops.contraction import Linear, MatMul

from .arguments import mistake, tensor
from .norms import dropout, softmax


def matmul(x, y) -> Tensor:
    """Matrix product with NumPy's rules for vectors and batches."""
    return tensor(x) @ tensor(y)


def linear(x, weight, bias=None) -> Tensor:
    """x[..., I] @ weight[O, I].T + bias[O]"""
    return apply(Linear(), tensor(x), weight, *(() if bias is None else (bias,)))


def attention_weights(query, key, attn_mask=None, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """softmax(query key^T * scale) [..., L, S] for query [..., L, E] and key [..., S, E]; the scale is 1 / sqrt(E)
    unless given. A mask is added, or of i1 tells what counts; `is_causal` lets row l see the first l + 1 only."""
    q, k = tensor(query), tensor(key)
    if q.ndim < 2 or q.ndim != k.ndim or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise mistake(f"query {q.type} and key {k.type} do not fit", "attention")
    scores = q.apply(MatMul(False, True), k) * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = constant(np.tri(*scores.shape[-2:], dtype=bool)).select(scores, -math.inf)
    if attn_mask is not None:
        mask = tensor(attn_mask)
        scores = mask.select(scores, -math.inf) if mask.dtype == "i1" else scores + mask
    return softmax(scores, -1)


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """attention_weights(query, key) @ value: [..., L, V] for value [..., S, V] (Vaswani et al., 2017)."""
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    return dropout(weights, dropout_p) @ tensor(value)

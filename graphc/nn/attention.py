"""Multi-head attention with PyTorch's names, arguments and parameter names (Vaswani et al., 2017)."""

from __future__ import annotations

from graphc.ir import GraphcError
from graphc.ops import Tensor

from . import functional as F
from . import init
from .functional.arguments import count, mistake, tensor
from .functional.products import attention_weights
from .layers import Linear
from .module import Module
from .parameter import Parameter


class MultiheadAttention(Module):
    """softmax(q k^T / sqrt(E / heads)) v for each head, between linear layers.

    query is [L, N, E], key and value [S, N, E]; with `batch_first` [N, L, E] and [N, S, E]. Gives the result in the
    query's shape, and the weights [N, L, S], the mean over heads, or None without `need_weights`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, batch_first: bool = False
    ):
        super().__init__()
        self.embed_dim, self.num_heads = embed_dim, count(num_heads, "MultiheadAttention: num_heads")
        if embed_dim % num_heads:
            raise GraphcError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        self.dropout, self.batch_first, self.head_dim = dropout, batch_first, embed_dim // num_heads
        self.in_proj_weight = Parameter((3 * embed_dim, embed_dim), init.xavier_uniform())
        self.in_proj_bias = Parameter((3 * embed_dim,), init.zeros()) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias.reset(init.zeros())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        operands = [tensor(t) for t in (query, key, value)]
        if any(t.ndim != 3 or t.shape[-1] != self.embed_dim for t in operands):
            got = ", ".join(str(t.type) for t in operands)
            raise mistake(f"expects sequences of {self.embed_dim} features, got {got}", "MultiheadAttention")
        q, k, v = (self.heads(t, i) for i, t in enumerate(operands))
        weights = attention_weights(q, k, attn_mask, is_causal)
        n, _, length, _ = q.shape
        out = F.dropout(weights, self.dropout) @ v
        out = out.transpose(1, 2).reshape(n, length, self.embed_dim)
        out = self.out_proj(out if self.batch_first else out.transpose(0, 1))
        return out, weights.mean(1) if need_weights else None

    def heads(self, x: Tensor, part: int) -> Tensor:
        """The query (part 0), key (1) or value (2) of x for every head: [N, heads, L, E / heads]."""
        rows = slice(part * self.embed_dim, (part + 1) * self.embed_dim)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        x = F.linear(x, self.in_proj_weight[rows], bias)
        x = x.reshape(*x.shape[:2], self.num_heads, self.head_dim)
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

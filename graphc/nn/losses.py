"""Losses as modules: `loss(scores, target)` is a scalar tensor, `loss.target(type of scores)` the target it needs."""

from __future__ import annotations

from graphc.ir import TensorType
from graphc.ops import Tensor

from . import functional as F
from .functional.losses import cross_entropy_target
from .module import Module


class CrossEntropyLoss(Module):
    """`functional.cross_entropy`: scores f32 [N, C], class labels i32 [N]."""

    def __init__(self, reduction: str = "mean", label_smoothing: float = 0.0):
        super().__init__()
        self.reduction, self.label_smoothing = reduction, label_smoothing

    def target(self, scores: TensorType) -> TensorType:
        return cross_entropy_target(scores)

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(scores, target, self.reduction, self.label_smoothing)


class MSELoss(Module):
    """`functional.mse_loss`: scores and target of one shape, f32."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def target(self, scores: TensorType) -> TensorType:
        return scores

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(scores, target, self.reduction)

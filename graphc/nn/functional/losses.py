"""Losses of scores and targets."""

from __future__ import annotations

from graphc.ir import GraphcError, TensorType
from graphc.ops import Tensor
from graphc.ops.norm import CrossEntropy

from .arguments import mistake, tensor
from .norms import log_softmax

REDUCTIONS = {"mean": lambda t: t.mean(), "sum": lambda t: t.sum(), "none": lambda t: t}


def reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise GraphcError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return REDUCTIONS[reduction](losses)


def cross_entropy_target(scores: TensorType) -> TensorType:
    """The labels that scores [N, C] need: i32[N]."""
    if len(scores.shape) != 2:
        raise mistake(f"cross entropy needs scores of shape NxC, got {scores}", "cross_entropy")
    return TensorType("i32", scores.shape[:1])


def cross_entropy(scores, labels, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """-log_softmax(scores)[label] for scores [N, C] and labels i32 [N]. `label_smoothing` e takes the mean over all
    classes with weight e and the label's with 1 - e (Szegedy et al., 2016)."""
    scores, labels = tensor(scores), tensor(labels)
    expect_target("cross_entropy", cross_entropy_target(scores.type), labels.type, scores.type)
    if not 0.0 <= label_smoothing <= 1.0:
        raise GraphcError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    losses = scores.apply(CrossEntropy(), labels)
    if label_smoothing:
        even = -log_softmax(scores, 1).mean(1)
        losses = losses * (1.0 - label_smoothing) + even * label_smoothing
    return reduced(losses, reduction)


def mse_loss(scores, target, reduction: str = "mean") -> Tensor:
    """(scores - target)**2 for two tensors of one shape."""
    scores, target = tensor(scores), tensor(target)
    expect_target("mse_loss", scores.type, target.type, scores.type)
    difference = scores - target
    return reduced(difference * difference, reduction)


def expect_target(loss: str, wanted: TensorType, got: TensorType, scores: TensorType) -> None:
    """A target of another shape would broadcast, and train something else."""
    if wanted != got:
        raise mistake(
            f"scores {scores} need a target {wanted}, got {got}\n  give one label (or value) for each score", loss
        )

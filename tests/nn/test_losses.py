"""Losses against PyTorch's, and the targets they ask for."""

import numpy as np
import pytest
from evaluate import evaluate, sample

from graphc import nn
from graphc.ir import GraphcError, TensorType
from graphc.ops import input

LABELS = np.array([2, 0, 1, 3, 3])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torchs(reduction, smoothing):
    torch = pytest.importorskip("torch")
    scores = sample(5, 4) * 10
    theirs = torch.nn.CrossEntropyLoss(reduction=reduction, label_smoothing=smoothing)
    ours = evaluate(nn.CrossEntropyLoss(reduction, smoothing), scores, LABELS)
    # float64 but for the constants 1/5, 1/4 and the smoothing, which are rounded to float32
    np.testing.assert_allclose(ours, theirs(torch.tensor(scores), torch.tensor(LABELS)), rtol=5e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_squares_equal_torchs(reduction):
    torch = pytest.importorskip("torch")
    a, b = sample(3, 4), sample(3, 4, seed=1)
    theirs = torch.nn.MSELoss(reduction=reduction)(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(evaluate(nn.MSELoss(reduction), a, b), theirs, rtol=5e-7)


def test_huge_scores_stay_finite():
    loss = evaluate(nn.CrossEntropyLoss("none"), np.array([[1e4, 0.0], [1e4, 0.0]]), np.array([0, 1]))
    np.testing.assert_allclose(loss, [0.0, 1e4])


def test_targets():
    assert nn.CrossEntropyLoss().target(TensorType("f32", (5, 4))) == TensorType("i32", (5,))
    assert nn.MSELoss().target(TensorType("f32", (5, 4))) == TensorType("f32", (5, 4))


@pytest.mark.parametrize(
    "loss, target, wanted",
    [
        (nn.CrossEntropyLoss(), ((6,), "i32"), "i32[5]"),
        (nn.CrossEntropyLoss(), ((5, 1), "i32"), "i32[5]"),
        (nn.CrossEntropyLoss(), ((), "i32"), "i32[5]"),
        (nn.CrossEntropyLoss(), ((5,), "f32"), "i32[5]"),
        (nn.MSELoss(), ((5, 1), "f32"), "f32[5,4]"),
        (nn.MSELoss(), ((4,), "f32"), "f32[5,4]"),
        (nn.MSELoss(), ((), "f32"), "f32[5,4]"),
    ],
)
def test_a_target_that_would_broadcast_is_an_error(loss, target, wanted):
    target = input(target[0], "labels", target[1])
    with pytest.raises(GraphcError) as caught:
        loss(input((5, 4), "scores"), target)
    assert f"scores f32[5,4] need a target {wanted}, got {target.type}" in str(caught.value)
    assert "test_losses.py" in str(caught.value)


def test_scores_of_another_rank_and_bad_options_are_refused():
    with pytest.raises(GraphcError, match="NxC"):
        nn.CrossEntropyLoss().target(TensorType("f32", (5, 4, 3)))
    with pytest.raises(GraphcError, match="label_smoothing must lie in"):
        evaluate(nn.CrossEntropyLoss(label_smoothing=2.0), sample(5, 4), LABELS)

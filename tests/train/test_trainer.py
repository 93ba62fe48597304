"""The training loop against a softmax regression in NumPy, whose every number is known."""

import io

import numpy as np
import pytest
from rich.console import Console

from graphc.files import WriteError
from graphc.ir import GraphcError
from graphc.train.checkpoints import load_weights
from graphc.train.data import Dataset
from graphc.train.progress import Bar, Silence, display
from graphc.train.trainer import TrainingError, train

from .softmax import Softmax


def data(n: int = 50) -> Dataset:
    """Points in two well separated groups."""
    rng = np.random.Generator(np.random.Philox(1))
    labels = (np.arange(n) % 2).astype(np.int32)
    images = (rng.normal(size=(n, 1, 2, 2)) * 0.3 + (2 * labels - 1)[:, None, None, None]).astype(np.float32)
    return Dataset("groups", images, labels)


def test_learns_and_reports():
    history = train(Softmax(4, 2), data(), data(20), epochs=3, batch=8)
    assert [e.number for e in history.epochs] == [1, 2, 3]
    assert [e.samples for e in history.epochs] == [50] * 3
    assert history.last.test_accuracy == 1 and history.last.accuracy == 1
    assert history.last.loss < history.epochs[0].loss
    assert history.last.images_per_second > 0


def test_every_sample_is_learned_once_an_epoch_with_a_partial_batch():
    model = Softmax(4, 2)
    train(model, data(50), epochs=2, batch=16)
    assert [len(labels) for _, labels in model.calls] == [16, 16, 16, 2] * 2
    seen = np.concatenate([images for images, _ in model.calls[:4]])
    assert np.array_equal(np.sort(seen.ravel()), np.sort(data(50).images.ravel()))


def test_loss_and_accuracy_are_means_over_samples():
    model = Softmax(4, 2)
    history = train(model, data(10), epochs=1, batch=8)
    again, losses, right = Softmax(4, 2), 0.0, 0
    for images, labels in model.calls:
        loss, scores = again.step(images, labels)
        losses, right = losses + loss * len(labels), right + (scores.argmax(1) == labels).sum()
    assert history.last.loss == pytest.approx(losses / 10) and history.last.accuracy == right / 10


def test_same_seed_same_bits():
    def run(seed):
        model = Softmax(4, 2)
        train(model, data(), epochs=2, batch=8, seed=seed)
        return model.w

    assert np.array_equal(run(1), run(1)) and not np.array_equal(run(1), run(2))


def test_checkpoint_is_what_was_learned(tmp_path):
    model = Softmax(4, 2)
    history = train(model, data(), epochs=1, batch=8, checkpoint=tmp_path / "w.safetensors")
    assert history.checkpoint == str(tmp_path / "w.safetensors")
    assert np.array_equal(load_weights(history.checkpoint)["w"], model.w)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_unwritable_checkpoint_is_known_before_training(tmp_path):
    model = Softmax(4, 2)
    with pytest.raises(WriteError, match="cannot be written"):
        train(model, data(), epochs=1, batch=8, checkpoint=tmp_path / "none" / "w.safetensors")
    assert not model.calls


class Spoiled(Softmax):
    """Its fourth step blows the weights up, so the fifth loss is not finite, and spoils them more."""

    def step(self, images, labels):
        result = super().step(images, labels)
        if np.array_equal(images, self.spoiler):
            self.w = self.w * np.float32(1e38) * np.float32(1e38)
        return result


def test_loss_not_finite_is_told_with_the_weights_that_made_it():
    plain = Softmax(4, 2)
    train(plain, data(), epochs=2, batch=8)
    model = Spoiled(4, 2)
    model.spoiler = plain.calls[7 + 3][0]
    with pytest.raises(TrainingError) as caught, np.errstate(all="ignore"):
        train(model, data(), epochs=2, batch=8)
    lines = str(caught.value).splitlines()
    assert lines[0] == "epoch 2, batch 5: the loss is nan" and "the first that is not: w" in lines[1]
    # Run again from the start of the epoch: seven steps, five with the bad one, four to come back to it.
    assert len(model.calls) == 7 + 5 + 4
    assert np.array_equal(model.calls[-1][0], model.spoiler)


@pytest.mark.parametrize(("epochs", "batch", "message"), [(0, 8, "epochs"), (1, 0, "batch"), (1, 51, "50 samples")])
def test_bad_requests(epochs, batch, message):
    with pytest.raises(GraphcError, match=message):
        train(Softmax(4, 2), data(), epochs=epochs, batch=batch)


def test_quiet_when_not_a_terminal():
    assert isinstance(display(3, 10, io.StringIO()), Silence)


def test_bar_shows_epoch_loss_accuracy_and_speed():
    text = io.StringIO()
    bar = Bar(2, 50, Console(file=text, force_terminal=True, width=120))
    train(Softmax(4, 2), data(), data(20), epochs=2, batch=8, show=bar)
    shown = text.getvalue()
    assert "epoch 1/2  loss" in shown and "epoch 2/2  loss" in shown
    assert "test 100.0 %" in shown and "images/s" in shown

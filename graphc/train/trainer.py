"""The training loop: programs and labelled data enter; trained weights, a checkpoint file and the history leave.

All computing is done by compiled programs: `Programs` says what the loop needs of them, and `fit.py` has them made by
the driver. What happens in an epoch depends on the seed and the epoch's number alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Protocol

import numpy as np

from graphc.files import check_writable
from graphc.ir import GraphcError

from .checkpoints import save_weights
from .data import Dataset
from .history import Epoch, History
from .progress import Display, display


class TrainingError(GraphcError):
    """Training went wrong at work, not in the request."""

    exit_status = 1


class Programs(Protocol):
    """The compiled programs of one training run. All of them see the same weights."""

    def prepare(self, batch: int) -> None:
        """Batches of this size will come."""

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        """One step on a batch of any size: the loss and the scores, both from before the update."""

    def scores(self, images: np.ndarray) -> np.ndarray:
        """The network's outputs in inference, with the weights as they stand."""

    def weights(self) -> Mapping[str, np.ndarray]:
        """The weights by name."""

    def save(self) -> object:
        """A copy of all that a step changes: weights, statistics, optimizer state, random key."""

    def restore(self, saved: object) -> None:
        """Back to what `save` returned."""

    def first_not_finite(self, images: np.ndarray, labels: np.ndarray) -> str:
        """Which layer is the first whose output is not finite on this batch, with the weights as they stand."""


def train(
    programs: Programs,
    data: Dataset,
    validation: Dataset | None = None,
    *,
    epochs: int = 10,
    batch: int = 64,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    show: Display | None = None,
    notify: Callable[[Epoch], None] | None = None,
) -> History:
    """Trains for `epochs` passes over `data` in shuffled batches of `batch` samples; the last of a pass may be smaller.

    After each epoch the share of right answers on `validation` is taken, `checkpoint` is written as a whole, and
    `notify` is called. Raises TrainingError where a loss is not finite, naming the first layer that is to blame.
    """
    check_request(data, epochs, batch)
    if checkpoint is not None:
        check_writable(checkpoint)
    done = []
    with show or display(epochs, len(data)) as shown:
        for size in {batch, len(data) % batch or batch}:
            programs.prepare(size)
        for number in range(1, epochs + 1):
            epoch = run_epoch(programs, data, number, batch, seed, shown)
            if validation is not None:
                epoch = validated(epoch, programs, validation, batch)
            if checkpoint is not None:
                save_weights(checkpoint, programs.weights())
            shown.epoch(epoch)
            if notify:
                notify(epoch)
            done.append(epoch)
    return History(tuple(done), None if checkpoint is None else os.fspath(checkpoint))


def check_request(data: Dataset, epochs: int, batch: int) -> None:
    for name, value in (("epochs", epochs), ("batch", batch)):
        if value < 1:
            raise GraphcError(f"{name}: expected at least 1, got {value}")
    if batch > len(data):
        raise GraphcError(f"batch: {data.name} holds {len(data)} samples, got a batch of {batch}\n  take a smaller one")


def run_epoch(programs: Programs, data: Dataset, number: int, batch: int, seed: int, shown: Display) -> Epoch:
    """One pass over the data."""
    start = programs.save()
    losses = right = samples = 0
    seconds = 0.0
    for images, labels in data.shuffled(batch, seed, number):
        before = perf_counter()
        loss, scores = programs.step(images, labels)
        seconds += perf_counter() - before
        if not math.isfinite(loss):
            raise not_finite(programs, start, data, number, batch, seed, samples, loss)
        losses += loss * len(images)
        right += hits(scores, labels)
        samples += len(images)
        accuracy = right / samples if are_classes(labels) else None
        epoch = Epoch(number, losses / samples, accuracy, None, samples, seconds)
        shown.batch(epoch, len(images))
    return epoch


def not_finite(
    programs: Programs, start: object, data: Dataset, number: int, batch: int, seed: int, samples: int, loss: float
) -> TrainingError:
    """The error for a loss that is not finite.

    The step has spoiled the weights by now. Steps give the same bits every time, so the epoch is run again from its
    start up to the batch before, which brings back the weights that made the loss.
    """
    programs.restore(start)
    batches = data.shuffled(batch, seed, number)
    for _ in range(samples // batch):
        programs.step(*next(batches))
    layer = programs.first_not_finite(*next(batches))
    return TrainingError(
        f"epoch {number}, batch {samples // batch + 1}: the loss is {loss}\n"
        f"  expected a finite number; the first that is not: {layer}\n"
        f"  try a smaller learning rate, or look at the data and the initial weights"
    )


def validated(epoch: Epoch, programs: Programs, data: Dataset, batch: int) -> Epoch:
    """The epoch with the share of right answers on other data."""
    share = accuracy(programs, data, batch)
    return Epoch(epoch.number, epoch.loss, epoch.accuracy, share, epoch.samples, epoch.seconds)


def accuracy(programs: Programs, data: Dataset, batch: int) -> float | None:
    """The share of samples whose best score is their label; None where labels are no classes."""
    if not are_classes(data.labels):
        return None
    return sum(hits(programs.scores(images), labels) for images, labels in data.batches(batch)) / len(data)


def hits(scores: np.ndarray, labels: np.ndarray) -> int:
    """How many rows of scores (N, classes) are greatest at their label."""
    return int((scores.argmax(axis=1) == labels).sum()) if are_classes(labels) else 0


def are_classes(labels: np.ndarray) -> bool:
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)

"""What a training run was like: the figures of each epoch."""

from __future__ import annotations

from graphc.ir.frozen import frozen


@frozen
class Epoch:
    """One pass over the training data.

    number         counted from 1
    loss           mean over the samples, each taken when its batch was learned
    accuracy       share of samples whose best score is their label, likewise; None where labels are no classes
    test_accuracy  share of the validation samples after the epoch; None without validation
    samples        learned in it
    seconds        spent in its training steps, validation not counted
    """

    number: int
    loss: float
    accuracy: float | None
    test_accuracy: float | None
    samples: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds > 0 else 0.0


@frozen
class History:
    """A whole run. `checkpoint` is the weight file written after each epoch, or None."""

    epochs: tuple[Epoch, ...]
    checkpoint: str | None = None

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]

"""What training shows while it runs: one line an epoch and a bar on standard error, or nothing where nobody watches."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .history import Epoch


class Display(Protocol):
    """A view on training. Entered before the first epoch, left after the last or on an error."""

    def __enter__(self) -> Display: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def batch(self, epoch: Epoch, samples: int) -> None:
        """`samples` more are learned; `epoch` says how the epoch stands so far."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is over."""


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, kind, error, trace) -> None:
        pass

    def batch(self, epoch: Epoch, samples: int) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        pass


class Bar:
    """A progress bar (epoch, loss, accuracy, images/s, time left), and a lasting line for each finished epoch."""

    def __init__(self, epochs: int, samples: int, console: Console | None = None):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console or Console(file=sys.stderr),
            transient=True,
        )
        self._epochs = epochs
        self._task = self._progress.add_task("compiling", total=epochs * samples, figures="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._progress.stop()

    def batch(self, epoch: Epoch, samples: int) -> None:
        title = f"epoch {epoch.number}/{self._epochs}"
        self._progress.update(self._task, advance=samples, description=title, figures=figures(epoch))

    def epoch(self, epoch: Epoch) -> None:
        self._progress.console.print(describe(epoch, self._epochs), highlight=False)


def figures(epoch: Epoch) -> str:
    """The state of an epoch in a few words: `loss 0.0123  training 99.8 %  test 98.9 %  1,234 images/s`."""
    shares = (("training", epoch.accuracy), ("test", epoch.test_accuracy))
    parts = [f"loss {epoch.loss:.4f}", *(f"{name} {100 * share:.1f} %" for name, share in shares if share is not None)]
    return "  ".join([*parts, f"{epoch.images_per_second:,.0f} images/s"])


def describe(epoch: Epoch, epochs: int) -> str:
    """A finished epoch as a line."""
    return f"epoch {epoch.number:>{len(str(epochs))}}/{epochs}  {figures(epoch)}"


def display(epochs: int, samples: int, stream=None) -> Display:
    """A bar where `stream` (standard error) is a terminal, else silence."""
    stream = stream or sys.stderr
    return Bar(epochs, samples, Console(file=stream)) if stream.isatty() else Silence()

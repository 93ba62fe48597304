"""The model zoo: networks by name, each with the input shape it is meant for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from graphc.ir import GraphcError
from graphc.nn import Module

from .lenet5 import LeNet5, lenet5
from .mlp import MLP, mlp


@dataclass(frozen=True)
class Entry:
    """`make(classes=, in_channels=)` constructs the network; `input` is its default input shape, batch included."""

    make: Callable[..., Module]
    input: tuple[int, ...]


ZOO: dict[str, Entry] = {
    "mlp": Entry(mlp, (1, 1, 28, 28)),
    "lenet5": Entry(lenet5, (1, 1, 28, 28)),
}


def get(name: str) -> Entry:
    """The zoo's entry, or an error that names the near ones."""
    if name not in ZOO:
        near = difflib.get_close_matches(name.lower(), ZOO, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "is it a file? then write file.py:Class"
        raise GraphcError(f"no model is called {name!r}\n  there are: {', '.join(ZOO)}\n  {hint}")
    return ZOO[name]


__all__ = ["MLP", "ZOO", "Entry", "LeNet5", "get", "lenet5", "mlp"]

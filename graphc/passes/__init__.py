"""Passes: each takes a graph and gives a graph, the same object where nothing changed. One file a pass."""

from .build_backward import build_backward, grad
from .build_update import StateMaker, build_update

__all__ = ["StateMaker", "build_backward", "build_update", "grad"]

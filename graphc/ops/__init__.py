"""Every op, by family, and the symbolic tensor that user code computes with. Importing this registers all ops."""

from . import contraction, elementwise, norm, phases, powers, random, reduce, shape, window, winograd
from .graphs import graph_of, interpret, lift
from .tensor import Tensor, apply, concat, constant, input, leaf, sum_to

__all__ = [
    "Tensor",
    "apply",
    "concat",
    "constant",
    "contraction",
    "elementwise",
    "graph_of",
    "input",
    "interpret",
    "leaf",
    "lift",
    "norm",
    "phases",
    "powers",
    "random",
    "reduce",
    "shape",
    "sum_to",
    "window",
    "winograd",
]

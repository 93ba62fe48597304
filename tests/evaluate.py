"""Runs modules and functions of the DSL by the reference semantics: traced, verified, evaluated in float64."""

from __future__ import annotations

import numpy as np

from graphc import nn
from graphc.backends import reference
from graphc.ir import NUMPY, Graph, verify
from graphc.ops import input

DTYPES = {np.dtype(v): k for k, v in NUMPY.items()} | {np.dtype(np.float64): "f32", np.dtype(np.int64): "i32"}


def graph_of_call(target, *arrays, name: str = "net") -> Graph:
    """The verified graph of `target` called on inputs shaped like the arrays."""
    arrays = [np.asarray(a) for a in arrays]
    inputs = [input(a.shape, f"x{i}", DTYPES[a.dtype]) for i, a in enumerate(arrays)]
    return verify(nn.trace(target, inputs).graph(name))


def evaluate(target, *arrays) -> np.ndarray:
    """The first output of `target(*arrays)`, float64."""
    return run(target, *arrays)[0][0]


def run(target, *arrays) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    """All outputs, and what the call updates by name."""
    return reference.run(graph_of_call(target, *arrays), [np.asarray(a) for a in arrays])


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers that are exact in float32, as float64."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(np.float64)

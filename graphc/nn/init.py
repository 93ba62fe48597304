"""Initial values of parameters. An initialisation is a small frozen description; numbers are drawn when a parameter is
first read.

Numbers come from NumPy's Philox keyed by the seed and the parameter's name, so they do not depend on the order in which
parameters are made or read. Fans are PyTorch's: for weights [O, I, *window], fan_in = I * window, fan_out = O * window.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np

from graphc.ir import GraphcError
from graphc.ir.frozen import frozen

_state = {"seed": 0}


def seed(value: int) -> None:
    """Parameters and random keys made from now on derive from this seed (0 at the start)."""
    if not 0 <= int(value) < 1 << 64:
        raise GraphcError(f"seed must lie in 0 .. 2**64 - 1, got {value}")
    _state["seed"] = int(value)


def current_seed() -> int:
    return _state["seed"]


def generator(seed: int, name: str) -> np.random.Generator:
    """The generator of the parameter `name` under a seed."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


# Standard deviations grow by these factors to make up for what the activation takes away (PyTorch's table).
GAINS: dict[str, Callable[[float], float]] = {
    "linear": lambda _: 1.0,
    "conv2d": lambda _: 1.0,
    "sigmoid": lambda _: 1.0,
    "tanh": lambda _: 5.0 / 3.0,
    "relu": lambda _: math.sqrt(2.0),
    "leaky_relu": lambda slope: math.sqrt(2.0 / (1.0 + slope**2)),
    "selu": lambda _: 0.75,
}


def gain(nonlinearity: str, a: float = 0.01) -> float:
    """The gain of an activation; `a` is the negative slope of leaky_relu."""
    if nonlinearity not in GAINS:
        raise GraphcError(f"no gain is known for {nonlinearity!r}\n  known: {', '.join(GAINS)}")
    return GAINS[nonlinearity](a)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight with at least two dimensions."""
    if len(shape) < 2:
        raise GraphcError(f"fan in and fan out need a weight of two or more dimensions, got shape {shape}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


class Init:
    """`draw(shape, rng)` gives the values, f32."""

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError


@frozen
class constant(Init):
    """Every element is `value`."""

    value: float

    def draw(self, shape, rng):
        return np.full(shape, self.value, np.float32)


def zeros() -> Init:
    return constant(0.0)


def ones() -> Init:
    return constant(1.0)


def _scaled(values: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """`values * scale + shift` in their own memory: weights may be large."""
    values *= np.float32(scale)
    values += np.float32(shift)
    return values


@frozen
class uniform(Init):
    """Uniform over [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def draw(self, shape, rng):
        return _scaled(rng.random(shape, np.float32), self.high - self.low, self.low)


@frozen
class normal(Init):
    """Normal with mean `mean` and standard deviation `std`."""

    mean: float = 0.0
    std: float = 1.0

    def draw(self, shape, rng):
        return _scaled(rng.standard_normal(shape, np.float32), self.std, self.mean)


@frozen
class trunc_normal(Init):
    """Normal with mean `mean` and standard deviation `std`, drawn again where it falls outside [a, b]."""

    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0

    def __post_init__(self):
        # beyond two standard deviations less than 3 % of the draws would fall inside
        if not self.a < self.b or self.mean < self.a - 2 * self.std or self.mean > self.b + 2 * self.std:
            raise GraphcError(f"trunc_normal: few of normal({self.mean}, {self.std}) lie in [{self.a}, {self.b}]")

    def draw(self, shape, rng):
        values = normal(self.mean, self.std).draw(shape, rng)
        while (outside := (values < self.a) | (values > self.b)).any():
            values[outside] = normal(self.mean, self.std).draw(int(outside.sum()), rng)
        return values


@frozen
class xavier_uniform(Init):
    """Uniform over +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""

    gain: float = 1.0

    def draw(self, shape, rng):
        bound = self.gain * math.sqrt(6.0 / sum(fans(shape)))
        return uniform(-bound, bound).draw(shape, rng)


@frozen
class xavier_normal(Init):
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""

    gain: float = 1.0

    def draw(self, shape, rng):
        return normal(0.0, self.gain * math.sqrt(2.0 / sum(fans(shape)))).draw(shape, rng)


@frozen
class Kaiming(Init):
    """Standard deviation gain / sqrt(fan) (He et al., 2015). `a`: negative slope of leaky_relu; `mode`: whether the
    fan is fan_in, which keeps the variance of the forward pass, or fan_out, which keeps that of the backward pass."""

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self):
        if self.mode not in ("fan_in", "fan_out"):
            raise GraphcError(f"mode must be 'fan_in' or 'fan_out', got {self.mode!r}")
        gain(self.nonlinearity, self.a)

    def std(self, shape: tuple[int, ...]) -> float:
        fan = fans(shape)[self.mode == "fan_out"]
        return gain(self.nonlinearity, self.a) / math.sqrt(fan)


@frozen
class kaiming_uniform(Kaiming):
    """`Kaiming`, uniform over +-sqrt(3) * std."""

    def draw(self, shape, rng):
        bound = math.sqrt(3.0) * self.std(shape)
        return uniform(-bound, bound).draw(shape, rng)


@frozen
class kaiming_normal(Kaiming):
    """`Kaiming`, normal."""

    def draw(self, shape, rng):
        return normal(0.0, self.std(shape)).draw(shape, rng)


# The names of the same two schemes by their other author.
glorot_uniform, glorot_normal = xavier_uniform, xavier_normal
he_uniform, he_normal = kaiming_uniform, kaiming_normal

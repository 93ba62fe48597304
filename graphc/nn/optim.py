"""Optimizers as descriptions. Applying one is graph construction: from a weight and its gradient to the next weight.

What an optimizer remembers are state leaves: moments of each weight, and scalars that all weights share, such as the
learning rate, which can so change between steps without compiling again. Formulas are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from graphc.ir import GraphcError
from graphc.ir.frozen import frozen
from graphc.ops import Tensor


class StateMaker(Protocol):
    """What `Optimizer.update` makes state with; `graphc.passes.build_update` brings it."""

    def __call__(self, suffix: str, shape: Sequence[int] = (), init: float = 0.0, dtype: str = "f32") -> Tensor:
        """State of this weight, as it is before the step."""

    def set(self, suffix: str, new: Tensor) -> None:
        """Its value after the step."""

    def shared(self, name: str, shape: Sequence[int] = (), init: float = 0.0, dtype: str = "f32") -> Tensor:
        """State that all weights share, as it is before the step."""

    def set_shared(self, name: str, new: Tensor) -> None:
        """Its value after the step; equal for every weight that sets it."""


def check(optimizer: object, **rules: tuple[object, bool, str]) -> None:
    """One error that lists every argument out of its range; each rule is (value, whether it holds, what is allowed)."""
    bad = [f"{name} must be {allowed}, got {value!r}" for name, (value, holds, allowed) in rules.items() if not holds]
    if bad:
        raise GraphcError("\n  ".join([f"{type(optimizer).__name__}:", *bad]))


def not_negative(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(value >= 0)


class Optimizer:
    """`lr` is the learning rate to start with."""

    lr: float

    def update(self, name: str, weight: Tensor, grad: Tensor, state: StateMaker) -> Tensor:
        """The next value of the weight `name`."""
        raise NotImplementedError


@frozen
class SGD(Optimizer):
    """Stochastic gradient descent. g = grad + weight_decay * w; with momentum v = momentum * v + (1 - dampening) * g
    (v = g in the first step), then w - lr * v, or with nesterov w - lr * (g + momentum * v)."""

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self):
        check(
            self,
            lr=(self.lr, not_negative(self.lr), ">= 0"),
            momentum=(self.momentum, not_negative(self.momentum), ">= 0"),
            weight_decay=(self.weight_decay, not_negative(self.weight_decay), ">= 0"),
            nesterov=(
                self.nesterov,
                not self.nesterov or (self.momentum > 0 and self.dampening == 0),
                "used with a momentum and without dampening",
            ),
        )

    def update(self, name, weight, grad, state):
        lr = state.shared("lr", init=self.lr)
        if self.weight_decay:
            grad = grad + weight * self.weight_decay
        if not self.momentum:
            return weight - grad * lr
        fresh = grad
        if self.dampening:
            # 0 before the first step, which is not dampened, and 1 ever after
            started = state.shared("started")
            state.set_shared("started", started.maximum(1.0))
            fresh = grad * (1.0 - started * self.dampening)
        velocity = state("momentum", weight.shape) * self.momentum + fresh
        state.set("momentum", velocity)
        return weight - (grad + velocity * self.momentum if self.nesterov else velocity) * lr


@frozen
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015): m and v are moving averages of g = grad + weight_decay * w and of g**2;
    w - lr * (m / c1) / (sqrt(v / c2) + eps) with the corrections c = 1 - beta**step.

    A correction is a state of its own, c <- beta * c + (1 - beta), which is the same number without the cancellation
    that 1 - beta**step suffers in f32 during the first steps.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self):
        check(
            self,
            lr=(self.lr, not_negative(self.lr), ">= 0"),
            betas=(self.betas, len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            eps=(self.eps, not_negative(self.eps), ">= 0"),
            weight_decay=(self.weight_decay, not_negative(self.weight_decay), ">= 0"),
        )

    def decayed(self, weight: Tensor, grad: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and gradient with the weight decay in the gradient."""
        return weight, grad + weight * self.weight_decay if self.weight_decay else grad

    def update(self, name, weight, grad, state):
        lr = state.shared("lr", init=self.lr)
        beta1, beta2 = self.betas
        correction1 = state.shared("correction1") * beta1 + (1.0 - beta1)
        correction2 = state.shared("correction2") * beta2 + (1.0 - beta2)
        state.set_shared("correction1", correction1)
        state.set_shared("correction2", correction2)
        weight, grad = self.decayed(weight, grad, lr)
        mean = state("mean", weight.shape) * beta1 + grad * (1.0 - beta1)
        square = state("square", weight.shape) * beta2 + grad * grad * (1.0 - beta2)
        state.set("mean", mean)
        state.set("square", square)
        # the formula with the last fraction times sqrt(c2): one division an element
        scale = correction2.sqrt()
        return weight - mean * (lr * scale / correction1) / (square.sqrt() + self.eps * scale)


@frozen
class AdamW(Adam):
    """Adam with decoupled weight decay, w * (1 - lr * weight_decay) (Loshchilov and Hutter, 2019)."""

    weight_decay: float = 1e-2

    def decayed(self, weight, grad, lr):
        return weight * (1.0 - lr * self.weight_decay), grad

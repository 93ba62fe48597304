"""Powers, and logarithm and exponential near 1 and 0: elementwise ops whose digits or gradients would be lost if they
were composed of others."""

from __future__ import annotations

import numpy as np

from graphc.ir.frozen import frozen

from .elementwise import Float


@frozen
class Power(Float):
    """x**exponent for a number, as exp(exponent * log(x)); NaN below 0. The gradient is exponent * x**(exponent - 1)
    everywhere, also at 0 and infinity."""

    name = "power"
    primitives = 3
    exponent: float = 1.5

    def expr(self, x):
        return (x.log() * self.exponent).exp()

    def reference(self, x):
        return (np.exp(np.log(x) * self.exponent),)

    def vjp(self, x, y, dy):
        return (dy[0] * (x[0] ** (self.exponent - 1.0) * self.exponent),)


@frozen
class PowerOf(Float):
    """a**b as exp(b * log(a)); NaN below 0, 1 where b is 0. Gradients are PyTorch's: that of a is 0 where b is 0, that
    of b is 0 where a is 0 and b is not negative."""

    name = "power_of"
    primitives = 5

    def expr(self, a, b):
        return b.equal(0.0).select(1.0, (a.log() * b).exp())

    def reference(self, a, b):
        return (np.where(b == 0, 1.0, np.exp(np.log(a) * b)),)

    def vjp(self, x, y, dy):
        a, b = x
        of_a = b.equal(0.0).select(0.0, b * a ** (b - 1.0))
        of_b = (a.equal(0.0) & (b >= 0.0)).select(0.0, y[0] * a.log())
        return dy[0] * of_a, dy[0] * of_b


@frozen
class Log1p(Float):
    """log(1 + x), right to the last digits near 0. W. Kahan's form: with w = 1 + x rounded, log(w) * (x / (w - 1))
    makes up for the rounding of w."""

    name = "log1p"
    primitives = 6

    def expr(self, x):
        w = x + 1.0
        lost = w.equal(1.0) | w.equal(float("inf"))  # x itself is the answer: to first order, or at infinity
        return lost.select(x, w.log() * (x / lost.select(1.0, w - 1.0)))

    def reference(self, x):
        return (np.log1p(x),)

    def vjp(self, x, y, dy):
        return (dy[0] / (x[0] + 1.0),)


@frozen
class Expm1(Float):
    """exp(x) - 1, right to the last digits near 0: (exp(x) + 1) * tanh(x / 2)."""

    name = "expm1"
    primitives = 5

    def expr(self, x):
        return (x.exp() + 1.0) * (x * 0.5).tanh()

    def reference(self, x):
        return (np.expm1(x),)

    def vjp(self, x, y, dy):
        return (dy[0] * x[0].exp(),)

"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3;
SC 2011). A number depends on seed, step, stream and element only, so it is the same for any number of threads, on any
target, run or resumed."""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import Cost, Op, TensorType, require
from graphc.ir.frozen import frozen

M0, M1, W0, W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def signed(word: int) -> int:
    """A 32-bit word as the i32 that holds its bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


def philox(counter: tuple, key: tuple, umulhi) -> tuple:
    """Ten rounds on four counter and two key words; works on expressions and on NumPy uint32 arrays alike."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for i in range(ROUNDS):
        a0, a1 = umulhi(c0, M0), umulhi(c2, M1)
        b0, b1 = c0 * const(c0, M0), c2 * const(c2, M1)
        c0, c1, c2, c3 = a1 ^ c1 ^ (k0 + const(k0, i * W0)), b1, a0 ^ c3 ^ (k1 + const(k1, i * W1)), b0
    return c0, c1, c2, c3


def const(like, word: int):
    """A 32-bit constant for arithmetic with `like`."""
    return np.uint32(word & 0xFFFFFFFF) if isinstance(like, np.ndarray | np.uint32) else signed(word)


@frozen
class Uniform(Op):
    """Uniform numbers in [0, 1) of 24 bits, from the key (seed low, seed high, step low, step high) as i32[4].

    Element e of n takes word e // q of counter (e % q, stream, step), q = ceil(n / 4): four neighbours of distance q
    share one evaluation. `stream` tells the uses of one key apart.
    """

    name = "uniform"
    shape: tuple[int, ...]
    stream: int = 0

    def infer(self, key: TensorType) -> tuple[TensorType, ...]:
        require(key == TensorType("i32", (4,)), f"uniform needs an i32[4] key, got {key}")
        return (TensorType("f32", self.shape),)

    @property
    def quarter(self) -> int:
        return -(-math.prod(self.shape) // 4)

    def reference(self, key):
        words = key.astype(np.int64).astype(np.uint32)
        q = self.quarter
        index = np.arange(q, dtype=np.uint32)
        fill = [np.full(q, w, np.uint32) for w in (self.stream, words[2], words[3])]

        def umulhi(a, m):
            return ((a.astype(np.uint64) * np.uint64(m)) >> np.uint64(32)).astype(np.uint32)

        keys = tuple(np.full(q, w, np.uint32) for w in words[:2])
        bits = np.concatenate(philox((index, *fill), keys, umulhi))[: math.prod(self.shape)]
        return (((bits >> np.uint32(8)).astype(np.float64) * 2.0**-24).reshape(self.shape),)

    def cost(self, key: TensorType) -> Cost:
        return Cost(other=25 * math.prod(self.shape))

    def vjp(self, x, y, dy):
        return (None,)

    def lower(self, k) -> None:
        q = self.quarter
        bits = k.temporary("f32", (4 * q,))
        i = k.axis("i", q)
        seed0, seed1, step0, step1 = (k.load(0, [w]) for w in range(4))
        words = philox(
            (k.index(i), k.const(self.stream, "i32"), step0, step1),
            (seed0, seed1),
            lambda a, m: k.binary("umulhi", a, k.const(signed(m), "i32")),
        )
        for w, word in enumerate(words):
            value = k.binary("shr", word, k.const(8, "i32")).cast("f32") * 2.0**-24
            k.store_in(bits, [i + w * q], value)
        k.finish([i])
        at = k.axes(self.shape)
        flat = k.flat(at, self.shape)
        k.store(0, at, k.load_from(bits, [flat]))
        k.finish(at)


@frozen
class Dropout(Op):
    """x / (1 - p) with probability 1 - p, else 0: from x and the random key. Gone in inference."""

    name = "dropout"
    p: float = 0.5
    stream: int = 0

    def infer(self, x: TensorType, key: TensorType) -> tuple[TensorType, ...]:
        require(0.0 <= self.p < 1.0, f"dropout probability must be in [0, 1), got {self.p}")
        require(x.dtype == "f32", f"dropout needs an f32 input, got {x}")
        Uniform(x.shape, self.stream).infer(key)
        return (x,)

    def reference(self, x, key):
        kept = Uniform(x.shape, self.stream).reference(key)[0] >= np.float32(self.p)
        return (np.where(kept, x * (1.0 / (1.0 - self.p)), 0.0).astype(x.dtype),)

    def cost(self, x: TensorType, key: TensorType) -> Cost:
        return Uniform(x.shape, self.stream).cost(key) + Cost(other=2 * x.elements)

    def scaled(self, x, key):
        kept = key.apply(Uniform(x.shape, self.stream)) >= self.p
        return kept.select(x * (1.0 / (1.0 - self.p)), 0.0)

    def decompose(self, x, key):
        return (self.scaled(x, key),)

    def vjp(self, x, y, dy):
        return self.scaled(dy[0], x[1]), None

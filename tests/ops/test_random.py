"""Philox4x32-10 by its published known answers, and what is built from it."""

import numpy as np
import pytest

from graphc.ops.random import Dropout, Uniform, philox

# Random123 1.14.0, tests/kat_vectors: counter, key, result of philox4x32 with 10 rounds.
KNOWN = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)


def words(text):
    return tuple(np.array([int(w, 16)], np.uint32) for w in text.split())


def umulhi(a, m):
    return ((a.astype(np.uint64) * np.uint64(m)) >> np.uint64(32)).astype(np.uint32)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(counter, key, result):
    assert philox(words(counter), words(key), umulhi) == words(result)


def test_uniform_takes_its_words_as_documented():
    """Element e of n is word e // q of counter (e % q, stream, step low, step high) under the seed, q = ceil(n / 4)."""
    key = np.array([5, -7, 11, 13], np.int32)
    n, stream = 10, 3
    (got,) = Uniform((n,), stream).reference(key)
    for i in range(n):
        counter = tuple(np.array([w], np.uint32) for w in (i % 3, stream, 11, 13))
        seed = (np.array([5], np.uint32), np.array([2**32 - 7], np.uint32))
        assert got[i] == (philox(counter, seed, umulhi)[i // 3][0] >> 8) / 2**24


def test_uniform_is_uniform_and_streams_differ():
    key = np.array([1, 2, 3, 4], np.int32)
    n = 40000
    a, b = (Uniform((n,), s).reference(key)[0] for s in (0, 1))
    assert a.min() >= 0 and a.max() < 1
    # five standard deviations: of the mean 1/sqrt(12 n), of a share in a tenth sqrt(0.09 / n), of the correlation
    assert abs(a.mean() - 0.5) < 5 / np.sqrt(12 * n)
    assert np.abs(np.histogram(a, 10, (0, 1))[0] / n - 0.1).max() < 5 * np.sqrt(0.09 / n)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)


def test_dropout_keeps_and_scales():
    key, x = np.array([1, 2, 3, 4], np.int32), np.ones(10000)
    (y,) = Dropout(0.25, 0).reference(x, key)
    assert set(np.unique(y)) == {0.0, 1.0 / 0.75}
    assert abs((y > 0).mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / x.size)
    again, other_step = (Dropout(0.25, 0).reference(x, k)[0] for k in (key, key + np.array([0, 0, 1, 0], np.int32)))
    assert (again == y).all() and (other_step != y).any()

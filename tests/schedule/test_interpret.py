"""The interpreter says what NumPy says, for every kernel of the samples."""

import numpy as np
import pytest
from loop_samples import SAMPLES, ids, names

from graphc.schedule.expr import Aff, load, temp
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import Loops, Reduce, Stage, Store
from graphc.schedule.layout import Buffer

# float32 sums of at most a few thousand terms of size about 1
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.mark.parametrize("name", names())
def test_interpreter_equals_numpy(name):
    sample = SAMPLES[name]()
    arrays = sample.arrays()
    run_kernel(sample.kernel, sample.buffers, arrays)
    for output, expected in sample.expected.items():
        np.testing.assert_allclose(sample.buffers[output].unpack(arrays[output]), expected, **CLOSE)


def test_float64_is_exact_to_float64():
    sample = SAMPLES["softmax_last-7-17"]()
    arrays = {k: v.astype(np.float64) for k, v in sample.arrays().items()}
    run_kernel(sample.kernel, sample.buffers, arrays, np.float64)
    np.testing.assert_allclose(arrays["y"].reshape(7, 17), sample.expected["y"], rtol=1e-13)


def test_expressions_come_before_stores():
    """a, b = b, a in one stage swaps."""
    buffers = {n: Buffer(n, (3,), "f32") for n in "ab"}
    swap = (Store("a", ids("i"), load("b", ids("i"))), Store("b", ids("i"), load("a", ids("i"))))
    arrays = {"a": np.float32([1, 2, 3]), "b": np.float32([4, 5, 6])}
    run_kernel(Loops("swap", (("i", 3),), (Stage((), swap),)), buffers, arrays)
    assert arrays["a"].tolist() == [4, 5, 6] and arrays["b"].tolist() == [1, 2, 3]


def test_a_load_outside_the_buffer_is_an_error():
    buffers = {n: Buffer(n, (3,), "f32") for n in "ab"}
    body = Store("a", ids("i"), load("b", (Aff.of("i") + 1,)))
    with pytest.raises(IndexError, match="leaves"):
        run_kernel(Loops("k", (("i", 3),), (Stage((), (body,)),)), buffers, {n: np.zeros(3, np.float32) for n in "ab"})


def test_max_keeps_nan():
    buffers = {"x": Buffer("x", (4,), "f32"), "y": Buffer("y", (), "f32")}
    stages = (Stage((("i", 4),), (Reduce("m", "max", load("x", ids("i"))),)), Stage((), (Store("y", (), temp("m")),)))
    arrays = {"x": np.float32([1, np.nan, 3, 2]), "y": np.zeros(1, np.float32)}
    run_kernel(Loops("k", (), stages), buffers, arrays)
    assert np.isnan(arrays["y"][0])

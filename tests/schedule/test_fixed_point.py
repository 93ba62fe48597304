"""Weights in 24 bits: how they are stored, how much is lost, and which weights they are."""

import numpy as np
import pytest

from graphc import nn
from graphc.driver import traced_graph
from graphc.passes import FAST_INFERENCE, run_passes
from graphc.schedule import CPU, GPU, fixed_point, make_schedule, show
from graphc.schedule.layout import BLOCK, Buffer, Layout
from graphc.schedule.roofline import works

INF, NAN = float("inf"), float("nan")
PANELS = {False: Layout(((0, "outer"), (1, "whole"), (0, "inner")), BLOCK),
          True: Layout(((1, "outer"), (0, "whole"), (1, "inner")), BLOCK)}  # fmt: skip


def stored(matrix: np.ndarray, turned: bool = False) -> np.ndarray:
    """[outputs, inputs], or turned, packed and unpacked again."""
    b = Buffer("w", matrix.shape, "f24", PANELS[turned], "weight")
    packed = b.pack(matrix)
    assert (packed.shape, packed.nbytes) == (b.stored, b.bytes)
    return b.unpack(packed)


def bound(matrix: np.ndarray) -> np.ndarray:
    """How much each number may change: the greatest of its group, one output's next 64 inputs, counts, and itself."""
    matrix = np.abs(matrix.astype(np.float64))
    greatest = np.maximum.reduceat(matrix, np.arange(0, matrix.shape[1], fixed_point.ROWS), 1)
    spread = np.repeat(greatest, fixed_point.ROWS, 1)[:, : matrix.shape[1]]
    return np.maximum(spread * 2.0**-24 * (1 + 2.0**-22), 2.0**-119) + matrix * 3 * 2.0**-24


def drawn(*shape: int, outliers: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.standard_normal(shape, np.float32) * np.where(random.random(shape) < outliers, 100, 1).astype("f4")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("inputs", [1, 7, 64, 100, 25088])
@pytest.mark.parametrize("outputs", [1, 3, 17, 37])
def test_a_number_changes_by_half_a_unit_of_24_bits(outputs, inputs, turned):
    """Of which one is the sign; and by the roundings of the scale, of the integer and of the product."""
    matrix = drawn(outputs, inputs, outliers=0.01)
    got = stored(matrix.T, turned).T if turned else stored(matrix)
    assert (np.abs(got.astype(np.float64) - matrix) <= bound(matrix)).all()
    assert got.dtype == np.float32


def test_large_and_small():
    assert stored(drawn(1000, 1030)).shape == (1000, 1030)
    assert not stored(np.zeros((3, 130), np.float32)).any()
    for scale in (1e-38, 1e-42, 1e-45, 3e37):
        matrix = (drawn(5, 70).astype(np.float64) * scale).astype(np.float32)
        assert (np.abs(stored(matrix).astype(np.float64) - matrix) <= bound(matrix)).all()
    most = np.array([[np.finfo(np.float32).max, -np.finfo(np.float32).max]])
    assert np.isfinite(stored(most)).all()


def test_what_is_lost_of_numbers_on_a_grid_does_not_add_up():
    """Uniform ones are drawn with 24 bits; were one of them cut off, a sum of errors would grow with its length."""
    matrix = (np.random.default_rng(0).random((64, 9216), np.float32) * 2 - 1) / np.float32(96)
    lost = stored(matrix).astype(np.float64) - matrix
    assert np.abs(lost.sum(1)).max() <= 5 * lost.std() * np.sqrt(9216)


def test_the_fourth_number_is_as_near_as_the_others():
    matrix = drawn(512, 1024)
    lost = (stored(matrix).astype(np.float64) - matrix).reshape(-1, 4)
    assert np.allclose(lost.std(0), lost.std(), rtol=0.05)
    assert (np.abs(lost.mean(0)) <= 4 * lost.std() / np.sqrt(len(lost))).all()


def test_a_padded_group_holds_zeros():
    packed = Buffer("w", (3, 65), "f24", PANELS[False]).pack(np.ones((3, 65)))
    assert not packed["fours"][..., 3:].any() and not packed["fours"][:, 1, 1:].any()


def test_what_is_no_finite_number_stays_that():
    """Infinite weights alone; with NaN its whole group is, as every sum over it."""
    matrix = drawn(20, 200)
    matrix[2, 3], matrix[4, 190], matrix[4, 150], matrix[6, 66] = INF, INF, -INF, NAN
    got = stored(matrix)
    assert np.argwhere(np.isinf(got)).tolist() == [[2, 3], [4, 150], [4, 190]] and got[4, 150] < 0
    assert np.isnan(got[6, 64:128]).all() and np.isnan(got).sum() == 64
    x = drawn(200, 3)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isfinite(got @ x), np.isfinite(matrix @ x))


@pytest.mark.parametrize("inputs", [2048, 9216])
@pytest.mark.parametrize("outliers", [0.0, 1e-4, 1 / 64])
def test_sums_are_as_near_to_the_exact_ones_as_before(inputs, outliers):
    """One multiply-add after the other in float32, against float64."""
    w, x = drawn(128, inputs, outliers=outliers), drawn(inputs)
    errors = []
    for weights in (w, stored(w)):
        total = np.zeros(len(w), np.float32)
        for k in range(inputs):  # the product is exact in float64: one rounding, as of a fused multiply-add
            total = (total + weights[:, k].astype(np.float64) * x[k]).astype(np.float32)
        errors.append(np.sqrt(np.mean((total - w.astype(np.float64) @ x) ** 2)))
    assert errors[1] <= 1.25 * errors[0]


# which weights

LARGE = nn.Linear(2048, 1100)  # 9 MB


def schedule_of(model, *shape, traits=CPU):
    return make_schedule(run_passes(traced_graph(model, shape), FAST_INFERENCE), traits)


def in_24_bits(schedule) -> list[str]:
    return [b.name for b in schedule.buffers.values() if b.dtype == "f24"]


def test_large_weights_of_one_row_lie_in_24_bits():
    schedule = schedule_of(LARGE, 1, 2048)
    assert in_24_bits(schedule) == ["weight"]
    b, groups = schedule.buffers["weight"], -(-1100 // 16) * 2048 // 64
    assert b.bytes == groups * (16 * 4 + 64 * 16 * 3)
    assert f"%weight  f24[1100,2048]  NC16n  @0  {b.bytes} B" in show(schedule)
    plain = schedule_of(LARGE, 1, 2048, traits=CPU.exact)
    assert in_24_bits(plain) == [] and schedule.weight_bytes < 0.77 * plain.weight_bytes
    (fast,), (exact,) = works(schedule), works(plain)
    assert fast.bytes - exact.bytes == b.bytes * 1100 * 2048 // (1104 * 2048) - 4 * 1100 * 2048


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2100, 2100)

    def forward(self, x):
        return self.layer(self.layer(x).relu())


@pytest.mark.parametrize(("model", "shape"), [
    (LARGE, (2, 2048)),
    (nn.Linear(2048, 496), (1, 2048)),
    (nn.Linear(2000, 1100), (1, 2000)),
    (Twice(), (1, 2100)),
    (nn.Conv2d(512, 512, 3), (1, 512, 3, 3)),
])  # fmt: skip
def test_others_stay_in_float32(model, shape):
    """Those of several rows, smaller ones, short sums, those read twice, and convolutions."""
    assert in_24_bits(schedule_of(model, *shape)) == []


def test_a_gpu_has_none():
    assert in_24_bits(schedule_of(LARGE, 1, 2048, traits=GPU)) == []

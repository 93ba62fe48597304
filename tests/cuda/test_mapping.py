"""Which thread does what: a row to a warp or to a block, columns side by side, vectors where addresses allow them."""

from itertools import product

import loop_samples as make
import pytest

from graphc.backends.cuda.kernels.mapping import Mapping, choose
from graphc.schedule.canonical import canonical


def mapping(sample) -> Mapping:
    return choose(canonical(sample.kernel, sample.buffers), sample.buffers)


def test_many_rows_are_a_warps_each():
    found = mapping(make.softmax_last(3000, 512))
    assert found.across and found.workers == 32 and found.threads == 128 and found.rows == (4, 4, 4)


def test_few_rows_are_a_blocks_each():
    found = mapping(make.layer_norm(20, 2048))
    assert found.across and found.points == 1 and found.workers == 512


def test_short_rows_share_a_warp():
    found = mapping(make.softmax_last(300, 12))
    assert found.across and found.workers == 4 and found.points == 32


def test_columns_are_neighbouring_threads():
    found = mapping(make.column_sums(2048, 512))
    assert not found.across and found.width == 4 and found.points * found.width >= 32 and found.workers > 1


def test_elementwise_kernels_take_vectors_and_a_rest():
    for size in (4096, 4099):
        found = mapping(make.plain_relu(size))
        assert (found.width, found.workers, found.groups) == (4, 1, 1025 if size > 4096 else 1024)


def test_odd_rows_take_no_vectors():
    assert mapping(make.softmax_last(64, 511)).rows == (1, 1, 1)


@pytest.mark.parametrize("kernel", [make.softmax_last, make.layer_norm, make.column_sums, make.arg_max])
def test_blocks_are_whole_warps_and_cover_all_points(kernel):
    for rows, size in product((1, 3, 70, 513), (1, 4, 9, 33, 1000, 3000)):
        if rows * size > 100_000:
            continue
        found = mapping(kernel(rows, size))
        assert found.threads % 32 == 0 and found.threads <= 1024
        assert found.workers & (found.workers - 1) == 0
        assert (found.blocks - 1) * found.points < found.groups <= found.blocks * found.points
        assert found.resident * found.threads * 64 <= 65536

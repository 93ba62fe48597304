"""Small kernels in one launch: which are, and that dependences and results stay."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.cuda.emit import KernelCode
from graphc.backends.cuda.launches import Argument, Launch
from graphc.backends.cuda.merge import MOST, merge, parts
from graphc.schedule.places import Place


def launch(number, reads, writes, blocks=4, threads=64, text="b0[blockIdx.x] = 0.0f;"):
    """A launch over bytes of the arena, (buffer, start) each, 64 bytes long."""
    arguments = tuple(
        Argument(name, Place("arena", start, start + 64), (name, start) in reads, (name, start) in writes)
        for name, start in dict.fromkeys((*reads, *writes))
    )
    declared = ", ".join(f"float *b{k}" for k in range(len(arguments)))
    code = f"KERNEL(k{number}, {threads}, 16)({declared}) {{\n  {text}\n}}\n"
    names = tuple(f"b{k}" for k in range(len(arguments)))
    return Launch((number,), KernelCode(f"k{number}", code, names, (blocks, 1, 1), threads), arguments)


def merged(*launches):
    return [found.kernels for found in merge(launches)]


A, B, C = ("a", 0), ("b", 64), ("c", 128)


def test_neighbours_that_share_nothing_meet_in_one_launch():
    assert merged(launch(0, [], [A]), launch(1, [], [B]), launch(2, [], [C])) == [(0, 1, 2)]


@pytest.mark.parametrize(
    ("first", "second"),
    [(([], [A]), ([A], [B])), (([A], [B]), ([], [A])), (([], [A]), ([], [("other", 32)]))],
    ids=["read after write", "write after read", "two buffers in the same memory"],
)
def test_kernels_that_wait_for_each_other_stay_apart(first, second):
    assert merged(launch(0, *first), launch(1, *second)) == [(0,), (1,)]


def test_two_writers_of_one_buffer_write_different_elements():
    assert merged(launch(0, [], [A]), launch(1, [B], [A])) == [(0, 1)]
    assert merged(launch(0, [], [A]), launch(1, [A], [A])) == [(0,), (1,)]


def test_a_group_ends_where_a_kernel_waits_for_any_of_it():
    chain = [launch(0, [], [A]), launch(1, [], [B]), launch(2, [A], [C]), launch(3, [], [("d", 256)])]
    assert merged(*chain) == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    "options", [{"blocks": 5000}, {"text": "__syncthreads();"}, {"text": "SHARED(float, t, [4]);"}]
)
def test_large_kernels_and_those_whose_threads_meet_stay_alone(options):
    assert merged(launch(0, [], [A]), launch(1, [], [B], **options), launch(2, [], [C])) == [(0,), (1,), (2,)]


def test_a_launch_has_a_limit():
    many = [launch(k, [], [(f"t{k}", 64 * k)]) for k in range(MOST + 3)]
    assert [len(kernels) for kernels in merged(*many)] == [MOST, 3]


def test_blocks_and_threads_are_shared_out():
    (found,) = merge([launch(0, [], [A], blocks=3, threads=64), launch(1, [], [B], blocks=5, threads=128)])
    assert found.code.grid == (8, 1, 1) and found.code.threads == 128
    lines = [line.strip() for line in found.code.text.splitlines()]
    assert lines[1:3] == ["if (blockIdx.x < 3u && threadIdx.x < 64u) {", "b0_0[blockIdx.x] = 0.0f;"]
    assert lines[4:6] == ["if (blockIdx.x >= 3u && blockIdx.x < 8u) {", "b1_0[(blockIdx.x - 3u)] = 0.0f;"]
    assert [a.buffer for a in found.arguments] == ["a", "b"] and found.code.arguments == ("b0_0", "b1_0")


def test_equal_groups_have_equal_names():
    first, second = (merge([launch(0, [], [(n, 0)]), launch(1, [], [(m, 64)])])[0] for n, m in ("ab", "cd"))
    assert first.code.name == second.code.name and first.code.text == second.code.text


def test_text_of_another_form_is_refused():
    with pytest.raises(ValueError, match="does not begin with KERNEL"):
        parts(KernelCode("k", "void k() {\n}\n", (), (1, 1, 1), 32))
    assert np.array_equal(parts(launch(0, [], [A]).code)[1], ["b0[blockIdx.x] = 0.0f;"])

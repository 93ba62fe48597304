"""Sums down columns read the copy in panels where a product has one made."""

from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.schedule import make_schedule
from graphc.schedule.assign_layouts.copies import copy_kernel
from graphc.schedule.assign_layouts.panels import sum_panels
from graphc.schedule.expr import Aff, load, temp
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import Contraction, Loops, Reduce, Schedule, Stage, Store, reads
from graphc.schedule.layout import Buffer
from graphc.schedule.traits import CPU

from .networks import training

M, N = 40, 32
I, J = Aff.of("i"), Aff.of("j")


def reduced(name: str, out: str, along: str) -> Loops:
    """`out = sum of t` along rows or columns, of a matrix M x N."""
    (kept, extent), summed = (("j", N), ("i", M)) if along == "i" else (("i", M), ("j", N))
    total = Stage((summed,), (Reduce("r", "sum", load("t", (I, J))),))
    return Loops(name, ((kept, extent),), (total, Stage((), (Store(out, (Aff.of(kept),), temp("r")),))))


def matrix_sums(along: str, place: str = "arena") -> Schedule:
    """t is made, summed, and copied into panels."""
    t, copy = Buffer("t", (M, N), "f32", place=place), Buffer("c", (M, N), "f32", CPU.layouts[2])
    out = Buffer("out", (N if along == "i" else M,), "f32", place="output")
    fill = Loops("fill", (("i", M), ("j", N)), (Stage((), (Store("t", (I, J), load("x", (I, J))),)),))
    kernels = (fill, reduced("sum", "out", along), copy_kernel(t, copy, "pack"))
    buffers = {b.name: b for b in (Buffer("x", (M, N), "f32", place="input"), t, copy, out)}
    return Schedule("sums", buffers, kernels, ("x",), ("out",))


def test_the_copy_is_made_before_the_sum_that_reads_it():
    before = matrix_sums("i")
    after = sum_panels(before)
    assert [k.name for k in after.kernels] == ["fill", "pack", "sum"]
    assert reads(after.kernels[-1]) == ("c",)
    x, found = np.random.default_rng(0).standard_normal((M, N), np.float32), []
    for schedule in (before, after):
        arrays = {n: np.zeros(b.elements, np.float32) for n, b in schedule.buffers.items()}
        arrays["x"][:] = x.reshape(-1)
        for kernel in schedule.kernels:
            run_kernel(kernel, schedule.buffers, arrays)
        found.append(arrays["out"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("along", "place"), [("j", "arena"), ("i", "output")])
def test_sums_along_rows_and_of_what_others_hold_stay(along, place):
    schedule = matrix_sums(along, place)
    assert sum_panels(schedule).kernels == schedule.kernels


def test_a_matrix_written_again_after_its_sum_is_not_read_from_the_copy():
    schedule = matrix_sums("i")
    fill, total, pack = schedule.kernels
    schedule = replace(schedule, kernels=(fill, total, replace(fill, name="again"), pack))
    assert sum_panels(schedule).kernels == schedule.kernels


def test_a_bias_gradient_reads_what_the_weight_gradient_reads():
    """1040 columns are packed for the weight gradient, by the product that makes them."""
    first, layers = nn.Linear(48, 128), (nn.Linear(128, 1040), nn.GELU(), nn.Linear(1040, 128))
    model = nn.Sequential(first, *layers, nn.Flatten(), nn.Linear(128 * 40, 5))
    schedule = make_schedule(training(model, (4, 40, 48), graphc.optim.AdamW()))
    wide = {n: str(b.layout) for n, b in schedule.buffers.items() if b.shape == (160, 1040)}
    sums = [k for k in schedule.kernels if not isinstance(k, Contraction) and k.name.startswith("1.sum")]
    read = {wide[n] for k in sums for n in reads(k) if n in wide}
    assert read == {"CN16c"}

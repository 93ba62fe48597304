"""Times of single kernels: every kernel of the schedule has its row, and the program's own state stays as it is."""

from __future__ import annotations

import numpy as np

import graphc
from graphc import nn
from graphc.backends.llvm import calibrate, target
from graphc.backends.llvm.profile import profile
from graphc.models import get
from graphc.schedule.roofline import KernelTime, Limits, Profile

LIMITS = Limits(1, 100e9, (("L2", 1000, 50e9), ("DRAM", None, 10e9)))


def test_every_kernel_is_timed_and_state_stays():
    step = graphc.compile_training(
        get("mlp").make(classes=3), (4, 784), loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.1)
    )
    before = step.save()
    times = profile(step.program, runs=2)
    assert [t.name for t in times] == [k.name for k in step.schedule.kernels]
    assert sum(t.macs for t in times) == sum(getattr(k, "macs", 0) for k in step.schedule.kernels) > 0
    assert all((step.save()[k] == v).all() for k, v in before.items())
    found = Profile(tuple(times), LIMITS)
    table = str(found).splitlines()
    assert len(table) == len(times) + 3
    assert table[-1].startswith("roofline, 1 thread: 100 GFLOP/s") and "DRAM 10 GB/s" in table[-1]
    assert [k["name"] for k in found.data()["kernels"]] == [t.name for t in times]


def test_rates():
    t = KernelTime("k", "matmul", 500_000, 2_000_000, 1e-3)
    np.testing.assert_allclose((t.gflops, t.gigabytes), (1.0, 2.0))


def test_roofline():
    assert LIMITS.bandwidth(1000) == 50e9 and LIMITS.bandwidth(1001) == 10e9
    np.testing.assert_allclose(LIMITS.seconds(macs=50_000, touched=10), 1e-6)  # the multiply-adds take longer
    np.testing.assert_allclose(LIMITS.seconds(macs=50, touched=10_000), 1e-6)  # the bytes take longer
    found = Profile((KernelTime("k", "matmul", 50_000, 10, 2e-6),), LIMITS)
    assert str(found).splitlines()[1].endswith(" 50%")
    np.testing.assert_allclose(found.data()["kernels"][0]["of_roofline"], 0.5)


def test_limits_are_measured():
    """Rates between what any processor of this century reaches and none does; the second thread may find no core."""
    for threads in (1, 2):
        limits = calibrate.measured(target.host(), threads)
        assert limits.threads == threads and 1e9 < limits.flops < 1e12 * threads
        assert limits.reads[-1][:2] == ("DRAM", None)
        assert all(1e8 < rate < 4e12 for _, _, rate in limits.reads)

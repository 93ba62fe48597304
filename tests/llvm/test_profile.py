"""Times of single kernels: every kernel of the schedule has its row, and the program's own state stays as it is."""

from __future__ import annotations

import numpy as np

import graphc
from graphc import nn
from graphc.backends.llvm.profile import KernelTime, profile, show
from graphc.models import get


def test_every_kernel_is_timed_and_state_stays():
    step = graphc.compile_training(
        get("mlp").make(classes=3), (4, 784), loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.1)
    )
    before = step.save()
    times = profile(step.program, runs=2)
    assert [t.name for t in times] == [k.name for k in step.schedule.kernels]
    assert sum(t.macs for t in times) == sum(getattr(k, "macs", 0) for k in step.schedule.kernels) > 0
    assert all((step.save()[k] == v).all() for k, v in before.items())
    assert len(show(times).splitlines()) == len(times) + 2


def test_rates():
    t = KernelTime("k", "matmul", 1e-3, 500_000, 2_000_000)
    np.testing.assert_allclose((t.gflops, t.gigabytes), (1.0, 2.0))

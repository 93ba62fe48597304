"""Kernels as they are planned for other processors, with their vectors, registers and caches, in the instructions of
this one: LLVM splits vectors that are too wide here. All must give the bits of this processor's own kernels."""

from dataclasses import replace

import numpy as np
import pytest
from schedule.networks import Grouped, Residual, Strided

import graphc
from graphc import nn
from graphc.backends.llvm import program, target
from graphc.models import get
from graphc.models.vit_s16 import ViT

SHAPES = {"avx512": target.x86_64_v4(), "neon": target.aarch64(), "avx2": target.x86_64_v3()}


@pytest.fixture(params=SHAPES)
def cpu(request, monkeypatch) -> str:
    """The name of a target with the kernels of another processor."""
    other = SHAPES[request.param]
    fields = ("vector_bytes", "vector_registers", "l1_bytes", "l2_bytes")
    made = replace(target.host(), name="other", **{f: getattr(other, f) for f in fields})
    monkeypatch.setitem(target._NAMED, "other", lambda: made)
    monkeypatch.setattr(program, "runs_here", lambda target: True)
    return "other"


def small_vit() -> ViT:
    return ViT(classes=5, size=48, patch=8, width=48, depth=2, heads=3)


NETWORKS = [
    pytest.param(Residual, (3, 3, 13, 11), id="residual"),
    pytest.param(Grouped, (3, 6, 9, 9), id="grouped", marks=pytest.mark.slow),
    pytest.param(Strided, (3, 6, 11, 13), id="strided"),
    pytest.param(get("lenet5").make, (5, 1, 28, 28), id="lenet5", marks=pytest.mark.slow),
    pytest.param(small_vit, (2, 3, 48, 48), id="vit"),
]
ZOO = [
    pytest.param(get(name).make, shape, id=name, marks=pytest.mark.slow)
    for name, shape in {
        "alexnet": (1, 3, 224, 224),
        "resnet18": (1, 3, 224, 224),
        "resnet50": (1, 3, 64, 64),
        "mobilenet_v1": (1, 3, 96, 96),
        "unet": (1, 1, 128, 128),
        "vit_s16": (1, 3, 224, 224),
    }.items()
]


@pytest.mark.parametrize(("make", "shape"), NETWORKS + ZOO)
def test_inference(make, shape, cpu):
    model, x = make(), np.random.default_rng(0).standard_normal(shape, np.float32)
    want, net = graphc.compile(model, shape)(x), graphc.compile(model, shape, cpu=cpu)
    net.program.poison()
    np.testing.assert_array_equal(net(x), want)


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_training(make, shape, cpu):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape, np.float32), rng.integers(0, 5, shape[0]).astype(np.int32)
    found = []
    for name in ("native", cpu):
        nn.init.seed(0)
        step = graphc.compile_training(
            make(), shape, loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.AdamW(lr=1e-3), cpu=name
        )
        step.program.poison()
        found.append(([step(x, y) for _ in range(3)], step.save()))
    (losses, state), (got_losses, got_state) = found
    assert got_losses == losses
    for name, value in state.items():
        np.testing.assert_array_equal(got_state[name], value, err_msg=name)

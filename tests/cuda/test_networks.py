"""Whole networks on the GPU backend: the reference's numbers for inference and for one training step, the same bits
every time, and every kernel of the zoo compiled for two generations of GPUs."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import check_resources
from on_shim import ShimDevice, program
from schedule.networks import GRAPHS, draw

import graphc
from graphc import nn
from graphc.backends import llvm
from graphc.backends.cuda.assemble import assemble
from graphc.backends.cuda.target import AMPERE, HOPPER
from graphc.backends.reference import run
from graphc.driver import traced_graph, training_graph
from graphc.ir import Graph
from graphc.models import ZOO, MobileNetV1, ViT, get
from graphc.passes import INFERENCE, TRAINING, run_passes
from graphc.schedule import GPU, make_schedule

# The project's bound for every network: 1e-5 of the output's scale, forward and gradients. On the tensor cores
# operands keep 10 bits (tf32) or 7 (bf16).
BOUNDS = {"exact": 1e-5, "fast": 3e-3, "bf16": 3e-2}

NETWORKS = {
    "mlp": (get("mlp").make, (3, 784)),
    "lenet5": (get("lenet5").make, (3, 1, 28, 28)),
    "resnet18": (get("resnet18").make, (2, 3, 64, 64)),
    "mobilenet_v1": (lambda: MobileNetV1(classes=5, width=0.25), (6, 3, 64, 64)),
    "vit": (lambda: ViT(classes=5, size=24, patch=8, width=24, depth=2, heads=3), (3, 3, 24, 24)),
}
LONG = ("resnet18", "mobilenet_v1")


def named(*, slow: tuple[str, ...] = LONG) -> list:
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in NETWORKS]


def inference(name: str) -> Graph:
    make, shape = NETWORKS[name]
    return run_passes(traced_graph(make(), shape), INFERENCE)


def training(make, shape: tuple[int, ...], optimizer=None) -> Graph:
    optimizer = optimizer or graphc.optim.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3)
    return run_passes(training_graph(make(), shape, nn.CrossEntropyLoss(), optimizer), TRAINING)


def apart(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error, as a part of the scale."""
    return float(np.abs(np.float64(got) - want).max(initial=0.0) / max(np.abs(want).max(initial=0.0), 1e-30))


@pytest.mark.parametrize("name", named())
def test_inference_gives_the_reference_numbers(name, on):
    graph = inference(name)
    x = draw(graph)
    made = program(graph, on())
    made.poison()
    (got,) = made(*x)
    ((want,), _) = run(graph, x)
    assert apart(got, want) <= BOUNDS["exact"]
    made.poison()
    assert (made(*x)[0] == got).all(), "a second run gives other bits"


@pytest.mark.parametrize("precision", ["fast", "bf16"])
@pytest.mark.parametrize("name", ["lenet5", "vit"])
def test_tensor_cores_round_no_more_than_their_operands(name, precision, on):
    graph = inference(name)
    x = draw(graph)
    ((want,), _) = run(graph, x)
    error = apart(program(graph, on(), precision)(*x)[0], want)
    assert BOUNDS["exact"] < error <= BOUNDS[precision]


@pytest.mark.parametrize(
    "name", ["lenet5", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vit", "mobilenet_v1"))]
)
def test_no_kernel_of_a_network_makes_a_mistake(name, on):
    """With every access watched; and threads in another order give the same bits."""
    graph = inference(name)
    x = draw(graph)
    want = program(graph, on(checked=True))(*x)[0]
    assert (program(graph, on(checked=True, order=7))(*x)[0] == want).all()


@pytest.mark.parametrize("name", named(slow=("resnet18", "mobilenet_v1", "vit")))
def test_training_step_gives_the_reference_numbers(name, on):
    """A batch norm over the few values of small maps magnifies rounding: the bound is the project's, or twice what
    NumPy gets in float32 where that is more."""
    make, shape = NETWORKS[name]
    graph = training(make, (4, *shape[1:]) if name == "resnet18" else shape)
    check_step(graph, program(graph, on()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in GRAPHS if "training" in n or "Adam" in n])
def test_awkward_training_steps_with_every_access_watched(name, on):
    graph = GRAPHS[name]()
    check_step(graph, program(graph, on(checked=True)), poisoned=on is not ShimDevice)


def check_step(graph: Graph, made, poisoned: bool = True) -> None:
    inputs = draw(graph)
    if poisoned:
        made.poison()
    loss, *_ = made(*inputs)
    outputs, updates = run(graph, inputs)
    assert apart(loss, outputs[0]) <= BOUNDS["exact"]
    _, rounded = run(graph, inputs, np.float32)
    bound = max(BOUNDS["exact"], *(2 * apart(rounded[name], want) for name, want in updates.items()))
    for name, want in updates.items():
        assert apart(made.read_state(name), want) <= bound, name


def test_dropout_masks_are_those_of_the_processor(on):
    """The same key, the same mask: a step with dropout moves weights as the llvm backend does."""

    def step_of(backend: str):
        model = nn.Sequential(nn.Linear(20, 30), nn.Dropout(0.5), nn.Linear(30, 4))
        options = {"loss": nn.CrossEntropyLoss(), "optimizer": graphc.optim.SGD(lr=0.1)}
        graph = run_passes(training_graph(model, (6, 20), *options.values()), TRAINING)
        if backend == "cuda":
            return program(graph, on())
        return llvm.compile(make_schedule(graph), graph)

    ours, theirs = step_of("cuda"), step_of("llvm")
    x, y = np.ones((6, 20), np.float32), np.arange(6, dtype=np.int32) % 4
    for _ in range(3):
        got, want = ours(x, y), theirs(x, y)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)


def test_equal_programs_have_equal_text():
    first, second = (assemble(make_schedule(inference("lenet5"), GPU), HOPPER, "f32").text for _ in range(2))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("target", [AMPERE, HOPPER], ids=lambda t: t.arch)
@pytest.mark.parametrize("name", ZOO)
def test_every_kernel_of_the_zoo_compiles(name, target):
    graph = run_passes(traced_graph(get(name).make(), get(name).input), INFERENCE)
    schedule = make_schedule(graph, GPU)
    check_resources([assemble(schedule, target, arithmetic) for arithmetic in ("f32", "tf32", "bf16")], target)


@pytest.mark.slow
@pytest.mark.parametrize("target", [AMPERE, HOPPER], ids=lambda t: t.arch)
@pytest.mark.parametrize("name", ZOO)
def test_training_kernels_of_the_zoo_compile(name, target):
    """In float32, the default of training; of two networks in the other precisions too."""
    entry = get(name)
    shape = (4, *entry.input[1:])
    make = entry.make if name != "unet" else lambda: nn.Sequential(entry.make(), nn.AvgPool2d(shape[2]), nn.Flatten())
    schedule = make_schedule(training(make, shape, graphc.optim.AdamW(lr=1e-3)), GPU)
    precisions = ("f32", "tf32", "bf16") if name in ("lenet5", "resnet18") else ("f32",)
    check_resources([assemble(schedule, target, arithmetic) for arithmetic in precisions], target)

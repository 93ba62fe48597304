"""Blocks: kernels in step give what they give one after the other, and only chains that fit are put in step."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.driver import traced_graph, training_graph
from graphc.models import MobileNetV1, ViT, get
from graphc.passes import FAST_INFERENCE, FAST_TRAINING, run_passes
from graphc.schedule import PIPELINE, make_schedule
from graphc.schedule.kernels import Block, Contraction, Loops, bodies, stores
from graphc.schedule.layout import ALIGNMENT

from .harness import run_schedule
from .networks import GRAPHS, draw, inference

THREADS = (1, 2, 3, 8)


@pytest.fixture
def everywhere(monkeypatch):
    """Blocks wherever they are possible, however small the network."""
    module = sys.modules["graphc.schedule.block"]
    for name, value in {"NEAR_BYTES": 1, "FEWEST_STEPS": 2, "FEWEST_POINTS": 1}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module._Chains, "cost", lambda *_: 0.0)


def blocks(schedule) -> list[Block]:
    return [k for k in schedule.kernels if isinstance(k, Block)]


class Wide(nn.Module):
    """3x3 convolutions that are large enough for Winograd's tiles, odd in channels, on an image of whole tiles."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 37, 3, padding=1), nn.Conv2d(37, 17, 3, padding=1)

    def forward(self, x):
        return self.second(self.first(x).relu()).relu()


NETWORKS = {
    "winograd": (Wide, (1, 16, 24, 16)),
    "winograd batch 3": (Wide, (3, 16, 8, 12)),
    "depthwise": (lambda: MobileNetV1(classes=10), (2, 3, 64, 64)),
    "attention": (lambda: ViT(classes=7, size=32, width=48, depth=1, heads=3), (2, 3, 32, 32)),
    "lenet5": (lambda: get("lenet5").make(), (3, 1, 28, 28)),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_blocks_give_the_same_bits(name, monkeypatch, request):
    make, shape = NETWORKS[name]
    model = make()
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    without = tuple(s for s in PIPELINE if s.__name__ != "block")
    monkeypatch.setattr("graphc.schedule.PIPELINE", without)
    plain = graphc.compile(model, shape)
    assert not blocks(plain.program.schedule)
    monkeypatch.setattr("graphc.schedule.PIPELINE", PIPELINE)
    request.getfixturevalue("everywhere")
    net = graphc.compile(model, shape)
    assert blocks(net.program.schedule), "nothing is in step"
    want = plain(x)
    for threads in THREADS:
        net.program.threads = threads
        net.program.poison()
        assert (net(x) == want).all(), f"{threads} threads"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("channels", [37, 64])
def test_blocks_of_a_training_step_give_the_same_bits(channels, packed, monkeypatch, everywhere):
    """Weights lie in blocks of channels, which no step may share with the next: where a copy packs transformed ones, a
    block of the two would have steps of 8 channels."""
    monkeypatch.setattr(sys.modules["graphc.schedule.block"], "FEWEST_STEPS", 6)
    if not packed:
        monkeypatch.setattr(sys.modules["graphc.schedule.assign_layouts.weights"], "transformed", lambda *_: {})
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((2, 16, 12, 8), np.float32), np.array([3, 1], np.int32)
    convs = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((16, channels), (channels, 64))))
    model = nn.Sequential(convs, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    start = {name: np.array(array) for name, array in model.state_dict().items()}

    def trained(pipeline):
        monkeypatch.setattr("graphc.schedule.PIPELINE", pipeline)
        model.load_state_dict(start)
        step = graphc.compile_training(
            model, images.shape, loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.01)
        )
        losses = [step(images, labels) for _ in range(2)]
        return len(blocks(step.program.schedule)), losses, {n: np.array(a) for n, a in model.state_dict().items()}

    none, want, weights = trained(tuple(s for s in PIPELINE if s.__name__ != "block"))
    some, got, others = trained(PIPELINE)
    assert some > none == 0
    assert got == want
    for name, array in weights.items():
        assert (array == others[name]).all(), name


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_batch_statistics_go_along_with_a_convolution(kernel, monkeypatch, everywhere):
    """So do the sums of the backward pass. What is summed up is stored as a whole: others read it later."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 16, 32, 36), np.float32), np.array([3, 1, 0, 4], np.int32)
    convs = [(nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.BatchNorm2d(b)) for a, b in ((16, 37), (37, 16))]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    model = nn.Sequential(*(layer for conv, norm in convs for layer in (conv, norm, nn.ReLU())), *head)
    start = {name: np.array(array) for name, array in model.state_dict().items()}

    def trained(pipeline, threads):
        monkeypatch.setattr("graphc.schedule.PIPELINE", pipeline)
        model.load_state_dict(start)
        sgd = graphc.optim.SGD(lr=0.01)
        step = graphc.compile_training(model, images.shape, loss=nn.CrossEntropyLoss(), optimizer=sgd, threads=threads)
        losses = [step(images, labels) for _ in range(2)]
        return step.program.schedule, losses, {n: np.array(a) for n, a in model.state_dict().items()}

    _, want, weights = trained(tuple(s for s in PIPELINE if s.__name__ != "block"), 1)
    for threads in THREADS:
        schedule, got, others = trained(PIPELINE, threads)
        assert got == want, f"{threads} threads"
        assert all((array == others[name]).all() for name, array in weights.items()), f"{threads} threads"
    sums = [b for b in blocks(schedule) if b.name.endswith("sum.partial")]
    assert len(sums) >= 3, "two norms forwards, one behind a ReLU backwards"
    for block in sums:
        *_, maker, last = block.body
        (name,) = set(maker.outside[1]) & set(last.outside[0])
        assert name not in block.local
        assert schedule.buffers[name].place == "arena"
    assert any(isinstance(b.body[-2], Contraction) for b in sums) or kernel == 3


@pytest.mark.parametrize("name", list(GRAPHS))
def test_the_interpreted_block_means_the_same(name, everywhere, monkeypatch):
    graph = GRAPHS[name]()
    schedule = make_schedule(graph)
    monkeypatch.setattr("graphc.schedule.PIPELINE", tuple(s for s in PIPELINE if s.__name__ != "block"))
    outputs, state = run_schedule(schedule, *draw(graph), real=np.float64)
    wanted, wanted_state = run_schedule(make_schedule(graph), *draw(graph), real=np.float64)
    for got, want in zip(outputs, wanted, strict=True):
        assert (got == want).all()
    for leaf, want in wanted_state.items():
        assert (state[leaf] == want).all(), leaf


def test_large_maps_go_through_winograd_by_rows_of_tiles():
    schedule = graphc.compile(get("resnet18").make(), (1, 3, 224, 224)).program.schedule
    found = [b for b in blocks(schedule) if sum(isinstance(k, Contraction) for k in b.body) == 1 and len(b.body) > 2]
    assert found, "the first layer of resnet18 transforms, multiplies and transforms back in step"
    for block in found:
        assert {b.place for n in block.local if (b := schedule.buffers[n])} == {"thread"}
        assert all(k.par[: len(block.steps)] == block.steps for k in block.body)
    most = max(sum(-(-schedule.buffers[n].bytes // ALIGNMENT) * ALIGNMENT for n in b.local) for b in blocks(schedule))
    assert schedule.thread_bytes == most


@pytest.mark.parametrize(("channels", "size", "steps"), [
    (32, 112, [28, 2]),  # 144 KiB of weights stay in the cache beside half a row of tiles
    (128, 112, [28]),  # 2.3 MiB do not, beside a quarter no more than beside a whole one
    (64, 112, []),  # nor do 576 KiB; and what goes between whole kernels stays in the third cache
])  # fmt: skip
def test_steps_are_long_where_weights_stream_through_the_cache(channels, size, steps):
    model = nn.Sequential(nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 3, padding=1))
    graph = run_passes(traced_graph(model, (1, 3, size, size)), FAST_INFERENCE)
    assert [n for b in blocks(make_schedule(graph)) for _, n in b.steps] == steps


def test_the_first_convolution_of_resnet_makes_its_batch_statistics_row_by_row():
    """Its 25.7 MB would else be read from memory twice before they are normalised."""
    model, sgd = get("resnet18").make(), graphc.optim.SGD(lr=0.01)
    graph = run_passes(training_graph(model, (8, 3, 224, 224), nn.CrossEntropyLoss(), sgd), FAST_TRAINING)
    schedule = make_schedule(graph)
    (block,) = (b for b in blocks(schedule) if "conv1.conv2d" in b.outside[1])
    assert [type(k) for k in block.body] == [Contraction, Loops]
    assert [n for _, n in block.steps] == [8, 7]
    # nothing else reads it before it is normalised
    first, second, *_ = (k for k in schedule.kernels if "conv1.conv2d" in k.outside[0])
    assert first is block
    assert any(s.buffer == "relu.relu" for s in stores(second))


def test_attention_goes_head_by_head():
    """Scores, softmax, whose row is the kernel's own, and the product with the values. In the last layer, where one row
    is all that is read, there is nothing to gain."""
    schedule = make_schedule(inference(ViT(classes=7, depth=2), (1, 3, 224, 224)))
    (block,) = blocks(schedule)
    assert [type(k) for k in block.body] == [Contraction, Loops, Contraction]
    assert block.body[1].own
    assert block.own == {*block.local, *block.body[1].own}
    assert [n for _, n in block.steps] == [6]


def test_two_threads_share_the_steps():
    """Seven steps are four and three: 112 rows go by eights, not by sixteens."""
    steps = [
        math.prod(n for _, n in b.steps) for b in blocks(make_schedule(inference(MobileNetV1(), (1, 3, 224, 224))))
    ]
    assert steps
    assert all(n % 2 == 0 or n > 16 for n in steps)


def test_nothing_is_put_in_step_where_the_caches_hold_it():
    schedule = graphc.compile(get("lenet5").make(), (1, 1, 28, 28)).program.schedule
    assert not blocks(schedule)


def test_a_buffer_with_two_readers_stays_whole(everywhere):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(16, 16, 1) for _ in range(3))

        def forward(self, x):
            x = self.a(x).sigmoid()
            return self.b(x) + self.c(x.transpose(2, 3))

    schedule = graphc.compile(Fork(), (1, 16, 8, 8)).program.schedule
    local = {n for b in blocks(schedule) for n in b.local}
    read_by = {n: sum(n in k.outside[0] for w in schedule.kernels for k in bodies(w)) for n in schedule.buffers}
    assert all(read_by[n] == 1 for n in local)

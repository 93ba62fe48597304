"""Random networks of layers, compiled: answers and training steps against the float64 reference, and the same bits for
any number of threads, any width of vectors, and whatever the arena held before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.backends.llvm import program as llvm_program
from graphc.backends.llvm import target
from graphc.backends.llvm.assemble import assemble
from graphc.backends.reference import run
from graphc.driver import traced_graph, training_graph
from graphc.ir import GraphcError, array_of
from graphc.passes import INFERENCE, TRAINING, run_passes
from graphc.schedule import make_schedule
from graphc.schedule.image import state_image, weight_image

CHANNELS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 48, 65)
KERNELS = ((1, 1), (2, 2), (3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (6, 3))
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.Identity)
OPTIMIZERS = (
    optim.SGD(lr=0.05),
    optim.SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    optim.SGD(lr=0.02, momentum=0.9, dampening=0.3),
    # a large eps, so that a gradient which is 0 but for its rounding does not become a step
    optim.Adam(lr=0.01, eps=1e-2, weight_decay=0.01),
    optim.AdamW(lr=0.01, eps=1e-2),
)
MAX_ELEMENTS, MAX_MACS = 20_000, 2e7


class RandomNetwork(nn.Module):
    """Layers with random arguments on random values made before; all that nothing reads is an output, or only the last
    of it (`single`)."""

    def __init__(self, seed: int, steps: int, single: bool):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.single, self.layers = single, nn.ModuleList([])
        self.shape = (int(self.rng.integers(2, 6)), self.pick(CHANNELS), *map(int, self.rng.integers(1, 21, 2)))
        self.plan: list[tuple] = []  # what to do, and the numbers of the values to do it with
        values = [graphc.input(self.shape, "x")]
        for _ in range(20 * steps):
            if len(self.plan) == steps:
                break
            action, *operands = self.propose(values)
            try:
                value = action(self, *(values[k] for k in operands))
            except GraphcError:
                continue  # a window larger than its image, say
            if 0 < value.type.elements <= MAX_ELEMENTS:
                self.plan.append((action, *operands))
                values.append(value)

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def some(self, most: int, least: int = 0) -> tuple[int, int]:
        return tuple(int(n) for n in self.rng.integers(least, most + 1, 2))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def propose(self, values: list) -> tuple:
        """An action and its operands."""
        k = len(values) - 1 if self.chance(0.6) else int(self.rng.integers(len(values)))
        x, kinds = values[k], [self.join, self.add, self.crop, self.move, self.reduce, self.linear, self.activation]
        if x.ndim == 4:
            kinds += [self.conv, self.conv, self.conv, self.pool, self.pool, self.norm, self.again, self.again]
        found = self.pick(kinds)
        if found in (self.join, self.add):
            return found(values, k)
        return found(x), k

    def layer(self, layer: nn.Module):
        self.layers.append(layer)
        number = len(self.layers) - 1
        return lambda net, x: net.layers[number](x)

    def conv(self, x):
        channels = x.shape[1]
        groups = self.pick([1, 1, channels, *(d for d in (2, 4, 16) if channels % d == 0)])
        out = groups * int(self.rng.integers(1, 70 // groups + 1))
        kernel = self.pick(KERNELS)
        while channels // groups * out * kernel[0] * kernel[1] * x.shape[0] * x.shape[2] * x.shape[3] > MAX_MACS:
            out, kernel = groups, (1, 1)
            if groups == 1:
                break
        stride, dilation = self.some(3, 1) if self.chance(0.5) else 1, self.some(2, 1) if self.chance(0.3) else 1
        return self.layer(nn.Conv2d(channels, out, kernel, stride, self.some(3), dilation, groups, self.chance(0.7)))

    def pool(self, x):
        kernel = self.some(4, 1)
        padding = tuple(int(self.rng.integers(k // 2 + 1)) for k in kernel)
        stride, ceil = self.pick((None, 1, 2, (2, 3), (3, 1))), self.chance(0.4)
        if self.chance(0.5):
            return self.layer(nn.MaxPool2d(kernel, stride, padding, self.pick((1, 1, 2)), ceil))
        return self.layer(nn.AvgPool2d(kernel, stride, padding, ceil, self.chance(0.5)))

    def norm(self, x):
        kinds = [nn.LayerNorm(x.shape[-1:])]
        if x.type.elements > 4 * x.shape[1]:
            kinds += [nn.BatchNorm2d(x.shape[1])]
        return self.layer(self.pick(kinds))

    def linear(self, x):
        return self.layer(nn.Linear(x.shape[-1], self.pick(CHANNELS), self.chance(0.8))) if x.ndim else lambda net, x: x

    def activation(self, x):
        return self.layer(self.pick(ACTIVATIONS)())

    def again(self, x):
        """A layer that is there already, so that its weights are shared."""
        number = int(self.rng.integers(len(self.layers))) if len(self.layers) else None
        return (lambda net, x: x) if number is None else (lambda net, x: net.layers[number](x))

    def add(self, values, k):
        same = [j for j, v in enumerate(values) if v.shape == values[k].shape or v.ndim == 0]
        return self.pick((lambda net, x, y: x + y, lambda net, x, y: x * y.tanh(), graphc_maximum)), k, self.pick(same)

    def join(self, values, k):
        x = values[k]
        if not x.ndim:
            return (lambda net, x: -x), k
        axis = int(self.rng.integers(x.ndim))
        fit = [j for j, v in enumerate(values) if v.ndim == x.ndim and all(
            a == b for d, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)) if d != axis)]  # fmt: skip
        others = [self.pick(fit) for _ in range(int(self.rng.integers(1, 3)))]
        return (lambda net, *xs: graphc.concat(xs, axis)), *others, k

    def crop(self, x):
        key = tuple(slice(int(self.rng.integers(n)) if self.chance(0.5) else 0, None, self.pick((1, 1, 2, 3)))
                    for n in x.shape)  # fmt: skip
        return lambda net, x: x[key]

    def move(self, x):
        if x.ndim > 1 and self.chance(0.5):
            axes = tuple(int(a) for a in self.rng.permutation(x.ndim))
            return lambda net, x: x.permute(*axes)
        shape = self.pick(((x.shape[0], -1), x.shape[::-1], (-1,))) if x.ndim else (1,)
        return lambda net, x: x.reshape(*shape)

    def reduce(self, x):
        axes, keep = [a for a in range(x.ndim) if self.chance(0.4)], self.chance(0.6)
        if not axes:
            return self.layer(nn.Softmax(-1)) if x.ndim else lambda net, x: x.tanh()
        return self.pick((lambda net, x: x.mean(axes, keep), lambda net, x: x.max(axes, keep)))

    def forward(self, x):
        values = [x]
        for action, *operands in self.plan:
            values.append(action(self, *(values[k] for k in operands)))
        read = {k for _, *operands in self.plan for k in operands}
        ends = [v for k, v in enumerate(values) if k not in read]
        return ends[-1] if self.single else tuple(ends)


def graphc_maximum(net, x, y):
    return graphc.maximum(x, y)


def programs(schedule):
    """The program of this processor, and those that have the loops of wider and of narrower vectors; LLVM makes their
    vectors from the ones that are here."""
    here = target.host()
    made = [replace(here, name=f"{n} bytes", vector_bytes=n, vector_registers=32) for n in (16, 64)]
    image = weight_image(schedule)
    return [llvm_program.LlvmProgram(schedule, image, state_image(schedule), t) for t in (here, *made)]


def error(got, want) -> float:
    """The greatest difference, relative to the scale of `want`; below 1e-3 a scale comes from cancellation. Where the
    network itself gives inf or NaN, so must the program; how many, rounding may decide, so none is held against it."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    if not np.isfinite(want).all():
        return 0.0 if not np.isfinite(got).all() else np.inf
    return np.abs(got - want).max(initial=0.0) / max(np.abs(want).max(initial=0.0), 1e-3)


def bits(arrays) -> bytes:
    return b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)


def same_bits(schedule, calls, names=()):
    """What the program gives for `calls`, one after the other; checked to be the same however it runs."""
    first = None
    for program in programs(schedule):
        start = program.state.copy()
        for threads in (1, 2, 3, 8) if first is None else (2,):
            program.threads, program.state = threads, start.copy()
            found = []
            for inputs in calls:
                program.poison()
                found.append(program(*inputs))
            found.append([program.read_state(n) for n in names])
            first = first or found
            for a, b in zip(found, first, strict=True):
                assert bits(a) == bits(b), (program.target.name, threads)
    return first


def check_answers(seed: int) -> None:
    graphc.seed(seed)
    net = RandomNetwork(seed, 8, single=False)
    graph = run_passes(traced_graph(net, net.shape), INFERENCE)
    inputs = [np.random.default_rng(seed).uniform(-1, 1, net.shape).astype(np.float32)]
    want, _ = run(graph, inputs)
    f32, _ = run(graph, inputs, np.float32)
    (got, _) = same_bits(make_schedule(graph), [inputs])
    for a, b, c in zip(got, want, f32, strict=True):
        assert error(a, b) <= max(1e-5, 8 * error(c, b))  # or what float32 costs in NumPy too


def check_training(seed: int, optimizer: optim.SGD | optim.Adam) -> None:
    graphc.seed(seed)
    net = RandomNetwork(seed, 5, single=True)
    scores = traced_graph(net, net.shape).outputs[0].shape
    rng = np.random.default_rng(seed)
    classes = len(scores) == 2 and scores[1] > 1
    loss = nn.CrossEntropyLoss(label_smoothing=0.1) if classes else nn.MSELoss()
    try:
        graph = run_passes(training_graph(net, net.shape, loss, optimizer), TRAINING)
    except GraphcError as problem:
        pytest.skip(str(problem))  # no weights, or a batch norm of one value
    calls = []
    for _ in range(3):
        target_ = rng.integers(0, scores[1], scores[0]) if classes else rng.uniform(-1, 1, scores)
        x = rng.uniform(-1, 1, net.shape).astype(np.float32)
        calls.append((x, np.asarray(target_, np.int32 if classes else np.float32)))
    names = [v.name for v in graph.weights + graph.state]

    def reference(dtype):
        data: dict = {}
        for inputs in calls:
            outputs, updates = run(graph, inputs, dtype, data)
            data |= updates
        return outputs, [data.get(n, array_of(graph.data[n])) for n in names]

    (want, state), (want32, state32) = reference(np.float64), reference(np.float32)
    *_, got, got_state = same_bits(make_schedule(graph), calls, names)
    for what, a, b, c in zip(["loss", "scores", *names], [*got[:2], *got_state], [*want[:2], *state],
                             [*want32[:2], *state32], strict=True):  # fmt: skip
        assert error(a, b) <= max(5e-5, 10 * error(c, b)), what  # three steps, or what float32 costs in NumPy too


@pytest.fixture(autouse=True)
def any_vectors(monkeypatch):
    """Programs for vectors that this processor lacks run, as LLVM cuts them."""
    monkeypatch.setattr(llvm_program, "runs_here", lambda machine: True)


@pytest.mark.parametrize("seed", range(5))
def test_answers(seed):
    check_answers(seed)


@pytest.mark.parametrize("seed", range(4))
def test_training(seed):
    check_training(seed, OPTIMIZERS[seed % len(OPTIMIZERS)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 80))
def test_many_answers(seed):
    check_answers(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 80))
def test_many_trainings(seed):
    check_training(seed, OPTIMIZERS[seed % len(OPTIMIZERS)])


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(70, 33, bias=False)

    def forward(self, x):
        return graphc.concat([x, self.linear(x), x], 1)


def test_an_update_reads_what_was_before_its_stores():
    # the moment's store reaches into the padding behind 33 rows, the weight's does not: each evaluated the update
    # by itself, the second one after the moment had changed
    graphc.seed(0)
    rule = optim.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    graph = run_passes(training_graph(Joined(), (3, 70), nn.MSELoss(), rule), TRAINING)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=v.shape).astype(np.float32) for v in graph.inputs]
    _, want = run(graph, inputs)
    *_, state = same_bits(make_schedule(graph), [inputs], list(want))
    for a, b in zip(state, want.values(), strict=True):
        assert error(a, b) < 1e-6  # one sum of three products


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(17, 8, 1)

    def forward(self, x):
        y = self.conv(x.relu())
        z = graphc.concat([y, y, y], 1)
        return z.tanh() * 2.0, z.sigmoid()


def test_channels_stored_in_the_middle_of_a_block():
    # eight channels at 0, 8 and 16 of 24: with the padding lanes that only the last of them reaches, the second seemed
    # to end where the buffer does, and was refused
    graphc.seed(0)
    graph = run_passes(traced_graph(Repeated(), (4, 17, 1, 1)), INFERENCE)
    inputs = [np.random.default_rng(0).normal(size=(4, 17, 1, 1)).astype(np.float32)]
    want, _ = run(graph, inputs)
    (got, _) = same_bits(make_schedule(graph), [inputs])
    for a, b in zip(got, want, strict=True):
        assert error(a, b) < 1e-6


@pytest.mark.parametrize("kernel, padding, size", [(4, 2, 4), (3, 1, 3)])
def test_borders_of_small_images_do_not_swell_the_code(kernel, padding, size):
    # every border cut off and unrolled, the first of these had 700 kB of code and took seconds to compile
    graph = run_passes(traced_graph(nn.Conv2d(65, 65, kernel, 2, padding, groups=65), (2, 65, size, size)), INFERENCE)
    schedule = make_schedule(graph)
    assert len(str(assemble(schedule, target.x86_64_v3(), "net"))) < 600_000

"""Whole networks on the compiled backend: the reference's numbers, the same bits for any number of threads, and the
same bits from the executable."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess

import numpy as np
import pytest
from schedule.networks import GRAPHS, Grouped, Residual, Strided, draw

import graphc
from graphc import cache, nn
from graphc.backends import llvm
from graphc.backends.llvm import assemble, jit
from graphc.backends.llvm.objects import compile_objects
from graphc.backends.llvm.program import CLOSE
from graphc.backends.reference import run
from graphc.models import MobileNetV1, UNet, ViT, get
from graphc.schedule import make_schedule
from graphc.schedule.roofline import works

# The project's bound for every network: 1e-5 of the output's scale, forward and gradients.
TOLERANCE = 1e-5
THREADS = (1, 2, 3, 8, 64)


def close(got: np.ndarray, want: np.ndarray, what: str = "", tolerance: float = TOLERANCE) -> None:
    scale = np.abs(want).max(initial=0.0)
    error = np.abs(got.astype(np.float64) - want).max(initial=0.0)
    assert error <= tolerance * scale, f"{what}: error {error:.3g} at scale {scale:.3g}"


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


# the zoo: whole size where that takes seconds, smaller images and fewer classes elsewhere
ZOO = [
    ("mlp", (3, 784), {}),
    ("lenet5", (1, 1, 28, 28), {}),
    ("lenet5", (3, 1, 28, 28), {}),
    ("alexnet", (1, 3, 224, 224), {}),
    ("resnet18", (2, 3, 64, 64), {}),
    ("resnet50", (1, 3, 64, 64), {}),
    ("mobilenet_v1", (2, 3, 64, 64), {}),
    ("unet", (1, 1, 64, 64), {}),
]


FEW = [
    (nn.Conv2d(20, 1, 3, padding=1), 13),
    (nn.Conv2d(20, 3, (1, 7), padding=(0, 3)), 21),
    (nn.Conv2d(32, 1, 5, stride=3, padding=2), 13),
    (nn.Conv2d(32, 3, 3, dilation=2, padding=2), 6),
    (nn.Conv2d(16, 2, 3, dilation=2, padding=2), 9),
    (nn.Conv2d(16, 1, (3, 5), stride=(2, 1), padding=(1, 2)), 12),
    (nn.Conv2d(16, 1, 3, stride=(1, 2), padding=1), 10),
    (nn.Conv2d(9, 6, 3, padding=1, groups=3), 11),
    (nn.Conv2d(96, 6, 3, stride=2, groups=3), 9),
    (nn.Conv2d(1, 37, 3, padding=1), 40),
    (nn.Conv2d(3, 17, 1), 9),
    (nn.Sequential(nn.Conv2d(5, 32, 1), nn.Conv2d(32, 2, 3, padding=1), nn.Sigmoid()), 14),
    (nn.Sequential(nn.Conv2d(5, 32, 1), nn.ReLU(), nn.Conv2d(32, 1, 3, stride=2), nn.Conv2d(1, 8, 3)), 19),
]

STRIDED = [  # of whose images the pixels that are read are copied
    (nn.Sequential(nn.Conv2d(5, 37, 1), nn.ReLU(), nn.Conv2d(37, 260, 1, stride=3)), 17),
    (nn.Sequential(nn.Conv2d(5, 32, 1), nn.Conv2d(32, 512, 1, stride=2, groups=2)), 1),
    (nn.Sequential(nn.Conv2d(5, 17, 3), nn.Conv2d(17, 256, (3, 1), stride=(1, 2))), 9),
    (nn.Conv2d(3, 256, 1, stride=2), 7),
]


@pytest.mark.parametrize(("layer", "size"), FEW + STRIDED, ids=lambda v: str(v) if isinstance(v, int) else "")
def test_convolutions_give_the_reference_numbers_and_the_same_bits(layer, size):
    first = next(m for m in (layer, *layer.modules()) if isinstance(m, nn.Conv2d))
    x = images(2, first.in_channels, size, size)
    found = []
    for threads in (1, 3):
        net = graphc.compile(layer, x.shape, threads=threads)
        net.program.poison()
        found.append(net(x))
    ((want,), _) = run(net.graph, [x])
    close(found[0], want)
    np.testing.assert_array_equal(*found)


FEW_APART = [
    (nn.Conv2d(64, 1, 5, stride=3, padding=2), (13, 13)),  # every row of the window misses some row of results
    (
        nn.Conv2d(3, 2, 3, stride=2, padding=1),
        (40, 21),
    ),  # rows beyond the image, and blocks of rows inside
    (nn.Conv2d(17, 1, (1, 7), stride=(1, 2)), (5, 23)),  # no padding
    (nn.Conv2d(5, 1, (7, 1), stride=3, padding=(3, 0)), (14, 17)),  # two columns of three meet no weight
    (nn.Conv2d(4, 1, (3, 2), stride=(2, 2), padding=1), (9, 37)),  # as wide as its steps
    (nn.Conv2d(9, 2, 5, stride=3, padding=4, dilation=2), (13, 13)),
    (nn.Conv2d(6, 1, 3, stride=2, padding=2, dilation=2), (12, 9)),  # every second column meets the whole window
    (nn.Conv2d(2, 1, 3, stride=4, padding=1), (10, 35)),  # every fourth column meets no weight
    (nn.Conv2d(2, 1, (2, 13), stride=2, padding=(1, 6)), (6, 50)),  # more slots than rows go side by side
    (nn.Conv2d(6, 2, 3, stride=2, padding=1, groups=2), (8, 19)),
]


@pytest.mark.parametrize("batch", [1, 3, 5])
@pytest.mark.parametrize(("layer", "size"), FEW_APART)
def test_strided_convolutions_with_few_output_channels(layer, size, batch):
    """Column by column, in memory that holds nothing from before."""
    x = images(batch, layer.in_channels, *size)
    net = graphc.compile(layer, x.shape)
    assert any(name.endswith(".columns") for name in net.schedule.buffers)
    ((want,), _) = run(net.graph, [x])
    found = []
    for net.program.threads in (1, 2, 3, 8):
        net.program.poison()
        found.append(net(x))
    close(found[0], want)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize(("name", "shape", "options"), ZOO, ids=lambda v: str(v).replace(" ", ""))
def test_zoo_gives_the_reference_numbers(name, shape, options):
    net = graphc.compile(get(name).make(**options), shape)
    x = images(*shape)
    net.program.poison()
    got = net(x)
    ((want,), _) = run(net.graph, [x])
    close(got, want, name)
    net.program.poison()
    assert (net(x) == got).all(), "a second run gives other bits"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50", "mobilenet_v1", "unet", "vit_s16"])
def test_zoo_at_full_size(name):
    shape = get(name).input
    net = graphc.compile(get(name).make(), shape)
    x = images(*shape)
    ((want,), _) = run(net.graph, [x])
    close(net(x), want, name)


# small relatives of the zoo's networks, so that a training step takes a second or two
SMALL = {
    "mobilenet_v1": (lambda: MobileNetV1(classes=5, width=0.25), (6, 3, 64, 64)),
    "unet": (lambda: nn.Sequential(UNet(width=5, depth=2), Pooled()), (2, 1, 20, 12)),
    "vit": (lambda: ViT(classes=5, size=24, patch=8, width=24, depth=2, heads=3), (3, 3, 24, 24)),
}


class Pooled(nn.Module):
    """Scores of each pixel to scores of the image, so that a batch has one label an image."""

    def forward(self, x):
        return x.mean((2, 3))


def step_of(model: nn.Module, shape: tuple[int, ...], optimizer=None, **options):
    optimizer = optimizer or graphc.optim.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3)
    return graphc.compile_training(model, shape, loss=nn.CrossEntropyLoss(), optimizer=optimizer, **options)


TRAINED = [
    pytest.param("mlp", (7, 784), id="mlp"),
    pytest.param("lenet5", (5, 1, 28, 28), id="lenet5"),
    # 64x64 leaves 2x2 maps in the last stage: a batch norm over very few values is ill conditioned in any precision
    pytest.param("resnet18", (4, 3, 64, 64), id="resnet18", marks=pytest.mark.slow),
]


def check_step(step, x: np.ndarray, labels: np.ndarray) -> None:
    """One step against the reference.

    A batch norm over the few values of small maps magnifies rounding: in NumPy's float32 the worst gradient of resnet18
    at 64x64 is 7e-6 of its scale away from float64, that of MobileNet, where values also cross the ends of ReLU6, 3e-2.
    So the bound is the project's, or twice what NumPy gets where that is more.
    """
    before = step.save()
    step.program.poison()
    loss = step(x, labels)
    outputs, updates = run(step.graph, [x, labels], data=before)
    assert abs(loss - outputs[0]) <= TOLERANCE * abs(outputs[0])
    _, rounded = run(step.graph, [x, labels], np.float32, before)
    magnified = max(np.abs(rounded[k] - want).max() / max(np.abs(want).max(), 1e-30) for k, want in updates.items())
    for key, want in updates.items():
        close(step.program.read_state(key), want, key, max(TOLERANCE, 2 * magnified))


@pytest.mark.parametrize(("name", "shape"), TRAINED)
def test_training_step_gives_the_reference_numbers(name, shape):
    """Every weight, moment and statistic after one step. The change is compared, not only the value: with momentum 0 at
    the start, the moments are the gradients."""
    graphc.seed(0)
    step = step_of(get(name).make(classes=10), shape, graphc.optim.SGD(lr=0.05, momentum=0.9))
    x, labels = images(*shape), np.arange(shape[0], dtype=np.int32) % 10
    check_step(step, x, labels)


def test_gradients_of_strided_pixels_give_the_reference_numbers():
    """A copy serves the weight gradient, too."""
    graphc.seed(0)
    model = nn.Sequential(STRIDED[0][0], nn.ReLU(), Pooled())
    step, x = step_of(model, (3, 5, 17, 17)), images(3, 5, 17, 17)
    assert [k.name for k in step.program.schedule.kernels].count("0.2.conv2d.pack") == 1
    check_step(step, x, np.arange(3, dtype=np.int32))


@pytest.mark.parametrize("name", [pytest.param("mobilenet_v1", marks=pytest.mark.slow), "unet", "vit"])
def test_small_relatives_of_the_zoo(name):
    """The forward pass, and every weight, moment and statistic after one step."""
    graphc.seed(0)
    make, shape = SMALL[name]
    model, x = make(), images(*shape)
    net = graphc.compile(model, shape)
    net.program.poison()
    close(net(x), run(net.graph, [x])[0][0], name)
    step = step_of(model, shape, graphc.optim.SGD(lr=0.05, momentum=0.9))
    labels = np.arange(shape[0], dtype=np.int32) % 2
    check_step(step, x, labels)


@pytest.mark.parametrize("name", list(GRAPHS))
def test_small_networks_give_the_reference_numbers(name):
    """Ragged channels, strides, groups, dilation, dropout, every norm: state after one step included."""
    graph = GRAPHS[name]()
    schedule = make_schedule(graph)
    program = llvm.compile(schedule, graph)
    program.poison()
    inputs = draw(graph)
    got = program(*inputs)
    want, updates = run(graph, inputs)
    for a, b in zip(got, want, strict=True):
        close(a, b)
    for key, value in updates.items():
        if key.endswith(".square"):
            continue  # squares of gradients: their scale says nothing about a weight's rounding
        close(program.read_state(key), value, key, 1e-4 if "Adam" in name else TOLERANCE)


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    """Kernels of small networks are shared here as those of large ones are, and wait for threads that sleep."""
    monkeypatch.setattr(assemble, "BRIEF_NS", 0)


SAME_BITS = [
    pytest.param(Residual, (3, 3, 13, 11), id="residual"),
    pytest.param(Grouped, (3, 6, 9, 9), id="grouped"),
    pytest.param(Strided, (3, 6, 11, 13), id="strided"),
    pytest.param(get("lenet5").make, (64, 1, 28, 28), id="lenet5"),
]


@pytest.mark.parametrize(("make", "shape"), SAME_BITS)
def test_bits_do_not_depend_on_threads(make, shape):
    x, labels = images(*shape), np.arange(shape[0], dtype=np.int32) % 5
    model = make()
    net = graphc.compile(model, shape)
    first = net(x)
    for net.program.threads in THREADS:
        net.program.poison()
        assert (net(x) == first).all(), f"{net.program.threads} threads"

    step = step_of(model, shape)
    start, runs = step.save(), []
    for step.program.threads in THREADS:
        step.restore(start)
        step.program.poison()
        runs.append(([step(x, labels) for _ in range(3)], step.save()))
    for losses, state in runs[1:]:
        assert losses == runs[0][0]
        for key, value in state.items():
            np.testing.assert_array_equal(value, runs[0][1][key], err_msg=key)


def test_the_last_partial_batch_uses_the_same_state():
    """Steps of 4 and 3 samples in turn give what the reference gives."""
    losses = []
    for backend in ("llvm", "reference"):
        graphc.seed(2)
        model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))
        step = step_of(model, (4, 1, 6, 6), backend=backend)
        x, labels = images(4, 1, 6, 6), np.array([0, 1, 2, 1], np.int32)
        losses.append([step(x[:n], labels[:n]) for n in (4, 3, 4, 3, 4)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_the_model_sees_its_trained_weights_and_keeps_them():
    model = get("mlp").make(classes=3)
    step = step_of(model, (4, 784))
    before = {k: v.copy() for k, v in model.state_dict().items()}
    x, labels = images(4, 784), np.array([0, 1, 2, 1])
    first = step(x, labels)
    after = model.state_dict()
    assert any((after[k] != before[k]).any() for k in before)
    net = graphc.compile(model, (4, 784))  # takes the trained weights
    close(net(x), run(net.graph, [x])[0][0])
    model.load_state_dict(before)  # reaches into the program
    assert step(x, labels) == first


def test_learning_rate_changes_without_compiling():
    model = get("mlp").make(classes=3)
    step = step_of(model, (4, 784), graphc.optim.SGD(lr=0.1))
    step.lr = 0.0
    before = {k: v.copy() for k, v in model.state_dict().items()}
    step(images(4, 784), np.array([0, 1, 2, 1]))
    assert step.lr == 0.0
    assert all((v == before[k]).all() for k, v in model.state_dict().items())


def test_scalars_and_gradients_of_the_course_exercise():
    """f = x0 / exp(-(x0 y0 + x1 y1)) at (1, -1, 1, -2) is e^3; its gradients in closed form."""
    x0, x1, y0, y1 = (graphc.input((), name=n) for n in ("x0", "x1", "y0", "y1"))
    f = x0 / graphc.exp(-(x0 * y0 + x1 * y1))
    program = graphc.compile([f, *graphc.grad(f, [x0, x1, y0, y1])])
    cube = np.e**3
    got = [float(v) for v in program(1.0, -1.0, 1.0, -2.0)]
    np.testing.assert_allclose(got, [cube, 2 * cube, -2 * cube, cube, -cube], rtol=1e-6)


def executable(net, path, **options) -> str:
    if not shutil.which("cc"):
        pytest.importorskip("ziglang")
    net.build(path, **options)
    return str(path)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: get("lenet5").make(), (1, 1, 28, 28)),
        (lambda: Residual(), (2, 3, 13, 11)),
        (lambda: Grouped(), (1, 6, 9, 9)),
        (lambda: Strided(), (5, 6, 11, 13)),
    ],
    ids=["lenet5", "residual", "grouped", "strided"],
)
def test_executable_gives_the_same_bits(make, shape, tmp_path):
    net = graphc.compile(make(), shape)
    path = executable(net, tmp_path / "net")
    x = images(*shape)
    np.save(tmp_path / "x.npy", x)
    for threads in THREADS:
        command = [path, "--threads", str(threads), "--output", tmp_path / "y.npy", tmp_path / "x.npy"]
        subprocess.run(command, check=True, capture_output=True)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net(x))
    done = subprocess.run([path, "--selftest"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("threads", ["1", "2"])
def test_executable_times_its_kernels(threads, tmp_path):
    """All kernels of the schedule in order; the table says what the data says."""
    net = graphc.compile(Residual(), (2, 3, 13, 11))
    path = executable(net, tmp_path / "net")
    done = subprocess.run([path, "--profile", "--json", "--threads", threads], check=True, capture_output=True)
    found = json.loads(done.stdout)["profile"]
    known, kernels, limits = works(net.schedule), found["kernels"], found["limits"]
    assert [(k["name"], k["kind"], k["macs"], k["bytes"]) for k in kernels] == [tuple(vars(w).values()) for w in known]
    assert all(k["us"] > 0 for k in kernels)
    reads = limits["gigabytes_per_second"]
    assert limits["threads"] == int(threads) and 1 < limits["gflops"] < 1000 * int(threads)
    assert list(reads)[-1] == "DRAM" and all(0.1 < rate < 4000 for rate in reads.values())
    for k in kernels:  # none of them is larger than a second-level cache
        least = max(2e-3 * k["macs"] / limits["gflops"], 1e-3 * k["bytes"] / reads["L2"])
        np.testing.assert_allclose(k["of_roofline"], least / k["us"], rtol=1e-4)
    table = subprocess.run([path, "--profile"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in table[1:-3]] == [w.name for w in known]
    assert table[-3].startswith("all kernels") and table[-2].startswith("roofline, 1 thread: ")


@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_one_by_one_are_a_run(threads):
    """What --profile runs: NAME_step for each kernel in order leaves what NAME_run leaves."""
    net = graphc.compile(Residual(), (2, 3, 13, 11))
    program, x = net.program, images(2, 3, 13, 11)
    want, got = net(x), np.zeros_like(net(x))
    loaded = jit.load_object(
        compile_objects(net.schedule, program.target, "s", stepwise=True).code, ["s_step", "s_close"]
    )
    step = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5, ctypes.c_int, ctypes.c_int64)(
        loaded.address("s_step")
    )
    sides = [(ctypes.c_void_p * 1)(a.ctypes.data) for a in (x, got)]
    program.poison()
    memories = [m.ctypes.data for m in (program.weights, program.state)]
    for k in range(len(net.schedule.kernels)):
        assert step(*memories, *map(ctypes.addressof, sides), program._arena.ctypes.data, threads, k) == 0
    CLOSE(loaded.address("s_close"))()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("make", "shape"), [SAME_BITS[0].values, SAME_BITS[1].values], ids=["residual", "grouped"])
def test_executable_for_arm_gives_the_same_bits(make, shape, tmp_path):
    """Emulated: NEON's vectors, and no instruction in common with the program in this process."""
    pytest.importorskip("ziglang")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    net = graphc.compile(make(), shape)
    path, x = tmp_path / "net", images(*shape)
    net.build(path, cpu="aarch64")
    assert path.read_bytes()[18:20] == b"\xb7\0", "e_machine of ELF: 183 is AArch64"
    if emulator is None:
        pytest.skip("no qemu-aarch64 here")
    np.save(tmp_path / "x.npy", x)
    command = [emulator, path, "--threads", "2", "--output", tmp_path / "y.npy", tmp_path / "x.npy"]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net(x))


@pytest.mark.parametrize(("make", "shape"), SAME_BITS[:2])
def test_cached_code_gives_the_same_bits(make, shape, tmp_path, monkeypatch):
    """Compiled afresh, taken from the cache, and without a cache."""
    x, found = images(*shape), []
    for folder in (tmp_path, tmp_path, "off"):
        monkeypatch.setenv("GRAPHC_CACHE", str(folder))
        cache.CODE.forget()
        graphc.seed(0)
        net = graphc.compile(make(), shape)
        found.append((net.program.objects.compiled, net(x)))
    assert found[0][0] > 0 and found[1][0] == 0 and found[2][0] == found[0][0]
    for _, y in found[1:]:
        np.testing.assert_array_equal(y, found[0][1])


def test_preprocessing_belongs_to_the_program(tmp_path):
    """Bytes in, scaled and normalised by graph nodes: the same scores as doing it by hand."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 4))
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    prepare = graphc.Preprocess(scale=1 / 255, mean=mean, std=std)
    net = graphc.compile(model, (1, 3, 8, 8), preprocess=prepare)
    pixels = np.random.default_rng(3).integers(0, 256, (1, 3, 8, 8), np.uint8)
    by_hand = (pixels / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    plain = graphc.compile(model, (1, 3, 8, 8))
    close(net(pixels), plain(by_hand.astype(np.float32)))
    path = executable(net, tmp_path / "net")
    (tmp_path / "image.ppm").write_bytes(b"P6 8 8 255\n" + pixels[0].transpose(1, 2, 0).tobytes())
    subprocess.run([path, "--output", tmp_path / "y.npy", tmp_path / "image.ppm"], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net(pixels))


def test_executable_holds_a_clone_for_avx512(tmp_path):
    if llvm.target_of("native").arch != "x86_64":
        pytest.skip("the portable executable has clones on x86-64")
    path = executable(graphc.compile(get("mlp").make(), (1, 784)), tmp_path / "mlp")
    info = subprocess.run([path, "--info"], check=True, capture_output=True, text=True).stdout
    assert "x86-64-v3" in info
    assert "x86-64-v4" in info

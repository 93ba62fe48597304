"""The GPU as CuPy shows it, without one: what is missing is told, and a program does on a device what it does on the
shim, in the order that CUDA wants. `fake_cupy` stands for CuPy and runs kernels on the shim."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cupy import ELAPSED_MS, FakeCupy
from on_shim import program
from shim.build import compile_kernels, compilers

import graphc
from graphc import nn
from graphc.backends.cuda import device as devices
from graphc.backends.cuda import profile
from graphc.backends.cuda.nvrtc import Compiled
from graphc.backends.cuda.target import AMPERE, HOPPER, of_capability
from graphc.driver import kernel_times, traced_graph
from graphc.ir import GraphcError, GraphcTypeError, GraphcValueError
from graphc.passes import INFERENCE, run_passes

SHAPE = (2, 3, 9, 7)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return nn.functional.softmax(self.head(self.conv(x).relu().mean((2, 3))), 1)


def kernel(text: str, name: str):
    """What the fake driver launches: a kernel on the shim."""
    library = compile_kernels(text, checked=False)
    sizes = library.parameters(name)

    def run(grid, threads, shared, addresses):
        arguments = [(a, size, not const) for a, (size, const) in zip(addresses, sizes, strict=True)]
        library.launch_at(name, grid, threads, shared, arguments)

    run.arguments = len(sizes)
    return run


@pytest.fixture
def fake(monkeypatch):
    """`fake(**options)` puts a fake CuPy in place of CuPy, whether that is installed or not."""

    def put(**options) -> FakeCupy:
        cupy = FakeCupy(kernel, **options)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        # text instead of machine code: without the prelude, which the shim has its own of
        monkeypatch.setattr(devices, "compile_module", lambda text, arch: Compiled(body(text).encode(), {}, ""))
        devices.current.cache_clear()
        return cupy

    yield put
    devices.current.cache_clear()


def body(text: str) -> str:
    return text[re.search(r"^KERNEL\(", text, re.MULTILINE).start() :]


def message(call) -> str:
    with pytest.raises(GraphcError) as error:
        call()
    return str(error.value)


def compiled(model=None, shape=SHAPE):
    return graphc.compile(model or Net(), shape, backend="cuda", precision="exact")


# what is missing


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    devices.current.cache_clear()
    told = message(compiled)
    assert told.startswith("backend cuda: CuPy is not installed") and 'pip install "graphc-compiler[cuda]"' in told


def test_without_driver(fake):
    fake(devices=-1)
    told = message(compiled)
    assert "CuPy 14.2.0 is installed, but there is no usable NVIDIA driver" in told and "InsufficientDriver" in told
    assert 'backend="llvm"' in told


def test_without_gpu(fake):
    fake(devices=0)
    assert message(compiled).startswith("backend cuda: no NVIDIA GPU found")


def test_old_gpus_are_refused(fake):
    fake(capability="75")
    told = message(compiled)
    assert "this GPU has compute capability 7.5" in told and "expected 8.0 (Ampere) or newer" in told


@pytest.mark.parametrize(
    ("capability", "arch", "shared"),
    [("80", "sm_80", AMPERE.shared_block), ("86", "sm_86", 99 << 10), ("87", "sm_87", 99 << 10),
     ("90", "sm_90", HOPPER.shared_block), ("103", "sm_103", 227 << 10), ("120", "sm_120", 99 << 10)],
)  # fmt: skip
def test_targets_by_capability(capability, arch, shared):
    found = of_capability(capability)
    assert (found.arch, found.shared_block) == (arch, shared)


def test_out_of_memory_tells_the_plan_and_the_largest_buffers(fake):
    fake(memory=3000)
    told = message(compiled)
    assert re.match(r"net: the device is out of memory\n  planned [\d,]+ bytes \(weights [\d,]+, state 0, arena", told)
    assert "3,000 are free" in told or "are free" in told
    assert "largest: conv.conv2d" in told or "largest: " in told
    assert "smaller batch" in told


# programs


needs_compiler = pytest.mark.skipif(not compilers(), reason="the shim needs a C++ compiler")


@needs_compiler
def test_a_call_gives_what_the_shim_gives(fake):
    fake()
    model, x = Net(), np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    net = compiled(model)
    assert net.program.device.target == HOPPER
    graph = run_passes(traced_graph(model, SHAPE), INFERENCE)
    want = program(graph)(x)[0]
    for _ in range(2):
        np.testing.assert_array_equal(net(x), want)


@needs_compiler
def test_arrays_on_the_device_stay_there(fake):
    cupy = fake()
    net, x = compiled(), np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    want = net(x)
    there = cupy.asarray(SimpleNamespace(__cuda_array_interface__=x))
    foreign = SimpleNamespace(__dlpack_device__=lambda: (2, 0), array=x)
    interface = SimpleNamespace(__cuda_array_interface__=x)
    for given in (there, foreign, interface, there.transpose(0, 1, 3, 2).copy("C").transpose(0, 1, 3, 2)):
        got = net(given)
        assert isinstance(got, cupy.ndarray)
        np.testing.assert_array_equal(np.asarray(got), want)
    assert type(net(x)) is np.ndarray


@needs_compiler
def test_wrong_arrays_are_refused(fake):
    cupy = fake()
    net, x = compiled(), np.zeros(SHAPE, np.float32)
    cases = (
        (GraphcTypeError, "wrong element type\n  expected float32, got float64", x.astype(np.float64)),
        (GraphcValueError, "wrong shape\n  expected 2x3x9x7, got 3x9x7", x[0]),
    )
    for kind, told, array in cases:
        for given in (array, cupy.made(array)):
            with pytest.raises(kind, match=re.escape(told)):
                net(given)
    elsewhere = cupy.made(x)
    elsewhere.number = 1
    with pytest.raises(GraphcTypeError, match="input: it is on GPU 1, the program on GPU 0"):
        net(elsewhere)


@needs_compiler
def test_training_state_lives_on_the_device(fake):
    fake()
    model, rng = Net(), np.random.default_rng(2)
    first = {k: v.copy() for k, v in model.state_dict().items()}
    options = {"loss": nn.CrossEntropyLoss(), "optimizer": graphc.optim.Adam(lr=0.01)}
    step = graphc.compile_training(model, SHAPE, backend="cuda", **options)
    other = Net()
    other.load_state_dict(first)
    reference = graphc.compile_training(other, SHAPE, backend="reference", **options)
    for batch in (2, 2, 5, 2):  # another batch is another program over the same state
        x, y = rng.standard_normal((batch, *SHAPE[1:]), np.float32), rng.integers(0, 4, batch)
        assert step(x, y) == pytest.approx(reference(x, y), rel=1e-5)
    step.lr = 0.5
    assert step.lr == 0.5
    step.lr = 0.01
    saved = step.save()
    for name, want in reference.save().items():
        np.testing.assert_allclose(saved[name], want, rtol=1e-3, atol=1e-5, err_msg=name)
    loss = step(x, y)
    step.restore(saved)
    assert step(x, y) == loss


@needs_compiler
def test_a_step_takes_what_lies_on_the_device(fake):
    cupy = fake()
    model, rng = Net(), np.random.default_rng(3)
    step = graphc.compile_training(
        model, SHAPE, loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.1), backend="cuda"
    )
    x, y = rng.standard_normal(SHAPE, np.float32), np.array([3, 1])
    saved = step.save()
    want = step(x, y)
    step.restore(saved)
    assert step(cupy.made(x), cupy.made(y)) == want  # labels of 64 bits, as PyTorch's
    assert isinstance(step.scores, cupy.ndarray)


@needs_compiler
def test_weights_are_taken_again(fake):
    fake()
    model, x = Net(), np.ones(SHAPE, np.float32)
    net = compiled(model)
    model.load_state_dict({k: v * 0.5 for k, v in model.state_dict().items()})
    net.refresh()
    np.testing.assert_array_equal(net(x), compiled(model)(x))


@needs_compiler
def test_kernels_are_timed_launch_by_launch(fake, monkeypatch):
    monkeypatch.setattr(profile, "COPY_BYTES", 1 << 12)
    fake()
    model = Net()
    step = graphc.compile_training(
        model, SHAPE, loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.1), backend="cuda"
    )
    before = step.save()
    found = kernel_times(step.program, "cuda")
    assert all((step.save()[name] == array).all() for name, array in before.items())
    launches = step.program.module.launches
    assert len(found.times) == len(launches) < len(step.schedule.kernels)
    assert sum(t.macs for t in found.times) == sum(getattr(k, "macs", 0) for k in step.schedule.kernels)
    assert {t.seconds for t in found.times} == {1e-3 * ELAPSED_MS / profile.REPEATS}
    assert found.limits.flops == 2 * profile.CORES * 132 * 1.755e9
    assert "and 1 more" in str(found) and "the whole device" in str(found)


def test_names_that_are_used_exist_in_cupy():
    """The fake has the attributes of the real one, where that is installed."""
    cupy = pytest.importorskip("cupy")
    stand_in = FakeCupy()
    for part in ("runtime", "driver", "memory"):
        real = getattr(cupy.cuda, part)
        absent = [n for n in vars(getattr(stand_in.cuda, part)) if not hasattr(real, n)]
        assert not absent, f"cupy.cuda.{part} has no {', '.join(absent)}"
    assert all(hasattr(cupy.cuda, n) for n in vars(stand_in.cuda))
    assert all(hasattr(cupy, n) for n in ("ndarray", "empty", "asarray", "from_dlpack", "ascontiguousarray"))
    assert all(hasattr(cupy.cuda.Stream, n) for n in ("begin_capture", "end_capture", "wait_event", "record"))
    assert all(hasattr(cupy.cuda.Graph, n) for n in ("launch", "upload"))

"""The benchmarks compare like with like: the peers' networks are ours, and times are what was measured."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.driver import traced_graph
from graphc.models import get
from graphc.passes import inference_mode

ROOT = Path(__file__).parent.parent


def benchmark(name: str):
    """A module of benchmarks/, which is not installed and is run from the repository's root."""
    sys.path.append(str(ROOT))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (2, 1, 28, 28)), ("lenet5", (2, 1, 28, 28)), ("resnet18", (1, 3, 32, 32))]
)
def test_onnx_export_is_the_same_network(name, shape):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = get(name).make()
    proto = benchmark("onnx_export").export(inference_mode(traced_graph(model, shape)))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = graphc.compile(model, shape, backend="reference")(x)
    # Float32 against float64; ResNet-18 is 20 layers deep, each adds a few roundings.
    np.testing.assert_allclose(session.run(None, {"input": x})[0], expected, atol=2e-5 * np.abs(expected).max())


def test_peer_in_pytorch_is_the_same_network():
    torch = pytest.importorskip("torch")
    model = get("lenet5").make()
    x = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)
    twin = benchmark("training").peer_model(torch, model)
    expected = graphc.compile(model, x.shape, backend="reference")(x)
    np.testing.assert_allclose(twin(torch.from_numpy(x)).detach(), expected, atol=1e-5 * np.abs(expected).max())


def test_timing():
    timing = benchmark("measure").Timing.of([float(n) for n in range(100, 0, -1)])
    assert (timing.median, timing.low, timing.high, timing.runs) == (50.5, 11, 90, 100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["inference", "--models", "lenet5", "--threads", "1", "--seconds", "0.5"],
        ["training", "--threads", "1", "--seconds", "0.5"],
        ["startup", "--runs", "5", "--compiles", "1"],
    ],
)
def test_benchmarks_run(arguments):
    for package in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:], "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"rows"' in done.stdout

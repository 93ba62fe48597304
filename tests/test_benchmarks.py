"""The benchmarks compare like with like: the peers' networks are ours, and times are what was measured."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import nn
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


class Composites(nn.Module):
    """Everything that the tracer writes in simpler operations, and operations that no small network of the zoo has."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.linear, self.gelu = nn.Linear(16, 16), nn.GELU()
        self.up = nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        x = self.up(self.gelu(self.linear(x)).reshape(1, 2, 10, 8))[:, 1:, :, ::2]
        return graphc.concat([self.pool(x), self.pool(x).relu()], 1).mean((2, 3))


NETWORKS = {
    "composites": (Composites, (2, 5, 16)),
    "mlp": (get("mlp").make, (2, 1, 28, 28)),
    "lenet5": (get("lenet5").make, (2, 1, 28, 28)),
    "resnet18": (get("resnet18").make, (1, 3, 32, 32)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """The graph in inference form, an input, and the reference backend's answer."""
    make, shape = NETWORKS[request.param]
    model = make()
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    graph = inference_mode(traced_graph(model, shape, name=request.param))
    return graph, x, graphc.compile(model, shape, backend="reference")(x)


def close(found, expected) -> None:
    """Float32 against float64; ResNet-18 is 20 layers deep, each adds a few roundings."""
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_onnx_export_is_the_same_network(network):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    graph, x, expected = network
    proto = benchmark("onnx_export").export(graph)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    close(session.run(None, {"input": x})[0], expected)


def test_twin_in_pytorch_is_the_same_network(network):
    torch = pytest.importorskip("torch")
    graph, x, expected = network
    close(benchmark("torch_twin").twin(graph)(torch.from_numpy(x)).detach(), expected)


def test_composites_are_recognised():
    graph = inference_mode(traced_graph(Composites(), (2, 5, 16)))
    kinds = [step.kind for step in benchmark("composites").steps(graph)]
    assert {"layer_norm", "attention", "gelu", "mean", "avg_pool2d", "conv_transpose"} <= set(kinds)
    assert not {"standardize", "erf", "softmax", "sum", "sum_pool2d"} & set(kinds)


def test_peers_that_are_missing_are_named(tmp_path):
    peers = benchmark("peers")
    with pytest.raises(peers.Missing, match="no_such_package is not installed: pip install it"):
        peers.need("no_such_package", "pip install it")
    assert {"onnxruntime", "openvino", "MNN", "eager", "NHWC", "inductor"} == set(peers.PEERS)


def test_timing():
    timing = benchmark("measure").Timing.of([float(n) for n in range(100, 0, -1)])
    assert (timing.median, timing.low, timing.high, timing.runs) == (50.5, 11, 90, 100)


def test_a_failure_leaves_the_other_rows():
    notes = []
    rows, failed = benchmark("measure").attempted(["a", "b"], lambda name: {"a": {"row": name}}[name], notes)
    assert rows == [{"row": "a"}] and failed == ["b"]
    assert notes == ["b FAILED with KeyError: 'b'"]


def test_page_shows_runs_side_by_side_and_losses_bold():
    def result(ours: float) -> dict:
        row = {"model": "lenet5", "GMAC": 0.0065, "graphc_ms": ours, "GFLOP/s": 60.0, "%_peak": 70.0}
        peers = {"onnxruntime": 2.0, "MNN": None, "best_peer": "onnxruntime", "ratio": ours / 2.0}
        return {"rows": [row | peers], "notes": ["MNN takes no part"], "machine": {"cpu": "c", "load": "0.1"}}

    page = benchmark("report").page({"inference-2": [result(1.0), result(3.0)]})
    assert "## Inference, 2 threads" in page
    assert "| lenet5 | 0.0065 | 60 / 60 | 70 / 70 | 1 / 3 | 2 |  | onnxruntime | 0.50 / **1.50** |" in page
    assert "Geometric mean of the ratios: 0.50 / **1.50**." in page
    assert page.count("- MNN takes no part") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["inference", "--models", "lenet5", "--peers", "onnxruntime", "eager", "--seconds", "0.5"],
        ["training", "--cases", "lenet5", "--peers", "eager", "--seconds", "0.5"],
        ["calibrate", "--threads", "1"],
        ["layers", "--models", "lenet5"],
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

"""The benchmarks compare like with like: the peers' networks are ours, and times are what was measured."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.driver import traced_graph
from graphc.models import get
from graphc.passes import inference_mode
from graphc.schedule.roofline import Limits

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
    measure, numbers = benchmark("measure"), [float(n) for n in range(100, 0, -1)]
    timing = measure.Timing.of(numbers[:40], numbers[40:])
    assert (timing.median, timing.low, timing.high, timing.runs) == (50.5, 11, 90, 100)
    assert timing.blocks == (80.5, 30.5)


def test_speed_ups_are_taken_round_by_round():
    """A machine that slows down by half in the second round and on changes no ratio."""
    measure = benchmark("measure")
    rounds = {"graphc": (1.0, 2.0, 2.0), "a": (3.0, 6.0, 6.0), "b": (1.5, 3.0, 2.9), "left": (9.0,)}
    timed = {name: measure.Timing.of(*([seconds] for seconds in blocks)) for name, blocks in rounds.items()}
    assert measure.against_best(timed) == {"best_peer": "b", "speedup": 1.5}
    assert measure.against_best({"graphc": timed["graphc"]}) == {"best_peer": "", "speedup": None}


def test_a_failure_leaves_the_other_rows():
    notes = []
    rows, failed = benchmark("measure").attempted(["a", "b"], lambda name: {"a": {"row": name}}[name], notes)
    assert rows == [{"row": "a"}] and failed == ["b"]
    assert notes == ["b FAILED with KeyError: 'b'"]


def result(ours: float, **more) -> dict:
    row = {"model": "lenet5", "GMAC": 0.0065, "graphc_ms": ours, "GFLOP/s": 60.0, "%_peak": 70.0}
    peers = {"onnxruntime": 2.0, "MNN": None, "best_peer": "onnxruntime", "speedup": 2.0 / ours}
    return {"rows": [row | peers | more], "notes": ["MNN takes no part"], "machine": {"cpu": "c", "load": "0.1"}}


def test_page_shows_runs_side_by_side_and_what_is_missed():
    page, goals = benchmark("page"), benchmark("goals")
    shown = page.page({"inference-2": [result(1.0), result(2.0)], "training-1": [{"rows": [{
        "step": "mlp", "input": "1x2", "optimizer": "SGD", "graphc_ms": 1.0, "eager": 1.2, "best_peer": "eager",
        "speedup": 1.2, "graphc_MB": 3.0}], "notes": [], "machine": {}}]})  # fmt: skip
    assert "## Inference, batch 1, 2 threads" in shown
    row = "| lenet5 | 0.0065 | 60 / 60 | 70 / 70 | 1 / 2 | 2 |  | onnxruntime | 2.00 / 1.00 | 1.2 |  | **missed** |"
    assert row in shown
    assert "Geometric mean of the speed-ups: 2.00 / 1.00." in shown
    assert shown.count("- MNN takes no part") == 1
    assert "| graphc, MB |" in shown and "| 1.20 | 1.1 | 1.5 | required |" in shown
    assert "| inference-2/lenet5 | 2.00 / 1.00 | required 1.2 |" in shown
    assert "| training-1/mlp | 1.20 | aim 1.5 |" in shown
    assert goals.Goal(1.2, 1.5).verdict([1.5, 1.6]) == "aim"


def test_reasons_are_of_rows_that_exist():
    goals = benchmark("goals")
    threads = ("1", "2")
    tables = {"inference": goals.INFERENCE, "batch8": goals.BATCH8, "training": goals.TRAINING}
    rows = {f"{part}-{n}/{row}" for part, t in tables.items() for n in threads for row in (*t.rows, "geometric mean")}
    assert set(goals.REASONS) <= rows | {f"odd/{shape}" for shape in benchmark("odd").SHAPES}


def test_report_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Rows that are there are not measured again, unless asked for; then the new ones take their place."""
    report, asked = benchmark("report"), []

    def run(command, **_):
        asked.append(command[command.index("--models") + 1 :])
        rows = [{"model": name, "ms": len(asked)} for name in asked[-1]]
        told = {"rows": rows, "notes": [f"run {len(asked)}"], "machine": {"commit": f"c{len(asked)}"}}
        return subprocess.CompletedProcess(command, 0, json.dumps(told), "")

    monkeypatch.setattr(report.subprocess, "run", run)
    job, path = report.Job("inference-1", "inference", (), "--models", ("a", "b")), tmp_path / "inference-1.1.json"
    first = report.Job("inference-1", "inference", (), "--models", ("a",))
    for each, again in ((first, False), (job, False), (job, False), (first, True)):
        report.measure(each, path, again)
    assert asked == [["a"], ["b"], ["a"]]
    (found,) = report.collected(tmp_path)["inference-1"]
    assert {row["model"]: row["ms"] for row in found["rows"]} == {"a": 3, "b": 2}
    assert found["notes"] == ["run 2", "run 3"] and found["machine"] == {"commit": "c2, c3"}


def test_hopeless_peers_are_timed_no_further():
    measure, calls = benchmark("measure"), {"ours": 0, "fast": 0, "slow": 0}

    def program(name: str, seconds: float):
        def call() -> None:
            calls[name] += 1
            time.sleep(seconds)

        return call

    programs = {name: program(name, s) for name, s in (("ours", 0.01), ("fast", 0.001), ("slow", 0.004))}
    timed = measure.interleaved(programs, 0.02, hopeless=2.0)
    assert len(timed["slow"].blocks) == 1 < len(timed["fast"].blocks) == len(timed["ours"].blocks)
    assert timed["ours"].runs >= measure.FEWEST, "ours is timed however slow it is"


def test_odd_shapes_have_even_ones_beside(monkeypatch):
    odd = benchmark("odd")
    monkeypatch.setattr(odd, "limits", lambda: Limits(1, 1e11, (("memory", None, 1e10),)))
    shape = odd.SHAPES["37 to 37, 5x5 on 13x13 stride 3"]
    assert shape.even().channels == (32, 32) and shape.macs == 37 * 37 * 25 * 5 * 5
    assert odd.SHAPES["3 to 3, 3x3 on 13x13 groups 3"].even().channels == (48, 48)
    assert odd.SHAPES["100 to 100, 3x3 on 13x13"].even().channels == (96, 96)
    row = odd.row("17 to 17, 3x3 on 1x1")
    assert row["even"] == "16 to 16" and row["us"] > 0 and row["rate_%"] > 0
    # storing 64 channels of 13x13 at 10 GB/s outlasts 1 or 16 multiply-adds for each at 100 GFLOP/s; not 16 times 49
    stored, summed = odd.row("1 to 64, 1x1 on 13x13"), odd.row("17 to 17, 3x3 on 13x13")
    few, many = (4 * (c * 169 + 64 * c + 64 + 64 * 169) for c in (1, 16))
    assert stored["share_%"] == pytest.approx(stored["rate_%"] * 16 * few / many)
    assert summed["share_%"] == pytest.approx(summed["rate_%"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["inference", "--models", "lenet5", "--peers", "onnxruntime", "eager", "--seconds", "0.5"],
        ["training", "--cases", "lenet5", "--peers", "eager", "--seconds", "0.5"],
        ["calibrate", "--threads", "1"],
        ["layers", "--models", "lenet5"],
        ["layers", "--odd", "--shapes", "17 to 17, 3x3 on 1x1"],
        ["accuracy", "--models", "mlp"],
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


def test_the_page_on_gpus_is_of_a_measurement_or_says_that_there_was_none():
    page, text = benchmark("gpu_page"), (ROOT / "docs" / "gpu.md").read_text()
    assert text == page.page({}, {}, []) or "- device: " in text
    rows = {"inference": [{"model": "lenet5", "graphc_ms": 0.5, "samples": {"graphc": {}}}, {"model": "vit", "x": 2.0}]}
    made = page.page(rows, {"device": "a GPU"}, ["a note", "a note"])
    assert "| model | graphc ms | x |" in made and "| lenet5 | 0.5 |  |" in made and "| vit |  | 2 |" in made
    assert "- device: a GPU" in made and made.count("a note") == 1 and "No GPU" not in made

"""Other tools that run the same network: a table from a peer's name to what makes a callable of a network.

Enters: a `Network`, which is one graph, its ONNX file and one input. Leaves: a callable without arguments that runs the
network on that input and returns its first output as an array. Every peer is optional; a maker raises `Missing` with
the reason where the peer is not installed or cannot run the network. Settings are each peer's best for one stream of
calls on `threads` threads in float32.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np

from graphc.files import write_whole
from graphc.ir import Graph, show

Run = Callable[[], np.ndarray]
BENCH = 'pip install "graphc-compiler[bench]"'


class Missing(Exception):
    """A peer that takes no part, and why."""


@dataclass(frozen=True)
class Network:
    """A network in inference form, an input for it, and a folder for the files that peers read."""

    graph: Graph
    x: np.ndarray
    folder: Path

    @property
    def input(self) -> str:
        return self.graph.inputs[0].name

    @property
    def file(self) -> Path:
        """The ONNX file of this very graph, whether it is there or not. Weights are the zoo's, which every run draws
        alike; where they were not, the comparison of outputs would tell."""
        return self.folder / f"{self.graph.name}-{sha256(show(self.graph).encode()).hexdigest()[:12]}.onnx"

    @cached_property
    def onnx(self) -> str:
        """The path of the network as an ONNX file, written if it is not there."""
        need("onnx", BENCH)
        if self.file.exists():
            return str(self.file)
        try:
            proto = importlib.import_module("benchmarks.onnx_export").export(self.graph)
        except ValueError as error:
            raise Missing(str(error)) from None
        write_whole(str(self.file), lambda path: Path(path).write_bytes(proto.SerializeToString()))
        return str(self.file)


def need(package: str, remedy: str):
    """An imported package, or Missing with what to install."""
    try:
        with quiet():
            return importlib.import_module(package)
    except ImportError:
        raise Missing(f"{package} is not installed: {remedy}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Native code's words on the standard output go to the standard error: the output is ours."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def onnxruntime(network: Network, threads: int) -> Run:
    """All graph optimisations, which is the default."""
    runtime = need("onnxruntime", BENCH)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(network.onnx, options, providers=["CPUExecutionProvider"])
    feed = {network.input: network.x}
    return lambda: session.run(None, feed)[0]


def openvino(network: Network, threads: int) -> Run:
    """Its latency mode, in float32 also where the processor has something shorter; arrays are shared, not copied."""
    vino = need("openvino", BENCH)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # the whole process is pinned
    }
    request = vino.Core().compile_model(network.onnx, "CPU", settings).create_infer_request()
    return lambda: request.infer([network.x], share_inputs=True, share_outputs=True)[0]


def mnn(network: Network, threads: int) -> Run:
    """Fixed shapes, high precision (float32)."""
    package = need("MNN", BENCH)
    with quiet():
        tools, nn, expr = map(need, ("_tools", "MNN.nn", "MNN.expr"), (BENCH,) * 3)
        path = str(Path(network.onnx).with_suffix(".mnn"))
        if not os.path.exists(path):
            part = f"{path}.part"
            tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", network.onnx, "--MNNModel", part])
            if not os.path.exists(part):
                raise Missing("MNN's converter refuses the file")
            os.replace(part, path)
        manager = package.nn.create_runtime_manager(({"backend": 0, "numThread": threads, "precision": "high"},))
        names = [network.input], [importlib.import_module("onnx").load(network.onnx).graph.output[0].name]
        net = nn.load_module_from_file(path, *names, runtime_manager=manager, shape_mutable=False)
    shape = list(network.x.shape)
    return lambda: np.array(net.forward(expr.const(network.x, shape, expr.NCHW)).read(), copy=False)


def torch_module(network: Network, threads: int):
    """PyTorch, and the network as a module of its."""
    torch = need("torch", "pip install torch==2.13.0")
    torch.set_num_threads(threads)
    try:
        return torch, importlib.import_module("benchmarks.torch_twin").twin(network.graph).requires_grad_(False)
    except ValueError as error:
        raise Missing(str(error)) from None


def in_torch(torch, net, x) -> Run:
    def run() -> np.ndarray:
        with torch.no_grad():
            return net(x).numpy()

    return run


def eager(network: Network, threads: int) -> Run:
    torch, net = torch_module(network, threads)
    return in_torch(torch, net, torch.from_numpy(network.x))


def channels_last(network: Network, threads: int) -> Run:
    """Weights and input in this order from the start."""
    torch, net = torch_module(network, threads)
    if network.x.ndim != 4:
        raise Missing("the input is no image")
    net = net.to(memory_format=torch.channels_last)
    return in_torch(torch, net, torch.from_numpy(network.x).contiguous(memory_format=torch.channels_last))


def inductor(network: Network, threads: int) -> Run:
    """With frozen weights: it then folds batch norms and packs weights."""
    torch, net = torch_module(network, threads)
    return in_torch(torch, compiled(torch, net, freezing=True), torch.from_numpy(network.x))


def compiled(torch, net, **options):
    """A module by torch.compile, which needs a C++ compiler; it compiles in this process at the first call."""
    if not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise Missing("the inductor needs a C++ compiler, and there is none")
    torch._inductor.config.compile_threads = 1
    torch._dynamo.reset()
    return torch.compile(net, options=options)


# In the order of the tables. The names of PyTorch's are its ways to run.
PEERS: dict[str, Callable[[Network, int], Run]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "MNN": mnn,
    "eager": eager,
    "NHWC": channels_last,
    "inductor": inductor,
}

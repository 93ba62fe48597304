"""PyTorch's ways to run a network or a training step on a GPU: a table from a way's name to a callable.

Enters: a graph of graphc, inputs on the device. Leaves: a callable without arguments that gives work to the device and
waits for it. `precision` is graphc's: with "fast" PyTorch may use tf32 as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from graphc.ir import Graph

from .torch_twin import twin

Run = Callable[[], object]
WAYS = ("eager", "NHWC", "max-autotune", "CUDA graph")
WARM = 3  # runs before a capture, as PyTorch's notes on CUDA graphs ask


def arithmetic(precision: str) -> None:
    """What PyTorch may do in products of float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "fast"
    torch.backends.cudnn.benchmark = True


def inference(graph: Graph, x: torch.Tensor) -> Mapping[str, Callable[[], Run]]:
    """A maker for each way."""
    net = twin(graph).cuda().eval()

    def nhwc() -> Run:
        other = twin(graph).cuda().eval().to(memory_format=torch.channels_last)
        image = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        return waited(lambda: other(image))

    def autotuned() -> Run:
        torch._dynamo.reset()
        made = torch.compile(twin(graph).cuda().eval(), mode="max-autotune")
        return waited(lambda: made(x))

    return {
        "eager": lambda: waited(lambda: net(x)),
        "NHWC": nhwc,
        "max-autotune": autotuned,
        "CUDA graph": lambda: captured(lambda: net(x)),
    }


def training(graph: Graph, x, y, optimizer: tuple[str, dict[str, float]]) -> Mapping[str, Callable[[], Run]]:
    """A maker for each way: forward, backward and the fused optimizer."""
    kind, settings = optimizer

    def step_of(way: str) -> Run:
        layout = torch.channels_last if way == "NHWC" else torch.contiguous_format
        net = twin(graph).cuda().to(memory_format=layout)
        image = x.contiguous(memory_format=layout) if x.ndim == 4 else x
        more = {"capturable": True} if way == "CUDA graph" and kind.startswith("Adam") else {}
        update = getattr(torch.optim, kind)(net.parameters(), fused=True, **settings, **more)
        if way == "max-autotune":
            torch._dynamo.reset()
            net = torch.compile(net, mode="max-autotune")

        def step():
            update.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(net(image), y)
            loss.backward()
            update.step()
            return loss.detach()

        return step

    made = {way: (lambda way=way: waited(step_of(way), grad=True)) for way in WAYS if way != "CUDA graph"}
    return {**made, "CUDA graph": lambda: captured(step_of("CUDA graph"), grad=True)}


def waited(work: Run, grad: bool = False) -> Run:
    """The work, and waiting for it; `grad`: PyTorch records what gradients need."""

    def run():
        with torch.set_grad_enabled(grad):
            out = work()
        torch.cuda.synchronize()
        return out

    return run


def captured(work: Run, grad: bool = False) -> Run:
    """The work recorded once as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.set_grad_enabled(grad):
        for _ in range(WARM):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.set_grad_enabled(grad), torch.cuda.graph(graph):
        out = work()

    def run():
        graph.replay()
        torch.cuda.synchronize()
        return out

    return run

"""graphc on a GPU beside PyTorch, and its kernels beside the device's limits; written to docs/gpu.md.

python -m benchmarks.gpu [--only tests sanitizer inference training bandwidth products] [--seconds 1]
    [--precision fast] [--out docs/gpu.md] [--json]

One call builds, tests and measures what docs/gpu.md shows, within about ten minutes on a data-centre GPU: the tests of
tests/cuda on the device, the kernel set under compute-sanitizer where that is installed, inference at batch 1 and 32
and training steps beside PyTorch (eager, channels-last, torch.compile, CUDA graphs), the bandwidth of elementwise, norm
and softmax kernels beside a copy's, and contractions beside cuBLAS and cuDNN. Without a GPU it says so, measures
nothing and writes nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graphc
from graphc import nn
from graphc.backends.cuda.device import current
from graphc.backends.cuda.profile import limits, time_kernels
from graphc.driver import traced_graph
from graphc.files import write_whole
from graphc.ir import GraphcError
from graphc.models import get
from graphc.passes import inference_mode

from .gpu_page import page
from .measure import against_best, arguments, attempted, detail, geometric_mean, interleaved, machine, ms, show
from .training import ADAMW, MOMENTUM

ROOT = Path(__file__).parent.parent
PARTS = ("tests", "sanitizer", "inference", "training", "bandwidth", "products")
NETWORKS = ("lenet5", "resnet18", "resnet50", "vit_s16")
BATCHES = (1, 32)
AGREE = {"exact": 1e-4, "fast": 2e-2, "bf16": 1e-1}  # of the output's scale
SANITIZED = "tests/cuda/test_ops.py"
TRAINING = {
    "lenet5": ((64, 1, 28, 28), MOMENTUM),
    "resnet18": ((64, 3, 224, 224), MOMENTUM),
    "resnet50": ((32, 3, 224, 224), MOMENTUM),
    "vit_s16": ((32, 3, 224, 224), ADAMW),
}
Row = Mapping[str, object]


def inference(options, notes: list[str]) -> list[Row]:
    """Latency of a call whose input and output are on the device."""
    cases = [(name, batch) for name in NETWORKS for batch in BATCHES]
    return attempted(cases, lambda case: infer(*case, options, notes), notes)[0]


def infer(name: str, batch: int, options, notes: list[str]) -> Row:
    import torch

    from . import gpu_peers

    entry = get(name)
    model, shape = entry.make(), (batch, *entry.input[1:])
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    net = graphc.compile(model, shape, backend="cuda", precision=options.precision)
    x = torch.from_numpy(images).cuda()
    gpu_peers.arithmetic(options.precision)

    def ours():
        out = net(x)
        net.program.device.stream.synchronize()
        return out

    makers = gpu_peers.inference(inference_mode(traced_graph(model, shape)), x)
    peers = made(makers, notes)
    with torch.no_grad():
        expected = ours().get()
        for peer, run in peers.items():
            agree(peer, run().float().cpu().numpy(), expected, AGREE[options.precision])
        timed = interleaved({"graphc": ours, **peers}, options.seconds)
    return compared({"model": name, "batch": batch}, timed, peers)


def training(options, notes: list[str]) -> list[Row]:
    return attempted(list(TRAINING), lambda name: train(name, options, notes), notes)[0]


def train(name: str, options, notes: list[str]) -> Row:
    import torch

    from . import gpu_peers

    shape, (ours, theirs) = TRAINING[name]
    classes, rng = 10 if name == "lenet5" else 1000, np.random.default_rng(0)
    model = get(name).make(classes=classes)
    images, labels = rng.random(shape, np.float32), rng.integers(0, classes, shape[0]).astype(np.int32)
    x, y = torch.from_numpy(images).cuda(), torch.from_numpy(labels).cuda()
    gpu_peers.arithmetic(options.precision)
    peers = made(gpu_peers.training(traced_graph(model, shape), x, y.long(), theirs), notes)
    step = graphc.compile_training(
        model, shape, loss=nn.CrossEntropyLoss(), optimizer=ours, backend="cuda", precision=options.precision
    )
    program = step.program

    def run():
        loss = program(x, y)[0]
        program.device.stream.synchronize()
        return loss

    return compared(
        {"step": name, "input": "x".join(map(str, shape))},
        interleaved({"graphc": run, **peers}, options.seconds),
        peers,
    )


def made(makers: Mapping[str, Callable], notes: list[str]) -> dict[str, Callable]:
    """The ways of PyTorch that work; of the others the reason goes to the notes."""
    found = {}
    for way, make in makers.items():
        try:
            run = make()
            run()
        except Exception as error:  # a peer's failure is an entry in the table, not the end of it
            notes.append(f"{way} fails with {type(error).__name__}: {str(error).splitlines()[0][:80]}")
        else:
            found[way] = run
    return found


def agree(peer: str, theirs: np.ndarray, ours: np.ndarray, bound: float) -> None:
    apart = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not apart < bound:
        raise ValueError(f"{peer}'s output differs by {apart:.2g} of its scale, expected at most {bound}")


def compared(head: Row, timed: Mapping, peers: Mapping) -> Row:
    return {
        **head,
        "graphc_ms": ms(timed["graphc"]),
        **{f"{peer}_ms": ms(timed[peer]) for peer in peers},
        **against_best(timed),
        "samples": {program: detail(t) for program, t in timed.items()},
    }


@dataclass(frozen=True)
class Streamed:
    """A function of large arrays whose time is the memory's."""

    name: str
    function: Callable
    shapes: tuple[tuple[int, ...], ...]


def streamed() -> Iterator[Streamed]:
    big = (64, 64, 112, 112)
    yield Streamed("relu(x + y)", lambda x, y: (x + y).relu(), (big, big))
    yield Streamed("gelu", lambda x: nn.functional.gelu(x), ((8192, 4096),))
    yield Streamed("softmax, rows of 1024", lambda x: nn.functional.softmax(x, -1), ((32768, 1024),))
    yield Streamed("softmax, rows of 197", lambda x: nn.functional.softmax(x, -1), ((150000, 197),))
    yield Streamed("layer norm, rows of 384", nn.LayerNorm(384), ((65536, 384),))
    yield Streamed("max pool 3x3/2", nn.MaxPool2d(3, 2, 1), (big,))
    yield Streamed("mean of channels", lambda x: x.mean((0, 2, 3)), (big,))


def bandwidth(options, notes: list[str]) -> list[Row]:
    """Bytes of inputs and outputs a second, beside a copy in the same run."""
    copy = limits(current()).reads[0][2]

    def row(case: Streamed) -> Row:
        net = graphc.compile(case.function, list(case.shapes), backend="cuda")
        times = time_kernels(net.program)
        buffers = [net.schedule.buffers[n] for n in (*net.schedule.inputs, *net.schedule.outputs)]
        took, size = sum(t.seconds for t in times), sum(b.bytes for b in buffers)
        return {
            "kernel": case.name,
            "launches": len(times),
            "GB/s": 1e-9 * size / took,
            "%_of_copy": 100 * size / took / copy,
        }

    return attempted(list(streamed()), row, notes)[0]


# (images, channels, size, channels out, kernel, stride) of ResNet-50; (rows, sum, columns) of ViT-S/16
CONVOLUTIONS = (
    (32, 64, 56, 64, 1, 1), (32, 64, 56, 64, 3, 1), (32, 64, 56, 256, 1, 1), (32, 128, 28, 128, 3, 1),
    (32, 256, 14, 256, 3, 1), (32, 512, 7, 512, 3, 1), (32, 1024, 14, 256, 1, 1), (32, 3, 224, 64, 7, 2),
)  # fmt: skip
PRODUCTS = ((6304, 384, 1152), (6304, 384, 384), (6304, 384, 1536), (6304, 1536, 384))


def products(options, notes: list[str]) -> list[Row]:
    """Contractions in the precision asked for, beside cuDNN's and cuBLAS's."""
    import torch

    from . import gpu_peers

    gpu_peers.arithmetic(options.precision)

    def row(case: tuple[int, ...]) -> Row:
        if len(case) == 6:
            n, c, size, o, k, stride = case
            layer = nn.Conv2d(c, o, k, stride=stride, padding=k // 2, bias=False)
            shape = (n, c, size, size)
            theirs = torch.nn.Conv2d(c, o, k, stride, k // 2, bias=False).cuda().to(memory_format=torch.channels_last)
            x = torch.randn(shape, device="cuda").contiguous(memory_format=torch.channels_last)
            title = f"conv {k}x{k}/{stride} {c}->{o} on {size}x{size}, batch {n}"
        else:
            m, k, n = case
            layer, shape = nn.Linear(k, n, bias=False), (m, k)
            theirs, x = torch.nn.Linear(k, n, bias=False).cuda(), torch.randn(shape, device="cuda")
            title = f"matmul {m}x{k} by {k}x{n}"
        net = graphc.compile(layer, shape, backend="cuda", precision=options.precision)
        ours = [t for t in time_kernels(net.program) if t.macs]
        took, macs = sum(t.seconds for t in ours), sum(t.macs for t in ours)
        with torch.no_grad():
            other = torch_seconds(lambda: theirs(x))
        return {
            "contraction": title,
            "TFLOP/s": 2e-12 * macs / took,
            "PyTorch_TFLOP/s": 2e-12 * macs / other,
            "%": 100 * other / took,
        }

    return attempted([*CONVOLUTIONS, *PRODUCTS], row, notes)[0]


def torch_seconds(work: Callable, repeats: int = 20, runs: int = 7) -> float:
    """Seconds of one run of the work on the device, by events around a CUDA graph of several."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            work()
    taken = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(1e-3 * begin.elapsed_time(end) / repeats)
    return sorted(taken[1:])[len(taken[1:]) // 2]


def tests(options, notes: list[str]) -> list[Row]:
    """The tests of tests/cuda, kernels on the device instead of the shim."""
    return [ran("tests", [sys.executable, "-m", "pytest", "-q", "--device", "tests/cuda"])]


def sanitizer(options, notes: list[str]) -> list[Row]:
    if not shutil.which("compute-sanitizer"):
        notes.append("compute-sanitizer is not installed: its checks were not run")
        return []
    kernels = [sys.executable, "-m", "pytest", "-q", "-x", "--device", SANITIZED]
    return [ran(tool, ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *kernels])
            for tool in ("memcheck", "racecheck")]  # fmt: skip


def ran(what: str, command: list[str]) -> Row:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-2000:], file=sys.stderr)
    return {"check": what, "passed": done.returncode == 0, "result": last}


RUNS: Mapping[str, Callable] = {
    "tests": tests,
    "sanitizer": sanitizer,
    "inference": inference,
    "training": training,
    "bandwidth": bandwidth,
    "products": products,
}


def main() -> None:
    options = arguments(__doc__, only=list(PARTS), seconds=1.0, precision="fast", out="docs/gpu.md")
    if unknown := [p for p in options.only if p not in PARTS]:
        sys.exit(f"no part {', '.join(unknown)}\n  expected some of {', '.join(PARTS)}")
    try:
        on = current()
    except GraphcError as error:
        sys.exit(f"{error}\n  nothing was measured, and {options.out} is as it was")
    notes: list[str] = []
    found = {part: RUNS[part](options, notes) for part in options.only}
    facts = {"device": f"{on} (compute capability {on.capability})", "precision": options.precision, **machine()}
    write_whole(options.out, lambda path: Path(path).write_text(page(found, facts, notes), encoding="utf-8"))
    for part, rows in found.items():
        show(part, rows, options.json, notes) if rows else None
    speedups = [row["speedup"] for row in found.get("inference", ()) if row.get("speedup")]
    if speedups:
        print(f"inference, geometric mean of the speed-ups: {geometric_mean(speedups):.2f}")
    failed = [row for row in (*found.get("tests", ()), *found.get("sanitizer", ())) if not row["passed"]]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

"""What a user waits for: compiling LeNet-5, and one whole process from its start to the first answer, beside peers.

python -m benchmarks.startup [--runs 100] [--compiles 5] [--peers onnxruntime openvino torch] [--json]

The same weights and image everywhere: an executable of ours, and a Python script for each peer that imports it, reads
its file, answers once and ends. Peak memory is the process's own (VmHWM of proc(5)).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from graphc.driver import traced_graph
from graphc.frontend.arrays import write_pgm
from graphc.models import lenet5
from graphc.passes import inference_mode

from .measure import Timing, arguments, cell, cores, ms, pin, show, spread
from .peers import Missing, Network, need

# Each compile in a fresh process on two cores, without code kept on disk (but for `KEPT`), so that nothing is loaded
# or cached yet; imports are timed apart. Python's own bytecode is there, as an installer leaves it.
COMPILE = """
from time import perf_counter
start = perf_counter()
import graphc
imported = perf_counter()
from graphc import nn
from graphc.models import lenet5
model = lenet5()
before = perf_counter()
{compile}
print(imported - start, perf_counter() - before)
"""
KINDS = {
    "compile inference": "graphc.compile(model, (1, 1, 28, 28))",
    "compile inference again": "graphc.compile(model, (1, 1, 28, 28))",
    "compile training step": "graphc.compile_training(model, input=(64, 1, 28, 28), loss=nn.CrossEntropyLoss(), "
    "optimizer=graphc.optim.SGD(lr=0.01, momentum=0.9))",
}
BUILD = """
import sys, graphc
from graphc.models import lenet5
graphc.compile(lenet5(), (1, 1, 28, 28)).build(sys.argv[1])
"""
# What the peers' scripts share: an image, and at the end the process's peak memory, in bytes.
IMAGE = "import sys, numpy; x = numpy.load(sys.argv[2])"
PEAK = "print(1024 * int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]))"
PEERS = {
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"input": x})
""",
    "openvino": """
import openvino
openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_NUM_THREADS": 1})(x)
""",
    "torch": """
import torch
from torch import nn
torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(1, 20, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5, padding=2),
                    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2450, 500), nn.ReLU(), nn.Linear(500, 10))
net.load_state_dict(torch.load(sys.argv[1]))
with torch.inference_mode():
    net(torch.from_numpy(x))
""",
}
KEPT = "compile inference again"  # finds the code that another process made
LIMITS = {"import graphc": 300, "compile inference": 500, KEPT: 400, "compile training step": 3000,
          "./lenet5 digit.pgm": 5}  # fmt: skip


def python(code: str, *arguments: str, **environment: str) -> str:
    command, changed = [sys.executable, "-c", code, *arguments], {**os.environ, "GRAPHC_CACHE": "off", **environment}
    changed.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, env=changed, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def compile_times(times: int) -> dict[str, Timing]:
    """Seconds to import graphc, and to compile each program."""
    imports, out = [], {}
    with tempfile.TemporaryDirectory() as folder:
        bytecode, kept = ({name: str(Path(folder, name))} for name in ("PYTHONPYCACHEPREFIX", "GRAPHC_CACHE"))
        for kind, statement in KINDS.items():
            code, environment = COMPILE.format(compile=statement), bytecode | (kept if kind == KEPT else {})
            _, *pairs = (tuple(map(float, python(code, **environment).split())) for _ in range(times + 1))
            imports += [seconds for seconds, _ in pairs]
            out[kind] = Timing.of([seconds for _, seconds in pairs])
    return {"import graphc": Timing.of(imports), **out}


def python_file(command: list[str]) -> str:
    """What a Python script prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def process_time(command: list[str], runs: int) -> Timing:
    """Seconds from starting the process to its end."""
    taken = []
    for _ in range(runs + 3):
        start = perf_counter()
        process = os.posix_spawn(command[0], command, os.environ, file_actions=QUIET)
        _, status = os.waitpid(process, 0)
        taken.append(perf_counter() - start)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return Timing.of(taken[3:])


QUIET = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


def peak_memory(command: list[str]) -> int:
    """Bytes of memory that the process used at most (VmHWM of proc(5)).

    A child's resource usage counts the memory of its parent before exec, so the process itself is looked at: its
    output goes to a full pipe, where it waits with all its work done.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, bytes(size))
    os.set_blocking(writer, True)
    with subprocess.Popen(command, stdout=writer) as process:
        status = Path(f"/proc/{process.pid}/status")
        seen = 0
        for _ in range(1000):
            sleep(0.002)
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            seen = seen + 1 if fields["State"].startswith("S") else 0
            if seen == 10:
                break
        os.close(writer)
        while os.read(reader, 1 << 16):
            pass
        os.close(reader)
        return int(fields["VmHWM"].split()[0]) * 1024


def files_of_peers(folder: Path) -> dict[str, Path]:
    """LeNet-5 as each peer reads it; peers whose writer is not installed are left out."""
    model, found = lenet5(), {}
    np.save(folder / "x.npy", np.zeros((1, 1, 28, 28), np.float32))
    try:
        graph = inference_mode(traced_graph(model, (1, 1, 28, 28)))
        found = dict.fromkeys(("onnxruntime", "openvino"), Path(Network(graph, np.zeros(0), folder).onnx))
        torch = need("torch", "pip install torch==2.13.0")
    except Missing:
        return found
    # Both name layer by layer: theirs are numbered through, the pools and ReLU included.
    names = [f"{layer}.{part}" for layer in (0, 2, 5, 7) for part in ("weight", "bias")]
    arrays = zip(names, model.state_dict().values(), strict=True)
    torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays}, folder / "lenet5.pt")
    return {**found, "torch": folder / "lenet5.pt"}


def peers(names: Sequence[str], runs: int, notes: list[str]) -> list[dict[str, object]]:
    """A row for each peer: time of a whole process, its peak memory, the size of its file and of what it needs."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = files_of_peers(Path(folder))
        for name in names:
            try:
                size = sum(f.locate().stat().st_size for f in metadata.files(name) or () if f.locate().exists())
                path = found[name]
            except (metadata.PackageNotFoundError, KeyError):
                notes.append(f"{name} takes no part: it is not installed")
                continue
            script = Path(folder, f"answer_with_{name}.py")
            script.write_text(f"{IMAGE}{PEERS[name]}{PEAK}\n")
            command = [sys.executable, str(script), str(path), str(Path(folder, "x.npy"))]
            timing = process_time(command, runs)
            rows.append(process_row(f"python {name}", timing, int(python_file(command)), path.stat().st_size, size))
    return rows


def process_row(what: str, timing: Timing, peak: int, file: int, needs: int) -> dict[str, object]:
    return {
        "process": what,
        "ms": ms(timing),
        "10..90%": spread(timing),
        "peak_memory_MB": peak / 1e6,
        "file_MB": file / 1e6,
        "installed_MB": needs / 1e6,
    }


def main() -> None:
    options = arguments(__doc__, runs=100, compiles=5, peers=list(PEERS))
    free = cores()
    pin(free, 2)
    notes: list[str] = []
    timings = compile_times(options.compiles)
    pin(free, 1)
    with tempfile.TemporaryDirectory() as folder:
        program, image = str(Path(folder, "lenet5")), str(Path(folder, "digit.pgm"))
        python(BUILD, program)
        write_pgm(image, np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8))
        timings["./lenet5 digit.pgm"] = process_time([program, image], options.runs)
        peak, weights, size = peak_memory([program, image]), 4 * 1_256_080, os.path.getsize(program)
    ours = process_row("./lenet5 digit.pgm", timings.pop("./lenet5 digit.pgm"), peak, size, 0)
    rows = [ours, *peers(options.peers, max(options.runs // 10, 3), notes)]
    for row in rows:
        row["speedup"] = row["ms"] / ours["ms"]
    waits = [f"{what}: {cell(ms(t))} ms ({spread(t)}), goal {LIMITS[what]} ms" for what, t in timings.items()]
    goal = f"./lenet5: goals {LIMITS['./lenet5 digit.pgm']} ms and {3 * weights / 1e6:.0f} MB of memory"
    show("lenet5, a whole process to its first answer", rows, options.json, [*waits, goal, *notes])


if __name__ == "__main__":
    main()

"""What a user waits for: compiling LeNet-5 for inference and training, and one whole run of `./lenet5 digit.pgm`.

python -m benchmarks.startup [--runs 100] [--json]
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from graphc.frontend.arrays import write_pgm

from .measure import Timing, arguments, cores, ms, pin, show, spread

# Each compile in a fresh process, so that nothing is loaded or cached yet; imports are timed apart.
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
    "compile training step": "graphc.compile_training(model, input=(64, 1, 28, 28), loss=nn.CrossEntropyLoss(), "
    "optimizer=graphc.optim.SGD(lr=0.01, momentum=0.9))",
}
BUILD = """
import sys, graphc
from graphc.models import lenet5
graphc.compile(lenet5(), (1, 1, 28, 28)).build(sys.argv[1])
"""
LIMITS = {"import graphc": 300, "compile inference": 1000, "compile training step": 3000, "./lenet5 digit.pgm": 5}


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def compile_times(times: int) -> dict[str, Timing]:
    """Seconds to import graphc, and to compile each program."""
    imports, out = [], {}
    for kind, statement in KINDS.items():
        pairs = [tuple(map(float, python(COMPILE.format(compile=statement)).split())) for _ in range(times)]
        imports += [seconds for seconds, _ in pairs]
        out[kind] = Timing.of([seconds for _, seconds in pairs])
    return {"import graphc": Timing.of(imports), **out}


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


def main() -> None:
    options = arguments(__doc__, runs=100, compiles=5)
    pin(cores(), 1)
    timings = compile_times(options.compiles)
    with tempfile.TemporaryDirectory() as folder:
        program, image = str(Path(folder, "lenet5")), str(Path(folder, "digit.pgm"))
        python(BUILD, program)
        write_pgm(image, np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8))
        timings["./lenet5 digit.pgm"] = process_time([program, image], options.runs)
        peak, weights, size = peak_memory([program, image]), 4 * 1_256_080, os.path.getsize(program)
    rows = [
        {"what": what, "median": ms(t), "10..90%": spread(t), "unit": "ms", "limit": LIMITS[what]}
        for what, t in timings.items()
    ]
    memory = {"what": "peak memory of ./lenet5", "median": peak / 1e6, "10..90%": "", "unit": "MB"}
    rows.append({**memory, "limit": 3 * weights / 1e6})
    rows.append({**memory, "what": "size of ./lenet5", "median": size / 1e6, "limit": None})
    show("what a user waits for (limits are the project's goals)", rows, options.json)


if __name__ == "__main__":
    main()

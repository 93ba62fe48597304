"""`graphc demo`: LeNet-5 learns real handwritten digits in compiled code, becomes one static executable, and that reads
images it has not seen. Enters: a folder. Leaves: weights, the executable and the images in it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path
from time import perf_counter

import numpy as np

from graphc import driver
from graphc.frontend.arrays import write_pgm
from graphc.frontend.networks import find
from graphc.nn import CrossEntropyLoss, init
from graphc.nn.optim import SGD

from .data import Dataset, digits
from .fit import fit
from .progress import display, figures
from .trainer import TrainingError

MODEL = "lenet5"
EPOCHS, BATCH, LR, MOMENTUM, SEED = 12, 32, 0.02, 0.9, 0
GOAL = 0.98


def demo(a: Namespace) -> int:
    """The whole way, told as it goes. `a` has `folder` and `threads` (None: as many as there are, up to 4)."""
    start = perf_counter()
    folder = Path(a.folder)
    folder.mkdir(parents=True, exist_ok=True)
    threads = a.threads or min(len(os.sched_getaffinity(0)), 4)
    weights, program = folder / f"{MODEL}.safetensors", folder / MODEL

    init.seed(SEED)
    splits = digits(SEED)
    network = find(MODEL)
    model = network.model
    print(driver.summary(model, network.shape, name=MODEL))

    print(f"\nTraining on {len(splits.train):,} handwritten digits, {EPOCHS} epochs, {threads} threads.", flush=True)
    history = fit(
        model,
        splits.train,
        splits.test,
        epochs=EPOCHS,
        batch=BATCH,
        loss=CrossEntropyLoss(),
        optimizer=SGD(LR, momentum=MOMENTUM),
        seed=SEED,
        threads=threads,
        checkpoint=weights,
        show=display(EPOCHS, len(splits.train)),
    )
    share = history.last.test_accuracy
    print(f"After the last epoch: {figures(history.last)}")
    print(f"Test accuracy {100 * share:.2f} % of {len(splits.test)} digits it has not seen. Weights: {weights}")
    if share < GOAL:
        raise TrainingError(f"demo: expected a test accuracy of at least {100 * GOAL:.0f} %, got {100 * share:.2f} %")

    driver.build(model, network.shape, program, preprocess=driver.Preprocess(scale=1 / 255), name=MODEL)
    print(f"Built {program}: one static executable of {program.stat().st_size:,} bytes.")

    images = write_images(folder, splits.test)
    right = ask(program, images)
    print(f"The executable reads {right} of {len(images)} right.")
    print(f"\nDone in {perf_counter() - start:.0f} s. The same by hand:\n")
    print("\n".join(f"  {command}" for command in by_hand(folder, threads)))
    return 0


def write_images(folder: Path, data: Dataset) -> list[tuple[Path, int]]:
    """The first sample of each class as an image file, and its class."""
    found = []
    for digit in range(10):
        first = int(np.flatnonzero(data.labels == digit)[0])
        path = folder / f"digit-{digit}.pgm"
        write_pgm(path, np.rint(data.images[first, 0] * 255).astype(np.uint8))
        found.append((path, digit))
    return found


def ask(program: Path, images: list[tuple[Path, int]]) -> int:
    """Runs the executable on the images and shows its answers beside the truth; how many are right."""
    command = [str(program.absolute()), "--json", *(str(path) for path, _ in images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(f"demo: {program} ended with status {done.returncode}\n  {done.stderr.strip()}")
    right = 0
    print(f"\n  {'image':<{len(str(images[0][0]))}}  answer  truth")
    for (path, digit), result in zip(images, json.loads(done.stdout)["results"], strict=True):
        answer = result["top"][0][0]["class"]
        right += answer == digit
        print(f"  {path}  {answer:>6}  {digit:>5}{'' if answer == digit else '  wrong'}")
    return right


def by_hand(folder: Path, threads: int) -> list[str]:
    """The three commands that do the same, for a shell in the present folder."""
    weights, program, image = (shlex.quote(str(folder / n)) for n in (f"{MODEL}.safetensors", MODEL, "digit-7.pgm"))
    run = program if "/" in program else f"./{program}"
    return [
        f"graphc train {MODEL} --data digits --epochs {EPOCHS} --batch {BATCH} --lr {LR} --momentum {MOMENTUM} "
        f"--threads {threads} --out {weights}",
        f"graphc build {MODEL} --weights {weights} --scale 1/255 -o {program}",
        f"{run} {image}",
    ]

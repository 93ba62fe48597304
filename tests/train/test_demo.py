"""`graphc demo`, and the three commands it prints, which must do the very same."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphc.train.data import Dataset
from graphc.train.demo import by_hand, write_images

BIN = Path(sys.executable).parent


def shell(line: str, folder: Path) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_demo_and_the_same_by_hand(tmp_path):
    told = shell("graphc demo --threads 2", tmp_path)
    accuracy = float(re.search(r"Test accuracy ([\d.]+) %", told)[1])
    assert accuracy >= 98
    assert "reads 10 of 10 right" in told and "1,256,080 parameters" in told
    made = {name: (tmp_path / name).read_bytes() for name in ("lenet5.safetensors", "lenet5")}
    commands = told.rstrip().splitlines()[-3:]
    for name in made:
        (tmp_path / name).unlink()
    answer = [shell(command, tmp_path) for command in commands][-1]
    assert answer.startswith("digit-7.pgm: 7 ")
    # The same bits: seeds, order and arithmetic are the same, whoever calls.
    assert not [name for name, content in made.items() if (tmp_path / name).read_bytes() != content]


def test_images_are_held_out_digits_in_bytes(tmp_path):
    images = np.linspace(0, 1, 20 * 28 * 28, dtype=np.float32).reshape(20, 1, 28, 28)
    found = write_images(tmp_path, Dataset("d", images, np.arange(20, dtype=np.int32) % 10))
    assert [digit for _, digit in found] == list(range(10))
    content = found[3][0].read_bytes()
    head, pixels = content[:13], np.frombuffer(content[13:], np.uint8)
    assert head == b"P5\n28 28\n255\n"
    # Rounded to the nearest byte.
    assert np.abs(pixels - 255 * images[3].ravel()).max() <= 0.5 + 1e-4


def test_commands_by_hand_name_the_folder(tmp_path):
    _, build, run = by_hand(Path("a folder"), 2)
    assert shlex.split(build)[-1] == "a folder/lenet5"
    assert shlex.split(run) == ["a folder/lenet5", "a folder/digit-7.pgm"]

"""The examples of README.md run as they stand."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.cli import parser

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {
        "graphc": graphc,
        "nn": nn,
        "images": rng.standard_normal((64, 1, 28, 28), np.float32),
        "labels": rng.integers(0, 10, 64),
        "image": rng.standard_normal((1, 1, 28, 28), np.float32),
    }
    first, second, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)  # the third needs a GPU
    exec(first, names)
    assert "1,256,080 parameters" in capsys.readouterr().out
    assert names["loss"] == pytest.approx(math.log(10), abs=0.5)  # ten classes, nothing learned yet
    assert names["scores"].shape == (1, 10)
    assert (tmp_path / "lenet5").stat().st_mode & 0o111
    e3 = math.e**3
    expected = [e3, 2 * e3, -2 * e3, e3, -e3]
    # a few roundings and an exp of 2 ulp
    np.testing.assert_allclose([float(v) for v in names["program"](1.0, -1.0, 1.0, -2.0)], expected, rtol=1e-6)

    exec(second, names)
    assert graphc.compile(names["Net"](), (2, 1, 8, 8))(np.zeros((2, 1, 8, 8), np.float32)).shape == (2, 10)


def test_commands_parse():
    commands = [line.partition("#")[0].split()[1:] for line in re.findall(r"^graphc .*", README, re.MULTILINE)]
    commands = [words for words in commands if words[0] != "compiles"]  # the first sentence
    assert len(commands) >= 5
    for words in commands:
        parser().parse_args(words)


def test_links_lead_somewhere():
    root = Path(__file__).parent.parent
    links = [*re.findall(r"\]\(([^)#]+)\)", README), *re.findall(r"^\| `([\w/.]+)`", README, re.MULTILINE)]
    assert links
    assert not [link for link in links if not (root / link).exists()]

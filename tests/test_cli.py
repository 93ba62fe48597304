"""The command line: what each command prints and writes, and that its help tells the truth."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_network import NETWORK

from graphc.cli import COMMANDS, JSON, main, parser
from graphc.train import load_weights

TINY = "tiny.py:Tiny"
SHAPE = "1,1,4,4"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with the network, data.npz and image.pgm, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(NETWORK)
    rng = np.random.Generator(np.random.Philox(3))
    labels = np.arange(40) % 2
    images = (rng.random((40, 1, 4, 4)) * 0.2 + labels[:, None, None, None] * 0.8).astype(np.float32)
    np.savez("data.npz", images=images, labels=labels)
    Path("image.pgm").write_bytes(b"P5\n4 4\n255\n" + bytes([230] * 16))
    return tmp_path


def json_of(capsys, *arguments: str) -> dict:
    """The one JSON object on standard output."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_two_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[-3] == "examples:" and tuple(line.strip() for line in lines[-2:]) == COMMANDS[command][3]


def stages(example: str) -> list[list[str]]:
    """The words of each graphc command in a shell line."""
    parts = example.replace("&&", "|").split("|")
    return [words[1:] for part in parts if (words := shlex.split(part))[0] == "graphc"]


@pytest.mark.parametrize("example", [e for _, _, _, examples in COMMANDS.values() for e in examples])
def test_examples_are_understood(example):
    assert stages(example)
    for words in stages(example):
        parser().parse_args(words)


@pytest.mark.slow
@pytest.mark.parametrize("example", [e for name in COMMANDS if name != "demo" for e in COMMANDS[name][3]])
def test_examples_work_as_they_stand(example, tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-eo", "pipefail", "-c", example]
    done = subprocess.run(shell, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_entry_point_and_version():
    done = subprocess.run([sys.executable, "-m", "graphc.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("graphc 0.")


# Reports


def test_summary(capsys):
    assert main(["summary", "lenet5"]) == 0
    shown = capsys.readouterr().out
    assert "1,256,080 parameters" in shown and "6,522,000 MACs" in shown


def test_summary_as_json(capsys):
    report = json_of(capsys, "summary", "lenet5", "--batch", "2")
    assert report["totals"]["params"] == 1_256_080 and report["totals"]["macs"] == 2 * 6_522_000
    assert report["layers"][0]["output_shape"] == [2, 20, 28, 28]


def test_summary_of_another_size(capsys):
    report = json_of(capsys, "summary", "lenet5", "--input", "1x3x28x28", "--classes", "7")
    assert report["layers"][0]["weights"]["weight"] == [20, 3, 5, 5]
    assert report["layers"][-1]["output_shape"] == [1, 7]


def test_summary_in_files(here, capsys):
    assert main(["summary", TINY, "--input", SHAPE, "--train", "--markdown", "r.md", "--html", "r.html"]) == 0
    assert "|" in Path("r.md").read_text() and "<table" in Path("r.html").read_text()
    told = capsys.readouterr()
    assert told.out == "" and "wrote r.md" in told.err
    assert main(["summary", TINY, "--input", SHAPE, "--markdown", "-"]) == 0
    assert "|" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stage", "graph", "--after", "trace"], "linear("),
        (["--stage", "graph", "--after", "trace", "--train"], "cross_entropy"),
        (["--stage", "graph", "--train"], "update %body.1.weight"),
        (["--stage", "graph"], "matmul("),
        (["--stage", "schedule"], "schedule @"),
        (["--stage", "llvm"], "define "),
        (["--stage", "asm"], ".text"),
    ],
)
def test_show(here, capsys, arguments, expected):
    assert main(["show", TINY, "--input", SHAPE, *arguments]) == 0
    assert expected in capsys.readouterr().out


# Work


def train(*more: str) -> int:
    words = [
        "train",
        TINY,
        "--data",
        "data.npz",
        "--batch",
        "12",
        "--lr",
        "0.5",
        "--epochs",
        "5",
        "--out",
        "w.safetensors",
    ]
    return main([*words, *more])


def test_train_build_and_run(here, capsys):
    assert train() == 0
    told = capsys.readouterr()
    assert "test accuracy 100.00 %" in told.out and "wrote w.safetensors" in told.out
    assert told.err == "", "quiet when nobody watches"
    assert load_weights("w.safetensors")["body.1.weight"].shape == (8, 16)

    given = [TINY, "--input", SHAPE, "--weights", "w.safetensors", "--scale", "1/255"]
    answer = json_of(capsys, "run", *given, "image.pgm")["results"][0]
    assert answer["top"][0][0]["class"] == 1

    assert json_of(capsys, "build", *given, "-o", "tiny")["bytes"] == Path("tiny").stat().st_size
    done = subprocess.run(["./tiny", "--json", "image.pgm"], capture_output=True, text=True, check=True)
    built = json.loads(done.stdout)["results"][0]
    # The same object code in and out of this process: every bit, so every digit.
    assert built["top"] == answer["top"] and built["outputs"][0]["values"] == answer["outputs"][0]["values"]


def test_training_again_gives_the_same_file(here, capsys):
    files = []
    for threads in "12":
        assert train("--threads", threads) == 0
        files.append(Path("w.safetensors").read_bytes())
    assert files[0] == files[1]


def test_training_goes_on_from_weights(here, capsys):
    assert train() == 0
    capsys.readouterr()
    more = ["train", TINY, "--data", "data.npz", "--batch", "12", "--epochs", "1", "--out", "v"]
    first = json_of(capsys, *more, "--weights", "w.safetensors")
    assert first["epochs"][0]["loss"] < 0.1


def test_run_prints_as_the_executables_do(here, capsys):
    Path("names").write_text("dark\nbright\n")
    words = ["run", TINY, "--input", SHAPE, "--weights", "initial", "--labels", "names", "--top", "2"]
    assert main([*words, "image.pgm", "--backend", "reference"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in lines) == ["bright", "dark"]
    assert all(line.startswith("image.pgm: ") and "(class " in line for line in lines)


def test_run_writes_outputs(here, capsys):
    words = ["run", TINY, "--input", SHAPE, "--weights", "initial", "--backend", "reference", "--output", "o.npy"]
    assert main([*words, "image.pgm"]) == 0
    assert np.load("o.npy").shape == (1, 2) and np.load("o.npy").dtype == np.float32
    assert main([*words, "image.pgm", "image.pgm"]) == 0
    assert np.array_equal(np.load("o-1.npy"), np.load("o-2.npy"))


@pytest.mark.parametrize("backend", ["llvm", "reference"])
def test_bench(here, capsys, backend):
    figures = json_of(
        capsys, "bench", TINY, "--input", SHAPE, "--batch", "3", "--seconds", "0.05", "--backend", backend
    )
    assert figures["batch"] == 3 and 0 < figures["best_ms"] <= figures["median_ms"] <= figures["p90_ms"]
    assert main(["bench", TINY, "--input", SHAPE, "--seconds", "0"]) == 0
    assert "images/s" in capsys.readouterr().out


def test_bench_tells_kernels_and_accuracy(here, capsys):
    words = ["bench", TINY, "--input", SHAPE, "--seconds", "0", "--kernels", "--accuracy"]
    figures = json_of(capsys, *words)
    assert figures["kernels"] and {"name", "us", "gflops", "bytes", "of_roofline"} <= set(figures["kernels"][0])
    assert set(figures["accuracy"]) == {"fast", "exact"} and 0 < figures["accuracy"]["exact"]["rms"] < 1e-6
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "of roofline" in shown and "exact  against float64" in shown


def test_commands_with_json_are_those_that_say_so():
    assert {name for name in COMMANDS if "--json" in help_of(name)} == set(JSON)


def help_of(command: str) -> str:
    (choices,) = (a.choices for a in parser()._actions if a.dest == "command")
    return choices[command].format_help()

"""Every bad request ends with one clear message on standard error, status 2 (1 where work failed), nothing on standard
output, no traceback, and nothing half-written. The executable's own bad inputs are in tests/llvm."""

import json
import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_network import NETWORK

import graphc
from graphc import nn
from graphc.cli import main

NUMBER = """
def number():
    return 3

class Wide(Tiny):
    def __init__(self, width):
        super().__init__()

class Slip(Tiny):
    def forward(self, x):
        return self.boddy(x)
"""
TINY = ["tiny.py:Tiny", "--input", "1,1,4,4"]
RUN = ["run", *TINY, "--backend", "reference", "--weights"]
TRAIN = ["train", *TINY[:1], "--backend", "reference", "--out", "w.safetensors", "--data"]
BUILD = ["build", *TINY, "--weights", "initial"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a network, data, and bad files of each kind, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(NETWORK + NUMBER)
    Path("broken.py").write_text("import nothing_of_this_name\n")
    weights = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict()
    good = {f"body.{name}": array for name, array in weights.items()}
    save_file(good, "good.safetensors")
    Path("cut.safetensors").write_bytes(Path("good.safetensors").read_bytes()[:-9])
    Path("noise.safetensors").write_bytes(bytes(range(256)))
    Path("empty.safetensors").write_bytes(b"")
    del good["body.1.bias"]
    save_file({**good, "body.1.weight": np.zeros((8, 9), np.float32), "extra": np.zeros(1)}, "other.safetensors")
    Path("image.pgm").write_bytes(b"P5\n4 4\n255\n" + bytes(16))
    Path("wide.pgm").write_bytes(b"P5\n5 4\n255\n" + bytes(20))
    np.save("complex.npy", np.zeros((1, 1, 4, 4), np.complex64))
    np.save("cut.npy", np.zeros((1, 1, 4, 4), np.float32))
    Path("cut.npy").write_bytes(Path("cut.npy").read_bytes()[:-1])
    Path("empty").write_bytes(b"")
    Path("labels").write_text("one\n")
    images, labels = np.ones((20, 1, 4, 4), np.float32), np.arange(20) % 2
    np.savez("data.npz", images=images, labels=labels)
    np.savez("wide.npz", images=np.ones((20, 1, 5, 5), np.float32), labels=labels)
    np.savez("classes.npz", images=images, labels=labels + 1)
    np.savez("huge.npz", images=images * np.float32(3e38), labels=labels)
    np.savez("nan.npz", images=images * np.float32(np.nan), labels=labels)
    Path("folder").mkdir()
    return tmp_path


# (arguments, exit status, what the message holds)
CASES = {
    # the model
    "unknown model": (["summary", "lenet"], 2, ["'lenet'", "did you mean lenet5", "resnet50"]),
    "unlike any model": (["summary", "qqqq"], 2, ["there are: mlp, lenet5", "file.py:Class"]),
    "missing file": (["summary", "none.py:Net"], 2, ["there is no file none.py"]),
    "file without class": (["summary", "tiny.py"], 2, ["expected file.py:Class"]),
    "unknown class": (["summary", "tiny.py:Big"], 2, ["tiny.py has no Big", "it has: Tiny, number, Wide, Slip"]),
    "file that fails": (
        ["summary", "broken.py:Net"],
        2,
        ["broken.py:1", "broken.py cannot be imported", "nothing_of_this_name"],
    ),
    "no module": (["summary", "tiny.py:number", "--input", "1,2"], 2, ["expected a class of nn.Module", "got 3"]),
    "no input shape": (["summary", "tiny.py:Tiny"], 2, ["shape of its input is not known", "--input"]),
    "class with arguments": (
        ["summary", "tiny.py:Wide", "--input", "1,16"],
        2,
        ["tiny.py:Wide cannot be made: TypeError", "'width'", "Wide()", "defaults"],
    ),
    "slip in a forward": (
        ["summary", "tiny.py:Slip", "--input", "1,16"],
        2,
        ["tiny.py:21  Slip has no attribute 'boddy'", "did you mean body?"],
    ),
    "input that does not fit": (
        ["summary", "tiny.py:Tiny", "--input", "1,1,5,5"],
        2,
        ["body.1 (Linear): expects 16 inputs, got 25"],
    ),
    "unknown pass": (["show", "mlp", "--after", "optimise"], 2, ["no such pass", "fold_constants"]),
    "pass of another stage": (["show", "mlp", "--stage", "asm", "--after", "simplify"], 2, ["--after goes with"]),
    # weights
    "missing weights": (
        [*RUN, "godo.safetensors", "image.pgm"],
        2,
        ["godo.safetensors: not found", "good.safetensors"],
    ),
    "cut weights": ([*RUN, "cut.safetensors", "image.pgm"], 2, ["cut.safetensors: is damaged"]),
    "noise as weights": ([*RUN, "noise.safetensors", "image.pgm"], 2, ["noise.safetensors: is damaged"]),
    "empty weights": ([*RUN, "empty.safetensors", "image.pgm"], 2, ["empty.safetensors: is damaged", "(0 bytes)"]),
    "folder as weights": ([*RUN, "folder", "image.pgm"], 2, ["weight file folder"]),
    "weights of another network": (
        [*RUN, "other.safetensors", "image.pgm"],
        2,
        [
            "weight file other.safetensors: weights do not fit Tiny: 3 problems",
            "missing: body.1.bias",
            "unexpected: extra",
            "body.1.weight has shape [8, 16], got [8, 9]",
        ],
    ),
    # inputs
    "missing input": ([*RUN, "initial", "none.pgm"], 2, ["none.pgm: cannot be read: No such file"]),
    "image of another size": ([*RUN, "initial", "wide.pgm"], 2, ["wide.pgm", "expected 1x1x4x4, got 1x4x5"]),
    "input of another dtype": ([*RUN, "initial", "complex.npy"], 2, ["expected float32, got complex64"]),
    "cut input": ([*RUN, "initial", "cut.npy"], 2, ["cut.npy: is a damaged .npy file"]),
    "empty input": ([*RUN, "initial", "empty"], 2, ["empty: is empty"]),
    "labels of other classes": (
        [*RUN, "initial", "image.pgm", "--labels", "labels"],
        2,
        ["label file labels: expected 2 labels, one a line, got 1"],
    ),
    "missing labels": ([*RUN, "initial", "image.pgm", "--labels", "none"], 2, ["label file none: cannot be read"]),
    "channels of mean": ([*RUN, "initial", "image.pgm", "--mean", "1,2,3"], 2, ["preprocess: 3 values"]),
    # data and training
    "unknown data": ([*TRAIN, "mnist"], 2, ["data set mnist: unknown", "digits"]),
    "missing data": ([*TRAIN, "none.npz"], 2, ["none.npz: cannot be read: No such file"]),
    "data of another shape": ([*TRAIN, "wide.npz", "--batch", "4"], 2, ["expects 16 inputs, got 25"]),
    "labels that are no class": (
        [*TRAIN, "classes.npz", "--batch", "4"],
        2,
        ["labels from 1 to 2", "expected classes 0 to 1"],
    ),
    "data with nan": ([*TRAIN, "nan.npz", "--batch", "4"], 2, ["images[0] is not finite"]),
    "batch larger than the data": ([*TRAIN, "data.npz", "--batch", "99"], 2, ["holds 16 samples, got a batch of 99"]),
    "loss not finite": (
        ["train", "tiny.py:Tiny", "--out", "w.safetensors", "--data", "huge.npz", "--batch", "4"],
        1,
        ["epoch 1, batch ", "the loss is", "body.", "(Linear)", "tiny.py:7"],
    ),
    # outputs
    "weights in no folder": ([*TRAIN[:4], "--out", "no/w", "--data", "data.npz"], 1, ["no/w: cannot be written"]),
    "executable in no folder": ([*BUILD, "-o", "no/tiny"], 1, ["no/tiny: cannot be written"]),
    "executable over a folder": ([*BUILD, "-o", "folder"], 1, ["folder: cannot be written: is a folder"]),
    "report in no folder": (["summary", "mlp", "--markdown", "no/r.md"], 1, ["no/r.md: cannot be written"]),
    "array in no folder": ([*RUN, "initial", "image.pgm", "--output", "no/o.npy"], 1, ["no/o.npy: cannot be written"]),
    "unknown cpu": ([*BUILD, "-o", "tiny", "--cpu", "pentium"], 2, ["pentium"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_request(here, capsys, case):
    arguments, status, messages = CASES[case]
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file() and "__pycache__" not in str(path)}
    with np.errstate(all="ignore"):
        assert main(arguments) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("graphc: ") and "Traceback" not in told.err and "internal error" not in told.err
    for message in messages:
        assert message in told.err
    after = {path: path.read_bytes() for path in here.rglob("*") if path.is_file() and "__pycache__" not in str(path)}
    assert after == before, "something was written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sumary", "mlp"], "invalid choice: 'sumary'"),
        (["summary"], "MODEL"),
        (["summary", "mlp", "--input", "1,0,3"], "expected positive numbers such as 1,3,224,224, got '1,0,3'"),
        (["summary", "mlp", "--batch", "0"], "expected a whole number from 1, got '0'"),
        (["bench", "mlp", "--threads", "two"], "expected a whole number from 1, got 'two'"),
        (["build", "mlp", "--weights", "initial", "-o", "x", "--scale", "1/0"], "got '1/0'"),
        (["train", "mlp", "--data", "digits"], "--out"),
        (["show", "mlp", "--stage", "metal"], "invalid choice: 'metal'"),
    ],
)
def test_bad_flags(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == "" and message in told.err


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "graphc demo" in told.err and "COMMAND" in told.err


def graphc_in_a_shell(redirection: str, **environment) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -m graphc.cli summary mlp {redirection}"
    return subprocess.run(["bash", "-c", command], capture_output=True, env={**os.environ, **environment})


def test_a_terminal_without_unicode_gets_plain_characters():
    done = graphc_in_a_shell("", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and done.stderr == b""
    assert b"all trainable - " in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_or_full_standard_output(unbuffered):
    """Whether the first line fails, or all of it when the buffer is written, or again at exit: one line says so."""
    done = graphc_in_a_shell(">&-", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (0, b"")
    done = graphc_in_a_shell(">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, b"graphc: cannot write: No space left on device\n")


def test_no_linker_says_what_to_install(here, monkeypatch, capsys):
    find = util.find_spec
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "ziglang" else find(name, *more))
    assert main([*BUILD, "-o", "tiny"]) == 1
    told = capsys.readouterr()
    assert "no linker" in told.err and 'pip install "graphc-compiler[toolchain]"' in told.err
    assert not Path("tiny").exists() and not list(here.glob(".tiny*"))


def test_a_failing_linker_leaves_the_old_program(here, monkeypatch, capsys):
    Path("tiny").write_bytes(b"old")
    fails = Path("cc")
    fails.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    fails.chmod(0o755)
    toolchain = sys.modules["graphc.backends.llvm.toolchain"]
    monkeypatch.setattr(toolchain, "find", lambda *_: toolchain.Toolchain("cc", (str(fails.absolute()),)))
    assert main([*BUILD, "-o", "tiny"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert Path("tiny").read_bytes() == b"old" and not list(here.glob(".tiny*"))


def test_debug_shows_the_traceback(here):
    with pytest.raises(graphc.GraphcError):
        main(["summary", "lenet", "--debug"])


def test_error_of_ours_is_said_to_be_one(here, monkeypatch, capsys):
    monkeypatch.setattr("graphc.driver.summary", lambda *_, **__: 1 / 0)
    assert main(["summary", "mlp"]) == 1
    assert capsys.readouterr().err.startswith("graphc: internal error: ZeroDivisionError")


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m graphc.cli show resnet18 --after trace | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("graph @") and done.stderr == ""


def test_json_is_not_printed_for_a_failure(here, capsys):
    assert main(["summary", "lenet", "--json"]) == 2
    assert capsys.readouterr().out == ""
    assert main(["summary", "mlp", "--json"]) == 0
    json.loads(capsys.readouterr().out)


# The same from Python


@pytest.fixture(scope="module", params=["llvm", "reference"])
def program(request):
    return graphc.compile(nn.Linear(3, 2), (1, 3), backend=request.param)


# (inputs, Python's class of the error, what its lines hold)
ARRAYS = {
    "shape": ([np.zeros((1, 4), np.float32)], ValueError, ["input", "expected 1x3, got 1x4"]),
    "batch": ([np.zeros((2, 3), np.float32)], ValueError, ["expected 1x3, got 2x3"]),
    "rank": ([np.zeros(3, np.float32)], ValueError, ["expected 1x3, got 3"]),
    "dtype": ([np.zeros((1, 3), np.complex64)], TypeError, ["expected float32, got complex64", "astype"]),
    "text": ([np.zeros((1, 3), "U3")], TypeError, ["expected float32, got <U3"]),
    "none": ([], TypeError, ["expected 1 (input), got 0"]),
    "too many": ([np.zeros((1, 3), np.float32)] * 2, TypeError, ["expected 1 (input), got 2"]),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_wrong_arrays(program, case):
    inputs, kind, messages = ARRAYS[case]
    with pytest.raises(graphc.GraphcError) as caught:
        program(*inputs)
    assert isinstance(caught.value, kind)
    for message in messages:
        assert message in str(caught.value)


def test_a_wrong_batch_is_refused_before_a_step_is_compiled_for_it():
    loss, optimizer = nn.MSELoss(), graphc.optim.SGD()
    step = graphc.compile_training(nn.Linear(3, 2), (4, 3), loss=loss, optimizer=optimizer, backend="reference")
    step.prepare = lambda batch: pytest.fail(f"compiles for a batch of {batch}")
    for shape in ((3,), (2, 4), (2, 3, 1)):
        with pytest.raises(graphc.GraphcError, match=r"^input: wrong shape\n  expected 4x3"):
            step(np.zeros(shape, np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(graphc.GraphcError, match="lr: expected a number"):
        step.lr = "fast"


def test_wrong_target_is_refused_before_anything_is_compiled():
    loss, optimizer = nn.MSELoss(), graphc.optim.SGD()
    step = graphc.compile_training(nn.Linear(3, 2), (4, 3), loss=loss, optimizer=optimizer, backend="reference")
    with pytest.raises(graphc.GraphcError, match="4x2"):
        step(np.zeros((4, 3), np.float32), np.zeros((4, 1), np.float32))
    x, y = graphc.input((4, 2), name="x"), graphc.input((4,), name="y")
    with pytest.raises(graphc.GraphcError):
        loss(x, y)

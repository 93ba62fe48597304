"""The cache of object code: by content, on disk, against every kind of bad luck."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import cache
from graphc.backends.llvm import jit, keys, target
from graphc.backends.llvm.objects import compile_objects
from graphc.backends.llvm.pieces import piece_of
from graphc.backends.llvm.program import LlvmProgram
from graphc.schedule.expr import Aff, const, load
from graphc.schedule.kernels import Loops, Schedule, Stage, Store
from graphc.schedule.layout import Buffer

KEY = "0" * 64
I = Aff.of("i")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder for this test alone, and an empty memory before and after."""
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path / "cache"))
    cache.CODE.forget()
    yield tmp_path / "cache"
    cache.CODE.forget()


def adding(addend: float, size: int = 10, name: str = "k", buffers: tuple[str, str] = ("x", "y")) -> Schedule:
    """y[size] = x + addend."""
    x, y = buffers
    kernel = Loops(name, (("i", size),), (Stage((), (Store(y, (I,), load(x, (I,)) + const(addend)),)),))
    both = {x: Buffer(x, (size,), "f32", place="input"), y: Buffer(y, (size,), "f32", place="output")}
    return Schedule("net", both, (kernel,), (x,), (y,))


def compiled(schedule: Schedule) -> int:
    """How many objects LLVM makes for it, after a look at the result."""
    made = LlvmProgram(schedule, np.zeros(0, np.uint8))
    addend = schedule.kernels[0].stages[0].outs[0].expr.args[1].attr
    assert made(np.ones(10, np.float32))[0].tolist() == [1 + addend] * 10
    return made.objects.compiled


def entries(place: Path) -> list[Path]:
    return sorted(place.iterdir())


# by content


def key_of(schedule: Schedule, machine: target.Target = target.x86_64_v3()) -> str:  # noqa: B008
    return piece_of(schedule.kernels[0], schedule.buffers, machine).key


def test_names_are_not_part_of_the_key():
    assert key_of(adding(1.0)) == key_of(adding(1.0, name="other", buffers=("a", "b")))


@pytest.mark.parametrize("other", [adding(2.0), adding(-1.0), adding(1.0, 11)])
def test_what_a_kernel_computes_is_part_of_the_key(other):
    assert key_of(adding(1.0)) != key_of(other)


def test_zeros_of_both_signs_are_different_work():
    assert key_of(adding(0.0)) != key_of(adding(-0.0))


def test_target_and_versions_are_part_of_the_key(monkeypatch):
    before = key_of(adding(1.0))
    assert before != key_of(adding(1.0), target.x86_64_v4())
    monkeypatch.setattr(keys.llvm, "llvm_version_info", (99, 0, 0))
    keys.compiler.cache_clear()
    assert before != key_of(adding(1.0))
    monkeypatch.undo()
    keys.compiler.cache_clear()
    assert before == key_of(adding(1.0))


def test_the_emitters_own_text_is_part_of_the_key(tmp_path, monkeypatch):
    (tmp_path / "emitter.py").write_text("one")
    monkeypatch.setattr(keys, "SOURCES", (str(tmp_path),))
    keys.compiler.cache_clear()
    before = keys.key("kernel")
    (tmp_path / "emitter.py").write_text("two")
    keys.compiler.cache_clear()
    assert keys.key("kernel") != before
    keys.compiler.cache_clear()


def test_parts_of_a_key_do_not_run_into_each_other():
    assert keys.key("ab", "c") != keys.key("a", "bc")


# hits


def test_equal_kernels_of_several_programs_are_compiled_once(monkeypatch):
    monkeypatch.setenv("GRAPHC_CACHE", "off")  # the memory alone
    assert compiled(adding(1.0)) == 2  # the kernel, and the code that runs it
    assert compiled(adding(1.0, name="other", buffers=("a", "b"))) == 0
    assert compiled(adding(2.0)) == 2


def test_code_from_disk_is_the_same_code(place, monkeypatch):
    first = compile_objects(adding(1.0), target.host(), "net")
    assert (first.compiled, len(entries(place))) == (2, 2)
    cache.CODE.forget()
    monkeypatch.setattr(jit, "compile_object", None)
    again = compile_objects(adding(1.0), target.host(), "net")
    assert again.compiled == 0 and again.code == first.code


PROGRAM = """
import numpy as np, graphc
from graphc import nn
made = graphc.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 8, 8))
made(np.ones((1, 3, 8, 8), np.float32))
print(made.program.objects.compiled)
"""


def test_a_second_process_compiles_nothing():
    counts = [int(subprocess.check_output([sys.executable, "-c", PROGRAM])) for _ in range(2)]
    assert counts[0] >= 2 and counts[1] == 0


# bad luck


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:]])
def test_a_damaged_entry_is_made_again(place, damage):
    assert compiled(adding(1.0)) == 2
    whole = {path: path.read_bytes() for path in entries(place)}
    for path, data in whole.items():
        path.write_bytes(damage(data))
    cache.CODE.forget()
    assert compiled(adding(1.0)) == 2
    assert {path: path.read_bytes() for path in entries(place)} == whole


def test_a_folder_that_cannot_be_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path / "file" / "cache"))
    assert compiled(adding(1.0)) == 2
    assert compiled(adding(1.0)) == 0  # from memory


def test_a_read_only_folder_is_read(place, monkeypatch):
    def refused(*_):
        raise PermissionError("read-only")

    assert compiled(adding(1.0)) == 2
    monkeypatch.setattr(cache.tempfile, "mkstemp", refused)
    monkeypatch.setattr(os, "utime", refused)
    cache.CODE.forget()
    assert compiled(adding(1.0)) == 0
    assert compiled(adding(2.0)) == 2
    assert len(entries(place)) == 2


def test_a_write_that_fails_leaves_nothing(place, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not cache.write(KEY, b"code")
    assert entries(place) == []


def written(number: int) -> int:
    """Writes and reads one entry again and again; how often a read gave anything but what somebody wrote."""
    wrong = 0
    for turn in range(100):
        cache.write(KEY, bytes([number, turn]) * 5000)
        data = cache.read(KEY)
        wrong += data is None or len(data) != 10_000 or data[:2] * 5000 != data
    return wrong


def test_processes_that_write_the_same_entry(place):
    with multiprocessing.get_context("fork").Pool(3) as processes:
        assert processes.map(written, range(3)) == [0, 0, 0]
    assert [path.name for path in entries(place)] == [f"{KEY}{cache.SUFFIX}"]


# the folder


def test_where_the_folder_is(monkeypatch, tmp_path):
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.setenv("GRAPHC_CACHE", "off")
    assert cache.folder() is None
    monkeypatch.delenv("GRAPHC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "graphc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the standard
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "graphc"


def test_off_writes_nothing(place, monkeypatch):
    monkeypatch.setenv("GRAPHC_CACHE", "off")
    assert compiled(adding(1.0)) == 2 and not place.exists()


def test_the_size_is_bounded_and_the_oldest_go_first(place):
    names = [hashlib.sha256(bytes([k])).hexdigest() for k in range(4)]
    for age, name in enumerate(reversed(names)):
        assert cache.write(name, bytes(1000))
        os.utime(place / f"{name}{cache.SUFFIX}", (1000 + age, 1000 + age))
    (place / "notes.txt").write_text("not ours" * 1000)
    assert cache.read(names[3]) == bytes(1000)  # so it is the youngest again
    cache.trim(2500)
    left = [path.name for path in entries(place)]
    assert sorted(left) == sorted([f"{names[3]}{cache.SUFFIX}", f"{names[0]}{cache.SUFFIX}", "notes.txt"])


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setenv("GRAPHC_CACHE", "off")
    monkeypatch.setattr(cache, "MEMORY_BYTES", 2500)
    kept = cache.Cache()
    for name in "abc":
        kept.put(name, bytes(1000))
    assert [kept.get(name) is None for name in "abc"] == [True, False, False]


def test_debug_says_what_was_compiled(monkeypatch, capsys):
    monkeypatch.setenv("GRAPHC_DEBUG", "1")
    for _ in range(2):
        graphc.compile(graphc.nn.ReLU(), (1, 4))
    lines = [line for line in capsys.readouterr().err.splitlines() if "objects" in line]
    assert "relu: 1 kernels, 2 objects, 0 cached, 2 compiled" in lines[0]
    assert "relu: 1 kernels, 2 objects, 2 cached, 0 compiled" in lines[1]

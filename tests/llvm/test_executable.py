"""Standalone executables around object code written here in C: every option, every kind of bad input, the linkers.

`tiny` is y = W x + b on f32[1,1,4,4] -> f32[1,3]; `pair` takes f32[2,3] and u8[1,3,2,2] and keeps a counter as state.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphc.backends.llvm import cpu_levels, executable, toolchain
from graphc.backends.llvm.executable import BuildError, CpuObject, ExecutableParts, TensorInfo

TINY_C = """
int PREFIX_run(ARGUMENTS) {
    const float *w = weights, *b = w + 48, *x = inputs[0];
    (void)state, (void)threads;
    for (int o = 0; o < 3; o++) {
        float *sum = (float *)arena + o;
        *sum = b[o];
        for (int i = 0; i < 16; i++)
            *sum += w[16 * o + i] * x[i];
        ((float *)outputs[0])[o] = *sum;
    }
    return 0;
}
"""
PAIR_C = """
int PREFIX_run(ARGUMENTS) {
    const float *a = inputs[0];
    const unsigned char *b = inputs[1];
    (void)weights, (void)arena, (void)threads;
    ++*(int *)state;
    for (int i = 0; i < 6; i++)
        ((float *)outputs[0])[i] = 2 * a[i] + (float)*(int *)state;
    for (int i = 0; i < 12; i++)
        ((int *)outputs[1])[i] = b[i];
    return 0;
}
"""
# Integers, so that every order of summation gives the same bits.
WEIGHT = (np.arange(48, dtype="<f4") % 7 - 3).reshape(3, 16)
BIAS = np.array([1, -2, 3], "<f4")
PIXELS = (np.arange(16, dtype="<f4") * 11 % 16).reshape(1, 1, 4, 4)
FILLER = np.zeros(1_000_000, "<f4")  # weights of a real network's size: 4 MB


def expected(pixels: np.ndarray) -> np.ndarray:
    return (WEIGHT @ pixels.ravel() + BIAS).reshape(1, 3).astype("<f4")


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory):
    """Source text and prefix -> relocatable object code."""
    try:
        tools = toolchain.find()
    except BuildError as error:
        pytest.skip(str(error))

    def compile_source(source: str, prefix: str) -> bytes:
        folder = tmp_path_factory.mktemp("object")
        (folder / "k.c").write_text(source.replace("PREFIX", prefix).replace("ARGUMENTS", executable.RUN_ARGUMENTS))
        subprocess.run([*tools.command, "-O1", "-c", "k.c", "-o", "k.o"], cwd=folder, check=True)
        return (folder / "k.o").read_bytes()

    return compile_source


@pytest.fixture(scope="session")
def tiny_parts(compile_c) -> ExecutableParts:
    return ExecutableParts(
        name="tiny",
        version="0.1.0",
        target="x86_64-linux",
        summary='tiny: one "Linear" layer??/\n51 parameters',
        inputs=(TensorInfo("x", "f32", (1, 1, 4, 4)),),
        outputs=(TensorInfo("scores", "f32", (1, 3)),),
        weights=np.concatenate([WEIGHT.ravel(), BIAS, FILLER]),
        objects=(CpuObject("tiny", "native", (compile_c(TINY_C, "tiny"),)),),
        arena_bytes=12,
        selftest=(((PIXELS,), (expected(PIXELS),)), ((PIXELS * 0,), (expected(PIXELS * 0),))),
    )


@pytest.fixture(scope="session")
def tiny(tiny_parts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    executable.build(path, tiny_parts)
    return path


@pytest.fixture(scope="session")
def pair(compile_c, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "pair"
    parts = ExecutableParts(
        name="pair",
        version="0.1.0",
        target="x86_64-linux",
        summary="pair",
        inputs=(TensorInfo("a", "f32", (2, 3)), TensorInfo("b", "u8", (1, 3, 2, 2))),
        outputs=(TensorInfo("doubled", "f32", (2, 3)), TensorInfo("bytes", "i32", (12,))),
        weights=b"",
        state=np.array([41], "<i4"),
        objects=(CpuObject("pair", "native", (compile_c(PAIR_C, "pair"),)),),
    )
    executable.build(path, parts)
    return path


@pytest.fixture(autouse=True)
def inputs(tmp_path, monkeypatch) -> None:
    """The working folder, with one good file of each kind for tiny."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    Path("x.pgm").write_bytes(b"P5\n4 4\n255\n" + PIXELS.astype("u1").tobytes())
    Path("x.raw").write_bytes(PIXELS.tobytes())


def run(program: Path, *arguments: str, status: int = 0, stdin: bytes = b"") -> str:
    """Standard output of a run that succeeds, standard error of one that does not; the other stream is empty."""
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == status, done
    shown, silent = (done.stdout, done.stderr) if status == 0 else (done.stderr, done.stdout)
    assert silent == b""
    assert shown.endswith(b"\n")
    return shown.decode()


def best(scores: np.ndarray, k: int = 1) -> list[str]:
    return [f"{i} (score {scores.ravel()[i]:g})" for i in np.argsort(-scores.ravel())[:k]]


def test_it_is_static(tiny):
    ldd = shutil.which("ldd")
    if ldd is None:
        pytest.skip("no ldd here")
    done = subprocess.run([ldd, tiny], capture_output=True, text=True)
    assert "not a dynamic executable" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["x.npy", "x.pgm", "x.raw"])
def test_every_format_gives_the_answer(tiny, name):
    line = f"{best(expected(PIXELS))[0]}\n"
    assert run(tiny, name) == f"{name}: {line}"
    assert run(tiny, "-", stdin=Path(name).read_bytes()) == f"standard input: {line}"


def test_several_inputs_are_several_runs(tiny):
    lines = run(tiny, "--top=2", "x.npy", "x.pgm").splitlines()
    assert lines == [f"{name}: {text}" for name in ("x.npy", "x.pgm") for text in best(expected(PIXELS), 2)]


def test_labels(tiny, tiny_parts, tmp_path):
    Path("labels.txt").write_bytes('Null\r\nähnlich "1"\nzwei'.encode())
    answer = run(tiny, "--labels", "labels.txt", "--top", "3", "x.npy")
    assert 'x.npy: ähnlich "1" (class 1, score' in answer
    report = json.loads(run(tiny, "--json", "--labels", "labels.txt", "--top", "3", "x.npy"))
    assert {row["label"] for row in report["results"][0]["top"][0]} == {"Null", 'ähnlich "1"', "zwei"}
    executable.build("named", replace(tiny_parts, labels=("nought", "one", "??/two")))
    assert "x.npy: ??/two (class 2, score" in run(tmp_path / "named", "--top", "3", "x.npy")


def test_json_holds_every_value(tiny):
    report = json.loads(run(tiny, "--json", "--top", "2", "x.npy", "-", stdin=Path("x.pgm").read_bytes()))
    assert report["program"] == "tiny"
    assert [result["inputs"] for result in report["results"]] == [["x.npy"], ["-"]]
    for result in report["results"]:
        (output,) = result["outputs"]
        assert (output["name"], output["dtype"], output["shape"]) == ("scores", "float32", [1, 3])
        np.testing.assert_array_equal(np.array(output["values"], "<f4"), expected(PIXELS).ravel())
        order = np.argsort(-expected(PIXELS).ravel())[:2]
        assert [row["class"] for row in result["top"][0]] == list(order)


def test_json_of_infinite_scores_still_parses(tiny):
    np.save("inf.npy", np.full((4, 4), np.inf, "<f4"))
    assert json.loads(run(tiny, "--json", "inf.npy"))["results"][0]["outputs"][0]["values"] == [None, None, None]


def test_output_is_written_as_npy(tiny):
    run(tiny, "--output", "y.npy", "x.npy")
    got = np.load("y.npy")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected(PIXELS))
    run(tiny, "--output", "y.npy", "x.npy", "x.pgm")
    np.testing.assert_array_equal(np.load("y-2.npy"), np.load("y-1.npy"))
    assert sorted(p.name for p in Path().glob("*y*")) == ["x.npy", "y-1.npy", "y-2.npy", "y.npy"]


def test_several_program_inputs_are_taken_in_order(pair):
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.arange(12, dtype="u1").reshape(3, 2, 2)
    np.save("a.npy", a)
    Path("b.ppm").write_bytes(b"P6 2 2 255 " + b.transpose(1, 2, 0).tobytes())
    text = run(pair, "a.npy", "b.ppm", "a.npy", "b.ppm", "--output", "out")
    assert text.splitlines()[0] == "a.npy b.ppm: doubled float32 2x3: 42 44 46 48 50 52"
    assert text.splitlines()[1].startswith("a.npy b.ppm: bytes int32 12: 0 1 2 3 4 5 6 7 ... (12 values")
    # State begins anew in the second run: without that, 1 more.
    for number, values in ((1, 2 * a + 42), (2, b.ravel()), (3, 2 * a + 42), (4, b.ravel())):
        np.testing.assert_array_equal(np.load(f"out-{number}"), values)
    assert "expected 2 INPUTs for each run, got 3" in run(pair, "a.npy", "b.ppm", "a.npy", status=2)


def test_info(tiny, tiny_parts):
    text = run(tiny, "--info")
    for part in (tiny_parts.summary, "graphc 0.1.0", "x float32 1x1x4x4", "scores float32 1x3", "as built", "12 bytes"):
        assert part in text
    report = json.loads(run(tiny, "--info", "--json"))
    assert report["weights_intact"] is True
    assert report["weight_bytes"] == tiny_parts.weights.nbytes
    assert report["summary"] == tiny_parts.summary
    assert report["level"] == "native"


def test_bench(tiny):
    assert "tiny: 20 runs, 2 threads" in run(tiny, "--bench", "20", "--threads", "2")
    figures = json.loads(run(tiny, "--bench", "9", "--json", "x.npy"))["bench"]
    assert 0 < figures["min_ms"] <= figures["median_ms"] <= figures["p90_ms"]
    assert figures["images_per_second"] == pytest.approx(1e3 / figures["median_ms"], rel=1e-4)


def test_help_ends_with_two_examples_that_work(tiny):
    *_, first, second = run(tiny, "--help").splitlines()
    for example in (first, second):
        assert subprocess.run(example, shell=True, capture_output=True).returncode == 0
    assert run(tiny, "-h") == run(tiny, "--help")


def test_version(tiny):
    assert run(tiny, "--version") == "tiny, built by graphc 0.1.0\n"


def test_selftest(tiny, tiny_parts, tmp_path):
    assert "self-test passed: 2 vectors" in run(tiny, "--selftest")
    wrong = expected(PIXELS)
    wrong[0, 1] = np.nextafter(wrong[0, 1], np.float32(np.inf))
    executable.build("wrong", replace(tiny_parts, selftest=(((PIXELS,), (wrong,)),)))
    message = run(tmp_path / "wrong", "--selftest", status=1)
    assert message.startswith("tiny: self-test failed: vector 1, output scores, element 1: expected ")
    done = subprocess.run([tmp_path / "wrong", "--selftest", "--json"], capture_output=True)
    assert done.returncode == 1
    assert json.loads(done.stdout)["selftest"]["passed"] is False


def test_damaged_weights_are_seen(tiny):
    content = tiny.read_bytes()
    damaged = content.replace(WEIGHT.tobytes(), (WEIGHT + 1).tobytes())
    assert damaged != content
    Path("damaged").write_bytes(damaged)
    Path("damaged").chmod(0o755)
    assert "weights: expected checksum" in run(Path("damaged").absolute(), "--selftest", status=1)
    assert "DAMAGED" in run(Path("damaged").absolute(), "--info")


BAD_REQUESTS = {
    "no input": ([], "expected an INPUT, got none"),
    "unknown option": (["--foo", "x.npy"], "unknown option '--foo'"),
    "short option": (["-q"], "unknown option '-q'"),
    "no value": (["x.npy", "--top"], "--top: expected a value"),
    "zero": (["--top", "0", "x.npy"], "--top: expected a whole number from 1 to 1000000, got '0'"),
    "no number": (["--threads", "two", "x.npy"], "--threads: expected a whole number"),
    "too many": (["--threads=99999999999999999999", "x.npy"], "--threads: expected a whole number"),
    "value for a flag": (["--json=yes", "x.npy"], "--json: takes no value"),
    "no kernels": (["--profile"], "--profile: this program does not know its kernels"),
    "two actions": (["--info", "--selftest"], "expected one of --info, --selftest, --bench and --profile"),
    "selftest of a file": (["--selftest", "x.npy"], "--selftest: expected no INPUT, got 'x.npy'"),
    "empty file name": (["--output=", "x.npy"], "--output: expected a file name"),
    "stdin twice": (["-", "-"], "standard input can be read once"),
    "missing file": (["none.npy"], "none.npy: cannot be opened: No such file"),
    "a folder": (["."], ".: cannot be read: Is a directory"),
    "empty stdin": (["-"], "standard input: is empty"),
    "option after --": (["--", "--json"], "--json: cannot be opened"),
    "truncated npy": (["cut.npy"], "cut.npy: .npy is cut off, expected 64 bytes of data, got 60"),
    "wrong shape": (["wide.npy"], "wide.npy: expected shape 1x1x4x4, got 1x1x4x5"),
    "wrong image": (["wide.pgm"], "wide.pgm: expected a 4x4 image with 1 channel, got 5x4 with 1 channel"),
    "missing labels": (["--labels", "none.txt", "x.npy"], "none.txt: cannot be opened"),
    "few labels": (["--labels", "two.txt", "x.npy"], "two.txt: expected 3 labels, one a line, got 2"),
    "bad bench input": (["--bench", "3", "cut.npy"], "cut.npy: .npy is cut off"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_end_with_2_and_one_message(tiny, case):
    arguments, message = BAD_REQUESTS[case]
    Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:-4])
    np.save("wide.npy", np.zeros((1, 1, 4, 5), "<f4"))
    Path("wide.pgm").write_bytes(b"P5 5 4 255 " + bytes(20))
    Path("two.txt").write_text("a\nb\n")
    shown = run(tiny, *arguments, status=2)
    assert message in shown
    assert len(shown.splitlines()) <= 2


def test_one_bad_file_does_not_stop_the_others(tiny):
    done = subprocess.run([tiny, "none.npy", "x.npy"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == f"x.npy: {best(expected(PIXELS))[0]}\n"
    assert done.stderr.startswith("none.npy: cannot be opened")
    done = subprocess.run([tiny, "--json", "none.npy", "x.npy"], capture_output=True, text=True)
    first, second = json.loads(done.stdout)["results"]
    assert "cannot be opened" in first["error"] and second["inputs"] == ["x.npy"]


def test_options_for_classes_are_refused_where_there_are_none(pair):
    assert "--top: needs a program with one output" in run(pair, "--top", "2", "a", "b", status=2)


@pytest.mark.parametrize("output", ["none/y.npy", "x.pgm/y.npy", "."])
def test_unwritable_output_ends_with_1(tiny, output):
    before = sorted(os.listdir())
    assert f"{output}: cannot be written: " in run(tiny, "--output", output, "x.npy", status=1)
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_with_1(tiny):
    assert "/dev/full: cannot be written: No space" in run(tiny, "--output", "/dev/full", "x.npy", status=1)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([tiny, "x.npy"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"cannot write to standard output" in done.stderr


def test_start_is_quick_and_memory_small(tiny, tiny_parts):
    """At most 5 ms for the whole process (the best of 30, other load excluded so), address space 3x the weights."""
    limit = 3 * tiny_parts.weights.nbytes
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        run(tiny, "x.raw")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 5e-3

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    subprocess.run([tiny, "x.raw"], check=True, capture_output=True, preexec_fn=limit_memory)


ABSENT = 0x7FFF0000  # a CPUID leaf that no CPU has


def without(monkeypatch, *names: str) -> None:
    """Executables built from now on find that their CPU lacks these features."""
    for name in names:
        monkeypatch.setitem(cpu_levels.FEATURES, name, replace(cpu_levels.FEATURES[name], leaf=ABSENT))


def host_has(level: str) -> bool:
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return level == "x86-64-v3" and {"avx2", "fma", "bmi2", "movbe"} <= set(flags)


needs_v3 = pytest.mark.skipif(not host_has("x86-64-v3"), reason="needs an x86-64-v3 CPU")


@needs_v3
def test_an_older_cpu_is_told_what_it_lacks(tiny_parts, compile_c, tmp_path, monkeypatch):
    without(monkeypatch, "avx2", "fma")
    levels = (CpuObject(name, f"x86-64-{name}", (compile_c(TINY_C, name),)) for name in ("v4", "v3"))
    executable.build("old", replace(tiny_parts, objects=tuple(levels)))
    message = run(tmp_path / "old", "x.npy", status=1)
    assert message == "tiny: this CPU lacks AVX2 and FMA (x86-64-v3), which this program needs\n"
    assert run(tmp_path / "old", "--help").startswith("Usage: ")


@needs_v3
def test_the_best_level_that_fits_is_chosen(tiny_parts, compile_c, tmp_path, monkeypatch):
    plain = CpuObject("v3", "x86-64-v3", (compile_c(TINY_C, "v3"),))
    fancy = CpuObject(
        "best", "native", (compile_c(TINY_C.replace("return 0", "return 7"), "best"),), "+avx2,-xop,+gfni"
    )
    monkeypatch.setitem(cpu_levels.LEVELS, "x86-64-v3", ("avx2",))
    without(monkeypatch, "gfni")
    executable.build("two", replace(tiny_parts, objects=(plain, fancy)))
    assert json.loads(run(tmp_path / "two", "--info", "--json"))["level"] == "x86-64-v3"
    monkeypatch.setitem(cpu_levels.FEATURES, "gfni", cpu_levels.FEATURES["avx2"])
    executable.build("two", replace(tiny_parts, objects=(plain, fancy)))
    assert json.loads(run(tmp_path / "two", "--info", "--json"))["level"] == "native"
    assert "the network failed with code 7" in run(tmp_path / "two", "x.npy", status=1)


def test_unknown_level():
    with pytest.raises(ValueError, match="no CPU level 'x86-64-v9'"):
        cpu_levels.needs("x86-64-v9")


def test_two_builds_are_the_same_file(tiny, tiny_parts):
    executable.build("again", tiny_parts)
    assert Path("again").read_bytes() == tiny.read_bytes()


def test_build_replaces_a_running_program(tiny_parts, tmp_path):
    executable.build("again", tiny_parts)
    running = subprocess.Popen([tmp_path / "again", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    executable.build("again", tiny_parts)
    answer, _ = running.communicate(PIXELS.tobytes())
    assert answer.startswith(b"standard input: ")


def no_linker(monkeypatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("cc", [None, "cc", "zig"])
def test_no_linker_says_what_to_install(tiny_parts, monkeypatch, cc):
    no_linker(monkeypatch)
    before = sorted(os.listdir())
    with pytest.raises(BuildError, match=r'pip install "graphc-compiler\[toolchain\]"'):
        executable.build("lonely", tiny_parts, cc=cc)
    assert sorted(os.listdir()) == before


def test_a_compiler_that_cannot_link_static_is_passed_over(monkeypatch, tmp_path):
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: str(script))
    with pytest.raises(BuildError, match="no C compiler here links with -static"):
        toolchain.find("cc")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: "found")
    assert toolchain.find().name == "zig"


def test_a_failing_linker_leaves_nothing(tiny_parts):
    before = sorted(os.listdir())
    broken = replace(tiny_parts, objects=(CpuObject("tiny", "native", (b"no object code",)),))
    with pytest.raises(BuildError, match="building the program failed"):
        executable.build("broken", broken)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("path", ["none/tiny", "x.npy/tiny", "."])
def test_an_unwritable_path_is_told_before_anything_is_compiled(tiny_parts, monkeypatch, path):
    monkeypatch.setattr(toolchain, "find", lambda *_: pytest.fail("compiled before the path was checked"))
    with pytest.raises(BuildError, match="cannot be written"):
        executable.build(path, tiny_parts)


def test_parts_that_do_not_fit_are_refused(tiny_parts):
    with pytest.raises(ValueError, match="expected 3, one a class, got 1"):
        replace(tiny_parts, labels=("one",))
    with pytest.raises(BuildError, match="too large for one executable"):
        replace(tiny_parts, weights=np.broadcast_to(np.float32(0), (500_000_000,)))
    with pytest.raises(ValueError, match="test vector does not fit"):
        replace(tiny_parts, selftest=(((PIXELS.astype("f8"),), (expected(PIXELS),)),))
    with pytest.raises(ValueError, match="at most 8 axes"):
        replace(tiny_parts, inputs=(TensorInfo("x", "f32", (1,) * 9),))
    with pytest.raises(ValueError, match="C identifier"):
        replace(tiny_parts, objects=(CpuObject("not-c", "native", ()),))


def test_header_compiles_and_holds_the_sizes(tiny_parts, compile_c):
    checks = (
        f'_Static_assert(TINY_WEIGHT_BYTES == {tiny_parts.weights.nbytes} && TINY_STATE_BYTES == 0, "");'
        '_Static_assert(TINY_ARENA_BYTES == 12 && TINY_INPUT_0_BYTES == 64 && TINY_OUTPUT_0_BYTES == 12, "");'
    )
    compile_c(executable.header(tiny_parts) + checks + TINY_C, "tiny")


def test_the_runtime_compiles_without_a_warning(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-c"]
    sources = sorted(executable.RUNTIME.glob("*.c"))
    done = subprocess.run([compiler, *flags, *sources], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_npy_reaches_numpy_through_a_pipe(tiny):
    done = subprocess.run([tiny, "--output", "/dev/stdout", "x.npy"], capture_output=True, check=True)
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), expected(PIXELS))


@pytest.mark.slow
def test_zig_gets_a_cache_where_the_users_cannot_be_written(tmp_path, monkeypatch):
    zig, cc = toolchain.Toolchain("zig", ()), toolchain.Toolchain("cc", ())
    for name in ("XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "ZIG_GLOBAL_CACHE_DIR" not in toolchain.environment(zig)
    (tmp_path / "file").touch()
    for home in ("", str(tmp_path / "file")):  # a file can hold no folder, not even root's
        monkeypatch.setenv("HOME", home)
        cache = toolchain.environment(zig)["ZIG_GLOBAL_CACHE_DIR"]
        assert Path(cache).is_dir() and toolchain.environment(zig)["ZIG_GLOBAL_CACHE_DIR"] == cache
    assert "ZIG_GLOBAL_CACHE_DIR" not in toolchain.environment(cc)


def test_zig_links_it_too(tiny_parts, tmp_path):
    pytest.importorskip("ziglang")
    executable.build("by_zig", tiny_parts, cc="zig")
    assert "self-test passed" in run(tmp_path / "by_zig", "--selftest")
    assert run(tmp_path / "by_zig", "x.pgm") == f"x.pgm: {best(expected(PIXELS))[0]}\n"


@pytest.mark.slow
def test_zig_links_for_arm(tiny_parts, tmp_path):
    pytest.importorskip("ziglang")
    tools = toolchain.find("zig", "aarch64")
    Path("k.c").write_text(TINY_C.replace("PREFIX", "tiny").replace("ARGUMENTS", executable.RUN_ARGUMENTS))
    subprocess.run([*tools.command, "-c", "k.c", "-o", "k.o"], check=True)
    parts = replace(tiny_parts, objects=(CpuObject("tiny", "aarch64", (Path("k.o").read_bytes(),)),))
    executable.build("on_arm", parts, triple="aarch64-unknown-linux-gnu")
    machine = int.from_bytes((tmp_path / "on_arm").read_bytes()[18:20], "little")
    assert machine == 183  # EM_AARCH64

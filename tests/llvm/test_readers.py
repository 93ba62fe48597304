"""The executable's file readers (runtime/files.c, npy.c, pnm.c), alone: right values for good files, and for 300 (slow:
10,000) mutated ones no report of AddressSanitizer or UBSan, and never another array than NumPy reads.

A small C driver fills one program input from each file and prints it as hexadecimal bytes, or the message.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from graphc.backends.llvm import executable

IMAGE, BYTES, WORDS, COLOUR, FLAT = range(5)  # the program inputs of the driver
DTYPES = {IMAGE: "<f4", BYTES: "u1", WORDS: "<i4", COLOUR: "<f4", FLAT: "<f4"}
SHAPES = {IMAGE: (1, 1, 3, 4), BYTES: (1, 3, 2, 2), WORDS: (5,), COLOUR: (3, 2, 2), FLAT: (1, 12)}

DRIVER = r"""
#include "files.h"
#include <stdio.h>
#include <stdlib.h>

static const struct tensor tensors[] = {
    {"image", F32, 4, {1, 1, 3, 4}}, {"bytes", U8, 4, {1, 3, 2, 2}}, {"words", I32, 1, {5}},
    {"colour", F32, 3, {3, 2, 2}},   {"flat", F32, 2, {1, 12}},
};

/* Arguments: the file list, lines of "INPUT PATH". */
int main(int argc, char **argv) {
    int which;
    char path[4096];
    FILE *list = fopen(argv[argc - 1], "r");
    while (list != NULL && fscanf(list, "%d %4095s", &which, path) == 2) {
        struct error error;
        size_t size = 0;
        tensor_bytes(&tensors[which], &size);
        unsigned char *data = malloc(size);
        if (read_input(path, &tensors[which], data, &error)) {
            for (size_t i = 0; i < size; i++)
                printf("%02x", data[i]);
            putchar('\n');
        } else
            printf("! %s\n", error.text);
        free(data);
    }
    return list == NULL || fclose(list) != 0;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """The readers with the driver, under AddressSanitizer and UBSan; their first report ends it with status 1."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    folder = tmp_path_factory.mktemp("readers")
    (folder / "driver.c").write_text(DRIVER)
    sources = [str(executable.RUNTIME / name) for name in ("files.c", "npy.c", "pnm.c")]
    checks = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", *checks, f"-I{executable.RUNTIME}", "driver.c"]
    built = subprocess.run([*command, *sources, "-o", "driver"], cwd=folder, capture_output=True, text=True)
    if built.returncode != 0:
        probe = [compiler, *checks, "-x", "c", "-", "-o", "probe"]
        done = subprocess.run(probe, cwd=folder, input="int main(void) { return 0; }", capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip("this C compiler has no AddressSanitizer and UBSan")
    assert built.returncode == 0, built.stderr
    return folder / "driver"


def read(driver: Path, folder: Path, cases: list[tuple[int, bytes]]) -> list[np.ndarray | str]:
    """What the readers make of each (input, file content): an array, or the message without the path."""
    lines = []
    for i, (which, content) in enumerate(cases):
        (folder / f"case{i}").write_bytes(content)
        lines.append(f"{which} case{i}\n")
    (folder / "list").write_text("".join(lines))
    done = subprocess.run([driver, "list"], cwd=folder, capture_output=True, text=True, errors="replace")
    assert (done.returncode, done.stderr) == (0, "")
    for i in range(len(cases)):
        (folder / f"case{i}").unlink()
    results = done.stdout.splitlines()
    assert len(results) == len(cases)
    return [_result(which, i, line) for i, ((which, _), line) in enumerate(zip(cases, results, strict=True))]


def _result(which: int, case: int, line: str) -> np.ndarray | str:
    if not line.startswith("! "):
        return np.frombuffer(bytes.fromhex(line), DTYPES[which]).reshape(SHAPES[which])
    assert line.startswith(f"! case{case}: ")
    return line.removeprefix(f"! case{case}: ")


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version=version)
    return file.getvalue()


GREY = np.array([[0, 1, 2, 3], [100, 101, 102, 103], [252, 253, 254, 255]])
RGB = np.arange(12).reshape(2, 2, 3)  # rows, columns, channels as in a file
P5 = b"P5\n4 3\n255\n" + GREY.astype("u1").tobytes()
P6 = b"P6 2 2 255 " + RGB.astype("u1").tobytes()
P2 = b"P2 # grey\n4 3\n255\n" + " ".join(map(str, GREY.ravel())).encode() + b"\n"
P3 = b"P3\n# colour\n2\t2 255\n" + "\n".join(map(str, RGB.ravel())).encode() + b"# end\n"
FLOATS = np.linspace(-2, 3, 12).reshape(3, 4)
SPECIAL = np.array([np.inf, -np.inf, np.nan, -0.0] * 3).reshape(3, 2, 2)

GOOD = {
    "npy-f4": (IMAGE, npy(FLOATS.astype("<f4")), FLOATS),
    "npy-f4-version2": (IMAGE, npy(FLOATS.astype("<f4")[None, None], (2, 0)), FLOATS),
    "npy-f4-version3": (IMAGE, npy(FLOATS.astype("<f4")[None], (3, 0)), FLOATS),
    "npy-f8": (IMAGE, npy(FLOATS), FLOATS),
    "npy-inf-nan": (COLOUR, npy(SPECIAL), SPECIAL),
    "npy-u1": (IMAGE, npy(GREY.astype("u1")), GREY),
    "npy-bool": (IMAGE, npy(GREY > 100), GREY > 100),
    "npy-i1": (IMAGE, npy((GREY // 3).astype("i1")), GREY // 3),
    "npy-i4": (IMAGE, npy(GREY.astype("<i4") - 128), GREY - 128),
    "npy-i8": (IMAGE, npy(GREY.astype("<i8") << 16), GREY << 16),
    "npy-i8-to-u8": (BYTES, npy(RGB.reshape(3, 2, 2)), RGB.reshape(3, 2, 2)),
    "npy-i8-to-i32": (WORDS, npy(np.array([-(2**31), -1, 0, 1, 2**31 - 1])), [-(2**31), -1, 0, 1, 2**31 - 1]),
    "pgm": (IMAGE, P5, GREY),
    "pgm-ascii": (IMAGE, P2, GREY),
    "pgm-flat-input": (FLAT, P5, GREY.reshape(1, 12)),
    "pgm-maximum-3": (IMAGE, b"P5 4 3 3\n" + bytes([0, 1, 2, 3] * 3), [[0, 85, 170, 255]] * 3),
    "ppm-float": (COLOUR, P6, RGB.transpose(2, 0, 1)),
    "ppm-bytes": (BYTES, P6, RGB.transpose(2, 0, 1)),
    "ppm-ascii": (BYTES, P3, RGB.transpose(2, 0, 1)),
    "raw-float": (IMAGE, FLOATS.astype("<f4").tobytes(), FLOATS),
    "raw-bytes-to-float": (IMAGE, bytes(GREY.astype("u1")), GREY),
    "raw-bytes": (BYTES, bytes(range(12)), np.arange(12).reshape(3, 2, 2)),
    "raw-i32": (WORDS, np.arange(5, dtype="<i4").tobytes(), np.arange(5)),
}

BAD = {
    "empty": (IMAGE, b"", "is empty"),
    "png": (IMAGE, b"\x89PNG\r\n\x1a\n", "is a PNG image"),
    "raw-size": (IMAGE, bytes(47), "it needs 48 bytes, got 47"),
    "raw-huge": (IMAGE, bytes(3 << 20), "got more than"),
    "npy-only-magic": (IMAGE, b"\x93NUMPY", "cut off in its header"),
    "npy-header-cut": (IMAGE, npy(FLOATS)[:60], "cut off in its header"),
    "npy-data-cut": (IMAGE, npy(FLOATS)[:-1], "is cut off, expected 96 bytes of data, got 95"),
    "npy-more": (IMAGE, npy(FLOATS) + b"\0", "has bytes after its data"),
    "npy-version": (IMAGE, npy(FLOATS).replace(b"NUMPY\x01", b"NUMPY\x04"), "version 4.0, expected 1.0, 2.0 or 3.0"),
    "npy-shape": (IMAGE, npy(FLOATS.reshape(4, 3)), "expected shape 1x1x3x4, got 4x3"),
    "npy-huge-shape": (IMAGE, npy(FLOATS).replace(b"(3, 4)", b"(9223372036854775807, 4)"), "header is damaged"),
    "npy-fortran": (IMAGE, npy(np.asfortranarray(FLOATS)), "Fortran order"),
    "npy-big-endian": (IMAGE, npy(FLOATS.astype(">f4")), "dtype '>f4'"),
    "npy-complex": (IMAGE, npy(FLOATS.astype("<c8")), "dtype '<c8'"),
    "npy-records": (IMAGE, npy(np.zeros((3, 4), "f4,f4")), "header is damaged or of a kind not read"),
    "npy-nine-axes": (IMAGE, npy(np.zeros((1,) * 7 + (3, 4))), "more than 8 axes"),
    "npy-f8-range": (IMAGE, npy(FLOATS * 1e39), "out of the range of float32"),
    "npy-i8-inexact": (IMAGE, npy(np.full((3, 4), 2**24 + 1)), "value 16777217 at position 0 does not fit float32"),
    "npy-i8-extreme": (IMAGE, npy(np.full((3, 4), 2**63 - 1)), "does not fit float32"),
    "npy-u8-range": (BYTES, npy(np.full((3, 2, 2), 256)), "value 256 at position 0 does not fit uint8"),
    "npy-i32-range": (WORDS, npy(np.array([0, 0, 0, 0, 2**31])), "value 2147483648 at position 4 does not fit int32"),
    "npy-float-to-u8": (BYTES, npy(np.zeros((3, 2, 2))), "expected integers for uint8"),
    "pgm-size": (IMAGE, b"P5 4 4 255 " + bytes(16), "expected a 4x3 image with 1 channel, got 4x4 with 1 channel"),
    "pgm-channels": (IMAGE, b"P6 4 3 255 " + bytes(36), "expected a 4x3 image with 1 channel, got 4x3 with 3 channels"),
    "pgm-flat": (FLAT, b"P5 4 4 255 " + bytes(16), "expected an image of 12 samples in all, got 4x4"),
    "pgm-for-vector": (WORDS, P5, "expected an image of 5 samples"),
    "pgm-cut": (IMAGE, P5[:-1], "is cut off, expected 12 bytes of samples, got 11"),
    "pgm-more": (IMAGE, P5 + b"\n", "has bytes after its samples"),
    "pgm-16-bit": (IMAGE, b"P5 4 3 65535 " + bytes(24), "has 16 bits a sample"),
    "pgm-no-header": (IMAGE, b"P5\n", "damaged image header"),
    "pgm-zero": (IMAGE, b"P5 0 3 255 ", "or the largest sample is 0"),
    "pgm-above-maximum": (IMAGE, b"P5 4 3 3 " + bytes([4] * 12), "sample 1 is 4, above the file's largest, 3"),
    "pgm-ascii-cut": (IMAGE, P2[:-5], "expected 12 samples, but sample 12 is missing"),
    "pgm-ascii-more": (IMAGE, P2 + b"7", "has more than 12 samples"),
    "pgm-ascii-junk": (IMAGE, P2.replace(b"101", b"1x1"), "sample 6 is missing or no number"),
    "pgm-overflow": (IMAGE, b"P5 4294967300 3 255 " + bytes(12), "damaged image header"),
    "pbm": (IMAGE, b"P4 4 3 " + bytes(3), "is a PBM bitmap"),
}


def test_good_files_give_the_values_they_hold(driver, tmp_path):
    results = read(driver, tmp_path, [(which, content) for which, content, _ in GOOD.values()])
    for (name, (which, _, values)), got in zip(GOOD.items(), results, strict=True):
        assert not isinstance(got, str), f"{name}: {got}"
        expected = np.asarray(values).astype(DTYPES[which]).reshape(SHAPES[which])
        assert got.tobytes() == expected.tobytes(), f"{name}: {got} instead of {expected}"


def test_bad_files_get_a_message_that_says_why(driver, tmp_path):
    results = read(driver, tmp_path, [(which, content) for which, content, _ in BAD.values()])
    for (name, (_, _, message)), got in zip(BAD.items(), results, strict=True):
        assert isinstance(got, str) and message in got, f"{name}: {got}"


NUMBERS = [b"0", b"1", b"255", b"256", b"65535", b"4294967296", b"9223372036854775807", b"99999999999999999999", b"-1"]


def mutate(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """One to three small damages, of the kinds that reach deep into a parser."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, size = (int(rng.integers(0, len(data) + 1)) for _ in range(2))
        match rng.integers(0, 7):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 1 if data:
                data[at % len(data)] = int(rng.integers(0, 256))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + size % 9]
            case 4:
                data[at:at] = data[size : size + 20]
            case 5:
                data[at:] = other[at:]
            case _:
                places = list(re.finditer(rb"\d+", data))
                if places:
                    place = places[int(rng.integers(0, len(places)))]
                    data[place.start() : place.end()] = NUMBERS[int(rng.integers(0, len(NUMBERS)))]
    return bytes(data)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_rightly_or_refused(driver, tmp_path, count):
    """Whatever of a .npy file is accepted, NumPy reads the same from it."""
    rng = np.random.default_rng(20)
    seeds = [case[:2] for case in GOOD.values()]
    cases = []
    for _ in range(count):
        (which, content), (_, other) = (seeds[int(i)] for i in rng.integers(0, len(seeds), 2))
        cases.append((which, mutate(rng, content, other)))
    accepted = 0
    for (which, content), got in zip(cases, read(driver, tmp_path, cases), strict=True):
        if not isinstance(got, str):
            accepted += 1
        if not isinstance(got, str) and content.startswith(b"\x93NUMPY"):
            with np.errstate(all="ignore"):
                expected = np.load(io.BytesIO(content), allow_pickle=False).astype(DTYPES[which])
            np.testing.assert_array_equal(got, expected.reshape(SHAPES[which]))
    # Bytes changed inside the data leave a good file; most other damages do not.
    assert 0.05 * count < accepted < 0.7 * count

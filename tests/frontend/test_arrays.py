"""Inputs from files: each format gives the numbers an executable reads from it; bad files are told apart."""

import io
import sys

import numpy as np
import pytest

from graphc.frontend.arrays import InputError, read_array, write_pgm
from graphc.ir import TensorType

IMAGE = TensorType("f32", (1, 1, 2, 3))
PIXELS = np.array([[0, 1, 2], [100, 200, 255]], np.uint8)


def test_pgm_round_trip(tmp_path):
    write_pgm(tmp_path / "i.pgm", PIXELS)
    array = read_array(str(tmp_path / "i.pgm"), IMAGE)
    assert array.dtype == np.float32 and array.shape == (1, 1, 2, 3)
    assert np.array_equal(array[0, 0], PIXELS)


@pytest.mark.parametrize(
    "text",
    [
        b"P2\n3 2\n255\n0 1 2\n100 200 255\n",
        b"P2 # a comment\n# and another\n3 2 255 0 1 2 100 200 255",
        b"P5\n3 2\n255\n" + PIXELS.tobytes(),
        PIXELS.tobytes(),
        PIXELS.astype("<f4").tobytes(),
    ],
)
def test_same_numbers_from_every_form(tmp_path, text):
    (tmp_path / "i").write_bytes(text)
    assert np.array_equal(read_array(str(tmp_path / "i"), IMAGE)[0, 0], PIXELS)


def test_colours_are_planes(tmp_path):
    (tmp_path / "i.ppm").write_bytes(b"P6\n2 1\n255\n" + bytes([1, 2, 3, 4, 5, 6]))
    array = read_array(str(tmp_path / "i.ppm"), TensorType("f32", (1, 3, 1, 2)))
    assert array.tolist() == [[[[1, 4]], [[2, 5]], [[3, 6]]]]


def test_samples_are_brought_to_255(tmp_path):
    (tmp_path / "i.pgm").write_bytes(b"P2 3 2 15 0 1 7 8 14 15")
    # Rounded as the executables do: 255 * v / 15 = 17 v.
    assert read_array(str(tmp_path / "i.pgm"), IMAGE).ravel().tolist() == [0, 17, 119, 136, 238, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_npy(tmp_path, dtype):
    np.save(tmp_path / "i.npy", PIXELS.astype(dtype))
    assert np.array_equal(read_array(str(tmp_path / "i.npy"), IMAGE)[0, 0], PIXELS)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PIXELS.tobytes())))
    assert np.array_equal(read_array("-", IMAGE)[0, 0], PIXELS)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


BAD = {
    "empty": (b"", "is empty"),
    "cut off npy": (npy(PIXELS)[:-2], "damaged .npy"),
    "pickle": (npy(np.array([{}], object)), "damaged .npy"),
    "shape": (npy(np.zeros((1, 1, 3, 3), np.float32)), "expected 1x1x2x3, got 1x1x3x3"),
    "dtype": (npy(np.zeros((2, 3), np.complex64)), "expected float32, got complex64"),
    "too large": (npy(np.full((2, 3), 1e300)), "float32 cannot hold"),
    "another size": (b"P5\n2 2\n255\n1234", "expected 1x1x2x3, got 1x2x2"),
    "cut off": (b"P5\n3 2\n255\n12345", "expected 6 samples"),
    "too long": (b"P5\n3 2\n255\n1234567", "expected 6 samples"),
    "16 bits": (b"P5\n3 2\n65535\n" + b"0" * 12, "16 bits"),
    "no pixels": (b"P5\n0 2\n255\n", "damaged image header"),
    "not a number": (b"P2\n3 2\n255\n0 1 2 x 4 5", "no number"),
    "sample above": (b"P2\n3 2\n15\n0 1 2 3 4 16", "up to 16"),
    "raw": (b"1234567", "expected 24 bytes of raw float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    content, message = BAD[case]
    (tmp_path / "i").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_array(str(tmp_path / "i"), IMAGE)
    assert str(tmp_path / "i") in str(caught.value)


def test_missing_file():
    with pytest.raises(InputError, match=r"none\.npy: cannot be read: No such file"):
        read_array("none.npy", IMAGE)

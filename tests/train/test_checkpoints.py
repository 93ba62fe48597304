"""Weight files: what is written comes back, and a failure leaves the old file and nothing else."""

import os

import numpy as np
import pytest

from graphc.files import WriteError, check_writable
from graphc.train.checkpoints import WeightFileError, load_weights, save_weights

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int32)}


def test_round_trip(tmp_path):
    save_weights(tmp_path / "w.safetensors", WEIGHTS)
    back = load_weights(tmp_path / "w.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in back.items()} == {k: (v.shape, v.dtype) for k, v in WEIGHTS.items()}
    assert all(np.array_equal(back[name], WEIGHTS[name]) for name in WEIGHTS)


def test_transposed_arrays_are_written_in_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_weights(tmp_path / "w", {"t": array})
    assert np.array_equal(load_weights(tmp_path / "w")["t"], array)


def test_file_is_the_same_every_time(tmp_path):
    for name in "ab":
        save_weights(tmp_path / name, WEIGHTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_mode_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        save_weights(tmp_path / "w", WEIGHTS)
    finally:
        os.umask(old)
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o640


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(path, WEIGHTS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="cannot be written: No space left"):
        save_weights(path, {"other": np.zeros(3)})
    assert list(load_weights(path)) == list(WEIGHTS)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_unwritable_places(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "w"):
        with pytest.raises(WriteError, match="cannot be written"):
            check_writable(path)
        with pytest.raises(WriteError, match="cannot be written"):
            save_weights(path, WEIGHTS)
    assert list(tmp_path.iterdir()) == []


def test_check_leaves_a_file_as_it_is(tmp_path):
    (tmp_path / "w").write_bytes(b"old")
    check_writable(tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 100, b"PK\x03\x04 a PyTorch file"])
def test_damaged_file(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightFileError, match=r"w: is damaged, or no safetensors file"):
        load_weights(tmp_path / "w")


def test_cut_off_file(tmp_path):
    save_weights(tmp_path / "w", WEIGHTS)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-1])
    with pytest.raises(WeightFileError, match="damaged"):
        load_weights(tmp_path / "w")


def test_missing_file_names_those_beside_it(tmp_path):
    save_weights(tmp_path / "lenet5.safetensors", WEIGHTS)
    with pytest.raises(WeightFileError, match=r"not found[\s\S]*lenet5\.safetensors"):
        load_weights(tmp_path / "lenet.safetensors")

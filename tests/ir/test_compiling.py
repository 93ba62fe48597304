"""The garbage collector and the turns of threads are left as they were."""

import gc
import sys

import pytest

from graphc.ir.compiling import compiling


@pytest.fixture(autouse=True)
def settings():
    before, turn = gc.get_threshold(), sys.getswitchinterval()
    yield
    gc.set_threshold(*before)
    sys.setswitchinterval(turn)


def test_inside_it_runs_less_often_and_afterwards_as_before():
    gc.set_threshold(123, 4, 5)
    with pytest.raises(KeyError), compiling():
        with compiling():
            assert gc.get_threshold()[0] > 10_000
        assert gc.get_threshold()[0] > 10_000
        raise KeyError
    assert gc.get_threshold() == (123, 4, 5)


def test_a_collector_that_is_off_stays_off():
    gc.set_threshold(0, 4, 5)
    with compiling():
        assert gc.get_threshold() == (0, 4, 5)
    assert gc.get_threshold() == (0, 4, 5)


def test_threads_take_shorter_turns_unless_theirs_are_shorter_yet():
    for turn, inside in ((0.02, 0.001), (0.0005, 0.0005)):
        sys.setswitchinterval(turn)
        with compiling(), compiling():
            assert sys.getswitchinterval() == pytest.approx(inside)
        assert sys.getswitchinterval() == pytest.approx(turn)

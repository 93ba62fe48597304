"""The garbage collector is left as it was."""

import gc

import pytest

from graphc.ir.collection import rarely_collected


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_inside_it_runs_less_often_and_afterwards_as_before():
    gc.set_threshold(123, 4, 5)
    with pytest.raises(KeyError), rarely_collected():
        with rarely_collected():
            assert gc.get_threshold()[0] > 10_000
        assert gc.get_threshold()[0] > 10_000
        raise KeyError
    assert gc.get_threshold() == (123, 4, 5)


def test_a_collector_that_is_off_stays_off():
    gc.set_threshold(0, 4, 5)
    with rarely_collected():
        assert gc.get_threshold() == (0, 4, 5)
    assert gc.get_threshold() == (0, 4, 5)

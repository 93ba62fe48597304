"""Units of kernels among threads: each is done once, by its own thread where nobody is held up, else by another."""

import numpy as np
import pytest
from pooled import Pooled

from graphc.backends.llvm import ir, target
from graphc.backends.llvm.emit import I32, add, address, const, function, loop, mul, store_
from graphc.backends.llvm.pool import emit_pool
from graphc.backends.llvm.shares import MOST_KERNELS, MOST_UNITS, claimed

MOST = 4096  # units of a kernel in these tests
NOBODY = -1


class Kernels:
    """`run(threads)`: every unit of every kernel counts how often it was done, and says by which thread. Between
    kernels there is a barrier or none. Threads `held` sleep in each unit they do, for so many microseconds."""

    def __init__(
        self, units: list[int], least: int = 1, barriers: bool = True, held: tuple[int, ...] = (), us: int = 0
    ):
        self.units = units

        def emitted(module, pool, b, table, thread, threads):
            sleep = ir.Function(module, "usleep", I32, [I32])
            for number, count in enumerate(units, 1):
                with claimed(b, pool.claim, number, count, least, thread, threads) as (lo, hi), loop(b, lo, hi) as unit:
                    at = add(b, unit, (number - 1) * MOST)
                    b.atomic_rmw("add", address(b, table, I32, mul(b, at, 2)), const(I32, 1), "seq_cst")
                    store_(b, thread, table, add(b, mul(b, at, 2), 1))
                    for who in held:
                        with b.if_then(b.icmp_signed("==", thread, const(I32, who))):
                            b.call(sleep, [const(I32, us)])
                if barriers:
                    b.call(pool.barrier, [threads, const(I32, number)])

        self._pooled = Pooled(emitted)
        self.close = self._pooled.close

    def run(self, threads: int) -> list[np.ndarray]:
        """Who did the units of each kernel; asserts that each was done once and none that does not exist."""
        table = np.zeros((len(self.units), MOST, 2), np.int32)
        table[..., 1] = NOBODY
        self._pooled(table, threads)
        for row, count in zip(table, self.units, strict=True):
            assert (row[:count, 0] == 1).all()
            assert not row[count:, 0].any()
        return [row[:count, 1] for row, count in zip(table, self.units, strict=True)]


@pytest.fixture
def kernels():
    made = []

    def make(*args, **options) -> Kernels:
        made.append(Kernels(*args, **options))
        return made[-1]

    yield make
    for k in made:
        k.close()


@pytest.mark.parametrize("barriers", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3, 8, 20])
def test_every_unit_is_done_once(kernels, threads, barriers):
    made = kernels([1, 2, 3, 7, 64, 1000, 5, 4096, 1, 63], barriers=barriers)
    for _ in range(30):
        made.run(threads)


def test_no_share_is_lost_between_kernels_that_do_not_wait_for_each_other(kernels):
    """More threads than help each other: some have been through all kernels when others, out of their reach, are still
    at the first one."""
    made = kernels([40] * 12, barriers=False, held=(10, 15), us=200)
    for _ in range(10):
        made.run(20)


def test_one_thread_takes_all_at_once(kernels):
    assert all((who == 0).all() for who in kernels([1, 9, 100]).run(1))


def test_units_of_a_thread_that_is_held_up_are_done_by_others(kernels):
    """Thread 1 sleeps ten milliseconds in each unit. It cannot have done its half of them before the other one, which
    needs microseconds, has done its own and comes to help; not even where that one has to wait for a processor."""
    made = kernels([64, 64], held=(1,), us=10_000)
    made.run(2)  # threads are made, which takes longer than the kernels
    for who in made.run(2):
        assert (who[:32] == 0).all()
        assert np.count_nonzero(who == 1) < 16


def test_help_begins_behind(kernels):
    """So that a thread goes on through what lies near: of its own share it does the first units."""
    made = kernels([64], held=(1,), us=1000)
    made.run(2)
    (who,) = made.run(2)
    mine = np.flatnonzero(who[32:] == 1)
    assert len(mine) < 32
    assert (mine == np.arange(len(mine))).all()


def test_no_fewer_units_than_the_least_at_a_time(kernels):
    """All but the last ones of a share go in runs of at least so many."""
    made = kernels([96], least=12, held=(0, 1), us=100)
    made.run(2)
    (who,) = made.run(2)
    runs = np.diff(np.flatnonzero(np.diff(who, prepend=-2, append=-2)))
    assert runs.min() >= 12


@pytest.mark.parametrize(("kernel", "units"), [(1, MOST_UNITS + 1), (MOST_KERNELS + 1, 4)])
def test_numbers_that_a_word_cannot_hold_are_refused(kernel, units):
    module = ir.Module("shares")
    pool = emit_pool(module, target.host())
    _, b = function(module, "body", [I32, I32], ["thread", "threads"])
    with (
        pytest.raises(ValueError, match="at most"),
        claimed(b, pool.claim, kernel, units, 1, const(I32, 0), const(I32, 1)),
    ):
        pass

"""The emitted thread pool: barriers with more threads than cores, several callers at once, forks, closing."""

import itertools
import os
import threading
import time

import numpy as np
import pytest
from pooled import Pooled

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.emit import I32, I64, PTR, add, const, function, load_, loop_carry, store_
from graphc.backends.llvm.pool import MAX_THREADS, emit_pool

ROUNDS, WIDTH = 20, 64
THREADS = (1, 2, 3, 8)


class Rounds:
    """`run(threads)`: in each round every thread sums what all threads wrote in the round before, plus one; a barrier
    stands between rounds. A thread that leaves a barrier early, or runs twice, makes wrong sums."""

    def __init__(self):
        def emitted(module, pool, b, table, thread, threads):
            for number in range(1, ROUNDS):
                before = (number - 1) * WIDTH
                with loop_carry(b, 0, b.sext(threads, I64), 1, [const(I32, 1)]) as (i, [total], result):
                    result.yield_([b.add(total, load_(b, table, I32, None, add(b, i, before)))])
                store_(b, result.values[0], table, add(b, b.sext(thread, I64), number * WIDTH))
                b.call(pool.barrier, [threads, const(I32, number)])

        self._pooled = Pooled(emitted)
        self.close = self._pooled.close

    def run(self, threads: int) -> int:
        """Runs, checks the sums, and says how many threads took part."""
        table = np.zeros((ROUNDS, WIDTH), np.int32)
        self._pooled(table, threads)
        team = np.count_nonzero(table[1])
        with np.errstate(over="ignore"):
            for before, after in itertools.pairwise(table):
                assert (after[:team] == before.sum(dtype=np.int32) + np.int32(1)).all()
                assert not after[team:].any()
        return team


@pytest.fixture
def rounds():
    made = Rounds()
    yield made
    made.close()


def alive() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("threads", THREADS)
def test_every_thread_sees_all_of_the_round_before(rounds, threads):
    assert all(rounds.run(threads) == threads for _ in range(30))


def test_thread_counts_may_change_from_run_to_run(rounds):
    assert [rounds.run(n) for n in (3, 1, 8, 2, 5, 8, 0, -1)] == [3, 1, 8, 2, 5, 8, 1, 1]


def test_threads_are_made_when_first_asked_for_and_end_at_close(rounds):
    before = alive()
    rounds.run(1)
    assert alive() == before
    rounds.run(4)
    rounds.run(3)
    assert alive() == before + 3
    rounds.close()
    rounds.close()
    assert alive() == before
    assert rounds.run(2) == 2


def test_sleeping_workers_wake(rounds):
    """After 50 ms the workers have long stopped spinning: they use no processor time, and still come."""
    rounds.run(3)
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.05
    assert rounds.run(3) == 3


def test_several_callers_at_once(rounds):
    """A caller that finds the pool busy runs alone: every caller gets right sums from 1 or 3 threads."""
    teams, errors = set(), []

    def work():
        try:
            teams.update(rounds.run(3) for _ in range(50))
        except AssertionError as error:
            errors.append(error)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not errors
    assert teams <= {1, 3} and 3 in teams


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_threads(rounds):
    rounds.run(3)
    child = os.fork()
    if child == 0:
        good = rounds.run(3) == 3 and rounds.run(4) == 4 and alive() == 4
        rounds.close()
        os._exit(0 if good and alive() == 1 else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert rounds.run(3) == 3


def test_closing_without_threads_is_nothing(rounds):
    rounds.close()
    assert rounds.run(1) == 1


def test_number_of_threads_is_bounded(rounds):
    assert WIDTH < MAX_THREADS
    assert rounds.run(WIDTH) == WIDTH


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.aarch64()], ids=lambda t: t.name)
def test_waiting_is_polite_on_every_target(machine):
    module = ir.Module("pool")
    pool = emit_pool(module, machine)
    entry, b = function(module, "entry", [PTR, I32], ["body", "threads"], linkage="external")
    b.call(pool.barrier, [entry.args[1], const(I32, 1)])
    b.ret_void()
    text = jit.assembly(module, machine)
    assert ("pause" if machine.arch == "x86_64" else "yield") in text
    assert "sched_yield" in text

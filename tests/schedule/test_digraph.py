"""The graph algorithms of scheduling agree with networkx on random graphs."""

import math
import random
from itertools import pairwise

import networkx as nx
import pytest

from graphc.schedule.digraph import Digraph, source_side

SEEDS = range(20)


def random_dag(seed: int) -> tuple[Digraph, nx.DiGraph]:
    """The same acyclic graph twice; its edges do not follow the numbers."""
    draw = random.Random(seed)
    count = draw.randint(1, 25)
    numbers = draw.sample(range(100), count)
    mine, theirs = Digraph(), nx.DiGraph()
    for k in numbers:
        mine.add(k)
        theirs.add_node(k)
    for i, a in enumerate(numbers):
        ends = [b for b in numbers[i + 1 :] if draw.random() < 0.15]
        mine.connect([a], ends)
        theirs.add_edges_from((a, b) for b in ends)
    return mine, theirs


@pytest.mark.parametrize("seed", SEEDS)
def test_paths_and_orders(seed):
    mine, theirs = random_dag(seed)
    for a in theirs:
        for b in theirs:
            assert mine.reaches(a, b) == nx.has_path(theirs, a, b), (a, b)
    for a, b in list(theirs.edges):
        theirs.remove_edge(a, b)
        assert mine.detour(a, b) == nx.has_path(theirs, a, b), (a, b)
        theirs.add_edge(a, b)
    for key in (lambda k: k, lambda k: (k % 7, k)):
        assert mine.order(key) == list(nx.lexicographical_topological_sort(theirs, key))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_removed_is_on_no_path(seed):
    mine, theirs = random_dag(seed)
    gone = min(theirs)
    mine.remove(gone)
    theirs.remove_node(gone)
    assert {(a, b) for a, ends in mine.after.items() for b in ends} == set(theirs.edges)
    assert {(a, b) for b, ends in mine.before.items() for a in ends} == set(theirs.edges)


@pytest.mark.parametrize("seed", SEEDS)
def test_minimum_cuts(seed):
    """The same side as networkx's, which also is the largest; capacities may be infinite on one side."""
    draw = random.Random(seed)
    names = [f"n{i}" for i in range(draw.randint(0, 12))]
    capacities = {}
    for i, a in enumerate(names):
        if draw.random() < 0.6:
            capacities[a, True] = float(draw.randint(0, 9))
        if draw.random() < 0.4:
            capacities[a, False] = draw.choice([math.inf, 1.0, 5.0])
        capacities.update({(a, b): float(draw.randint(1, 6)) for b in names[:i] if draw.random() < 0.4})
    graph = nx.Graph()
    graph.add_nodes_from((True, False))
    graph.add_edges_from((a, b, {"capacity": c}) for (a, b), c in capacities.items())
    _, (side, _) = nx.minimum_cut(graph, True, False)
    assert source_side(capacities, True, False) == side


def test_a_long_way_to_the_sink():
    """A chain as long as a deep network's, through which all has to go."""
    chain = [True, *(f"n{i}" for i in range(3000)), False]
    capacities = dict.fromkeys(pairwise(chain), 2.0)
    capacities["n7", "n8"] = 1.0
    assert source_side(capacities, True, False) == set(chain[:9])

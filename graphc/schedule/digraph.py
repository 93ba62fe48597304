"""The few graph algorithms that scheduling needs, on sets and dictionaries.

What enters: kernel numbers with edges, or named nodes with capacities. What leaves: paths, orders, cuts. They are here
because loading networkx takes 0.1 s, as long as scheduling a small network takes altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise


class Digraph:
    """Numbers with edges between them: `after[k]` and `before[k]` are the ends of k's edges out and in."""

    def __init__(self) -> None:
        self.after: dict[int, set[int]] = {}
        self.before: dict[int, set[int]] = {}

    def add(self, k: int) -> None:
        self.after[k], self.before[k] = set(), set()

    def remove(self, k: int) -> None:
        """The number goes with its edges."""
        for other in self.before.pop(k):
            self.after[other].discard(k)
        for other in self.after.pop(k):
            self.before[other].discard(k)

    def connect(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        """An edge from each source to each target."""
        targets = tuple(targets)
        for a in sources:
            self.after[a].update(targets)
            for b in targets:
                self.before[b].add(a)

    def reaches(self, source: int, target: int) -> bool:
        """Whether a path leads from source to target; the empty path from a number to itself is one. Searches from
        both ends, always the end where fewer are to be looked at."""
        if source == target:
            return True
        ahead, behind = {source}, {target}
        seen_ahead, seen_behind = {source}, {target}
        while ahead and behind:
            if len(ahead) <= len(behind):
                ahead = set().union(*(self.after[k] for k in ahead)) - seen_ahead
                seen_ahead |= ahead
                met = not ahead.isdisjoint(seen_behind)
            else:
                behind = set().union(*(self.before[k] for k in behind)) - seen_behind
                seen_behind |= behind
                met = not behind.isdisjoint(seen_ahead)
            if met:
                return True
        return False

    def detour(self, source: int, target: int) -> bool:
        """Whether a path of more than one edge leads from source to target."""
        return any(self.reaches(k, target) for k in self.after[source] if k != target)

    def order(self, key: Callable[[int], object]) -> list[int]:
        """The numbers in topological order, of those that could come next always the one with the least key."""
        waiting = {k: len(before) for k, before in self.before.items()}
        ready = [(key(k), k) for k, count in waiting.items() if not count]
        heapify(ready)
        out = []
        while ready:
            _, k = heappop(ready)
            out.append(k)
            for other in self.after[k]:
                waiting[other] -= 1
                if not waiting[other]:
                    heappush(ready, (key(other), other))
        return out


def source_side(capacities: Mapping[tuple[Hashable, Hashable], float], source: Hashable, sink: Hashable) -> set:
    """The nodes on the source's side of a minimum cut, as many of them as can be. `capacities` are those of undirected
    edges; at least one on each path from source to sink is finite.

    Dinic, Algorithm for solution of a problem of maximum flow in a network with power estimation, 1970.
    """
    left: dict[Hashable, dict[Hashable, float]] = {source: {}, sink: {}}
    for (a, b), capacity in capacities.items():
        for x, y in ((a, b), (b, a)):
            ways = left.setdefault(x, {})
            ways[y] = ways.get(y, 0.0) + capacity
    while source in (distance := _distances(left, sink)):
        _block(left, distance, source, sink)
    return left.keys() - distance.keys()


def _distances(left: Mapping[Hashable, Mapping[Hashable, float]], sink: Hashable) -> dict[Hashable, int]:
    """How many edges with something left lead to the sink, for the nodes from where there is a way."""
    distance, frontier = {sink: 0}, [sink]
    while frontier:
        following = []
        for b in frontier:
            for a in left[b]:
                if a not in distance and left[a][b] > 0:
                    distance[a] = distance[b] + 1
                    following.append(a)
        frontier = following
    return distance


def _block(left: dict, distance: Mapping[Hashable, int], source: Hashable, sink: Hashable) -> None:
    """Sends as much as will go along the shortest ways, and takes it off what is `left`."""
    ways = {node: list(ends) for node, ends in left.items()}
    path = [source]
    while True:
        node = path[-1]
        if node == sink:
            flow = min(left[a][b] for a, b in pairwise(path))
            for a, b in pairwise(path):
                left[a][b] -= flow
                left[b][a] += flow
            path = [source]
            continue
        ends = ways[node]
        while ends and not (left[node][ends[-1]] > 0 and distance.get(ends[-1]) == distance[node] - 1):
            ends.pop()
        if ends:
            path.append(ends[-1])
        elif node == source:
            return
        else:
            path.pop()
            ways[path[-1]].pop()

"""Convolutions of odd shapes beside the same at the nearest multiple of 16 channels: what the same work costs there.

`python -m benchmarks.layers --odd` prints the table. Each is a program of its own, reorders of its arrays included, on
one thread. Work is what the roofline says it is: multiply-adds at the peak, or reading and storing the arrays once at
the rate of the nearest cache that holds them, whichever takes longer. One input channel behind a 1x1 window has a
product for each result: storing it is the work. The rates of the multiply-adds alone stand beside. Two channels that
meet alone, such as 1 to 1, are left out: their whole work is some nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import addressof, c_void_p, cast
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter

import numpy as np

import graphc
from graphc import nn
from graphc.backends.llvm import ir, target
from graphc.backends.llvm.calibrate import loaded, measured
from graphc.backends.llvm.emit import I32, I64, PTR, const, function, loop
from graphc.schedule.roofline import Limits

from .measure import attempted

SAMPLE = 2e-3  # seconds of runs in one sample
SAMPLES = 15
WIDE = 64  # channels on the other side of 1 and 3


@dataclass(frozen=True)
class Shape:
    """A convolution: channels in and out, kernel and map as (height, width), batch. Padding keeps the map's size."""

    channels: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    map: tuple[int, int] = (13, 13)
    batch: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        into, out = self.channels
        extra = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups, "batch": self.batch}
        told = "".join(f" {name} {n}" for name, n in extra.items() if n > 1)
        (kh, kw), (h, w) = self.kernel, self.map
        return f"{into} to {out}, {kh}x{kw} on {h}x{w}{told}"

    def even(self) -> Shape:
        """With the nearest multiple of 16 channels in each group, 16 at least."""
        near = [max(16, (c // self.groups + 8) // 16 * 16) * self.groups for c in self.channels]
        return replace(self, channels=tuple(near))

    @property
    def input(self) -> tuple[int, ...]:
        return self.batch, self.channels[0], *self.map

    @property
    def macs(self) -> int:
        return graphc.summary(self.layer(), self.input).totals.macs

    def bytes(self, y: np.ndarray) -> int:
        """Of the image, the weights and the result."""
        return 4 * (math.prod(self.input) + sum(w.size for w in self.layer().state_dict().values())) + y.nbytes

    def layer(self) -> nn.Module:
        (kh, kw), d = self.kernel, self.dilation
        padding = (d * (kh - 1) // 2, d * (kw - 1) // 2)
        return nn.Conv2d(*self.channels, self.kernel, stride=self.stride, padding=padding, dilation=d,
                         groups=self.groups)  # fmt: skip


KERNELS = {"kernel": (1, 7)}, {"kernel": (7, 1)}, {"kernel": (5, 5), "stride": 3}, {"dilation": 2}, {"kernel": (1, 1)}
_PAIRS = [*((c, c) for c in (17, 37, 100)), *((c, WIDE) for c in (1, 3)), *((WIDE, c) for c in (1, 3))]
_ALL = [
    *(Shape(pair, **more) for pair in _PAIRS for more in ({}, *KERNELS)),
    *(Shape((3 * c, 3 * c), groups=3) for c in (1, 3, 17, 37)),
    *(Shape((c, c), map=m, batch=n) for c in (17, 37) for m in ((1, 1), (5, 7), (13, 13)) for n in (1, 3, 5)),
]
SHAPES: dict[str, Shape] = {str(shape): shape for shape in _ALL}


class Repeat:
    """Runs a program again and again without Python in between: what is small is timed by the thousand."""

    def __init__(self):
        module = ir.Module("repeat")
        names = ["run", "weights", "state", "inputs", "outputs", "arena", "times"]
        made, b = function(module, "k", [*[PTR] * 6, I64], names, linkage="external")
        entry, *memories, times = made.args
        with loop(b, 0, times):
            b.call(entry, [*memories, const(I32, 1)], I32)
        b.ret_void()
        self.call = loaded(module, target.host(), 6, 1)

    def seconds(self, net: graphc.CompiledNetwork, x: np.ndarray, times: int) -> float:
        """Seconds of one of so many runs."""
        program, y = net.program, np.empty_like(net(x))
        arrays = [(c_void_p * 1)(z.ctypes.data) for z in (x, y)]
        memories = [m.ctypes.data for m in (program.weights, program.state)]
        start = perf_counter()
        self.call(
            cast(program._run, c_void_p).value, *memories, *map(addressof, arrays), program._arena.ctypes.data, times
        )
        return (perf_counter() - start) / times


@cache
def limits() -> Limits:
    return measured(target.host())


def row(name: str) -> dict[str, object]:
    """Both convolutions in turn, the best of their samples."""
    shape, repeat = SHAPES[name], Repeat()
    made = [(s, graphc.compile(s.layer(), s.input), np.ones(s.input, np.float32)) for s in (shape, shape.even())]
    times = [max(1, int(SAMPLE / repeat.seconds(net, x, 3))) for _, net, x in made]
    samples = [[repeat.seconds(net, x, n) for (_, net, x), n in zip(made, times, strict=True)] for _ in range(SAMPLES)]
    own, even = (min(taken) for taken in zip(*samples, strict=True))
    own_rate, even_rate = (2e-9 * s.macs / t for (s, _, _), t in zip(made, (own, even), strict=True))
    own_least, even_least = (limits().seconds(s.macs, s.bytes(net(x))) for s, net, x in made)
    return {
        "shape": name,
        "even": str(shape.even()).split(",")[0],
        "us": own * 1e6,
        "GFLOP/s": own_rate,
        "even_GFLOP/s": even_rate,
        "rate_%": 100 * own_rate / even_rate,
        "share_%": 100 * (own_least / own) / (even_least / even),
    }


def rows(names: Sequence[str], notes: list[str]) -> list[dict[str, object]]:
    return attempted(names, row, notes)[0]

"""Small kernels that do not wait for each other become one launch.

What enters: launches in order. What leaves: fewer, some of which run several kernels, each on its own blocks. A launch
costs a few microseconds, as long as many of these kernels take: margins of zeros, copies, updates of small weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from .emit import KernelCode, Writer
from .launches import Launch
from .pieces import UNNAMED, named

# the head that both emitters write: name, threads, blocks of a multiprocessor, parameters
HEAD = re.compile(r"KERNEL\((\w+), (\d+), (\d+)\)\((.*)\) \{")
TOGETHER = ("SHARED", "__sync", "__shfl")  # kernels in which threads meet stay by themselves
MOST = 32  # kernels in a launch
RESIDENT = 1024  # threads that a multiprocessor shall have registers for, at least
MOST_BLOCKS = 1024  # of a kernel that joins others: a larger one fills the device alone


def merge(launches: Sequence[Launch]) -> list[Launch]:
    """`a; b; c -> (a, b); c`, where b needs nothing of a and both are small."""
    groups: list[list[Launch]] = []
    for launch in launches:
        group = groups[-1] if groups else []
        fits = 0 < len(group) < MOST and all(joins(x) for x in (group[0], launch))
        if fits and not any(launch.waits_for(other) for other in group):
            group.append(launch)
        else:
            groups.append([launch])
    return [group[0] if len(group) == 1 else merged(group) for group in groups]


def joins(launch: Launch) -> bool:
    code = launch.code
    return code.grid[0] <= MOST_BLOCKS and code.grid[1:] == (1, 1) and not any(word in code.text for word in TOGETHER)


def merged(group: Sequence[Launch]) -> Launch:
    """One kernel that runs the group's: block i runs the first whose blocks are not used up by then."""
    codes = [launch.code for launch in group]
    threads = max(code.threads for code in codes)
    ends = list(accumulate(code.grid[0] for code in codes))
    write, declared, bodies = Writer(), [], []
    for number, (code, end) in enumerate(zip(codes, ends, strict=True)):
        parameters, body = parts(code)
        own = {f"b{k}": f"b{number}_{k}" for k in range(len(code.arguments))}
        first = end - code.grid[0]
        here = f"(blockIdx.x - {first}u)" if first else "blockIdx.x"
        declared.append(words(parameters, own))
        bodies.append([words(line, own).replace("blockIdx.x", here) for line in body])
    with write.block(f"KERNEL({UNNAMED}, {threads}, {max(1, RESIDENT // threads)})({', '.join(declared)})"):
        for code, end, body in zip(codes, ends, bodies, strict=True):
            alone = f" && threadIdx.x < {code.threads}u" if code.threads < threads else ""
            with write.block(f"if ({within(end - code.grid[0], end)}{alone})"):
                write(*body)
    arguments = tuple(f"b{n}_{k}" for n, c in enumerate(codes) for k in range(len(c.arguments)))
    code = KernelCode(UNNAMED, write.text, arguments, (ends[-1], 1, 1), threads)
    return replace(
        group[0],
        kernels=tuple(k for launch in group for k in launch.kernels),
        code=named(code, "several"),
        arguments=tuple(a for launch in group for a in launch.arguments),
    )


def within(first: int, end: int) -> str:
    """The condition that a block is one of first .. end-1."""
    return f"blockIdx.x >= {first}u && blockIdx.x < {end}u" if first else f"blockIdx.x < {end}u"


def parts(code: KernelCode) -> tuple[str, list[str]]:
    """The parameters and the lines of the body of a kernel."""
    head, *body, end = code.text.rstrip("\n").split("\n")
    found = HEAD.fullmatch(head)
    if not found or end != "}":
        raise ValueError(f"kernel {code.name}: its text does not begin with KERNEL(name, threads, blocks)(...) {{")
    return found[4], [line[2:] for line in body]


def words(text: str, names: dict[str, str]) -> str:
    """The text with whole words replaced."""
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda m: names.get(m[0], m[0]), text)

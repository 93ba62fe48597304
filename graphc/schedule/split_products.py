"""Contractions with few results and long sums are cut along the sum, where that many tiles would leave most of the
machine idle: weight gradients, layers on small images. A machine that wants this says so in its traits.

By shape alone one reduced axis is cut into chunks: one contraction makes a partial result for every chunk, and a kernel
of loops adds them in order.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .expr import Aff, load
from .kernels import ACC, Access, Contraction, Kernel, Loops, Reduce, Schedule, Stage, Store
from .layout import Buffer

TILE = 64  # results of a tile in each direction
FEW = 8  # points: so few stream the weights past them, all of the machine at it, and are not cut
SHORTEST = 256  # multiply-adds of an element in one chunk


def split_products(schedule: Schedule) -> Schedule:
    """`r = sum over k of x * w  ->  P[q] = sum over (part q of k) of x * w; r = sum over q of P[q]`."""
    partials: dict[str, Buffer] = {}
    kernels: list[Kernel] = []
    for kernel in schedule.kernels:
        axis, chunks = cut(kernel, schedule.traits.products) if isinstance(kernel, Contraction) else ("", 1)
        if chunks == 1:
            kernels.append(kernel)
            continue
        names = [a for a, _ in kernel.par if a != kernel.lanes] + [kernel.lanes]  # lanes last, as tiles store them
        shape = (chunks, *(dict(kernel.par)[a] for a in names))
        partial = Buffer(f"products{len(partials)}", shape, schedule.buffers[kernel.stores[0].buffer].dtype)
        partials[partial.name] = partial
        kernels += halves(kernel, partial, axis, names)
    return schedule.replace(kernels=tuple(kernels), buffers={**schedule.buffers, **partials}) if partials else schedule


def cut(kernel: Contraction, units: int) -> tuple[str, int]:
    """The reduced axis to cut, and into how many chunks: as many as keep `units` tiles busy, of those that divide the
    axis; 1 for none."""
    own = {a for i in kernel.w.indices for a in i.axes}
    lanes = dict(kernel.par).get(kernel.lanes, 1)
    points = math.prod(n for a, n in kernel.par if a not in own)
    if points <= FEW:
        return "", 1
    batch = math.prod(n for a, n in kernel.par if a in own and a != kernel.lanes)
    tiles = batch * -(-points // TILE) * -(-lanes // TILE)
    wanted = min(units // tiles, math.prod(n for _, n in kernel.red) // SHORTEST)
    found = [(max(d for d in range(1, min(wanted, n) + 1) if n % d == 0), -k, a)
             for k, (a, n) in enumerate(kernel.red) if wanted > 1]  # fmt: skip
    chunks, _, axis = max(found, default=(1, 0, ""))
    return axis, chunks


def halves(kernel: Contraction, partial: Buffer, axis: str, names: list[str]) -> tuple[Contraction, Loops]:
    """The contraction of partial results, and the kernel that adds them."""
    chunk = (f"{axis}_chunk", partial.shape[0])
    at = (Aff.of(chunk[0]), *map(Aff.of, names))
    size = dict(kernel.red)[axis] // partial.shape[0]
    whole = {axis: at[0] * size + (Aff.of(axis) if size > 1 else 0)}

    def part(access: Access) -> Access:
        return replace(access, indices=tuple(i.substitute(whole) for i in access.indices))

    first = replace(
        kernel,
        name=f"{kernel.name}.partial",
        par=(chunk, *kernel.par),
        red=tuple((a, size if a == axis else n) for a, n in kernel.red if a != axis or size > 1),
        x=part(kernel.x),
        w=part(kernel.w),
        stores=(Store(partial.name, at, ACC),),
    )
    total = Reduce("acc", "sum", load(partial.name, at, partial.dtype))
    stages = (Stage((chunk,), (total,)), Stage((), kernel.stores))
    return first, Loops(kernel.name, kernel.par, stages, scope=kernel.scope)

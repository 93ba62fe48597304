"""The tile of a contraction, chosen by the cycles that its arithmetic takes on the device, for any device.

What enters: a `Form`, a target and the arithmetic. What leaves: a `Plan`: the tile, its stages in shared memory and how
many blocks share a multiprocessor. Shapes and the target's constants decide alone, so the choice is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.frozen import frozen

from ..target import Target
from .form import Form
from .tiles import FMA_TILES, FmaTile, MmaTile, Stage, mma_tiles

ARITHMETIC = ("f32", "tf32", "bf16")
STAGES = (4, 3, 2)  # slices of the sum in shared memory: one in use, the others on their way
RESERVED = 1024  # bytes of shared memory that the system takes for each block
REGISTERS = 128  # for a thread of a tile with 64 sums, addresses and fragments included
HELD = 0.55  # of a thread's registers at most for sums and offsets of rows: more of both would spill
PAIRED = 4  # registers of a thread for each operand whose places are found by division, in bfloat16
BUSY = 256  # threads with which a multiprocessor does its arithmetic at about full speed
SLICE_CYCLES = 60  # of a slice that no arithmetic hides: barrier, addresses
BLOCK_CYCLES = 1500  # to begin and to end a block: first slices from far away, stores
RATE = {"f32": 64, "tf32": 512, "bf16": 1024}  # multiply-adds per cycle of a multiprocessor (A100 data sheet)
OVERHEAD = 5  # multiply-adds whose time goes, for each depth, to a thread's loads and addresses
SHARED_RATE = 32  # floats per cycle that shared memory gives to a multiprocessor
CACHE_RATE = 8  # floats per cycle that the second-level cache gives to each multiprocessor when all of them read


@frozen
class Plan:
    """`down` x `across` tiles for each point of the batch; `slices` of the sum go through `stages` stages."""

    tile: FmaTile | MmaTile
    x: Stage
    w: Stage
    down: int
    across: int
    slices: int
    stages: int
    resident: int

    @property
    def bytes(self) -> int:
        return 4 * self.stages * (self.x.elements + self.w.elements)


def plan(form: Form, target: Target, arithmetic: str) -> Plan:
    """The plan of fewest estimated cycles; among equals the one with the larger tile."""
    if arithmetic not in ARITHMETIC:
        raise ValueError(f"no arithmetic {arithmetic!r}; there is {', '.join(ARITHMETIC)}")
    tiles = FMA_TILES if arithmetic == "f32" else mma_tiles(arithmetic)
    return min(
        allowed(form, tiles, target), key=lambda p: (cycles(p, form.batch, target), -p.tile.sums * p.tile.threads)
    )


def allowed(form: Form, tiles: Sequence[FmaTile | MmaTile], target: Target) -> list[Plan]:
    """The plans of those tiles that shared memory and registers hold."""
    return [
        p
        for p in (planned(form, tile, target) for tile in tiles)
        if p.bytes <= target.shared_block - RESERVED
        and p.tile.sums + _offsets(form, p.tile) <= HELD * target.registers_processor // (p.resident * p.tile.threads)
    ]


def planned(form: Form, tile: FmaTile | MmaTile, target: Target) -> Plan:
    """The plan with this tile: as many stages as leave room for the blocks that registers have room for."""
    x = Stage("x", tile.rows, tile.depth, form.x.deep)
    w = Stage("w", tile.columns, tile.depth, form.w.deep)
    slices = -(-form.k // tile.depth)
    registers = target.registers_processor // (tile.threads * REGISTERS)

    def resident(stages: int) -> int:
        room = target.shared_processor // (4 * stages * (x.elements + w.elements) + RESERVED)
        return max(1, min(registers, room))

    stages = max((s for s in STAGES if s <= max(2, slices)), key=lambda s: (resident(s), s))
    down, across = -(-form.m // tile.rows), -(-form.n // tile.columns)
    return Plan(tile, x, w, down, across, slices, stages, resident(stages))


def _offsets(form: Form, tile: FmaTile | MmaTile) -> int:
    """Registers in which a thread keeps the rows that it copies from; and what a tile of bfloat16, which reads two rows
    of a stage at once, has too few of where places are found by division."""
    sides = ((form.x, tile.rows), (form.w, tile.columns))
    kept = sum(rows * tile.depth // operand.width // tile.threads for operand, rows in sides if operand.deep)
    found = sum(len(operand.depth.digits) > 1 for operand, _ in sides if not operand.deep)
    return kept + (PAIRED * found if tile.arithmetic == "bf16" else 0)


def cycles(plan: Plan, batch: int, target: Target) -> float:
    """Of the multiprocessor with the most blocks: they share its arithmetic, and few of them cannot keep it busy."""
    tile = plan.tile
    blocks = -(-plan.down * plan.across * batch // target.multiprocessors)
    products = tile.rows * tile.columns * tile.depth / RATE[tile.arithmetic] * (1 + OVERHEAD / tile.sums)
    fragments = tile.threads * tile.depth * _fragments(tile) / SHARED_RATE
    copies = (tile.rows + tile.columns) * tile.depth / CACHE_RATE
    together = min(blocks, plan.resident)
    share = min(1.0, together * tile.threads / BUSY)
    slice_cycles = max(products, fragments, copies) / share + SLICE_CYCLES / together
    return blocks * (plan.slices * slice_cycles + BLOCK_CYCLES / together)


def _fragments(tile: FmaTile | MmaTile) -> float:
    """Floats that a thread reads from shared memory for one depth; those that lanes share count once."""
    if isinstance(tile, FmaTile):
        return (4 * tile.tm + 8 * tile.tn) / 32
    return (16 * tile.mt + 8 * tile.nt) / 32

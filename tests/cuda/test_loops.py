"""The generic emitter against the samples: values, zeros kept, the same bits in any order of threads; memory traffic.

Samples are compiled many at once: those of a quick run together, the others by forties. Libraries are checked ones, so
every launch also looks for races, reads of what nobody wrote, barriers that not all threads reach.
"""

from functools import cache

import loop_samples as make
import numpy as np
import pytest
from loop_samples import SAMPLES, Sample, beyond, names
from shim.build import Library, compile_kernels, compilers

from graphc.backends.cuda import nvrtc
from graphc.backends.cuda.emit import KernelCode
from graphc.backends.cuda.kernels.loops import emit_loops
from graphc.backends.cuda.prelude import DEVICE
from graphc.backends.cuda.target import AMPERE, HOPPER, TARGETS
from graphc.schedule.kernels import Contraction
from graphc.schedule.layout import Buffer

pytestmark = pytest.mark.skipif(
    not compilers(), reason="no C++ compiler for the shim: g++, clang++ or pip install ziglang"
)
# float32 sums of up to a few thousand terms of size about 1, in another order than NumPy's
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
ORDERS = ("backward", 1, 2)
# Sizes at which work is shared out in ways that the samples' own are too small for.
LARGE = {
    "columns in vectors": lambda: make.column_sums(2048, 512),
    "columns, vectors and no block full": lambda: make.column_sums(700, 1204),
    "rows of many warps": lambda: make.layer_norm(2, 4096),
    "argmax of many warps": lambda: make.arg_max(3, 5000),
    "argmax of columns": lambda: make.arg_max(40, 900, True),
    "a row beyond 24 KB of shared memory": lambda: make.softmax_last(2, 12_001),
    "many rows in a block": lambda: make.softmax_last(300, 12),
    "tiles of both widths": lambda: make.permute((3, 9, 130), (0, 2, 1)),
    "tiles of whole sides": lambda: make.permute((64, 96), (1, 0)),
    "vectors and a rest": lambda: make.sgd_momentum(4003),
    "bytes": lambda: make.masks_and_counts(3, 256),
}
QUICK = [*LARGE, *(n for n in names() if isinstance(n, str))]
SLOW = [n for n in SAMPLES if n not in QUICK]
BATCHES = [QUICK, *(SLOW[k : k + 40] for k in range(0, len(SLOW), 40))]
NUMBER = {name: k for k, name in enumerate([*LARGE, *SAMPLES])}


@cache
def sample_of(name: str) -> Sample:
    return (LARGE | SAMPLES)[name]()


def emit(name: str, target=AMPERE) -> KernelCode:
    sample = sample_of(name)
    kernel = sample.kernel
    loops = kernel.to_loops(sample.buffers) if isinstance(kernel, Contraction) else kernel
    return emit_loops(f"k{NUMBER[name]}", loops, sample.buffers, target)


@cache
def batch(number: int) -> tuple[dict[str, KernelCode], Library]:
    codes = {name: emit(name) for name in BATCHES[number]}
    return codes, compile_kernels("".join(c.text for c in codes.values()), checked=True)


def compiled(name: str) -> tuple[KernelCode, Library]:
    codes, library = batch(next(k for k, b in enumerate(BATCHES) if name in b))
    return codes[name], library


@pytest.mark.parametrize("name", [*LARGE, *names()])
def test_values_and_zeros_in_every_order(name):
    sample, (code, library) = sample_of(name), compiled(name)
    arrays = sample.arrays()
    library.launch(code, arrays)
    for output, expected in sample.expected.items():
        buffer = sample.buffers[output]
        np.testing.assert_allclose(buffer.unpack(arrays[output]), expected, **CLOSE)
        assert not arrays[output][beyond(buffer)].any(), f"{output}: halo or padding lanes are not zero"
    for given in sample.inputs.keys() - sample.expected.keys():
        assert arrays[given].tobytes() == sample.arrays()[given].tobytes(), f"input {given} was written"
    for order in ORDERS[: 1 if name in LARGE else None]:
        again = sample.arrays()
        library.launch(code, again, order=order)
        for output in sample.expected:
            assert again[output].tobytes() == arrays[output].tobytes(), f"order {order} gives other bits"


@pytest.mark.parametrize("arch", TARGETS)
def test_nothing_is_spilled(arch):
    try:
        nvrtc.load()
    except nvrtc.NvrtcMissing as missing:
        pytest.skip(str(missing))
    codes, _ = batch(0)
    found = nvrtc.compile_module(DEVICE + "".join(c.text for c in codes.values()), arch).kernels
    assert {n for n, r in found.items() if r.spill_stores or r.spill_loads or r.stack} == set()
    assert len(found) == len(codes)
    assert max(r.registers * c.threads for c in codes.values() if (r := found[c.name])) <= 65536


def test_the_order_of_sums_is_the_same_on_every_device():
    for name in QUICK:
        assert emit(name, AMPERE) == emit(name, HOPPER)


# What a kernel must move at least, in 32-byte sectors: 8 floats each.
MOVED = {
    "elementwise": (lambda: make.plain_relu(8192), 2 * 8192 / 8),
    "three states": (lambda: make.adamw(4096), 7 * 4096 / 8),
    "row softmax, read twice": (lambda: make.softmax_last(48, 512), 3 * 48 * 512 / 8),
    "row softmax of odd rows": (lambda: make.softmax_last(48, 511), 3 * 48 * 511 / 8),
    "column sums": (lambda: make.column_sums(1024, 256), 1025 * 256 / 8),
    "few columns": (lambda: make.column_sums(3000, 24), 3001 * 24 / 8),
    "transpose": (lambda: make.permute((256, 192), (1, 0)), 2 * 256 * 192 / 8),
    "channels to the end": (lambda: make.permute((2, 16, 40, 40), (0, 2, 3, 1)), 2 * 2 * 16 * 1600 / 8),
}


@pytest.mark.parametrize("name", MOVED)
def test_memory_moves_in_whole_sectors(name):
    """At most a tenth more than the bytes need: rows of 511 floats begin anywhere in a sector."""
    sample, least = MOVED[name][0](), MOVED[name][1]
    code = emit_loops("k", sample.kernel, sample.buffers, AMPERE)
    library = compile_kernels(code.text, checked=True)
    library.launch(code, sample.arrays(), count=True)
    moved = [t for line in library.traffic().values() for t in line]
    sectors = sum(t.sectors for t in moved if not t.shared)
    assert least <= sectors <= (1.1 if "odd" not in name else 1.3) * least
    assert all(t.wavefronts in (t.requests, 4 * t.requests) for t in moved if t.shared), "banks are in conflict"


def test_too_many_elements_are_refused_by_name():
    sample = make.plain_relu(64)
    buffers = {**sample.buffers, "x": Buffer("x", (1 << 31,), "f32")}
    with pytest.raises(ValueError, match=r"kernel k: %x has 2147483648 elements"):
        emit_loops("k", sample.kernel, buffers, AMPERE)


def test_scratch_rows_beyond_a_block_are_refused():
    sample = make.softmax_last(2, 50_000)
    with pytest.raises(ValueError, match="its scratch rows take 200000 bytes"):
        emit_loops("k", sample.kernel, sample.buffers, AMPERE)
    assert emit_loops("k", sample.kernel, sample.buffers, HOPPER).shared == 200_000

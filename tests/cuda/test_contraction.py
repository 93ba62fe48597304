"""Contractions on the GPU, by the checked shim: values of every kind at odd sizes with every tile and arithmetic, the
same bits in any order of threads, memory traffic; what NVRTC makes of them; the form, the tiles, what is refused.

Sums of n products in float32, in any order, differ from the exact ones by at most n * 2**-24 * sum |x * w| (Higham,
Accuracy and Stability, section 3.1). Operands rounded to p bits after the first add 2 * 2**-(p+1) of each product: p is
10 in tf32 and 7 in bf16.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from contraction_samples import (
    BIAS_RELU,
    CASES,
    KH,
    KW,
    RESIDUAL,
    H,
    O,
    W,
    conv2d,
    conv2d_dw,
    conv2d_dx,
    epilogue,
    exact,
    matmul,
    unblocked,
)  # fmt: skip
from shim.build import Library, compile_kernels
from test_nvrtc import needs_nvrtc

from graphc.backends.cuda import nvrtc
from graphc.backends.cuda.emit import KernelCode
from graphc.backends.cuda.kernels.contraction import emit_contraction, emit_tiles
from graphc.backends.cuda.kernels.form import Line, analyse
from graphc.backends.cuda.kernels.plans import ARITHMETIC, allowed, plan, planned
from graphc.backends.cuda.kernels.tiles import FMA_TILES, mma_tiles
from graphc.backends.cuda.prelude import DEVICE
from graphc.backends.cuda.target import AMPERE, HOPPER, TARGETS
from graphc.schedule.expr import Aff, load
from graphc.schedule.kernels import ACC, Access, Contraction, Schedule, Store
from graphc.schedule.layout import Buffer
from graphc.schedule.split_products import split_products
from graphc.schedule.traits import GPU

MEASURED = (AMPERE.arch, HOPPER.arch)  # for which the limits on sums and offsets in a plan were chosen
ROUNDING = {"f32": 0.0, "tf32": 2.0**-10, "bf16": 2.0**-7}  # of a product, by both operands together
TILES = {a: FMA_TILES if a == "f32" else mma_tiles(a) for a in ARITHMETIC}


def gpu(case):
    kernel, buffers = case
    return kernel, unblocked(buffers)


def product(m, n, k, transposed, epilogue=ACC):
    """x, w, both or none of them stored the other way round: all four directions in which slices are copied."""
    x, w = ("m", "k"), ("k", "o")
    sizes = {"m": m, "k": k, "o": n}
    x, w = (d[::-1] if name in transposed else d for name, d in (("x", x), ("w", w)))
    buffers = [Buffer(b, tuple(sizes[a] for a in d), "f32") for b, d in (("x", x), ("w", w), ("y", ("m", "o")))]
    access = [Access(b, tuple(map(Aff.of, d))) for b, d in (("x", x), ("w", w))]
    return Contraction(
        "mm", "matmul", (("m", m), ("o", n)), (("k", k),), *access, (Store("y", (Aff.of("m"), O), epilogue),), "o"
    ), {b.name: b for b in buffers} | {"bias": Buffer("bias", (n,), "f32")}  # fmt: skip


# Sizes that no tile divides, and for each tile all directions: with 16-byte copies and without.
DIRECTIONS = {
    f"{'aligned' if aligned else 'odd'} {transposed or 'plain'}": product(
        *((132, 136, 72) if aligned else (131, 67, 37)), transposed, ACC + load("bias", (O,))
    )
    for aligned in (True, False)
    for transposed in ("", "x", "w", "xw")
}
SOME = ["conv odd channels", "dw odd channels", "dx stride 2", "matmul"]
TRAFFIC = {
    "convolution": conv2d(1, 32, 64, 12, 12, 3),
    "weight gradient": conv2d_dw(1, 32, 64, 12, 12, 3),
    **{f"product {t or 'plain'}": product(128, 128, 64, t) for t in ("", "x", "w", "xw")},
}
RESNET = {
    "first layer": conv2d(1, 3, 64, 32, 32, 7, stride=2, plain=True, epilogue=BIAS_RELU, halo=1),
    "64 channels": conv2d(2, 64, 64, 8, 8, 3, epilogue=RESIDUAL, halo=1),
    "128 channels, stride 2": conv2d(2, 64, 128, 8, 8, 3, stride=2, epilogue=BIAS_RELU, halo=1),
    "128 channels, shortcut": conv2d(2, 64, 128, 8, 8, 1, stride=2),
    "256 channels": conv2d(1, 256, 256, 4, 4, 3, epilogue=BIAS_RELU, halo=1),
    "512 channels": conv2d(1, 512, 512, 2, 2, 3, epilogue=RESIDUAL),
    "64 channels, input gradient": conv2d_dx(2, 64, 64, 8, 8, 3, 1, 1, 0, 0),
    "128 channels, input gradient": conv2d_dx(2, 64, 128, 8, 8, 3, 2, 1, 1, 0),
    "64 channels, weight gradient": conv2d_dw(2, 64, 64, 8, 8, 3),
    "first layer, weight gradient": conv2d_dw(2, 3, 64, 32, 32, 7, stride=2, plain=True),
}


def named(number: int, case, arithmetic: str, tile=None) -> KernelCode:
    kernel, buffers = case
    name = f"k{number}_{arithmetic}"
    if tile is None:
        return emit_contraction(name, kernel, buffers, AMPERE, arithmetic)
    form = analyse(kernel, buffers)
    return emit_tiles(name, form, planned(form, tile, AMPERE), buffers, AMPERE)


@cache
def batch(group: str) -> tuple[dict, Library]:
    """Kernels compiled together: {key: (case, code)} and their library."""
    found = {}
    if group in ARITHMETIC:
        found = {name: (gpu(CASES[name]), None) for name in CASES}
    elif group.startswith("some"):
        found = {name: (gpu(CASES[name]), None) for name in SOME}
    elif group.startswith("traffic"):
        found = {name: (gpu(case), TILES[group.split()[-1]][0]) for name, case in TRAFFIC.items()}
    elif group.startswith("resnet"):
        found = {name: (gpu(RESNET[name]), None) for name in RESNET}
    else:
        found = {(name, t): (DIRECTIONS[name], t) for name in DIRECTIONS for t in TILES[group.split()[1]]}
    arithmetic = group.split()[-1]
    made = {key: (case, named(k, case, arithmetic, t)) for k, (key, (case, t)) in enumerate(found.items())}
    return made, compile_kernels("".join(code.text for _, code in made.values()), checked=True)


def arrays_of(buffers, seed=0):
    random = np.random.default_rng(seed)
    logical = {name: random.standard_normal(b.shape).astype(np.float32) for name, b in buffers.items()}
    return logical, {name: b.pack(logical[name]) for name, b in buffers.items()}


def check(group: str, key, orders=()) -> None:
    """Values within the bound, halos kept, and the same bits in other orders of threads."""
    made, library = batch(group)
    (kernel, buffers), code = made[key]
    logical, arrays = arrays_of(buffers)
    arrays["y"] = buffers["y"].pack(np.full(buffers["y"].shape, np.nan))
    library.launch(code, arrays)
    wide = {name: a.astype(np.float64) for name, a in logical.items()}
    acc, bound, grid = exact(kernel, wide)
    (store,) = kernel.stores
    want = epilogue(store.expr, acc, wide, grid)
    steps = int(np.prod([e for _, e in kernel.red]))
    index = tuple(np.asarray(sum(c * grid[a] for a, c in i.terms) + i.const) for i in store.indices)
    got = buffers["y"].unpack(arrays["y"])
    error = abs(got[index] - want)
    rounding = ROUNDING[group.split()[-1]]
    assert (error <= rounding * bound + (steps + 4) * 2.0**-24 * (bound + abs(want) + 1)).all()
    if not rounding:
        assert error.max() <= 1e-5 * abs(want).max()
    if kernel.kind != "conv2d_dx":  # which stores a part of its output
        np.testing.assert_array_equal(buffers["y"].pack(got), arrays["y"])
    for order in orders:
        _, again = arrays_of(buffers)
        library.launch(code, again, order=order)
        assert again["y"][~np.isnan(arrays["y"])].tobytes() == arrays["y"][~np.isnan(arrays["y"])].tobytes()


@pytest.mark.parametrize("name", [
    pytest.param(n, marks=pytest.mark.slow) if n == "dw long sum" else n for n in CASES
])  # fmt: skip
def test_values(name):
    check("f32", name, orders=("backward",))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("arithmetic", ["tf32", "bf16"])
def test_values_of_tensor_cores(name, arithmetic):
    check(f"some {arithmetic}", name, orders=("backward",))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arithmetic", ["tf32", "bf16"])
def test_all_values_of_tensor_cores(name, arithmetic):
    check(arithmetic, name, orders=(1,))


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNET)
@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_convolutions_of_resnet18(name, arithmetic):
    check(f"resnet {arithmetic}", name)


def tile_name(tile) -> str:
    return f"{tile.rows}x{tile.columns}-{tile.arithmetic}"


@pytest.mark.slow
@pytest.mark.parametrize("tile", [t for tiles in TILES.values() for t in tiles], ids=tile_name)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_tile_in_every_direction(name, tile):
    check(f"tiles {tile.arithmetic}", (name, tile), orders=(1,))


def test_rounding_to_nearest_has_no_bias():
    """Operands just above the middle between two tf32 numbers are rounded up, those just below it down."""
    kernel, buffers = product(16, 64, 32, "")
    code = emit_contraction("k", kernel, buffers, AMPERE, "tf32")
    _, arrays = arrays_of(buffers)
    arrays["x"][:] = 1 + 2.0**-11 + 2.0**-20
    arrays["x"][8:] = 1 + 2.0**-11 - 2.0**-20
    arrays["w"][:] = 1
    compile_kernels(code.text, checked=False).launch(code, arrays)
    assert (arrays["y"][:8] == 32 * (1 + 2.0**-10)).all() and (arrays["y"][8:] == 32).all()


def test_a_chunk_of_a_long_sum_is_a_point_of_the_batch():
    """What the schedule makes of a weight gradient: partial sums, each of its own part of the images."""
    kernel, buffers = gpu(conv2d_dw(8, 16, 32, 14, 14, 3))
    split = split_products(Schedule("dw", buffers, (kernel,), ("x", "dy"), ("y",), traits=GPU))
    first, buffers = split.kernels[0], dict(split.buffers)
    code = emit_contraction("k", first, buffers, AMPERE, "f32")
    assert isinstance(first, Contraction) and analyse(first, buffers).batch > 1
    logical, arrays = arrays_of(buffers)
    compile_kernels(code.text, checked=True).launch(code, arrays)
    (store,) = first.stores
    acc, bound, _ = exact(kernel, {name: a.astype(np.float64) for name, a in logical.items()})
    order = [[str(i) for i in store.indices].index(a) for a, _ in kernel.par]
    got = arrays[store.buffer].sum(0, keepdims=True).transpose(0, *order)[0]
    assert (abs(got - acc) <= 8 * 196 * 2.0**-24 * bound).all()


def form(case):
    return analyse(*gpu(case))


def test_offsets_of_a_flat_number_merge_what_one_stride_serves():
    line = Line.along((("kh", 3), ("kw", 3), ("c", 64)), Aff(5, (("c", 1), ("kh", 3712), ("kw", 64))))
    assert line.digits == ((3, 3712), (192, 1)) and line.run == 192
    assert line.offset("k") == "int(k / 192u) * 3712 + int(k % 192u)"


@pytest.mark.parametrize(("case", "m", "n", "k", "batch"), [
    (conv2d(2, 32, 64, 5, 5, 3, groups=2), 50, 32, 144, 2),
    (conv2d_dw(2, 20, 37, 9, 9, 5), 500, 37, 162, 1),
    (matmul(5, 19, 8, packed=False, batch=3), 5, 19, 8, 3),
])  # fmt: skip
def test_sizes_of_the_form(case, m, n, k, batch):
    found = form(case)
    assert (found.m, found.n, found.k, found.batch) == (m, n, k, batch)


@pytest.mark.parametrize(("case", "x", "w"), [
    (conv2d(1, 64, 32, 12, 12, 3), (True, 4), (False, 4)),  # channels last, in both
    (conv2d(1, 6, 32, 12, 12, 3), (True, 1), (False, 4)),  # six channels are no multiple of 16 bytes
    (conv2d_dw(3, 32, 16, 14, 14, 3), (False, 4), (False, 4)),  # pixels are the depth, channels the rows
    (matmul(64, 32, 48, packed=False), (True, 4), (False, 4)),
    (matmul(64, 37, 50), (True, 1), (False, 1)),
])  # fmt: skip
def test_direction_and_width_of_copies(case, x, w):
    found = form(case)
    assert ((found.x.deep, found.x.width), (found.w.deep, found.w.width)) == (x, w)


@pytest.mark.parametrize(("case", "arithmetic", "tile"), [
    (conv2d(32, 256, 256, 14, 14, 3), "tf32", (128, 128)),
    (conv2d(32, 64, 64, 56, 56, 3), "f32", (128, 64)),
    (conv2d(1, 64, 64, 56, 56, 3), "f32", (32, 32)),  # larger tiles would be fewer than multiprocessors
    (conv2d(1, 256, 1024, 14, 14, 1), "tf32", (16, 64)),
])  # fmt: skip
def test_tiles_chosen(case, arithmetic, tile):
    chosen = plan(form(case), AMPERE, arithmetic).tile
    assert (chosen.rows, chosen.columns) == tile


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_text_is_the_same_each_time(name, arithmetic):
    first, second = (emit_contraction("k", *gpu(CASES[name]), AMPERE, arithmetic) for _ in range(2))
    assert first == second


MAIN = {
    "conv": conv2d(8, 64, 64, 56, 56, 3, epilogue=RESIDUAL),
    "first layer": conv2d(8, 3, 64, 224, 224, 7, stride=2, plain=True, epilogue=BIAS_RELU),
    "odd": conv2d(8, 37, 131, 19, 19, 3, epilogue=RESIDUAL),
    "dw": conv2d_dw(8, 64, 64, 56, 56, 3),
    "dw odd": conv2d_dw(8, 37, 65, 19, 19, 3, stride=2),
    "dx stride 2": conv2d_dx(8, 64, 128, 56, 56, 3, 2, 1, 1, 0),
    **{f"product {t}": product(1024, 1024, 1024, t) for t in ("", "x", "w", "xw")},
    "vectors": product(4, 1000, 512, ""),
}


def compiled(cases, arch) -> tuple[dict, nvrtc.Compiled]:
    """All `cases` (key -> (case, arithmetic, tile)) as one module."""
    codes = {key: named(k, gpu(case), a, t) for k, (key, (case, a, t)) in enumerate(cases.items())}
    return codes, nvrtc.compile_module(DEVICE + "".join(c.text for c in codes.values()), arch)


def check_resources(codes, module, arch) -> None:
    target = TARGETS[arch]
    for code in codes.values():
        used = module.kernels[code.name]
        assert (used.spill_stores, used.spill_loads) == (0, 0), code.text.splitlines()[1]
        assert used.registers <= target.registers_thread and used.shared <= target.static_shared + 1024
        assert used.shared + code.shared <= target.shared_block
        blocks = int(re.search(r"KERNEL\(\w+, \d+, (\d+)\)", code.text)[1])
        assert blocks * code.threads * used.registers <= target.registers_processor


NVDISASM = shutil.which("nvdisasm") or next(
    (str(p) for path in sys.path for p in Path(path).glob("nvidia/cu*/bin/nvdisasm")), None
)


@needs_nvrtc
@pytest.mark.parametrize("arch", MEASURED)
@pytest.mark.parametrize("arithmetic", ["f32", "tf32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_registers_and_instructions(arithmetic, arch, tmp_path):
    """Arithmetic by the wide instructions, copies past the registers, nothing in local memory."""
    codes, module = compiled({"conv": (MAIN["conv"], arithmetic, None)}, arch)
    check_resources(codes, module, arch)
    if not NVDISASM:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    (tmp_path / "k.cubin").write_bytes(module.cubin)
    text = subprocess.run([NVDISASM, str(tmp_path / "k.cubin")], capture_output=True, text=True, check=True).stdout
    count = {i: len(re.findall(rf"\b{i}\b", text)) for i in ("FFMA", "HMMA", "LDGSTS", "LDL", "STL", "LDS")}
    assert count["FFMA" if arithmetic == "f32" else "HMMA"] >= (128 if arithmetic == "f32" else 16)
    assert count["LDGSTS"] and not count["LDL"] + count["STL"]
    assert count["LDS"] <= count["FFMA"] / 6 + 2 * count["HMMA"]


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("arch", MEASURED)
@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_no_tile_spills(arithmetic, arch):
    """Every tile that a plan may choose, with every operand it may have."""
    cases = {}
    for name, case in MAIN.items():
        found = form(case)
        for each in allowed(found, TILES[arithmetic], AMPERE):
            cases[name, each.tile] = case, arithmetic, each.tile
        cases[name, None] = case, arithmetic, None
    check_resources(*compiled(cases, arch), arch)


@pytest.mark.parametrize("arithmetic", ["f32", "tf32"])
@pytest.mark.parametrize("name", TRAFFIC)
def test_memory_moves_in_whole_sectors_and_meets_in_no_bank(name, arithmetic):
    made, library = batch(f"traffic {arithmetic}")
    (_, buffers), code = made[name]
    library.launch(code, arrays_of(buffers)[1], count=True)
    moved = [t for line in library.traffic().values() for t in line]
    for number, line in library.traffic().items():
        text = library.text.splitlines()[number - 1]
        width = max((int(w) for w in re.findall(r"= ld(\d)\(", text)), default=1)
        assert all(t.wavefronts == width * t.requests for t in line if t.shared), f"banks are in conflict: {text}"
    for t in moved:
        if not t.shared:
            assert t.sectors <= t.accesses * 16 / 32
    if name.startswith("product"):
        assert sum(t.sectors for t in moved if not t.shared) == (2 * 128 * 64 + 128 * 128) * 4 / 32


def refused(kernel, buffers):
    with pytest.raises(ValueError) as error:
        emit_contraction("k", kernel, buffers, AMPERE, "f32")
    return str(error.value)


def test_refuses_integers():
    kernel, buffers = gpu(matmul(4, 32, 8))
    assert "f32" in refused(kernel, buffers | {"x": replace(buffers["x"], dtype="i32")})


def test_refuses_padding_that_is_not_in_memory():
    kernel, buffers = gpu(conv2d(1, 8, 8, 5, 5, 3))
    assert "cannot be read" in refused(kernel, buffers | {"x": Buffer("x", (1, 8, 5, 5), "f32")})


def test_refuses_blocks():
    assert "blocks" in refused(*conv2d(1, 32, 32, 5, 5, 3))


def test_refuses_depthwise():
    buffers = {
        "x": Buffer("x", (1, 32, 6, 6), "f32"),
        "w": Buffer("w", (32, 3, 3), "f32"),
        "y": Buffer("y", (1, 32, 4, 4), "f32"),
    }
    kernel = Contraction(
        "depthwise", "conv2d", (("o", 32), ("oh", 4), ("ow", 4)), (("kh", 3), ("kw", 3)),
        Access("x", (Aff(), O, H + KH, W + KW)), Access("w", (O, KH, KW)), (Store("y", (Aff(), O, H, W), ACC),), "o",
    )  # fmt: skip
    assert "depends on the lanes" in refused(kernel, buffers)


def test_refuses_unknown_arithmetic():
    with pytest.raises(ValueError, match="fp8"):
        emit_contraction("k", *gpu(matmul(64, 32, 48)), AMPERE, "fp8")

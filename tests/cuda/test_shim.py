"""The CPU that speaks CUDA: what it computes is what the language says, and it sees every access."""

from __future__ import annotations

import numpy as np
import pytest
from right_kernels import RIGHT, kernel
from shim.build import CheckError, Library, compile_kernels, compilers, poison, run
from test_nvrtc import needs_nvrtc

from graphc.backends.cuda import nvrtc
from graphc.backends.cuda.prelude import DEVICE
from graphc.backends.cuda.target import TARGETS

COMPILERS = list(compilers())
pytestmark = pytest.mark.skipif(
    not COMPILERS, reason="no C++ compiler for the shim: g++, clang++ or pip install ziglang"
)
ORDERS = ("forward", "backward", 1, 2)

ROUNDINGS = """
KERNEL(roundings, 256, 1)(const float *b0, int *b1, int *b2) {
  int i = blockIdx.x * 256 + threadIdx.x;
  b1[i] = to_tf32(b0[i]);
  b2[i] = pack_bf16(b0[i], -b0[i]);
}
"""

# One warp; lane 4 g + t has its fragments as PTX names them.
TILES = """
KERNEL(tf32, 32, 1)(const float *b0, const float *b1, float *b2) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned a[2][4], b[3][2];
  float acc[2][3][4];
  for (int m = 0; m < 2; m++) {
    a[m][0] = __float_as_uint(b0[(m * 16 + g) * 8 + t]);
    a[m][1] = __float_as_uint(b0[(m * 16 + g + 8) * 8 + t]);
    a[m][2] = __float_as_uint(b0[(m * 16 + g) * 8 + t + 4]);
    a[m][3] = __float_as_uint(b0[(m * 16 + g + 8) * 8 + t + 4]);
  }
  for (int n = 0; n < 3; n++) {
    b[n][0] = __float_as_uint(b1[t * 24 + n * 8 + g]);
    b[n][1] = __float_as_uint(b1[(t + 4) * 24 + n * 8 + g]);
  }
  for (int m = 0; m < 2; m++)
    for (int n = 0; n < 3; n++)
      for (int r = 0; r < 4; r++) acc[m][n][r] = b2[(m * 16 + g + r / 2 * 8) * 24 + n * 8 + t * 2 + r % 2];
  mma_tf32<2, 3>(acc, a, b);
  for (int m = 0; m < 2; m++)
    for (int n = 0; n < 3; n++)
      for (int r = 0; r < 4; r++) b2[(m * 16 + g + r / 2 * 8) * 24 + n * 8 + t * 2 + r % 2] = acc[m][n][r];
}
KERNEL(bf16, 32, 1)(const float *b0, const float *b1, float *b2) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned a[1][4], b[2][2];
  float acc[1][2][4] = {};
  for (int r = 0; r < 4; r++) {
    const float *x = b0 + (g + r % 2 * 8) * 16 + t * 2 + r / 2 * 8;
    a[0][r] = pack_bf16(x[0], x[1]);
  }
  for (int n = 0; n < 2; n++)
    for (int r = 0; r < 2; r++) {
      const float *x = b1 + (t * 2 + r * 8) * 16 + n * 8 + g;
      b[n][r] = pack_bf16(x[0], x[16]);
    }
  mma_bf16<1, 2>(acc, a, b);
  for (int n = 0; n < 2; n++)
    for (int r = 0; r < 4; r++) b2[(g + r / 2 * 8) * 16 + n * 8 + t * 2 + r % 2] = acc[0][n][r];
}
"""

WARPS = """
KERNEL(warps, 64, 1)(const int *b0, int *b1) {
  int t = threadIdx.x, v = b0[t], *y = b1 + t * 8;
  y[0] = __shfl_xor_sync(FULL, v, 5);
  y[1] = __shfl_sync(FULL, v, (t * 7) % 32);
  y[2] = __shfl_up_sync(FULL, v, 3);
  y[3] = __shfl_down_sync(FULL, v, 3);
  y[4] = __ballot_sync(FULL, v % 3 == 0);
  y[5] = __any_sync(FULL, v == 1000);
  y[6] = __all_sync(FULL, v < 1000);
  y[7] = __umulhi(0x80000000u, (unsigned)v);
}
"""

ASYNCHRONOUS = """
KERNEL(asynchronous, 32, 1)(const float *b0, float *b1) {
  SHARED(float, a, [32][4]);
  SHARED(float, b, [32]);
  int t = threadIdx.x;
  copy16_if(a[t], b0 + 4 * t, t < 20);
  copy_commit();
  copy4_if(b + t, b0 + t, t % 2);
  copy_commit();
  copy_wait<1>();
  st4(b1 + 4 * t, ld4(a[t]));
  copy_wait<0>();
  b1[128 + t] = b[t];
}
"""

# Known numbers of accesses; columns of a shared tile with and without padding; rows and columns of global memory.
MOVES = """
KERNEL(moves, 32, 1)(const float *b0, float *b1) {
  SHARED(float, tile, [32][32]);
  SHARED(float, padded, [32][33]);
  int t = threadIdx.x;
  for (int i = 0; i < 32; i++) tile[i][t] = b0[i * 32 + t];
  for (int i = 0; i < 32; i++) padded[i][t] = b0[t * 32 + i];
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 32; i++) sum += tile[t][i];
  for (int i = 0; i < 32; i++) sum += padded[t][i];
  for (int i = 0; i < 7; i++) {
    float4 v = ld4(tile[i] + t % 8 * 4);
    sum += v.x;
  }
  b1[t] = sum;
}
"""

BYTES = """
KERNEL(bytes, 32, 1)(const unsigned char *b0, unsigned char *b1) {
  SHARED(unsigned char, flags, [32]);
  int t = threadIdx.x;
  flags[t] = b0[t] + 1;
  __syncwarp();
  b1[t] = flags[31 - t];
  st4b(b1 + 32 + 4 * t, ld4b(b0 + 4 * t));
}
"""

DOUBLES = """
KERNEL(doubles, 32, 1)(const float *b0, float *b1) { b1[threadIdx.x] = 2 * b0[threadIdx.x]; }
KERNEL(other, 32, 1)(float *b0) { b0[threadIdx.x] += 1; }
KERNEL(lost, 64, 1)(float *b0) {
  if (threadIdx.x < 32) return;
  __syncthreads();
  b0[threadIdx.x] = 1;
}
"""
TEXT = ROUNDINGS + TILES + WARPS + ASYNCHRONOUS + MOVES + BYTES + DOUBLES + "".join(r.code.text for r in RIGHT.values())

each = pytest.mark.parametrize(
    "library", [(c, k) for c in COMPILERS for k in (False, True)], indirect=True, ids=lambda p: f"{p[0]}-{p[1]}"
)
checked = pytest.mark.parametrize("library", [(c, True) for c in COMPILERS], indirect=True, ids=lambda p: p[0])


@pytest.fixture(scope="module")
def libraries() -> dict:
    return {}


@pytest.fixture
def library(request, libraries) -> Library:
    compiler, is_checked = request.param
    if request.param not in libraries:
        libraries[request.param] = compile_kernels(TEXT, is_checked, compiler)
    return libraries[request.param]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@each
@pytest.mark.parametrize("name", RIGHT)
def test_kernels_are_right_and_the_same_in_every_order(name, library):
    results = []
    for order in ORDERS:
        arrays = RIGHT[name].arrays()
        library.launch(RIGHT[name].code, arrays, order)
        RIGHT[name].check(arrays)
        results.append(b"".join(a.tobytes() for a in arrays.values()))
    assert len(set(results)) == 1


@needs_nvrtc
@pytest.mark.parametrize("arch", TARGETS)
def test_nvrtc_takes_the_same_text(arch):
    """Also that of this file: what the shim's prelude offers, the device's does too."""
    used = nvrtc.compile_module(DEVICE + TEXT, arch).kernels
    assert set(RIGHT) < set(used)
    assert not any(r.spill_stores + r.spill_loads for r in used.values())
    assert used["sgemm"].shared == (2 * 8 * 36 + 2 * 8 * 32) * 4


@each
def test_roundings(library):
    """Halves, one bit to either side of them, denormals and infinities among random bits."""
    bits = np.random.default_rng(1).integers(0, 1 << 32, 4096, np.uint32)
    bits[:2048] = bits[:2048] & 0xFFFF0000 | np.tile([0x7FFF, 0x8000, 0x8001, 0x1000, 0x0FFF, 0x3000, 0, 0xFFFF], 256)
    bits[:4] = 0x7F800000, 0xFF800000, 1, 0x7F7FFFFF
    x = bits.view(np.float32)
    x = np.where(np.isnan(x), np.float32(1), x)
    bits = x.view(np.uint32)
    tf32, bf16 = np.zeros(4096, np.int32), np.zeros(4096, np.int32)
    library.launch(kernel("roundings", ROUNDINGS, "x t b", 16, 256), {"x": x, "t": tf32, "b": bf16})
    tf32, bf16 = tf32.view(np.uint32), bf16.view(np.uint32)
    finite = np.isfinite(x) & (np.abs(x) < 3e38)
    assert not (tf32 & 0x1FFF).any()
    wide = x[finite].astype(np.float64)
    for rounded, half, up in ((tf32, 0x1000, True), (bf16 << 16, 0x8000, False)):
        got = rounded.view(np.float32)[finite].astype(np.float64)
        below = (bits[finite] & ~np.uint32(2 * half - 1)).view(np.float32).astype(np.float64)
        above = ((bits[finite] & ~np.uint32(2 * half - 1)) + np.uint32(2 * half)).view(np.float32).astype(np.float64)
        odd = (bits[finite] & (2 * half)) != 0
        middle = np.where(odd | up, above, below)  # tf32: away from zero; bf16: to even
        near = np.where(np.abs(wide - below) < np.abs(above - wide), below, above)
        wanted = np.where(np.abs(wide - below) == np.abs(above - wide), middle, near)
        np.testing.assert_array_equal(got, wanted)
    assert ((bf16 >> 16) == ((bf16 & 0xFFFF) ^ 0x8000)).all()  # the second number is the first one's negative
    assert tf32[:2].tolist() == [0x7F800000, 0xFF800000] and (bf16[:2] & 0xFFFF).tolist() == [0x7F80, 0xFF80]


@each
def test_tiles_of_tf32_ignore_the_last_bits(library):
    a, b, c = numbers(32, 8), numbers(8, 24, seed=1), numbers(32, 24, seed=2)
    cut = [(m.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64) for m in (a, b)]
    wanted = c + cut[0] @ cut[1]
    library.launch(kernel("tf32", TILES, "a b c", 1, 32), {"a": a, "b": b, "c": c})
    np.testing.assert_allclose(c, wanted, rtol=0, atol=1e-5)


@each
def test_tiles_of_bf16(library):
    """Small integers are exact in bf16, and so are their sums in float32."""
    draw = np.random.default_rng(3)
    a, b = (draw.integers(-9, 10, (16, 16)).astype(np.float32) for _ in range(2))
    c = np.full((16, 16), np.nan, np.float32)
    library.launch(kernel("bf16", TILES, "a b c", 1, 32), {"a": a, "b": b, "c": c})
    np.testing.assert_array_equal(c, a @ b)


@each
@pytest.mark.parametrize("order", ORDERS)
def test_operations_of_warps(library, order):
    x = np.random.default_rng(5).integers(0, 1000, 64).astype(np.int32)
    y = np.zeros((64, 8), np.int32)
    library.launch(kernel("warps", WARPS, "x y", 1, 64), {"x": x, "y": y}, order)
    lane, first = np.arange(64) % 32, np.arange(64) // 32 * 32
    froms = (lane ^ 5, np.arange(64) * 7 % 32, np.where(lane < 3, lane, lane - 3), np.where(lane > 28, lane, lane + 3))
    for column, source in enumerate(froms):
        np.testing.assert_array_equal(y[:, column], x[first + source])
    for w in range(2):
        bits = sum(1 << i for i in range(32) if x[w * 32 + i] % 3 == 0)
        assert (y[w * 32 : w * 32 + 32, 4].view(np.uint32) == bits).all()
    assert not y[:, 5].any() and (y[:, 6] == 1).all()
    np.testing.assert_array_equal(y[:, 7], x // 2)


@each
def test_asynchronous_copies_fill_with_zeros(library):
    x, y = numbers(128), np.full(160, np.nan, np.float32)
    library.launch(kernel("asynchronous", ASYNCHRONOUS, "x y", 1, 32), {"x": x, "y": y})
    np.testing.assert_array_equal(y[:80], x[:80])
    assert not y[80:128].any()
    np.testing.assert_array_equal(y[128:], np.where(np.arange(32) % 2, x[:32], 0))


@checked
def test_every_access_is_counted(library):
    """Sectors of 32 bytes a request, and wavefronts: 1 where 32 lanes meet 32 banks."""
    library.launch(kernel("moves", MOVES, "x y", 1, 32), {"x": numbers(1024), "y": numbers(32)}, count=True)
    traffic = library.traffic()
    source = library.text.splitlines()

    def told(line: str, shared: bool) -> tuple[int, int, int]:
        (found,) = (t for n, ts in traffic.items() if line in source[n - 1] for t in ts if t.shared == shared)
        return found.requests, found.accesses, found.wavefronts if shared else found.sectors

    assert told("tile[i][t] =", False) == (32, 1024, 32 * 4)
    assert told("tile[i][t] =", True) == (32, 1024, 32)
    assert told("padded[i][t] =", False) == (32, 1024, 32 * 32)
    assert told("sum += tile", True) == (32, 1024, 32 * 32)
    assert told("sum += padded", True) == (32, 1024, 32)
    assert told("ld4(tile", True) == (7, 224, 7 * 4)
    assert told("b1[t] = sum", False) == (1, 32, 4)


@each
def test_bytes_are_watched_one_by_one(library):
    x, y = np.arange(128, dtype=np.uint8), np.zeros(160, np.uint8)
    library.launch(kernel("bytes", BYTES, "x y", 1, 32), {"x": x, "y": y})
    np.testing.assert_array_equal(y, [*range(32, 0, -1), *range(128)])


@checked
def test_what_nobody_wrote_is_not_read(library):
    x, y = numbers(32), poison(np.empty(32, np.float32))
    code = kernel("doubles", DOUBLES, "x y", 1, 32)
    library.launch(code, {"x": x, "y": y})
    np.testing.assert_array_equal(y, 2 * x)
    poison(x[17:18])
    with pytest.raises(CheckError, match=r"thread 17: unwritten.*\n  argument 0 \(x\), byte 68\n"):
        library.launch(code, {"x": x, "y": y})


@checked
def test_arrays_that_lie_side_by_side_are_kept_apart(library):
    """Also where the caller gives addresses: an arena has no gaps."""
    arena = numbers(96)
    start = arena.ctypes.data
    library.launch_at("doubles", (1, 1, 1), 32, 0, [(start, 128, False), (start + 128, 128, True)])
    np.testing.assert_array_equal(arena[32:64], 2 * arena[:32])
    with pytest.raises(CheckError, match="bounds"):
        library.launch_at("doubles", (1, 1, 1), 32, 0, [(start, 64, False), (start + 128, 128, True)])
    with pytest.raises(CheckError, match="read-only"):
        library.launch_at("doubles", (1, 1, 1), 32, 0, [(start, 128, False), (start + 128, 128, False)])


@each
def test_one_array_as_input_and_output(library):
    x = numbers(32)
    before = x.copy()
    library.launch(kernel("doubles", DOUBLES, "x x", 1, 32), {"x": x})
    np.testing.assert_array_equal(x, 2 * before)


@each
def test_a_lost_thread_is_seen_in_fast_libraries_too_and_does_not_spoil_the_next_launch(library):
    code = kernel("lost", DOUBLES, "x", 1, 64)
    with pytest.raises(CheckError, match="thread-gone") as found:
        library.launch(code, {"x": numbers(64)})
    assert (found.value.kind, found.value.kernel, found.value.thread) == ("thread-gone", "lost", 63)
    x = np.zeros(32, np.float32)
    library.launch(kernel("other", DOUBLES, "x", 1, 32), {"x": x})
    assert (x == 1).all()


def test_text_that_is_no_cpp_is_refused():
    code = kernel("wrong", "KERNEL(wrong, 32, 1)(float *b0) {\n  b0[0] = nothing;\n}\n", "x", 1, 32)
    with pytest.raises(AssertionError, match=r"kernels.cu:2.*nothing"):
        run(code, {"x": numbers(32)})

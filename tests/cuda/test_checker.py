"""The checker's own test: real mistakes in correct kernels, each of which must be found and told by its right name, and
nothing found in the correct ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
from right_kernels import RIGHT
from shim.build import CheckError, Library, compile_kernels, compilers

COMPILERS = list(compilers())
pytestmark = pytest.mark.skipif(
    not COMPILERS, reason="no C++ compiler for the shim: g++, clang++ or pip install ziglang"
)


@dataclass(frozen=True)
class Mistake:
    """`old` becomes `new` in a kernel. One of `kinds` must be told, of a line that holds `at`."""

    name: str
    kernel: str
    old: str
    new: str
    kinds: str
    at: str = ""
    grid: tuple[int, int, int] | None = None
    shared: int | None = None


M = Mistake
MISTAKES = [
    M("no guard", "elementwise", "i < 253", "i < 256", "bounds", "ld4(b0"),
    M("one vector too many", "elementwise", "i < 253", "i <= 253", "bounds", "ld4(b0"),
    M("one element off", "elementwise", "ld4(b1 + 4 * i)", "ld4(b1 + 4 * i + 1)", "misaligned", "ld4(b1"),
    M("stores into the input", "elementwise", "st4(b2", "st4((float *)b1", "read-only", "st4("),
    M("blocks overlap", "elementwise", "blockIdx.x * 64", "blockIdx.x * 60", "race-grid", "st4("),
    M("all blocks do the same", "elementwise", "blockIdx.x * 64 + threadIdx.x", "threadIdx.x", "race-grid", "st4("),
    M("two threads an output", "elementwise", "st4(b2 + 4 * i", "st4(b2 + i / 2 * 8", "race-warp", "st4("),
    M("no __syncwarp before reading", "softmax", "  __syncwarp();\n  float v[3]", "  float v[3]",
      "race-warp unwritten", "rows[warp][lane * 3 + j]"),
    M("no __syncwarp before storing", "softmax", "  __syncwarp();\n  for (int j = lane; j < 77",
      "  for (int j = lane; j < 77", "race-warp", "b1[row"),
    M("another warp's row", "softmax", "v[j] = rows[warp][", "v[j] = rows[warp ^ 1][", "race-block unwritten",
      "v[j] = rows["),
    M("row not guarded", "softmax", "if (live && j < 77)", "if (j < 77)", "bounds", "b0[row * 77"),
    M("shared row not filled", "softmax", "j < 96; j += 32", "j < 77; j += 32", "unwritten",
      "rows[warp][lane * 3 + j]"),
    M("shuffle by live lanes", "softmax", "  for (int m = 16; m; m /= 2) sum +=",
      "  if (lane * 3 < 77) for (int m = 16; m; m /= 2) sum +=", "partial-warp", "sum +="),
    M("half a mask", "softmax", "__shfl_xor_sync(FULL, sum, m)", "__shfl_xor_sync(0xffffu, sum, m)", "partial-warp",
      "sum +="),
    M("early return of lanes", "softmax", "  float sum = 0;", "  float sum = 0;\n  if (lane > 25) return;",
      "partial-warp", "sum +="),
    M("shared rows of another warp count", "softmax", "rows, [4][96]", "rows, [3][96]", "bounds", "rows[warp][j] = v"),
    M("no barrier in the sum", "layer_norm", "  __syncthreads();\n  return", "  return", "race-block unwritten",
      "part[0]"),
    M("no barrier between sums", "layer_norm", "  __syncthreads();\n  float scale", "  float scale",
      "race-block race-warp", "part[threadIdx.x / 32] = v"),
    M("five partials for four", "layer_norm", "part[2] + part[3]", "part[2] + part[3] + part[4]", "bounds", "part[4]"),
    M("three partials written", "layer_norm", "if (threadIdx.x % 32 == 0)",
      "if (threadIdx.x % 32 == 0 && threadIdx.x < 96)", "unwritten", "part[3]"),
    M("every lane stores its partial", "layer_norm", "if (threadIdx.x % 32 == 0) part", "part", "race-warp", "part["),
    M("barrier for some", "layer_norm", "  __syncthreads();\n  float scale",
      "  if (threadIdx.x < 64) __syncthreads();\n  float scale", "divergent-barrier race-block"),
    M("two barriers for one", "layer_norm", "  __syncthreads();\n  float scale",
      "  if (threadIdx.x < 64)\n    __syncthreads();\n  else\n    __syncthreads();\n  float scale",
      "divergent-barrier", "__syncthreads"),
    M("early return of a warp", "layer_norm", "  SHARED(float, part, [4]);",
      "  SHARED(float, part, [4]);\n  if (threadIdx.x >= 96) return;", "thread-gone", "__syncthreads"),
    M("columns not guarded", "layer_norm", "if (c < 300) v[j] =", "if (c < 301) v[j] =", "bounds",
      "b0[blockIdx.x * 300 + c]"),
    M("one row too many", "layer_norm", "", "", "bounds", "b0[blockIdx.x * 300 + c]", (4, 1, 1)),
    M("halo: one row too far", "pool", "h < 9 &&", "h <= 9 &&", "bounds", "ld4(b0"),
    M("halo: no upper guard", "pool", "h >= 0 && h < 9 && w >= 0 && w < 9", "h >= -1 && h < 9 && w >= 0 && w < 9",
      "bounds", "ld4(b0"),
    M("channels counted in vectors", "pool", "i % 2 * 4", "i % 2 * 2", "misaligned", "ld4(b0"),
    M("outputs not guarded", "pool", "i < 100", "i < 128", "bounds"),
    M("no barrier after filling", "sgemm", "  __syncthreads();\n  for (int step", "  for (int step",
      "race-block unwritten", "ld4(&a[now]"),
    M("no barrier in the loop", "sgemm", "    __syncthreads();\n  }\n", "  }\n", "race-block unwritten", "a["),
    M("one buffer for two", "sgemm", "then = 1 - now", "then = now", "race-block race-warp", "a["),
    M("three buffers of two", "sgemm", "int now = step % 2,", "int now = step % 3,", "bounds unwritten"),
    M("products not guarded", "sgemm", "row + m < 45 && k < 20 ?", "row + m < 45 ?", "bounds", "b0["),
    M("columns not guarded", "sgemm", "&& column + tx < 52", "", "bounds race-grid race-warp race-block", "st4("),
    M("far beyond the array", "sgemm", "ld4(&b[now][k][tx])", "ld4(&b[now][k][tx + 4096 * now])", "bounds", "ld4(&b"),
    M("odd row length", "sgemm", "a, [2][8][36]", "a, [2][8][33]", "misaligned", "ld4(&a"),
    M("no guard of the fill", "sgemm", "row + m < 45 ? b0[(row + m) * 20 + k] : 0.0f;\n    b[0]",
      "b0[(row + m) * 20 + k];\n    b[0]", "bounds", "a[0][k][m]"),
    M("waits for too few", "convolution", "copy_wait<1>()", "copy_wait<2>()", "in-flight", "to_tf32"),
    M("no wait", "convolution", "    copy_wait<1>();\n", "", "in-flight", "to_tf32"),
    M("no barrier after the wait", "convolution", "copy_wait<1>();\n    __syncthreads();", "copy_wait<1>();",
      "in-flight race-block unwritten"),
    M("prefetch before the barrier", "convolution",
      "    copy_wait<1>();\n    __syncthreads();\n    int far = step + 2;", "    int far = step + 2;",
      "in-flight race-block"),
    M("two stages for three", "convolution", "far % 3 *", "far % 2 *", "race-block in-flight unwritten"),
    M("copies into the stage in use", "convolution", "int far = step + 2;", "int far = step + 3;",
      "race-block in-flight unwritten"),
    M("ends with a copy in flight", "convolution", "if (far < 9) {", "if (far < 10) {", "bounds never-waited"),
    M("never waits for the last", "convolution",
      "  for (int n = 0; n < 3; n++)\n    for (int r = 0; r < 2; r++) {\n      int",
      "  copy4(a, b0);\n  for (int n = 0; n < 3; n++)\n    for (int r = 0; r < 2; r++) {\n      int",
      "never-waited in-flight race-block race-warp"),
    M("no live rows", "convolution", "(live ? m / 25 * 392 + m / 5 % 5 * 56 + m % 5 * 8 : 0)",
      "(m / 25 * 392 + m / 5 % 5 * 56 + m % 5 * 8)", "bounds", "copy16_if"),
    M("weights of one tap too few", "convolution", "if (t < 48) copy16(b + far", "if (t < 40) copy16(b + far",
      "unwritten"),
    M("pixels not guarded", "convolution", "if (pixel < 50)", "if (pixel < 51)", "bounds", "st2("),
    M("copy of 16 bytes at 4", "convolution", "+ t % 2 * 4;", "+ t % 2;", "misaligned", "copy16_if"),
    M("launched with too little", "convolution", "", "", "shared-bytes", "SHARED_DYN", None, 1024),
    M("mma of one warp's lanes", "convolution", "    mma_tf32<1, 3>(acc, fa, fb);",
      "    if (l < 3) mma_tf32<1, 3>(acc, fa, fb);", "partial-warp", "mma_tf32"),
]  # fmt: skip


@lru_cache
def library(compiler: str) -> Library:
    """All kernels with their mistakes in one text: compiled at once. The names of number i end in i."""
    texts = [renamed(RIGHT[m.kernel].code.text.replace(m.old, m.new, 1), i) for i, m in enumerate(MISTAKES)]
    return compile_kernels("".join(texts) + "".join(r.code.text for r in RIGHT.values()), True, compiler)


def renamed(text: str, number: int) -> str:
    names = set(re.findall(r"^KERNEL\((\w+)", text, re.MULTILINE)) | set(
        re.findall(r"^INLINE float (\w+)", text, re.MULTILINE)
    )
    return re.sub(rf"\b({'|'.join(names)})\b", rf"\1_{number}", text)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("order", ["forward", "backward", 3])
@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_in_a_correct_kernel(name, order, compiler):
    right = RIGHT[name]
    arrays = right.arrays()
    library(compiler).launch(right.code, arrays, order)
    right.check(arrays)


def test_each_mistake_is_one():
    for m in MISTAKES:
        assert m.old in RIGHT[m.kernel].code.text, m.name
    assert len(MISTAKES) >= 25 and {m.kernel for m in MISTAKES} == set(RIGHT)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[f"{m.kernel}: {m.name}" for m in MISTAKES])
def test_a_mistake_is_found_and_named(number, compiler):
    mistake = MISTAKES[number]
    right = RIGHT[mistake.kernel]
    code = replace(
        right.code,
        name=f"{mistake.kernel}_{number}",
        grid=mistake.grid or right.code.grid,
        shared=right.code.shared if mistake.shared is None else mistake.shared,
    )
    with pytest.raises(CheckError) as found:
        library(compiler).launch(code, right.arrays())
    error = found.value
    assert error.kind in mistake.kinds.split(), error.text
    assert mistake.at in error.text.splitlines()[-1], error.text
    assert error.kernel == code.name and 0 <= error.thread < code.threads

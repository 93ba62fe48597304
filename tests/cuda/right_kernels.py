"""Six correct kernels as a person would write them, each with its arrays and its meaning in float64: what the shim is
tried on, and what mistakes are planted in. Sizes are ragged: no block is full."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphc.backends.cuda.emit import KernelCode


@dataclass(frozen=True)
class Right:
    """`meaning` gives the last array of `code.arguments` of all others; `shapes` has one for each of them, the bound
    of the error is `tolerance`."""

    code: KernelCode
    shapes: tuple[tuple[int, ...], ...]
    meaning: Callable[..., np.ndarray]
    tolerance: float = 1e-5

    def arrays(self) -> dict[str, np.ndarray]:
        """Normal numbers, the last array not yet written (NaN)."""
        draw = np.random.default_rng(7)
        made = [draw.standard_normal(shape, np.float32) for shape in self.shapes]
        made[-1][...] = np.nan
        return dict(zip(self.code.arguments, made, strict=True))

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        *inputs, got = (arrays[a] for a in self.code.arguments)
        wanted = self.meaning(*(a.astype(np.float64) for a in inputs))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=self.tolerance * np.abs(wanted).max())


def kernel(name: str, text: str, arguments: str, blocks: int | tuple[int, int, int], threads: int, shared: int = 0):
    grid = blocks if isinstance(blocks, tuple) else (blocks, 1, 1)
    return KernelCode(name, text, tuple(arguments.split()), grid, threads, shared)


# y = 1.5 gelu(x) + r on 1012 elements, four to a thread.
ELEMENTWISE = """
INLINE float gelu(float v) { return v * (0.5f * (1.0f + erff(v * 0.70710678f))); }

KERNEL(elementwise, 64, 4)(const float *__restrict__ b0, const float *__restrict__ b1, float *__restrict__ b2) {
  int i = blockIdx.x * 64 + threadIdx.x;
  if (i < 253) {
    float4 x = ld4(b0 + 4 * i);
    float4 r = ld4(b1 + 4 * i);
    float4 y;
    y.x = 1.5f * gelu(x.x) + r.x;
    y.y = 1.5f * gelu(x.y) + r.y;
    y.z = 1.5f * gelu(x.z) + r.z;
    y.w = 1.5f * gelu(x.w) + r.w;
    st4(b2 + 4 * i, y);
  }
}
"""


def elementwise(x, r):
    return 1.5 * x * (0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))) + r


# Softmax of 7 rows of 77, a warp a row. Lanes load and store neighbours and compute on three elements in a row.
SOFTMAX = """
KERNEL(softmax, 128, 2)(const float *__restrict__ b0, float *__restrict__ b1) {
  SHARED(float, rows, [4][96]);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int row = blockIdx.x * 4 + warp;
  bool live = row < 7;
  for (int j = lane; j < 96; j += 32) {
    float v = -INFINITY;
    if (live && j < 77) v = b0[row * 77 + j];
    rows[warp][j] = v;
  }
  __syncwarp();
  float v[3];
  for (int j = 0; j < 3; j++) v[j] = rows[warp][lane * 3 + j];
  float most = fmaxf(fmaxf(v[0], v[1]), v[2]);
  for (int m = 16; m; m /= 2) most = fmaxf(most, __shfl_xor_sync(FULL, most, m));
  float sum = 0;
  for (int j = 0; j < 3; j++) {
    v[j] = expf(v[j] - most);
    sum += v[j];
  }
  for (int m = 16; m; m /= 2) sum += __shfl_xor_sync(FULL, sum, m);
  for (int j = 0; j < 3; j++) rows[warp][lane * 3 + j] = v[j] / sum;
  __syncwarp();
  for (int j = lane; j < 77; j += 32)
    if (live) b1[row * 77 + j] = rows[warp][j];
}
"""


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# LayerNorm of 3 rows of 300, a block of four warps a row.
LAYER_NORM = """
INLINE float block_sum(float v, float *part) {
  for (int m = 16; m; m /= 2) v += __shfl_xor_sync(FULL, v, m);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  return part[0] + part[1] + part[2] + part[3];
}

KERNEL(layer_norm, 128, 2)(const float *__restrict__ b0, const float *__restrict__ b1, const float *__restrict__ b2,
                           float *__restrict__ b3) {
  SHARED(float, part, [4]);
  float v[3], sum = 0, squares = 0;
  for (int j = 0; j < 3; j++) {
    int c = threadIdx.x + 128 * j;
    v[j] = 0.0f;
    if (c < 300) v[j] = b0[blockIdx.x * 300 + c];
    sum += v[j];
  }
  float mean = block_sum(sum, part) * (1.0f / 300);
  for (int j = 0; j < 3; j++) {
    float d = threadIdx.x + 128 * j < 300 ? v[j] - mean : 0.0f;
    squares += d * d;
  }
  __syncthreads();
  float scale = rsqrtf(block_sum(squares, part) * (1.0f / 300) + 1e-5f);
  for (int j = 0; j < 3; j++) {
    int c = threadIdx.x + 128 * j;
    if (c < 300) b3[blockIdx.x * 300 + c] = (v[j] - mean) * scale * b1[c] + b2[c];
  }
}
"""


def layer_norm(x, scale, shift):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * scale + shift


# Max of 3x3, stride 2, padding 1: 2 images 9x9 of 8 channels, channels last; a thread four channels of a pixel.
POOL = """
KERNEL(pool, 64, 4)(const float *__restrict__ b0, float *__restrict__ b1) {
  int i = blockIdx.x * 64 + threadIdx.x;
  if (i < 100) {
    int c = i % 2 * 4, ow = i / 2 % 5, oh = i / 10 % 5, n = i / 50;
    float4 y = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    for (int kh = 0; kh < 3; kh++)
      for (int kw = 0; kw < 3; kw++) {
        int h = oh * 2 + kh - 1, w = ow * 2 + kw - 1;
        if (h >= 0 && h < 9 && w >= 0 && w < 9) {
          float4 x = ld4(b0 + ((n * 9 + h) * 9 + w) * 8 + c);
          y = make_float4(fmaxf(y.x, x.x), fmaxf(y.y, x.y), fmaxf(y.z, x.z), fmaxf(y.w, x.w));
        }
      }
    st4(b1 + 4 * i, y);
  }
}
"""


def pool(x):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    return np.max([padded[:, i : i + 9 : 2, j : j + 9 : 2] for i in range(3) for j in range(3)], axis=0)


# c[45,52] = a[45,20] b[20,52]: tiles 32x32x8, two of them in shared memory, 4x4 sums a thread.
SGEMM = """
KERNEL(sgemm, 64, 4)(const float *__restrict__ b0, const float *__restrict__ b1, float *__restrict__ b2) {
  SHARED(float, a, [2][8][36]);
  SHARED(float, b, [2][8][32]);
  int t = threadIdx.x, tx = t % 8 * 4, ty = t / 8 * 4;
  int row = blockIdx.y * 32, column = blockIdx.x * 32;
  float acc[4][4] = {}, next_a[4], next_b[4];
  for (int i = 0; i < 4; i++) {
    int k = t % 8, m = t / 8 + 8 * i, kb = t / 32 + 2 * i, n = t % 32;
    a[0][k][m] = row + m < 45 ? b0[(row + m) * 20 + k] : 0.0f;
    b[0][kb][n] = column + n < 52 ? b1[kb * 52 + column + n] : 0.0f;
  }
  __syncthreads();
  for (int step = 0; step < 3; step++) {
    int now = step % 2, then = 1 - now;
    if (step < 2)
      for (int i = 0; i < 4; i++) {
        int k = (step + 1) * 8 + t % 8, m = t / 8 + 8 * i, kb = (step + 1) * 8 + t / 32 + 2 * i, n = t % 32;
        next_a[i] = row + m < 45 && k < 20 ? b0[(row + m) * 20 + k] : 0.0f;
        next_b[i] = column + n < 52 && kb < 20 ? b1[kb * 52 + column + n] : 0.0f;
      }
    for (int k = 0; k < 8; k++) {
      float4 x = ld4(&a[now][k][ty]), y = ld4(&b[now][k][tx]);
      float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) acc[i][j] = fmaf(xs[i], ys[j], acc[i][j]);
    }
    if (step < 2)
      for (int i = 0; i < 4; i++) {
        a[then][t % 8][t / 8 + 8 * i] = next_a[i];
        b[then][t / 32 + 2 * i][t % 32] = next_b[i];
      }
    __syncthreads();
  }
  for (int i = 0; i < 4; i++)
    if (row + ty + i < 45 && column + tx < 52)
      st4(b2 + (row + ty + i) * 52 + column + tx, make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
}
"""


# relu(conv 3x3 + bias) in tf32: x [2, 7, 7, 8] with its halo, weights [3, 3, 8, 24], y [2, 5, 5, 24]. A block has 32
# pixels, a warp 16; a step is a tap, three of them in shared memory.
CONVOLUTION = """
KERNEL(convolution, 64, 4)(const float *__restrict__ b0, const float *__restrict__ b1, const float *__restrict__ b2,
                           float *__restrict__ b3) {
  SHARED_DYN(float, ring, 3 * (32 * 12 + 8 * 24));
  float *a = ring, *b = ring + 3 * 32 * 12;
  int t = threadIdx.x, lane = t % 32, warp = t / 32, g = lane / 4, l = lane % 4;
  int m = blockIdx.x * 32 + t / 2;
  bool live = m < 50;
  const float *x = b0 + (live ? m / 25 * 392 + m / 5 % 5 * 56 + m % 5 * 8 : 0) + t % 2 * 4;
  float acc[1][3][4] = {};
  for (int step = 0; step < 2; step++) {
    copy16_if(a + step * 384 + t / 2 * 12 + t % 2 * 4, x + step / 3 * 56 + step % 3 * 8, live);
    if (t < 48) copy16(b + step * 192 + t * 4, b1 + step * 192 + t * 4);
    copy_commit();
  }
  for (int step = 0; step < 9; step++) {
    copy_wait<1>();
    __syncthreads();
    int far = step + 2;
    if (far < 9) {
      copy16_if(a + far % 3 * 384 + t / 2 * 12 + t % 2 * 4, x + far / 3 * 56 + far % 3 * 8, live);
      if (t < 48) copy16(b + far % 3 * 192 + t * 4, b1 + far * 192 + t * 4);
    }
    copy_commit();
    const float *as = a + step % 3 * 384 + warp * 192, *bs = b + step % 3 * 192;
    unsigned fa[1][4], fb[3][2];
    for (int r = 0; r < 4; r++) fa[0][r] = to_tf32(as[(g + r % 2 * 8) * 12 + l + r / 2 * 4]);
    for (int n = 0; n < 3; n++)
      for (int r = 0; r < 2; r++) fb[n][r] = to_tf32(bs[(l + r * 4) * 24 + n * 8 + g]);
    mma_tf32<1, 3>(acc, fa, fb);
  }
  for (int n = 0; n < 3; n++)
    for (int r = 0; r < 2; r++) {
      int pixel = blockIdx.x * 32 + warp * 16 + g + r * 8, o = n * 8 + l * 2;
      float2 sum = make_float2(acc[0][n][r * 2] + b2[o], acc[0][n][r * 2 + 1] + b2[o + 1]);
      if (pixel < 50) st2(b3 + pixel * 24 + o, make_float2(fmaxf(sum.x, 0.0f), fmaxf(sum.y, 0.0f)));
    }
}
"""


def convolution(x, w, bias):
    taps = [np.einsum("nhwc,co->nhwo", x[:, i : i + 5, j : j + 5], w[i, j]) for i in range(3) for j in range(3)]
    return np.maximum(sum(taps) + bias, 0)


RIGHT = {
    r.code.name: r
    for r in (
        Right(kernel("elementwise", ELEMENTWISE, "x r y", 4, 64), ((1012,), (1012,), (1012,)), elementwise),
        Right(kernel("softmax", SOFTMAX, "x y", 2, 128), ((7, 77), (7, 77)), softmax),
        Right(
            kernel("layer_norm", LAYER_NORM, "x scale shift y", 3, 128),
            ((3, 300), (300,), (300,), (3, 300)),
            layer_norm,
        ),
        Right(kernel("pool", POOL, "x y", 2, 64), ((2, 9, 9, 8), (2, 5, 5, 8)), pool),
        Right(kernel("sgemm", SGEMM, "a b c", (2, 2, 1), 64), ((45, 20), (20, 52), (45, 52)), np.matmul),
        # Factors are rounded to 11 bits: 72 products, each wrong by 2^-11 of itself at most, seldom all one way.
        Right(
            kernel("convolution", CONVOLUTION, "x w bias y", 2, 64, 3 * (32 * 12 + 8 * 24) * 4),
            ((2, 7, 7, 8), (3, 3, 8, 24), (24,), (2, 5, 5, 24)),
            convolution,
            2**-10,
        ),
    )
}

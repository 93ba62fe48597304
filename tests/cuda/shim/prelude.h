// CUDA's language, and the names of backends/cuda/prelude.py, as plain C++: what stands before the text of kernels when
// a host compiler takes it. Threads are fibers (runtime.cc). No header is included, for libc declares names of CUDA's.
// A default argument `__builtin_LINE()` is the caller's line, the one that a report names.
//
// In a checked build the compiler calls a hook before every memory access of the kernel's text (-fsanitize=thread,
// with the hooks of runtime.cc). Functions of this header are exempt, and tell the runtime themselves what they touch.

#ifdef SHIM_CHECKED
#define INSIDE static __attribute__((noinline, unused, no_sanitize("thread")))
#else
#define INSIDE static inline __attribute__((always_inline, unused))
#endif
#define HERE int line = __builtin_LINE()

struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) {
  return {x, y, z, w};
}

extern "C" {
extern struct ShimPlace { uint3 thread, block, threads, blocks; } shim_place;
extern const int shim_checked;
void shim_barrier(int line);
void shim_collective(void (*all)(void **lanes), void *mine, unsigned mask, int line);
void *shim_shared(const char *name, unsigned long bytes, int element, int dynamic, int line);
void shim_access(const void *at, int bytes, int write, int line);
void shim_copy(void *shared, const void *global, int bytes, int live, int line);
void shim_commit();
void shim_wait(int pending, int line);
#define MATH(name) float name(float);
MATH(expf) MATH(exp2f) MATH(expm1f) MATH(logf) MATH(log2f) MATH(log1pf) MATH(tanhf) MATH(erff) MATH(sqrtf) MATH(sinf)
MATH(cosf) MATH(tanf) MATH(floorf) MATH(ceilf) MATH(truncf) MATH(rintf) MATH(roundf) MATH(fabsf)
float powf(float, float);
float fmodf(float, float);
float fmaf(float, float, float);
float fminf(float, float);
float fmaxf(float, float);
float copysignf(float, float);
}

#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define KERNEL(name, threads, blocks) extern "C" void name
#define INLINE static inline __attribute__((always_inline, unused))
#define SHARED(type, name, dims) \
  typedef type name##_array dims; \
  name##_array &name = *(name##_array *)shim_shared(#name, sizeof(name##_array), sizeof(type), 0, __LINE__)
#define SHARED_DYN(type, name, elements) \
  type *const name = (type *)shim_shared(#name, (elements) * sizeof(type), sizeof(type), 1, __LINE__)
#define FULL 0xffffffffu
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

INSIDE uint3 shim_thread() { return shim_place.thread; }
INSIDE uint3 shim_block() { return shim_place.block; }
INSIDE uint3 shim_threads() { return shim_place.threads; }
INSIDE uint3 shim_blocks() { return shim_place.blocks; }
#define threadIdx shim_thread()
#define blockIdx shim_block()
#define blockDim shim_threads()
#define gridDim shim_blocks()

// Bits and integers.
static inline int __float_as_int(float v) { return __builtin_bit_cast(int, v); }
static inline unsigned __float_as_uint(float v) { return __builtin_bit_cast(unsigned, v); }
static inline float __int_as_float(int v) { return __builtin_bit_cast(float, v); }
static inline float __uint_as_float(unsigned v) { return __builtin_bit_cast(float, v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
static inline bool isnan(float v) { return v != v; }
static inline bool isinf(float v) { return fabsf(v) == INFINITY; }
static inline bool isfinite(float v) { return fabsf(v) < INFINITY; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
template <class T> static inline T __ldg(const T *p) { return *p; }

// Memory.
template <class V, class T> INSIDE V shim_load(const T *p, int line) {
  if (shim_checked) shim_access(p, sizeof(V), 0, line);
  return *(const V *)p;
}
template <class V, class T> INSIDE void shim_store(T *p, V v, int line) {
  if (shim_checked) shim_access(p, sizeof(V), 1, line);
  *(V *)p = v;
}
static inline float2 ld2(const float *p, HERE) { return shim_load<float2>(p, line); }
static inline float4 ld4(const float *p, HERE) { return shim_load<float4>(p, line); }
static inline int4 ld4i(const int *p, HERE) { return shim_load<int4>(p, line); }
static inline uchar4 ld4b(const unsigned char *p, HERE) { return shim_load<uchar4>(p, line); }
static inline void st2(float *p, float2 v, HERE) { shim_store(p, v, line); }
static inline void st4(float *p, float4 v, HERE) { shim_store(p, v, line); }
static inline void st4i(int *p, int4 v, HERE) { shim_store(p, v, line); }
static inline void st4b(unsigned char *p, uchar4 v, HERE) { shim_store(p, v, line); }
static inline void copy4(float *shared, const float *global, HERE) { shim_copy(shared, global, 4, 1, line); }
static inline void copy16(float *shared, const float *global, HERE) { shim_copy(shared, global, 16, 1, line); }
static inline void copy4_if(float *shared, const float *global, bool live, HERE) {
  shim_copy(shared, global, 4, live, line);
}
static inline void copy16_if(float *shared, const float *global, bool live, HERE) {
  shim_copy(shared, global, 16, live, line);
}
static inline void copy_commit() { shim_commit(); }
template <int N> static inline void copy_wait(HERE) { shim_wait(N, line); }
static inline void __syncthreads(HERE) { shim_barrier(line); }

// Warp operations: every lane leaves its operands, the last one to come computes for all.
static inline void __syncwarp(unsigned mask = FULL, HERE) { shim_collective(0, 0, mask, line); }

enum ShimShuffle { SHIM_XOR, SHIM_INDEX, SHIM_UP, SHIM_DOWN };
template <class T> struct ShimLane { T value, result; int other; };
template <class T, ShimShuffle KIND> INSIDE void shim_shuffle_all(void **lanes) {
  for (int i = 0; i < 32; i++) {
    ShimLane<T> *mine = (ShimLane<T> *)lanes[i];
    int from = KIND == SHIM_XOR ? i ^ mine->other : KIND == SHIM_UP ? i - mine->other : i + mine->other;
    if (KIND == SHIM_INDEX) from = mine->other & 31;
    mine->result = ((ShimLane<T> *)lanes[from < 0 || from > 31 ? i : from])->value;
  }
}
template <ShimShuffle KIND, class T> INSIDE T shim_shuffle(unsigned mask, T value, int other, int line) {
  ShimLane<T> mine = {value, value, other};
  shim_collective(shim_shuffle_all<T, KIND>, &mine, mask, line);
  return mine.result;
}
#define SHUFFLE(name, kind) \
  template <class T> static inline T name(unsigned mask, T value, int other, HERE) { \
    return shim_shuffle<kind>(mask, value, other, line); \
  }
SHUFFLE(__shfl_sync, SHIM_INDEX)
SHUFFLE(__shfl_xor_sync, SHIM_XOR)
SHUFFLE(__shfl_up_sync, SHIM_UP)
SHUFFLE(__shfl_down_sync, SHIM_DOWN)
INSIDE void shim_ballot_all(void **lanes) {
  unsigned bits = 0;
  for (int i = 0; i < 32; i++) bits |= (*(unsigned *)lanes[i] != 0) << i;
  for (int i = 0; i < 32; i++) *(unsigned *)lanes[i] = bits;
}
INSIDE unsigned __ballot_sync(unsigned mask, int is, HERE) {
  unsigned mine = is != 0;
  shim_collective(shim_ballot_all, &mine, mask, line);
  return mine;
}
static inline int __any_sync(unsigned mask, int is, HERE) { return __ballot_sync(mask, is, line) != 0; }
static inline int __all_sync(unsigned mask, int is, HERE) { return __ballot_sync(mask, is, line) == FULL; }

// Tensor cores. cvt.rna rounds ties away from zero to 10 bits of fraction; cvt.rn.bf16 ties to even to 7.
static inline unsigned to_tf32(float v) {
  unsigned bits = __float_as_uint(v);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
static inline unsigned shim_bf16(float v) {
  unsigned bits = __float_as_uint(v);
  return v != v ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
static inline unsigned pack_bf16(float lo, float hi) { return shim_bf16(lo) | shim_bf16(hi) << 16; }

// With E elements in a register, that is 1 of tf32 (whose last 13 bits count for nothing) or 2 of bf16. Lane 4 g + t
// holds of A rows g and g + 8, of B column g, of the sums rows g and g + 8 of columns 2 t and 2 t + 1. Sums are taken
// in float32 in the order of k; the hardware's order is another.
template <int E> INSIDE float shim_element(unsigned bits, int e) {
  return __uint_as_float(E == 1 ? bits & 0xffffe000u : e ? bits & 0xffff0000u : bits << 16);
}
template <int M, int N, int E> struct ShimTile {
  float (*acc)[N][4];
  const unsigned (*a)[4], (*b)[2];
  __attribute__((no_sanitize("thread"))) static void all(void **lanes) {
    float a[M * 16][8 * E], b[8 * E][N * 8], c[M * 16][N * 8];
    for (int lane = 0; lane < 32; lane++) {
      ShimTile *its = (ShimTile *)lanes[lane];
      int g = lane >> 2, t = lane & 3;
      for (int m = 0; m < M; m++)
        for (int r = 0; r < 4; r++)
          for (int e = 0; e < E; e++)
            a[m * 16 + g + 8 * (r & 1)][((r >> 1) * 4 + t) * E + e] = shim_element<E>(its->a[m][r], e);
      for (int n = 0; n < N; n++)
        for (int r = 0; r < 2; r++)
          for (int e = 0; e < E; e++) b[(r * 4 + t) * E + e][n * 8 + g] = shim_element<E>(its->b[n][r], e);
      for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
          for (int r = 0; r < 4; r++) c[m * 16 + g + 8 * (r >> 1)][n * 8 + 2 * t + (r & 1)] = its->acc[m][n][r];
    }
    for (int m = 0; m < M * 16; m++)
      for (int k = 0; k < 8 * E; k++)
        for (int n = 0; n < N * 8; n++) c[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++) {
      ShimTile *its = (ShimTile *)lanes[lane];
      int g = lane >> 2, t = lane & 3;
      for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
          for (int r = 0; r < 4; r++) its->acc[m][n][r] = c[m * 16 + g + 8 * (r >> 1)][n * 8 + 2 * t + (r & 1)];
    }
  }
};
#define MMA(name, elements) \
  template <int M, int N> \
  static inline void name(float (&acc)[M][N][4], const unsigned (&a)[M][4], const unsigned (&b)[N][2], HERE) { \
    ShimTile<M, N, elements> mine = {acc, a, b}; \
    shim_collective(ShimTile<M, N, elements>::all, &mine, FULL, line); \
  }
MMA(mma_tf32, 1)
MMA(mma_bf16, 2)

// Launching: one entry per kernel, which takes its pointers from an array, and one that tells of a parameter
// the bytes of an element, plus 256 where it is const, or -1 beyond the last.
template <int... I> struct ShimIndices {};
template <int N, int... I> struct ShimCount : ShimCount<N - 1, N - 1, I...> {};
template <int... I> struct ShimCount<0, I...> { typedef ShimIndices<I...> type; };
template <class T> struct ShimParameter;
template <class T> struct ShimParameter<T *> { enum { is = sizeof(T) }; };
template <class T> struct ShimParameter<const T *> { enum { is = sizeof(T) + 256 }; };
template <class... A, int... I>
__attribute__((no_sanitize("thread"))) static void shim_call(void (*kernel)(A...), void **with, ShimIndices<I...>) {
  kernel((A)with[I]...);
}
template <class... A> __attribute__((no_sanitize("thread"))) static void shim_enter(void (*kernel)(A...), void **with) {
  shim_call(kernel, with, typename ShimCount<sizeof...(A)>::type());
}
template <class... A> __attribute__((no_sanitize("thread"))) static int shim_parameter(void (*)(A...), int i) {
  const int all[] = {ShimParameter<A>::is..., -1};
  return all[i];
}
#define ENTRY extern "C" __attribute__((no_sanitize("thread"), visibility("default")))
#define SHIM_ENTRY(name) \
  ENTRY void name##_enter(void **with) { shim_enter(name, with); } \
  ENTRY int name##_parameter(int i) { return shim_parameter(name, i); }

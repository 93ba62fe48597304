"""The text before every module that NVRTC compiles: the few names that emitted kernels use beside CUDA's own.

No header is included: they would cost more time than the kernels. The same names stand, with their meaning in plain
C++, in tests/cuda/shim/prelude.h, so that the very text of a kernel also runs on a CPU.

    KERNEL(name, threads, blocks)(parameters) {...}   blocks: how many shall fit on a multiprocessor
    SHARED(type, name, [dims])                        a shared array
    SHARED_DYN(type, name, elements)                  the one array whose bytes are given at the launch
    ld2 ld4 st2 st4 ld4i st4i ld4b st4b               8 and 16 bytes at once, or 4 of a byte each; aligned to their size
    copy4 copy16 copy4_if copy16_if                   asynchronous copies from global to shared memory of 4 or 16 bytes;
                                                      zeros where not live, and then `global` must be an address still
    copy_commit() copy_wait<N>()                      closes a group of copies; waits for all but the last N groups
    mma_tf32<M, N> mma_bf16<M, N>                     acc += a b on tiles of 16 M rows and 8 N columns, over 8 or 16
                                                      products; fragments as PTX lays out m16n8k8 and m16n8k16
"""

DEVICE = r"""
#define KERNEL(name, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define SHARED_DYN(type, name, elements) \
  extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
  type *const name = reinterpret_cast<type *>(dynamic_shared)
#define FULL 0xffffffffu
#define INLINE static __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)

INLINE float2 ld2(const float *p) { return *reinterpret_cast<const float2 *>(p); }
INLINE float4 ld4(const float *p) { return *reinterpret_cast<const float4 *>(p); }
INLINE int4 ld4i(const int *p) { return *reinterpret_cast<const int4 *>(p); }
INLINE uchar4 ld4b(const unsigned char *p) { return *reinterpret_cast<const uchar4 *>(p); }
INLINE void st2(float *p, float2 v) { *reinterpret_cast<float2 *>(p) = v; }
INLINE void st4(float *p, float4 v) { *reinterpret_cast<float4 *>(p) = v; }
INLINE void st4i(int *p, int4 v) { *reinterpret_cast<int4 *>(p) = v; }
INLINE void st4b(unsigned char *p, uchar4 v) { *reinterpret_cast<uchar4 *>(p) = v; }

INLINE void copy4_if(float *shared, const float *global, bool live) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(live ? 4 : 0) : "memory");
}
INLINE void copy16_if(float *shared, const float *global, bool live) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(live ? 16 : 0) : "memory");
}
INLINE void copy4(float *shared, const float *global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global)) : "memory");
}
INLINE void copy16(float *shared, const float *global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global)) : "memory");
}
INLINE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> INLINE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

INLINE unsigned to_tf32(float v) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}
INLINE unsigned pack_bf16(float lo, float hi) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(hi), "f"(lo));
  return bits;
}
#define MMA(name, shape, types) \
  template <int M, int N> \
  INLINE void name(float (&acc)[M][N][4], const unsigned (&a)[M][4], const unsigned (&b)[N][2]) { \
    _Pragma("unroll") for (int m = 0; m < M; m++) \
      _Pragma("unroll") for (int n = 0; n < N; n++) \
        asm volatile("mma.sync.aligned." shape ".row.col." types \
                     " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                     : "+f"(acc[m][n][0]), "+f"(acc[m][n][1]), "+f"(acc[m][n][2]), "+f"(acc[m][n][3]) \
                     : "r"(a[m][0]), "r"(a[m][1]), "r"(a[m][2]), "r"(a[m][3]), "r"(b[n][0]), "r"(b[n][1])); \
  }
MMA(mma_tf32, "m16n8k8", "f32.tf32.tf32.f32")
MMA(mma_bf16, "m16n8k16", "f32.bf16.bf16.f32")
#line 1 "kernels.cu"
""".lstrip()

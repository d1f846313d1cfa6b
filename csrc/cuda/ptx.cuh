// The instructions that C++ cannot express: matrix products of a warp, asynchronous copies, matrix loads.
//
// Fragment layouts, with lane = 4 g + t (g = 0…7, t = 0…3); (row, column), and "2t…" for 2t and 2t + 1, two values in
// one register with the lower index in the low half:
//
//   C, D  16×8 float      c[0], c[1]: (g, 2t), (g, 2t + 1)    c[2], c[3]: (g + 8, 2t), (g + 8, 2t + 1)
//   m16n8k16, 16-bit
//     A  16×16            a[0]: (g, 2t…)   a[1]: (g + 8, 2t…)   a[2]: (g, 2t + 8…)   a[3]: (g + 8, 2t + 8…)
//     B  16×8             b[0]: (2t…, g)   b[1]: (2t + 8…, g)
//   m16n8k8, TF32
//     A  16×8             a[0]: (g, t)     a[1]: (g + 8, t)     a[2]: (g, t + 4)     a[3]: (g + 8, t + 4)
//     B  8×8              b[0]: (t, g)     b[1]: (t + 4, g)
//
// So load_matrices on the four 8×8 quarters of a row-major A, in the order upper left, lower left, upper right, lower
// right, gives a[0…3]; B takes the same load from its transpose (N×K, row-major), or the transposed one from K×N.
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k8 / m16n8k16".
#ifndef MOLKERNELS_PTX_CUH
#define MOLKERNELS_PTX_CUH

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/tensor.h"

#define MK_DEVICE __device__ __forceinline__

namespace molkernels {

// The block's dynamic shared memory, 16-byte aligned.
MK_DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char molkernels_shared[];
  return molkernels_shared;
}

MK_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory (both 16-byte aligned), asynchronously; zeros where !valid (then `from` is not
// read).
MK_DEVICE void copy_async16(void* to, const void* from, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
}
// 4 bytes (both 4-byte aligned).
MK_DEVICE void copy_async4(void* to, const void* from, bool valid = true) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
}
MK_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;\n"); }
// Wait until at most `Pending` of this thread's committed groups are still in flight; the groups of other threads need
// a __syncthreads() after it.
template <int Pending>
MK_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

// Four 8×8 matrices of 16-bit values; lanes 8i … 8i+7 give the addresses (16-byte aligned) of the rows of matrix i.
// r[i]: of matrix i, row lane/4, columns 2(lane%4) and the next one; with `transposed`, of its transpose.
MK_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
MK_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += A B for one warp.
MK_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
MK_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
MK_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A float rounded to TF32's 10 bits of mantissa (nearest, ties away), as mma_tf32 expects it.
MK_DEVICE uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
  return bits;
}

}  // namespace molkernels

#endif  // MOLKERNELS_PTX_CUH

// Index arithmetic shared by the CPU and the CUDA kernels; tests/csrc/test_common.py runs it on the CPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MK_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MK_HOST_DEVICE inline
#endif

namespace molkernels {

// ⌈a / b⌉ for a ≥ 0, b > 0.
template <class I>
MK_HOST_DEVICE constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

// (i + t) mod length for 0 ≤ i, t < length, without a division.
MK_HOST_DEVICE constexpr int circular(int i, int t, int length) {
  const int sum = i + t;
  return sum < length ? sum : sum - length;
}

}  // namespace molkernels

// Replacement for csrc/cuda/ptx.cuh: the same functions, with the layouts given there.
#ifndef MOLKERNELS_PTX_CUH
#define MOLKERNELS_PTX_CUH

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "common/tensor.h"

#define MK_DEVICE __device__ __forceinline__

namespace molkernels {

inline unsigned char* dynamic_shared() { return emulator::dynamic_shared(); }

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - dynamic_shared());
}

inline void copy_async16(void* to, const void* from, bool valid = true, MK_HERE_PARAMETER) {
  emulator::copy_begin(to, from, 16, valid, site);
}
inline void copy_async4(void* to, const void* from, bool valid = true, MK_HERE_PARAMETER) {
  emulator::copy_begin(to, from, 4, valid, site);
}
inline void copy_async_commit() { emulator::copy_commit(); }
template <int Pending>
void copy_async_wait() {
  emulator::copy_wait(Pending);
}

namespace emulator {

struct MatrixRow {
  uint32_t* r;
  const unsigned char* row;
};

inline uint32_t pair_at(const unsigned char* low, const unsigned char* high) {
  uint16_t halves[2];
  std::memcpy(&halves[0], low, 2);
  std::memcpy(&halves[1], high, 2);
  return halves[0] | uint32_t(halves[1]) << 16;
}

template <bool Transposed>
void load_matrices(void* const* lanes) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto row = [&](int i) { return static_cast<MatrixRow*>(lanes[8 * matrix + i])->row; };
    for (int lane = 0; lane < 32; ++lane) {
      const int first = lane / 4, second = 2 * (lane % 4);
      const unsigned char* low = Transposed ? row(second) + 2 * first : row(first) + 2 * second;
      const unsigned char* high = Transposed ? row(second + 1) + 2 * first : low + 2;
      static_cast<MatrixRow*>(lanes[lane])->r[matrix] = pair_at(low, high);
    }
  }
}

template <bool Transposed>
void load_matrices_from(uint32_t (&r)[4], const void* row, Site site) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail(site, "the row of a matrix is not 16-byte aligned");
  if (!in_shared(row, 16)) fail(site, "the row of a matrix lies outside shared memory");
  MatrixRow mine{r, static_cast<const unsigned char*>(row)};
  warp_collective(&load_matrices<Transposed>, &mine, site);
}

struct Product {
  float* c;
  const uint32_t *a, *b;
};

struct Bf16 {
  static constexpr int depth = 16;
  static float low(uint32_t bits) { return bits_of<float>(bits << 16); }
  static float high(uint32_t bits) { return bits_of<float>(bits & 0xffff0000u); }
};
struct F16 {
  static constexpr int depth = 16;
  static float value(uint32_t bits) { return static_cast<float>(Half(uint16_t(bits), Half::from_bits())); }
  static float low(uint32_t bits) { return value(bits & 0xffff); }
  static float high(uint32_t bits) { return value(bits >> 16); }
};
// The tensor core reads only the upper 19 bits.
struct Tf32 {
  static constexpr int depth = 8;
  static float low(uint32_t bits) { return bits_of<float>(bits & 0xffffe000u); }
};

// One 16 × 8 product: sums in double, rounded once (the hardware's sum is slightly less accurate).
template <class Format>
void multiply(void* const* lanes) {
  constexpr int depth = Format::depth;
  double a[16][depth], b[depth][8], c[16][8];
  const auto of = [&](int lane) { return static_cast<const Product*>(lanes[lane]); };
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i % 2);
      if constexpr (depth == 16) {
        a[row][2 * t + 8 * (i / 2)] = Format::low(of(lane)->a[i]);
        a[row][2 * t + 8 * (i / 2) + 1] = Format::high(of(lane)->a[i]);
      } else {
        a[row][t + 4 * (i / 2)] = Format::low(of(lane)->a[i]);
      }
      c[g + 8 * (i / 2)][2 * t + i % 2] = of(lane)->c[i];
    }
    for (int i = 0; i < 2; ++i) {
      if constexpr (depth == 16) {
        b[2 * t + 8 * i][g] = Format::low(of(lane)->b[i]);
        b[2 * t + 8 * i + 1][g] = Format::high(of(lane)->b[i]);
      } else {
        b[t + 4 * i][g] = Format::low(of(lane)->b[i]);
      }
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < depth; ++k)
      for (int column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) of(lane)->c[i] = float(c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
}

template <class Format>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  Product mine{c, a, b};
  warp_collective(&multiply<Format>, &mine, site);
}

}  // namespace emulator

inline void load_matrices(uint32_t (&r)[4], const void* row, MK_HERE_PARAMETER) {
  emulator::load_matrices_from<false>(r, row, site);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row, MK_HERE_PARAMETER) {
  emulator::load_matrices_from<true>(r, row, site);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], MK_HERE_PARAMETER) {
  emulator::mma<emulator::Bf16>(c, a, b, site);
}
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], MK_HERE_PARAMETER) {
  emulator::mma<emulator::F16>(c, a, b, site);
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], MK_HERE_PARAMETER) {
  emulator::mma<emulator::Tf32>(c, a, b, site);
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = emulator::bits_of<uint32_t>(value);
  if (value != value) return 0x7fffffffu;
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace molkernels

#endif

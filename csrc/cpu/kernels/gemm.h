// A register-tiled matrix product: kRows × kColumns outputs at a time, every operand read in place.
//
//   tile[r][v] += Σ_k a[k · stride + r] · row(k)[v]
//
// `a` is a packed panel (kRows values of one k side by side, broadcast one by one); `row(k)` returns the address of
// kColumns values: rows of a matrix, or rows selected by a graph, so that a gather needs no copy. FLOPs: 2 · kRows ·
// kColumns per step of k, on kRows · 2 registers; loads: 2 vectors and kRows broadcasts.
#pragma once

#include "simd.h"

namespace molkernels {
namespace MK_ISA {

// 12 accumulators in 16 registers; AVX-512 and AArch64 have 32 registers.
#if defined(__aarch64__)
inline constexpr int kRows = 12;
#else
inline constexpr int kRows = MK_VECTOR_BYTES == 64 ? 12 : 6;
#endif
inline constexpr int kVectors = 2;
template <class W>
inline constexpr int kColumns = kVectors * lanes<W>;

template <class W>
struct Tile {
  Vec<W> v[kRows][kVectors];
};

template <class W, class Row>
static inline __attribute__((always_inline)) Tile<W> multiply(const W* a, int64_t stride, int64_t depth, Row row) {
  Tile<W> tile = {};
  for (int64_t k = 0; k < depth; ++k) {
    const W* b = row(k);
    const Vec<W> b0 = load(b), b1 = load(b + lanes<W>);
    const W* ak = a + k * stride;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<W> broadcast_a = broadcast(ak[r]);
      tile.v[r][0] += broadcast_a * b0;
      tile.v[r][1] += broadcast_a * b1;
    }
  }
  return tile;
}

// The same with a(r, k) = a[r][k]: rows in place instead of a panel.
template <class W, class Row>
static inline __attribute__((always_inline)) Tile<W> multiply_rows(const W* const (&a)[kRows], int64_t depth, Row row) {
  Tile<W> tile = {};
  for (int64_t k = 0; k < depth; ++k) {
    const W* b = row(k);
    const Vec<W> b0 = load(b), b1 = load(b + lanes<W>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<W> broadcast_a = broadcast(a[r][k]);
      tile.v[r][0] += broadcast_a * b0;
      tile.v[r][1] += broadcast_a * b1;
    }
  }
  return tile;
}

// Panels of `height` rows of a matrix, transposed: out[panel][k][r] = m[(panel · height + r) · row_stride + k ·
// column_stride], zero beyond the last row. Panels [begin, end).
template <class T>
static void pack_panels(const T* m, int64_t rows, int64_t depth, int64_t row_stride, int64_t column_stride, int height,
                        wide<T>* out, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    wide<T>* to = out + panel * depth * height;
    const int64_t left = rows - panel * height;
    const int count = left < height ? int(left) : height;
    const T* from = m + panel * height * row_stride;
    for (int64_t k = 0; k < depth; ++k) {
      for (int r = 0; r < count; ++r) to[k * height + r] = to_wide(from[r * row_stride + k * column_stride]);
      for (int r = count; r < height; ++r) to[k * height + r] = 0;
    }
  }
}

}  // namespace MK_ISA
}  // namespace molkernels

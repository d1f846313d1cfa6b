// Circular correlations along the rows and along the columns of a small map that lies in scratch memory.
//
// An even length L = 2h is halved: x^L − 1 = (x^h − 1)(x^h + 1), so with s = u[:h] + u[h:] and d = u[:h] − u[h:]
//   y[i] = p[i] + q[i],  y[i + h] = p[i] − q[i],
//   p = s correlated circularly with (w[:h] + w[h:]) / 2,
//   q = d correlated with (w[:h] − w[h:]) / 2, entries that pass the end changing sign,
// which takes half the products. Both axes may be halved: the map is then kept as [s; d] along its rows and as [s | d]
// along its columns, all correlations and their adjoints act on these blocks, and only entering and leaving this form
// takes additions. It is its own adjoint but for the factors of 2: Σ u·v over a map is Σ u'·v' over the halved maps
// divided by 2 an axis.
#pragma once

#include "simd.h"

namespace molkernels {
namespace MK_ISA {

#define MK_INLINE static inline __attribute__((always_inline))

inline constexpr int kMaxSide = 64;
inline constexpr int kMaxArea = kMaxSide * kMaxSide;

// How a map lies in scratch memory: `height` rows of `stride` values, each axis in one or two blocks.
template <class W>
struct Layout {
  int height, width;
  int row_blocks, block_height;
  int column_blocks, block_width;
  int block_vectors;  // of a block's width, rounded up
  int stride;

  int vectors() const { return column_blocks * block_vectors; }
};

template <class W>
MK_INLINE constexpr Layout<W> make_layout(int height, int width) {
  const int row_blocks = height % 2 == 0 ? 2 : 1;
  const int column_blocks = width % (2 * lanes<W>) == 0 ? 2 : 1;  // blocks of whole vectors only
  const int block_width = width / column_blocks;
  const int block_vectors = (block_width + lanes<W> - 1) / lanes<W>;
  return {height,        width,       row_blocks,    height / row_blocks,
          column_blocks, block_width, block_vectors, column_blocks * block_vectors * lanes<W>};
}

// One axis' kernel for its one or two blocks, as matrices of constant diagonals: M[i][m] = forward(block)[m − i] and
// Mᵀ[i][m] = adjoint(block)[m − i], the differences reaching from −63 to 63 and zero beyond.
template <class W>
struct CircularKernel {
  static constexpr int kReach = kMaxSide + lanes<W>;
  W forward_[2][2 * kReach];
  W adjoint_[2][2 * kReach];

  const W* forward(int block) const { return forward_[block] + kReach; }
  const W* adjoint(int block) const { return adjoint_[block] + kReach; }
};

template <class T, class W>
MK_INLINE void make_kernel(const T* weight, int blocks, int length, CircularKernel<W>& kernel) {
  constexpr int reach = CircularKernel<W>::kReach;
  std::memset(&kernel, 0, sizeof kernel);
  for (int block = 0; block < blocks; ++block) {
    const W wrapped = block == 0 ? W(1) : W(-1);
    for (int t = 0; t < length; ++t) {
      W value = to_wide(weight[t]);
      if (blocks == 2) value = (value + wrapped * to_wide(weight[t + length])) / 2;
      kernel.forward_[block][reach + t] = kernel.adjoint_[block][reach - t] = value;
      if (t > 0)
        kernel.forward_[block][reach + t - length] = kernel.adjoint_[block][reach + length - t] = wrapped * value;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// y = M u for the rows of one block: y[i] = Σ_m kernel[m − i] · u[m], rows being vectors.

template <class W, int kRows, int kVectors>
MK_INLINE void correlate_rows_tile(const W* kernel, const W* u, W* y, int i, int length, int stride) {
  Vec<W> sum[kRows][kVectors] = {};
  for (int m = 0; m < length; ++m) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<W> weight = broadcast(kernel[m - i - r]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] += weight * load(u + m * stride + v * lanes<W>);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store<W>(y + (i + r) * stride + v * lanes<W>, sum[r][v]);
  }
}

template <class W, int kRows, int kVectors>
MK_INLINE void correlate_rows_strip(const W* kernel, const W* u, W* y, int i, int length, int stride) {
  for (; i + kRows <= length; i += kRows) correlate_rows_tile<W, kRows, kVectors>(kernel, u, y, i, length, stride);
  if constexpr (kRows > 1) correlate_rows_strip<W, kRows / 2, kVectors>(kernel, u, y, i, length, stride);
}

template <class W>
MK_INLINE void correlate_rows(const W* kernel, const W* u, W* y, int length, int vectors, int stride) {
  int v = 0;
  for (; v + 2 <= vectors; v += 2) {
    correlate_rows_strip<W, 4, 2>(kernel, u + v * lanes<W>, y + v * lanes<W>, 0, length, stride);
  }
  if (v < vectors) correlate_rows_strip<W, 8, 1>(kernel, u + v * lanes<W>, y + v * lanes<W>, 0, length, stride);
}

// ---------------------------------------------------------------------------------------------------------------
// y = u Mᵀ for the columns of one block, `count` rows: y[j] = Σ_m u[m] · mirrored[j − m], where mirrored[j − m] is
// M[j][m]: `adjoint` of a kernel for the correlation itself, `forward` for its adjoint.

template <class W, int kRows, int kVectors>
MK_INLINE void correlate_columns_tile(const W* mirrored, const W* u, W* y, int length, int stride) {
  Vec<W> sum[kRows][kVectors] = {};
  for (int m = 0; m < length; ++m) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<W> value = broadcast(u[r * stride + m]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] += value * load(mirrored - m + v * lanes<W>);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store<W>(y + r * stride + v * lanes<W>, sum[r][v]);
  }
}

template <class W, int kRows, int kVectors>
MK_INLINE void correlate_columns_strip(const W* mirrored, const W* u, W* y, int i, int j, int length, int count,
                                       int stride) {
  for (; i + kRows <= count; i += kRows) {
    correlate_columns_tile<W, kRows, kVectors>(mirrored + j, u + i * stride, y + i * stride + j, length, stride);
  }
  if constexpr (kRows > 1) {
    correlate_columns_strip<W, kRows / 2, kVectors>(mirrored, u, y, i, j, length, count, stride);
  }
}

template <class W>
MK_INLINE void correlate_columns(const W* mirrored, const W* u, W* y, int length, int vectors, int count, int stride) {
  int v = 0;
  for (; v + 2 <= vectors; v += 2) {
    correlate_columns_strip<W, 4, 2>(mirrored, u, y, 0, v * lanes<W>, length, count, stride);
  }
  if (v < vectors) correlate_columns_strip<W, 8, 1>(mirrored, u, y, 0, v * lanes<W>, length, count, stride);
}

// ---------------------------------------------------------------------------------------------------------------
// All blocks of a map.

template <class W>
MK_INLINE void correlate_rows(const Layout<W>& l, const CircularKernel<W>& kernel, bool adjoint, const W* u, W* y) {
  for (int b = 0; b < l.row_blocks; ++b) {
    const int first = b * l.block_height * l.stride;
    const W* centre = adjoint ? kernel.adjoint(b) : kernel.forward(b);
    correlate_rows(centre, u + first, y + first, l.block_height, l.vectors(), l.stride);
  }
}

template <class W>
MK_INLINE void correlate_columns(const Layout<W>& l, const CircularKernel<W>& kernel, bool adjoint, const W* u, W* y) {
  for (int b = 0; b < l.column_blocks; ++b) {
    const int first = b * l.block_width;
    const W* mirrored = adjoint ? kernel.forward(b) : kernel.adjoint(b);
    correlate_columns(mirrored, u + first, y + first, l.block_width, l.block_vectors, l.height, l.stride);
  }
}

template <class W>
MK_INLINE void butterfly(Vec<W>& a, Vec<W>& b) {
  const Vec<W> difference = a - b;
  a = a + b;
  b = difference;
}

// Visit the vectors that halving combines: f(i, j, q) for rows i and i + h, columns j and j + w, where q[2][2] is to be
// filled or used; entries of blocks that are not there are left alone.
template <class W, class F>
MK_INLINE void for_each_quad(const Layout<W>& l, F&& f) {
  for (int i = 0; i < l.block_height; ++i) {
    for (int v = 0; v < l.block_vectors; ++v) f(i, v * lanes<W>);
  }
}

// Enter the halved form: tile[i][j] from value(i, j), the vector of the map at row i and column j.
template <class W, class F>
MK_INLINE void enter(const Layout<W>& l, W* tile, F&& value) {
  const bool two_rows = l.row_blocks == 2, two_columns = l.column_blocks == 2;
  for_each_quad(l, [&](int i, int j) __attribute__((always_inline)) {
    const int below = i + l.block_height, right = j + l.block_width;
    Vec<W> q00 = value(i, j), q01{}, q10{}, q11{};
    if (two_columns) q01 = value(i, right);
    if (two_rows) q10 = value(below, j);
    if (two_rows && two_columns) q11 = value(below, right);
    if (two_columns) butterfly<W>(q00, q01), butterfly<W>(q10, q11);
    if (two_rows) butterfly<W>(q00, q10), butterfly<W>(q01, q11);
    store<W>(tile + i * l.stride + j, q00);
    if (two_columns) store<W>(tile + i * l.stride + right, q01);
    if (two_rows) store<W>(tile + below * l.stride + j, q10);
    if (two_rows && two_columns) store<W>(tile + below * l.stride + right, q11);
  });
}

// Leave it: take(i, j, vector) for each vector of the map.
template <class W, class F>
MK_INLINE void leave(const Layout<W>& l, const W* tile, F&& take) {
  const bool two_rows = l.row_blocks == 2, two_columns = l.column_blocks == 2;
  for_each_quad(l, [&](int i, int j) __attribute__((always_inline)) {
    const int below = i + l.block_height, right = j + l.block_width;
    Vec<W> q00 = load(tile + i * l.stride + j), q01{}, q10{}, q11{};
    if (two_columns) q01 = load(tile + i * l.stride + right);
    if (two_rows) q10 = load(tile + below * l.stride + j);
    if (two_rows && two_columns) q11 = load(tile + below * l.stride + right);
    if (two_columns) butterfly<W>(q00, q01), butterfly<W>(q10, q11);
    if (two_rows) butterfly<W>(q00, q10), butterfly<W>(q01, q11);
    take(i, j, q00);
    if (two_columns) take(i, right, q01);
    if (two_rows) take(below, j, q10);
    if (two_rows && two_columns) take(below, right, q11);
  });
}

}  // namespace MK_ISA
}  // namespace molkernels

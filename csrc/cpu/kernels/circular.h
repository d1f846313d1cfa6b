// Circular correlations along the rows and along the columns of a small map in scratch memory.
//
// An even length L = 2h is halved: x^L − 1 = (x^h − 1)(x^h + 1), so with s = u[:h] + u[h:] and d = u[:h] − u[h:]
//   y[i] = p[i] + q[i],  y[i + h] = p[i] − q[i],
//   p = s correlated circularly with (w[:h] + w[h:]) / 2,
//   q = d correlated with (w[:h] − w[h:]) / 2, entries that pass the end changing sign,
// which needs half the products. Both axes may be halved: the map is then stored as [s; d] along its rows and [s | d]
// along its columns, all correlations and their adjoints act on these blocks, and only entering and leaving this form
// needs additions. Σ u·v over a map is Σ u'·v' over the halved maps, divided by 2 for each halved axis: of two maps
// multiplied in this way, one is an output of the correlation along that axis, whose kernels include the factor 1/2.
#pragma once

#include "simd.h"

namespace molkernels {
namespace MK_ISA {
namespace {

#define MK_INLINE static inline __attribute__((always_inline))

inline constexpr int kMaxSide = 64;
inline constexpr int kMaxArea = kMaxSide * kMaxSide;

// The layout of a map in scratch memory: rows of `stride` values, each axis in one or two blocks. A side of 0 is known
// only at run time.
template <class W_, int kHeight, int kWidth>
struct Layout {
  using W = W_;
  int any_height, any_width;

  constexpr int height() const { return kHeight ? kHeight : any_height; }
  constexpr int width() const { return kWidth ? kWidth : any_width; }
  constexpr int row_blocks() const { return height() % 2 == 0 ? 2 : 1; }
  constexpr int block_height() const { return height() / row_blocks(); }
  // Blocks of whole vectors only.
  constexpr int column_blocks() const { return width() % (2 * lanes<W>) == 0 ? 2 : 1; }
  constexpr int block_width() const { return width() / column_blocks(); }
  constexpr int block_vectors() const { return (block_width() + lanes<W> - 1) / lanes<W>; }
  constexpr int vectors() const { return column_blocks() * block_vectors(); }
  constexpr int stride() const { return vectors() * lanes<W>; }
  // The number of values of the vector at column j that belong to the map.
  constexpr int valid(int j) const { return width() % lanes<W> == 0 ? lanes<W> : width() - j; }
};

// The kernel of one axis for its one or two blocks, as Toeplitz matrices: M[i][m] = forward(block)[m − i] and
// Mᵀ[i][m] = adjoint(block)[m − i], for differences of less than the block's length and zero a vector beyond.
template <class W>
struct CircularKernel {
  static constexpr int kReach = kMaxSide + lanes<W>;
  W forward_[2][2 * kReach];
  W adjoint_[2][2 * kReach];

  const W* forward(int block) const { return forward_[block] + kReach; }
  const W* adjoint(int block) const { return adjoint_[block] + kReach; }
};

template <class T, class W>
void make_kernel(const T* weight, int blocks, int length, CircularKernel<W>& kernel) {
  constexpr int reach = CircularKernel<W>::kReach;
  // Only what is read: clearing all of a `CircularKernel` costs more than filling it for a small map.
  const int cleared = length + lanes<W>;
  for (int block = 0; block < blocks; ++block) {
    std::memset(kernel.forward_[block] + reach - cleared, 0, sizeof(W) * size_t(2 * cleared));
    std::memset(kernel.adjoint_[block] + reach - cleared, 0, sizeof(W) * size_t(2 * cleared));
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
// All blocks of a map. These are separate functions, one per layout: all dtypes with the same arithmetic share them.

// The blocks of u are `pitch` rows apart.
template <class L, class W = typename L::W>
void correlate_rows(L l, const CircularKernel<W>& kernel, bool adjoint, const W* u, int pitch, W* y) {
  for (int b = 0; b < l.row_blocks(); ++b) {
    const W* centre = adjoint ? kernel.adjoint(b) : kernel.forward(b);
    correlate_rows(centre, u + b * pitch * l.stride(), y + b * l.block_height() * l.stride(), l.block_height(),
                   l.vectors(), l.stride());
  }
}

template <class L, class W = typename L::W>
void correlate_columns(L l, const CircularKernel<W>& kernel, bool adjoint, const W* u, W* y) {
  for (int b = 0; b < l.column_blocks(); ++b) {
    const int first = b * l.block_width();
    const W* mirrored = adjoint ? kernel.forward(b) : kernel.adjoint(b);
    correlate_columns(mirrored, u + first, y + first, l.block_width(), l.block_vectors(), l.height(), l.stride());
  }
}

template <class W>
MK_INLINE void butterfly(Vec<W>& a, Vec<W>& b) {
  const Vec<W> difference = a - b;
  a = a + b;
  b = difference;
}

// Visit the vectors that halving combines: f(i, j, q) for rows i and i + h, columns j and j + w, where f fills or uses
// q[2][2]; entries of missing blocks are not touched.
template <class L, class F>
MK_INLINE void for_each_quad(L l, F&& f) {
  for (int i = 0; i < l.block_height(); ++i) {
    for (int v = 0; v < l.block_vectors(); ++v) f(i, v * lanes<typename L::W>);
  }
}

// Enter the halved form: a tile, its row blocks `pitch` rows apart, from value(i, j), the vector at row i, column j.
template <class L, class F, class W = typename L::W>
MK_INLINE void enter(L l, W* tile, int pitch, F&& value) {
  const bool two_rows = l.row_blocks() == 2, two_columns = l.column_blocks() == 2;
  for_each_quad(l, [&](int i, int j) __attribute__((always_inline)) {
    const int below = i + l.block_height(), right = j + l.block_width();
    Vec<W> q00 = value(i, j), q01{}, q10{}, q11{};
    if (two_columns) q01 = value(i, right);
    if (two_rows) q10 = value(below, j);
    if (two_rows && two_columns) q11 = value(below, right);
    if (two_columns) butterfly<W>(q00, q01), butterfly<W>(q10, q11);
    if (two_rows) butterfly<W>(q00, q10), butterfly<W>(q01, q11);
    store<W>(tile + i * l.stride() + j, q00);
    if (two_columns) store<W>(tile + i * l.stride() + right, q01);
    if (two_rows) store<W>(tile + (i + pitch) * l.stride() + j, q10);
    if (two_rows && two_columns) store<W>(tile + (i + pitch) * l.stride() + right, q11);
  });
}

// Leave it: take(i, j, vector) for each vector of the map.
template <class L, class F, class W = typename L::W>
MK_INLINE void leave(L l, const W* tile, F&& take) {
  const bool two_rows = l.row_blocks() == 2, two_columns = l.column_blocks() == 2;
  for_each_quad(l, [&](int i, int j) __attribute__((always_inline)) {
    const int below = i + l.block_height(), right = j + l.block_width();
    Vec<W> q00 = load(tile + i * l.stride() + j), q01{}, q10{}, q11{};
    if (two_columns) q01 = load(tile + i * l.stride() + right);
    if (two_rows) q10 = load(tile + below * l.stride() + j);
    if (two_rows && two_columns) q11 = load(tile + below * l.stride() + right);
    if (two_columns) butterfly<W>(q00, q01), butterfly<W>(q10, q11);
    if (two_rows) butterfly<W>(q00, q10), butterfly<W>(q01, q11);
    take(i, j, q00);
    if (two_columns) take(i, right, q01);
    if (two_rows) take(below, j, q10);
    if (two_rows && two_columns) take(below, right, q11);
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Gradients of the kernels, summed over samples by the caller's accumulators.

// Append the rows of a block of `tile` once more, with the sign that they get by passing the end.
template <class L, class W = typename L::W>
void repeat_rows(L l, W* tile) {
  const int block = l.block_height() * l.stride();
  for (int b = 0; b < l.row_blocks(); ++b) {
    W* first = tile + 2 * b * block;
    const W sign = b == 0 ? W(1) : W(-1);
    for (int k = 0; k < block; k += lanes<W>) store<W>(first + block + k, sign * load(first + k));
  }
}

template <class W, int kLags, int kRows>
MK_INLINE void correlate_lags_step(const W* u, const W* v, int stride, Vec<W> (&sum)[kLags]) {
  Vec<W> left[kRows];
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) left[r] = load(u + r * stride);
#pragma GCC unroll 10
  for (int k = 0; k < kLags + kRows - 1; ++k) {
    const Vec<W> right = load(v + k * stride);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      if (0 <= k - r && k - r < kLags) sum[k - r] += left[r] * right;
    }
  }
}

template <class W, int kLags>
MK_INLINE void correlate_lags_strip(const W* u, const W* v, int t, int length, int vectors, int stride, W* lag_sums) {
  for (; t + kLags <= length; t += kLags) {
    Vec<W> sum[kLags];
#pragma GCC unroll 8
    for (int k = 0; k < kLags; ++k) sum[k] = load(lag_sums + (t + k) * lanes<W>);
    for (int x = 0; x < vectors; ++x) {
      const W *left = u + x * lanes<W>, *right = v + t * stride + x * lanes<W>;
      int i = 0;
      for (; i + 2 <= length; i += 2)
        correlate_lags_step<W, kLags, 2>(left + i * stride, right + i * stride, stride, sum);
      if (i < length) correlate_lags_step<W, kLags, 1>(left + i * stride, right + i * stride, stride, sum);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kLags; ++k) store<W>(lag_sums + (t + k) * lanes<W>, sum[k]);
  }
  if constexpr (kLags > 1) correlate_lags_strip<W, kLags / 2>(u, v, t, length, vectors, stride, lag_sums);
}

// lag_sums[b][t][lane] += Σ_i u[i] · v[i + t], an elementwise product of rows; v with its rows repeated.
template <class L, class W = typename L::W>
void add_row_lags(L l, const W* u, const W* v, W* lag_sums) {
  const int block = l.block_height() * l.stride();
  for (int b = 0; b < l.row_blocks(); ++b) {
    correlate_lags_strip<W, 8>(u + b * block, v + 2 * b * block, 0, l.block_height(), l.vectors(), l.stride(),
                               lag_sums + b * l.block_height() * lanes<W>);
  }
}

template <class W, int kRows, int kVectors>
MK_INLINE void outer_tile(const W* u, const W* v, int count, int stride, W* products, int products_stride) {
  Vec<W> sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int x = 0; x < kVectors; ++x) sum[r][x] = load(products + r * products_stride + x * lanes<W>);
  }
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<W> left = broadcast(u[i * stride + r]);
#pragma GCC unroll 2
      for (int x = 0; x < kVectors; ++x) sum[r][x] += left * load(v + i * stride + x * lanes<W>);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int x = 0; x < kVectors; ++x) store<W>(products + r * products_stride + x * lanes<W>, sum[r][x]);
  }
}

template <class W, int kRows, int kVectors>
MK_INLINE void outer_strip(const W* u, const W* v, int j, int length, int count, int stride, W* products,
                           int products_stride) {
  for (; j + kRows <= length; j += kRows) {
    outer_tile<W, kRows, kVectors>(u + j, v, count, stride, products + j * products_stride, products_stride);
  }
  if constexpr (kRows > 1) {
    outer_strip<W, kRows / 2, kVectors>(u, v, j, length, count, stride, products, products_stride);
  }
}

// products[b][j][m] += Σ_i u[i, j] · v[i, m] for the columns j, m of block b.
template <class L, class W = typename L::W>
void add_column_products(L l, const W* u, const W* v, W* products) {
  const int pitch = l.block_vectors() * lanes<W>;
  for (int b = 0; b < l.column_blocks(); ++b) {
    const W *left = u + b * l.block_width(), *right = v + b * l.block_width();
    W* block = products + b * l.block_width() * pitch;
    int x = 0;
    for (; x + 2 <= l.block_vectors(); x += 2) {
      outer_strip<W, 4, 2>(left, right + x * lanes<W>, 0, l.block_width(), l.height(), l.stride(), block + x * lanes<W>,
                           pitch);
    }
    if (x < l.block_vectors()) {
      outer_strip<W, 8, 1>(left, right + x * lanes<W>, 0, l.block_width(), l.height(), l.stride(), block + x * lanes<W>,
                           pitch);
    }
  }
}

// lags[t] = Σ_i u[i] · v[(i + t) mod L] of a whole axis from those of its blocks, in place.
template <class W>
MK_INLINE void join_lags(int blocks, int length, W* lags) {
  if (blocks == 1) return;
  for (int t = 0; t < length; ++t) {
    const W plus = lags[t], minus = lags[length + t];
    lags[t] = (plus + minus) / 2;
    lags[length + t] = (plus - minus) / 2;
  }
}

// From the sums of add_row_lags.
template <class L, class W = typename L::W>
void row_lags(L l, const W* lag_sums, W* lags) {
  for (int t = 0; t < l.height(); ++t) lags[t] = sum_lanes<W>(load(lag_sums + t * lanes<W>));
  join_lags(l.row_blocks(), l.block_height(), lags);
}

// From the sums of add_column_products: their circular diagonals.
template <class L, class W = typename L::W>
void column_lags(L l, const W* products, W* lags) {
  const int pitch = l.block_vectors() * lanes<W>, w = l.block_width();
  for (int b = 0; b < l.column_blocks(); ++b) {
    const W* block = products + b * w * pitch;
    W inside[kMaxSide] = {}, wrapped[kMaxSide] = {};
    for (int j = 0; j < w; ++j) {
      const W* row = block + j * pitch;
      for (int t = 0; t < w - j; ++t) inside[t] += row[j + t];
      for (int t = w - j; t < w; ++t) wrapped[t] += row[j + t - w];
    }
    for (int t = 0; t < w; ++t) lags[b * w + t] = b == 0 ? inside[t] + wrapped[t] : inside[t] - wrapped[t];
  }
  join_lags(l.column_blocks(), w, lags);
}

}  // namespace
}  // namespace MK_ISA
}  // namespace molkernels

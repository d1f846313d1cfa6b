// Products of bfloat16 with sums in float, a block of 32 × 32 at a time: AMX tiles, AVX-512's dot products of pairs,
// or AArch64's products of 2 × 4 by 4 × 2 values.
//
//   c[r][s] = Σ_k a(r, k) · b(k, s),  depth a multiple of 32
//
// Both operands are panels of 32 rows or columns, zero beyond the last row and the last k:
//   a panel of A holds [k / 32][r][k % 32]: tiles of 16 rows are contiguous;
//   a panel of B holds [k / 2][s][k % 2]: pairs of k side by side.
// FLOPs: 65,536 per 32 of k, on 4 tiles of sums and 4 loads of a KB; with AVX-512, 8 rows × 32 columns in registers, on
// AArch64 8 × 8.
// Subnormal numbers count as zero, in operands and in results.
#pragma once

#include "pairs.h"

#if defined(MK_BF16_PRODUCTS)

namespace molkernels {
namespace MK_ISA {

inline constexpr int kBlock16 = kPairs;
inline constexpr int kBlockSize16 = kBlock16 * kBlock16;

static inline int64_t blocks16(int64_t length) { return (length + kBlock16 - 1) / kBlock16; }
static inline int64_t padded16(int64_t length) { return blocks16(length) * kBlock16; }
// The number of values of all panels of a (rows, depth) operand.
static inline int64_t panels16(int64_t rows, int64_t depth) { return padded16(rows) * padded16(depth); }

// A thread that multiplies needs tiles, from `take_tiles` to `leave_tiles`.
static inline void take_tiles() {
#if defined(__AMX_BF16__)
  struct {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } eight_of_a_kilobyte;
  _tile_loadconfig(&eight_of_a_kilobyte);
#endif
}
static inline void leave_tiles() {
#if defined(__AMX_BF16__)
  _tile_release();
#endif
}

// c (32, 32) ← the product of a panel of A and one of B, or `added` to it.
template <bool added = false>
static inline void multiply16(const BFloat16* a, const BFloat16* b, int64_t depth, float* c) {
#if defined(__AMX_BF16__)
  // The intrinsics for loads do not tell the compiler that they read memory.
  asm volatile("" ::: "memory");
  constexpr int kRowBytes = kBlock16 * 4;
  if constexpr (added) {
    _tile_loadd(0, c, kRowBytes);
    _tile_loadd(1, c + 16, kRowBytes);
    _tile_loadd(2, c + 16 * kBlock16, kRowBytes);
    _tile_loadd(3, c + 16 * kBlock16 + 16, kRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kBlock16) {
    const BFloat16 *rows = a + k * kBlock16, *columns = b + k * kBlock16;
    _tile_loadd(4, rows, 64);
    _tile_loadd(6, columns, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, columns + 32, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, rows + 16 * kBlock16, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, kRowBytes);
  _tile_stored(1, c + 16, kRowBytes);
  _tile_stored(2, c + 16 * kBlock16, kRowBytes);
  _tile_stored(3, c + 16 * kBlock16 + 16, kRowBytes);
#elif defined(__aarch64__)
  // A register has 2 rows × 2 columns of sums.
  constexpr int kSide = 8;
  for (int first = 0; first < kBlock16; first += kSide) {
    for (int column = 0; column < kBlock16; column += kSide) {
      float* to = c + first * kBlock16 + column;
      float32x4_t sum[kSide / 2][kSide / 2] = {};
      if constexpr (added) {
#pragma GCC unroll 4
        for (int r = 0; r < kSide / 2; ++r) {
#pragma GCC unroll 4
          for (int s = 0; s < kSide / 2; ++s) {
            const float* at = to + 2 * r * kBlock16 + 2 * s;
            sum[r][s] = vcombine_f32(vld1_f32(at), vld1_f32(at + kBlock16));
          }
        }
      }
      for (int64_t k = 0; k < depth; k += 4) {
        const uint16_t* rows = reinterpret_cast<const uint16_t*>(a) + k / kBlock16 * kBlockSize16 + k % kBlock16;
        const uint32_t* pairs = reinterpret_cast<const uint32_t*>(b) + k / 2 * kBlock16 + column;
        bfloat16x8_t left[kSide / 2], right[kSide / 2];
#pragma GCC unroll 4
        for (int r = 0; r < kSide / 2; ++r) {
          const uint16_t* row = rows + (first + 2 * r) * kBlock16;
          left[r] = vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(row), vld1_u16(row + kBlock16)));
        }
#pragma GCC unroll 2
        for (int s = 0; s < kSide / 4; ++s) {
          const uint32x4_t two = vld1q_u32(pairs + 4 * s), next = vld1q_u32(pairs + kBlock16 + 4 * s);
          right[2 * s] = vreinterpretq_bf16_u32(vzip1q_u32(two, next));
          right[2 * s + 1] = vreinterpretq_bf16_u32(vzip2q_u32(two, next));
        }
#pragma GCC unroll 4
        for (int r = 0; r < kSide / 2; ++r) {
#pragma GCC unroll 4
          for (int s = 0; s < kSide / 2; ++s) sum[r][s] = vbfmmlaq_f32(sum[r][s], left[r], right[s]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < kSide / 2; ++r) {
#pragma GCC unroll 4
        for (int s = 0; s < kSide / 2; ++s) {
          float* at = to + 2 * r * kBlock16 + 2 * s;
          vst1_f32(at, vget_low_f32(sum[r][s]));
          vst1_f32(at + kBlock16, vget_high_f32(sum[r][s]));
        }
      }
    }
  }
#else
  constexpr int kHeight = 8;
  for (int first = 0; first < kBlock16; first += kHeight) {
    __m512 sum[kHeight][2] = {};
    if constexpr (added) {
#pragma GCC unroll 8
      for (int r = 0; r < kHeight; ++r) {
        sum[r][0] = _mm512_loadu_ps(c + (first + r) * kBlock16);
        sum[r][1] = _mm512_loadu_ps(c + (first + r) * kBlock16 + 16);
      }
    }
    for (int64_t k = 0; k < depth; k += kBlock16) {
      const BFloat16* rows = a + k * kBlock16 + first * kBlock16;
      for (int pair = 0; pair < kBlock16 / 2; ++pair) {
        const BFloat16* columns = b + (k / 2 + pair) * 2 * kBlock16;
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(columns), b1 = (__m512bh)_mm512_loadu_si512(columns + 32);
#pragma GCC unroll 8
        for (int r = 0; r < kHeight; ++r) {
          int32_t two;
          std::memcpy(&two, rows + r * kBlock16 + 2 * pair, sizeof two);
          const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
          sum[r][0] = _mm512_dpbf16_ps(sum[r][0], both, b0);
          sum[r][1] = _mm512_dpbf16_ps(sum[r][1], both, b1);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kHeight; ++r) {
      _mm512_storeu_ps(c + (first + r) * kBlock16, sum[r][0]);
      _mm512_storeu_ps(c + (first + r) * kBlock16 + 16, sum[r][1]);
    }
  }
#endif
}

// --------------------------------------------------------------------------------------------------------------------
// Packing. A matrix is read in pieces of 16 × 32 or 2 × 16 pairs; `m` is contiguous along its second axis and has
// `stride` values from row to row.

// A panel of A from `rows` ≤ 32 rows of m, k along the second axis.
static void pack_rows16(const BFloat16* m, int64_t rows, int64_t stride, int64_t depth, BFloat16* a) {
  for (int64_t k = 0; k < depth; k += kBlock16) {
    for (int64_t r = 0; r < kBlock16; ++r) {
      const Pairs values = r < rows ? load_pairs(m + r * stride + k, depth - k) : Pairs{};
      store_pairs(a + k * kBlock16 + r * kBlock16, values);
    }
  }
}

// A panel of B from `columns` ≤ 32 rows of m: column s of B is row s of m.
static void pack_columns16(const BFloat16* m, int64_t columns, int64_t stride, int64_t depth, BFloat16* b) {
  for (int64_t k = 0; k < depth; k += kBlock16) {
    for (int half = 0; half < kBlock16; half += 16) {
      Pairs v[16];
      for (int s = 0; s < 16; ++s) {
        v[s] = half + s < columns ? load_pairs(m + (half + s) * stride + k, depth - k) : Pairs{};
      }
      transpose_pairs(v);
      for (int pair = 0; pair < 16; ++pair) {
        store_pairs(b + (k / 2 + pair) * 2 * kBlock16 + 2 * half, v[pair]);
      }
    }
  }
}

// A panel of B from columns [0, columns ≤ 32) of m: row k of B is row k of m.
static void pack_pairs16(const BFloat16* m, int64_t columns, int64_t stride, int64_t depth, BFloat16* b) {
  for (int64_t k = 0; k < padded16(depth); k += 2) {
    const Pairs row = k < depth ? load_pairs(m + k * stride, columns) : Pairs{};
    const Pairs next = k + 1 < depth ? load_pairs(m + (k + 1) * stride, columns) : Pairs{};
    Pairs first, last;
    interleave(row, next, first, last);
    store_pairs(b + k * kBlock16, first);
    store_pairs(b + k * kBlock16 + kBlock16, last);
  }
}

// A panel of A from a panel of B: row r of A is column r of B.
static void transpose_panel16(const BFloat16* b, int64_t depth, BFloat16* a) {
  for (int64_t k = 0; k < depth; k += kBlock16) {
    for (int half = 0; half < kBlock16; half += 16) {
      Pairs v[16];
      for (int pair = 0; pair < 16; ++pair) {
        v[pair] = load_pairs(b + (k / 2 + pair) * 2 * kBlock16 + 2 * half);
      }
      transpose_pairs(v);
      for (int r = 0; r < 16; ++r) store_pairs(a + k * kBlock16 + (half + r) * kBlock16, v[r]);
    }
  }
}

}  // namespace MK_ISA
}  // namespace molkernels
#endif

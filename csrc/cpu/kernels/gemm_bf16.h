// Products of bfloat16 with sums in float, a block of 32 × 32 at a time: AMX tiles, or AVX-512's dot products of pairs.
//
//   c[r][s] = Σ_k a(r, k) · b(k, s),  depth a multiple of 32
//
// Both operands are panels of 32 rows or columns, zero beyond the last row and the last k:
//   a panel of A holds [k / 32][r][k % 32]: tiles of 16 rows are contiguous;
//   a panel of B holds [k / 2][s][k % 2]: pairs of k side by side.
// FLOPs: 65,536 per 32 of k, on 4 tiles of sums and 4 loads of a KB; with AVX-512, 8 rows × 32 columns in registers.
// Subnormal numbers count as zero, in operands and in results.
#pragma once

#include "simd.h"

#if defined(__AVX512BF16__) && MK_VECTOR_BYTES == 64
#define MK_BF16_PRODUCTS 1

namespace molkernels {
namespace MK_ISA {

inline constexpr int kBlock16 = 32;
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

// The first `count` of 32 values, the others zero.
static inline __m512i load_pairs(const BFloat16* p, int64_t count) {
  if (count >= kBlock16) return _mm512_loadu_si512(p);
  const __mmask32 there = count <= 0 ? 0 : (uint32_t(1) << count) - 1;
  return _mm512_maskz_loadu_epi16(there, p);
}

// Transpose 16 × 16 values of 32 bits.
static inline void transpose_pairs(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    v[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    v[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    v[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// Two rows of 32 values, value by value side by side: the pairs of the first 16 and of the last 16 values.
static inline void interleave(__m512i row, __m512i next, __m512i& first, __m512i& last) {
  const __m512i of_first =
      _mm512_set_epi32(0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a, 0x290009, 0x280008, 0x270007,
                       0x260006, 0x250005, 0x240004, 0x230003, 0x220002, 0x210001, 0x200000);
  const __m512i of_last = _mm512_add_epi16(of_first, _mm512_set1_epi16(16));
  first = _mm512_permutex2var_epi16(row, of_first, next);
  last = _mm512_permutex2var_epi16(row, of_last, next);
}

// A panel of A from `rows` ≤ 32 rows of m, k along the second axis.
static void pack_rows16(const BFloat16* m, int64_t rows, int64_t stride, int64_t depth, BFloat16* a) {
  for (int64_t k = 0; k < depth; k += kBlock16) {
    for (int64_t r = 0; r < kBlock16; ++r) {
      const __m512i values = r < rows ? load_pairs(m + r * stride + k, depth - k) : __m512i{};
      _mm512_storeu_si512(a + k * kBlock16 + r * kBlock16, values);
    }
  }
}

// A panel of B from `columns` ≤ 32 rows of m: column s of B is row s of m.
static void pack_columns16(const BFloat16* m, int64_t columns, int64_t stride, int64_t depth, BFloat16* b) {
  for (int64_t k = 0; k < depth; k += kBlock16) {
    for (int half = 0; half < kBlock16; half += 16) {
      __m512i v[16];
      for (int s = 0; s < 16; ++s) {
        v[s] = half + s < columns ? load_pairs(m + (half + s) * stride + k, depth - k) : __m512i{};
      }
      transpose_pairs(v);
      for (int pair = 0; pair < 16; ++pair) {
        _mm512_storeu_si512(b + (k / 2 + pair) * 2 * kBlock16 + 2 * half, v[pair]);
      }
    }
  }
}

// A panel of B from columns [0, columns ≤ 32) of m: row k of B is row k of m.
static void pack_pairs16(const BFloat16* m, int64_t columns, int64_t stride, int64_t depth, BFloat16* b) {
  for (int64_t k = 0; k < padded16(depth); k += 2) {
    const __m512i row = k < depth ? load_pairs(m + k * stride, columns) : __m512i{};
    const __m512i next = k + 1 < depth ? load_pairs(m + (k + 1) * stride, columns) : __m512i{};
    __m512i first, last;
    interleave(row, next, first, last);
    _mm512_storeu_si512(b + k * kBlock16, first);
    _mm512_storeu_si512(b + k * kBlock16 + kBlock16, last);
  }
}

// A panel of A from a panel of B: row r of A is column r of B.
static void transpose_panel16(const BFloat16* b, int64_t depth, BFloat16* a) {
  for (int64_t k = 0; k < depth; k += kBlock16) {
    for (int half = 0; half < kBlock16; half += 16) {
      __m512i v[16];
      for (int pair = 0; pair < 16; ++pair) {
        v[pair] = _mm512_loadu_si512(b + (k / 2 + pair) * 2 * kBlock16 + 2 * half);
      }
      transpose_pairs(v);
      for (int r = 0; r < 16; ++r) _mm512_storeu_si512(a + k * kBlock16 + (half + r) * kBlock16, v[r]);
    }
  }
}

}  // namespace MK_ISA
}  // namespace molkernels
#endif

// 32 values of bfloat16, or 16 pairs of them, as one operand: what the kernels on products of bfloat16 do with
// registers.
#pragma once

#include "simd.h"

#if (defined(__AVX512BF16__) && MK_VECTOR_BYTES == 64) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define MK_BF16_PRODUCTS 1

namespace molkernels {
namespace MK_ISA {

inline constexpr int kPairs = 32;

#if defined(__AVX512BF16__)

using Pairs = __m512i;

// The first `count` of 32 values, the others zero.
static inline Pairs load_pairs(const BFloat16* p, int64_t count = kPairs) {
  if (count >= kPairs) return _mm512_loadu_si512(p);
  const __mmask32 there = count <= 0 ? 0 : (uint32_t(1) << count) - 1;
  return _mm512_maskz_loadu_epi16(there, p);
}
static inline void store_pairs(BFloat16* p, Pairs v) { _mm512_storeu_si512(p, v); }

static inline Pairs first_pairs(Pairs v, int64_t count) {
  return count >= kPairs ? v : _mm512_maskz_mov_epi16((uint32_t(1) << count) - 1, v);
}

// 16 values of float.
static inline Pairs load_floats(const float* p) { return _mm512_loadu_si512(p); }
template <bool added>
static inline void store_floats(float* p, Pairs v) {
  const __m512 values = _mm512_castsi512_ps(v);
  _mm512_storeu_ps(p, added ? _mm512_add_ps(_mm512_loadu_ps(p), values) : values);
}

// Transpose 16 × 16 values of 32 bits.
static inline void transpose_pairs(Pairs (&v)[16]) {
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
static inline void interleave(Pairs row, Pairs next, Pairs& first, Pairs& last) {
  const __m512i of_first =
      _mm512_set_epi32(0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a, 0x290009, 0x280008, 0x270007,
                       0x260006, 0x250005, 0x240004, 0x230003, 0x220002, 0x210001, 0x200000);
  const __m512i of_last = _mm512_add_epi16(of_first, _mm512_set1_epi16(16));
  first = _mm512_permutex2var_epi16(row, of_first, next);
  last = _mm512_permutex2var_epi16(row, of_last, next);
}

// The gradient of the sums before a ReLU with output y: grad_y where y > 0.
static inline Pairs passed_pairs(Pairs grad_y, Pairs y) {
  const __m512i infinity = _mm512_set1_epi16(0x7f80);
  const __mmask32 positive = _mm512_cmpgt_epi16_mask(y, __m512i{}) & _mm512_cmple_epi16_mask(y, infinity);
  return _mm512_maskz_mov_epi16(positive, grad_y);
}

// The winners of 32 values; 255 after the first `count`.
using Winners = __m256i;
static inline Winners load_winners(const uint8_t* winner, int64_t count) {
  if (count >= kPairs) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(winner));
  const __mmask32 there = count <= 0 ? 0 : (uint32_t(1) << count) - 1;
  return _mm256_mask_loadu_epi8(_mm256_set1_epi8(-1), there, winner);
}
// The values where neighbour j won, zero elsewhere.
static inline Pairs won_pairs(Pairs v, Winners winner, int j) {
  return _mm512_maskz_mov_epi16(_mm256_cmpeq_epi8_mask(winner, _mm256_set1_epi8(char(j))), v);
}

#else  // AArch64: four registers

struct Pairs {
  uint16x8_t part[4];
};

static inline Pairs load_pairs(const BFloat16* p, int64_t count = kPairs) {
  uint16_t some[kPairs] = {};
  const uint16_t* from = reinterpret_cast<const uint16_t*>(p);
  if (count < kPairs) {
    if (count > 0) std::memcpy(some, p, size_t(count) * sizeof *p);
    from = some;
  }
  Pairs v;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v.part[i] = vld1q_u16(from + 8 * i);
  return v;
}
static inline void store_pairs(BFloat16* p, Pairs v) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) vst1q_u16(reinterpret_cast<uint16_t*>(p) + 8 * i, v.part[i]);
}

static inline Pairs first_pairs(Pairs v, int64_t count) {
  if (count >= kPairs) return v;
  BFloat16 all[kPairs];
  store_pairs(all, v);
  return load_pairs(all, count);
}

static inline Pairs load_floats(const float* p) {
  Pairs v;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) v.part[i] = vreinterpretq_u16_f32(vld1q_f32(p + 4 * i));
  return v;
}
template <bool added>
static inline void store_floats(float* p, Pairs v) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float32x4_t values = vreinterpretq_f32_u16(v.part[i]);
    vst1q_f32(p + 4 * i, added ? vaddq_f32(vld1q_f32(p + 4 * i), values) : values);
  }
}

// By blocks of 4 × 4.
static inline void transpose_pairs(Pairs (&v)[16]) {
  Pairs t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      uint32x4_t row[4];
      for (int r = 0; r < 4; ++r) row[r] = vreinterpretq_u32_u16(v[4 * i + r].part[j]);
      const uint64x2_t even0 = vreinterpretq_u64_u32(vtrn1q_u32(row[0], row[1]));
      const uint64x2_t odd0 = vreinterpretq_u64_u32(vtrn2q_u32(row[0], row[1]));
      const uint64x2_t even1 = vreinterpretq_u64_u32(vtrn1q_u32(row[2], row[3]));
      const uint64x2_t odd1 = vreinterpretq_u64_u32(vtrn2q_u32(row[2], row[3]));
      t[4 * j].part[i] = vreinterpretq_u16_u64(vtrn1q_u64(even0, even1));
      t[4 * j + 1].part[i] = vreinterpretq_u16_u64(vtrn1q_u64(odd0, odd1));
      t[4 * j + 2].part[i] = vreinterpretq_u16_u64(vtrn2q_u64(even0, even1));
      t[4 * j + 3].part[i] = vreinterpretq_u16_u64(vtrn2q_u64(odd0, odd1));
    }
  }
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

static inline void interleave(Pairs row, Pairs next, Pairs& first, Pairs& last) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    first.part[2 * i] = vzip1q_u16(row.part[i], next.part[i]);
    first.part[2 * i + 1] = vzip2q_u16(row.part[i], next.part[i]);
    last.part[2 * i] = vzip1q_u16(row.part[2 + i], next.part[2 + i]);
    last.part[2 * i + 1] = vzip2q_u16(row.part[2 + i], next.part[2 + i]);
  }
}

static inline Pairs passed_pairs(Pairs grad_y, Pairs y) {
  const int16x8_t infinity = vdupq_n_s16(0x7f80);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int16x8_t bits = vreinterpretq_s16_u16(y.part[i]);
    grad_y.part[i] = vandq_u16(grad_y.part[i], vandq_u16(vcgtzq_s16(bits), vcleq_s16(bits, infinity)));
  }
  return grad_y;
}

struct Winners {
  uint8x16_t part[2];
};
static inline Winners load_winners(const uint8_t* winner, int64_t count) {
  uint8_t some[kPairs];
  if (count < kPairs) {
    std::memset(some, 255, sizeof some);
    if (count > 0) std::memcpy(some, winner, size_t(count));
    winner = some;
  }
  return {{vld1q_u8(winner), vld1q_u8(winner + 16)}};
}
static inline Pairs won_pairs(Pairs v, Winners winner, int j) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const uint8x16_t won = vceqq_u8(winner.part[i], vdupq_n_u8(uint8_t(j)));
    v.part[2 * i] = vandq_u16(v.part[2 * i], vreinterpretq_u16_u8(vzip1q_u8(won, won)));
    v.part[2 * i + 1] = vandq_u16(v.part[2 * i + 1], vreinterpretq_u16_u8(vzip2q_u8(won, won)));
  }
  return v;
}

#endif

}  // namespace MK_ISA
}  // namespace molkernels
#endif

// Vectors of one instruction set, through the compiler's own vector types: the same source for every set.
//
// `Vec<float>` holds MK_VECTOR_BYTES bytes; arithmetic, comparison and selection use the language's operators (a + b,
// a > b ? a : b). Memory holds double, float, BFloat16 or Half; `load` and `store` convert. Arithmetic is in double for
// double and in float for all others.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace molkernels {
namespace MK_ISA {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <class T>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <class T>
using wide = typename WideOf<T>::type;

// W is float or double.
template <class W>
struct VecOf {
  typedef W type __attribute__((vector_size(MK_VECTOR_BYTES), aligned(sizeof(W)), may_alias));
};
template <class W>
using Vec = typename VecOf<W>::type;
template <class W>
inline constexpr int lanes = MK_VECTOR_BYTES / int(sizeof(W));

// Integer lanes of the width of W: the result of comparing Vec<W> (−1 or 0 per lane).
template <class W>
struct MaskOf;
template <>
struct MaskOf<float> {
  typedef int32_t type __attribute__((vector_size(MK_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct MaskOf<double> {
  typedef int64_t type __attribute__((vector_size(MK_VECTOR_BYTES), aligned(8), may_alias));
};
template <class W>
using Mask = typename MaskOf<W>::type;

template <class W>
static inline Vec<W> broadcast(W value) {
  return value - Vec<W>{};
}

static inline float to_wide(float v) { return v; }
static inline double to_wide(double v) { return v; }
static inline float to_wide(BFloat16 v) {
  const uint32_t bits = uint32_t(v.x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
static inline float to_wide(Half v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.x);
#elif defined(__aarch64__)
  __fp16 half;
  std::memcpy(&half, &v.x, 2);
  return half;
#else
  return torch::headeronly::detail::fp16_ieee_to_fp32_value(v.x);
#endif
}

template <class T>
static inline T narrow(wide<T> v);
template <>
inline double narrow<double>(double v) {
  return v;
}
template <>
inline float narrow<float>(float v) {
  return v;
}
// Round to nearest even; NaN stays NaN.
template <>
inline BFloat16 narrow<BFloat16>(float v) {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  const bfloat16_t rounded = vcvth_bf16_f32(v);
  uint16_t top;
  std::memcpy(&top, &rounded, 2);
#else
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint16_t top = v != v ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
  return BFloat16(top, BFloat16::from_bits());
}
template <>
inline Half narrow<Half>(float v) {
#if defined(__F16C__)
  return Half(uint16_t(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT)), Half::from_bits());
#elif defined(__aarch64__)
  const __fp16 half = __fp16(v);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return Half(bits, Half::from_bits());
#else
  return Half(torch::headeronly::detail::fp16_ieee_from_fp32_value(v), Half::from_bits());
#endif
}

// lanes<wide<T>> values at p (any alignment), widened. The load has the alignment of a single value instead of being a
// memcpy: GCC copies a memcpy of more than 16 bytes through the stack.
template <class T>
static inline Vec<wide<T>> load(const T* p);
template <>
inline Vec<float> load<float>(const float* p) {
  return *reinterpret_cast<const Vec<float>*>(p);
}
template <>
inline Vec<double> load<double>(const double* p) {
  return *reinterpret_cast<const Vec<double>*>(p);
}

// 16-bit and unsigned 32-bit lanes, as many as in Vec<float>.
typedef uint16_t Bits16 __attribute__((vector_size(MK_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t Bits32 __attribute__((vector_size(MK_VECTOR_BYTES), aligned(4), may_alias));

// Compilers do not find the single instructions for these conversions by themselves.
static inline Bits32 extend(Bits16 v) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  return (Bits32)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)v);
#elif defined(__AVX2__) && MK_VECTOR_BYTES == 32
  return (Bits32)_mm256_cvtepu16_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, Bits32);
#endif
}
// For values below 2^16.
static inline Bits16 truncate(Bits32 v) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  return (Bits16)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)v);
#elif defined(__AVX2__) && MK_VECTOR_BYTES == 32
  return (Bits16)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
#else
  return __builtin_convertvector(v, Bits16);
#endif
}

template <>
inline Vec<float> load<BFloat16>(const BFloat16* p) {
  return (Vec<float>)(extend(*reinterpret_cast<const Bits16*>(p)) << 16);
}
template <>
inline Vec<float> load<Half>(const Half* p) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && MK_VECTOR_BYTES == 32
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__aarch64__)
  return (Vec<float>)vcvt_f32_f16((float16x4_t) * reinterpret_cast<const Bits16*>(p));
#else
  Vec<float> v;
  for (int i = 0; i < lanes<float>; ++i) v[i] = to_wide(p[i]);
  return v;
#endif
}

template <class T>
static inline void store(T* p, Vec<wide<T>> v);
template <>
inline void store<float>(float* p, Vec<float> v) {
  *reinterpret_cast<Vec<float>*>(p) = v;
}
template <>
inline void store<double>(double* p, Vec<double> v) {
  *reinterpret_cast<Vec<double>*>(p) = v;
}
// As narrow<BFloat16>, lane by lane.
template <>
inline void store<BFloat16>(BFloat16* p, Vec<float> v) {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  *reinterpret_cast<Bits16*>(p) = (Bits16)vcvt_bf16_f32((float32x4_t)v);
#else
  const Bits32 wide_bits = (Bits32)v;
  const Bits32 rounded = (wide_bits + 0x7fff + ((wide_bits >> 16) & 1)) >> 16;
  *reinterpret_cast<Bits16*>(p) = truncate(v != v ? (Bits32{} + 0x7fc0) : rounded);
#endif
}
template <>
inline void store<Half>(Half* p, Vec<float> v) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  const __m256i bits = _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
#elif defined(__F16C__) && MK_VECTOR_BYTES == 32
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
  *reinterpret_cast<Bits16*>(p) = (Bits16)vcvt_f16_f32((float32x4_t)v);
#else
  for (int i = 0; i < lanes<float>; ++i) p[i] = narrow<Half>(v[i]);
#endif
}

// The first `count` of them; the lanes after are zero. Any count ≥ lanes is a whole vector.
template <class T>
static inline Vec<wide<T>> load_part(const T* p, int count) {
  constexpr int n = lanes<wide<T>>;
  if (count >= n) return load(p);
  alignas(64) unsigned char part[n * sizeof(T)] = {};
  std::memcpy(part, p, sizeof(T) * size_t(count));
  return load(reinterpret_cast<const T*>(part));
}
template <class T>
static inline void store_part(T* p, Vec<wide<T>> v, int count) {
  constexpr int n = lanes<wide<T>>;
  if (count >= n) return store(p, v);
  alignas(64) unsigned char part[n * sizeof(T)];
  store(reinterpret_cast<T*>(part), v);
  std::memcpy(p, part, sizeof(T) * size_t(count));
}

// v with all lanes from `count` on set to zero.
template <class W>
static inline Vec<W> first_lanes(Vec<W> v, int count) {
  if (count >= lanes<W>) return v;
  for (int i = count; i < lanes<W>; ++i) v[i] = 0;
  return v;
}

// The same in another arithmetic A: float memory as doubles, everything else as in `load_part`.
typedef float HalfFloats __attribute__((vector_size(MK_VECTOR_BYTES / 2), aligned(4), may_alias));

template <class A, class T>
static inline Vec<A> load_part_as(const T* p, int count) {
  if constexpr (sizeof(A) == sizeof(wide<T>)) {
    return load_part(p, count);
  } else {
    HalfFloats part = {};
    std::memcpy(&part, p, sizeof(float) * size_t(count < lanes<double> ? count : lanes<double>));
    return __builtin_convertvector(part, Vec<double>);
  }
}
template <class A, class T>
static inline void store_part_as(T* p, Vec<A> v, int count) {
  if constexpr (sizeof(A) == sizeof(wide<T>)) {
    store_part(p, v, count);
  } else {
    const HalfFloats part = __builtin_convertvector(v, HalfFloats);
    std::memcpy(p, &part, sizeof(float) * size_t(count < lanes<double> ? count : lanes<double>));
  }
}

// Of every 2 · kHalf lanes of a and b, the first halves or the last halves side by side.
template <class W, int kHalf, bool kLast, int... kLane>
static inline Vec<W> halves(Vec<W> a, Vec<W> b, std::integer_sequence<int, kLane...>) {
  constexpr int n = lanes<W>;
  return __builtin_shufflevector(a, b,
                                 (kLane & kHalf ? n + kLane - (kLast ? 0 : kHalf) : kLane + (kLast ? kHalf : 0))...);
}

// Transpose a square of vectors, exchanging ever smaller blocks (Eklundh, 1972).
template <class W, int kHalf = lanes<W> / 2>
static inline __attribute__((always_inline)) void transpose(Vec<W> (&v)[lanes<W>]) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes<W>; ++i) {
    if (i & kHalf) continue;
    const Vec<W> a = v[i], b = v[i + kHalf];
    v[i] = halves<W, kHalf, false>(a, b, std::make_integer_sequence<int, lanes<W>>{});
    v[i + kHalf] = halves<W, kHalf, true>(a, b, std::make_integer_sequence<int, lanes<W>>{});
  }
  if constexpr (kHalf > 1) transpose<W, kHalf / 2>(v);
}

// The sum of all lanes, pairwise.
template <class W>
static inline W sum_lanes(Vec<W> v) {
  W part[lanes<W>];
  std::memcpy(part, &v, sizeof v);
  for (int half = lanes<W> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

}  // namespace MK_ISA
}  // namespace molkernels

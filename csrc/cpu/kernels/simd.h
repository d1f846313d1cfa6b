// Vectors of one instruction set, by the compiler's own vector types: the same source for each of them.
//
// `Vec<float>` holds MK_VECTOR_BYTES bytes; arithmetic, comparison and selection are the language's (a + b, a > b ? a :
// b). Memory holds double, float, BFloat16 or Half; `load` and `store` convert, arithmetic is in double for double and
// in float for all others.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
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

// Integer lanes of the width of W: what comparisons of Vec<W> give (−1 or 0 a lane).
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
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint16_t top = v != v ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  return BFloat16(top, BFloat16::from_bits());
}
template <>
inline Half narrow<Half>(float v) {
#if defined(__F16C__)
  return Half(uint16_t(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT)), Half::from_bits());
#else
  return Half(torch::headeronly::detail::fp16_ieee_from_fp32_value(v), Half::from_bits());
#endif
}

// lanes<wide<T>> values at p (any alignment), widened.
template <class T>
static inline Vec<wide<T>> load(const T* p) {
  Vec<wide<T>> v;
  for (int i = 0; i < lanes<wide<T>>; ++i) v[i] = to_wide(p[i]);
  return v;
}
template <>
inline Vec<float> load<float>(const float* p) {
  Vec<float> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <>
inline Vec<double> load<double>(const double* p) {
  Vec<double> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
static inline void store(T* p, Vec<wide<T>> v) {
  for (int i = 0; i < lanes<wide<T>>; ++i) p[i] = narrow<T>(v[i]);
}
template <>
inline void store<float>(float* p, Vec<float> v) {
  std::memcpy(p, &v, sizeof v);
}
template <>
inline void store<double>(double* p, Vec<double> v) {
  std::memcpy(p, &v, sizeof v);
}

}  // namespace MK_ISA
}  // namespace molkernels

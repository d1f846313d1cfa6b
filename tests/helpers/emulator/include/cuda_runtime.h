// Replacement for CUDA's header, for g++: the keywords and functions that the kernels of csrc/cuda use.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fibres.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// One block runs at a time in the process.
#define __shared__ static

using cudaStream_t = void*;

#define MK_VECTOR_TYPES(type, name)                                                      \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                               \
  struct name##3 { type x, y, z; };                                                      \
  struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                       \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
MK_VECTOR_TYPES(float, float)
MK_VECTOR_TYPES(double, double)
MK_VECTOR_TYPES(int, int)
MK_VECTOR_TYPES(unsigned, uint)
MK_VECTOR_TYPES(short, short)
MK_VECTOR_TYPES(unsigned short, ushort)
MK_VECTOR_TYPES(signed char, char)
MK_VECTOR_TYPES(unsigned char, uchar)
MK_VECTOR_TYPES(long long, longlong)
#undef MK_VECTOR_TYPES

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the running fibre.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

#define MK_HERE_PARAMETER ::molkernels::emulator::Site site = ::molkernels::emulator::Site()

inline void __syncthreads(MK_HERE_PARAMETER) { molkernels::emulator::block_barrier(site); }

inline void __syncwarp(unsigned mask = 0xffffffffu, MK_HERE_PARAMETER) {
  molkernels::emulator::require_full(mask, site);
  molkernels::emulator::warp_collective([](void* const*) {}, nullptr, site);
}

namespace molkernels {
namespace emulator {

// What a lane passes to an exchange, and what it receives.
template <class T>
struct Exchange {
  T value;
  int source;
  T result;
};

template <class T>
T exchange(T value, int source, unsigned mask, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a shuffle moves 32 or 64 bits");
  require_full(mask, site);
  Exchange<T> mine{value, source, T{}};
  warp_collective(
      [](void* const* lanes) {
        for (int i = 0; i < 32; ++i) {
          auto* lane = static_cast<Exchange<T>*>(lanes[i]);
          lane->result = static_cast<Exchange<T>*>(lanes[lane->source])->value;
        }
      },
      &mine, site);
  return mine.result;
}

inline int lane() { return int((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32); }

}  // namespace emulator
}  // namespace molkernels

// Each group of `width` lanes acts as a separate warp; a lane whose source is outside keeps its value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MK_HERE_PARAMETER) {
  const int lane = molkernels::emulator::lane();
  return molkernels::emulator::exchange(value, (lane & ~(width - 1)) | (source & (width - 1)), mask, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, MK_HERE_PARAMETER) {
  const int lane = molkernels::emulator::lane(), source = lane ^ with;
  const bool inside = source < (lane & ~(width - 1)) + width;
  return molkernels::emulator::exchange(value, inside ? source : lane, mask, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MK_HERE_PARAMETER) {
  const int lane = molkernels::emulator::lane(), source = lane - int(delta);
  return molkernels::emulator::exchange(value, source >= (lane & ~(width - 1)) ? source : lane, mask, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MK_HERE_PARAMETER) {
  const int lane = molkernels::emulator::lane(), source = lane + int(delta);
  return molkernels::emulator::exchange(value, source < (lane & ~(width - 1)) + width ? source : lane, mask, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, MK_HERE_PARAMETER) {
  using Vote = molkernels::emulator::Exchange<unsigned>;
  molkernels::emulator::require_full(mask, site);
  Vote mine{predicate != 0, 0, 0};
  molkernels::emulator::warp_collective(
      [](void* const* lanes) {
        unsigned votes = 0;
        for (int i = 0; i < 32; ++i) votes |= static_cast<Vote*>(lanes[i])->value << i;
        for (int i = 0; i < 32; ++i) static_cast<Vote*>(lanes[i])->result = votes;
      },
      &mine, site);
  return mine.result;
}
inline int __any_sync(unsigned mask, int predicate, MK_HERE_PARAMETER) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MK_HERE_PARAMETER) {
  return __ballot_sync(mask, predicate, site) == 0xffffffffu;
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(unsigned(v)); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll((unsigned long long)v); }
inline unsigned __brev(unsigned v) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (v >> i & 1u) << (31 - i);
  return reversed;
}

template <class T>
T __ldg(const T* p) {
  return *p;
}

namespace molkernels {
namespace emulator {
template <class To, class From>
To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emulator
}  // namespace molkernels

inline unsigned __float_as_uint(float v) { return molkernels::emulator::bits_of<unsigned>(v); }
inline int __float_as_int(float v) { return molkernels::emulator::bits_of<int>(v); }
inline float __uint_as_float(unsigned v) { return molkernels::emulator::bits_of<float>(v); }
inline float __int_as_float(int v) { return molkernels::emulator::bits_of<float>(v); }
inline long long __double_as_longlong(double v) { return molkernels::emulator::bits_of<long long>(v); }
inline double __longlong_as_double(long long v) { return molkernels::emulator::bits_of<double>(v); }

inline float rsqrtf(float v) { return float(1.0 / std::sqrt(double(v))); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
inline float __fadd_rn(float a, float b) { return float(double(a) + double(b)); }
inline float __fsub_rn(float a, float b) { return float(double(a) - double(b)); }
inline float __fmul_rn(float a, float b) { return float(double(a) * double(b)); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fsqrt_rn(float v) { return std::sqrt(v); }
inline double __dsqrt_rn(double v) { return std::sqrt(v); }
inline float __frsqrt_rn(float v) { return rsqrtf(v); }
inline int __float2int_rn(float v) { return int(std::lrint(v)); }
inline long long __double2ll_rn(double v) { return std::llrint(v); }

// As in CUDA: signed with unsigned compares as unsigned.
#define MK_EXTREMES(type)                                   \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
MK_EXTREMES(int)
MK_EXTREMES(unsigned)
MK_EXTREMES(long)
MK_EXTREMES(unsigned long)
MK_EXTREMES(long long)
MK_EXTREMES(unsigned long long)
#undef MK_EXTREMES
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

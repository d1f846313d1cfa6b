// The nearest neighbours of a node from its row of similarities in float, decided in double where float cannot.
#pragma once

#include "../../common/neighbours.h"
#include "simd.h"

namespace molkernels {
namespace MK_ISA {
namespace {

constexpr int kMostNeighbours = 16;
constexpr float kNothing = -3.0f;    // below every similarity: the node itself, and lanes past the last node
constexpr float kUnordered = -2.0f;  // NaN

// The lanes that are above the limit, as bits.
uint32_t above(Vec<float> v, Vec<float> limit) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_GT_OQ);
#elif defined(__AVX2__) && MK_VECTOR_BYTES == 32
  return uint32_t(_mm256_movemask_ps((__m256)(v > limit)));
#elif defined(__aarch64__)
  constexpr uint32x4_t kBits = {1, 2, 4, 8};
  return vaddvq_u32((uint32x4_t)(v > limit) & kBits);
#else
  const Mask<float> larger = v > limit;
  uint32_t bits = 0;
  for (int i = 0; i < lanes<float>; ++i) bits |= uint32_t(larger[i] != 0) << i;
  return bits;
#endif
}

// Insert a value into the k largest so far, in falling order.
template <class V>
void keep_largest(V value, V* sorted, int k) {
  if (!(value > sorted[k - 1])) return;
  int place = k - 1;
  for (; place > 0 && sorted[place - 1] < value; --place) sorted[place] = sorted[place - 1];
  sorted[place] = value;
}

// A value that at least k of a row (padded, without NaN) reach, and not many more: the k-th largest of the largest
// values of 16 parts of the row.
float reached_by(const float* row, int64_t width, int k) {
  constexpr int kParts = kMostNeighbours / lanes<float> > 0 ? kMostNeighbours / lanes<float> : 1;
  Vec<float> largest[kParts];
  for (Vec<float>& part : largest) part = broadcast(kNothing);
  for (int64_t q = 0; q < width; q += kParts * lanes<float>) {
    for (int i = 0; i < kParts && q + i * lanes<float> < width; ++i) {
      const Vec<float> v = load(row + q + i * lanes<float>);
      largest[i] = v > largest[i] ? v : largest[i];
    }
  }
  float values[kParts * lanes<float>], sorted[kMostNeighbours];
  for (int i = 0; i < kParts; ++i) store(values + i * lanes<float>, largest[i]);
  for (int i = 0; i < k; ++i) sorted[i] = 2 * kNothing;
  for (const float value : values) keep_largest(value, sorted, k);
  return sorted[k - 1];
}

// The k nearest of node m from its row of similarities (padded to whole vectors, without NaN, nothing to be found at
// kNothing), the node itself first. They differ from the exact ones by at most `error`: only nodes within twice that of
// the k-th best may belong to the k best. Where all of those differ by more than that, their order is certain; else
// they are ranked by exact(i), the similarity in double.
template <class Exact>
void rank_row(const float* row, int64_t width, int64_t m, int k, float error, int32_t* graph, Exact exact) {
  graph[0] = int32_t(m);
  if (k == 1) return;
  const int others = k - 1;
  // The comparisons below are strict: with a margin they include the nodes at the limit itself.
  const float margin = 2.0f * error + 1e-6f;
  const float limit = reached_by(row, width, others) - margin;
  constexpr int kRoom = 4 * kMostNeighbours;
  int32_t candidates[kRoom];  // in falling order; equal ones in that of their indices
  int found = 0;
  for (int64_t q = 0; q < width && found <= kRoom; q += lanes<float>) {
    for (uint32_t bits = above(load(row + q), broadcast(limit)); bits != 0; bits &= bits - 1) {
      const int32_t node = int32_t(q) + __builtin_ctz(bits);
      if (row[node] == kNothing) continue;
      if (++found > kRoom) break;
      int place = found - 1;
      for (; place > 0 && row[candidates[place - 1]] < row[node]; --place) candidates[place] = candidates[place - 1];
      candidates[place] = node;
    }
  }
  if (found <= kRoom) {
    bool certain = true;
    for (int i = 0; i < others && i + 1 < found; ++i) certain &= row[candidates[i]] - row[candidates[i + 1]] > margin;
    if (certain) {
      for (int i = 0; i < others; ++i) graph[1 + i] = candidates[i];
      return;
    }
  }
  int64_t best[kMostNeighbours];
  for (int i = 0; i < others; ++i) best[i] = INT64_MIN;
  if (found <= kRoom) {
    const float least = row[candidates[others - 1]] - margin;
    for (int i = 0; i < found && !(row[candidates[i]] < least); ++i) {
      keep_largest(neighbour_rank(exact(candidates[i]), candidates[i]), best, others);
    }
  } else {
    for (int64_t i = 0; i < width; ++i) {
      if (row[i] > limit && row[i] != kNothing) keep_largest(neighbour_rank(exact(i), int(i)), best, others);
    }
  }
  for (int i = 0; i < others; ++i) graph[1 + i] = neighbour_index(best[i]);
}

}  // namespace
}  // namespace MK_ISA
}  // namespace molkernels

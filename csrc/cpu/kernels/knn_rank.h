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

bool any_above(Vec<float> v, Vec<float> limit) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__) && MK_VECTOR_BYTES == 32
  return _mm256_movemask_ps((__m256)(v > limit)) != 0;
#elif defined(__aarch64__)
  return vmaxvq_u32((uint32x4_t)(v > limit)) != 0;
#else
  const Mask<float> above = v > limit;
  int32_t found = 0;
  for (int i = 0; i < lanes<float>; ++i) found |= above[i];
  return found != 0;
#endif
}

// The k-th largest of a row (padded, without NaN): first the k largest of each lane, without a branch, then the k
// largest of those. K is k, or 0 if it is not a compile-time constant; with it, the best so far stay in registers.
template <int K>
float kth_largest(const float* row, int64_t width, int any_k) {
  const int k = K != 0 ? K : any_k;
  constexpr int room = K != 0 ? K : kMostNeighbours;
  Vec<float> best[room];
  for (Vec<float>& lane : best) lane = broadcast(kNothing);
  for (int64_t q = 0; q < width; q += lanes<float>) {
    Vec<float> v = load(row + q);
    for (int i = 0; i < k; ++i) {
      const Mask<float> larger = v > best[i];
      const Vec<float> kept = larger ? v : best[i];
      v = larger ? best[i] : v;
      best[i] = kept;
    }
  }
  float sorted[room];
  for (float& value : sorted) value = kNothing;
  for (int i = 0; i < k; ++i) {
    float of_lanes[lanes<float>];
    store(of_lanes, best[i]);
    for (const float value : of_lanes) {
      if (!(value > sorted[k - 1])) continue;
      int place = k - 1;
      for (; place > 0 && sorted[place - 1] < value; --place) sorted[place] = sorted[place - 1];
      sorted[place] = value;
    }
  }
  return sorted[k - 1];
}

float search(const float* row, int64_t width, int k) {
  return k == 3 ? kth_largest<3>(row, width, k) : kth_largest<0>(row, width, k);
}

// The k nearest of node m from its row of similarities (padded to whole vectors, without NaN, nothing to be found at
// kNothing), the node itself first. They differ from the exact ones by at most `error`: every node within twice that of
// the k-th best may belong to the k best. If those are k nodes that differ by more than that, their order is certain;
// otherwise they are ranked by exact(i), the similarity in double.
template <class Exact>
void rank_row(const float* row, int64_t width, int64_t m, int k, float error, int32_t* graph, Exact exact) {
  graph[0] = int32_t(m);
  if (k == 1) return;
  const int others = k - 1;
  // The comparisons below are strict: with a margin they include the nodes at the limit itself.
  const float margin = 2.0f * error + 1e-6f;
  const float limit = search(row, width, others) - margin;
  constexpr int kRoom = 2 * kMostNeighbours;
  int32_t candidates[kRoom];
  int found = 0;
  for (int64_t q = 0; q < width; q += lanes<float>) {
    if (!any_above(load(row + q), broadcast(limit))) continue;
    for (int64_t i = q; i < q + lanes<float>; ++i) {
      if (!(row[i] > limit) || row[i] == kNothing) continue;
      if (found < kRoom) candidates[found] = int32_t(i);
      ++found;
    }
  }
  if (found == others) {
    for (int i = 1; i < others; ++i) {
      const int32_t node = candidates[i];
      int place = i;
      for (; place > 0 && row[candidates[place - 1]] < row[node]; --place) candidates[place] = candidates[place - 1];
      candidates[place] = node;
    }
    bool certain = true;
    for (int i = 1; i < others; ++i) certain &= row[candidates[i - 1]] - row[candidates[i]] > margin;
    if (certain) {
      for (int i = 0; i < others; ++i) graph[1 + i] = candidates[i];
      return;
    }
  }
  int64_t best[kMostNeighbours];
  for (int i = 0; i < others; ++i) best[i] = INT64_MIN;
  for (int64_t i = 0; i < width; ++i) {
    if (!(row[i] > limit) || row[i] == kNothing) continue;
    const int64_t rank = neighbour_rank(exact(i), int(i));
    if (rank <= best[others - 1]) continue;
    int place = others - 1;
    for (; place > 0 && best[place - 1] < rank; --place) best[place] = best[place - 1];
    best[place] = rank;
  }
  for (int i = 0; i < others; ++i) graph[1 + i] = neighbour_index(best[i]);
}

}  // namespace
}  // namespace MK_ISA
}  // namespace molkernels

// The order of the neighbours in a graph, the same on every backend.
#pragma once

#include <cmath>
#include <cstdint>

#include "index.h"

namespace molkernels {

// Norms are clamped to at least √FLT_MIN = 2⁻⁶³ before the division.
inline constexpr double kSmallestNorm = 1.0 / 9223372036854775808.0;

// Similarities are compared in steps of 2⁻⁴⁰, far above the rounding error of a sum in double, so that the order of
// summation does not matter.
inline constexpr double kSimilaritySteps = 1099511627776.0;

// A key that is unique in a row and greater for the nearer neighbour: high bits the rounded similarity, NaN below all
// others; low bits the reversed index (below 2¹⁶).
MK_HOST_DEVICE int64_t neighbour_rank(double similarity, int index) {
  const double ordered = similarity != similarity ? -2.0 : similarity;
  return static_cast<int64_t>(llrint(ordered * kSimilaritySteps)) * 65536 + (65535 - index);
}

MK_HOST_DEVICE int neighbour_index(int64_t rank) { return 65535 - static_cast<int>(rank & 65535); }

}  // namespace molkernels

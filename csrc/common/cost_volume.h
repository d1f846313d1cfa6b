// Index arithmetic of the cost volume, shared by the CPU and the CUDA kernels.
//
// A displacement of s·d pixels preserves the residue of a position modulo s. So the pixels of an axis fall into
// independent classes: class r holds the positions r + s·i, and within a class displacements are steps of one.
#pragma once

#include "index.h"

namespace molkernels {

// The channel of displacement (dy, dx), in steps.
MK_HOST_DEVICE constexpr int64_t displacement_channel(int dy, int dx, int radius_y, int radius_x) {
  return int64_t(dy + radius_y) * (2 * radius_x + 1) + (dx + radius_x);
}

MK_HOST_DEVICE constexpr int64_t displacement_channels(int64_t radius_y, int64_t radius_x) {
  return (2 * radius_y + 1) * (2 * radius_x + 1);
}

// The number of classes that have pixels on an axis.
MK_HOST_DEVICE constexpr int class_count(int length, int stride) { return stride < length ? stride : length; }

// The number of pixels of an axis in class `residue` < length.
MK_HOST_DEVICE constexpr int class_extent(int length, int stride, int residue) {
  return ceil_div(length - residue, stride);
}

// Steps first … last; none where last < first.
struct StepRange {
  int first, last;
};

// The steps of at most `radius` that lead from i into [begin, begin + count).
MK_HOST_DEVICE constexpr StepRange steps_into(int i, int begin, int count, int radius) {
  const int first = begin - i, last = begin + count - 1 - i;
  return {first > -radius ? first : -radius, last < radius ? last : radius};
}

}  // namespace molkernels

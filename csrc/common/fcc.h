// How fcc is split into parts.
#pragma once

#include "index.h"

namespace molkernels {
namespace fcc {

inline constexpr int64_t kSamplesPerTask = 16;
inline constexpr int64_t kChannelsPerTask = 4;

// Rows of whole vectors, of up to 16 values, for one map in the backward kernel's scratch memory.
constexpr int64_t padded_area(int64_t height, int64_t width) { return height * ceil_div<int64_t>(width, 16) * 16; }

// Six working maps (one of them with its rows repeated, one for products of columns with columns), and the gradient of
// the normalised input of each sample, kept until the means over the batch are known.
constexpr int64_t backward_scratch(int64_t samples, int64_t height, int64_t width, bool training) {
  return 7 * 64 * 64 + (training ? samples : 1) * padded_area(height, width);
}

// The row of the statistics for a sample.
MK_HOST_DEVICE constexpr int64_t group_of(int64_t sample, int64_t groups) { return sample % groups; }

}  // namespace fcc
}  // namespace molkernels

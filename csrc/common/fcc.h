// How fcc is cut into parts.
#pragma once

#include "index.h"

namespace molkernels {
namespace fcc {

inline constexpr int64_t kSamplesPerTask = 16;
inline constexpr int64_t kChannelsPerTask = 4;

// The row of the statistics that a sample has.
MK_HOST_DEVICE constexpr int64_t group_of(int64_t sample, int64_t groups) { return sample % groups; }

}  // namespace fcc
}  // namespace molkernels

// Work split into as many parts as torch has threads, each with its own scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/tensor.h"

namespace molkernels {
namespace cpu {

// The number of parts that `tasks` are split into.
inline int64_t parts_of(int64_t tasks) {
  return std::min<int64_t>(tasks, std::max<int64_t>(1, torch::stable::get_num_threads()));
}

// f(part, begin, end) for each part of the tasks, on torch's threads; the parts do not depend on which thread runs
// them.
template <class F>
void for_parts(int64_t tasks, F f) {
  const int64_t parts = parts_of(tasks);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) f(part, tasks * part / parts, tasks * (part + 1) / parts);
  });
}

}  // namespace cpu
}  // namespace molkernels

// Kernels of knn: see reference.knn for the ranking.
#pragma once

#include <cstdint>

#include "../../common/neighbours.h"
#include "../isa.h"

namespace molkernels {

// `nodes` (maps, count, length) has any strides, in elements; `graph` (maps, count, k) is contiguous.
template <class T>
struct KnnInput {
  const T* nodes;
  int64_t maps, count, length, map_stride, node_stride, component_stride;
  int k;
  int32_t* graph;
};

// Scratch memory of one part of the tasks, in bytes, 64-byte aligned.
MK_DECLARE(int64_t knn_scratch(int64_t count, int64_t length), template <class T>)
// Tasks: `knn_tasks` blocks of rows per map.
MK_DECLARE(int64_t knn_tasks(int64_t count), template <class T>)
MK_DECLARE(void knn(const KnnInput<T>& a, unsigned char* scratch, int64_t begin, int64_t end), template <class T>)

}  // namespace molkernels

// Kernels of knn: see reference.knn for the ranking.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

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

// The same on products of bfloat16, for nodes that are contiguous along one of their axes. A map whose values are too
// large or too small for sums of products in float is left to `knn`: unfit[n] is 1, otherwise 0.
MK_DECLARE_BF16(int64_t knn16_scratch(int64_t count, int64_t length))
MK_DECLARE_BF16(int64_t knn16_tasks(int64_t count))
MK_DECLARE_BF16(void knn16(const KnnInput<torch::headeronly::BFloat16>& a, unsigned char* scratch, uint8_t* unfit,
                           int64_t begin, int64_t end))

}  // namespace molkernels

// Kernels of cost_volume and its backward: see reference.cost_volume for the mathematics.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "../../common/cost_volume.h"
#include "../isa.h"

namespace molkernels {

struct CostVolumeShape {
  int64_t maps, channels;
  int height, width, radius_y, radius_x, stride;
};

template <class T, class W>
struct CostVolumeInput : CostVolumeShape {
  const T *a, *b;
  T* out;
  W negative_slope;
};

template <class T, class W>
struct CostVolumeGradient : CostVolumeShape {
  const T *grad_out, *a, *b, *out;
  T *grad_a, *grad_b;
  W negative_slope;
};

// Tasks are maps; scratch is in bytes per part.
MK_DECLARE(int64_t cost_volume_scratch(const CostVolumeShape& shape), template <class W>)
MK_DECLARE(void cost_volume(const CostVolumeInput<T, W>& v, unsigned char* scratch, int64_t begin, int64_t end),
           template <class T, class W>)
MK_DECLARE(void cost_volume_backward(const CostVolumeGradient<T, W>& v, unsigned char* scratch, int64_t begin,
                                     int64_t end),
           template <class T, class W>)

// The same on products of bfloat16.
using CostVolumeInput16 = CostVolumeInput<torch::headeronly::BFloat16, float>;
using CostVolumeGradient16 = CostVolumeGradient<torch::headeronly::BFloat16, float>;
MK_DECLARE_BF16(int64_t cost_volume16_scratch(const CostVolumeShape& shape))
MK_DECLARE_BF16(void cost_volume16(const CostVolumeInput16& v, unsigned char* scratch, int64_t begin, int64_t end))
MK_DECLARE_BF16(void cost_volume16_backward(const CostVolumeGradient16& v, unsigned char* scratch, int64_t begin,
                                            int64_t end))

}  // namespace molkernels

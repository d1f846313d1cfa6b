// Kernels of fcc: ranges of tasks on pointers, all tensors contiguous, W = float, or double for T = double.
#pragma once

#include <cstdint>

#include "../../common/fcc.h"
#include "../isa.h"

namespace molkernels {

// What forward and backward share: see reference.fcc for the shapes.
template <class T, class W>
struct FccInput {
  const T* x;
  const W* mean;
  const W* var;
  const T *gamma, *beta, *pe_h, *pe_w, *weight_h, *weight_w, *bias_h, *bias_w;
  int64_t samples, channels, groups;
  int height, width;
  W eps;
  bool residual;
};

template <class T, class W>
struct FccForward : FccInput<T, W> {
  T* y;
};

// A task of fcc_forward is fcc::kSamplesPerTask samples of fcc::kChannelsPerTask channels.
MK_DECLARE(void fcc_forward(const FccForward<T, W>& a, int64_t begin, int64_t end), template <class T, class W>)

}  // namespace molkernels

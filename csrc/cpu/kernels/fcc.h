// Kernels of fcc: ranges of tasks on pointers, all tensors contiguous, W = float, or double for T = double.
#pragma once

#include <cstdint>

#include "../../common/fcc.h"
#include "../isa.h"

namespace molkernels {

// The inputs of both forward and backward; for the shapes see reference.fcc.
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

template <class T, class W>
struct FccTrain : FccForward<T, W> {
  W *batch_mean, *batch_var;  // (G, C); `mean` and `var` are the same memory
  double* moments;            // (C, G, 2), scratch
};

template <class T, class W>
struct FccBackward : FccInput<T, W> {
  const T* grad_y;
  T *grad_x, *grad_gamma, *grad_beta, *grad_pe_h, *grad_pe_w, *grad_weight_h, *grad_weight_w, *grad_bias_h,
      *grad_bias_w;
  bool training;
};

// A task is kSamplesPerTask samples of kChannelsPerTask channels.
MK_DECLARE(void fcc_forward(const FccForward<T, W>& a, int64_t begin, int64_t end), template <class T, class W>)

// A task is all samples of kChannelsPerTask channels.
MK_DECLARE(void fcc_train(const FccTrain<T, W>& a, int64_t begin, int64_t end), template <class T, class W>)

// A task is all samples of one channel. Scratch of the caller's thread: `maps` of fcc::backward_scratch values, `sums`
// of 2 values per group.
MK_DECLARE(void fcc_backward(const FccBackward<T, W>& a, int64_t begin, int64_t end, W* maps, double* sums),
           template <class T, class W>)

}  // namespace molkernels

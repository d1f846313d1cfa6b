// The rules of the edge convolution, the same on every backend.
#pragma once

#include "index.h"

namespace molkernels {

// Whether a message replaces the best one so far, as in torch.max: the first NaN wins, else the first of the largest.
template <class W>
MK_HOST_DEVICE constexpr bool beats(W message, W best) {
  return best == best && !(message <= best);
}

// max(v, 0), where NaN stays NaN.
template <class W>
MK_HOST_DEVICE constexpr W relu(W v) {
  return v < 0 ? W(0) : v;
}

// The gradient through a ReLU with output y; a mask, so that what is not finite does not pass a zero.
template <class W>
MK_HOST_DEVICE constexpr W relu_backward(W grad, W y) {
  return y > 0 ? grad : W(0);
}

}  // namespace molkernels

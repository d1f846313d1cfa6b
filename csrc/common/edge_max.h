// The rules of the edge convolution that every backend keeps.
#pragma once

#include "index.h"

namespace molkernels {

// Whether a message takes the place of the best one before it, as in torch.max: the first NaN wins, else the first of
// the largest.
template <class W>
MK_HOST_DEVICE constexpr bool beats(W message, W best) {
  return message > best || (message != message && best == best);
}

// max(v, 0), where NaN stays NaN.
template <class W>
MK_HOST_DEVICE constexpr W relu(W v) {
  return v < 0 ? W(0) : v;
}

// The gradient that passes a ReLU whose output was y; a product, so that an infinite gradient over a zero shows as NaN.
template <class W>
MK_HOST_DEVICE constexpr W relu_backward(W grad, W y) {
  return grad * W(y > 0);
}

}  // namespace molkernels

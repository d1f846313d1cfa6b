// edge_max for callers that need a residual and no winners.
#pragma once

#include "../common/tensor.h"

namespace molkernels {
namespace cpu {

// y ← edge_max(x) (+ x with `residual`), and the winners if requested; x contiguous.
void edge_max_into(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                   const Tensor& weight2, const Tensor& bias2, const std::string& graph, bool residual, const Tensor& y,
                   const Tensor* winner);

}  // namespace cpu
}  // namespace molkernels

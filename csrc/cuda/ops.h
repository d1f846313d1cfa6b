// The operators of the CUDA library as C++ functions: the schemas of molkernels/ops.py; last whether matrix products
// (and convolutions) in float32 may use TF32, see molkernels/precision.py.
//
// Shapes: see molkernels/reference.py, whose functions of the same names say what each computes. Any strides.
#pragma once

#include "../common/tensor.h"

namespace molkernels {
namespace cuda {

Tensor fcc(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma, const Tensor& beta,
           const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
           const Tensor& bias_w, double eps, bool residual, bool tf32);
std::tuple<Tensor, Tensor, Tensor> fcc_train(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                                             const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h,
                                             const Tensor& weight_w, const Tensor& bias_h, const Tensor& bias_w,
                                             int64_t groups, double eps, bool residual, bool tf32);
// Gradients of x, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fcc_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma,
    const Tensor& beta, const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w,
    const Tensor& bias_h, const Tensor& bias_w, double eps, bool residual, bool training, bool tf32);

Tensor knn(const Tensor& nodes, int64_t k, bool tf32);

std::tuple<Tensor, Tensor> edge_max(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                                    const Tensor& weight2, const Tensor& bias2, const std::string& graph, bool tf32);
// y alone, without the winners that only a gradient needs; or x + y, rounded as two operators would.
Tensor edge_max_inference(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                          const Tensor& weight2, const Tensor& bias2, const std::string& graph, bool tf32,
                          bool residual);
// Gradients of x, weight1, weight2 and of either bias.
std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_backward(const Tensor& grad_y, const Tensor& x, const Tensor& idx,
                                                             const Tensor& weight1, const Tensor& weight2,
                                                             const Tensor& y, const Tensor& winner,
                                                             const std::string& graph, bool tf32);

Tensor f5c(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma, const Tensor& beta,
           const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
           const Tensor& bias_w, const std::optional<Tensor>& fcc_mix, const std::optional<Tensor>& fcc_mix_bias,
           const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2,
           const std::optional<Tensor>& ccc_mix, const std::optional<Tensor>& ccc_mix_bias, int64_t k,
           const std::string& graph, double eps, bool tf32, bool conv_tf32);

Tensor cost_volume(const Tensor& a, const Tensor& b, int64_t radius_y, int64_t radius_x, int64_t stride,
                   double negative_slope, bool tf32);
std::tuple<Tensor, Tensor> cost_volume_backward(const Tensor& grad_out, const Tensor& a, const Tensor& b,
                                                const Tensor& out, int64_t radius_y, int64_t radius_x, int64_t stride,
                                                double negative_slope, bool tf32);

}  // namespace cuda
}  // namespace molkernels

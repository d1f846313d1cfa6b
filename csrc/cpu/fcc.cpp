// Fully-connected convolution on the CPU: tensors, threads and registration.
#include "kernels/fcc.h"

#include "ops.h"

namespace molkernels {
namespace cpu {
namespace {

// Contiguous tensors in the order of FccInput; they live as long as the pointers to them are used.
struct Inputs {
  Tensor x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w;

  Inputs(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma, const Tensor& beta,
         const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
         const Tensor& bias_w)
      : x(molkernels::contiguous(x)),
        mean(molkernels::contiguous(mean)),
        var(molkernels::contiguous(var)),
        gamma(molkernels::contiguous(gamma)),
        beta(molkernels::contiguous(beta)),
        pe_h(molkernels::contiguous(pe_h)),
        pe_w(molkernels::contiguous(pe_w)),
        weight_h(molkernels::contiguous(weight_h)),
        weight_w(molkernels::contiguous(weight_w)),
        bias_h(molkernels::contiguous(bias_h)),
        bias_w(molkernels::contiguous(bias_w)) {
    require(this->x.dim() == 4, "fcc takes x of shape (N, C, H, W)");
    require(this->x.size(1) % 2 == 0, "fcc takes an even number of channels");
    require(1 <= this->x.size(2) && this->x.size(2) <= 64 && 1 <= this->x.size(3) && this->x.size(3) <= 64,
            "fcc takes maps of 1 to 64 pixels a side");
  }

  template <class T>
  void fill(FccInput<T, wide_t<T>>& a, double eps, bool residual) const {
    using W = wide_t<T>;
    a.x = in<T>(x);
    a.mean = in<W>(mean);
    a.var = in<W>(var);
    a.gamma = in<T>(gamma);
    a.beta = in<T>(beta);
    a.pe_h = in<T>(pe_h);
    a.pe_w = in<T>(pe_w);
    a.weight_h = in<T>(weight_h);
    a.weight_w = in<T>(weight_w);
    a.bias_h = in<T>(bias_h);
    a.bias_w = in<T>(bias_w);
    a.samples = x.size(0);
    a.channels = x.size(1);
    a.groups = mean.size(0);
    a.height = int(x.size(2));
    a.width = int(x.size(3));
    a.eps = W(eps);
    a.residual = residual;
  }
};

}  // namespace

Tensor fcc(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma, const Tensor& beta,
           const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
           const Tensor& bias_w, double eps, bool residual) {
  const Inputs inputs(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w);
  Tensor y = empty_like(inputs.x);
  for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    FccForward<T, wide_t<T>> a;
    inputs.fill(a, eps, residual);
    a.y = out<T>(y);
    const int64_t tasks = ceil_div(a.samples, fcc::kSamplesPerTask) * ceil_div(a.channels, fcc::kChannelsPerTask);
    torch::stable::parallel_for(
        0, tasks, 1, [&](int64_t begin, int64_t end) { MK_KERNEL(fcc_forward<T, wide_t<T>>)(a, begin, end); });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> fcc_train(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                                             const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h,
                                             const Tensor& weight_w, const Tensor& bias_h, const Tensor& bias_w,
                                             int64_t groups, double eps, bool residual) {
  require(groups > 0 && x.size(0) % groups == 0, "fcc_train takes a number of groups that divides N");
  const ScalarType wide = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor mean = empty(x, {groups, x.size(1)}, wide), var = empty_like(mean);
  const Inputs inputs(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w);
  const Tensor y = empty_like(inputs.x), moments = empty(x, {x.size(1), groups, 2}, ScalarType::Double);
  for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    FccTrain<T, W> a;
    inputs.fill(a, eps, residual);
    a.y = out<T>(y);
    a.batch_mean = out<W>(mean);
    a.batch_var = out<W>(var);
    a.moments = out<double>(moments);
    const int64_t tasks = ceil_div(a.channels, fcc::kChannelsPerTask);
    torch::stable::parallel_for(0, tasks, 1,
                                [&](int64_t begin, int64_t end) { MK_KERNEL(fcc_train<T, W>)(a, begin, end); });
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fcc_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma,
    const Tensor& beta, const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w,
    const Tensor& bias_h, const Tensor& bias_w, double eps, bool residual, bool training) {
  const Inputs inputs(x, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w);
  const Tensor grad = molkernels::contiguous(grad_y), grad_x = empty_like(inputs.x);
  const Tensor grad_gamma = empty_like(inputs.gamma), grad_beta = empty_like(inputs.beta);
  const Tensor grad_pe_h = empty_like(inputs.pe_h), grad_pe_w = empty_like(inputs.pe_w);
  const Tensor grad_weight_h = empty_like(inputs.weight_h), grad_weight_w = empty_like(inputs.weight_w);
  const Tensor grad_bias_h = empty_like(inputs.bias_h), grad_bias_w = empty_like(inputs.bias_w);
  for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    FccBackward<T, W> a;
    inputs.fill(a, eps, residual);
    a.grad_y = in<T>(grad);
    a.grad_x = out<T>(grad_x);
    a.grad_gamma = out<T>(grad_gamma);
    a.grad_beta = out<T>(grad_beta);
    a.grad_pe_h = out<T>(grad_pe_h);
    a.grad_pe_w = out<T>(grad_pe_w);
    a.grad_weight_h = out<T>(grad_weight_h);
    a.grad_weight_w = out<T>(grad_weight_w);
    a.grad_bias_h = out<T>(grad_bias_h);
    a.grad_bias_w = out<T>(grad_bias_w);
    a.training = training;
    const int64_t values = fcc::backward_scratch(a.samples, a.height, a.width, training);
    torch::stable::parallel_for(0, a.channels, 1, [&](int64_t begin, int64_t end) {
      const Tensor scratch = empty(x, {values}, scalar_type_of<W>);
      const Tensor sums = empty(x, {a.groups, 2}, ScalarType::Double);
      MK_KERNEL(fcc_backward<T, W>)(a, begin, end, out<W>(scratch), out<double>(sums));
    });
  });
  return {grad_x, grad_gamma, grad_beta, grad_pe_h, grad_pe_w, grad_weight_h, grad_weight_w, grad_bias_h, grad_bias_w};
}

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) {
  m.impl("fcc", TORCH_BOX(&molkernels::cpu::fcc));
  m.impl("fcc_train", TORCH_BOX(&molkernels::cpu::fcc_train));
  m.impl("fcc_backward", TORCH_BOX(&molkernels::cpu::fcc_backward));
}

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

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) { m.impl("fcc", TORCH_BOX(&molkernels::cpu::fcc)); }

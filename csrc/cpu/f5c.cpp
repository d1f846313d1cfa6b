// The F5C block in evaluation on the CPU, composed of its operators with residuals and biases fused into their last
// steps.
#include "edge_max.h"
#include "kernels/mix.h"
#include "ops.h"
#include "threads.h"

namespace molkernels {
namespace cpu {
namespace {

#if defined(MK_KERNEL_BF16)
void mix_in_bf16(const Tensor& x, const Tensor& weight, const Tensor* bias, const Tensor& residual, const Tensor& y) {
  const int64_t channels = x.size(1), positions = x.size(2) * x.size(3);
  const Tensor panels = empty(x, {MK_KERNEL_BF16(mix16_panels_size)(channels)}, ScalarType::BFloat16);
  MK_KERNEL_BF16(mix16_pack_weight)(in<BFloat16>(weight), channels, out<BFloat16>(panels));
  const MixInput16 a{in<BFloat16>(x),
                     in<BFloat16>(panels),
                     bias != nullptr ? in<BFloat16>(*bias) : nullptr,
                     in<BFloat16>(residual),
                     out<BFloat16>(y),
                     x.size(0),
                     channels,
                     positions};
  const int64_t tasks = a.maps * MK_KERNEL_BF16(mix16_blocks)(positions),
                bytes = MK_KERNEL_BF16(mix16_scratch)(channels);
  const Tensor scratch = empty(x, {parts_of(tasks) * bytes}, ScalarType::Byte);
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL_BF16(mix16)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });
}
#endif

// residual + the 1×1 convolution of x (N, C, H, W), both contiguous.
Tensor mix(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& residual) {
  const Tensor whole = contiguous(weight);
  const Tensor offset = bias.has_value() ? contiguous(*bias) : whole;
  Tensor y = empty_like(x);
#if defined(MK_KERNEL_BF16)
  if (x.scalar_type() == ScalarType::BFloat16 && multiplies_bf16()) {
    mix_in_bf16(x, whole, bias.has_value() ? &offset : nullptr, residual, y);
    return y;
  }
#endif
  for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    const int64_t channels = x.size(1), positions = x.size(2) * x.size(3);
    const Tensor panels = empty(x, {MK_KERNEL(mix_panels_size<W>)(channels)}, scalar_type_of<W>);
    MK_KERNEL(pack_mix_weight<T, W>)(in<T>(whole), channels, out<W>(panels));
    const MixInput<T, W> a{in<T>(x),        in<W>(panels), bias.has_value() ? in<T>(offset) : nullptr,
                           in<T>(residual), out<T>(y),     x.size(0),
                           channels,        positions};
    const int64_t tasks = a.maps * MK_KERNEL(mix_blocks<W>)(positions), bytes = MK_KERNEL(mix_scratch<W>)(channels);
    const Tensor scratch = empty(x, {parts_of(tasks) * bytes}, ScalarType::Byte);
    for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
      MK_KERNEL(mix<T, W>)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
    });
  });
  return y;
}

}  // namespace

Tensor f5c(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma, const Tensor& beta,
           const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
           const Tensor& bias_w, const std::optional<Tensor>& fcc_mix, const std::optional<Tensor>& fcc_mix_bias,
           const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2,
           const std::optional<Tensor>& ccc_mix, const std::optional<Tensor>& ccc_mix_bias, int64_t k,
           const std::string& graph, double eps) {
  const Tensor input = contiguous(x);
  Tensor z =
      fcc(input, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, eps, !fcc_mix.has_value());
  if (fcc_mix.has_value()) z = mix(z, *fcc_mix, fcc_mix_bias, input);

  const int64_t maps = z.size(0), channels = z.size(1), positions = z.size(2) * z.size(3);
  const Tensor nodes = torch::stable::view(z, {maps, channels, positions});
  const Tensor idx = knn(graph == "channel" ? nodes : torch::stable::transpose(nodes, 1, 2), k);
  Tensor y = empty_like(z);
  edge_max_into(nodes, idx, weight1, bias1, weight2, bias2, graph, !ccc_mix.has_value(), y, nullptr);
  return ccc_mix.has_value() ? mix(y, *ccc_mix, ccc_mix_bias, z) : y;
}

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) { m.impl("f5c", TORCH_BOX(&molkernels::cpu::f5c)); }

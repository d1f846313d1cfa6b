// Correlation of two maps over displacements on the CPU: tensors, threads and registration.
#include "kernels/cost_volume.h"

#include "ops.h"
#include "threads.h"

namespace molkernels {
namespace cpu {
namespace {

CostVolumeShape shape_of(const Tensor& a, const Tensor& b, int64_t radius_y, int64_t radius_x, int64_t stride) {
  require(a.dim() == 4 && b.dim() == 4 && a.numel() == b.numel(), "cost_volume takes two maps (N, C, H, W)");
  require(a.size(2) <= 64 && a.size(3) <= 64 && stride >= 1, "cost_volume takes maps of 1 to 64 pixels a side");
  return {a.size(0), a.size(1), int(a.size(2)), int(a.size(3)), int(radius_y), int(radius_x), int(stride)};
}

// kernel(arguments, scratch, begin, end) over all maps, with `bytes` of scratch for each part.
template <class Kernel, class Arguments>
void for_maps(Kernel kernel, const Arguments& arguments, const Tensor& like, int64_t bytes) {
  const Tensor scratch = empty(like, {parts_of(arguments.maps) * bytes}, ScalarType::Byte);
  for_parts(arguments.maps, [&](int64_t part, int64_t begin, int64_t end) {
    kernel(arguments, out<uint8_t>(scratch) + part * bytes, begin, end);
  });
}

}  // namespace

Tensor cost_volume(const Tensor& a, const Tensor& b, int64_t radius_y, int64_t radius_x, int64_t stride,
                   double negative_slope) {
  const CostVolumeShape shape = shape_of(a, b, radius_y, radius_x, stride);
  const Tensor first = contiguous(a), second = contiguous(b);
  Tensor volume =
      empty(a, {a.size(0), displacement_channels(radius_y, radius_x), a.size(2), a.size(3)}, a.scalar_type());
  for_dtype<double, float, BFloat16, Half>(a.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    const CostVolumeInput<T, W> v{shape, in<T>(first), in<T>(second), out<T>(volume), W(negative_slope)};
#if defined(MK_KERNEL_BF16)
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (multiplies_bf16()) {
        return for_maps(MK_KERNEL_BF16(cost_volume16), v, a, MK_KERNEL_BF16(cost_volume16_scratch)(shape));
      }
    }
#endif
    for_maps(MK_KERNEL(cost_volume<T, W>), v, a, MK_KERNEL(cost_volume_scratch<W>)(shape));
  });
  return volume;
}

std::tuple<Tensor, Tensor> cost_volume_backward(const Tensor& grad_out, const Tensor& a, const Tensor& b,
                                                const Tensor& volume, int64_t radius_y, int64_t radius_x,
                                                int64_t stride, double negative_slope) {
  const CostVolumeShape shape = shape_of(a, b, radius_y, radius_x, stride);
  const Tensor grad = contiguous(grad_out), first = contiguous(a), second = contiguous(b), result = contiguous(volume);
  Tensor grad_a = empty_like(first), grad_b = empty_like(second);
  for_dtype<double, float, BFloat16, Half>(a.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    const CostVolumeGradient<T, W> v{shape,         in<T>(grad),    in<T>(first),   in<T>(second),
                                     in<T>(result), out<T>(grad_a), out<T>(grad_b), W(negative_slope)};
#if defined(MK_KERNEL_BF16)
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (multiplies_bf16()) {
        return for_maps(MK_KERNEL_BF16(cost_volume16_backward), v, a, MK_KERNEL_BF16(cost_volume16_scratch)(shape));
      }
    }
#endif
    for_maps(MK_KERNEL(cost_volume_backward<T, W>), v, a, MK_KERNEL(cost_volume_scratch<W>)(shape));
  });
  return {grad_a, grad_b};
}

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) {
  m.impl("cost_volume", TORCH_BOX(&molkernels::cpu::cost_volume));
  m.impl("cost_volume_backward", TORCH_BOX(&molkernels::cpu::cost_volume_backward));
}

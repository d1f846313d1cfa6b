// Fully-connected convolution: both branches of a map in one pass, forward and backward; see fcc.cuh for the formulas.
//
// Memory traffic in maps of x, which limits every kernel here:
//
//   fcc            read x, write y                                                       2
//   fcc_train      read x for the statistics; read x, write y                            3
//   fcc_backward   given statistics: read x, grad_y, write grad_x in one pass            3
//                  batch statistics: read x, grad_y; read x, grad_y, write grad_x        5
//
// With batch statistics the gradient of u0 is recomputed instead of being kept in grad_x's memory: keeping it costs a
// write and a read, while grad_y costs one read, and rounds it.
//
// No atomic additions: blocks write sums to scratch memory, which are added in order.
#include "fcc.cuh"
#include "fcc_general.cuh"
#include "fcc_lines.cuh"
#include "ops.h"

namespace molkernels {
namespace cuda {
namespace {

using namespace fcc_kernels;

// The parameters' tensors, contiguous, in the order of the schema.
struct ParameterTensors {
  Tensor gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w;

  template <class T>
  Parameters<T> pointers() const {
    return {in<T>(gamma),    in<T>(beta),     in<T>(pe_h),   in<T>(pe_w),
            in<T>(weight_h), in<T>(weight_w), in<T>(bias_h), in<T>(bias_w)};
  }
};

template <class... Tensors>
ParameterTensors contiguous_all(const Tensors&... tensors) {
  return {molkernels::contiguous(tensors)...};
}

constexpr int least_at_once = 4;  // a sample for each warp of a block

// Split the samples of each group into as many chunks as give every multiprocessor `blocks_each` blocks. A block
// processes `at_once` samples at a time; chunks hold a multiple of that if they are not smaller.
Plan plan_for(const OnDevice& device, const Tensor& x, int64_t groups, int64_t at_once, int blocks_each) {
  require(groups > 0 && x.size(0) % groups == 0, "the number of groups does not divide N");
  Plan plan;
  plan.samples = x.size(0) / groups;
  plan.groups = int(groups);
  plan.channels = int(x.size(1));
  plan.height = int(x.size(2));
  plan.width = int(x.size(3));
  require(plan.height <= max_side && plan.width <= max_side, "maps may have up to 64 x 64 pixels");
  const int64_t columns = plan.channels > 0 ? groups * plan.channels : 1;
  const int64_t wanted = ceil_div(int64_t(device.multiprocessors()) * blocks_each, columns);
  const int64_t share = plan.samples > 0 ? ceil_div(plan.samples, wanted) : 1;
  if (at_once < least_at_once) at_once = least_at_once;
  plan.per_chunk = share <= least_at_once ? least_at_once : ceil_div(share, at_once) * at_once;
  plan.chunks = int(ceil_div(plan.samples, plan.per_chunk));
  require(plan.blocks() < int64_t(1) << 31, "more maps than one launch can take");
  return plan;
}

// For the kernels that compute products of maps: blocks of four warps, each with up to 512 values in flight.
Plan map_plan(const OnDevice& device, const Tensor& x, int64_t groups) {
  const int64_t pixels = x.size(2) * x.size(3), maps = pixels >= 512 ? 1 : pixels >= 256 ? 2 : 4;
  return plan_for(device, x, groups, least_at_once * maps, 16);
}

// For the statistics: eight values per thread.
Plan statistics_plan(const OnDevice& device, const Tensor& x, int64_t groups) {
  return plan_for(device, x, groups, 8 * statistics_threads / (x.size(2) * x.size(3)), 8);
}

// A view may begin anywhere; 16-byte accesses must be aligned.
bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class T, bool Backward>
void apply(const OnDevice& device, const ApplyArguments<T>& a, bool tf32) {
  if (!has_side(a.plan) || !aligned(a.in) || !aligned(a.x)) return launch_general(device, a, Backward);
  if constexpr (std::is_same_v<T, float>)
    if (!tf32) return launch_lines(device, a, Backward);
  launch_tensor<T, Backward>(device, a);
}

template <class T>
void gradients(const OnDevice& device, const GradientArguments<T>& a, bool tf32) {
  if (!has_side(a.plan) || !aligned(a.grad_y) || !aligned(a.x)) return launch_general_gradient(device, a);
  if constexpr (std::is_same_v<T, float>)
    if (!tf32) return launch_lines_gradient(device, a);
  launch_tensor_gradient<T>(device, a);
}

// Moments of x + pe_a of every chunk, channel and group.
template <class T>
Tensor chunk_moments(const OnDevice& device, const Plan& plan, const Tensor& x, const Parameters<T>& p) {
  const Tensor moments = empty(x, {plan.blocks(), 2}, ScalarType::Float);
  const StatisticsArguments<T> a = {plan, in<T>(x), p.pe_h, p.pe_w, reinterpret_cast<float2*>(out<float>(moments))};
  const bool wide = plan.pixels() % 8 == 0 && aligned(a.x);
  launch_plan(device, wide ? fcc_statistics_kernel<T, 8> : fcc_statistics_kernel<T, 1>, plan, statistics_threads,
              plan.pixels() * int(sizeof(float)), a);
  return moments;
}

template <class T>
ApplyArguments<T> forward_arguments(const Plan& plan, const ParameterTensors& p, const Tensor& x, const Tensor& y,
                                    const Statistics& statistics, double eps, bool residual) {
  return {plan, p.pointers<T>(), in<T>(x), nullptr, out<T>(y), statistics, nullptr, float(eps), residual};
}

Statistics given(const Plan& plan, const Tensor& mean, const Tensor& var) {
  return {in<float>(mean), in<float>(var), plan, nullptr, nullptr, nullptr};
}

// Gradients of the parameters, like these.
ParameterTensors empty_gradients(const ParameterTensors& p) {
  return {empty_like(p.gamma),    empty_like(p.beta),     empty_like(p.pe_h),   empty_like(p.pe_w),
          empty_like(p.weight_h), empty_like(p.weight_w), empty_like(p.bias_h), empty_like(p.bias_w)};
}

// From the chunks' sums the gradients of the parameters and, in training, (G, C, 2) means.
template <class T>
void parameter_gradients(const OnDevice& device, const Plan& plan, const ParameterTensors& p,
                         const ParameterTensors& grads, const Tensor& sums, const Tensor& var, float2* means,
                         double eps) {
  const ParameterArguments<T> a = {plan,
                                   p.pointers<T>(),
                                   in<float>(sums),
                                   in<float>(var),
                                   means,
                                   out<T>(grads.gamma),
                                   out<T>(grads.beta),
                                   out<T>(grads.pe_h),
                                   out<T>(grads.pe_w),
                                   out<T>(grads.weight_h),
                                   out<T>(grads.weight_w),
                                   out<T>(grads.bias_h),
                                   out<T>(grads.bias_w),
                                   float(eps),
                                   means != nullptr};
  const int slot = ceil_div(plan.record_pitch(), 32) * 32, most = parameter_threads / slot;
  const int threads = slot * (plan.groups < most ? plan.groups : most);
  const int shared = int(sizeof(ChannelSums)) + threads * int(sizeof(float));
  launch(device, fcc_parameters_kernel<T>, dim3(unsigned(plan.channels)), threads, shared, a);
}

}  // namespace

Tensor fcc(const Tensor& x_, const Tensor& mean_, const Tensor& var_, const Tensor& gamma, const Tensor& beta,
           const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
           const Tensor& bias_w, double eps, bool residual, bool tf32) {
  const OnDevice device(x_);
  const Tensor x = molkernels::contiguous(x_), mean = molkernels::contiguous(mean_), var = molkernels::contiguous(var_);
  const ParameterTensors p = contiguous_all(gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w);
  const Tensor y = empty_like(x);
  const Plan plan = map_plan(device, x, mean.size(0));
  for_dtype<float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    apply<T, false>(device, forward_arguments<T>(plan, p, x, y, given(plan, mean, var), eps, residual), tf32);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> fcc_train(const Tensor& x_, const Tensor& gamma, const Tensor& beta,
                                             const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h,
                                             const Tensor& weight_w, const Tensor& bias_h, const Tensor& bias_w,
                                             int64_t groups, double eps, bool residual, bool tf32) {
  const OnDevice device(x_);
  const Tensor x = molkernels::contiguous(x_), y = empty_like(x);
  const ParameterTensors p = contiguous_all(gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w);
  Tensor mean = empty(x, {groups, x.size(1)}, ScalarType::Float), var = empty_like(mean);
  if (x.size(0) == 0) {
    torch::stable::zero_(mean);
    torch::stable::zero_(var);
    return {y, mean, var};
  }
  const Plan plan = map_plan(device, x, groups), chunks = statistics_plan(device, x, groups);
  for_dtype<float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor moments = chunk_moments<T>(device, chunks, x, p.pointers<T>());
    const Statistics statistics = {nullptr,          nullptr,
                                   chunks,           reinterpret_cast<const float2*>(in<float>(moments)),
                                   out<float>(mean), out<float>(var)};
    apply<T, false>(device, forward_arguments<T>(plan, p, x, y, statistics, eps, residual), tf32);
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fcc_backward(
    const Tensor& grad_y_, const Tensor& x_, const Tensor& mean_, const Tensor& var_, const Tensor& gamma,
    const Tensor& beta, const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w,
    const Tensor& bias_h, const Tensor& bias_w, double eps, bool residual, bool training, bool tf32) {
  const OnDevice device(x_);
  const Tensor grad_y = molkernels::contiguous(grad_y_), x = molkernels::contiguous(x_),
               mean = molkernels::contiguous(mean_), var = molkernels::contiguous(var_);
  const ParameterTensors p = contiguous_all(gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w);
  const ParameterTensors grads = empty_gradients(p);
  const Tensor grad_x = empty_like(x);
  const Plan plan = map_plan(device, x, mean.size(0));
  const Tensor sums = empty(x, {plan.blocks(), plan.record_pitch()}, ScalarType::Float);
  const Tensor means = empty(x, {plan.groups, plan.channels, 2}, ScalarType::Float);
  for_dtype<float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const float *mean_at = in<float>(mean), *var_at = in<float>(var);
    T* in_one_pass = training ? nullptr : out<T>(grad_x);
    gradients<T>(device,
                 {plan, p.pointers<T>(), in<T>(grad_y), in<T>(x), mean_at, var_at, out<float>(sums), in_one_pass,
                  float(eps), residual},
                 tf32);
    float2* means_at = reinterpret_cast<float2*>(out<float>(means));
    parameter_gradients<T>(device, plan, p, grads, sums, var, training ? means_at : nullptr, eps);
    if (training)
      apply<T, true>(device,
                     {plan, p.pointers<T>(), in<T>(grad_y), in<T>(x), out<T>(grad_x), given(plan, mean, var), means_at,
                      float(eps), residual},
                     tf32);
  });
  return {grad_x,         grads.gamma,    grads.beta,   grads.pe_h,  grads.pe_w,
          grads.weight_h, grads.weight_w, grads.bias_h, grads.bias_w};
}

}  // namespace cuda
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cuda, MK_DISPATCH_KEY, m) {
  m.impl("fcc", TORCH_BOX(&molkernels::cuda::fcc));
  m.impl("fcc_train", TORCH_BOX(&molkernels::cuda::fcc_train));
  m.impl("fcc_backward", TORCH_BOX(&molkernels::cuda::fcc_backward));
}

// edge_max on the graph of the channels, backward, with G = grad_y ∘ [y > 0]:
//
//   H[n, c', p] = Σ_{c: idx[n, c, winner[n, c, p]] = c'} G[n, c, p] − G[n, c', p]     what W2's product receives
//   grad_x = G W1 + H W2,   grad_W1 = Gᵀ x,   grad_W2 = Hᵀ x,   grad_b = Σ G           over the N·C rows (N·C, P)
//
// One kernel makes G and H, side by side as (N·C, 2P); the rest are plain products by torch: [G H] times W1 over W2,
// and two with K = N·C.  Work: 8 C P² FLOP per map; the kernel reads grad_y, y and winner and writes G and H, 66 MB at
// N = 224, C = 128, P = 256 in bfloat16.
#include "edge_max.cuh"
#include "ops.h"

namespace molkernels {
namespace cuda {
namespace {

constexpr int kRows = 8;  // rows that are read concurrently

// One thread per column (n, ·, p): only it adds to the column's sums, channel after channel, so the order is fixed.
// The sums are in shared memory, [c][thread], or, if a map has too many channels for that, in `scratch` (N, C, P).
template <class T>
__global__ void __launch_bounds__(64, 8)
    edge_max_channel_scatter(const T* grad_y, const T* y, const uint8_t* winner, Neighbours idx, T* both,
                             float* scratch, float* bias, int channels, int positions, int neighbours) {
  const int columns = blockDim.x, column_blocks = ceil_div(positions, columns);
  const int p = static_cast<int>(blockIdx.x) % column_blocks * columns + static_cast<int>(threadIdx.x);
  const int64_t n = static_cast<int>(blockIdx.x) / column_blocks, first = n * channels;
  if (p >= positions) return;
  float* sums = reinterpret_cast<float*>(dynamic_shared()) + threadIdx.x;
  int64_t stride = columns;
  if (scratch != nullptr) sums = scratch + first * positions + p, stride = positions;

  for (int c = 0; c < channels; ++c) sums[c * stride] = 0.f;
  float total = 0.f;
  for (int c = 0; c < channels; c += kRows) {
    float grad[kRows];
    int source[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = first + min(c + i, channels - 1), at = row * positions + p;
      grad[i] = relu_backward(static_cast<float>(grad_y[at]), static_cast<float>(y[at]));
      source[i] = idx.words[(row * neighbours + winner[at]) * idx.stride];
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (c + i >= channels) break;
      both[(first + c + i) * 2 * positions + p] = static_cast<T>(grad[i]);
      total += grad[i];
      if (source[i] == c + i) continue;
      sums[(c + i) * stride] -= grad[i];
      sums[source[i] * stride] += grad[i];
    }
  }
  bias[n * positions + p] = total;
  for (int c = 0; c < channels; ++c) {
    both[((first + c) * 2 + 1) * positions + p] = static_cast<T>(sums[c * stride]);
  }
}

// W1 over W2: (2P, P).
template <class T>
__global__ void __launch_bounds__(256) stack_weights(const T* weight1, const T* weight2, T* stacked, int64_t size) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= size) return;
  stacked[i] = weight1[i];
  stacked[size + i] = weight2[i];
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_channel_backward(const Tensor& grad_y, const Tensor& x,
                                                                     const Tensor& idx, const Tensor& weight1,
                                                                     const Tensor& weight2, const Tensor& y,
                                                                     const Tensor& winner) {
  const OnDevice device(x);
  const int64_t maps = x.size(0), channels = x.size(1), positions = x.size(2), size = positions * positions;
  Tensor both = empty(x, {maps * channels, 2 * positions}, x.scalar_type());
  Tensor stacked = empty(x, {2 * positions, positions}, x.scalar_type());
  Tensor bias = empty(x, {maps, positions}, ScalarType::Float), grad_bias = empty(x, {positions}, x.scalar_type());
  std::optional<Tensor> scratch;
  int columns = 64;
  while (columns > 32 && columns * channels * 4 > device.shared_memory()) columns /= 2;
  const bool fits = columns * channels * 4 <= device.shared_memory();
  if (!fits) scratch = empty(x, {maps, channels, positions}, ScalarType::Float);
  for_dtype<float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch(device, edge_max_channel_scatter<T>, dim3(grid_size(maps * ceil_div<int64_t>(positions, columns))), columns,
           fits ? static_cast<int>(columns * channels * 4) : 0, in<T>(grad_y), in<T>(y), in<uint8_t>(winner),
           neighbours_of(idx), out<T>(both), fits ? nullptr : out<float>(*scratch), out<float>(bias),
           static_cast<int>(channels), static_cast<int>(positions), static_cast<int>(idx.size(2)));
    launch(device, stack_weights<T>, dim3(grid_size(ceil_div<int64_t>(size, 256))), 256, 0, in<T>(weight1),
           in<T>(weight2), out<T>(stacked), size);
    sum_rows<T>(device, bias, grad_bias);
  });
  using torch::stable::matmul;
  const Tensor flat = torch::stable::view(x, {maps * channels, positions});
  const Tensor grad = torch::stable::transpose(torch::stable::narrow(both, 1, 0, positions), 0, 1);
  const Tensor grad_messages = torch::stable::transpose(torch::stable::narrow(both, 1, positions, positions), 0, 1);
  return {torch::stable::view(matmul(both, stacked), {maps, channels, positions}), matmul(grad, flat),
          matmul(grad_messages, flat), grad_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_backward(const Tensor& grad_y, const Tensor& x, const Tensor& idx,
                                                             const Tensor& weight1, const Tensor& weight2,
                                                             const Tensor& y, const Tensor& winner,
                                                             const std::string& graph, bool tf32) {
  const Tensor dense[] = {molkernels::contiguous(grad_y),  molkernels::contiguous(x),       molkernels::contiguous(idx),
                          molkernels::contiguous(weight1), molkernels::contiguous(weight2), molkernels::contiguous(y),
                          molkernels::contiguous(winner)};
  if (graph == "channel") {
    return edge_max_channel_backward(dense[0], dense[1], dense[2], dense[3], dense[4], dense[5], dense[6]);
  }
  return edge_max_position_backward(dense[0], dense[1], dense[2], dense[3], dense[4], dense[5], dense[6], tf32);
}

}  // namespace cuda
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cuda, MK_DISPATCH_KEY, m) {
  m.impl("edge_max_backward", TORCH_BOX(&molkernels::cuda::edge_max_backward));
}

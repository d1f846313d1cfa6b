// Edge convolution with maximum on the CPU: tensors, threads and registration.
#include "kernels/edge_max.h"

#include "edge_max.h"
#include "kernels/edge_max_bf16.h"
#include "ops.h"
#include "threads.h"

namespace molkernels {
namespace cpu {
namespace {

// Maps whose weight gradients one task sums: few enough to keep many cores busy, and fixed, so that the sums do not
// depend on the number of cores.
constexpr int64_t kMapsPerChunk = 32;
// Maps whose operands of products of bfloat16 are packed before they are multiplied: few enough for the caches.
constexpr int64_t kMapsAtOnce = 4;

// weight + factor · other as panels; `transposed` uses its columns as rows.
template <class T>
Tensor panels(const Tensor& weight, const Tensor* other, double factor, bool by_columns, bool transposed) {
  using W = wide_t<T>;
  const int64_t positions = weight.size(0), row = transposed ? 1 : positions, column = transposed ? positions : 1;
  Tensor packed = empty(weight, {MK_KERNEL(edge_panels_size<W>)(positions, by_columns)}, scalar_type_of<W>);
  const EdgeWeights<T, W> a{
      in<T>(weight), other != nullptr ? in<T>(*other) : nullptr, W(factor), positions, row, column, out<W>(packed)};
  for_parts(MK_KERNEL(edge_panels<W>)(positions, by_columns), [&](int64_t, int64_t begin, int64_t end) {
    MK_KERNEL(pack_edge_weights<T, W>)(a, by_columns, begin, end);
  });
  return packed;
}

template <class T>
Tensor bias_sum(const Tensor& bias1, const Tensor& bias2) {
  using W = wide_t<T>;
  Tensor sum = empty(bias1, {bias1.size(0)}, scalar_type_of<W>);
  const T *a = in<T>(bias1), *b = in<T>(bias2);
  W* to = out<W>(sum);
  for (int64_t p = 0, count = bias1.size(0); p < count; ++p) to[p] = W(a[p]) + W(b[p]);
  return sum;
}

Tensor as_int32(const Tensor& idx) {
  const Tensor whole = contiguous(idx);
  return whole.scalar_type() == ScalarType::Int ? whole : torch::stable::to(whole, ScalarType::Int);
}

// How a graph is computed: the weights of the node itself in addition to W1, and the layout of the panels.
struct Graph {
  bool channel;
  explicit Graph(const std::string& name) : channel(name == "channel") {
    require(channel || name == "position", "graph is neither 'channel' nor 'position'");
  }
  double node_factor() const { return channel ? -1.0 : -2.0; }
};

template <class T>
void run_forward(const EdgeInput<T, wide_t<T>>& a, const Graph& graph, const Tensor& like) {
  using W = wide_t<T>;
  const int64_t blocks = MK_KERNEL(edge_blocks<W>)(graph.channel ? a.positions : a.channels), tasks = a.maps * blocks;
  const int64_t bytes = graph.channel ? MK_KERNEL(edge_channel_scratch<W>)(a.channels, a.positions)
                                      : MK_KERNEL(edge_position_scratch<W>)(a.positions, a.k);
  const Tensor scratch = empty(like, {parts_of(tasks) * bytes}, ScalarType::Byte);
  const auto kernel = graph.channel ? MK_KERNEL(edge_max_channel<T, W>) : MK_KERNEL(edge_max_position<T, W>);
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    kernel(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });
}

#if defined(MK_KERNEL_BF16)

// Whether the kernels on products of bfloat16 take these tensors.
bool in_bf16(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16 && multiplies_bf16(); }

Tensor panels16(const Tensor& weight, const Tensor* other, double factor, bool by_rows) {
  const int64_t positions = weight.size(0), tasks = MK_KERNEL_BF16(edge16_panels)(positions);
  const int64_t bytes = MK_KERNEL_BF16(edge16_weights_scratch)(positions);
  const Tensor packed = empty(weight, {MK_KERNEL_BF16(edge16_panels_size)(positions)}, ScalarType::BFloat16);
  const Tensor scratch = empty(weight, {parts_of(tasks) * bytes}, ScalarType::Byte);
  const EdgeWeights16 a{
      in<BFloat16>(weight), other != nullptr ? in<BFloat16>(*other) : nullptr, float(factor), positions, by_rows,
      out<BFloat16>(packed)};
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL_BF16(edge16_pack_weights)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });
  return packed;
}

void run_forward16(const EdgeInput16& a, const Graph& graph, const Tensor& like) {
  const int64_t tasks = a.maps * MK_KERNEL_BF16(edge16_blocks)(graph.channel ? a.positions : a.channels);
  const int64_t bytes = graph.channel ? MK_KERNEL_BF16(edge16_channel_scratch)(a.channels, a.positions)
                                      : MK_KERNEL_BF16(edge16_position_scratch)(a.positions, a.k);
  const Tensor scratch = empty(like, {parts_of(tasks) * bytes}, ScalarType::Byte);
  const auto kernel = graph.channel ? MK_KERNEL_BF16(edge16_channel) : MK_KERNEL_BF16(edge16_position);
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    kernel(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });
}

#endif

void check_shapes(const Tensor& x, const Tensor& idx, const Graph& graph) {
  require(x.dim() == 3 && idx.dim() == 3, "edge_max takes x of shape (N, C, P) and idx of shape (N, nodes, k)");
  require(idx.size(0) == x.size(0) && idx.size(1) == x.size(graph.channel ? 1 : 2), "idx does not belong to x");
  require(1 <= idx.size(2) && idx.size(2) <= 16, "edge_max takes 1 to 16 neighbours");
}

}  // namespace

void edge_max_into(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                   const Tensor& weight2, const Tensor& bias2, const std::string& name, bool residual, const Tensor& y,
                   const Tensor* winner) {
  const Graph graph(name);
  check_shapes(x, idx, graph);
  const Tensor w1 = contiguous(weight1), w2 = contiguous(weight2), b1 = contiguous(bias1), b2 = contiguous(bias2);
  const Tensor neighbours = as_int32(idx);
  // The arguments of a kernel, from the panels of the weights and the sum of the biases.
  const auto input = [&](auto like, auto like_panels, const Tensor& to_neighbour, const Tensor& to_node,
                         const Tensor& bias) {
    using T = decltype(like);
    using W = wide_t<T>;
    using P = decltype(like_panels);
    return EdgeInput<T, W, P>{in<T>(x),
                              in<int32_t>(neighbours),
                              in<P>(to_neighbour),
                              in<P>(to_node),
                              in<W>(bias),
                              out<T>(y),
                              winner != nullptr ? out<uint8_t>(*winner) : nullptr,
                              x.size(0),
                              x.size(1),
                              x.size(2),
                              int(idx.size(2)),
                              residual};
  };
  const double factor = graph.node_factor();
#if defined(MK_KERNEL_BF16)
  if (in_bf16(x)) {
    const Tensor to_neighbour = panels16(w2, nullptr, 0, false), to_node = panels16(w1, &w2, factor, false);
    const Tensor bias = bias_sum<BFloat16>(b1, b2);
    return run_forward16(input(BFloat16{}, BFloat16{}, to_neighbour, to_node, bias), graph, x);
  }
#endif
  for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor to_neighbour = panels<T>(w2, nullptr, 0, graph.channel, false);
    const Tensor to_node = panels<T>(w1, &w2, factor, graph.channel, false);
    const Tensor bias = bias_sum<T>(b1, b2);
    run_forward<T>(input(zero, wide_t<T>{}, to_neighbour, to_node, bias), graph, x);
  });
}

std::tuple<Tensor, Tensor> edge_max(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                                    const Tensor& weight2, const Tensor& bias2, const std::string& graph) {
  const Tensor maps = contiguous(x);
  Tensor y = empty_like(maps), winner = empty(maps, {maps.size(0), maps.size(1), maps.size(2)}, ScalarType::Byte);
  edge_max_into(maps, idx, weight1, bias1, weight2, bias2, graph, false, y, &winner);
  return {y, winner};
}

namespace {

// The tensor converted to another dtype for a few torch operations; the same tensor if it has that dtype.
Tensor as(const Tensor& t, ScalarType dtype) { return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype); }

Tensor transposed(const Tensor& t) { return torch::stable::transpose(t, 0, 1); }

Tensor flattened(const Tensor& t) { return torch::stable::view(t, {t.size(0) * t.size(1), t.size(2)}); }

// (2P, P): [W1; W2].
template <class T>
Tensor stacked(const Tensor& weight1, const Tensor& weight2) {
  const int64_t size = weight1.numel();
  const Tensor both = empty(weight1, {2 * weight1.size(0), weight1.size(0)}, scalar_type_of<T>);
  std::copy_n(in<T>(weight1), size, out<T>(both));
  std::copy_n(in<T>(weight2), size, out<T>(both) + size);
  return both;
}

// The halves of a contiguous (2P, P) tensor, as tensors of their own.
template <class T>
std::pair<Tensor, Tensor> halves(const Tensor& both) {
  const int64_t positions = both.size(1), size = positions * positions;
  const Tensor top = empty(both, {positions, positions}, scalar_type_of<T>), bottom = empty_like(top);
  std::copy_n(in<T>(both), size, out<T>(top));
  std::copy_n(in<T>(both) + size, size, out<T>(bottom));
  return {top, bottom};
}

// The sum over the first axis, one row after another; zeros if there are no rows.
template <class W>
Tensor sum_of_rows(const Tensor& rows) {
  const int64_t count = rows.size(0);
  const int64_t size = rows.dim() == 2 ? rows.size(1) : rows.size(1) * rows.size(2);
  Tensor sum = rows.dim() == 2 ? empty(rows, {size}, scalar_type_of<W>)
                               : empty(rows, {rows.size(1), rows.size(2)}, scalar_type_of<W>);
  W* to = out<W>(sum);
  const W* from = in<W>(rows);
  for (int64_t i = 0; i < size; ++i) to[i] = count > 0 ? from[i] : W(0);
  for (int64_t row = 1; row < count; ++row) {
    for (int64_t i = 0; i < size; ++i) to[i] += from[row * size + i];
  }
  return sum;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Channel graph: with g (masked) and m (scattered to the winning neighbours), two torch products of rows [g | m − g]:
//   grad_x = (W1 − W2)ᵀ g + W2ᵀ m = W1ᵀ g + W2ᵀ (m − g),  grad_W1 = Σ g xᵀ,  grad_W2 = Σ (m − g) xᵀ

#if defined(MK_KERNEL_BF16)

Gradients channel_backward16(const Tensor& grad_y, const Tensor& x, const Tensor& idx, const Tensor& weight1,
                             const Tensor& weight2, const Tensor& y, const Tensor& winner) {
  const int64_t maps = x.size(0), channels = x.size(1), positions = x.size(2);
  const Tensor grads = empty(x, {maps * channels, 2 * positions}, ScalarType::BFloat16);
  const Tensor bias = empty(x, {maps, positions}, ScalarType::Float);
  const int64_t bytes = MK_KERNEL_BF16(edge16_scatter_scratch)(channels, positions);
  const Tensor scratch = empty(x, {parts_of(maps) * bytes}, ScalarType::Byte);
  const EdgeScatter16 a{in<BFloat16>(grad_y), in<BFloat16>(y),  in<int32_t>(idx), in<uint8_t>(winner),
                        out<BFloat16>(grads), out<float>(bias), channels,         positions,
                        int(idx.size(2))};
  for_parts(maps, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL_BF16(edge16_channel_scatter)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });
  const Tensor grad_x = torch::stable::matmul(grads, stacked<BFloat16>(weight1, weight2));
  const Tensor products = contiguous(torch::stable::matmul(transposed(grads), flattened(x)));  // (2P, P)
  const auto [grad1, grad2] = halves<BFloat16>(products);
  return {torch::stable::view(grad_x, {maps, channels, positions}), grad1, grad2,
          as(sum_of_rows<float>(bias), ScalarType::BFloat16)};
}

Gradients position_backward16(const Tensor& grad_y, const Tensor& x, const Tensor& idx, const Tensor& weight1,
                              const Tensor& weight2, const Tensor& y, const Tensor& winner) {
  const int64_t maps = x.size(0), channels = x.size(1), positions = x.size(2);
  const int k = int(idx.size(2));
  const Tensor to_neighbour = panels16(weight2, nullptr, 0, true), to_node = panels16(weight1, &weight2, -2.0, true);
  Tensor grad_x = empty_like(x), grad1 = empty_like(weight1), grad2 = empty_like(weight2);
  const EdgeGradient16 a{in<BFloat16>(grad_y),
                         in<BFloat16>(x),
                         in<BFloat16>(y),
                         in<int32_t>(idx),
                         in<uint8_t>(winner),
                         in<BFloat16>(to_neighbour),
                         in<BFloat16>(to_node),
                         out<BFloat16>(grad_x),
                         channels,
                         positions,
                         k};
  const int64_t tasks = maps * MK_KERNEL_BF16(edge16_blocks)(channels);
  const int64_t bytes = MK_KERNEL_BF16(edge16_grad_x_scratch)(positions, k);
  const Tensor scratch = empty(x, {parts_of(tasks) * bytes}, ScalarType::Byte);
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL_BF16(edge16_position_grad_x)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });

  const int64_t blocks = MK_KERNEL_BF16(edge16_blocks)(positions) * MK_KERNEL_BF16(edge16_blocks)(positions);
  const int64_t size = MK_KERNEL_BF16(edge16_operand_size)(channels, positions, k);
  const int64_t more = MK_KERNEL_BF16(edge16_operand_scratch)(channels, positions);
  const int64_t at_once = std::min(maps, kMapsAtOnce);
  const Tensor gradients = empty(x, {at_once * size}, ScalarType::BFloat16), nodes = empty_like(gradients);
  const Tensor node = empty(x, {blocks * 32 * 32}, ScalarType::Float), neighbour = empty_like(node);
  const Tensor bias = empty(x, {maps, positions}, ScalarType::Float);
  const Tensor packing = empty(x, {parts_of(at_once) * more}, ScalarType::Byte);
  EdgeProducts16 sums{a,
                      0,
                      0,
                      out<BFloat16>(gradients),
                      out<BFloat16>(nodes),
                      out<float>(node),
                      out<float>(neighbour),
                      out<float>(bias)};
  do {
    sums.maps = std::min(at_once, maps - sums.first);
    for_parts(sums.maps, [&](int64_t part, int64_t begin, int64_t end) {
      MK_KERNEL_BF16(edge16_pack_operands)(sums, out<uint8_t>(packing) + part * more, begin, end);
    });
    for_parts(blocks,
              [&](int64_t, int64_t begin, int64_t end) { MK_KERNEL_BF16(edge16_add_products)(sums, begin, end); });
    sums.first += sums.maps;
  } while (sums.first < maps);
  for_parts(positions, [&](int64_t, int64_t begin, int64_t end) {
    MK_KERNEL_BF16(edge16_write_gradients)(sums, out<BFloat16>(grad1), out<BFloat16>(grad2), begin, end);
  });
  return {grad_x, grad1, grad2, as(sum_of_rows<float>(bias), ScalarType::BFloat16)};
}

#endif

template <class T>
Gradients channel_backward(const Tensor& grad_y, const Tensor& x, const Tensor& idx, const Tensor& weight1,
                           const Tensor& weight2, const Tensor& y, const Tensor& winner) {
  using W = wide_t<T>;
  const int64_t maps = x.size(0), channels = x.size(1), positions = x.size(2);
  const ScalarType wide = scalar_type_of<W>;
  const Tensor grads = empty(x, {maps * channels, 2 * positions}, wide);
  const Tensor bias = empty(x, {maps, positions}, wide);
  const EdgeScatter<T, W> a{in<T>(grad_y), in<T>(y), in<int32_t>(idx), in<uint8_t>(winner), out<W>(grads),
                            out<W>(bias),  channels, positions,        int(idx.size(2))};
  for_parts(maps, [&](int64_t, int64_t begin, int64_t end) { MK_KERNEL(edge_channel_scatter<T, W>)(a, begin, end); });

  const Tensor both = stacked<W>(as(weight1, wide), as(weight2, wide));
  const Tensor grad_x = torch::stable::view(torch::stable::matmul(grads, both), {maps, channels, positions});
  const Tensor products = contiguous(torch::stable::matmul(transposed(grads), as(flattened(x), wide)));  // (2P, P)
  const auto [grad1, grad2] = halves<W>(products);
  return {as(grad_x, scalar_type_of<T>), as(grad1, scalar_type_of<T>), as(grad2, scalar_type_of<T>),
          as(sum_of_rows<W>(bias), scalar_type_of<T>)};
}

template <class T>
Gradients position_backward(const Tensor& grad_y, const Tensor& x, const Tensor& idx, const Tensor& weight1,
                            const Tensor& weight2, const Tensor& y, const Tensor& winner) {
  using W = wide_t<T>;
  const int64_t maps = x.size(0), channels = x.size(1), positions = x.size(2);
  const ScalarType wide = scalar_type_of<W>;
  const Tensor to_neighbour = panels<T>(weight2, nullptr, 0, false, true);
  const Tensor to_node = panels<T>(weight1, &weight2, -2.0, false, true);
  const int64_t chunks = ceil_div(maps, kMapsPerChunk);
  Tensor grad_x = empty_like(x), grad_bias = empty(x, {chunks, positions}, wide);
  Tensor grad_node = empty(x, {chunks, positions, positions}, wide);
  Tensor grad_neighbour = empty(x, {chunks, positions, positions}, wide);
  const Tensor map_panels = empty(x, {maps * MK_KERNEL(edge_map_panels_size<W>)(channels, positions)}, wide);
  const EdgeGradient<T, W> a{
      in<T>(grad_y),          in<T>(x),          in<T>(y),       in<int32_t>(idx),   in<uint8_t>(winner),
      in<W>(to_neighbour),    in<W>(to_node),    out<T>(grad_x), out<W>(map_panels), out<W>(grad_node),
      out<W>(grad_neighbour), out<W>(grad_bias), maps,           channels,           positions,
      kMapsPerChunk,          int(idx.size(2))};

  const int64_t tasks = maps * MK_KERNEL(edge_blocks<W>)(channels);
  const int64_t bytes = MK_KERNEL(edge_position_backward_scratch<W>)(positions, a.k);
  const Tensor scratch = empty(x, {parts_of(tasks) * bytes}, ScalarType::Byte);
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL(edge_position_grad_x<T, W>)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
  });

  for_parts(maps, [&](int64_t, int64_t begin, int64_t end) { MK_KERNEL(edge_pack_maps<T, W>)(a, begin, end); });
  const int64_t blocks = chunks * MK_KERNEL(edge_blocks<W>)(positions);
  const int64_t more = MK_KERNEL(edge_position_weights_scratch<W>)(channels, positions);
  const Tensor sums = empty(x, {parts_of(blocks) * more}, ScalarType::Byte);
  for_parts(blocks, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL(edge_position_grad_weights<T, W>)(a, out<uint8_t>(sums) + part * more, begin, end);
  });
  const Tensor node = sum_of_rows<W>(grad_node), neighbour = sum_of_rows<W>(grad_neighbour);
  W* less = out<W>(neighbour);
  const W* own = in<W>(node);
  for (int64_t i = 0; i < positions * positions; ++i) less[i] -= 2 * own[i];
  return {grad_x, as(node, scalar_type_of<T>), as(neighbour, scalar_type_of<T>),
          as(sum_of_rows<W>(grad_bias), scalar_type_of<T>)};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_backward(const Tensor& grad_y, const Tensor& x, const Tensor& idx,
                                                             const Tensor& weight1, const Tensor& weight2,
                                                             const Tensor& y, const Tensor& winner,
                                                             const std::string& name) {
  const Graph graph(name);
  check_shapes(x, idx, graph);
  std::optional<Gradients> result;
#if defined(MK_KERNEL_BF16)
  if (in_bf16(x)) {
    const auto backward = graph.channel ? &channel_backward16 : &position_backward16;
    return backward(contiguous(grad_y), contiguous(x), as_int32(idx), contiguous(weight1), contiguous(weight2),
                    contiguous(y), contiguous(winner));
  }
#endif
  for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto backward = graph.channel ? &channel_backward<T> : &position_backward<T>;
    result = backward(contiguous(grad_y), contiguous(x), as_int32(idx), contiguous(weight1), contiguous(weight2),
                      contiguous(y), contiguous(winner));
  });
  return *result;
}

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) {
  m.impl("edge_max", TORCH_BOX(&molkernels::cpu::edge_max));
  m.impl("edge_max_backward", TORCH_BOX(&molkernels::cpu::edge_max_backward));
}

// edge_max on the graph of the channels, forward:
//
//   y[n, c, p'] = ReLU(Σ_p W1[p', p] x[n, c, p] − m[n, c, p'] + b1[p'] + b2[p'] + max_j m[n, idx[n, c, j], p'])
//   m[n, c, p'] = Σ_p W2[p', p] x[n, c, p]
//
// x, y (N, C, P), idx (N, C, k), W (P, P), winner (N, C, P).  Work: 4 C P² FLOP per map (34 MFLOP at C = 128, P = 256);
// minimum traffic: x and y once, one byte per winner.  At N = 224, bfloat16: 7.5 GFLOP over 37 MB, 200 FLOP per byte:
// memory and tensor cores both near their limits.
//
// Up to 256 channels: a block computes all channels of one map for a range of outputs, so that it has every message
// that its channels need: both products in registers, the messages through shared memory, only y and winner written.
// More channels: the products by torch, then one gather.
#include "edge_max.cuh"
#include "ops.h"

namespace molkernels {
namespace cuda {
namespace {

constexpr int kMaxChannels = 256;
constexpr int kMaxThreads = 256;

template <class T>
struct ChannelForward {
  const T *x, *weight1, *weight2, *bias1, *bias2;
  Outputs<T> to;
  Neighbours idx;
  int channels, positions, neighbours, weight_pitch, weight_rows;
  int output_warps, stages;
  bool wide;
};

// The arrays of a block in shared memory: stages of x, W1 and W2, later replaced by the messages; and the neighbours.
template <class M>
struct ChannelLayout {
  int rows, outputs, stage, message_pitch, body;  // stage in elements, body in bytes

  MK_HOST_DEVICE ChannelLayout(int channels, int output_warps, int stages)
      : rows(ceil_div(channels, 32) * 32),
        outputs(32 * output_warps),
        stage((rows + 2 * outputs) * stage_pitch<M>),
        message_pitch(outputs + 16) {
    const int pipeline = stages * stage * int(sizeof(typename M::Element)), messages = rows * message_pitch * 4;
    body = pipeline > messages ? pipeline : messages;
  }
  MK_HOST_DEVICE int bytes(int neighbours) const { return body + rows * neighbours * 4; }
};

template <class M>
MK_DEVICE void load_stage(const ChannelForward<typename M::Element>& a, const ChannelLayout<M>& layout,
                          const typename M::Element* map, int first_output, int chunk, typename M::Element* stage) {
  using T = typename M::Element;
  constexpr int depth = stage_depth<M>, pitch = stage_pitch<M>, piece = 16 / int(sizeof(T));
  const int first = chunk * depth;
  for (int i = threadIdx.x; i < layout.rows * 4; i += blockDim.x) {
    const int channel = i / 4, p = first + i % 4 * piece;
    const T* from = map + static_cast<int64_t>(channel) * a.positions + p;
    const int count = channel < a.channels ? a.positions - p : 0;
    T* to = stage + channel * pitch + i % 4 * piece;
    if (a.wide) {
      copy_async16(to, count > 0 ? from : map, count > 0);
    } else {
      *reinterpret_cast<uint4*>(to) = load16(from, count, false);
    }
  }
#pragma unroll
  for (int matrix = 0; matrix < 2; ++matrix) {
    const T* weights = (matrix == 0 ? a.weight1 : a.weight2) + first;
    T* to = stage + (layout.rows + matrix * layout.outputs) * pitch;
    copy_stage<M>(to, layout.outputs, weights, [&](int row) {
      const int output = first_output + row / 32 * 32 + output_of_row<4>(row % 32);
      return output < a.weight_rows ? weights + static_cast<int64_t>(output) * a.weight_pitch : nullptr;
    });
  }
}

// Both products of 32 channels and 32 outputs.
template <class M>
MK_DEVICE void multiply_stage(float (&acc)[2][2][2][2][4], const typename M::Element* x,
                              const typename M::Element* weights, int matrix_stride) {
  constexpr int pitch = stage_pitch<M>;
#pragma unroll(M::unroll)
  for (int k = 0; k < stage_depth<M>; k += M::depth) {
    typename M::A a[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) a[i] = M::rounded(M::rows(x + 16 * i * pitch + k, pitch));
#pragma unroll
    for (int matrix = 0; matrix < 2; ++matrix) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const typename M::B b = M::pair(weights + matrix * matrix_stride + 16 * pair * pitch + k, pitch);
#pragma unroll
        for (int i = 0; i < 2; ++i) M::multiply(acc[matrix][i][pair], a[i], b);
      }
    }
  }
}

// Outputs 4 half … 4 half + 3 of lane t's eight are at 16 half + 4 t of a row of messages: four lanes read 64 bytes.
MK_DEVICE int message_at(int half, int t) { return 16 * half + 4 * t; }

// The largest message of the neighbours of a channel, for eight outputs, and which neighbour sent it (as bytes).
MK_DEVICE void gather_max(float (&best)[8], uint32_t (&winner)[2], const float* messages, int pitch, const int* rows,
                          int neighbours) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) best[i] = -__uint_as_float(0x7f800000u);
  winner[0] = winner[1] = 0;
  for (int j = 0; j < neighbours; ++j) {
    const float* row = messages + rows[j] * pitch;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 four = *reinterpret_cast<const float4*>(row + message_at(half, t));
      const float message[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (beats(message[i], best[4 * half + i])) {
          best[4 * half + i] = message[i];
          winner[half] = (winner[half] & ~(0xffu << 8 * i)) | static_cast<uint32_t>(j) << 8 * i;
        }
      }
    }
  }
}

template <class M>
__global__ void __launch_bounds__(kMaxThreads, 2) edge_max_channel_kernel(ChannelForward<typename M::Element> a) {
  using T = typename M::Element;
  constexpr int pitch = stage_pitch<M>;
  const ChannelLayout<M> layout(a.channels, a.output_warps, a.stages);
  T* const stages = reinterpret_cast<T*>(dynamic_shared());
  float* const messages = reinterpret_cast<float*>(dynamic_shared());
  int* const neighbours = reinterpret_cast<int*>(dynamic_shared() + layout.body);

  const int output_blocks = ceil_div(a.positions, layout.outputs);
  const int first_output = static_cast<int>(blockIdx.x) % output_blocks * layout.outputs;
  const int64_t n = static_cast<int>(blockIdx.x) / output_blocks;
  const T* map = a.x + n * a.channels * a.positions;

  const int chunks = ceil_div(a.positions, stage_depth<M>);
  for (int s = 0; s < a.stages - 1; ++s) {
    if (s < chunks) load_stage<M>(a, layout, map, first_output, s, stages + s * layout.stage);
    copy_async_commit();
  }
  for (int i = threadIdx.x; i < a.channels * a.neighbours; i += blockDim.x) {
    neighbours[i] = a.idx.words[(n * a.channels * a.neighbours + i) * a.idx.stride];
  }

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, channel_warps = layout.rows / 32;
  const int warp_channel = warp % channel_warps * 32, warp_output = warp / channel_warps * 32;
  float acc[2][2][2][2][4];  // matrix, 16 channels, 16 outputs, 8 outputs
#pragma unroll
  for (int i = 0; i < 64; ++i) acc[i / 32][i / 16 % 2][i / 8 % 2][i / 4 % 2][i % 4] = 0.f;
  for (int chunk = 0, slot = 0; chunk < chunks; ++chunk) {
    wait_stage(a.stages);
    const int next = chunk + a.stages - 1, fill = slot == 0 ? a.stages - 1 : slot - 1;
    if (next < chunks) load_stage<M>(a, layout, map, first_output, next, stages + fill * layout.stage);
    copy_async_commit();
    const T* stage = stages + slot * layout.stage;
    multiply_stage<M>(acc, stage + warp_channel * pitch, stage + (layout.rows + warp_output) * pitch,
                      layout.outputs * pitch);
    slot = slot + 1 == a.stages ? 0 : slot + 1;
  }

  // acc[0] becomes the product with W1 − W2 plus the biases; the messages go to shared memory.
  copy_async_wait<0>();
  __syncthreads();
  const int g = lane / 4, t = lane % 4, output = first_output + warp_output + 8 * t;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int p = output + i;
    const float bias = p < a.positions ? static_cast<float>(a.bias1[p]) + static_cast<float>(a.bias2[p]) : 0.f;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float& own = acc[0][r / 2][i / 4][i / 2 % 2][r % 2 * 2 + i % 2];
      own = own - acc[1][r / 2][i / 4][i / 2 % 2][r % 2 * 2 + i % 2] + bias;
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float* row = messages + (warp_channel + g + 8 * r) * layout.message_pitch + warp_output;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto& m = acc[1][r / 2][half];
      *reinterpret_cast<float4*>(row + message_at(half, t)) =
          make_float4(m[0][r % 2 * 2], m[0][r % 2 * 2 + 1], m[1][r % 2 * 2], m[1][r % 2 * 2 + 1]);
    }
  }
  __syncthreads();

#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int channel = warp_channel + g + 8 * r;
    if (channel >= a.channels) continue;
    float y[8];
    uint32_t winner[2];
    gather_max(y, winner, messages + warp_output, layout.message_pitch, neighbours + channel * a.neighbours,
               a.neighbours);
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = relu(acc[0][r / 2][i / 4][i / 2 % 2][r % 2 * 2 + i % 2] + y[i]);
    write_outputs(a.to, a.positions, n * a.channels + channel, output, y, winner);
  }
}

// y from the finished products own = x (W1 − W2)ᵀ and messages = x W2ᵀ, one thread per output.
template <class T>
__global__ void __launch_bounds__(256)
    edge_max_channel_gather(const T* own, const T* messages, const T* bias1, const T* bias2, Neighbours idx,
                            Outputs<T> to, int channels, int positions, int neighbours, int64_t size) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= size) return;
  const int64_t row = i / positions, map = row / channels * channels;
  const int p = static_cast<int>(i % positions);
  float best = -__uint_as_float(0x7f800000u);
  int who = 0;
  for (int j = 0; j < neighbours; ++j) {
    const int64_t from = map + idx.words[(row * neighbours + j) * idx.stride];
    const float message = static_cast<float>(messages[from * positions + p]);
    if (beats(message, best)) best = message, who = j;
  }
  to.y[i] = output_value(
      to, i, relu(static_cast<float>(own[i]) + static_cast<float>(bias1[p]) + static_cast<float>(bias2[p]) + best));
  if (to.winner != nullptr) to.winner[i] = static_cast<uint8_t>(who);
}

// The products of maps with many channels are plain ones, computed by torch and rounded to x's dtype as in the
// reference.
template <class M>
void many_channels(const OnDevice& device, const Tensor& x, const Tensor& idx, const Tensor& weight1,
                   const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, const EdgeOutputs& outputs) {
  using T = typename M::Element;
  const int64_t positions = x.size(2), rows = x.size(0) * x.size(1);
  Tensor packed = packed_weights<M>(device, weight1, weight2, 1.f, true);  // padded: use (P, P) of each
  Tensor matrices = torch::stable::narrow(packed, 1, 0, positions);
  matrices = torch::stable::narrow(matrices, 2, 0, positions);
  const Tensor flat = torch::stable::view(x, {rows, positions});
  const Tensor messages = torch::stable::matmul(flat, torch::stable::select(matrices, 0, 0));
  const Tensor own = torch::stable::matmul(flat, torch::stable::select(matrices, 0, 1));
  launch(device, edge_max_channel_gather<T>, dim3(grid_size(ceil_div<int64_t>(rows * positions, 256))), 256, 0,
         in<T>(own), in<T>(messages), in<T>(bias1), in<T>(bias2), neighbours_of(idx), pointers<T>(outputs),
         static_cast<int>(x.size(1)), static_cast<int>(positions), static_cast<int>(idx.size(2)), rows * positions);
}

// Warps along the outputs: as many as a block may have, fewer if that leaves multiprocessors idle; and the stages.
template <class M, class T>
int choose_tile(ChannelForward<T>& a, int64_t maps, const OnDevice& device) {
  const int channel_warps = ceil_div(a.channels, 32), limit = device.shared_memory();
  for (a.output_warps = 8; a.output_warps >= 1; a.output_warps /= 2) {
    const bool needed = a.output_warps * 16 < a.positions || a.output_warps == 1;
    if (!needed || channel_warps * a.output_warps * 32 > kMaxThreads) continue;
    if (a.output_warps > 1 && maps * ceil_div(a.positions, 32 * a.output_warps) < device.multiprocessors()) continue;
    for (a.stages = 3; a.stages >= 2; --a.stages) {
      const int need = ChannelLayout<M>(a.channels, a.output_warps, a.stages).bytes(a.neighbours);
      if (need <= limit) return need;
    }
  }
  throw std::runtime_error("molkernels: edge_max on the graph of " + std::to_string(a.channels) +
                           " channels needs more shared memory than the " + std::to_string(limit) +
                           " bytes of this device");
}

}  // namespace

void edge_max_channel(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                      const Tensor& weight2, const Tensor& bias2, bool tf32, const EdgeOutputs& outputs) {
  const OnDevice device(x);
  for_product(x.scalar_type(), tf32, [&](auto product) {
    using M = decltype(product);
    using T = typename M::Element;
    if (x.size(1) > kMaxChannels) {
      return many_channels<M>(device, x, idx, weight1, bias1, weight2, bias2, outputs);
    }
    ChannelForward<T> a{in<T>(x), in<T>(weight1), in<T>(weight2), in<T>(bias1), in<T>(bias2), pointers<T>(outputs)};
    a.idx = neighbours_of(idx);
    a.channels = static_cast<int>(x.size(1)), a.positions = static_cast<int>(x.size(2));
    a.neighbours = static_cast<int>(idx.size(2));
    a.wide = wide_rows(a.positions, {&x});
    a.weight_pitch = a.weight_rows = a.positions;
    std::optional<Tensor> packed;  // if the layout of the weights does not suit the tiles
    if (a.positions % 64 != 0 || std::is_same_v<M, MmaTf32> || !wide_rows(a.positions, {&weight1, &weight2})) {
      packed = packed_weights<M>(device, weight1, weight2, 0.f, false);
      a.weight_pitch = a.weight_rows = static_cast<int>(packed->size(1));
      a.weight2 = in<T>(*packed), a.weight1 = a.weight2 + static_cast<int64_t>(a.weight_pitch) * a.weight_pitch;
    }
    const int shared = choose_tile<M>(a, x.size(0), device);
    const int warps = ceil_div(a.channels, 32) * a.output_warps;
    const int64_t blocks = x.size(0) * ceil_div(a.positions, 32 * a.output_warps);
    launch(device, edge_max_channel_kernel<M>, dim3(grid_size(blocks)), 32 * warps, shared, a);
  });
}

namespace {

Tensor run(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
           const Tensor& bias2, const std::string& graph, bool tf32, std::optional<Tensor> winner, bool residual) {
  const Tensor map = molkernels::contiguous(x);
  const EdgeOutputs outputs{empty_like(map), winner, residual ? std::optional<Tensor>(map) : std::nullopt};
  const auto forward = graph == "channel" ? edge_max_channel : edge_max_position;
  forward(map, molkernels::contiguous(idx), molkernels::contiguous(weight1), molkernels::contiguous(bias1),
          molkernels::contiguous(weight2), molkernels::contiguous(bias2), tf32, outputs);
  return outputs.y;
}

}  // namespace

std::tuple<Tensor, Tensor> edge_max(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                                    const Tensor& weight2, const Tensor& bias2, const std::string& graph, bool tf32) {
  const Tensor winner = empty(x, {x.size(0), x.size(1), x.size(2)}, ScalarType::Byte);
  return {run(x, idx, weight1, bias1, weight2, bias2, graph, tf32, winner, false), winner};
}

Tensor edge_max_inference(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                          const Tensor& weight2, const Tensor& bias2, const std::string& graph, bool tf32,
                          bool residual) {
  return run(x, idx, weight1, bias1, weight2, bias2, graph, tf32, std::nullopt, residual);
}

}  // namespace cuda
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cuda, MK_DISPATCH_KEY, m) {
  m.impl("edge_max", TORCH_BOX(&molkernels::cuda::edge_max));
}

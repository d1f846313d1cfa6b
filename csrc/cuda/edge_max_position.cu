// edge_max on the graph of the positions, forward:
//
//   y[n, c, p'] = ReLU(Σ_p (W1 − 2 W2)[p', p] x[n, c, p] + b1[p'] + b2[p'] + max_j Σ_p W2[p', p] x[n, c, idx[n, p, j]])
//
// x, y (N, C, P), idx (N, P, k), W (P, P), winner (N, C, P).  Work: 2 (k + 1) C P² FLOP per map (84 MFLOP at C = 128,
// P = 256, k = 4); minimum traffic: x and y once, one byte per winner.  At N = 224, bfloat16: 18.8 GFLOP over 37 MB,
// about 500 FLOP per byte, so the tensor cores are the limit.
//
// A block holds up to 64 channels of one map, transposed: x[p][c].  The operand gathered for neighbour j has its K
// along p, so row p of it is row idx[p, j] of this tile, and the gather costs only bank conflicts.  A warp multiplies
// 16 channels by 64 outputs for four neighbours at once (all four share each weight fragment), keeps the maximum and
// its winner in registers, and loops over the neighbours in groups; the product with W1 − 2 W2 is one more group of one
// neighbour, the position itself.  The weights stream through shared memory in stages of 64 bytes per row.
#include "edge_max.cuh"

namespace molkernels {
namespace cuda {
namespace {

constexpr int kGroup = 4;      // neighbours that share a weight fragment
constexpr int kThreads = 128;  // at most: four warps

template <class T>
struct PositionForward {
  const T *x, *weights, *bias1, *bias2;  // weights (2, padded, padded): W2, then W1 − 2 W2
  Outputs<T> to;
  Neighbours idx;
  int channels, positions, neighbours, padded;
  int block_channels, output_warps, stages;
  bool wide;
};

// The arrays of a block in shared memory, in elements of T.
template <class M>
struct PositionLayout {
  int x_pitch, map, stage, stages, outputs;

  MK_HOST_DEVICE PositionLayout(int positions, int block_channels, int output_warps, int stages)
      : x_pitch(block_channels >= 16 ? block_channels + M::column_pad : block_channels),
        map((positions + 1) * x_pitch),
        stage(64 * output_warps * stage_pitch<M>),
        stages(stages),
        outputs(64 * output_warps) {}
  MK_HOST_DEVICE int bytes() const {
    return (map + stages * stage) * int(sizeof(typename M::Element)) + stages * kGroup * stage_depth<M> * 4 +
           outputs * 4;
  }
};

// A block's position in the pipeline: the group of neighbours (the last "group" is the product with W1 − 2 W2) and the
// stage within the sum over p.
struct Cursor {
  int group = 0, chunk = 0;
  MK_DEVICE void advance(int chunks) {
    if (++chunk == chunks) {
      chunk = 0;
      ++group;
    }
  }
};

// Start the copy of one stage: a tile of weights, and for each neighbour of the group the rows of x that it gathers.
template <class M>
MK_DEVICE void load_stage(const PositionForward<typename M::Element>& a, int64_t map, int first_output, int groups,
                          Cursor at, typename M::Element* weights, int* rows) {
  using T = typename M::Element;
  constexpr int depth = stage_depth<M>;
  const int first = at.chunk * depth;
  const T* matrix = a.weights + (at.group < groups ? 0 : static_cast<int64_t>(a.padded) * a.padded) + first;
  copy_stage<M>(weights, 64 * a.output_warps, matrix, [&](int row) {
    const int output = first_output + row / 64 * 64 + output_of_row<8>(row % 64);
    return output < a.padded ? matrix + static_cast<int64_t>(output) * a.padded : nullptr;
  });
  for (int i = threadIdx.x; i < kGroup * depth; i += blockDim.x) {
    const int position = first + i % depth, j = at.group * kGroup + i / depth;
    const bool own = at.group == groups;
    if (position < a.positions && !own && j < a.neighbours) {
      copy_async4(rows + i, a.idx.words + ((map * a.positions + position) * a.neighbours + j) * a.idx.stride);
    } else {
      rows[i] = own && position < a.positions ? position : a.positions;  // the row of zeros
    }
  }
}

// acc[j] += x[rows[j]]ᵀ (16 channels × depth) · weightsᵀ (depth × 64 outputs) for J neighbours.
template <class M, int J>
MK_DEVICE void multiply_stage(float (&acc)[kGroup][4][2][4], const typename M::Element* x, int x_pitch, int first,
                              int mask, const int* rows, const typename M::Element* weights) {
#pragma unroll(M::unroll)
  for (int k = 0; k < stage_depth<M>; k += M::depth) {
    typename M::A a[J];
#pragma unroll
    for (int j = 0; j < J; ++j) {
      const int* row = rows + j * stage_depth<M> + k;
      a[j] = M::columns(x, [&](int i) { return row[i] * x_pitch; }, first, mask);
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const typename M::B b = M::pair(weights + 16 * pair * stage_pitch<M> + k, stage_pitch<M>);
#pragma unroll
      for (int j = 0; j < J; ++j) M::multiply(acc[j][pair], a[j], b);
    }
  }
}

// A lane's running maximum over the neighbours: 16 consecutive outputs of two channels, the winners as bytes.
struct Best {
  float message[2][16];
  uint32_t winner[2][4];

  MK_DEVICE void reset() {
#pragma unroll
    for (int i = 0; i < 32; ++i) message[i / 16][i % 16] = -__uint_as_float(0x7f800000u);
#pragma unroll
    for (int i = 0; i < 8; ++i) winner[i / 4][i % 4] = 0;
  }
  MK_DEVICE void meet(const float (&acc)[4][2][4], int j) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int half = i / 16, output = i % 16;
      const float message_j = acc[output / 4][output / 2 % 2][2 * half + output % 2];
      if (beats(message_j, message[half][output])) {
        message[half][output] = message_j;
        uint32_t& word = winner[half][output / 4];
        word = (word & ~(0xffu << output % 4 * 8)) | static_cast<uint32_t>(j) << output % 4 * 8;
      }
    }
  }
};

template <class M>
__global__ void __launch_bounds__(kThreads) edge_max_position_kernel(PositionForward<typename M::Element> a) {
  using T = typename M::Element;
  constexpr int depth = stage_depth<M>;
  const PositionLayout<M> layout(a.positions, a.block_channels, a.output_warps, a.stages);
  T* const x = reinterpret_cast<T*>(dynamic_shared());
  T* const weights = x + layout.map;
  int* const rows = reinterpret_cast<int*>(weights + a.stages * layout.stage);
  float* const bias = reinterpret_cast<float*>(rows + a.stages * kGroup * depth);

  const int output_blocks = ceil_div(a.positions, layout.outputs);
  const int channel_blocks = ceil_div(a.channels, a.block_channels);
  const int first_output = static_cast<int>(blockIdx.x) % output_blocks * layout.outputs;
  const int first_channel = static_cast<int>(blockIdx.x) / output_blocks % channel_blocks * a.block_channels;
  const int64_t map = static_cast<int>(blockIdx.x) / output_blocks / channel_blocks;

  const int groups = ceil_div(a.neighbours, kGroup), chunks = ceil_div(a.positions, depth);
  Cursor ahead;
  for (int s = 0; s < a.stages - 1; ++s) {
    if (ahead.group <= groups) {
      load_stage<M>(a, map, first_output, groups, ahead, weights + s * layout.stage, rows + s * kGroup * depth);
      ahead.advance(chunks);
    }
    copy_async_commit();
  }
  load_transposed<M>(x, layout.x_pitch, a.x + map * a.channels * a.positions, a.channels, a.positions, first_channel,
                     a.block_channels, 0, a.positions, a.wide);
  for (int i = threadIdx.x; i < layout.x_pitch; i += blockDim.x) x[a.positions * layout.x_pitch + i] = T(0.f);
  for (int i = threadIdx.x; i < layout.outputs; i += blockDim.x) {
    const int p = first_output + i;
    bias[i] = p < a.positions ? static_cast<float>(a.bias1[p]) + static_cast<float>(a.bias2[p]) : 0.f;
  }

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int channel_warps = a.block_channels >= 16 ? a.block_channels / 16 : 1;
  const int warp_channel = warp % channel_warps * 16, warp_output = warp / channel_warps * 64;
  const int mask = a.block_channels - 1;  // lanes beyond the block's channels repeat others, unused
  Best best;
  best.reset();
  float acc[kGroup][4][2][4];
  int slot = 0;
  for (int group = 0; group <= groups; ++group) {
    const int count = group == groups ? 1 : min(kGroup, a.neighbours - group * kGroup);
#pragma unroll
    for (int i = 0; i < kGroup * 32; ++i) acc[i / 32][i / 8 % 4][i / 4 % 2][i % 4] = 0.f;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_stage(a.stages);
      const int fill = slot == 0 ? a.stages - 1 : slot - 1;
      if (ahead.group <= groups) {
        load_stage<M>(a, map, first_output, groups, ahead, weights + fill * layout.stage, rows + fill * kGroup * depth);
        ahead.advance(chunks);
      }
      copy_async_commit();
      const T* tile = weights + slot * layout.stage + warp_output * stage_pitch<M>;
      const int* gathered = rows + slot * kGroup * depth;
      if (count == 1) {
        multiply_stage<M, 1>(acc, x, layout.x_pitch, warp_channel, mask, gathered, tile);
      } else if (count == 2) {
        multiply_stage<M, 2>(acc, x, layout.x_pitch, warp_channel, mask, gathered, tile);
      } else {
        multiply_stage<M, kGroup>(acc, x, layout.x_pitch, warp_channel, mask, gathered, tile);
      }
      slot = slot + 1 == a.stages ? 0 : slot + 1;
    }
    if (group == groups) break;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if (j < count) best.meet(acc[j], group * kGroup + j);
    }
  }

  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int channel = warp_channel + g + 8 * half;
    if (channel >= a.block_channels || first_channel + channel >= a.channels) continue;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const int output = warp_output + 16 * t + 8 * part;
      float y[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int o = 8 * part + i;
        y[i] = relu(acc[0][o / 4][o / 2 % 2][2 * half + o % 2] + bias[output + i] + best.message[half][o]);
      }
      write_outputs(a.to, a.positions, map * a.channels + first_channel + channel, first_output + output, y,
                    best.winner[half] + 2 * part);
    }
  }
}

// Channels of a block and warps along the outputs: the most outputs per block that fit into shared memory, with three
// stages if that does not reduce them.
template <class M, class T>
int choose_tile(PositionForward<T>& a, int limit) {
  int best = 0, bytes = 0;
  for (int channels = 64; channels >= 16 / int(sizeof(T)); channels /= 2) {
    if (channels / 2 >= a.channels && channels / 2 >= 16 / int(sizeof(T))) continue;
    for (int warps = channels >= 16 ? 64 / channels : 4; warps >= 1; warps /= 2) {
      for (int stages = 3; stages >= 2; --stages) {
        const int need = PositionLayout<M>(a.positions, channels, warps, stages).bytes();
        if (need > limit || channels * warps <= best) continue;
        best = channels * warps, bytes = need;
        a.block_channels = channels, a.output_warps = warps, a.stages = stages;
      }
    }
  }
  return bytes;
}

}  // namespace

void edge_max_position(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                       const Tensor& weight2, const Tensor& bias2, bool tf32, const EdgeOutputs& outputs) {
  const OnDevice device(x);
  for_product(x.scalar_type(), tf32, [&](auto product) {
    using M = decltype(product);
    using T = typename M::Element;
    const Tensor weights = packed_weights<M>(device, weight1, weight2, 2.f, false);
    PositionForward<T> a{in<T>(x), in<T>(weights), in<T>(bias1), in<T>(bias2), pointers<T>(outputs)};
    a.idx = neighbours_of(idx);
    a.channels = static_cast<int>(x.size(1)), a.positions = static_cast<int>(x.size(2));
    a.neighbours = static_cast<int>(idx.size(2)), a.padded = static_cast<int>(weights.size(1));
    a.wide = wide_rows(a.positions, {&x});
    const int shared = choose_tile<M>(a, device.shared_memory());
    if (shared == 0) {
      throw std::runtime_error("molkernels: edge_max on the graph of " + std::to_string(a.positions) +
                               " positions needs more shared memory than the " +
                               std::to_string(device.shared_memory()) + " bytes of this device");
    }
    const int warps = (a.block_channels >= 16 ? a.block_channels / 16 : 1) * a.output_warps;
    const int64_t blocks =
        x.size(0) * ceil_div(a.channels, a.block_channels) * ceil_div(a.positions, 64 * a.output_warps);
    launch(device, edge_max_position_kernel<M>, dim3(grid_size(blocks)), 32 * warps, shared, a);
  });
}

}  // namespace cuda
}  // namespace molkernels

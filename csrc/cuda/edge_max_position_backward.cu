// edge_max on the graph of the positions, backward, with G = grad_y ∘ [y > 0] and G_j = G ∘ [winner = j]:
//
//   grad_x[n, c, q]  = Σ_p' G[n, c, p'] (W1 − 2 W2)[p', q] + Σ_{j, p: idx[n, p, j] = q} T_j[n, c, p]
//   T_j[n, c, p]     = Σ_p' G_j[n, c, p'] W2[p', p]
//   grad_W1[p', q]   = Σ_{n, c} G[n, c, p'] x[n, c, q]
//   grad_W2[p', q]   = Σ_{n, c, j} G_j[n, c, p'] x[n, c, idx[n, q, j]] − 2 grad_W1[p', q]
//   grad_b[p']       = Σ_{n, c} G[n, c, p']
//
// Work: 4 (k + 1) C P² FLOP per map, half for grad_x and half for the weights (168 MFLOP at C = 128, P = 256, k = 4).
// Minimum traffic: grad_y, y, x and grad_x once, one byte per winner.  At N = 224, bfloat16: 38 GFLOP over 66 MB, 570
// FLOP per byte.
//
// Five kernels, without atomics, in a fixed order:
//   mask       grad_y, y, winner → G and `wins` (N·C, P padded): bit j of wins says that j won; sums of G over rows
//   transpose  x → xT (N, P, C padded): then the row that a neighbour gathers is C contiguous values
//   grad_x     a map's block of channels: T_j in registers, added to the block's gradient in shared memory
//   weights    a tile of both weight gradients for a share of the maps: partial sums
//   combine    partial sums → grad_W1, grad_W2
#include "edge_max.cuh"

namespace molkernels {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaskThreads = 256;
constexpr unsigned kAll = 0xffffffffu;

// The words of `wins` are as wide as those of G, so that both have the same fragments.
template <class T>
using word_t = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;

// --------------------------------------------------------------------------------------------------------------------
// mask: a block handles `block_rows` rows of 8·lanes columns, a thread 8 columns of every (256 / lanes)-th row.

MK_DEVICE void load_winners(uint8_t (&values)[8], const uint8_t* from, int count, bool wide) {
  if (wide && count > 0) {
    const uint2 packed = *reinterpret_cast<const uint2*>(from);
    memcpy(values, &packed, 8);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = i < count ? from[i] : 0;
}

template <class M>
__global__ void __launch_bounds__(kMaskThreads)
    edge_max_mask(const typename M::Element* grad_y, const typename M::Element* y, const uint8_t* winner,
                  typename M::Element* grad, word_t<typename M::Element>* wins, float* bias, int64_t rows,
                  int positions, int padded, int block_rows, int lanes, bool wide) {
  using T = typename M::Element;
  float* const sums = reinterpret_cast<float*>(dynamic_shared());
  const int lane = threadIdx.x % lanes, together = kMaskThreads / lanes;
  const int column = (static_cast<int>(blockIdx.y) * lanes + lane) * 8, count = positions - column;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * block_rows, end = begin + block_rows;
  float total[8] = {};
  if (column < padded) {
    for (int64_t row = begin + threadIdx.x / lanes; row < end && row < rows; row += together) {
      float g[8], out[8];
      load8(g, grad_y + row * positions + column, count, wide);
      load8(out, y + row * positions + column, count, wide);
      uint8_t who[8];
      load_winners(who, winner + row * positions + column, count, wide);
      T stored[8];
      word_t<T> bits[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        g[i] = relu_backward(g[i], out[i]);
        total[i] += g[i];
        stored[i] = M::stored(g[i]);
        bits[i] = i < count ? static_cast<word_t<T>>(1u << who[i] % 16) : 0;
      }
      store8(grad + row * padded + column, stored);
      store8(wins + row * padded + column, bits);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) sums[threadIdx.x * 8 + i] = total[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 8 * lanes; i += kMaskThreads) {
    const int p = static_cast<int>(blockIdx.y) * lanes * 8 + i;
    float sum = 0.f;
    for (int r = 0; r < together; ++r) sum += sums[r * lanes * 8 + i];
    if (p < positions) bias[static_cast<int64_t>(blockIdx.x) * positions + p] = sum;
  }
}

// --------------------------------------------------------------------------------------------------------------------
// transpose: a block handles 64 channels of 128 positions.

template <class M>
__global__ void __launch_bounds__(kThreads)
    edge_max_transpose(const typename M::Element* x, typename M::Element* transposed, int channels, int positions,
                       int padded_channels, bool wide) {
  using T = typename M::Element;
  constexpr int piece = 16 / int(sizeof(T)), pitch = 64 + piece;
  T* const tile = reinterpret_cast<T*>(dynamic_shared());
  const int channel_blocks = ceil_div(channels, 64), position_blocks = ceil_div(positions, 128);
  const int first_channel = static_cast<int>(blockIdx.x) % channel_blocks * 64;
  const int first_position = static_cast<int>(blockIdx.x) / channel_blocks % position_blocks * 128;
  const int64_t n = static_cast<int>(blockIdx.x) / channel_blocks / position_blocks;
  load_transposed<M>(tile, pitch, x + n * channels * positions, channels, positions, first_channel, 64, first_position,
                     128, wide);
  __syncthreads();
  for (int i = threadIdx.x; i < 128 * 64 / piece; i += kThreads) {
    const int p = i / (64 / piece), c = i % (64 / piece) * piece;
    if (first_position + p >= positions || first_channel + c >= padded_channels) continue;
    *reinterpret_cast<uint4*>(transposed + (n * positions + first_position + p) * padded_channels + first_channel + c) =
        *reinterpret_cast<const uint4*>(tile + p * pitch + c);
  }
}

// --------------------------------------------------------------------------------------------------------------------
// grad_x: a block owns up to 64 channels of a map, a warp 16 of them, and all their positions: [q][c] sums in shared
// memory, to which only the warp adds.  It multiplies 64 columns p at a time for four neighbours at once: one fragment
// of G and its winners' bits make the four masked operands in registers.  Then it adds T_j[·, p] to idx[p, j].

constexpr int kGroup = 4;

template <class T>
struct PositionGradX {
  const T *grad, *wins, *weights;  // (N·C, padded) twice; (2, padded, padded): W2ᵀ, then (W1 − 2 W2)ᵀ
  T* grad_x;
  Neighbours idx;
  int channels, positions, neighbours, padded;
  int block_channels, stages;
  bool wide;
};

template <class M>
struct GradXLayout {
  int warps, sum_pitch, sums, stage, stages;

  MK_HOST_DEVICE GradXLayout(int positions, int block_channels, int stages)
      : warps(block_channels >= 16 ? block_channels / 16 : 1),
        sum_pitch(block_channels >= 16 ? block_channels + 1 : block_channels),
        sums(ceil_div((positions + 1) * sum_pitch, 4) * 4),  // and a row for columns beyond P
        stage((64 + 32 * warps) * stage_pitch<M>),
        stages(stages) {}
  MK_HOST_DEVICE int bytes() const {
    return sums * 4 + stages * stage * int(sizeof(typename M::Element)) + 2 * kGroup * 64 * 4;
  }
};

// Position in the pipeline: 64 columns p, the group of neighbours (the last: the product with W1 − 2 W2), the stage of
// K.
struct GradXCursor {
  int block = 0, group = 0, chunk = 0;
  MK_DEVICE void advance(int groups, int chunks) {
    if (++chunk < chunks) return;
    chunk = 0;
    if (++group <= groups) return;
    group = 0;
    ++block;
  }
};

template <class M>
MK_DEVICE void load_stage(const PositionGradX<typename M::Element>& a, int64_t map, int first_channel, int warps,
                          int groups, GradXCursor at, typename M::Element* stage, int* targets) {
  using T = typename M::Element;
  const bool own = at.group == groups;
  const int first = at.chunk * stage_depth<M>, rows = 16 * warps;
  const T* matrix = a.weights + (own ? static_cast<int64_t>(a.padded) * a.padded : 0) + first;
  copy_stage<M>(stage, 64, matrix, [&](int row) {
    return matrix + static_cast<int64_t>(at.block * 64 + output_of_row<8>(row)) * a.padded;
  });
  const auto row_of = [&](const T* tensor, int row) {
    const int channel = min(first_channel + (row & (a.block_channels - 1)), a.channels - 1);
    return tensor + (map * a.channels + channel) * a.padded + first;
  };
  copy_stage<M>(stage + 64 * stage_pitch<M>, rows, a.grad, [&](int row) { return row_of(a.grad, row); });
  if (!own) {
    copy_stage<M>(stage + (64 + rows) * stage_pitch<M>, rows, a.wins, [&](int row) { return row_of(a.wins, row); });
  }
  if (at.chunk != 0) return;
  for (int i = threadIdx.x; i < kGroup * 64; i += blockDim.x) {
    const int p = at.block * 64 + i % 64, j = at.group * kGroup + i / 64;
    if (p < a.positions && !own && j < a.neighbours) {
      copy_async4(targets + i, a.idx.words + ((map * a.positions + p) * a.neighbours + j) * a.idx.stride);
    } else {
      targets[i] = own && p < a.positions ? p : a.positions;
    }
  }
}

template <class M, int J>
MK_DEVICE void multiply_masked(float (&acc)[kGroup][4][2][4], const typename M::Element* weights,
                               const typename M::Element* grad, const typename M::Element* wins, int first,
                               unsigned keep) {
  constexpr int pitch = stage_pitch<M>;
#pragma unroll(M::unroll)
  for (int k = 0; k < stage_depth<M>; k += M::depth) {
    const typename M::A g = M::rows(grad + k, pitch), w = M::rows(wins + k, pitch);
    typename M::A a[J];
#pragma unroll
    for (int j = 0; j < J; ++j) a[j] = M::masked(g, w, first + j, keep);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const typename M::B b = M::pair(weights + 16 * pair * pitch + k, pitch);
#pragma unroll
      for (int j = 0; j < J; ++j) M::multiply(acc[j][pair], a[j], b);
    }
  }
}

// Bit 8 j + i: of the eight columns that the warp adds at once, 16 t + 2 i + e, no two have the same target.
MK_DEVICE unsigned distinct_targets(const int* targets) {
  const int lane = threadIdx.x % 32;
  int target[8];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int2 two = *reinterpret_cast<const int2*>(targets + lane / 8 * 64 + 16 * t + lane % 8 * 2);
    target[2 * t] = two.x;
    target[2 * t + 1] = two.y;
  }
  bool distinct = true;
#pragma unroll
  for (int a = 0; a < 8; ++a) {
#pragma unroll
    for (int b = 0; b < a; ++b) distinct = distinct && target[a] != target[b];
  }
  return __ballot_sync(kAll, distinct);
}

// sums[target][channel] += T for the warp's 16 channels and 64 columns.  `sums` points to the lane's channel; `upper`
// and `lower` say whether that one and the one 8 after it belong to the block.
MK_DEVICE void scatter(float* sums, int pitch, const int* targets, unsigned distinct, const float (&acc)[4][2][4],
                       bool upper, bool lower) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float (&v)[4] = acc[i / 2][i % 2];
    const int2 target = *reinterpret_cast<const int2*>(targets + 16 * t + 2 * i);
    float *even = sums + target.x * pitch, *odd = sums + target.y * pitch;
    if (distinct >> i & 1u) {
      // All reads before the first write, so that their latencies overlap.
      float had[4];
      if (upper) had[0] = even[0], had[1] = odd[0];
      if (lower) had[2] = even[8], had[3] = odd[8];
      if (upper) even[0] = had[0] + v[0], odd[0] = had[1] + v[1];
      if (lower) even[8] = had[2] + v[2], odd[8] = had[3] + v[3];
    } else {
#pragma unroll 1
      for (int turn = 0; turn < 4; ++turn) {
        if (turn == t) {
          if (upper) {
            even[0] += v[0];
            odd[0] += v[1];
          }
          if (lower) {
            even[8] += v[2];
            odd[8] += v[3];
          }
        }
        __syncwarp();
      }
    }
    __syncwarp();
  }
}

template <class M>
MK_DEVICE void write_gradient(const PositionGradX<typename M::Element>& a, int64_t map, int first_channel,
                              const float* sums, int pitch) {
  using T = typename M::Element;
  // Lanes: 8 channels × 4 pieces of 8 positions, which are in 32 different banks.
  const int side = min(a.block_channels, 8), pieces = ceil_div(a.positions, 8);
  for (int i = threadIdx.x; i < a.block_channels * pieces; i += blockDim.x) {
    const int c = i / side / pieces * side + i % side, p = i / side % pieces * 8;
    if (first_channel + c >= a.channels) continue;
    T values[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = static_cast<T>(sums[min(p + e, a.positions) * pitch + c]);
    T* to = a.grad_x + (map * a.channels + first_channel + c) * a.positions + p;
    if (a.wide) {
      store8(to, values);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (p + e < a.positions) to[e] = values[e];
      }
    }
  }
}

template <class M>
__global__ void __launch_bounds__(kThreads) edge_max_grad_x_kernel(PositionGradX<typename M::Element> a) {
  using T = typename M::Element;
  constexpr int pitch = stage_pitch<M>;
  const GradXLayout<M> layout(a.positions, a.block_channels, a.stages);
  float* const sums = reinterpret_cast<float*>(dynamic_shared());
  T* const stages = reinterpret_cast<T*>(sums + layout.sums);
  int* const targets = reinterpret_cast<int*>(stages + a.stages * layout.stage);  // two, used in turn

  const int channel_blocks = ceil_div(a.channels, a.block_channels);
  const int first_channel = static_cast<int>(blockIdx.x) % channel_blocks * a.block_channels;
  const int64_t map = static_cast<int>(blockIdx.x) / channel_blocks;
  const int groups = ceil_div(a.neighbours, kGroup), chunks = ceil_div(a.positions, stage_depth<M>);
  const int blocks = ceil_div(a.positions, 64);

  GradXCursor ahead;
  const auto load_next = [&](int slot) {
    if (ahead.block < blocks) {
      const int turn = (ahead.block * (groups + 1) + ahead.group) % 2;
      load_stage<M>(a, map, first_channel, layout.warps, groups, ahead, stages + slot * layout.stage,
                    targets + turn * kGroup * 64);
      ahead.advance(groups, chunks);
    }
    copy_async_commit();
  };
  for (int s = 0; s < a.stages - 1; ++s) load_next(s);
  for (int i = threadIdx.x; i < layout.sums; i += blockDim.x) sums[i] = 0.f;

  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
  float acc[kGroup][4][2][4];
  for (int block = 0, slot = 0, turn = 0; block < blocks; ++block) {
    for (int group = 0; group <= groups; ++group, turn ^= 1) {
      const int count = group == groups ? 1 : min(kGroup, a.neighbours - group * kGroup);
      const unsigned keep = group == groups ? kAll : 0u;
#pragma unroll
      for (int i = 0; i < kGroup * 32; ++i) acc[i / 32][i / 8 % 4][i / 4 % 2][i % 4] = 0.f;
      for (int chunk = 0; chunk < chunks; ++chunk) {
        wait_stage(a.stages);
        load_next(slot == 0 ? a.stages - 1 : slot - 1);
        const T* weights = stages + slot * layout.stage;
        const T* grad = weights + (64 + 16 * warp) * pitch;
        const T* wins = grad + 16 * layout.warps * pitch;
        if (count == 1) {
          multiply_masked<M, 1>(acc, weights, grad, wins, group * kGroup, keep);
        } else if (count == 2) {
          multiply_masked<M, 2>(acc, weights, grad, wins, group * kGroup, keep);
        } else {
          multiply_masked<M, kGroup>(acc, weights, grad, wins, group * kGroup, keep);
        }
        slot = slot + 1 == a.stages ? 0 : slot + 1;
      }
      const int* target = targets + turn * kGroup * 64;
      const unsigned distinct = distinct_targets(target);
      const bool upper = g < a.block_channels, lower = g + 8 < a.block_channels;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        if (j < count) {
          scatter(sums + 16 * warp + g, layout.sum_pitch, target + j * 64, distinct >> 8 * j, acc[j], upper, lower);
        }
      }
    }
  }
  __syncthreads();
  write_gradient<M>(a, map, first_channel, sums, layout.sum_pitch);
}

template <class M, class T>
int choose_tile(PositionGradX<T>& a, int64_t maps, const OnDevice& device) {
  const int smallest = 4, limit = device.shared_memory();
  for (a.block_channels = 64; a.block_channels >= smallest; a.block_channels /= 2) {
    if (a.block_channels / 2 >= max(a.channels, smallest)) continue;
    // Fewer channels per block if that keeps more multiprocessors busy; below 16 a warp would idle.
    if (a.block_channels > 16 && maps * ceil_div(a.channels, a.block_channels) < device.multiprocessors()) continue;
    a.stages = 2;
    const int need = GradXLayout<M>(a.positions, a.block_channels, a.stages).bytes();
    if (need <= limit) return need;
  }
  throw std::runtime_error("molkernels: edge_max_backward on the graph of " + std::to_string(a.positions) +
                           " positions needs more shared memory than the " + std::to_string(limit) +
                           " bytes of this device");
}

// --------------------------------------------------------------------------------------------------------------------
// weights: a block owns a tile of up to 128 × 128 of (p', q), a warp 64 × 64, and sums over a share of (n, c), 16
// channels per stage.  The first `gathered` shares are of Σ_j G_j x[idx], the others of G x; each writes a partial sum
// (padded, padded).

constexpr int kDepth = 16;

template <class M>
inline constexpr int weight_group = sizeof(typename M::Element) == 2 ? 4 : 2;  // neighbours of a stage

template <class T>
struct WeightGradient {
  const T *grad, *wins, *x;  // (N·C, padded) twice; (N, P, padded_channels)
  float* partial;
  Neighbours idx;
  int64_t maps;
  int channels, positions, neighbours, padded, padded_channels;
  int gathered, plain;          // shares
  int row_warps, column_warps;  // 1 or 2
};

template <class M>
struct WeightLayout {
  static constexpr int b_pitch = kDepth + M::row_pad;
  int rows, columns, a_pitch, a, stage;  // elements

  MK_HOST_DEVICE WeightLayout(int row_warps, int column_warps)
      : rows(64 * row_warps),
        columns(64 * column_warps),
        a_pitch(rows + M::column_pad),
        a(kDepth * a_pitch),
        stage(2 * a + weight_group<M> * columns * b_pitch) {}
  MK_HOST_DEVICE int bytes() const { return 2 * stage * int(sizeof(typename M::Element)); }
};

// One unit of a share: 16 channels of a map and a group of its neighbours, or the position itself.
struct WeightUnit {
  int64_t map;
  int channel, first, count;  // neighbours first … first + count − 1; count 0: the position itself
};

template <class M>
MK_DEVICE WeightUnit unit_at(const WeightGradient<typename M::Element>& a, int64_t unit, bool plain) {
  const int chunks = ceil_div(a.channels, kDepth), groups = plain ? 1 : ceil_div(a.neighbours, weight_group<M>);
  const int first = static_cast<int>(unit % groups) * weight_group<M>;
  const int64_t chunk = unit / groups;
  return {chunk / chunks, static_cast<int>(chunk % chunks) * kDepth, first,
          plain ? 0 : min(weight_group<M>, a.neighbours - first)};
}

// The next one, without a division.
template <class M>
MK_DEVICE WeightUnit unit_after(const WeightGradient<typename M::Element>& a, WeightUnit unit) {
  const bool plain = unit.count == 0;
  unit.first += weight_group<M>;
  if (plain || unit.first >= a.neighbours) {
    unit.first = 0;
    unit.channel += kDepth;
    if (unit.channel >= a.channels) unit.channel = 0, ++unit.map;
  }
  if (!plain) unit.count = min(weight_group<M>, a.neighbours - unit.first);
  return unit;
}

template <class M>
MK_DEVICE void load_unit(const WeightGradient<typename M::Element>& a, const WeightLayout<M>& layout, WeightUnit unit,
                         int first_row, int first_column, typename M::Element* stage) {
  using T = typename M::Element;
  constexpr int piece = 16 / int(sizeof(T)), row_pieces = kDepth / piece;
  // A: rows of G and of wins, of which a warp uses 64 values of each channel.  Sizes are powers of two: shifts only.
  const T* const grad = a.grad + (unit.map * a.channels + unit.channel) * a.padded + first_row;
  const T* const wins = a.wins + (grad - a.grad);
  const int shift = a.row_warps == 2 ? 1 : 0;
  for (int i = threadIdx.x; i < kDepth * 64 / piece << shift; i += blockDim.x) {
    const int c = i / (64 / piece) >> shift, p = (i & ((64 / piece << shift) - 1)) * piece;
    const bool valid = unit.channel + c < a.channels && first_row + p < a.padded;
    const int64_t at = valid ? static_cast<int64_t>(c) * a.padded + p : 0;
    T* const to = stage + c * layout.a_pitch + p;
    copy_async16(to, valid ? grad + at : a.grad, valid);
    if (unit.count > 0) copy_async16(to + layout.a, valid ? wins + at : a.wins, valid);
  }
  // B: for each neighbour the 16 channels of the columns' positions.
  const T* const x = a.x + unit.map * a.positions * a.padded_channels + unit.channel;
  const int32_t* const idx = a.idx.words + unit.map * a.positions * a.neighbours * a.idx.stride;
  const int columns_shift = a.column_warps == 2 ? 1 : 0;
  T* const b = stage + 2 * layout.a;
  for (int i = threadIdx.x; i < max(unit.count, 1) * layout.columns * row_pieces; i += blockDim.x) {
    const int row = i / row_pieces, c = i % row_pieces * piece, q = first_column + (row & (layout.columns - 1));
    const int j = unit.first + (row / 64 >> columns_shift);
    const bool valid = q < a.positions;
    int from = q;
    if (valid && unit.count > 0) from = idx[(q * a.neighbours + j) * a.idx.stride];
    copy_async16(b + row * WeightLayout<M>::b_pitch + c,
                 valid ? x + static_cast<int64_t>(from) * a.padded_channels + c : a.x, valid);
  }
}

template <class M>
MK_DEVICE void multiply_unit(float (&acc)[4][4][2][4], const WeightLayout<M>& layout, WeightUnit unit,
                             const typename M::Element* stage, int warp_row, int warp_column) {
  constexpr int b_pitch = WeightLayout<M>::b_pitch;
  const unsigned keep = unit.count == 0 ? kAll : 0u;
#pragma unroll(M::unroll)
  for (int k = 0; k < kDepth; k += M::depth) {
    const auto row = [&](int i) { return (k + i) * layout.a_pitch; };
    typename M::A grad[4], wins[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      grad[i] = M::columns(stage, row, warp_row + 16 * i, -1);
      wins[i] = M::columns(stage + layout.a, row, warp_row + 16 * i, -1);
    }
#pragma unroll
    for (int j = 0; j < weight_group<M>; ++j) {
      if (j >= max(unit.count, 1)) continue;
      typename M::A masked[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) masked[i] = M::masked(grad[i], wins[i], unit.first + j, keep);
      const typename M::Element* b = stage + 2 * layout.a + (j * layout.columns + warp_column) * b_pitch + k;
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const typename M::B two = M::pair(b + 16 * pair * b_pitch, b_pitch);
#pragma unroll
        for (int i = 0; i < 4; ++i) M::multiply(acc[i][pair], masked[i], two);
      }
    }
  }
}

template <class M>
__global__ void __launch_bounds__(kThreads) edge_max_weight_kernel(WeightGradient<typename M::Element> a) {
  using T = typename M::Element;
  const WeightLayout<M> layout(a.row_warps, a.column_warps);
  T* const stages = reinterpret_cast<T*>(dynamic_shared());
  const int row_tiles = ceil_div(a.padded, layout.rows), column_tiles = ceil_div(a.padded, layout.columns);
  const int first_row = static_cast<int>(blockIdx.x) % row_tiles * layout.rows;
  const int first_column = static_cast<int>(blockIdx.x) / row_tiles % column_tiles * layout.columns;
  const int share = static_cast<int>(blockIdx.x) / row_tiles / column_tiles;
  const bool plain = share >= a.gathered;
  const int64_t chunks = a.maps * ceil_div(a.channels, kDepth);
  const int64_t units = plain ? chunks : chunks * ceil_div(a.neighbours, weight_group<M>);
  const int part = plain ? share - a.gathered : share, parts = plain ? a.plain : a.gathered;
  const int64_t begin = units * part / parts, end = units * (part + 1) / parts;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp % a.row_warps * 64, warp_column = warp / a.row_warps * 64;
  const bool inside = first_row + warp_row < a.padded && first_column + warp_column < a.padded;
  float acc[4][4][2][4];
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i / 32][i / 8 % 4][i / 4 % 2][i % 4] = 0.f;
  WeightUnit unit = unit_at<M>(a, begin, plain);
  if (begin < end) load_unit<M>(a, layout, unit, first_row, first_column, stages);
  copy_async_commit();
  for (int64_t i = begin; i < end; ++i) {
    wait_stage(2);
    const int slot = static_cast<int>((i - begin) % 2);
    const WeightUnit next = unit_after<M>(a, unit);
    if (i + 1 < end) {
      load_unit<M>(a, layout, next, first_row, first_column, stages + (1 - slot) * layout.stage);
    }
    copy_async_commit();
    if (inside) multiply_unit<M>(acc, layout, unit, stages + slot * layout.stage, warp_row, warp_column);
    unit = next;
  }
  if (!inside) return;
  float* const partial = a.partial + static_cast<int64_t>(share) * a.padded * a.padded;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int block = i / 16, half = i / 8 % 2, pair = i / 2 % 4, tile = i % 2;
    const int row = first_row + warp_row + 16 * block + 8 * half + lane / 4;
    const int column = first_column + warp_column + 16 * pair + 8 * tile + lane % 4 * 2;
    *reinterpret_cast<float2*>(partial + static_cast<int64_t>(row) * a.padded + column) =
        make_float2(acc[block][pair][tile][2 * half], acc[block][pair][tile][2 * half + 1]);
  }
}

// --------------------------------------------------------------------------------------------------------------------
// combine: share after share, one thread per element.

template <class T>
__global__ void __launch_bounds__(256) edge_max_combine(const float* partial, int gathered, int plain, int padded,
                                                        int positions, T* grad_weight1, T* grad_weight2) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x, size = static_cast<int64_t>(padded) * padded;
  const int row = static_cast<int>(i / padded), column = static_cast<int>(i % padded);
  if (row >= positions || column >= positions) return;
  float own = 0.f, edges = 0.f;
  for (int share = 0; share < gathered; ++share) edges += partial[share * size + i];
  for (int share = 0; share < plain; ++share) own += partial[(gathered + share) * size + i];
  const int64_t to = static_cast<int64_t>(row) * positions + column;
  grad_weight1[to] = static_cast<T>(own);
  grad_weight2[to] = static_cast<T>(edges - 2.f * own);
}

// --------------------------------------------------------------------------------------------------------------------
// The launches

// G and its winners' bits (2, N·C, padded); grad_bias.
template <class M>
Tensor masked_gradient(const OnDevice& device, const Tensor& grad_y, const Tensor& y, const Tensor& winner, int padded,
                       Tensor& grad_bias) {
  using T = typename M::Element;
  const int64_t rows = y.size(0) * y.size(1);
  const int positions = static_cast<int>(y.size(2));
  int lanes = 8;
  while (lanes < 32 && lanes * 8 < padded) lanes *= 2;
  const int block_rows = static_cast<int>(max(int64_t{64}, ceil_div<int64_t>(rows, 1024)));
  const int64_t blocks = ceil_div<int64_t>(rows, block_rows);
  Tensor masked = empty(y, {2, rows, padded}, y.scalar_type());
  Tensor bias = empty(y, {blocks, positions}, ScalarType::Float);
  T* const grad = out<T>(masked);
  launch(device, edge_max_mask<M>, dim3(grid_size(blocks), ceil_div(padded, 8 * lanes)), kMaskThreads,
         kMaskThreads * 8 * 4, in<T>(grad_y), in<T>(y), in<uint8_t>(winner), grad,
         reinterpret_cast<word_t<T>*>(grad + rows * padded), out<float>(bias), rows, positions, padded, block_rows,
         lanes, wide_rows(positions, {&grad_y, &y, &winner}));
  sum_rows<T>(device, bias, grad_bias);
  return masked;
}

template <class M>
Tensor transposed_map(const OnDevice& device, const Tensor& x) {
  using T = typename M::Element;
  const int channels = static_cast<int>(x.size(1)), positions = static_cast<int>(x.size(2));
  const int padded = ceil_div(channels, kDepth) * kDepth;
  Tensor transposed = empty(x, {x.size(0), positions, padded}, x.scalar_type());
  const int64_t blocks = x.size(0) * ceil_div(channels, 64) * ceil_div(positions, 128);
  launch(device, edge_max_transpose<M>, dim3(grid_size(blocks)), kThreads, 128 * (64 * int(sizeof(T)) + 16), in<T>(x),
         out<T>(transposed), channels, positions, padded, wide_rows(positions, {&x}));
  return transposed;
}

template <class M>
void weight_gradients(const OnDevice& device, const Tensor& masked, const Tensor& x, const Tensor& idx,
                      Tensor& grad_weight1, Tensor& grad_weight2) {
  using T = typename M::Element;
  const Tensor transposed = transposed_map<M>(device, x);
  WeightGradient<T> a{};
  a.grad = in<T>(masked), a.wins = a.grad + masked.size(1) * masked.size(2), a.x = in<T>(transposed);
  a.idx = neighbours_of(idx);
  a.maps = x.size(0), a.channels = static_cast<int>(x.size(1)), a.positions = static_cast<int>(x.size(2));
  a.neighbours = static_cast<int>(idx.size(2));
  a.padded = static_cast<int>(masked.size(2)), a.padded_channels = static_cast<int>(transposed.size(2));
  const bool large = a.padded > 64 && WeightLayout<M>(2, 2).bytes() <= device.shared_memory();
  a.row_warps = a.column_warps = large ? 2 : 1;
  const WeightLayout<M> layout(a.row_warps, a.column_warps);

  // Enough shares to fill the device twice, divided in proportion to the work of each kind, none empty.
  const int tiles = ceil_div(a.padded, layout.rows) * ceil_div(a.padded, layout.columns);
  const int64_t chunks = max(int64_t{1}, a.maps * ceil_div(a.channels, kDepth));
  const int shares = max(2, 2 * device.multiprocessors() / tiles);
  const int plain = max(1, shares / (a.neighbours + 1));
  a.plain = static_cast<int>(min(chunks, int64_t{plain}));
  a.gathered = static_cast<int>(min(chunks, int64_t{max(1, shares - plain)}));
  Tensor partial = empty(x, {a.gathered + a.plain, a.padded, a.padded}, ScalarType::Float);
  a.partial = out<float>(partial);
  launch(device, edge_max_weight_kernel<M>, dim3(grid_size(int64_t{tiles} * (a.gathered + a.plain))),
         32 * a.row_warps * a.column_warps, layout.bytes(), a);
  launch(device, edge_max_combine<T>, dim3(grid_size(int64_t{a.padded} * a.padded / 256)), 256, 0, in<float>(partial),
         a.gathered, a.plain, a.padded, a.positions, out<T>(grad_weight1), out<T>(grad_weight2));
}

template <class M>
void input_gradient(const OnDevice& device, const Tensor& masked, const Tensor& idx, const Tensor& weight1,
                    const Tensor& weight2, Tensor& grad_x) {
  using T = typename M::Element;
  const Tensor weights = packed_weights<M>(device, weight1, weight2, 2.f, true);
  PositionGradX<T> a{};
  a.grad = in<T>(masked), a.wins = a.grad + masked.size(1) * masked.size(2), a.weights = in<T>(weights);
  a.grad_x = out<T>(grad_x), a.idx = neighbours_of(idx);
  a.channels = static_cast<int>(grad_x.size(1)), a.positions = static_cast<int>(grad_x.size(2));
  a.neighbours = static_cast<int>(idx.size(2)), a.padded = static_cast<int>(masked.size(2));
  a.wide = wide_rows(a.positions, {&grad_x});
  const int shared = choose_tile<M>(a, grad_x.size(0), device);
  const int64_t blocks = grad_x.size(0) * ceil_div(a.channels, a.block_channels);
  launch(device, edge_max_grad_x_kernel<M>, dim3(grid_size(blocks)),
         32 * GradXLayout<M>(a.positions, a.block_channels, a.stages).warps, shared, a);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_position_backward(const Tensor& grad_y, const Tensor& x,
                                                                      const Tensor& idx, const Tensor& weight1,
                                                                      const Tensor& weight2, const Tensor& y,
                                                                      const Tensor& winner, bool tf32) {
  const OnDevice device(x);
  Tensor grad_x = empty_like(x), grad_weight1 = empty_like(weight1), grad_weight2 = empty_like(weight2);
  Tensor grad_bias = empty(x, {x.size(2)}, x.scalar_type());
  const int padded = static_cast<int>(ceil_div<int64_t>(x.size(2), 64) * 64);
  for_product(x.scalar_type(), tf32, [&](auto product) {
    using M = decltype(product);
    const Tensor masked = masked_gradient<M>(device, grad_y, y, winner, padded, grad_bias);
    input_gradient<M>(device, masked, idx, weight1, weight2, grad_x);
    weight_gradients<M>(device, masked, x, idx, grad_weight1, grad_weight2);
  });
  return {grad_x, grad_weight1, grad_weight2, grad_bias};
}

}  // namespace cuda
}  // namespace molkernels

// Edge convolution with the maximum over the neighbours: products whose operand is read through the graph, so that
// neither edges nor gathered copies are stored.
#include "edge_max.h"

#include "edge_vectors.h"
#include "gemm.h"

namespace molkernels {
namespace MK_ISA {
namespace {

int64_t whole_rows(int64_t length) { return ceil_div<int64_t>(length, kRows) * kRows; }

// to ← (or +=) the gradient where neighbour j won, zero elsewhere.
template <bool add, class W>
void won_by(int j, const uint8_t* winner, const W* grad, W* to, int64_t size) {
  int64_t i = 0;
  for (; i + lanes<W> <= size; i += lanes<W>) {
    const Vec<W> won = load_winners<W>(winner + i) == Mask<W>{} + j ? load(grad + i) : Vec<W>{};
    store(to + i, add ? load(to + i) + won : won);
  }
  for (; i < size; ++i) to[i] = (add ? to[i] : W(0)) + (winner[i] == j ? grad[i] : W(0));
}

// `block` (positions, kColumns) ← channels [c, c + kColumns) of a map, one position a row; zero past the last channel.
template <class T, class V, class Value>
void transpose_block(const T* map, int64_t c, int64_t channels, int64_t positions, V* block, Value value) {
  constexpr int width = kColumns<wide<T>>;
  const int count = channels - c < width ? int(channels - c) : width;
  constexpr int64_t kStrip = 16;
  for (int64_t first = 0; first < positions; first += kStrip) {
    const int64_t last = first + kStrip < positions ? first + kStrip : positions;
    for (int i = 0; i < width; ++i) {
      const T* from = map + (c + i) * positions;
      for (int64_t p = first; p < last; ++p) block[p * width + i] = i < count ? value(from[p]) : V(0);
    }
  }
}

// The inverse, for y and the winners: to[c, p] ← value(block[p, c], c, p).
template <int width, class V, class Store>
void transposed_out(const V* block, int count, int64_t positions, Store store_one) {
  constexpr int64_t kStrip = 16;
  for (int64_t first = 0; first < positions; first += kStrip) {
    const int64_t last = first + kStrip < positions ? first + kStrip : positions;
    for (int i = 0; i < count; ++i) {
      for (int64_t p = first; p < last; ++p) store_one(i, p, block[p * width + i]);
    }
  }
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------------
// Weights as panels

template <class W>
int64_t edge_panels(int64_t positions, bool by_columns) {
  return ceil_div<int64_t>(positions, by_columns ? kColumns<W> : kRows);
}

template <class W>
int64_t edge_panels_size(int64_t positions, bool by_columns) {
  return edge_panels<W>(positions, by_columns) * positions * (by_columns ? kColumns<W> : kRows);
}

template <class T, class W>
void pack_edge_weights(const EdgeWeights<T, W>& a, bool by_columns, int64_t begin, int64_t end) {
  const int height = by_columns ? kColumns<W> : kRows;
  for (int64_t panel = begin; panel < end; ++panel) {
    W* to = a.panels + panel * a.positions * height;
    for (int r = 0; r < height; ++r) {
      const int64_t row = panel * height + r;
      for (int64_t k = 0; k < a.positions; ++k) {
        const int64_t at = row * a.row_stride + k * a.column_stride;
        W value = row < a.positions ? W(to_wide(a.weight[at])) : W(0);
        if (a.other != nullptr && row < a.positions) value += a.factor * W(to_wide(a.other[at]));
        to[k * height + r] = value;
      }
    }
  }
}

template <class W>
int64_t edge_blocks(int64_t length) {
  return ceil_div<int64_t>(length, kColumns<W>);
}

// --------------------------------------------------------------------------------------------------------------------
// Channel graph
//
//   y_c = ReLU((W1 − W2) x_c + b1 + b2 + max_j W2 x_idx[c, j])
//
// A task is kColumns positions of all channels of a map: their messages fit in L1, where the maximum gathers them.
// FLOPs: 4 · channels · positions² per map. Bytes: x, y and winner once; the weights from L2.

template <class W>
int64_t edge_channel_scratch(int64_t channels, int64_t positions) {
  return aligned(whole_rows(channels) * positions * int64_t(sizeof(W))) +
         2 * aligned(whole_rows(channels) * kColumns<W> * int64_t(sizeof(W)));
}

template <class T, class W>
void edge_max_channel(const EdgeInput<T, W>& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  const int64_t rows = whole_rows(a.channels), blocks = edge_blocks<W>(a.positions);
  W* nodes = scratch.take<W>(rows * a.positions);
  W* messages = scratch.take<W>(rows * kColumns<W>);
  W* sums = scratch.take<W>(rows * kColumns<W>);
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, p = task % blocks * kColumns<W>;
    const T* x = a.x + n * a.channels * a.positions;
    if (n != in_scratch)
      pack_panels(x, a.channels, a.positions, a.positions, int64_t(1), kRows, nodes, 0, rows / kRows);
    in_scratch = n;
    const W* to_messages = a.neighbour_panels + p * a.positions;
    const W* to_sums = a.node_panels + p * a.positions;
    for (int64_t c = 0; c < rows; c += kRows) {
      const W* panel = nodes + c * a.positions;
      const Tile<W> message =
          multiply<W>(panel, kRows, a.positions, [&](int64_t q) { return to_messages + q * kColumns<W>; });
      const Tile<W> sum = multiply<W>(panel, kRows, a.positions, [&](int64_t q) { return to_sums + q * kColumns<W>; });
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          store(messages + (c + r) * kColumns<W> + v * lanes<W>, message.v[r][v]);
          store(sums + (c + r) * kColumns<W> + v * lanes<W>, sum.v[r][v]);
        }
      }
    }
    for (int64_t c = 0; c < a.channels; ++c) {
      const int32_t* neighbours = a.idx + (n * a.channels + c) * a.k;
      for (int v = 0; v < kVectors; ++v) {
        const int left = int(a.positions - p) - v * lanes<W>;
        if (left <= 0) break;
        Vec<W> best = load(messages + neighbours[0] * kColumns<W> + v * lanes<W>);
        Mask<W> winner = {};
        for (int j = 1; j < a.k; ++j) {
          const Vec<W> message = load(messages + neighbours[j] * kColumns<W> + v * lanes<W>);
          const Mask<W> better = beats<W>(message, best);
          best = better ? message : best;
          winner = better ? Mask<W>{} + j : winner;
        }
        const int64_t at = (n * a.channels + c) * a.positions + p + v * lanes<W>;
        const Vec<W> sum = load(sums + c * kColumns<W> + v * lanes<W>);
        Vec<W> y = relu<W>(sum + load_part(a.bias + p + v * lanes<W>, left) + best);
        if (a.residual) y += load_part(a.x + at, left);
        store_part(a.y + at, y, left);
        if (a.winner == nullptr) continue;
        if (left >= lanes<W>) {
          store_winners<W>(a.winner + at, winner);
        } else {
          for (int i = 0; i < left; ++i) a.winner[at + i] = uint8_t(winner[i]);
        }
      }
    }
  }
}

template <class T, class W>
void edge_channel_scatter(const EdgeScatter<T, W>& a, int64_t begin, int64_t end) {
  const int64_t row = 2 * a.positions;
  for (int64_t n = begin; n < end; ++n) {
    W *grads = a.grads + n * a.channels * row, *bias = a.bias + n * a.positions;
    for (int64_t p = 0; p < a.positions; ++p) bias[p] = 0;
    for (int64_t c = 0; c < a.channels; ++c) {
      const int64_t at = (n * a.channels + c) * a.positions;
      W *sums = grads + c * row, *messages = sums + a.positions;
      for (int64_t p = 0; p < a.positions; p += lanes<W>) {
        const int left = int(a.positions - p);
        const Vec<W> grad = passed<W>(load_part(a.grad_y + at + p, left), load_part(a.y + at + p, left));
        store_part(sums + p, grad, left);
        store_part(messages + p, -grad, left);
        store_part(bias + p, load_part(bias + p, left) + grad, left);
      }
    }
    for (int64_t c = 0; c < a.channels; ++c) {
      const int32_t* neighbours = a.idx + (n * a.channels + c) * a.k;
      const uint8_t* winner = a.winner + (n * a.channels + c) * a.positions;
      const W* sums = grads + c * row;
      for (int j = 0; j < a.k; ++j) {
        W* messages = grads + neighbours[j] * row + a.positions;
        won_by<true>(j, winner, sums, messages, a.positions);
      }
    }
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Position graph
//
//   y_c = ReLU((W1 − 2 W2) x_c + b1 + b2 + max_j W2 x_c[idx[·, j]])
//
// A task is kColumns channels of a map, transposed so that a position is a row: a product reads row idx[p, j] instead
// of row p. FLOPs: 2 · (k + 1) · channels · positions² per map. Bytes: x, y and winner once; the weights from L2.

namespace {

// The start of each neighbour's row, in elements: offsets[j · positions + p].
template <class W>
void row_offsets(const int32_t* idx, int64_t positions, int k, int32_t* offsets) {
  for (int64_t p = 0; p < positions; ++p) {
    for (int j = 0; j < k; ++j) offsets[j * positions + p] = idx[p * k + j] * kColumns<W>;
  }
}

}  // namespace

template <class W>
int64_t edge_position_scratch(int64_t positions, int k) {
  const int64_t rows = whole_rows(positions) * kColumns<W>;
  return 2 * aligned(rows * int64_t(sizeof(W))) + aligned(rows) + aligned(positions * k * 4);
}

template <class T, class W>
void edge_max_position(const EdgeInput<T, W>& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  const int64_t rows = whole_rows(a.positions), blocks = edge_blocks<W>(a.channels);
  W* block = scratch.take<W>(rows * kColumns<W>);
  W* result = scratch.take<W>(rows * kColumns<W>);
  uint8_t* winners = scratch.take<uint8_t>(rows * kColumns<W>);
  int32_t* offsets = scratch.take<int32_t>(a.positions * a.k);
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, c = task % blocks * kColumns<W>;
    const T* x = a.x + n * a.channels * a.positions;
    if (n != in_scratch) row_offsets<W>(a.idx + n * a.positions * a.k, a.positions, a.k, offsets);
    in_scratch = n;
    transpose_block(x, c, a.channels, a.positions, block, [](T value) { return to_wide(value); });
    for (int64_t p = 0; p < a.positions; p += kRows) {
      const W* panel = a.neighbour_panels + p * a.positions;
      Tile<W> best;
      Mask<W> winner[kRows][kVectors] = {};
      for (int j = 0; j < a.k; ++j) {
        const int32_t* from = offsets + j * a.positions;
        const Tile<W> message = multiply<W>(panel, kRows, a.positions, [&](int64_t q) { return block + from[q]; });
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVectors; ++v) {
            const Mask<W> better = j == 0 ? ~Mask<W>{} : beats<W>(message.v[r][v], best.v[r][v]);
            best.v[r][v] = better ? message.v[r][v] : best.v[r][v];
            winner[r][v] = better ? Mask<W>{} + j : winner[r][v];
          }
        }
      }
      const Tile<W> sum = multiply<W>(a.node_panels + p * a.positions, kRows, a.positions,
                                      [&](int64_t q) { return block + q * kColumns<W>; });
      for (int r = 0; r < kRows && p + r < a.positions; ++r) {
        const Vec<W> bias = broadcast<W>(a.bias[p + r]);
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = (p + r) * kColumns<W> + v * lanes<W>;
          Vec<W> y = relu<W>(sum.v[r][v] + bias + best.v[r][v]);
          if (a.residual) y += load(block + at);
          store(result + at, y);
          if (a.winner == nullptr) continue;
          store_winners<W>(winners + at, winner[r][v]);
        }
      }
    }
    const int count = a.channels - c < kColumns<W> ? int(a.channels - c) : kColumns<W>;
    T* y = a.y + (n * a.channels + c) * a.positions;
    transposed_out<kColumns<W>>(result, count, a.positions,
                                [&](int i, int64_t p, W value) { y[i * a.positions + p] = narrow<T>(value); });
    if (a.winner == nullptr) continue;
    uint8_t* winner = a.winner + (n * a.channels + c) * a.positions;
    transposed_out<kColumns<W>>(winners, count, a.positions,
                                [&](int i, int64_t p, uint8_t value) { winner[i * a.positions + p] = value; });
  }
}

// Backward, the gradient of x: with g = grad_y · (y > 0) and g_j = g where neighbour j won,
//   grad_x = (W1 − 2 W2)ᵀ g, and row idx[p, j] of it += row p of W2ᵀ g_j, one j after another.
template <class W>
int64_t edge_position_backward_scratch(int64_t positions, int k) {
  const int64_t rows = whole_rows(positions) * kColumns<W>;
  return 3 * aligned(rows * int64_t(sizeof(W))) + aligned(rows) + aligned(positions * k * 4);
}

namespace {

template <class T, class W>
void masked_gradient(const EdgeGradient<T, W>& a, int64_t n, int64_t c, W* grad, W* scratch, uint8_t* winners) {
  const int64_t map = n * a.channels * a.positions;
  transpose_block(a.grad_y + map, c, a.channels, a.positions, grad, [](T value) { return to_wide(value); });
  transpose_block(a.y + map, c, a.channels, a.positions, scratch, [](T value) { return to_wide(value); });
  const int64_t size = a.positions * kColumns<W>;
  for (int64_t i = 0; i < size; i += lanes<W>) store(grad + i, passed<W>(load(grad + i), load(scratch + i)));
  const int count = a.channels - c < kColumns<W> ? int(a.channels - c) : kColumns<W>;
  const uint8_t* winner = a.winner + map + c * a.positions;
  for (int i = 0; i < kColumns<W>; ++i) {
    for (int64_t p = 0; p < a.positions; ++p) {
      winners[p * kColumns<W> + i] = i < count ? winner[i * a.positions + p] : uint8_t(0);
    }
  }
}

}  // namespace

template <class T, class W>
void edge_position_grad_x(const EdgeGradient<T, W>& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  const int64_t rows = whole_rows(a.positions), blocks = edge_blocks<W>(a.channels);
  W* grad = scratch.take<W>(rows * kColumns<W>);
  W* masked = scratch.take<W>(rows * kColumns<W>);
  W* grad_x = scratch.take<W>(rows * kColumns<W>);
  uint8_t* winners = scratch.take<uint8_t>(rows * kColumns<W>);
  int32_t* offsets = scratch.take<int32_t>(a.positions * a.k);
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, c = task % blocks * kColumns<W>;
    if (n != in_scratch) row_offsets<W>(a.idx + n * a.positions * a.k, a.positions, a.k, offsets);
    in_scratch = n;
    masked_gradient(a, n, c, grad, masked, winners);
    for (int64_t p = 0; p < a.positions; p += kRows) {
      const Tile<W> tile = multiply<W>(a.node_panels + p * a.positions, kRows, a.positions,
                                       [&](int64_t q) { return grad + q * kColumns<W>; });
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) store(grad_x + (p + r) * kColumns<W> + v * lanes<W>, tile.v[r][v]);
      }
    }
    for (int j = 0; j < a.k; ++j) {
      won_by<false>(j, winners, grad, masked, a.positions * kColumns<W>);
      const int32_t* to = offsets + j * a.positions;
      for (int64_t p = 0; p < a.positions; p += kRows) {
        const Tile<W> tile = multiply<W>(a.neighbour_panels + p * a.positions, kRows, a.positions,
                                         [&](int64_t q) { return masked + q * kColumns<W>; });
        for (int r = 0; r < kRows && p + r < a.positions; ++r) {
          for (int v = 0; v < kVectors; ++v) {
            W* sum = grad_x + to[p + r] + v * lanes<W>;
            store(sum, load(sum) + tile.v[r][v]);
          }
        }
      }
    }
    const int count = a.channels - c < kColumns<W> ? int(a.channels - c) : kColumns<W>;
    T* out = a.grad_x + (n * a.channels + c) * a.positions;
    transposed_out<kColumns<W>>(grad_x, count, a.positions,
                                [&](int i, int64_t p, W value) { out[i * a.positions + p] = narrow<T>(value); });
  }
}

// Backward, the gradients of the weights, with Z_j = Σ_c x_c g_j,cᵀ:
//   grad_node[p', p] = Σ_n Σ_j Z_j[p, p'];  grad_neighbour[p', p] = Σ_n Σ_j Z_j[idx[p, j], p']
// The graph is applied to the product, not to x: row idx[p, j] of Z_j is added to row p. A task owns kColumns of the
// rows p' and processes its maps in order, so the sums do not depend on the threads.

template <class T, class W>
void edge_pack_maps(const EdgeGradient<T, W>& a, int64_t begin, int64_t end) {
  const int64_t panels = ceil_div<int64_t>(a.positions, kRows);
  for (int64_t n = begin; n < end; ++n) {
    pack_panels(a.x + n * a.channels * a.positions, a.positions, a.channels, int64_t(1), a.positions, kRows,
                a.map_panels + n * panels * a.channels * kRows, 0, panels);
  }
}

template <class W>
int64_t edge_map_panels_size(int64_t channels, int64_t positions) {
  return whole_rows(positions) * channels;
}

template <class W>
int64_t edge_position_weights_scratch(int64_t channels, int64_t positions) {
  const int64_t rows = whole_rows(positions) * kColumns<W> * int64_t(sizeof(W));
  return 2 * aligned(channels * kColumns<W> * int64_t(sizeof(W))) + aligned(channels * kColumns<W>) + 3 * aligned(rows);
}

namespace {

// grad (channels, kColumns) ← the masked gradient of positions [p, p + kColumns), and its winners.
template <class T, class W>
void gradient_columns(const EdgeGradient<T, W>& a, int64_t n, int64_t p, W* grad, uint8_t* winners) {
  for (int64_t c = 0; c < a.channels; ++c) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = (n * a.channels + c) * a.positions + p + v * lanes<W>, to = c * kColumns<W> + v * lanes<W>;
      const int left = int(a.positions - p) - v * lanes<W>;
      store(grad + to, left > 0 ? passed<W>(load_part(a.grad_y + at, left), load_part(a.y + at, left)) : Vec<W>{});
      for (int i = 0; i < lanes<W>; ++i) winners[to + i] = i < left ? a.winner[at + i] : uint8_t(0);
    }
  }
}

}  // namespace

template <class T, class W>
void edge_position_grad_weights(const EdgeGradient<T, W>& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  const int64_t rows = whole_rows(a.positions) * kColumns<W>, blocks = edge_blocks<W>(a.positions);
  W* grad = scratch.take<W>(a.channels * kColumns<W>);
  W* masked = scratch.take<W>(a.channels * kColumns<W>);
  uint8_t* winners = scratch.take<uint8_t>(a.channels * kColumns<W>);
  W* products = scratch.take<W>(rows);
  W* node = scratch.take<W>(rows);
  W* neighbour = scratch.take<W>(rows);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t chunk = task / blocks, column = task % blocks * kColumns<W>;
    const int64_t last = (chunk + 1) * a.maps_per_chunk < a.maps ? (chunk + 1) * a.maps_per_chunk : a.maps;
    W bias[kColumns<W>] = {};
    for (int64_t i = 0; i < rows; ++i) node[i] = neighbour[i] = 0;
    for (int64_t n = chunk * a.maps_per_chunk; n < last; ++n) {
      gradient_columns(a, n, column, grad, winners);
      for (int64_t c = 0; c < a.channels; ++c) {
        for (int i = 0; i < kColumns<W>; ++i) bias[i] += grad[c * kColumns<W> + i];
      }
      const W* map = a.map_panels + n * edge_map_panels_size<W>(a.channels, a.positions);
      const int32_t* idx = a.idx + n * a.positions * a.k;
      for (int j = 0; j < a.k; ++j) {
        won_by<false>(j, winners, grad, masked, a.channels * kColumns<W>);
        for (int64_t q = 0; q < a.positions; q += kRows) {
          const Tile<W> tile =
              multiply<W>(map + q * a.channels, kRows, a.channels, [&](int64_t c) { return masked + c * kColumns<W>; });
          for (int r = 0; r < kRows; ++r) {
            for (int v = 0; v < kVectors; ++v) {
              const int64_t at = (q + r) * kColumns<W> + v * lanes<W>;
              store(products + at, tile.v[r][v]);
              store(node + at, load(node + at) + tile.v[r][v]);
            }
          }
        }
        for (int64_t p = 0; p < a.positions; ++p) {
          const W* product = products + idx[p * a.k + j] * kColumns<W>;
          W* to = neighbour + p * kColumns<W>;
          for (int v = 0; v < kVectors; ++v) {
            store(to + v * lanes<W>, load(to + v * lanes<W>) + load(product + v * lanes<W>));
          }
        }
      }
    }
    const int count = a.positions - column < kColumns<W> ? int(a.positions - column) : kColumns<W>;
    const int64_t to = (chunk * a.positions + column) * a.positions;
    for (int i = 0; i < count; ++i) a.grad_bias[chunk * a.positions + column + i] = bias[i];
    transposed_out<kColumns<W>>(node, count, a.positions,
                                [&](int i, int64_t p, W value) { a.grad_node[to + i * a.positions + p] = value; });
    transposed_out<kColumns<W>>(neighbour, count, a.positions,
                                [&](int i, int64_t p, W value) { a.grad_neighbour[to + i * a.positions + p] = value; });
  }
}

#define MK_INSTANTIATE(T, W)                                                                             \
  template void pack_edge_weights<T, W>(const EdgeWeights<T, W>&, bool, int64_t, int64_t);               \
  template void edge_max_channel<T, W>(const EdgeInput<T, W>&, unsigned char*, int64_t, int64_t);        \
  template void edge_channel_scatter<T, W>(const EdgeScatter<T, W>&, int64_t, int64_t);                  \
  template void edge_max_position<T, W>(const EdgeInput<T, W>&, unsigned char*, int64_t, int64_t);       \
  template void edge_pack_maps<T, W>(const EdgeGradient<T, W>&, int64_t, int64_t);                       \
  template void edge_position_grad_x<T, W>(const EdgeGradient<T, W>&, unsigned char*, int64_t, int64_t); \
  template void edge_position_grad_weights<T, W>(const EdgeGradient<T, W>&, unsigned char*, int64_t, int64_t);
MK_INSTANTIATE(double, double)
MK_INSTANTIATE(float, float)
MK_INSTANTIATE(BFloat16, float)
MK_INSTANTIATE(Half, float)
#undef MK_INSTANTIATE

#define MK_INSTANTIATE(W)                                           \
  template int64_t edge_panels<W>(int64_t, bool);                   \
  template int64_t edge_panels_size<W>(int64_t, bool);              \
  template int64_t edge_blocks<W>(int64_t);                         \
  template int64_t edge_channel_scratch<W>(int64_t, int64_t);       \
  template int64_t edge_position_scratch<W>(int64_t, int);          \
  template int64_t edge_position_backward_scratch<W>(int64_t, int); \
  template int64_t edge_map_panels_size<W>(int64_t, int64_t);       \
  template int64_t edge_position_weights_scratch<W>(int64_t, int64_t);
MK_INSTANTIATE(double)
MK_INSTANTIATE(float)
#undef MK_INSTANTIATE

}  // namespace MK_ISA
}  // namespace molkernels

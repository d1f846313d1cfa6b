// Edge convolution with the maximum over the neighbours, in products of bfloat16 operands.
//
// Rounding is that of the formula in bfloat16: sums of weights are rounded once, sums of products are not rounded
// before the output.
#include "edge_max_bf16.h"

#include "edge_vectors.h"
#include "gemm_bf16.h"

#if defined(MK_BF16_PRODUCTS)

namespace molkernels {
namespace MK_ISA {
namespace {

constexpr int kLanes = lanes<float>;

#if defined(__AVX512BF16__)
// 32 values of a row, selected by 32 indices below 256 from a row that is held in registers.
struct Row256 {
  __m512i part[8];
};

Row256 hold(const BFloat16* row, int64_t length) {
  Row256 held;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) held.part[i] = load_pairs(row + i * kBlock16, length - i * kBlock16);
  return held;
}

__m512i select(const Row256& row, __m512i index) {
  const __m512i a = _mm512_permutex2var_epi16(row.part[0], index, row.part[1]);
  const __m512i b = _mm512_permutex2var_epi16(row.part[2], index, row.part[3]);
  const __m512i c = _mm512_permutex2var_epi16(row.part[4], index, row.part[5]);
  const __m512i d = _mm512_permutex2var_epi16(row.part[6], index, row.part[7]);
  const __mmask32 odd = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
  const __mmask32 high = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
  return _mm512_mask_blend_epi16(high, _mm512_mask_blend_epi16(odd, a, b), _mm512_mask_blend_epi16(odd, c, d));
}
#endif

// The graph of a map, one neighbour after another: chosen[j · padded + p] = idx[p, j], 0 after the last position.
void sort_by_neighbour(const int32_t* idx, int64_t positions, int k, uint16_t* chosen) {
  const int64_t width = padded16(positions);
  for (int j = 0; j < k; ++j) {
    for (int64_t p = 0; p < positions; ++p) chosen[j * width + p] = uint16_t(idx[p * k + j]);
    for (int64_t p = positions; p < width; ++p) chosen[j * width + p] = 0;
  }
}

// For rows of a map and each neighbour j: put(row, j, block, values) with 32 values row[chosen[j, p]] of a block of
// positions, zero after the last position.
template <class Put>
void gather(const BFloat16* map, int64_t rows, int64_t positions, int k, const uint16_t* chosen, Put put) {
  const int64_t width = padded16(positions), blocks = width / kBlock16;
  for (int64_t r = 0; r < rows; ++r) {
    const BFloat16* row = map + r * positions;
#if defined(__AVX512BF16__)
    if (positions <= 256) {
      const Row256 held = hold(row, positions);
      for (int j = 0; j < k; ++j) {
        for (int64_t block = 0; block < blocks; ++block) {
          const Pairs values = select(held, _mm512_loadu_si512(chosen + j * width + block * kBlock16));
          put(r, j, block, first_pairs(values, positions - block * kBlock16));
        }
      }
      continue;
    }
#endif
    for (int j = 0; j < k; ++j) {
      for (int64_t block = 0; block < blocks; ++block) {
        const uint16_t* from = chosen + j * width + block * kBlock16;
        BFloat16 values[kBlock16];
        for (int i = 0; i < kBlock16; ++i) values[i] = row[from[i]];
        put(r, j, block, first_pairs(load_pairs(values), positions - block * kBlock16));
      }
    }
  }
}

// Bias, maximum over the neighbours, ReLU and residual of the vector at `at`; message(j) is the vector of neighbour j.
template <class Message>
inline __attribute__((always_inline)) void finish(const EdgeInput16& a, int64_t at, int left, Vec<float> sum,
                                                  Message message) {
  Vec<float> best = message(0);
  Mask<float> winner = {};
  for (int j = 1; j < a.k; ++j) {
    const Vec<float> other = message(j);
    const Mask<float> better = beats<float>(other, best);
    best = better ? other : best;
    winner = better ? Mask<float>{} + j : winner;
  }
  Vec<float> y = relu<float>(sum + best);
  if (a.residual) y += load_part(a.x + at, left);
  store_part(a.y + at, y, left);
  if (a.winner == nullptr) return;
  if (left >= kLanes) {
    store_winners<float>(a.winner + at, winner);
  } else {
    for (int i = 0; i < left; ++i) a.winner[at + i] = uint8_t(winner[i]);
  }
}

}  // namespace

int64_t edge16_panels(int64_t positions) { return blocks16(positions); }
int64_t edge16_panels_size(int64_t positions) { return panels16(positions, positions); }
int64_t edge16_blocks(int64_t length) { return blocks16(length); }

int64_t edge16_weights_scratch(int64_t positions) { return aligned(positions * kBlock16 * 2); }

void edge16_pack_weights(const EdgeWeights16& a, unsigned char* memory, int64_t begin, int64_t end) {
  const int64_t size = a.positions, depth = padded16(size);
  BFloat16* sums = Scratch(memory).take<BFloat16>(size * kBlock16);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kBlock16, count = size - first < kBlock16 ? size - first : kBlock16;
    // The block of rows or columns that the panel is made of, with its first value and the steps between rows.
    const int64_t rows = a.by_rows ? size : count, columns = a.by_rows ? count : size;
    const int64_t at = a.by_rows ? first : first * size;
    const BFloat16* from = a.weight + at;
    int64_t stride = size;
    if (a.other != nullptr) {
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; j += kLanes) {
          const int left = int(columns - j);
          const int64_t here = at + i * size + j;
          store_part(sums + i * columns + j,
                     load_part(a.weight + here, left) + a.factor * load_part(a.other + here, left), left);
        }
      }
      from = sums;
      stride = columns;
    }
    BFloat16* to = a.panels + panel * depth * kBlock16;
    if (a.by_rows) {
      pack_pairs16(from, count, stride, size, to);
    } else {
      pack_columns16(from, count, stride, size, to);
    }
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Channel graph. A task is 32 positions of all channels of a map: their messages stay in L1, where the maximum gathers
// them. FLOPs: 4 · channels · positions² per map. Bytes: x, y and winner once; the weights from L2.

int64_t edge16_channel_scratch(int64_t channels, int64_t positions) {
  return aligned(panels16(channels, positions) * 2) + 2 * aligned(padded16(channels) * kBlock16 * 4);
}

void edge16_channel(const EdgeInput16& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  take_tiles();
  const int64_t rows = padded16(a.channels), depth = padded16(a.positions), blocks = blocks16(a.positions);
  BFloat16* nodes = scratch.take<BFloat16>(rows * depth);
  float* messages = scratch.take<float>(rows * kBlock16);
  float* sums = scratch.take<float>(rows * kBlock16);
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, p = task % blocks * kBlock16, map = n * a.channels * a.positions;
    for (int64_t c = 0; c < rows && n != in_scratch; c += kBlock16) {
      pack_rows16(a.x + map + c * a.positions, a.channels - c, a.positions, a.positions, nodes + c * depth);
    }
    in_scratch = n;
    for (int64_t c = 0; c < rows; c += kBlock16) {
      multiply16(nodes + c * depth, a.neighbour_panels + p * depth, depth, messages + c * kBlock16);
      multiply16(nodes + c * depth, a.node_panels + p * depth, depth, sums + c * kBlock16);
    }
    for (int v = 0; v < kBlock16 && p + v < a.positions; v += kLanes) {
      const int left = int(a.positions - p) - v;
      const Vec<float> bias = load_part(a.bias + p + v, left);
      for (int64_t c = 0; c < a.channels; ++c) {
        const int32_t* neighbours = a.idx + (n * a.channels + c) * a.k;
        finish(a, map + c * a.positions + p + v, left, load(sums + c * kBlock16 + v) + bias,
               [&](int j) __attribute__((always_inline)) { return load(messages + neighbours[j] * kBlock16 + v); });
      }
    }
  }
  leave_tiles();
}

int64_t edge16_scatter_scratch(int64_t channels, int64_t positions) { return aligned(channels * positions * 4); }

void edge16_channel_scatter(const EdgeScatter16& a, unsigned char* memory, int64_t begin, int64_t end) {
  float* messages = Scratch(memory).take<float>(a.channels * a.positions);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t map = n * a.channels * a.positions;
    BFloat16* grads = a.grads + 2 * map;
    float* bias = a.bias + n * a.positions;
    std::memset(bias, 0, size_t(a.positions) * sizeof *bias);
    // First −g, which the scattered gradients are added to.
    for (int64_t c = 0; c < a.channels; ++c) {
      for (int64_t p = 0; p < a.positions; p += kLanes) {
        const int left = int(a.positions - p);
        const int64_t at = map + c * a.positions + p;
        const Vec<float> grad = passed<float>(load_part(a.grad_y + at, left), load_part(a.y + at, left));
        store_part(grads + 2 * c * a.positions + p, grad, left);
        store_part(messages + c * a.positions + p, -grad, left);
        store_part(bias + p, load_part(bias + p, left) + grad, left);
      }
    }
    for (int64_t c = 0; c < a.channels; ++c) {
      const int32_t* neighbours = a.idx + (n * a.channels + c) * a.k;
      const uint8_t* winner = a.winner + map + c * a.positions;
      const BFloat16* grad = grads + 2 * c * a.positions;
      for (int j = 0; j < a.k; ++j) {
        float* to = messages + neighbours[j] * a.positions;
        int64_t p = 0;
        for (; p + kLanes <= a.positions; p += kLanes) {
          const Mask<float> won = load_winners<float>(winner + p) == Mask<float>{} + j;
          store(to + p, load(to + p) + (won ? load(grad + p) : Vec<float>{}));
        }
        for (; p < a.positions; ++p) to[p] += winner[p] == j ? to_wide(grad[p]) : 0.0f;
      }
    }
    for (int64_t c = 0; c < a.channels; ++c) {
      for (int64_t p = 0; p < a.positions; p += kLanes) {
        const int left = int(a.positions - p);
        store_part(grads + (2 * c + 1) * a.positions + p, load_part(messages + c * a.positions + p, left), left);
      }
    }
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Position graph. A task is 32 channels of a map; each neighbour's operand is a copy of their rows, gathered in
// registers (up to 256 positions). FLOPs: 2 · (k + 1) · channels · positions² per map. Bytes: x, y and winner once; the
// weights from L2.

int64_t edge16_position_scratch(int64_t positions, int k) {
  const int64_t depth = padded16(positions);
  return aligned((k + 1) * depth * kBlock16 * 2) + aligned((k + 1) * kBlockSize16 * 4) + aligned(k * depth * 2);
}

void edge16_position(const EdgeInput16& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  take_tiles();
  const int64_t depth = padded16(a.positions), size = depth * kBlock16, blocks = blocks16(a.channels);
  BFloat16* nodes = scratch.take<BFloat16>((a.k + 1) * size);  // the gathered ones, then the nodes themselves
  float* products = scratch.take<float>((a.k + 1) * kBlockSize16);
  uint16_t* chosen = scratch.take<uint16_t>(a.k * depth);
  std::memset(static_cast<void*>(nodes), 0, size_t((a.k + 1) * size) * sizeof *nodes);
  const float* sums = products + a.k * kBlockSize16;
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, c = task % blocks * kBlock16, at = (n * a.channels + c) * a.positions;
    const int64_t rows = a.channels - c < kBlock16 ? a.channels - c : kBlock16;
    if (n != in_scratch) sort_by_neighbour(a.idx + n * a.positions * a.k, a.positions, a.k, chosen);
    in_scratch = n;
    pack_rows16(a.x + at, rows, a.positions, a.positions, nodes + a.k * size);
    gather(a.x + at, rows, a.positions, a.k, chosen, [&](int64_t r, int j, int64_t block, Pairs values) {
      store_pairs(nodes + j * size + block * kBlockSize16 + r * kBlock16, values);
    });
    for (int64_t p = 0; p < a.positions; p += kBlock16) {
      for (int j = 0; j < a.k; ++j) {
        multiply16(nodes + j * size, a.neighbour_panels + p * depth, depth, products + j * kBlockSize16);
      }
      multiply16(nodes + a.k * size, a.node_panels + p * depth, depth, products + a.k * kBlockSize16);
      for (int v = 0; v < kBlock16 && p + v < a.positions; v += kLanes) {
        const int left = int(a.positions - p) - v;
        const Vec<float> bias = load_part(a.bias + p + v, left);
        for (int64_t r = 0; r < rows; ++r) {
          const float* from = products + r * kBlock16 + v;
          finish(a, at + r * a.positions + p + v, left, load(sums + r * kBlock16 + v) + bias,
                 [&](int j) __attribute__((always_inline)) { return load(from + j * kBlockSize16); });
        }
      }
    }
  }
  leave_tiles();
}

// Backward, the gradient of x: with g = grad_y · (y > 0) and g_j = g where neighbour j won,
//   grad_x = (W1 − 2 W2)ᵀ g, and row idx[p, j] of it += row p of W2ᵀ g_j, one j after another.
// The sums are kept with the positions as rows, so that what is added to a position is a row.

namespace {

// to[s][r] ← (or +=) from[r][s] for a block: row s goes to to(s), 32 values.
template <bool added, class To>
void transpose_block16(const float* from, int64_t columns, To to) {
  for (int half = 0; half < kBlock16 && half < columns; half += 16) {
    for (int rows = 0; rows < kBlock16; rows += 16) {
      Pairs v[16];
      for (int r = 0; r < 16; ++r) v[r] = load_floats(from + (rows + r) * kBlock16 + half);
      transpose_pairs(v);
      for (int s = 0; s < 16 && half + s < columns; ++s) {
        store_floats<added>(to(half + s) + rows, v[s]);
      }
    }
  }
}

}  // namespace

int64_t edge16_grad_x_scratch(int64_t positions, int k) {
  const int64_t depth = padded16(positions);
  return aligned((k + 1) * depth * kBlock16 * 2) + aligned(depth * kBlock16 * 4) + aligned(kBlockSize16 * 4) +
         aligned(k * depth * 2);
}

void edge16_position_grad_x(const EdgeGradient16& a, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch scratch(memory);
  take_tiles();
  const int64_t depth = padded16(a.positions), size = depth * kBlock16, blocks = blocks16(a.channels);
  BFloat16* grads = scratch.take<BFloat16>((a.k + 1) * size);  // g_j for each j, then g
  float* sums = scratch.take<float>(size);
  float* product = scratch.take<float>(kBlockSize16);
  uint16_t* chosen = scratch.take<uint16_t>(a.k * depth);
  std::memset(static_cast<void*>(grads), 0, size_t((a.k + 1) * size) * sizeof *grads);
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, c = task % blocks * kBlock16, at = (n * a.channels + c) * a.positions;
    const int64_t rows = a.channels - c < kBlock16 ? a.channels - c : kBlock16;
    if (n != in_scratch) sort_by_neighbour(a.idx + n * a.positions * a.k, a.positions, a.k, chosen);
    in_scratch = n;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t p = 0; p < a.positions; p += kBlock16) {
        const int64_t here = at + r * a.positions + p, left = a.positions - p;
        const Pairs grad = passed_pairs(load_pairs(a.grad_y + here, left), load_pairs(a.y + here, left));
        const Winners winner = load_winners(a.winner + here, left);
        BFloat16* to = grads + p * kBlock16 + r * kBlock16;
        for (int j = 0; j < a.k; ++j) {
          store_pairs(to + j * size, won_pairs(grad, winner, j));
        }
        store_pairs(to + a.k * size, grad);
      }
    }
    for (int64_t r = rows; r < kBlock16; ++r) {
      for (int64_t p = 0; p < (a.k + 1) * depth; p += kBlock16) {
        store_pairs(grads + p * kBlock16 + r * kBlock16, Pairs{});
      }
    }
    for (int64_t p = 0; p < a.positions; p += kBlock16) {
      multiply16(grads + a.k * size, a.node_panels + p * depth, depth, product);
      transpose_block16<false>(product, a.positions - p, [&](int s) { return sums + (p + s) * kBlock16; });
    }
    for (int j = 0; j < a.k; ++j) {
      for (int64_t p = 0; p < a.positions; p += kBlock16) {
        multiply16(grads + j * size, a.neighbour_panels + p * depth, depth, product);
        const uint16_t* to = chosen + j * depth + p;
        transpose_block16<true>(product, a.positions - p, [&](int s) { return sums + to[s] * kBlock16; });
      }
    }
    for (int64_t p = 0; p < a.positions; p += kBlock16) {
      transpose_block16<false>(sums + p * kBlock16, kBlock16, [&](int r) { return product + r * kBlock16; });
      for (int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v < kBlock16 && p + v < a.positions; v += kLanes) {
          store_part(a.grad_x + at + r * a.positions + p + v, load(product + r * kBlock16 + v),
                     int(a.positions - p) - v);
        }
      }
    }
  }
  leave_tiles();
}

// Backward, the gradients of the weights:
//   grad_node[p', p] = Σ_n Σ_c g[c, p'] x[c, p];  grad_neighbour[p', p] = Σ_n Σ_j Σ_c g_j[c, p'] x[c, idx[p, j]]
// as one long product over maps, neighbours and channels. Maps are packed a few at a time, so that what is packed stays
// in the caches; a task owns one block of both gradients and adds its maps in order, so that the sums do not depend on
// the threads. Bytes: the operands of k + 1 products, written and read once in the caches.

int64_t edge16_operand_size(int64_t channels, int64_t positions, int k) {
  return padded16(positions) * (k + 1) * padded16(channels);
}
int64_t edge16_operand_scratch(int64_t channels, int64_t positions) {
  return 2 * aligned(channels * padded16(positions) * 2) + aligned(kBlock16 * padded16(channels) * 2) +
         aligned(16 * padded16(positions) * 2);
}

void edge16_pack_operands(const EdgeProducts16& a, unsigned char* memory, int64_t begin, int64_t end) {
  const EdgeGradient16& of = a.of;
  Scratch scratch(memory);
  const int64_t width = padded16(of.positions), depth = padded16(of.channels), step = depth * kBlock16;
  BFloat16* chosen_x = scratch.take<BFloat16>(of.channels * width);
  BFloat16* masked = scratch.take<BFloat16>(of.channels * width);
  BFloat16* pairs = scratch.take<BFloat16>(step);
  uint16_t* chosen = scratch.take<uint16_t>(16 * width);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = a.first + task, map = n * of.channels * of.positions;
    const int64_t size = edge16_operand_size(of.channels, of.positions, of.k);
    BFloat16 *gradients = a.gradients + task * size, *nodes = a.nodes + task * size;
    float* bias = a.bias + n * of.positions;
    for (int64_t p = 0; p < of.positions; ++p) bias[p] = 0;
    sort_by_neighbour(of.idx + n * of.positions * of.k, of.positions, of.k, chosen);
    // The product over the nodes themselves is the last one of every panel.
    for (int j = 0; j <= of.k; ++j) {
      const bool own = j == of.k;
      if (!own) {
        gather(of.x + map, of.channels, of.positions, 1, chosen + j * width,
               [&](int64_t c, int, int64_t block, Pairs values) {
                 store_pairs(chosen_x + c * width + block * kBlock16, values);
               });
      }
      for (int64_t c = 0; c < of.channels; ++c) {
        for (int64_t p = 0; p < of.positions; p += kBlock16) {
          const int64_t here = map + c * of.positions + p, left = of.positions - p;
          Pairs grad = passed_pairs(load_pairs(of.grad_y + here, left), load_pairs(of.y + here, left));
          if (!own) {
            const Winners winner = load_winners(of.winner + here, left);
            grad = won_pairs(grad, winner, j);
          }
          store_pairs(masked + c * width + p, grad);
        }
        if (!own) continue;
        for (int64_t p = 0; p < of.positions; p += kLanes) {
          const int left = int(of.positions - p);
          store_part(bias + p, load_part(bias + p, left) + load_part(masked + c * width + p, left), left);
        }
      }
      for (int64_t p = 0; p < width; p += kBlock16) {
        const int64_t at = p * (of.k + 1) * depth + j * step;
        pack_pairs16(masked + p, kBlock16, width, of.channels, pairs);
        transpose_panel16(pairs, depth, gradients + at);
        if (own) {
          pack_pairs16(of.x + map + p, of.positions - p, of.positions, of.channels, nodes + at);
        } else {
          pack_pairs16(chosen_x + p, kBlock16, width, of.channels, nodes + at);
        }
      }
    }
  }
}

void edge16_add_products(const EdgeProducts16& a, int64_t begin, int64_t end) {
  const EdgeGradient16& of = a.of;
  take_tiles();
  const int64_t blocks = blocks16(of.positions), depth = padded16(of.channels), panel = (of.k + 1) * depth * kBlock16;
  const int64_t size = edge16_operand_size(of.channels, of.positions, of.k), own = of.k * depth * kBlock16;
  for (int64_t task = begin; task < end; ++task) {
    float *node = a.grad_node + task * kBlockSize16, *neighbour = a.grad_neighbour + task * kBlockSize16;
    if (a.first == 0) {
      std::memset(node, 0, kBlockSize16 * sizeof *node);
      std::memset(neighbour, 0, kBlockSize16 * sizeof *neighbour);
    }
    for (int64_t n = 0; n < a.maps; ++n) {
      const BFloat16* rows = a.gradients + n * size + task / blocks * panel;
      const BFloat16* columns = a.nodes + n * size + task % blocks * panel;
      multiply16<true>(rows, columns, of.k * depth, neighbour);
      multiply16<true>(rows + own, columns + own, depth, node);
    }
  }
  leave_tiles();
}

void edge16_write_gradients(const EdgeProducts16& a, BFloat16* grad1, BFloat16* grad2, int64_t begin, int64_t end) {
  const int64_t size = a.of.positions, blocks = blocks16(size);
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t p = 0; p < size; p += kLanes) {
      const int left = int(size - p);
      const int64_t at =
          (row / kBlock16 * blocks + p / kBlock16) * kBlockSize16 + row % kBlock16 * kBlock16 + p % kBlock16;
      const Vec<float> node = load(a.grad_node + at);
      store_part(grad1 + row * size + p, node, left);
      store_part(grad2 + row * size + p, load(a.grad_neighbour + at) - 2 * node, left);
    }
  }
}

}  // namespace MK_ISA
}  // namespace molkernels
#endif

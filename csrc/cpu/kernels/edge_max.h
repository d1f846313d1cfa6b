// Kernels of edge_max and its backward: see reference.edge_max for the mathematics.
//
// W is float, or double for T = double. Maps x, y are (maps, channels, positions), contiguous; idx (maps, nodes, k)
// int32. Panels hold P: W, or BFloat16 for products of bfloat16 (edge_max_bf16.h).
#pragma once

#include <cstdint>

#include "../../common/index.h"
#include "../isa.h"

namespace molkernels {

template <class T, class W, class P = W>
struct EdgeInput {
  const T* x;
  const int32_t* idx;
  // Of the weights of the neighbours and of the node itself: panels of `kRows` or `kColumns` rows (see gemm.h), or
  // panels of B whose column p is row p of the weights (see gemm_bf16.h).
  const P *neighbour_panels, *node_panels;
  const W* bias;  // (positions): b1 + b2
  T* y;
  uint8_t* winner;  // or null
  int64_t maps, channels, positions;
  int k;
  bool residual;  // y += x
};

template <class T, class W>
struct EdgeGradient {
  const T *grad_y, *x, *y;
  const int32_t* idx;
  const uint8_t* winner;
  const W *neighbour_panels, *node_panels;  // of the transposed weights
  T* grad_x;
  W* map_panels;                  // x as panels of kRows positions, `edge_map_panels_size` per map
  W *grad_node, *grad_neighbour;  // (chunks, positions, positions): Σ g x, and Σ g x of the winning neighbours
  W* grad_bias;                   // (chunks, positions)
  int64_t maps, channels, positions, maps_per_chunk;
  int k;
};

// Weights as panels: by rows of the result (position graph) or by columns (channel graph). `weight` (positions,
// positions) is read as weight[row · row_stride + column · column_stride] + factor · other[…]; a task is a panel.
template <class T, class W>
struct EdgeWeights {
  const T* weight;
  const T* other;  // or null
  W factor;        // the panels hold weight + factor · other
  int64_t positions, row_stride, column_stride;
  W* panels;
};
MK_DECLARE(int64_t edge_panels(int64_t positions, bool by_columns), template <class W>)
MK_DECLARE(int64_t edge_panels_size(int64_t positions, bool by_columns), template <class W>)
MK_DECLARE(void pack_edge_weights(const EdgeWeights<T, W>& a, bool by_columns, int64_t begin, int64_t end),
           template <class T, class W>)

// Tasks of the channel graph: maps × blocks of positions; of the position graph: maps × blocks of channels.
MK_DECLARE(int64_t edge_blocks(int64_t length), template <class W>)
MK_DECLARE(int64_t edge_channel_scratch(int64_t channels, int64_t positions), template <class W>)
MK_DECLARE(void edge_max_channel(const EdgeInput<T, W>& a, unsigned char* scratch, int64_t begin, int64_t end),
           template <class T, class W>)
MK_DECLARE(int64_t edge_position_scratch(int64_t positions, int k), template <class W>)
MK_DECLARE(void edge_max_position(const EdgeInput<T, W>& a, unsigned char* scratch, int64_t begin, int64_t end),
           template <class T, class W>)

// Position graph: grad_x by maps × blocks of channels; weight gradients by blocks of rows of the weights,
// `edge_weight_blocks`.
MK_DECLARE(int64_t edge_position_backward_scratch(int64_t positions, int k), template <class W>)
MK_DECLARE(void edge_position_grad_x(const EdgeGradient<T, W>& a, unsigned char* scratch, int64_t begin, int64_t end),
           template <class T, class W>)
MK_DECLARE(int64_t edge_map_panels_size(int64_t channels, int64_t positions), template <class W>)
MK_DECLARE(void edge_pack_maps(const EdgeGradient<T, W>& a, int64_t begin, int64_t end), template <class T, class W>)
MK_DECLARE(int64_t edge_position_weights_scratch(int64_t channels, int64_t positions), template <class W>)
MK_DECLARE(void edge_position_grad_weights(const EdgeGradient<T, W>& a, unsigned char* scratch, int64_t begin,
                                           int64_t end),
           template <class T, class W>)

// Channel graph: wide rows [g | m − g] (maps · channels, 2 · positions) of the gradient g of the sums before the ReLU
// and the gradient m of the messages; a task is a map.
template <class T, class W>
struct EdgeScatter {
  const T *grad_y, *y;
  const int32_t* idx;
  const uint8_t* winner;
  W* grads;
  W* bias;  // (maps, positions): the former, summed over the channels
  int64_t channels, positions;
  int k;
};
MK_DECLARE(void edge_channel_scatter(const EdgeScatter<T, W>& a, int64_t begin, int64_t end),
           template <class T, class W>)

}  // namespace molkernels

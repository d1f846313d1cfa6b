// Kernels of edge_max and its backward in bfloat16, on products of bfloat16: see edge_max.h for the same in float, and
// gemm_bf16.h for panels and blocks.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "../../common/index.h"
#include "../isa.h"
#include "edge_max.h"

namespace molkernels {

using EdgeInput16 = EdgeInput<torch::headeronly::BFloat16, float, torch::headeronly::BFloat16>;

struct EdgeGradient16 {
  const torch::headeronly::BFloat16 *grad_y, *x, *y;
  const int32_t* idx;
  const uint8_t* winner;
  // Panels of B: row p is row p of the weights.
  const torch::headeronly::BFloat16 *neighbour_panels, *node_panels;
  torch::headeronly::BFloat16* grad_x;
  int64_t channels, positions;
  int k;
};

// Panels of B of `weight` + factor · `other` (positions, positions), rounded once; `other` may be null. Column p of B
// is row p of that, or row p is with `by_rows`. A task is a panel.
struct EdgeWeights16 {
  const torch::headeronly::BFloat16 *weight, *other;
  float factor;
  int64_t positions;
  bool by_rows;
  torch::headeronly::BFloat16* panels;
};

// The gradients of the weights of the position graph, from maps [first, first + maps) of a call, in two steps.
struct EdgeProducts16 {
  EdgeGradient16 of;
  int64_t first, maps;
  torch::headeronly::BFloat16 *gradients, *nodes;  // per map: panels of A and of B
  float *grad_node, *grad_neighbour;               // (positions, positions) in blocks, added to
  float* bias;                                     // (maps of the call, positions): Σ g of a map
};

// Channel graph: rows [g | m − g] (maps · channels, 2 · positions) of the gradient g of the sums before the ReLU and
// the gradient m of the messages.
struct EdgeScatter16 {
  const torch::headeronly::BFloat16 *grad_y, *y;
  const int32_t* idx;
  const uint8_t* winner;
  torch::headeronly::BFloat16* grads;
  float* bias;  // (maps, positions): Σ g of a map
  int64_t channels, positions;
  int k;
};

MK_DECLARE_BF16(int64_t edge16_panels(int64_t positions))
MK_DECLARE_BF16(int64_t edge16_panels_size(int64_t positions))
MK_DECLARE_BF16(int64_t edge16_weights_scratch(int64_t positions))
MK_DECLARE_BF16(void edge16_pack_weights(const EdgeWeights16& a, unsigned char* scratch, int64_t begin, int64_t end))

// Tasks of the channel graph: maps × blocks of positions; of the position graph: maps × blocks of channels.
MK_DECLARE_BF16(int64_t edge16_blocks(int64_t length))
MK_DECLARE_BF16(int64_t edge16_channel_scratch(int64_t channels, int64_t positions))
MK_DECLARE_BF16(void edge16_channel(const EdgeInput16& a, unsigned char* scratch, int64_t begin, int64_t end))
MK_DECLARE_BF16(int64_t edge16_position_scratch(int64_t positions, int k))
MK_DECLARE_BF16(void edge16_position(const EdgeInput16& a, unsigned char* scratch, int64_t begin, int64_t end))

// A task is a map.
MK_DECLARE_BF16(int64_t edge16_scatter_scratch(int64_t channels, int64_t positions))
MK_DECLARE_BF16(void edge16_channel_scatter(const EdgeScatter16& a, unsigned char* scratch, int64_t begin, int64_t end))
// Tasks: maps × blocks of channels.
MK_DECLARE_BF16(int64_t edge16_grad_x_scratch(int64_t positions, int k))
MK_DECLARE_BF16(void edge16_position_grad_x(const EdgeGradient16& a, unsigned char* scratch, int64_t begin,
                                            int64_t end))
// Tasks of the first step: maps; of the second: blocks of rows × blocks of columns of the gradients.
MK_DECLARE_BF16(int64_t edge16_operand_size(int64_t channels, int64_t positions, int k))
MK_DECLARE_BF16(int64_t edge16_operand_scratch(int64_t channels, int64_t positions))
MK_DECLARE_BF16(void edge16_pack_operands(const EdgeProducts16& a, unsigned char* scratch, int64_t begin, int64_t end))
MK_DECLARE_BF16(void edge16_add_products(const EdgeProducts16& a, int64_t begin, int64_t end))
// grad_weight1 and grad_weight2, rows [begin, end), from the sums of the blocks.
MK_DECLARE_BF16(void edge16_write_gradients(const EdgeProducts16& a, torch::headeronly::BFloat16* grad1,
                                            torch::headeronly::BFloat16* grad2, int64_t begin, int64_t end))

}  // namespace molkernels

// A 1×1 convolution between channels: see reference.mix.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "../../common/index.h"
#include "../isa.h"

namespace molkernels {

// y[n, d, p] = residual[n, d, p] + bias[d] + Σ_c weight[d, c] · x[n, c, p]; all contiguous.
template <class T, class W>
struct MixInput {
  const T* x;
  const W* weight_panels;  // panels of kRows rows of the weight (see gemm.h)
  const T* bias;           // or null
  const T* residual;
  T* y;
  int64_t maps, channels, positions;
};

MK_DECLARE(int64_t mix_panels_size(int64_t channels), template <class W>)
MK_DECLARE(void pack_mix_weight(const T* weight, int64_t channels, W* panels), template <class T, class W>)
// Tasks: maps × blocks of positions.
MK_DECLARE(int64_t mix_blocks(int64_t positions), template <class W>)
MK_DECLARE(int64_t mix_scratch(int64_t channels), template <class W>)
MK_DECLARE(void mix(const MixInput<T, W>& a, unsigned char* scratch, int64_t begin, int64_t end),
           template <class T, class W>)

// The same in products of bfloat16. Panels of A of the weight; tasks: maps × blocks of positions.
struct MixInput16 {
  const torch::headeronly::BFloat16 *x, *weight_panels, *bias, *residual;  // bias: or null
  torch::headeronly::BFloat16* y;
  int64_t maps, channels, positions;
};
MK_DECLARE_BF16(int64_t mix16_panels_size(int64_t channels))
MK_DECLARE_BF16(void mix16_pack_weight(const torch::headeronly::BFloat16* weight, int64_t channels,
                                       torch::headeronly::BFloat16* panels))
MK_DECLARE_BF16(int64_t mix16_blocks(int64_t positions))
MK_DECLARE_BF16(int64_t mix16_scratch(int64_t channels))
MK_DECLARE_BF16(void mix16(const MixInput16& a, unsigned char* scratch, int64_t begin, int64_t end))

}  // namespace molkernels

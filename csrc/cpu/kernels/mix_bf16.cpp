// A 1×1 convolution in products of bfloat16 operands, with bias and residual fused into the product's last step.
//
// FLOPs: 2 · channels² · positions per map. Bytes: x, residual and y once; the weight from L2.
#include "gemm_bf16.h"
#include "mix.h"

#if defined(MK_BF16_PRODUCTS)

namespace molkernels {
namespace MK_ISA {

int64_t mix16_panels_size(int64_t channels) { return panels16(channels, channels); }

void mix16_pack_weight(const BFloat16* weight, int64_t channels, BFloat16* panels) {
  for (int64_t d = 0; d < channels; d += kBlock16) {
    pack_rows16(weight + d * channels, channels - d, channels, channels, panels + d * padded16(channels));
  }
}

int64_t mix16_blocks(int64_t positions) { return blocks16(positions); }

int64_t mix16_scratch(int64_t channels) { return padded16(channels) * kBlock16 * 2 + kBlockSize16 * 4; }

void mix16(const MixInput16& a, unsigned char* scratch, int64_t begin, int64_t end) {
  const int64_t blocks = blocks16(a.positions), depth = padded16(a.channels);
  BFloat16* block = reinterpret_cast<BFloat16*>(scratch);
  float* product = reinterpret_cast<float*>(scratch + depth * kBlock16 * 2);
  take_tiles();
  for (int64_t task = begin; task < end; ++task) {
    const int64_t p = task % blocks * kBlock16, map = task / blocks * a.channels * a.positions + p;
    pack_pairs16(a.x + map, a.positions - p, a.positions, a.channels, block);
    for (int64_t d = 0; d < a.channels; d += kBlock16) {
      multiply16(a.weight_panels + d * depth, block, depth, product);
      for (int64_t r = 0; r < kBlock16 && d + r < a.channels; ++r) {
        const Vec<float> bias = broadcast(a.bias != nullptr ? to_wide(a.bias[d + r]) : 0.0f);
        for (int v = 0; v < kBlock16 && p + v < a.positions; v += lanes<float>) {
          const int left = int(a.positions - p) - v;
          const int64_t at = map + (d + r) * a.positions + v;
          store_part(a.y + at, load_part(a.residual + at, left) + bias + load(product + r * kBlock16 + v), left);
        }
      }
    }
  }
  leave_tiles();
}

}  // namespace MK_ISA
}  // namespace molkernels
#endif

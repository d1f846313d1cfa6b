// A 1×1 convolution with bias and residual fused into the product's last step.
//
// FLOPs: 2 · channels² · positions per map. Bytes: x, residual and y once; the weight from L2.
#include "mix.h"

#include "gemm.h"

namespace molkernels {
namespace MK_ISA {

template <class W>
int64_t mix_panels_size(int64_t channels) {
  return ceil_div<int64_t>(channels, kRows) * kRows * channels;
}

template <class T, class W>
void pack_mix_weight(const T* weight, int64_t channels, W* panels) {
  pack_panels(weight, channels, channels, channels, int64_t(1), kRows, panels, 0, ceil_div<int64_t>(channels, kRows));
}

template <class W>
int64_t mix_blocks(int64_t positions) {
  return ceil_div<int64_t>(positions, kColumns<W>);
}

template <class W>
int64_t mix_scratch(int64_t channels) {
  return ceil_div<int64_t>(channels * kColumns<W> * int64_t(sizeof(W)), 64) * 64;
}

template <class T, class W>
void mix(const MixInput<T, W>& a, unsigned char* scratch, int64_t begin, int64_t end) {
  W* block = reinterpret_cast<W*>(scratch);
  const int64_t blocks = mix_blocks<W>(a.positions);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, p = task % blocks * kColumns<W>, map = n * a.channels * a.positions + p;
    for (int64_t c = 0; c < a.channels; ++c) {
      for (int v = 0; v < kVectors; ++v) {
        const int left = int(a.positions - p) - v * lanes<W>;
        const T* from = a.x + map + c * a.positions + v * lanes<W>;
        store(block + c * kColumns<W> + v * lanes<W>, left > 0 ? load_part(from, left) : Vec<W>{});
      }
    }
    for (int64_t d = 0; d < a.channels; d += kRows) {
      const Tile<W> tile = multiply<W>(a.weight_panels + d * a.channels, kRows, a.channels,
                                       [&](int64_t c) { return block + c * kColumns<W>; });
      for (int r = 0; r < kRows && d + r < a.channels; ++r) {
        const Vec<W> bias = broadcast<W>(a.bias != nullptr ? to_wide(a.bias[d + r]) : W(0));
        for (int v = 0; v < kVectors; ++v) {
          const int left = int(a.positions - p) - v * lanes<W>;
          if (left <= 0) break;
          const int64_t at = map + (d + r) * a.positions + v * lanes<W>;
          store_part(a.y + at, load_part(a.residual + at, left) + bias + tile.v[r][v], left);
        }
      }
    }
  }
}

#define MK_INSTANTIATE(T, W)                                  \
  template void pack_mix_weight<T, W>(const T*, int64_t, W*); \
  template void mix<T, W>(const MixInput<T, W>&, unsigned char*, int64_t, int64_t);
MK_INSTANTIATE(double, double)
MK_INSTANTIATE(float, float)
MK_INSTANTIATE(BFloat16, float)
MK_INSTANTIATE(Half, float)
#undef MK_INSTANTIATE

#define MK_INSTANTIATE(W)                       \
  template int64_t mix_panels_size<W>(int64_t); \
  template int64_t mix_blocks<W>(int64_t);      \
  template int64_t mix_scratch<W>(int64_t);
MK_INSTANTIATE(double)
MK_INSTANTIATE(float)
#undef MK_INSTANTIATE

}  // namespace MK_ISA
}  // namespace molkernels

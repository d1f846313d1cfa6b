// cost_volume on products of bfloat16.
#include "gemm_bf16.h"

#if defined(MK_BF16_PRODUCTS)
#include "cost_volume_maps.h"

namespace molkernels {
namespace MK_ISA {

int64_t cost_volume16_scratch(const CostVolumeShape& shape) { return scratch_of<BFloat16>(shape); }

void cost_volume16(const CostVolumeInput16& v, unsigned char* scratch, int64_t begin, int64_t end) {
  forward_maps<BFloat16>(v, scratch, begin, end);
}

void cost_volume16_backward(const CostVolumeGradient16& v, unsigned char* scratch, int64_t begin, int64_t end) {
  backward_maps<BFloat16>(v, scratch, begin, end);
}

}  // namespace MK_ISA
}  // namespace molkernels
#endif

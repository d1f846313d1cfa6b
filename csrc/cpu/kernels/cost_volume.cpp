// cost_volume in the arithmetic's own type.
#include "cost_volume_maps.h"

namespace molkernels {
namespace MK_ISA {

template <class W>
int64_t cost_volume_scratch(const CostVolumeShape& shape) {
  return scratch_of<W>(shape);
}

template <class T, class W>
void cost_volume(const CostVolumeInput<T, W>& v, unsigned char* scratch, int64_t begin, int64_t end) {
  forward_maps<W>(v, scratch, begin, end);
}

template <class T, class W>
void cost_volume_backward(const CostVolumeGradient<T, W>& v, unsigned char* scratch, int64_t begin, int64_t end) {
  backward_maps<W>(v, scratch, begin, end);
}

#define MK_INSTANTIATE(T, W)                                                                       \
  template void cost_volume<T, W>(const CostVolumeInput<T, W>&, unsigned char*, int64_t, int64_t); \
  template void cost_volume_backward<T, W>(const CostVolumeGradient<T, W>&, unsigned char*, int64_t, int64_t);
MK_INSTANTIATE(double, double)
MK_INSTANTIATE(float, float)
MK_INSTANTIATE(BFloat16, float)
MK_INSTANTIATE(Half, float)
#undef MK_INSTANTIATE

template int64_t cost_volume_scratch<double>(const CostVolumeShape&);
template int64_t cost_volume_scratch<float>(const CostVolumeShape&);

}  // namespace MK_ISA
}  // namespace molkernels

// The cosine k-nearest-neighbour graph on the CPU: tensors, threads and registration.
#include "kernels/knn.h"

#include "ops.h"
#include "threads.h"

namespace molkernels {
namespace cpu {

Tensor knn(const Tensor& nodes, int64_t k) {
  require(nodes.dim() == 3, "knn takes nodes of shape (N, M, D)");
  // Either graph's view of a contiguous map is read in place.
  const bool direct = nodes.stride(2) == 1 || nodes.stride(1) == 1;
  const Tensor source = direct ? nodes : molkernels::contiguous(nodes);
  const int64_t maps = source.size(0), count = source.size(1), length = source.size(2);
  require(1 <= k && k <= 16 && k <= count && count <= 65536, "knn takes 1 to 16 neighbours of at most 65536 nodes");
  Tensor graph = empty(source, {maps, count, k}, ScalarType::Int);
  for_dtype<double, float, BFloat16, Half>(source.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const KnnInput<T> a{in<T>(source),
                        maps,
                        count,
                        length,
                        source.stride(0),
                        source.stride(1),
                        source.stride(2),
                        static_cast<int>(k),
                        out<int32_t>(graph)};
    const int64_t tasks = maps * MK_KERNEL(knn_tasks<T>)(count), bytes = MK_KERNEL(knn_scratch<T>)(count, length);
    const Tensor scratch = empty(source, {parts_of(tasks) * bytes}, ScalarType::Byte);
    for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
      MK_KERNEL(knn<T>)(a, out<uint8_t>(scratch) + part * bytes, begin, end);
    });
  });
  return graph;
}

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) { m.impl("knn", TORCH_BOX(&molkernels::cpu::knn)); }

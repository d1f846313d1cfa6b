// The cosine k-nearest-neighbour graph on the CPU: tensors, threads and registration.
#include "kernels/knn.h"

#include "ops.h"
#include "threads.h"

namespace molkernels {
namespace cpu {
namespace {

#if defined(MK_KERNEL_BF16)
void run_in_bf16(const KnnInput<BFloat16>& a, uint8_t* unfit, const Tensor& like) {
  const int64_t tasks = a.maps * MK_KERNEL_BF16(knn16_tasks)(a.count);
  const int64_t bytes = MK_KERNEL_BF16(knn16_scratch)(a.count, a.length);
  const Tensor scratch = empty(like, {parts_of(tasks) * bytes}, ScalarType::Byte);
  for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
    MK_KERNEL_BF16(knn16)(a, out<uint8_t>(scratch) + part * bytes, unfit, begin, end);
  });
}
#endif

}  // namespace

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
    const int64_t blocks = MK_KERNEL(knn_tasks<T>)(count), bytes = MK_KERNEL(knn_scratch<T>)(count, length);
    const auto run = [&](int64_t first, int64_t tasks) {
      const Tensor scratch = empty(source, {parts_of(tasks) * bytes}, ScalarType::Byte);
      for_parts(tasks, [&](int64_t part, int64_t begin, int64_t end) {
        MK_KERNEL(knn<T>)(a, out<uint8_t>(scratch) + part * bytes, first + begin, first + end);
      });
    };
#if defined(MK_KERNEL_BF16)
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (multiplies_bf16()) {
        const Tensor unfit = empty(source, {maps}, ScalarType::Byte);
        run_in_bf16(a, out<uint8_t>(unfit), source);
        for (int64_t n = 0; n < maps; ++n) {
          if (in<uint8_t>(unfit)[n]) run(n * blocks, blocks);
        }
        return;
      }
    }
#endif
    run(0, maps * blocks);
  });
  return graph;
}

}  // namespace cpu
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CPU, m) { m.impl("knn", TORCH_BOX(&molkernels::cpu::knn)); }

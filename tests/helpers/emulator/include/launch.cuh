// Replacement for csrc/cuda/launch.cuh: kernels run on CPU tensors.
#ifndef MOLKERNELS_LAUNCH_CUH
#define MOLKERNELS_LAUNCH_CUH

#include <cuda_runtime.h>

#include <string>

#include "common/index.h"
#include "common/tensor.h"

#define MK_DISPATCH_KEY CPU

namespace molkernels {

// The limits of an H100, or those of the environment.
class OnDevice {
 public:
  explicit OnDevice(const Tensor&) {}
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaStream_t stream() const { return nullptr; }
  int shared_memory() const { return emulator::setting("MOLKERNELS_EMULATED_SHARED", 227 * 1024); }
  int multiprocessors() const { return emulator::setting("MOLKERNELS_EMULATED_MULTIPROCESSORS", 132); }
};

template <class... Parameters>
int resident_blocks(void (*)(Parameters...), int, int) {
  return emulator::setting("MOLKERNELS_EMULATED_RESIDENT", 4);
}

template <class... Parameters, class... Arguments>
void launch(const OnDevice& device, void (*kernel)(Parameters...), dim3 grid, int threads, int shared,
            Arguments... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "a kernel's parameters may take 4 KB");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  auto body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  using Body = decltype(body);
  emulator::run(grid, threads, shared, device.shared_memory(), [](void* b) { (*static_cast<Body*>(b))(); }, &body);
}

}  // namespace molkernels

#endif

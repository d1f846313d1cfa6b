// Launching a kernel on torch's current stream of a tensor's device, with as much shared memory as the device allows.
//
// Only this header and ptx.cuh are specific to GPUs: tests/helpers/emulator has replacements for both (and for
// <cuda_runtime.h>) that run the same kernels on a CPU, one fibre per thread.
#ifndef MOLKERNELS_LAUNCH_CUH
#define MOLKERNELS_LAUNCH_CUH

#include <cuda_runtime.h>

#include <string>

#include "../common/index.h"
#include "../common/tensor.h"

extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

#define MK_DISPATCH_KEY CUDA

namespace molkernels {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("molkernels: ") + what + ": " + cudaGetErrorString(status));
}

// Makes a tensor's device current for the lifetime of the object, and knows its stream and limits.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t) : index_(t.get_device_index()) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != index_) check_cuda(cudaSetDevice(index_), "cudaSetDevice");
    void* stream = nullptr;
    require(aoti_torch_get_current_cuda_stream(index_, &stream) == 0, "torch has no current CUDA stream");
    stream_ = static_cast<cudaStream_t>(stream);
  }
  ~OnDevice() {
    if (before_ != index_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaStream_t stream() const { return stream_; }
  // Bytes of shared memory that one block may request (227 KiB on sm_90, 99 KiB on sm_86, 89 and 120, 163 KiB on
  // sm_80).
  int shared_memory() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, which, index_), "cudaDeviceGetAttribute");
    return value;
  }
  int index_ = 0, before_ = 0;
  cudaStream_t stream_ = nullptr;
};

// More than 48 KiB of shared memory for each block have to be asked for.
template <class... Parameters>
void allow_shared(void (*kernel)(Parameters...), int shared) {
  if (shared <= 48 * 1024) return;
  check_cuda(
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
      "more shared memory than the device grants");
}

// Blocks of a kernel that a multiprocessor holds at once; at least 1.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, int shared) {
  allow_shared(kernel, shared);
  int blocks = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<size_t>(shared)),
             "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks > 0 ? blocks : 1;
}

// kernel<<<grid, threads, shared, stream>>>(arguments...); a grid without blocks does nothing.
template <class... Parameters, class... Arguments>
void launch(const OnDevice& device, void (*kernel)(Parameters...), dim3 grid, int threads, int shared,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  allow_shared(kernel, shared);
  kernel<<<grid, threads, shared, device.stream()>>>(static_cast<Parameters>(arguments)...);
  check_cuda(cudaGetLastError(), "kernel launch");
}

}  // namespace molkernels

#endif  // MOLKERNELS_LAUNCH_CUH

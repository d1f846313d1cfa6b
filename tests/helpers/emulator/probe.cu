// Kernels that test whether the emulator, or a GPU, behaves as ptx.cuh says.
#include "../../../csrc/cuda/launch.cuh"
#include "../../../csrc/cuda/ptx.cuh"

namespace molkernels {
namespace {

constexpr unsigned full = 0xffffffffu;

// y[block, i] = x[block, i] + x[block, mirrored i], through shared memory.
__global__ void __launch_bounds__(256) mirror_kernel(const float* x, float* y, int length, bool synchronise) {
  float* tile = reinterpret_cast<float*>(dynamic_shared());
  const int i = int(threadIdx.x);
  const int64_t at = int64_t(blockIdx.x) * length + i;
  tile[i] = x[at];
  if (synchronise) __syncthreads();
  y[at] = tile[i] + tile[length - 1 - i];
}

Tensor mirror(const Tensor& x, bool synchronise, int64_t spare) {
  const OnDevice device(x);
  const int length = int(x.size(1));
  Tensor y = empty_like(x);
  launch(device, mirror_kernel, dim3(unsigned(x.size(0))), length, length * 4 + int(spare), in<float>(x), out<float>(y),
         length, synchronise);
  return y;
}

// The values that each lane receives from four shuffles and a vote.
template <class T>
__global__ void __launch_bounds__(32) shuffle_kernel(const T* x, T* y) {
  const int lane = int(threadIdx.x);
  const T v = x[lane];
  y[lane] = __shfl_sync(full, v, 5);
  y[32 + lane] = __shfl_xor_sync(full, v, 3);
  y[64 + lane] = __shfl_up_sync(full, v, 2);
  y[96 + lane] = __shfl_down_sync(full, v, 2, 8);
  y[128 + lane] = T(__popc(__ballot_sync(full, v > T(0))));
}

Tensor shuffle(const Tensor& x) {
  const OnDevice device(x);
  Tensor y = empty(x, {5, 32}, x.scalar_type());
  for_dtype<float, double, int32_t, int64_t>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch(device, shuffle_kernel<T>, dim3(1), 32, 0, in<T>(x), out<T>(y));
  });
  return y;
}

// y = x by asynchronous copies in two groups, with the last `hidden` values replaced by zeros; with `waits` < 2 the
// kernel does not wait for the later groups.
__global__ void __launch_bounds__(32) copy_kernel(const float* x, float* y, int hidden, int waits) {
  float* tile = reinterpret_cast<float*>(dynamic_shared());
  const int lane = int(threadIdx.x);
  copy_async16(tile + 4 * lane, x + 4 * lane);
  copy_async_commit();
  copy_async4(tile + 128 + lane, x + 128 + lane, lane < 32 - hidden);
  copy_async_commit();
  if (waits == 1) copy_async_wait<1>();
  if (waits == 2) copy_async_wait<0>();
  __syncthreads();
  for (int i = lane; i < 160; i += 32) y[i] = tile[i];
}

Tensor copy(const Tensor& x, int64_t hidden, int64_t waits) {
  const OnDevice device(x);
  Tensor y = empty_like(x);
  launch(device, copy_kernel, dim3(1), 32, 160 * 4, in<float>(x), out<float>(y), int(hidden), int(waits));
  return y;
}

// 0: one lane ends early. 1: halves of a warp at different barriers. 2: warps at different barriers. 3: half a warp
// shuffles. 4: a copy to an odd address. 5: a matrix row outside shared memory. 6: none of these.
__global__ void __launch_bounds__(64) diverge_kernel(int how, float* y) {
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  if (how == 0 && threadIdx.x == 7) return;
  if ((how == 1 && lane < 16) || (how == 2 && warp == 0)) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  if (how == 3 && lane < 16) y[0] = __shfl_sync(full, y[0], 0);
  if (how == 4) copy_async4(dynamic_shared() + 2, y);
  uint32_t r[4] = {};
  if (how == 5) load_matrices(r, y);
  __syncthreads();
  y[threadIdx.x] = float(r[0]);
}

Tensor diverge(const Tensor& x, int64_t how) {
  const OnDevice device(x);
  Tensor y = empty(x, {64}, ScalarType::Float);
  launch(device, diverge_kernel, dim3(2), 64, 1024, int(how), out<float>(y));
  return y;
}

template <class T>
MK_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, BFloat16>)
    mma_bf16(c, a, b);
  else
    mma_f16(c, a, b);
}

// d (16×8) = c + a (16×16) b, b given as K×N, or as N×K with `b_rows`; fragments by load_matrices.
template <class T>
__global__ void __launch_bounds__(32) product_kernel(const T* a, const T* b, const float* c, float* d, bool b_rows) {
  T* a_tile = reinterpret_cast<T*>(dynamic_shared());  // rows of 24, which avoids bank conflicts
  T* b_tile = a_tile + 16 * 24;
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  const int width = b_rows ? 16 : 8;
  for (int i = lane; i < 256; i += 32) a_tile[i / 16 * 24 + i % 16] = a[i];
  for (int i = lane; i < 16 * 24; i += 32) b_tile[i] = T(0.0f);
  __syncwarp();
  for (int i = lane; i < 128; i += 32) b_tile[i / width * 24 + i % width] = b[i];
  __syncwarp();
  uint32_t fragment_a[4], loaded[4];
  load_matrices(fragment_a, a_tile + lane % 16 * 24 + lane / 16 * 8);
  if (b_rows)  // matrices: columns 0…7 and 8…15 of the eight rows; the other two are not used
    load_matrices(loaded, b_tile + lane % 8 * 24 + lane / 8 % 2 * 8);
  else
    load_matrices_transposed(loaded, b_tile + lane % 16 * 24);
  const uint32_t fragment_b[2] = {loaded[0], loaded[1]};
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  multiply<T>(sum, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

// d (16×8) = c + a (16×8) b (8×8) in TF32, the operands rounded, or truncated by the tensor core.
__global__ void __launch_bounds__(32)
    product_tf32_kernel(const float* a, const float* b, const float* c, float* d, bool round) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  const auto operand = [&](float v) { return round ? to_tf32(v) : __float_as_uint(v); };
  uint32_t fragment_a[4], fragment_b[2];
  for (int i = 0; i < 4; ++i) fragment_a[i] = operand(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
  for (int i = 0; i < 2; ++i) fragment_b[i] = operand(b[(t + i * 4) * 8 + g]);
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_tf32(sum, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

Tensor product(const Tensor& a, const Tensor& b, const Tensor& c, bool b_rows, bool round) {
  const OnDevice device(a);
  Tensor d = empty_like(c);
  for_dtype<float, BFloat16, Half>(a.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, float>)
      launch(device, product_tf32_kernel, dim3(1), 32, 0, in<float>(a), in<float>(b), in<float>(c), out<float>(d),
             round);
    else
      launch(device, product_kernel<T>, dim3(1), 32, 2 * 16 * 24 * 2, in<T>(a), in<T>(b), in<float>(c), out<float>(d),
             b_rows);
  });
  return d;
}

// A running sum passed from lane to lane and from warp to warp: `rounds` × (1 barrier and 8 shuffles) per thread.
__global__ void __launch_bounds__(256) relay_kernel(float* y, int rounds) {
  float* tile = reinterpret_cast<float*>(dynamic_shared());
  const int i = int(threadIdx.x), count = int(blockDim.x);
  float v = float(i);
  for (int round = 0; round < rounds; ++round) {
    for (int step = 0; step < 8; ++step) v = __shfl_sync(full, v, (i + 1) % 32);
    tile[round % 2 * count + i] = v;
    __syncthreads();
    v = tile[round % 2 * count + (i + 32) % count];
  }
  y[i] = v;
}

Tensor relay(const Tensor& x, int64_t threads, int64_t rounds) {
  const OnDevice device(x);
  Tensor y = empty(x, {threads}, ScalarType::Float);
  launch(device, relay_kernel, dim3(1), int(threads), int(threads) * 8, out<float>(y), int(rounds));
  return y;
}

}  // namespace
}  // namespace molkernels

STABLE_TORCH_LIBRARY(molkernels_probe, m) {
  m.def("mirror(Tensor x, bool synchronise, int spare) -> Tensor");
  m.def("shuffle(Tensor x) -> Tensor");
  m.def("copy(Tensor x, int hidden, int waits) -> Tensor");
  m.def("diverge(Tensor x, int how) -> Tensor");
  m.def("product(Tensor a, Tensor b, Tensor c, bool b_rows, bool round) -> Tensor");
  m.def("relay(Tensor x, int threads, int rounds) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(molkernels_probe, MK_DISPATCH_KEY, m) {
  m.impl("mirror", TORCH_BOX(&molkernels::mirror));
  m.impl("shuffle", TORCH_BOX(&molkernels::shuffle));
  m.impl("copy", TORCH_BOX(&molkernels::copy));
  m.impl("diverge", TORCH_BOX(&molkernels::diverge));
  m.impl("product", TORCH_BOX(&molkernels::product));
  m.impl("relay", TORCH_BOX(&molkernels::relay));
}

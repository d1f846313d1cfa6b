// The F5C block in evaluation, composed of the operators and a 1×1 convolution with bias and residual in its epilogue.
//
//   z = x + mix1(fcc(x)),  y = z + mix2(edge_max(z, knn(z))),  mix(f)[d, p] = Σ_c W[d, c] f[c, p] + b[d],
// where a mix without a weight is the identity; fcc and edge_max themselves then add their input.
//
// mix: W (C, C) times f (C, P), for each of N maps. Work: 2·C²·P FLOP per map (8.4 MFLOP at 128×256). Bytes: f, the
// residual and y once each (W stays in L2); a block of 128 rows reads f once if C ≤ 128.

#include "launch.cuh"
#include "ops.h"
#include "ptx.cuh"

namespace molkernels {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 64;  // positions of a tile
constexpr int kStages = 3;

template <class T>
struct Mix {
  const T *f, *weight, *bias, *residual;  // bias may be null
  T* y;
  int channels, positions, row_tiles, column_tiles;
  bool aligned_weight, aligned_map;  // 16-byte pieces never cross an edge
};

// Channels of a chunk: 64 bytes of a row of the weight.
template <class T>
inline constexpr int kDepth = 64 / sizeof(T);

// A chunk of the weight (rows × depth) and of the map (depth × columns) in shared memory; with these pitches the loads
// of fragments have no bank conflicts.
template <class T, int kRows>
struct Stage {
  static constexpr int kWeightPitch = kDepth<T> + 16 / sizeof(T);
  static constexpr int kMapPitch = kColumns + 8;
  static constexpr int kWeight = kRows * kWeightPitch;
  static constexpr int kElements = kWeight + kDepth<T> * kMapPitch;
};

// to[i][j] = from[row + i][column + j] for kHeight × kWidth elements of a (rows, columns) matrix, zero outside.
template <class T, int kHeight, int kWidth, int kPitch>
MK_DEVICE void stage_matrix(T* to, const T* from, int row, int column, int rows, int columns, bool aligned) {
  constexpr int kVector = 16 / sizeof(T), kAcross = kWidth / kVector;
  if (aligned) {
#pragma unroll
    for (int piece = threadIdx.x; piece < kHeight * kAcross; piece += kThreads) {
      const int i = piece / kAcross, j = piece % kAcross * kVector;
      const bool inside = row + i < rows && column + j < columns;
      const int64_t offset = inside ? static_cast<int64_t>(row + i) * columns + column + j : 0;
      copy_async16(to + i * kPitch + j, from + offset, inside);
    }
  } else {
#pragma unroll 1
    for (int element = threadIdx.x; element < kHeight * kWidth; element += kThreads) {
      const int i = element / kWidth, j = element % kWidth;
      const bool inside = row + i < rows && column + j < columns;
      to[i * kPitch + j] = inside ? from[static_cast<int64_t>(row + i) * columns + column + j] : T(0.0f);
    }
  }
}

template <class T, int kRows>
MK_DEVICE void stage_chunk(T* stage, const Mix<T>& mix, const T* f, int row, int column, int chunk) {
  using S = Stage<T, kRows>;
  stage_matrix<T, kRows, kDepth<T>, S::kWeightPitch>(stage, mix.weight, row, chunk * kDepth<T>, mix.channels,
                                                     mix.channels, mix.aligned_weight);
  stage_matrix<T, kDepth<T>, kColumns, S::kMapPitch>(stage + S::kWeight, f, chunk * kDepth<T>, column, mix.channels,
                                                     mix.positions, mix.aligned_map);
}

// y[d, p] and y[d, p + 1] of one map, p even: sum + bias + residual, rounded once.
template <class T>
MK_DEVICE void write_pair(const Mix<T>& mix, int64_t map, int d, int p, float sum0, float sum1) {
  if (d >= mix.channels || p >= mix.positions) return;
  const int64_t at = map * mix.channels * mix.positions + static_cast<int64_t>(d) * mix.positions + p;
  const float bias = mix.bias == nullptr ? 0.0f : static_cast<float>(mix.bias[d]);
  struct alignas(2 * sizeof(T)) Pair {
    T first, second;
  };
  if (mix.aligned_map) {
    const Pair residual = *reinterpret_cast<const Pair*>(mix.residual + at);
    *reinterpret_cast<Pair*>(mix.y + at) = {static_cast<T>(sum0 + bias + static_cast<float>(residual.first)),
                                            static_cast<T>(sum1 + bias + static_cast<float>(residual.second))};
  } else {
    mix.y[at] = static_cast<T>(sum0 + bias + static_cast<float>(mix.residual[at]));
    if (p + 1 < mix.positions) {
      mix.y[at + 1] = static_cast<T>(sum1 + bias + static_cast<float>(mix.residual[at + 1]));
    }
  }
}

// The product on tensor cores: eight warps as 4 × 2, each kRows/4 × 32.
template <class T, int kRows>
struct TensorCores {
  using S = Stage<T, kRows>;
  static constexpr int kRowTiles = kRows / 64;
  float sums[kRowTiles][4][4] = {};

  static MK_DEVICE int row() { return static_cast<int>(threadIdx.x) / 64 * (kRows / 4); }
  static MK_DEVICE int column() { return static_cast<int>(threadIdx.x) / 32 % 2 * 32; }

  MK_DEVICE void multiply_chunk(const T* stage) {
    if constexpr (std::is_same_v<T, float>) {
      multiply_tf32(stage + row() * S::kWeightPitch, stage + S::kWeight + column());
    } else {
      multiply_16bit(stage + row() * S::kWeightPitch, stage + S::kWeight + column());
    }
  }

  MK_DEVICE void multiply_tf32(const float* weight, const float* map) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < kDepth<float>; k += 8) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          a[i][e] = to_tf32(weight[(16 * i + g + e % 2 * 8) * S::kWeightPitch + k + t + e / 2 * 4]);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t b[2] = {to_tf32(map[(k + t) * S::kMapPitch + 8 * j + g]),
                               to_tf32(map[(k + t + 4) * S::kMapPitch + 8 * j + g])};
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) mma_tf32(sums[i][j], a[i], b);
      }
    }
  }

  MK_DEVICE void multiply_16bit(const T* weight, const T* map) {
    const int line = threadIdx.x % 16, half = threadIdx.x % 32 / 16 * 8;
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += 16) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) load_matrices(a[i], weight + (16 * i + line) * S::kWeightPitch + k + half);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, map + (k + line) * S::kMapPitch + 8 * j + half);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          multiply_add(sums[i][j], a[i], {b[0], b[1]});
          multiply_add(sums[i][j + 1], a[i], {b[2], b[3]});
        }
      }
    }
  }

  static MK_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (std::is_same_v<T, Half>) {
      mma_f16(c, a, b);
    } else {
      mma_bf16(c, a, b);
    }
  }

  MK_DEVICE void write(const Mix<T>& mix, int64_t map, int tile_row, int tile_column) const {
    const int d = tile_row + row() + static_cast<int>(threadIdx.x) % 32 / 4;
    const int p = tile_column + column() + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        write_pair(mix, map, d + 16 * i, p + 8 * j, sums[i][j][0], sums[i][j][1]);
        write_pair(mix, map, d + 16 * i + 8, p + 8 * j, sums[i][j][2], sums[i][j][3]);
      }
    }
  }
};

// The product in float: 16 × 16 threads, each kRows/16 rows, 16 apart (so that the two rows of a warp are in different
// banks), and 4 columns.
template <int kRows>
struct Ieee {
  using S = Stage<float, kRows>;
  static constexpr int kLines = kRows / 16;
  float sums[kLines][4] = {};

  MK_DEVICE void multiply_chunk(const float* stage) {
    const float* weight = stage + threadIdx.x / 16 * S::kWeightPitch;
    const float* map = stage + S::kWeight + threadIdx.x % 16 * 4;
#pragma unroll 1
    for (int k = 0; k < kDepth<float>; k += 4) {
      float4 b[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) b[e] = *reinterpret_cast<const float4*>(map + (k + e) * S::kMapPitch);
#pragma unroll
      for (int i = 0; i < kLines; ++i) {
        const float4 a = *reinterpret_cast<const float4*>(weight + 16 * i * S::kWeightPitch + k);
        const float factors[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sums[i][0] = fmaf(factors[e], b[e].x, sums[i][0]);
          sums[i][1] = fmaf(factors[e], b[e].y, sums[i][1]);
          sums[i][2] = fmaf(factors[e], b[e].z, sums[i][2]);
          sums[i][3] = fmaf(factors[e], b[e].w, sums[i][3]);
        }
      }
    }
  }

  MK_DEVICE void write(const Mix<float>& mix, int64_t map, int tile_row, int tile_column) const {
    const int d = tile_row + static_cast<int>(threadIdx.x) / 16,
              p = tile_column + static_cast<int>(threadIdx.x) % 16 * 4;
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      write_pair(mix, map, d + 16 * i, p, sums[i][0], sums[i][1]);
      write_pair(mix, map, d + 16 * i, p + 2, sums[i][2], sums[i][3]);
    }
  }
};

template <class T, int kRows, class Product>
__global__ void __launch_bounds__(kThreads, 2) mix_kernel(Mix<T> mix) {
  using S = Stage<T, kRows>;
  T* stage = reinterpret_cast<T*>(dynamic_shared());
  const int tiles = mix.row_tiles * mix.column_tiles;
  const int64_t map = blockIdx.x / tiles;
  const int tile = static_cast<int>(blockIdx.x) % tiles;
  const int row = tile % mix.row_tiles * kRows, column = tile / mix.row_tiles * kColumns;
  const T* f = mix.f + map * mix.channels * mix.positions;
  const int chunks = ceil_div(mix.channels, kDepth<T>);
  Product product;
  for (int chunk = 0; chunk < kStages - 1; ++chunk) {
    if (chunk < chunks) stage_chunk<T, kRows>(stage + chunk * S::kElements, mix, f, row, column, chunk);
    copy_async_commit();
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    const int next = chunk + kStages - 1;
    if (next < chunks) stage_chunk<T, kRows>(stage + next % kStages * S::kElements, mix, f, row, column, next);
    copy_async_commit();
    product.multiply_chunk(stage + chunk % kStages * S::kElements);
  }
  product.write(mix, map, row, column);
}

template <class T, int kRows, class Product>
void launch_product(const OnDevice& device, Mix<T> mix, int64_t maps) {
  mix.row_tiles = ceil_div(mix.channels, kRows);
  mix.column_tiles = ceil_div(mix.positions, kColumns);
  const int64_t blocks = maps * mix.row_tiles * mix.column_tiles;
  require(blocks <= INT32_MAX, "f5c: too many maps for one launch");
  const int shared = kStages * Stage<T, kRows>::kElements * static_cast<int>(sizeof(T));
  launch(device, mix_kernel<T, kRows, Product>, dim3(static_cast<unsigned>(blocks)), kThreads, shared, mix);
}

template <int kRows>
void launch_rows(const OnDevice& device, const Mix<float>& mix, int64_t maps, bool tf32) {
  if (tf32) {
    launch_product<float, kRows, TensorCores<float, kRows>>(device, mix, maps);
  } else {
    launch_product<float, kRows, Ieee<kRows>>(device, mix, maps);
  }
}
template <int kRows, class T>
void launch_rows(const OnDevice& device, const Mix<T>& mix, int64_t maps, bool) {
  launch_product<T, kRows, TensorCores<T, kRows>>(device, mix, maps);
}

bool aligned(const Tensor& t, int64_t row) {
  const int64_t bytes = row * static_cast<int64_t>(t.element_size());
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 && bytes % 16 == 0;
}

// residual + mix(f), for contiguous residual and f (N, C, …).
Tensor mix_residual(const Tensor& residual, const Tensor& f, const Tensor& weight, const std::optional<Tensor>& bias,
                    bool tf32) {
  const Tensor w = molkernels::contiguous(weight), b = molkernels::contiguous(bias.value_or(weight));
  const Tensor y = empty_like(residual);
  const int64_t maps = f.size(0), channels = f.size(1), positions = f.size(2) * (f.dim() == 4 ? f.size(3) : 1);
  const OnDevice device(f);
  for_dtype<float, BFloat16, Half>(f.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Mix<T> mix{in<T>(f), in<T>(w), bias ? in<T>(b) : nullptr, in<T>(residual), out<T>(y)};
    mix.channels = static_cast<int>(channels);
    mix.positions = static_cast<int>(positions);
    mix.aligned_weight = aligned(w, channels);
    mix.aligned_map = aligned(f, positions) && aligned(residual, positions) && aligned(y, positions);
    // With 128 rows per block the map is read once; use them if there are enough rows and enough work.
    const int64_t blocks = maps * ceil_div(mix.channels, 128) * ceil_div(mix.positions, kColumns);
    if (channels > 64 && blocks >= device.multiprocessors()) {
      launch_rows<128>(device, mix, maps, tf32);
    } else {
      launch_rows<64>(device, mix, maps, tf32);
    }
  });
  return y;
}

}  // namespace

Tensor f5c(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& gamma, const Tensor& beta,
           const Tensor& pe_h, const Tensor& pe_w, const Tensor& weight_h, const Tensor& weight_w, const Tensor& bias_h,
           const Tensor& bias_w, const std::optional<Tensor>& fcc_mix, const std::optional<Tensor>& fcc_mix_bias,
           const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2,
           const std::optional<Tensor>& ccc_mix, const std::optional<Tensor>& ccc_mix_bias, int64_t k,
           const std::string& graph, double eps, bool tf32, bool conv_tf32) {
  const Tensor input = molkernels::contiguous(x);
  const Tensor f = fcc(input, mean, var, gamma, beta, pe_h, pe_w, weight_h, weight_w, bias_h, bias_w, eps,
                       !fcc_mix.has_value(), tf32);
  const Tensor z = fcc_mix ? mix_residual(input, f, *fcc_mix, fcc_mix_bias, conv_tf32) : f;
  const Tensor maps = torch::stable::view(z, {z.size(0), z.size(1), z.size(2) * z.size(3)});
  const Tensor nodes = graph == "channel" ? maps : torch::stable::transpose(maps, 1, 2);
  const Tensor edges =
      edge_max_inference(maps, knn(nodes, k, tf32), weight1, bias1, weight2, bias2, graph, tf32, !ccc_mix.has_value());
  return ccc_mix ? mix_residual(z, edges, *ccc_mix, ccc_mix_bias, conv_tf32) : torch::stable::view(edges, z.sizes());
}

}  // namespace cuda
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cuda, MK_DISPATCH_KEY, m) { m.impl("f5c", TORCH_BOX(&molkernels::cuda::f5c)); }

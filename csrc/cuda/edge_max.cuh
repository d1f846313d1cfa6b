// Shared by the kernels of edge_max: the products of a warp in every precision, tiles in shared memory, memory access.
#pragma once

#include <cstring>

#include "../common/edge_max.h"
#include "launch.cuh"
#include "ptx.cuh"

namespace molkernels {
namespace cuda {

// The graphs' own functions; see molkernels/reference.py. All tensors are contiguous. Without `winner` it is not
// written; with `residual`, shaped like y, y is rounded and added to it.
struct EdgeOutputs {
  Tensor y;
  std::optional<Tensor> winner, residual;
};
void edge_max_channel(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                      const Tensor& weight2, const Tensor& bias2, bool tf32, const EdgeOutputs& outputs);
void edge_max_position(const Tensor& x, const Tensor& idx, const Tensor& weight1, const Tensor& bias1,
                       const Tensor& weight2, const Tensor& bias2, bool tf32, const EdgeOutputs& outputs);
std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_channel_backward(const Tensor& grad_y, const Tensor& x,
                                                                     const Tensor& idx, const Tensor& weight1,
                                                                     const Tensor& weight2, const Tensor& y,
                                                                     const Tensor& winner);
std::tuple<Tensor, Tensor, Tensor, Tensor> edge_max_position_backward(const Tensor& grad_y, const Tensor& x,
                                                                      const Tensor& idx, const Tensor& weight1,
                                                                      const Tensor& weight2, const Tensor& y,
                                                                      const Tensor& winner, bool tf32);

// --------------------------------------------------------------------------------------------------------------------
// Products of a warp: c (16 × 16) += A (16 × depth) B (depth × 16), the same members in every precision.
//
// With lane = 4 g + t, c[tile][0…3] are (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1) of the tile's 8 columns.
//   rows     loads A from memory that holds A[m][k]
//   columns  loads A from memory that holds A[k][m], row k at any offset row(k), so that this gathers;
//            m is `first` and the 15 after it, each & mask
//   pair     loads B from memory that holds B[n][k]
//   masked   keeps the values of A whose word in `wins` (same layout, same width) has bit j, or all if keep is ~0
// Rows of A[m][k] and B[n][k] are row_pad elements longer than K, those of A[k][m] column_pad longer than M, to avoid
// bank conflicts.

template <class T>
struct Mma16 {
  using Element = T;
  static constexpr int depth = 16, unroll = 2, row_pad = 8, column_pad = 8;
  struct A {
    uint32_t v[4];
  };
  struct B {
    uint32_t v[4];
  };

  static MK_DEVICE A rows(const T* tile, int pitch) {
    const int lane = threadIdx.x % 32;
    A a;
    load_matrices(a.v, tile + lane % 16 * pitch + lane / 16 * 8);
    return a;
  }
  template <class Row>
  static MK_DEVICE A columns(const T* tile, Row row, int first, int mask) {
    const int lane = threadIdx.x % 32;
    A a;
    load_matrices_transposed(a.v, tile + row((lane & 7) | (lane >> 1 & 8)) + ((first + (lane & 8)) & mask));
    return a;
  }
  static MK_DEVICE B pair(const T* tile, int pitch) {
    const int lane = threadIdx.x % 32;
    B b;
    load_matrices(b.v, tile + ((lane & 7) | (lane >> 1 & 8)) * pitch + (lane & 8));
    return b;
  }
  static MK_DEVICE void multiply(float (&c)[2][4], const A& a, const B& b) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const uint32_t column[2] = {b.v[2 * tile], b.v[2 * tile + 1]};
      if constexpr (std::is_same_v<T, BFloat16>) {
        mma_bf16(c[tile], a.v, column);
      } else {
        mma_f16(c[tile], a.v, column);
      }
    }
  }
  static MK_DEVICE A masked(const A& a, const A& wins, int j, uint32_t keep) {
    A kept;
#pragma unroll
    for (int i = 0; i < 4; ++i) kept.v[i] = a.v[i] & ((wins.v[i] >> j & 0x00010001u) * 0xffffu | keep);
    return kept;
  }
  static MK_DEVICE A rounded(const A& a) { return a; }
  static MK_DEVICE T stored(float v) { return static_cast<T>(v); }
};

// The mma's k of a lane are t and t + 4; here they mean 2t and 2t + 1, so that one load fetches both.
struct MmaTf32 {
  using Element = float;
  static constexpr int depth = 8, unroll = 2, row_pad = 8, column_pad = 4;
  struct A {
    uint32_t v[4];
  };
  struct B {
    uint2 v[2];
  };

  static MK_DEVICE A rows(const float* tile, int pitch) {
    const int lane = threadIdx.x % 32;
    const float* at = tile + lane / 4 * pitch + lane % 4 * 2;
    const uint2 top = *reinterpret_cast<const uint2*>(at), bottom = *reinterpret_cast<const uint2*>(at + 8 * pitch);
    return {{top.x, bottom.x, top.y, bottom.y}};
  }
  template <class Row>
  static MK_DEVICE A columns(const float* tile, Row row, int first, int mask) {
    const int lane = threadIdx.x % 32, k = lane % 4 * 2;
    const int top = (first + lane / 4) & mask, bottom = (first + lane / 4 + 8) & mask;
    const float *even = tile + row(k), *odd = tile + row(k + 1);
    return {{__float_as_uint(even[top]), __float_as_uint(even[bottom]), __float_as_uint(odd[top]),
             __float_as_uint(odd[bottom])}};
  }
  static MK_DEVICE B pair(const float* tile, int pitch) {
    const int lane = threadIdx.x % 32;
    const float* at = tile + lane / 4 * pitch + lane % 4 * 2;
    return {{*reinterpret_cast<const uint2*>(at), *reinterpret_cast<const uint2*>(at + 8 * pitch)}};
  }
  static MK_DEVICE void multiply(float (&c)[2][4], const A& a, const B& b) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const uint32_t column[2] = {b.v[tile].x, b.v[tile].y};
      mma_tf32(c[tile], a.v, column);
    }
  }
  static MK_DEVICE A masked(const A& a, const A& wins, int j, uint32_t keep) {
    A kept;
#pragma unroll
    for (int i = 0; i < 4; ++i) kept.v[i] = a.v[i] & ((0u - (wins.v[i] >> j & 1u)) | keep);
    return kept;
  }
  static MK_DEVICE A rounded(const A& a) {
    A r;
#pragma unroll
    for (int i = 0; i < 4; ++i) r.v[i] = to_tf32(__uint_as_float(a.v[i]));
    return r;
  }
  static MK_DEVICE float stored(float v) { return __uint_as_float(to_tf32(v)); }
};

// IEEE float32 on the CUDA cores, in the fragment layout of the others.
struct Fma {
  using Element = float;
  static constexpr int depth = 2, unroll = 1, row_pad = 4, column_pad = 4;
  struct A {
    float2 v[2];
  };
  struct B {
    float2 v[2][2];
  };

  static MK_DEVICE A rows(const float* tile, int pitch) {
    const float* at = tile + threadIdx.x % 32 / 4 * pitch;
    return {{*reinterpret_cast<const float2*>(at), *reinterpret_cast<const float2*>(at + 8 * pitch)}};
  }
  template <class Row>
  static MK_DEVICE A columns(const float* tile, Row row, int first, int mask) {
    const int g = threadIdx.x % 32 / 4;
    const int top = (first + g) & mask, bottom = (first + g + 8) & mask;
    const float *even = tile + row(0), *odd = tile + row(1);
    return {{make_float2(even[top], odd[top]), make_float2(even[bottom], odd[bottom])}};
  }
  static MK_DEVICE B pair(const float* tile, int pitch) {
    const float* at = tile + threadIdx.x % 4 * 2 * pitch;
    B b;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) b.v[i][e] = *reinterpret_cast<const float2*>(at + (8 * i + e) * pitch);
    }
    return b;
  }
  static MK_DEVICE void multiply(float (&c)[2][4], const A& a, const B& b) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 m = a.v[i / 2], n = b.v[tile][i % 2];
        c[tile][i] = fmaf(m.y, n.y, fmaf(m.x, n.x, c[tile][i]));
      }
    }
  }
  static MK_DEVICE A masked(const A& a, const A& wins, int j, uint32_t keep) {
    A kept;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      kept.v[i].x = (__float_as_uint(wins.v[i].x) >> j & 1u) | keep ? a.v[i].x : 0.f;
      kept.v[i].y = (__float_as_uint(wins.v[i].y) >> j & 1u) | keep ? a.v[i].y : 0.f;
    }
    return kept;
  }
  static MK_DEVICE A rounded(const A& a) { return a; }
  static MK_DEVICE float stored(float v) { return v; }
};

// f(product) with the product for a dtype.
template <class F>
void for_product(ScalarType dtype, bool tf32, F&& f) {
  if (dtype == ScalarType::BFloat16) return f(Mma16<BFloat16>{});
  if (dtype == ScalarType::Half) return f(Mma16<Half>{});
  require(dtype == ScalarType::Float, "this dtype has no kernel");
  if (tf32) return f(MmaTf32{});
  f(Fma{});
}

// --------------------------------------------------------------------------------------------------------------------
// Tiles

// The K of one stage of a pipeline: 64 bytes of every row.
template <class M>
inline constexpr int stage_depth = 64 / int(sizeof(typename M::Element));
template <class M>
inline constexpr int stage_pitch = stage_depth<M> + M::row_pad;

// Row 8 i + 2 t + e of a B tile of `Tiles` 8-row tiles holds output 2·Tiles·t + 2 i + e: then a lane's accumulators are
// 2·Tiles consecutive outputs, and its stores are wide.
template <int Tiles>
MK_DEVICE constexpr int output_of_row(int row) {
  return row / 2 % 4 * (2 * Tiles) + row / 8 * 2 + row % 2;
}

// One stage of `rows` rows; source(row) is the address of its 64 bytes, or nullptr for zeros; `any` is any readable
// address.
template <class M, class Source>
MK_DEVICE void copy_stage(typename M::Element* to, int rows, const typename M::Element* any, Source source) {
  constexpr int piece = 16 / int(sizeof(typename M::Element));
  for (int i = threadIdx.x; i < rows * 4; i += blockDim.x) {
    const typename M::Element* from = source(i / 4);
    copy_async16(to + i / 4 * stage_pitch<M> + i % 4 * piece, from ? from + i % 4 * piece : any, from != nullptr);
  }
}

// Wait for the oldest stage of two or three.
MK_DEVICE void wait_stage(int stages) {
  if (stages == 3) {
    copy_async_wait<1>();
  } else {
    copy_async_wait<0>();
  }
  __syncthreads();
}

// --------------------------------------------------------------------------------------------------------------------
// Memory

MK_DEVICE uint4 zeros16() { return make_uint4(0, 0, 0, 0); }

// 16 bytes of values, zeros from `count` on.  `wide`: every row starts and ends at a multiple of 16 bytes.
template <class T>
MK_DEVICE uint4 load16(const T* from, int count, bool wide) {
  if (count <= 0) return zeros16();
  if (wide) return *reinterpret_cast<const uint4*>(from);
  T values[16 / sizeof(T)];
#pragma unroll
  for (int i = 0; i < int(16 / sizeof(T)); ++i) values[i] = i < count ? from[i] : static_cast<T>(0.f);
  uint4 packed;
  memcpy(&packed, values, 16);
  return packed;
}

// Eight values at a multiple of 16 bytes.
template <class T>
MK_DEVICE void store8(T* to, const T (&values)[8]) {
  uint4 packed[8 * sizeof(T) / 16];
  memcpy(packed, values, sizeof packed);
#pragma unroll
  for (int i = 0; i < int(8 * sizeof(T) / 16); ++i) reinterpret_cast<uint4*>(to)[i] = packed[i];
}

// Eight values as floats, zeros from `count` on.
template <class T>
MK_DEVICE void load8(float (&values)[8], const T* from, int count, bool wide) {
  constexpr int piece = 16 / int(sizeof(T));
#pragma unroll
  for (int i = 0; i < 8; i += piece) {
    const uint4 packed = load16(from + i, count - i, wide);
    T part[piece];
    memcpy(part, &packed, 16);
#pragma unroll
    for (int e = 0; e < piece; ++e) values[i + e] = static_cast<float>(part[e]);
  }
}

// Where a kernel writes; winner and residual may be null.
template <class T>
struct Outputs {
  T* y;
  uint8_t* winner;
  const T* residual;
  bool wide;  // see `wide_rows`
};

// y[at] as the operator returns it, or with the residual added as another operator would add it.
template <class T>
MK_DEVICE T output_value(const Outputs<T>& to, int64_t at, float y) {
  const T rounded = static_cast<T>(y);
  if (to.residual == nullptr) return rounded;
  return static_cast<T>(static_cast<float>(rounded) + static_cast<float>(to.residual[at]));
}

// Eight outputs from `first` on of a row of P, and their winners as bytes.
template <class T>
MK_DEVICE void write_outputs(const Outputs<T>& to, int positions, int64_t row, int first, const float (&y)[8],
                             const uint32_t* winner) {
  const int64_t at = row * positions + first;
  if (!to.wide) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (first + i >= positions) continue;
      to.y[at + i] = output_value(to, at + i, y[i]);
      if (to.winner != nullptr) to.winner[at + i] = static_cast<uint8_t>(winner[i / 4] >> i % 4 * 8);
    }
    return;
  }
  if (first >= positions) return;
  T rounded[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) rounded[i] = static_cast<T>(y[i]);
  if (to.residual != nullptr) {
    float residual[8];
    load8(residual, to.residual + at, 8, true);
#pragma unroll
    for (int i = 0; i < 8; ++i) rounded[i] = static_cast<T>(static_cast<float>(rounded[i]) + residual[i]);
  }
  store8(to.y + at, rounded);
  if (to.winner != nullptr) *reinterpret_cast<uint2*>(to.winner + at) = make_uint2(winner[0], winner[1]);
}

// A block of 8 × 8 16-bit or 4 × 4 32-bit values, transposed in registers.
MK_DEVICE void transpose_block(uint4 (&block)[8]) {
  uint32_t in[8][4];
  memcpy(in, block, sizeof in);
  uint32_t out[8][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      out[2 * i][r] = (in[2 * r][i] & 0xffffu) | in[2 * r + 1][i] << 16;
      out[2 * i + 1][r] = in[2 * r][i] >> 16 | (in[2 * r + 1][i] & 0xffff0000u);
    }
  }
  memcpy(block, out, sizeof out);
}
MK_DEVICE void transpose_block(uint4 (&block)[4]) {
  const uint4 a = block[0], b = block[1], c = block[2], d = block[3];
  block[0] = make_uint4(a.x, b.x, c.x, d.x);
  block[1] = make_uint4(a.y, b.y, c.y, d.y);
  block[2] = make_uint4(a.z, b.z, c.z, d.z);
  block[3] = make_uint4(a.w, b.w, c.w, d.w);
}

// A value from memory, converted for a product: rounded for TF32, else unchanged.
template <class M>
MK_DEVICE uint4 stored16(uint4 v) {
  if constexpr (std::is_same_v<M, MmaTf32>) {
    return make_uint4(to_tf32(__uint_as_float(v.x)), to_tf32(__uint_as_float(v.y)), to_tf32(__uint_as_float(v.z)),
                      to_tf32(__uint_as_float(v.w)));
  } else {
    return v;
  }
}

// to[p][c] = map[first_channel + c][first_position + p] for c < block_channels (a power of two, 16 bytes at least) and
// p < block_positions, zeros outside the map (C, P).
template <class M>
MK_DEVICE void load_transposed(typename M::Element* to, int pitch, const typename M::Element* map, int channels,
                               int positions, int first_channel, int block_channels, int first_position,
                               int block_positions, bool wide) {
  constexpr int side = 16 / int(sizeof(typename M::Element));
  // Adjacent lanes have adjacent channels, so that their 16-byte stores go to different banks.
  const int across = block_channels / side, blocks = across * ceil_div(block_positions, side);
  for (int i = threadIdx.x; i < blocks; i += blockDim.x) {
    const int c = i % across * side, p = i / across * side;
    uint4 block[side];
#pragma unroll
    for (int r = 0; r < side; ++r) {
      const int channel = first_channel + c + r, position = first_position + p;
      block[r] = load16(map + static_cast<int64_t>(channel) * positions + position,
                        channel < channels ? positions - position : 0, wide);
    }
    transpose_block(block);
#pragma unroll
    for (int q = 0; q < side; ++q) {
      if (p + q < block_positions) *reinterpret_cast<uint4*>(to + (p + q) * pitch + c) = stored16<M>(block[q]);
    }
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Weights in the layout of B tiles

// The two matrices of a product, each (padded, padded) with zeros beyond P:  first = W2;  second = W1 − scale·W2 (W1
// for scale 0).  `transposed` writes their transposes.
template <class M>
__global__ void __launch_bounds__(256)
    pack_weights(const typename M::Element* weight1, const typename M::Element* weight2, typename M::Element* packed,
                 int positions, int padded, float scale, bool transposed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x, size = static_cast<int64_t>(padded) * padded;
  if (i >= size) return;
  const int row = static_cast<int>(i / padded), column = static_cast<int>(i % padded);
  float first = 0.f, second = 0.f;
  if (row < positions && column < positions) {
    const int64_t from = static_cast<int64_t>(transposed ? column : row) * positions + (transposed ? row : column);
    first = static_cast<float>(weight2[from]);
    second = static_cast<float>(weight1[from]);
    if (scale != 0.f) second -= scale * first;
  }
  packed[i] = M::stored(first);
  packed[size + i] = M::stored(second);
}

template <class M>
Tensor packed_weights(const OnDevice& device, const Tensor& weight1, const Tensor& weight2, float scale,
                      bool transposed) {
  using T = typename M::Element;
  const int positions = static_cast<int>(weight1.size(0)), padded = ceil_div(positions, 64) * 64;
  Tensor packed = empty(weight1, {2, padded, padded}, weight1.scalar_type());
  const int64_t blocks = static_cast<int64_t>(padded) * padded / 256;
  launch(device, pack_weights<M>, dim3(static_cast<unsigned>(blocks)), 256, 0, in<T>(weight1), in<T>(weight2),
         out<T>(packed), positions, padded, scale, transposed);
  return packed;
}

// --------------------------------------------------------------------------------------------------------------------
// Sums of partial sums

// total[c] = Σ_r partial[r][c], rows r ≡ 0 … 7 (mod 8) apart and then together.
template <class T>
__global__ void __launch_bounds__(256) sum_partial_rows(const float* partial, int64_t rows, int columns, T* total) {
  float* const sums = reinterpret_cast<float*>(dynamic_shared());
  const int column = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x) % 32;
  float sum = 0.f;
  if (column < columns) {
    for (int64_t r = threadIdx.x / 32; r < rows; r += 8) sum += partial[r * columns + column];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || column >= columns) return;
  for (int r = 1; r < 8; ++r) sum += sums[32 * r + threadIdx.x];
  total[column] = static_cast<T>(sum);
}

template <class T>
void sum_rows(const OnDevice& device, const Tensor& partial, Tensor& total) {
  const int columns = static_cast<int>(partial.size(1));
  launch(device, sum_partial_rows<T>, dim3(static_cast<unsigned>(ceil_div(columns, 32))), 256, 256 * 4,
         in<float>(partial), partial.size(0), columns, out<T>(total));
}

// --------------------------------------------------------------------------------------------------------------------
// Arguments

// Neighbours of either width as 32-bit words: of little-endian 64-bit ones, every second word is the low one.
struct Neighbours {
  const int32_t* words;
  int stride;
};

inline Neighbours neighbours_of(const Tensor& idx) {
  if (idx.scalar_type() == ScalarType::Int) return {in<int32_t>(idx), 1};
  return {reinterpret_cast<const int32_t*>(in<int64_t>(idx)), 2};
}

// Whether rows of P values can be read 16 bytes at a time, if 8 values of each tensor are whole pieces.
inline bool wide_rows(int64_t positions, std::initializer_list<const Tensor*> tensors) {
  bool wide = positions % 8 == 0;
  for (const Tensor* t : tensors) wide = wide && reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0;
  return wide;
}

template <class T>
Outputs<T> pointers(const EdgeOutputs& o) {
  Outputs<T> to{out<T>(o.y), o.winner ? out<uint8_t>(*o.winner) : nullptr, o.residual ? in<T>(*o.residual) : nullptr};
  to.wide = wide_rows(o.y.size(2), {&o.y, o.winner ? &*o.winner : &o.y, o.residual ? &*o.residual : &o.y});
  return to;
}

inline unsigned grid_size(int64_t blocks) {
  require(blocks < (int64_t{1} << 31), "edge_max has too many maps for one launch");
  return static_cast<unsigned>(blocks);
}

}  // namespace cuda
}  // namespace molkernels

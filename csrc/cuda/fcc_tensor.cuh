// FCC on tensor cores, for L×L maps with L = 8, 16 or 32: bfloat16 and float16, and float32 in TF32.
//
// A warp takes whole maps, and everything between a load and a store stays in its registers. The trick is one layout:
// in "(row; column)" a lane 4g + t holds of every 8×8 block the values (g, 2t) and (g, 2t + 1). That is how the tensor
// core hands out its results, and how it wants either operand of
//
//   multiply:  X (p; k), Y (q; k)  →  X Yᵀ (p; q)
//
// so that results are operands again, and the order in which two operands number their common columns does not matter
// as long as it is the same. `column` numbers them so that a lane's values lie together in memory (8 or 16 bytes).
#pragma once

#include "fcc.cuh"

namespace molkernels {
namespace fcc_kernels {

constexpr int tensor_warps = 4, tensor_threads = 32 * tensor_warps;

// ---------------------------------------------------------------------------------------------------------------------
// Two neighbouring values, as in memory and as an operand

template <class T>
struct Pair {  // BFloat16, Half
  using Stored = uint32_t;
  using Packed = uint32_t;
  static MK_DEVICE float2 widen(Stored bits) {
    return make_float2(static_cast<float>(T(uint16_t(bits), T::from_bits())),
                       static_cast<float>(T(uint16_t(bits >> 16), T::from_bits())));
  }
  static MK_DEVICE Stored narrow(float2 v) {
    return uint32_t(static_cast<T>(v.x).x) | uint32_t(static_cast<T>(v.y).x) << 16;
  }
  static MK_DEVICE Packed pack(float2 v) { return narrow(v); }
  static MK_DEVICE Packed operand(Stored bits) { return bits; }
  static MK_DEVICE Stored zero() { return 0; }
  static MK_DEVICE void load2(const T* p, Stored& first, Stored& second) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    first = v.x, second = v.y;
  }
  static MK_DEVICE void store2(T* p, Stored first, Stored second) {
    *reinterpret_cast<uint2*>(p) = make_uint2(first, second);
  }
};

template <>
struct Pair<float> {
  using Stored = float2;
  using Packed = uint2;
  static MK_DEVICE float2 widen(Stored v) { return v; }
  static MK_DEVICE Stored narrow(float2 v) { return v; }
  static MK_DEVICE Packed pack(float2 v) { return make_uint2(to_tf32(v.x), to_tf32(v.y)); }
  static MK_DEVICE Packed operand(Stored v) { return pack(v); }
  static MK_DEVICE Stored zero() { return make_float2(0, 0); }
  static MK_DEVICE void load2(const float* p, Stored& first, Stored& second) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    first = make_float2(v.x, v.y), second = make_float2(v.z, v.w);
  }
  static MK_DEVICE void store2(float* p, Stored first, Stored second) {
    *reinterpret_cast<float4*>(p) = make_float4(first.x, first.y, second.x, second.y);
  }
};
template <class T>
using Stored = typename Pair<T>::Stored;
template <class T>
using Packed = typename Pair<T>::Packed;

// ---------------------------------------------------------------------------------------------------------------------
// Matrices in registers

// 16 rows of an L×L matrix of pairs, spread over a warp: at[r][k] of lane 4g + t is (8r + g; 8k + 2t, 8k + 2t + 1).
// With L = 8 the second block of rows is not used.
template <class V, int L>
struct Band {
  V at[2][L / 8];
};
template <class V, int L>
struct Matrix {
  Band<V, L> band[L < 16 ? 1 : L / 16];

  MK_DEVICE V& at(int r, int k) { return band[r / 2].at[r % 2][k]; }
  MK_DEVICE const V& at(int r, int k) const { return band[r / 2].at[r % 2][k]; }
};

MK_DEVICE int lane_g() { return int(threadIdx.x % 32) / 4; }
MK_DEVICE int lane_t() { return int(threadIdx.x % 4); }

// The column of a map that pair k of a lane with this t begins at.
template <int L>
MK_DEVICE int column(int k, int t) {
  return L == 8 ? 2 * t : 16 * (k / 2) + 4 * t + 2 * (k % 2);
}
// The column that stands at place 8k + i, i < 8.
template <int L>
MK_DEVICE int column_at(int k, int i) {
  return column<L>(k, i / 2) + i % 2;
}

// sum (16×8) += x (16 rows; L) yᵀ, y (8 rows; L).
template <class T, int B>
MK_DEVICE void multiply_block(float (&sum)[4], const Packed<T> (&x0)[B], const Packed<T> (&x1)[B],
                              const Packed<T> (&y)[B]) {
  constexpr bool half = B == 1;  // L = 8 fills half of the rows, and of 16-bit columns half
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int k = 0; k < B; ++k) {
      const uint32_t a[4] = {x0[k].x, half ? 0 : x1[k].x, x0[k].y, half ? 0 : x1[k].y};
      const uint32_t b[2] = {y[k].x, y[k].y};
      mma_tf32(sum, a, b);
    }
  } else {
#pragma unroll
    for (int k = 0; k < B; k += 2) {
      constexpr int other = half ? 0 : 1;
      const uint32_t a[4] = {x0[k], half ? 0 : x1[k], half ? 0 : x0[k + other], half ? 0 : x1[k + other]};
      const uint32_t b[2] = {y[k], half ? 0 : y[k + other]};
      if constexpr (std::is_same_v<T, BFloat16>)
        mma_bf16(sum, a, b);
      else
        mma_f16(sum, a, b);
    }
  }
}

// sum (p; q) += x (p; k) yᵀ, y (q; k), for 16 rows p.
template <class T, int L>
MK_DEVICE void multiply(Band<float2, L>& sum, const Band<Packed<T>, L>& x, const Matrix<Packed<T>, L>& y) {
#pragma unroll
  for (int n = 0; n < L / 8; ++n) {
    float c[4] = {sum.at[0][n].x, sum.at[0][n].y, sum.at[1][n].x, sum.at[1][n].y};
    multiply_block<T, L / 8>(c, x.at[0], x.at[1], y.band[n / 2].at[n % 2]);
    sum.at[0][n] = make_float2(c[0], c[1]);
    sum.at[1][n] = make_float2(c[2], c[3]);
  }
}

template <class T, int L>
MK_DEVICE Band<Packed<T>, L> pack(const Band<float2, L>& v) {
  Band<Packed<T>, L> packed;
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) packed.at[r][k] = Pair<T>::pack(v.at[r][k]);
  return packed;
}

template <class T, int L>
MK_DEVICE Band<Packed<T>, L> product(const Band<Packed<T>, L>& x, const Matrix<Packed<T>, L>& y) {
  Band<float2, L> sum = {};
  multiply<T, L>(sum, x, y);
  return pack<T, L>(sum);
}

template <class T, int L>
MK_DEVICE Matrix<Packed<T>, L> product(const Matrix<Packed<T>, L>& x, const Matrix<Packed<T>, L>& y) {
  Matrix<Packed<T>, L> all;
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) all.band[b] = product<T, L>(x.band[b], y);
  return all;
}

// A kernel's circulant matrix C (p; q) or with `transposed` its transpose, the rows and columns numbered as they are
// or, `InMemory`, as `column` does. Blocks 16 apart on both axes are equal, and share registers.
template <class T, int L, bool InMemory>
MK_DEVICE Matrix<Packed<T>, L> circulant(const float* taps, bool transposed) {
  Matrix<Packed<T>, L> matrix;
  const int g = lane_g(), t = lane_t();
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) {
      if (r >= 2) {
        matrix.at(r, k) = matrix.at(r - 2, (k + L / 8 - 2) % (L / 8));
        continue;
      }
      const int p = InMemory ? column_at<L>(r, g) : 8 * r + g, q = InMemory ? column<L>(k, t) : 8 * k + 2 * t;
      const int lag0 = transposed ? p - q : q - p, lag1 = transposed ? lag0 - 1 : lag0 + 1;
      matrix.at(r, k) = Pair<T>::pack(make_float2(taps[lag0 & (L - 1)], taps[lag1 & (L - 1)]));
    }
  return matrix;
}

template <class T, int L>
MK_DEVICE Matrix<Packed<T>, L> identity() {
  Matrix<Packed<T>, L> matrix;
  const int i = lane_g() - 2 * lane_t();
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k)
      matrix.at(r, k) = Pair<T>::pack(make_float2(r == k && i == 0 ? 1.0f : 0.0f, r == k && i == 1 ? 1.0f : 0.0f));
  return matrix;
}

// ---------------------------------------------------------------------------------------------------------------------
// Maps

template <class T, int L>
MK_DEVICE void load_row(Stored<T> (&row)[L / 8], const T* p) {
  if constexpr (L == 8) {
    row[0] = *reinterpret_cast<const Stored<T>*>(p + column<L>(0, lane_t()));
  } else {
#pragma unroll
    for (int k = 0; k < L / 8; k += 2) Pair<T>::load2(p + column<L>(k, lane_t()), row[k], row[k + 1]);
  }
}

template <class T, int L>
MK_DEVICE void store_row(T* p, const Stored<T> (&row)[L / 8]) {
  if constexpr (L == 8) {
    *reinterpret_cast<Stored<T>*>(p + column<L>(0, lane_t())) = row[0];
  } else {
#pragma unroll
    for (int k = 0; k < L / 8; k += 2) Pair<T>::store2(p + column<L>(k, lane_t()), row[k], row[k + 1]);
  }
}

// A whole map (i; j), the columns as in memory.
template <class T, int L>
MK_DEVICE Matrix<Stored<T>, L> load_map(const T* map) {
  Matrix<Stored<T>, L> m;
#pragma unroll
  for (int r = 0; r < L / 8; ++r) load_row<T, L>(m.band[r / 2].at[r % 2], map + (8 * r + lane_g()) * L);
  return m;
}

template <class T, int L>
MK_DEVICE Matrix<Packed<T>, L> operand(const Matrix<Stored<T>, L>& map) {
  Matrix<Packed<T>, L> packed;
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) packed.at(r, k) = Pair<T>::operand(map.at(r, k));
  return packed;
}

// So many maps a warp takes at once, so that it has enough on the way from memory; read ahead where registers allow it.
template <int L, int Bytes>
constexpr int maps_at_once = L * L * Bytes >= 1024  ? 1
                             : L * L * Bytes >= 512 ? 2
                                                    : 4;

template <class T, int L, int Maps>
struct Batch {
  Matrix<Stored<T>, L> map[Maps];
};

template <class T, int L, int Maps>
MK_DEVICE void load_batch(Batch<T, L, Maps>& batch, const T* from, int64_t step, int64_t m, int64_t end) {
#pragma unroll
  for (int i = 0; i < Maps; ++i)
    if (m + i * tensor_warps < end) batch.map[i] = load_map<T, L>(from + i * tensor_warps * step);
}

// An offset along the rows and one along the columns, of which one is zero.
template <int L>
struct Offsets {
  float row[L / 8];
  float2 column[L / 8];
};

// `by_row` and `by_column` may be nullptr.
template <int L>
MK_DEVICE Offsets<L> offsets_of(const float* by_row, const float* by_column) {
  Offsets<L> o;
#pragma unroll
  for (int k = 0; k < L / 8; ++k) {
    const int q = column<L>(k, lane_t());
    o.row[k] = by_row != nullptr ? by_row[8 * k + lane_g()] : 0.0f;
    o.column[k] = by_column != nullptr ? make_float2(by_column[q], by_column[q + 1]) : make_float2(0, 0);
  }
  return o;
}

// scale · v + the offset of (row block r, column block k).
template <int L>
MK_DEVICE float2 affine(float2 v, float scale, const Offsets<L>& o, int r, int k) {
  return make_float2(fmaf(v.x, scale, o.row[r] + o.column[k].x), fmaf(v.y, scale, o.row[r] + o.column[k].y));
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward, and the gradient of x

// The two products that every map goes through, as operands.
template <class T, int L>
struct Circulants {
  Matrix<Packed<T>, L> h, w;

  MK_DEVICE Circulants(const Coefficients& k, bool along_h, bool transposed)
      : h(circulant<T, L, false>(along_h ? k.taps_a : k.taps_b, transposed)),
        w(circulant<T, L, true>(along_h ? k.taps_b : k.taps_a, transposed)) {}
};

// The epilogue of a map: out = scale · C_h u C_wᵀ + offsets (+ in) (+ slope · x), band by band.
template <class T, int L, bool WithX>
MK_DEVICE void apply_map(T* to, const Circulants<T, L>& c, const Matrix<Packed<T>, L>& u, float scale,
                         const Offsets<L>& offsets, bool residual, const Matrix<Stored<T>, L>& in, float slope,
                         const Matrix<Stored<T>, L>& x) {
  const Matrix<Packed<T>, L> turned = product<T, L>(c.w, u);  // (j; i)
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) {
    Band<float2, L> sum = {};
    multiply<T, L>(sum, c.h.band[b], turned);  // (i; j), the columns as in memory
#pragma unroll
    for (int r = 2 * b; r < 2 * b + 2 && r < L / 8; ++r) {
      Stored<T> row[L / 8];
#pragma unroll
      for (int k = 0; k < L / 8; ++k) {
        float2 v = affine<L>(sum.at[r % 2][k], scale, offsets, r, k);
        const float2 skip = Pair<T>::widen(in.at(r, k));
        if (residual) v.x += skip.x, v.y += skip.y;
        if constexpr (WithX) {
          const float2 other = Pair<T>::widen(x.at(r, k));
          v.x = fmaf(slope, other.x, v.x), v.y = fmaf(slope, other.y, v.y);
        }
        row[k] = Pair<T>::narrow(v);
      }
      store_row<T, L>(to + (8 * r + lane_g()) * L, row);
    }
  }
}

template <class T, int L>
MK_DEVICE Matrix<Packed<T>, L> normalised(const Matrix<Stored<T>, L>& x, float scale, const Offsets<L>& offsets) {
  Matrix<Packed<T>, L> packed;
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k)
      packed.at(r, k) = Pair<T>::pack(affine<L>(Pair<T>::widen(x.at(r, k)), scale, offsets, r, k));
  return packed;
}

// y from x, or with Backward grad_x from grad_y and x, (N, C, L, L) each: a warp takes every fourth sample of its
// block's share, `maps` at a time, and reads the next ones meanwhile. Reads each map once, writes each once; 4 L FLOP a
// byte or fewer. Backward goes through the blocks from last to first: the gradient kernel before it has left those maps
// in the cache.
template <class T, int L, bool Backward>
__global__ void __launch_bounds__(tensor_threads) fcc_tensor_kernel(ApplyArguments<T> a) {
  constexpr int maps = maps_at_once<L, sizeof(T)>;
  constexpr bool ahead = L < 32;
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const Share s = share_of(a.plan, int(Backward ? gridDim.x - 1 - blockIdx.x : blockIdx.x));
  const int64_t step = a.plan.step(), first = s.begin + int(threadIdx.x) / 32;
  const T *in = a.in + map_of(a.plan, s, first), *x = Backward ? a.x + (in - a.in) : nullptr;
  T* out = a.out + (in - a.in);
  Batch<T, L, maps> next, next_x;
  const auto load = [&](int64_t m) {
    load_batch(next, in, step, m, s.end);
    if constexpr (Backward) load_batch(next_x, x, step, m, s.end);
  };
  if constexpr (ahead) load(first);

  const Channel<T> c = channel_of(a.parameters, a.plan, s.channel);
  fill<T, Backward>(k, a, c, s);
  const Circulants<T, L> circulants(k, c.along_h, Backward);
  const float in_scale = k.in_scale, scale = Backward ? k.scale : 1.0f, slope = Backward ? k.slope : 0.0f;
  Offsets<L> in_offsets, out_offsets;
  if constexpr (Backward) {
    out_offsets = offsets_of<L>(c.along_h ? k.out_a : nullptr, c.along_h ? nullptr : k.out_a);
  } else {
    in_offsets = offsets_of<L>(c.along_h ? k.in_a : nullptr, c.along_h ? nullptr : k.in_a);
    out_offsets = offsets_of<L>(c.along_h ? nullptr : k.out_b, c.along_h ? k.out_b : nullptr);
  }

  constexpr int stride = tensor_warps * maps;
  for (int64_t m = first; m < s.end; m += stride, out += stride * step) {
    if constexpr (!ahead) load(m);
    const Batch<T, L, maps> batch = next, batch_x = next_x;
    in += stride * step;
    if constexpr (Backward) x += stride * step;
    if constexpr (ahead) load(m + stride);
#pragma unroll
    for (int i = 0; i < maps; ++i)
      if (m + i * tensor_warps < s.end) {
        Matrix<Packed<T>, L> u;
        if constexpr (Backward)
          u = operand<T, L>(batch.map[i]);
        else
          u = normalised<T, L>(batch.map[i], in_scale, in_offsets);
        apply_map<T, L, Backward>(out + i * tensor_warps * step, circulants, u, scale, out_offsets, a.residual,
                                  batch.map[i], slope, batch_x.map[i]);
      }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients of the parameters

// Sums along the rows and along the columns of the maps seen so far, of this lane's values.
template <int L>
struct LineSums {
  float row[L / 8];
  float2 column[L / 8];
};

// Over the lanes; row[r] is then that of row 8r + g, column[k] those of column(k, t) and the next.
template <int L>
MK_DEVICE void sum_lanes(LineSums<L>& s) {
#pragma unroll
  for (int k = 0; k < L / 8; ++k) {
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) s.row[k] += __shfl_xor_sync(all_lanes, s.row[k], mask);
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) {
      s.column[k].x += __shfl_xor_sync(all_lanes, s.column[k].x, mask);
      s.column[k].y += __shfl_xor_sync(all_lanes, s.column[k].y, mask);
    }
  }
}

// Writes out what sum_lanes left: `by_row` (L) or `by_column` (L) may be nullptr.
template <int L>
MK_DEVICE void write_lines(const LineSums<L>& s, float* by_row, float* by_column) {
#pragma unroll
  for (int k = 0; k < L / 8; ++k) {
    const int q = column<L>(k, lane_t());
    if (by_row != nullptr && lane_t() == 0) by_row[8 * k + lane_g()] = s.row[k];
    if (by_column != nullptr && lane_g() == 0) by_column[q] = s.column[k].x, by_column[q + 1] = s.column[k].y;
  }
}

// lags[t] = Σ_p matrix[p, (p + t) mod L], by one warp through its `tile` (L × (L + 1)).
template <int L, bool InMemory>
MK_DEVICE void sum_diagonals(float* lags, const Matrix<float2, L>& matrix, float* tile) {
  const int g = lane_g(), t = lane_t(), lane = int(threadIdx.x % 32);
  __syncwarp();
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) {
      const int p = InMemory ? column_at<L>(r, g) : 8 * r + g, q = InMemory ? column<L>(k, t) : 8 * k + 2 * t;
      tile[p * (L + 1) + q] = matrix.at(r, k).x;
      tile[p * (L + 1) + q + 1] = matrix.at(r, k).y;
    }
  __syncwarp();
  if (lane < L) {
    float sum = 0;
    for (int p = 0; p < L; ++p) sum += tile[p * (L + 1) + ((p + lane) & (L - 1))];
    lags[lane] = sum;
  }
}

// What a warp adds up over its maps, see Record; E v̂ᵀ (i; i) and Fᵀ v̂ (j; j) of which the diagonals are the lags.
template <class T, int L>
struct MapSums {
  Matrix<float2, L> h, w;
  LineSums<L> grad, hat;
};

template <int L, class V>
MK_DEVICE void add_lines(LineSums<L>& sums, V value_at) {
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) {
      const float2 v = value_at(r, k);
      sums.row[r] += v.x + v.y;
      sums.column[k].x += v.x, sums.column[k].y += v.y;
    }
}

// The products of one map; `transposed` are C_hᵀ and C_wᵀ. Transposes come from products with the identity, which are
// exact. An intermediate lives for 16 of its rows only.
template <class T, int L>
MK_DEVICE void add_products(MapSums<T, L>& sums, const Circulants<T, L>& transposed,
                            const Matrix<Packed<T>, L>& identity, const Matrix<Packed<T>, L>& grad,
                            const Matrix<Packed<T>, L>& hat) {
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) {
    const Band<Packed<T>, L> e = product<T, L>(grad.band[b], transposed.w);  // (i; j)
    multiply<T, L>(sums.h.band[b], e, hat);
  }
  const Matrix<Packed<T>, L> hat_turned = product<T, L>(identity, hat);  // (j; i)
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) {
    const Band<Packed<T>, L> grad_turned = product<T, L>(identity.band[b], grad);
    const Band<Packed<T>, L> f = product<T, L>(grad_turned, transposed.h);  // (j; i)
    multiply<T, L>(sums.w.band[b], f, hat_turned);
  }
}

// The warp's record from its sums. C_aᵀ has not been applied to the sums of grad_y along a yet.
template <class T, int L>
MK_DEVICE void write_warp_record(float* to, MapSums<T, L>& sums, const Coefficients& k, bool along_h, float* tile) {
  const Record record(L, L);
  const int lane = int(threadIdx.x % 32);
  sum_diagonals<L, false>(to + (along_h ? record.lag_a : record.lag_b), sums.h, tile);
  sum_diagonals<L, true>(to + (along_h ? record.lag_b : record.lag_a), sums.w, tile);
  sum_lanes(sums.grad);
  sum_lanes(sums.hat);
  __syncwarp();
  write_lines(sums.grad, along_h ? tile : to + record.d, along_h ? to + record.d : tile);
  write_lines(sums.hat, along_h ? to + record.v : nullptr, along_h ? nullptr : to + record.v);
  __syncwarp();
  if (lane < L) {
    float f = 0;
    for (int p = 0; p < L; ++p) f = fmaf(tile[p], k.taps_a[(lane - p) & (L - 1)], f);
    to[record.f + lane] = f;
  }
}

template <int L>
constexpr int tensor_gradient_shared =
    int(sizeof(Coefficients)) + tensor_warps * (L * (L + 1) + Record(L, L).length) * int(sizeof(float));

// The records of a chunk's maps, and with given statistics grad_x. x, grad_y (N, C, L, L) → sums. Reads each once;
// 12 products of L×L matrices a map, 16 with grad_x.
template <class T, int L>
__global__ void __launch_bounds__(tensor_threads) fcc_tensor_gradient_kernel(GradientArguments<T> a) {
  constexpr int maps = maps_at_once<L, sizeof(T)>;
  constexpr bool ahead = L < 32;
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const Record record(L, L);
  float* records = reinterpret_cast<float*>(&k + 1);
  const int warp = int(threadIdx.x) / 32;
  const Share s = share_of(a.plan, int(blockIdx.x));
  const int64_t step = a.plan.step(), first = s.begin + warp;
  int64_t at = map_of(a.plan, s, first);
  Batch<T, L, maps> next, next_x;
  const auto load = [&](int64_t m) {
    load_batch(next, a.grad_y + at, step, m, s.end);
    load_batch(next_x, a.x + at, step, m, s.end);
  };
  if constexpr (ahead) load(first);

  const Channel<T> c = channel_of(a.parameters, a.plan, s.channel);
  fill(k, a, c, s);
  const Circulants<T, L> transposed(k, c.along_h, true);
  const Matrix<Packed<T>, L> one = identity<T, L>();
  const float in_scale = k.in_scale, scale = k.scale;
  const Offsets<L> in_offsets = offsets_of<L>(c.along_h ? k.in_a : nullptr, c.along_h ? nullptr : k.in_a);
  const Offsets<L> none = offsets_of<L>(nullptr, nullptr);

  MapSums<T, L> sums = {};
  constexpr int stride = tensor_warps * maps;
  for (int64_t m = first; m < s.end; m += stride) {
    if constexpr (!ahead) load(m);
    const Batch<T, L, maps> batch = next, batch_x = next_x;
    T* grad_x = a.grad_x != nullptr ? a.grad_x + at : nullptr;
    at += stride * step;
    if constexpr (ahead) load(m + stride);
#pragma unroll
    for (int i = 0; i < maps; ++i)
      if (m + i * tensor_warps < s.end) {
        const Matrix<Stored<T>, L>&grad = batch.map[i], &x = batch_x.map[i];
        const auto grad_at = [&](int r, int k) { return Pair<T>::widen(grad.at(r, k)); };
        const auto hat_at = [&](int r, int k) {
          return affine<L>(Pair<T>::widen(x.at(r, k)), in_scale, in_offsets, r, k);
        };
        add_lines(sums.grad, grad_at);
        add_lines(sums.hat, hat_at);
        const Matrix<Packed<T>, L> packed = operand<T, L>(grad);
        add_products(sums, transposed, one, packed, normalised<T, L>(x, in_scale, in_offsets));
        if (grad_x != nullptr)
          apply_map<T, L, false>(grad_x + i * tensor_warps * step, transposed, packed, scale, none, a.residual, grad,
                                 0.0f, x);
      }
  }

  float* tile = records + tensor_warps * record.length + warp * L * (L + 1);
  write_warp_record(records + warp * record.length, sums, k, c.along_h, tile);
  write_record(record_of(a.sums, a.plan, s), records, tensor_warps, record.length);
}

}  // namespace fcc_kernels
}  // namespace molkernels

// FCC on tensor cores, for L×L maps with L = 8, 16 or 32: bfloat16 and float16, and float32 in TF32.
//
// A warp processes whole maps, and everything between a load and a store stays in its registers. The trick is one
// layout: in "(row; column)" a lane 4g + t holds the values (g, 2t) and (g, 2t + 1) of every 8×8 block. This is both
// the layout of a tensor core's results and that of either operand of
//
//   multiply:  X (p; k), Y (q; k)  →  X Yᵀ (p; q)
//
// so that results can be operands, and the order in which two operands number their common columns does not matter as
// long as it is the same. `column` numbers them so that a lane's values are contiguous in memory (8 or 16 bytes).
#include "fcc.cuh"

namespace molkernels {
namespace fcc_kernels {

constexpr int tensor_warps = 4, tensor_threads = 32 * tensor_warps;

// ---------------------------------------------------------------------------------------------------------------------
// Two adjacent values, as in memory and as an operand

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

// The first column of pair k of a lane with this t, in the map.
template <int L>
MK_DEVICE int column(int k, int t) {
  return L == 8 ? 2 * t : 16 * (k / 2) + 4 * t + 2 * (k % 2);
}
// The column at place 8k + i, i < 8.
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

// sum (p; q) += x (p; k) yᵀ, y (q; k), for 16 rows p; block q of 8 columns goes to block q − `turn` (circular).
template <class T, int L>
MK_DEVICE void multiply(Band<float2, L>& sum, const Band<Packed<T>, L>& x, const Matrix<Packed<T>, L>& y,
                        int turn = 0) {
#pragma unroll
  for (int q = 0; q < L / 8; ++q) {
    const int n = (q - turn) & (L / 8 - 1);
    float c[4] = {sum.at[0][n].x, sum.at[0][n].y, sum.at[1][n].x, sum.at[1][n].y};
    multiply_block<T, L / 8>(c, x.at[0], x.at[1], y.band[q / 2].at[q % 2]);
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

// A kernel's circulant matrix C (p; q) or with `transposed` its transpose, with rows and columns in natural order or,
// `InMemory`, in that of `column`. Blocks 16 apart on both axes are equal and share registers.
template <class T, int L, bool InMemory>
MK_DEVICE Matrix<Packed<T>, L> circulant(const float* taps) {
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
      const int lag = q - p;
      matrix.at(r, k) = Pair<T>::pack(make_float2(taps[lag & (L - 1)], taps[(lag + 1) & (L - 1)]));
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

// A whole map (i; j), its columns as in memory.
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

// How many maps, with values of so many bytes, a warp processes at once, so that it has enough loads in flight.
constexpr int maps_at_once(int side, int bytes) {
  return side * side * bytes >= 1024 ? 1 : side * side * bytes >= 512 ? 2 : 4;
}
// Blocks that a multiprocessor must have registers for.
constexpr int apply_blocks(int side) { return side < 32 ? 5 : 2; }
constexpr int gradient_blocks(int side) { return side == 8 ? 4 : side == 16 ? 3 : 2; }

template <class T, int L, int Maps>
struct Batch {
  Matrix<Stored<T>, L> map[Maps];
};

template <class T, int L, int Maps>
MK_DEVICE void load_batch(Batch<T, L, Maps>& batch, const T* from, int64_t step, int m, int end) {
#pragma unroll
  for (int i = 0; i < Maps; ++i)
    if (m + i * tensor_warps < end) batch.map[i] = load_map<T, L>(from + i * tensor_warps * step);
}

// With L = 32 a lane has no registers left for the values that all maps share; it reads them from shared memory each
// time. A barrier in the loop over the maps keeps the compiler from undoing that.
template <int L>
constexpr bool kept = L < 32;

// An offset along the rows and one along the columns; one of them is zero.
template <int L>
class Offsets {
 public:
  MK_DEVICE Offsets(const float* by_row, const float* by_column) : by_row_(by_row), by_column_(by_column) {
#pragma unroll
    for (int k = 0; k < L / 8 && kept<L>; ++k) row_[k] = read_row(k), column_[k] = read_column(k);
  }
  // Along a, or along b, of a channel with `along_h`.
  static MK_DEVICE Offsets along_a(const float* of_a, const Coefficients& k, bool along_h) {
    return Offsets(along_h ? of_a : k.zeros, along_h ? k.zeros : of_a);
  }

  // scale · v + the offset of (row block r, column block k).
  MK_DEVICE float2 affine(float2 v, float scale, int r, int k) const {
    const float row = kept<L> ? row_[r] : read_row(r);
    const float2 column = kept<L> ? column_[k] : read_column(k);
    return make_float2(fmaf(v.x, scale, row + column.x), fmaf(v.y, scale, row + column.y));
  }

 private:
  MK_DEVICE float read_row(int r) const { return by_row_[8 * r + lane_g()]; }
  MK_DEVICE float2 read_column(int k) const {
    return *reinterpret_cast<const float2*>(by_column_ + column<L>(k, lane_t()));
  }

  const float *by_row_, *by_column_;
  float row_[kept<L> ? L / 8 : 1];
  float2 column_[kept<L> ? L / 8 : 1];
};

struct NoOffsets {
  MK_DEVICE float2 affine(float2 v, float scale, int, int) const { return make_float2(v.x * scale, v.y * scale); }
};

// ---------------------------------------------------------------------------------------------------------------------
// Forward, and the gradient of x

// The two matrices by which every map is multiplied.
template <class T, int L>
class Circulants {
 public:
  MK_DEVICE Circulants(const float* taps_h, const float* taps_w) : taps_h_(taps_h), taps_w_(taps_w) {
    if constexpr (kept<L>) h_ = circulant<T, L, false>(taps_h), w_ = circulant<T, L, true>(taps_w);
  }
  // C_h and C_w, or their transposes.
  static MK_DEVICE Circulants forward(const Coefficients& k, bool along_h) {
    return Circulants(along_h ? k.taps_a : k.taps_b, along_h ? k.taps_b : k.taps_a);
  }
  static MK_DEVICE Circulants transposed(const Coefficients& k, bool along_h) {
    return Circulants(along_h ? k.reversed_a : k.reversed_b, along_h ? k.reversed_b : k.reversed_a);
  }
  // (i; i), and (j; j) as in memory.
  MK_DEVICE Matrix<Packed<T>, L> h() const { return kept<L> ? h_ : circulant<T, L, false>(taps_h_); }
  MK_DEVICE Matrix<Packed<T>, L> w() const { return kept<L> ? w_ : circulant<T, L, true>(taps_w_); }

 private:
  const float *taps_h_, *taps_w_;
  Matrix<Packed<T>, L> h_, w_;
};

// The epilogue of a map: out = scale · C_h u C_wᵀ + offsets (+ in) (+ slope · x), band by band.
template <class T, int L, bool WithX, class Offset>
MK_DEVICE void apply_map(T* to, const Circulants<T, L>& c, const Matrix<Packed<T>, L>& u, float scale,
                         const Offset& offsets, bool residual, const Matrix<Stored<T>, L>& in, float slope,
                         const Matrix<Stored<T>, L>& x) {
  const Matrix<Packed<T>, L> turned = product<T, L>(c.w(), u);  // (j; i)
  const Matrix<Packed<T>, L> h = c.h();
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) {
    Band<float2, L> sum = {};
    multiply<T, L>(sum, h.band[b], turned);  // (i; j), the columns as in memory
#pragma unroll
    for (int r = 2 * b; r < 2 * b + 2 && r < L / 8; ++r) {
      Stored<T> row[L / 8];
#pragma unroll
      for (int k = 0; k < L / 8; ++k) {
        float2 v = offsets.affine(sum.at[r % 2][k], scale, r, k);
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
      packed.at(r, k) = Pair<T>::pack(offsets.affine(Pair<T>::widen(x.at(r, k)), scale, r, k));
  return packed;
}

// y from x, or with Backward grad_x from grad_y and x, (N, C, L, L) each: a warp processes every fourth sample of its
// block's share, `maps` at a time, and meanwhile reads the next ones. Reads each map once, writes each once; at most
// 4 L FLOP per byte. Backward goes through the blocks from last to first: the gradient kernel before it has left those
// maps in the cache.
template <class T, int L, bool Backward>
__global__ void __launch_bounds__(tensor_threads, apply_blocks(L)) fcc_tensor_kernel(ApplyArguments<T> a) {
  constexpr int maps = maps_at_once(L, int(sizeof(T)) * (Backward ? 2 : 1));
  constexpr bool ahead = kept<L>;
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const Share s = share_of(a.plan, int(Backward ? gridDim.x - 1 - blockIdx.x : blockIdx.x));
  const int64_t step = a.plan.step();
  const int warp = int(threadIdx.x) / 32;
  const T *in = a.in + map_of(a.plan, s, warp), *x = Backward ? a.x + (in - a.in) : nullptr;
  T* out = a.out + (in - a.in);
  Batch<T, L, maps> next, next_x;
  const auto load = [&](int m) {
    load_batch(next, in, step, m, s.count);
    if constexpr (Backward) load_batch(next_x, x, step, m, s.count);
  };
  if constexpr (ahead) load(warp);

  const Channel<T> c = channel_of(a.parameters, a.plan, s.channel);
  fill<T, Backward>(k, a, c, s);
  const auto circulants =
      Backward ? Circulants<T, L>::transposed(k, c.along_h) : Circulants<T, L>::forward(k, c.along_h);
  const float in_scale = k.in_scale, scale = Backward ? k.scale : 1.0f, slope = Backward ? k.slope : 0.0f;
  const Offsets<L> in_offsets = Offsets<L>::along_a(k.in_a, k, c.along_h);
  const Offsets<L> out_offsets = Offsets<L>::along_a(Backward ? k.out_a : k.out_b, k, Backward == c.along_h);

  constexpr int stride = tensor_warps * maps;
  for (int m = warp; m < s.count; m += stride, out += stride * step) {
    if constexpr (!kept<L>) __syncwarp();
    if constexpr (!ahead) load(m);
    const Batch<T, L, maps> batch = next, batch_x = next_x;
    in += stride * step;
    if constexpr (Backward) x += stride * step;
    if constexpr (ahead) load(m + stride);
#pragma unroll
    for (int i = 0; i < maps; ++i)
      if (m + i * tensor_warps < s.count) {
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

// Σ over the lanes that hold the same rows, or the same columns; valid in all of them.
MK_DEVICE float sum_of_row(float v) {
#pragma unroll
  for (int mask = 1; mask < 4; mask *= 2) v += __shfl_xor_sync(all_lanes, v, mask);
  return v;
}
MK_DEVICE float sum_of_column(float v) {
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) v += __shfl_xor_sync(all_lanes, v, mask);
  return v;
}

// The L sums along the rows, from this lane's part of them.
template <int L>
MK_DEVICE void write_row_sums(float* to, const float2 (&row)[L / 8]) {
#pragma unroll
  for (int r = 0; r < L / 8; ++r) {
    const float sum = sum_of_row(row[r].x + row[r].y);
    if (lane_t() == 0) to[8 * r + lane_g()] = sum;
  }
}
template <int L>
MK_DEVICE void write_column_sums(float* to, const float2 (&column_)[L / 8]) {
#pragma unroll
  for (int k = 0; k < L / 8; ++k) {
    const float2 sum = make_float2(sum_of_column(column_[k].x), sum_of_column(column_[k].y));
    if (lane_g() == 0) *reinterpret_cast<float2*>(to + column<L>(k, lane_t())) = sum;
  }
}

template <int L>
constexpr int tile_floats = (L < 16 ? L : 16) * (L + 1);

// lags[t] = Σ_p band[p, (p + t) mod L], by one warp through its `tile` (tile_floats<L>).
template <int L, bool InMemory>
MK_DEVICE void sum_diagonals(float* lags, const Band<float2, L>& band, float* tile) {
  constexpr int rows = L < 16 ? L : 16;
  const int g = lane_g(), t = lane_t(), lane = int(threadIdx.x % 32);
  __syncwarp();
#pragma unroll
  for (int r = 0; r < rows / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) {
      const int p = InMemory ? column_at<L>(r, g) : 8 * r + g, q = InMemory ? column<L>(k, t) : 8 * k + 2 * t;
      tile[p * (L + 1) + q] = band.at[r][k].x;
      tile[p * (L + 1) + q + 1] = band.at[r][k].y;
    }
  __syncwarp();
  if (lane < L) {
    float sum = 0;
    for (int p = 0; p < rows; ++p) sum += tile[p * (L + 1) + ((p + lane) & (L - 1))];
    lags[lane] = sum;
  }
}

// The sums of a warp over its maps, see Record: E v̂ᵀ (i; i) and Fᵀ v̂ (j; j), whose circular diagonals are the lags.
// Blocks 16 apart on both axes are on the same diagonals, and are added in the same registers.
template <class T, int L>
struct MapSums {
  Band<float2, L> h, w;
  float2 grad_rows[L / 8], grad_columns[L / 8];  // this lane's part of the sums of grad_y along either axis
  float2 hat[L / 8];                             // and of v̂ along b
};

MK_DEVICE void add(float2& sum, float2 v) { sum.x += v.x, sum.y += v.y; }

template <class T, int L>
MK_DEVICE void add_lines(MapSums<T, L>& sums, const Matrix<Stored<T>, L>& grad, const Matrix<Stored<T>, L>& x,
                         float scale, const Offsets<L>& offsets, bool along_h) {
#pragma unroll
  for (int r = 0; r < L / 8; ++r)
#pragma unroll
    for (int k = 0; k < L / 8; ++k) {
      const float2 g = Pair<T>::widen(grad.at(r, k));
      const float2 v = offsets.affine(Pair<T>::widen(x.at(r, k)), scale, r, k);
      add(sums.grad_rows[r], g);
      add(sums.grad_columns[k], g);
      if (along_h)
        add(sums.hat[r], v);
      else
        add(sums.hat[k], v);
    }
}

// The products of one map, for the lags along either axis; `transposed` are C_hᵀ and C_wᵀ. Transposes of maps come from
// products with the identity, which are exact. An intermediate lives for 16 of its rows only.
template <class T, int L>
MK_DEVICE void add_lags_h(MapSums<T, L>& sums, const Circulants<T, L>& transposed, const Matrix<Packed<T>, L>& grad,
                          const Matrix<Packed<T>, L>& hat) {
  const Matrix<Packed<T>, L> w = transposed.w();
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) {
    const Band<Packed<T>, L> e = product<T, L>(grad.band[b], w);  // (i; j)
    multiply<T, L>(sums.h, e, hat, 2 * b);
  }
}
template <class T, int L>
MK_DEVICE void add_lags_w(MapSums<T, L>& sums, const Circulants<T, L>& transposed, const Matrix<Packed<T>, L>& identity,
                          const Matrix<Packed<T>, L>& grad, const Matrix<Packed<T>, L>& hat) {
  const Matrix<Packed<T>, L> hat_turned = product<T, L>(identity, hat);  // (j; i)
  const Matrix<Packed<T>, L> h = transposed.h();
#pragma unroll
  for (int b = 0; b < ceil_div(L, 16); ++b) {
    const Band<Packed<T>, L> grad_turned = product<T, L>(identity.band[b], grad);
    const Band<Packed<T>, L> f = product<T, L>(grad_turned, h);  // (j; i)
    multiply<T, L>(sums.w, f, hat_turned, 2 * b);
  }
}

// The warp's record from its sums. C_aᵀ has not yet been applied to the sums of grad_y along a.
template <class T, int L>
MK_DEVICE void write_warp_record(float* to, MapSums<T, L>& sums, const Coefficients& k, bool along_h, float* tile) {
  const Record record(L, L);
  const int lane = int(threadIdx.x % 32);
  sum_diagonals<L, false>(to + (along_h ? record.lag_a : record.lag_b), sums.h, tile);
  sum_diagonals<L, true>(to + (along_h ? record.lag_b : record.lag_a), sums.w, tile);
  __syncwarp();
  write_row_sums<L>(along_h ? tile : to + record.d, sums.grad_rows);
  write_column_sums<L>(along_h ? to + record.d : tile, sums.grad_columns);
  if (along_h)
    write_row_sums<L>(to + record.v, sums.hat);
  else
    write_column_sums<L>(to + record.v, sums.hat);
  __syncwarp();
  if (lane < L) {
    float f = 0;
    for (int p = 0; p < L; ++p) f = fmaf(tile[p], k.reversed_a[(p - lane) & (L - 1)], f);
    to[record.f + lane] = f;
  }
}

template <int L>
constexpr int tensor_gradient_shared =
    int(sizeof(Coefficients)) + tensor_warps * (tile_floats<L> + Record(L, L).length) * int(sizeof(float));

// The records of a chunk's maps, and with given statistics grad_x. x, grad_y (N, C, L, L) → sums. Reads each once;
// 6 products of L×L matrices per map, 8 with grad_x.
template <class T, int L>
__global__ void __launch_bounds__(tensor_threads, gradient_blocks(L))
    fcc_tensor_gradient_kernel(GradientArguments<T> a) {
  constexpr int maps = maps_at_once(L, int(sizeof(T)) * 4);
  constexpr bool ahead = kept<L>;
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const Record record(L, L);
  float* records = reinterpret_cast<float*>(&k + 1);
  const int warp = int(threadIdx.x) / 32;
  const Share s = share_of(a.plan, int(blockIdx.x));
  const int64_t step = a.plan.step();
  int64_t at = map_of(a.plan, s, warp);
  Batch<T, L, maps> next, next_x;
  const auto load = [&](int m) {
    load_batch(next, a.grad_y + at, step, m, s.count);
    load_batch(next_x, a.x + at, step, m, s.count);
  };
  if constexpr (ahead) load(warp);

  const Channel<T> c = channel_of(a.parameters, a.plan, s.channel);
  fill(k, a, c, s);
  const auto transposed = Circulants<T, L>::transposed(k, c.along_h);
  const Matrix<Packed<T>, L> one = identity<T, L>();
  const float in_scale = k.in_scale, scale = k.scale;
  const Offsets<L> in_offsets = Offsets<L>::along_a(k.in_a, k, c.along_h);

  MapSums<T, L> sums = {};
  constexpr int stride = tensor_warps * maps;
  for (int m = warp; m < s.count; m += stride) {
    if constexpr (!kept<L>) __syncwarp();
    if constexpr (!ahead) load(m);
    const Batch<T, L, maps> batch = next, batch_x = next_x;
    const int64_t now = at;
    at += stride * step;
    if constexpr (ahead) load(m + stride);
#pragma unroll
    for (int i = 0; i < maps; ++i)
      if (m + i * tensor_warps < s.count) {
        const Matrix<Stored<T>, L>&grad = batch.map[i], &x = batch_x.map[i];
        add_lines(sums, grad, x, in_scale, in_offsets, c.along_h);
        const Matrix<Packed<T>, L> hat = normalised<T, L>(x, in_scale, in_offsets);
        add_lags_h(sums, transposed, operand<T, L>(grad), hat);
        const int64_t here = now + i * tensor_warps * step;
        const auto again = [&] {  // nor are there registers for grad_y; it is in the cache
          if constexpr (kept<L>) {
            return grad;
          } else {
            __syncwarp();
            return load_map<T, L>(a.grad_y + here);
          }
        };
        add_lags_w(sums, transposed, one, operand<T, L>(again()), hat);
        if (a.grad_x == nullptr) continue;
        const Matrix<Stored<T>, L> skip = again();
        apply_map<T, L, false>(a.grad_x + here, transposed, operand<T, L>(skip), scale, NoOffsets(), a.residual, skip,
                               0.0f, skip);
      }
  }

  float* tile = records + tensor_warps * record.length + warp * tile_floats<L>;
  write_warp_record(records + warp * record.length, sums, k, c.along_h, tile);
  write_record(record_of(a.sums, a.plan, s), records, tensor_warps, record.length);
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches

template <class T, bool Backward>
void launch_tensor(const OnDevice& device, const ApplyArguments<T>& a) {
  for_side(a.plan, [&](auto side) {
    launch_wave(device, fcc_tensor_kernel<T, decltype(side)::value, Backward>, a, tensor_threads,
                int(sizeof(Coefficients)));
  });
}

template <class T>
void launch_tensor_gradient(const OnDevice& device, const GradientArguments<T>& a) {
  for_side(a.plan, [&](auto side) {
    constexpr int L = decltype(side)::value;
    launch_plan(device, fcc_tensor_gradient_kernel<T, L>, a.plan, tensor_threads, tensor_gradient_shared<L>, a);
  });
}

#define MK_INSTANTIATE(T)                                                           \
  template void launch_tensor<T, false>(const OnDevice&, const ApplyArguments<T>&); \
  template void launch_tensor<T, true>(const OnDevice&, const ApplyArguments<T>&);  \
  template void launch_tensor_gradient<T>(const OnDevice&, const GradientArguments<T>&);
MK_INSTANTIATE(float)
MK_INSTANTIATE(BFloat16)
MK_INSTANTIATE(Half)

}  // namespace fcc_kernels
}  // namespace molkernels

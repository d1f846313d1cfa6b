// FCC in float32 with IEEE products, for L×L maps with L = 8, 16 or 32.
//
// L lanes process a map (a warp processes 32 / L at a time), each with a whole line of it in registers: a circular
// correlation along the line is then L² multiply-adds on registers only. Between the axes a map is transposed through
// shared memory, in which 16-byte pieces of a row are permuted so that neither rows nor columns cause bank conflicts.
// Maps arrive by asynchronous copies, one step ahead.
//
// Work: 2 L³ multiply-adds per map forward, 4 L³ for the parameters' gradients, 1 L³ more with grad_x: with L = 16,
// 64, 128 and 160 cycles of a multiprocessor, while its share of an H100's memory bandwidth needs about 155, 155 and
// 230 cycles for the map.
#pragma once

#include "fcc.cuh"

namespace molkernels {
namespace fcc_kernels {

constexpr int line_warps = 4, line_threads = 32 * line_warps;

// ---------------------------------------------------------------------------------------------------------------------
// Maps in shared memory

template <int L>
struct Tiles {
  static constexpr int count = 32 / L;                   // maps that a warp processes at once
  static constexpr int pitch = L * L + L;                // so that the maps' columns do not share banks
  static constexpr int floats = count * pitch;           // of a warp's buffer
  static constexpr int pieces = L * L * count / 4 / 32;  // 16-byte pieces per lane
};

// The place of the 16-byte piece q of row i.
template <int L>
MK_DEVICE int piece_at(int i, int q) {
  return i * L + 4 * (q ^ (i / (32 / L) & (L / 4 - 1)));
}

// Piece `index` of a warp's maps, in the order of memory: its map, and its places in shared and global memory.
template <int L>
struct Piece {
  int map, shared, global;
  MK_DEVICE explicit Piece(int index)
      : map(index / (L * L / 4)),
        shared(map * Tiles<L>::pitch + piece_at<L>(index % (L * L / 4) / (L / 4), index % (L / 4))),
        global(index % (L * L / 4) * 4) {}
};

// The first `valid` maps, `step` floats apart; zeros for the others.
template <int L>
MK_DEVICE void copy_maps(float* buffer, const float* from, int64_t step, int valid) {
#pragma unroll
  for (int i = 0; i < Tiles<L>::pieces; ++i) {
    const Piece<L> p(i * 32 + int(threadIdx.x % 32));
    const bool inside = p.map < valid;
    copy_async16(buffer + p.shared, inside ? from + p.map * step + p.global : from, inside);
  }
}

template <int L>
MK_DEVICE void read_row(float (&v)[L], const float* tile, int row) {
#pragma unroll
  for (int q = 0; q < L / 4; ++q) {
    const float4 piece = *reinterpret_cast<const float4*>(tile + piece_at<L>(row, q));
    v[4 * q] = piece.x, v[4 * q + 1] = piece.y, v[4 * q + 2] = piece.z, v[4 * q + 3] = piece.w;
  }
}
template <int L>
MK_DEVICE void write_row(float* tile, int row, const float (&v)[L]) {
#pragma unroll
  for (int q = 0; q < L / 4; ++q)
    *reinterpret_cast<float4*>(tile + piece_at<L>(row, q)) =
        make_float4(v[4 * q], v[4 * q + 1], v[4 * q + 2], v[4 * q + 3]);
}
template <int L>
MK_DEVICE void read_column(float (&v)[L], const float* tile, int column) {
#pragma unroll
  for (int i = 0; i < L; ++i) v[i] = tile[piece_at<L>(i, column / 4) + column % 4];
}
template <int L>
MK_DEVICE void write_column(float* tile, int column, const float (&v)[L]) {
#pragma unroll
  for (int i = 0; i < L; ++i) tile[piece_at<L>(i, column / 4) + column % 4] = v[i];
}
template <int L>
MK_DEVICE void read_line(float (&v)[L], const float* tile, int line, bool row) {
  if (row)
    read_row<L>(v, tile, line);
  else
    read_column<L>(v, tile, line);
}
template <int L>
MK_DEVICE void write_line(float* tile, int line, bool row, const float (&v)[L]) {
  if (row)
    write_row<L>(tile, line, v);
  else
    write_column<L>(tile, line, v);
}

// Lines of one axis → lines of the other, for all lanes of the warp.
template <int L>
MK_DEVICE void turn(float (&v)[L], float* tile, int line) {
  write_row<L>(tile, line, v);
  __syncwarp();
  read_column<L>(v, tile, line);
  __syncwarp();
}

// ---------------------------------------------------------------------------------------------------------------------
// Circular sums over a line

// Longer lines are processed in steps, between which the registers rotate: the code for a whole line would not fit the
// instruction cache.
template <int L>
constexpr int unrolled = L < 32 ? L : 8;

template <int L, int By>
MK_DEVICE void rotate(float (&v)[L]) {
  float turned[L];
#pragma unroll
  for (int p = 0; p < L; ++p) turned[p] = v[(p + By) % L];
#pragma unroll
  for (int p = 0; p < L; ++p) v[p] = turned[p];
}

// y[p] = Σ_t taps[t] · x[p + t]; v holds x, then y.
template <int L>
MK_DEVICE void correlate(float (&v)[L], const float* taps) {
  constexpr int step = unrolled<L>;
  float y[L] = {};
#pragma unroll 1
  for (int first = 0; first < L; first += step) {
#pragma unroll
    for (int quad = 0; quad < step; quad += 4) {
      const float4 tap4 = *reinterpret_cast<const float4*>(taps + first + quad);
      const float tap[4] = {tap4.x, tap4.y, tap4.z, tap4.w};
#pragma unroll
      for (int t = 0; t < 4; ++t)
#pragma unroll
        for (int p = 0; p < L; ++p) y[p] = fmaf(tap[t], v[(p + quad + t) % L], y[p]);
    }
    if (step < L) rotate<L, step>(v);
  }
#pragma unroll
  for (int p = 0; p < L; ++p) v[p] = y[p];
}

// lags[t] += Σ_p x[p] · y[p + t]. Leaves x and y unchanged.
template <int L>
MK_DEVICE void add_lags(float (&lags)[L], float (&x)[L], float (&y)[L]) {
  constexpr int step = unrolled<L>;
#pragma unroll 1
  for (int first = 0; first < L; first += step) {
#pragma unroll
    for (int p = 0; p < step; ++p)
#pragma unroll
      for (int t = 0; t < L; ++t) lags[t] = fmaf(x[p], y[(p + t) % L], lags[t]);
    if (step < L) rotate<L, step>(x), rotate<L, step>(y);
  }
}

template <int L>
MK_DEVICE float sum_of(const float (&v)[L]) {
  float sum = 0;
#pragma unroll
  for (int p = 0; p < L; ++p) sum += v[p];
  return sum;
}

// Σ over the warp's lanes of v[i], in every lane with lane / (32 / Count) = i: each exchange halves the number of sums
// per lane, until only lanes with the same sum are left.
template <int Count, int Mask = 16, int L>
MK_DEVICE float sum_lanes_of(float (&v)[L]) {
  if constexpr (Mask == 0) {
    return v[0];
  } else if constexpr (Count == 1) {
    v[0] += __shfl_xor_sync(all_lanes, v[0], Mask);
    return sum_lanes_of<1, Mask / 2>(v);
  } else {
    const bool upper = (int(threadIdx.x) & Mask) != 0;
#pragma unroll
    for (int i = 0; i < Count / 2; ++i) {
      const float keep = upper ? v[i + Count / 2] : v[i], give = upper ? v[i] : v[i + Count / 2];
      v[i] = keep + __shfl_xor_sync(all_lanes, give, Mask);
    }
    return sum_lanes_of<Count / 2, Mask / 2>(v);
  }
}

// Σ over the warp's maps of a value of each lane's line; valid in lanes < L.
template <int L>
MK_DEVICE float sum_maps_of(float v) {
#pragma unroll
  for (int mask = L; mask < 32; mask *= 2) v += __shfl_xor_sync(all_lanes, v, mask);
  return v;
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels

// out = tile (+ skip) (+ slope · x), piece by piece in the order of memory; skip and x are tiles or nullptr.
template <int L>
MK_DEVICE void write_maps(float* out, int64_t step, int valid, const float* tile, const float* skip, float slope,
                          const float* x) {
#pragma unroll
  for (int i = 0; i < Tiles<L>::pieces; ++i) {
    const Piece<L> p(i * 32 + int(threadIdx.x % 32));
    float4 v = *reinterpret_cast<const float4*>(tile + p.shared);
    if (skip != nullptr) {
      const float4 s = *reinterpret_cast<const float4*>(skip + p.shared);
      v.x += s.x, v.y += s.y, v.z += s.z, v.w += s.w;
    }
    if (x != nullptr) {
      const float4 o = *reinterpret_cast<const float4*>(x + p.shared);
      v.x = fmaf(slope, o.x, v.x), v.y = fmaf(slope, o.y, v.y);
      v.z = fmaf(slope, o.z, v.z), v.w = fmaf(slope, o.w, v.w);
    }
    if (p.map < valid) *reinterpret_cast<float4*>(out + p.map * step + p.global) = v;
  }
}

template <int L>
constexpr int lines_shared(int tensors) {  // a warp's two buffers per tensor, and the one for transposing maps
  return int(sizeof(Coefficients)) + line_warps * (2 * tensors + 1) * Tiles<L>::floats * int(sizeof(float));
}

// The number of a warp's maps m, m + 4, ….
template <int L>
MK_DEVICE int valid_maps(int m, int end) {
  const int left = m < end ? ceil_div(end - m, line_warps) : 0;
  return left < Tiles<L>::count ? left : Tiles<L>::count;
}

// y from x, or with `backward` grad_x from grad_y and x, (N, C, L, L) each. Forward starts with the lines along b,
// which need one offset per lane, and ends with those along a; backward the other way round, for the same reason.
// Reads each map once, writes each once. Backward goes from the last block to the first, see fcc_tensor_kernel.
template <int L>
__global__ void __launch_bounds__(line_threads, L < 32 ? 5 : 3)
    fcc_lines_kernel(ApplyArguments<float> a, bool backward) {
  constexpr int count = Tiles<L>::count, floats = Tiles<L>::floats;
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x % 32), line = lane % L;
  const int stage = (backward ? 2 : 1) * floats;
  float* buffers = reinterpret_cast<float*>(&k + 1) + warp * (2 * stage + floats);
  float *turned = buffers + 2 * stage, *turned_map = turned + lane / L * Tiles<L>::pitch;
  const Share s = share_of(a.plan, int(backward ? gridDim.x - 1 - blockIdx.x : blockIdx.x));
  const int64_t step = a.plan.step(), next = line_warps * step;
  int64_t at = map_of(a.plan, s, warp);
  const auto load = [&](float* buffer, int m, int64_t at) {
    const int valid = valid_maps<L>(m, s.count);
    if (valid > 0) copy_maps<L>(buffer, a.in + at, next, valid);
    if (backward && valid > 0) copy_maps<L>(buffer + floats, a.x + at, next, valid);
    copy_async_commit();
  };
  load(buffers, warp, at);

  const Channel<float> c = channel_of(a.parameters, a.plan, s.channel);
  if (backward)
    fill<float, true>(k, a, c, s);
  else
    fill<float, false>(k, a, c, s);
  const bool rows = backward != c.along_h;  // whether the first lines are rows
  const float in_scale = backward ? 1.0f : k.in_scale, in_offset = backward ? 0.0f : k.in_a[line];
  const float scale = backward ? k.scale : 1.0f, out_offset = backward ? k.out_a[line] : k.out_b[line];
  const float slope = backward ? k.slope : 0.0f;

  constexpr int stride = line_warps * count;
  int now = 0;
  for (int m = warp; m < s.count; m += stride, now ^= 1) {
    const float* in = buffers + now * stage;
    load(buffers + (now ^ 1) * stage, m + stride, at + stride * step);
    copy_async_wait<1>();
    __syncwarp();

    float v[L];
    read_line<L>(v, in + lane / L * Tiles<L>::pitch, line, rows);
#pragma unroll
    for (int p = 0; p < L; ++p) v[p] = fmaf(v[p], in_scale, in_offset);
#pragma unroll 1
    for (int axis = 0; axis < 2; ++axis) {  // a loop, so that the instruction cache holds its code once
      correlate<L>(v, backward ? (axis == 0 ? k.reversed_a : k.reversed_b) : (axis == 0 ? k.taps_b : k.taps_a));
      if (axis == 0) turn<L>(v, turned_map, line);
    }
#pragma unroll
    for (int p = 0; p < L; ++p) v[p] = fmaf(v[p], scale, out_offset);
    write_line<L>(turned_map, line, !rows, v);
    __syncwarp();
    write_maps<L>(a.out + at, next, valid_maps<L>(m, s.count), turned, a.residual ? in : nullptr, slope,
                  backward ? in + floats : nullptr);
    __syncwarp();  // before the next copies overwrite what other lanes may still read
    at += stride * step;
  }
  copy_async_wait<0>();
}

// The records of a chunk's maps (see Record), and with given statistics grad_x. x, grad_y (N, C, L, L) → sums. Reads
// each once. The lags need one of their two factors along each axis, so grad_y and v̂ are transposed once each.
template <int L>
__global__ void __launch_bounds__(line_threads, L < 32 ? 4 : 2) fcc_lines_gradient_kernel(GradientArguments<float> a) {
  constexpr int count = Tiles<L>::count, floats = Tiles<L>::floats, pitch = Tiles<L>::pitch;
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x % 32), line = lane % L, map = lane / L;
  float* buffers = reinterpret_cast<float*>(&k + 1) + warp * 5 * floats;
  float* turned = buffers + 4 * floats;
  const Share s = share_of(a.plan, int(blockIdx.x));
  const int64_t step = a.plan.step(), next = line_warps * step;
  int64_t at = map_of(a.plan, s, warp);
  const auto load = [&](float* buffer, int m, int64_t at) {
    const int valid = valid_maps<L>(m, s.count);
    if (valid > 0) copy_maps<L>(buffer, a.grad_y + at, next, valid);
    if (valid > 0) copy_maps<L>(buffer + floats, a.x + at, next, valid);
    copy_async_commit();
  };
  load(buffers, warp, at);

  const Channel<float> c = channel_of(a.parameters, a.plan, s.channel);
  fill(k, a, c, s);
  const float in_offset = k.in_a[line], in_scale = k.in_scale, scale = k.scale;

  float lag_a[L] = {}, lag_b[L] = {}, sum_f = 0, sum_v = 0, sum_d = 0;
  constexpr int stride = line_warps * count;
  int now = 0;
  for (int m = warp; m < s.count; m += stride, now ^= 1) {
    const float* grad = buffers + now * 2 * floats;
    load(buffers + (now ^ 1) * 2 * floats, m + stride, at + stride * step);
    copy_async_wait<1>();
    __syncwarp();

    const int valid = valid_maps<L>(m, s.count);
    const auto read_hat = [&](float (&hat)[L]) {  // lines along b: one value of a per lane
      read_line<L>(hat, grad + floats + map * pitch, line, c.along_h);
#pragma unroll
      for (int p = 0; p < L; ++p) hat[p] = map < valid ? fmaf(hat[p], in_scale, in_offset) : 0.0f;
    };
    float v[L], d[L];  // v̂ is read twice instead of being kept
    read_hat(v);
    sum_v += sum_of<L>(v);
    correlate<L>(v, k.taps_b);
    turn<L>(v, turned + map * pitch, line);
    read_line<L>(d, grad + map * pitch, line, !c.along_h);
    sum_d += sum_of<L>(d);
    add_lags<L>(lag_a, d, v);

    correlate<L>(d, k.reversed_a);
    turn<L>(d, turned + map * pitch, line);
    sum_f += sum_of<L>(d);
    read_hat(v);
    add_lags<L>(lag_b, d, v);
    if (a.grad_x != nullptr) {
      correlate<L>(d, k.reversed_b);
#pragma unroll
      for (int p = 0; p < L; ++p) d[p] *= scale;
      write_line<L>(turned + map * pitch, line, c.along_h, d);
      __syncwarp();
      write_maps<L>(a.grad_x + at, next, valid, turned, a.residual ? grad : nullptr, 0.0f, nullptr);
    }
    __syncwarp();  // before the next copies overwrite what other lanes may still read
    at += stride * step;
  }
  copy_async_wait<0>();

  const Record record(L, L);
  float* records = reinterpret_cast<float*>(&k + 1);  // the maps are no longer needed
  __syncthreads();
  float* mine = records + warp * record.length;
  const float a_sum = sum_lanes_of<L>(lag_a), b_sum = sum_lanes_of<L>(lag_b);
  if (lane % (32 / L) == 0) mine[record.lag_a + lane / (32 / L)] = a_sum, mine[record.lag_b + lane / (32 / L)] = b_sum;
  sum_f = sum_maps_of<L>(sum_f), sum_v = sum_maps_of<L>(sum_v), sum_d = sum_maps_of<L>(sum_d);
  if (lane < L) mine[record.f + lane] = sum_f, mine[record.v + lane] = sum_v, mine[record.d + lane] = sum_d;
  write_record(record_of(a.sums, a.plan, s), records, line_warps, record.length);
}

inline void launch_lines(const OnDevice& device, const ApplyArguments<float>& a, bool backward) {
  for_side(a.plan, [&](auto side) {
    constexpr int L = decltype(side)::value;
    launch_wave(device, fcc_lines_kernel<L>, a, line_threads, lines_shared<L>(backward ? 2 : 1), backward);
  });
}

inline void launch_lines_gradient(const OnDevice& device, const GradientArguments<float>& a) {
  for_side(a.plan, [&](auto side) {
    constexpr int L = decltype(side)::value;
    launch_plan(device, fcc_lines_gradient_kernel<L>, a.plan, line_threads, lines_shared<L>(2), a);
  });
}

}  // namespace fcc_kernels
}  // namespace molkernels

// Shared by the kernels of fcc.cu: the distribution of the work to blocks, a channel's parameters along the axes of its
// branch, batch statistics, and the sums from which the parameters' gradients are computed.
//
// Let a be the first axis of a channel's branch and b the other one (branch A: H, W; branch B: W, H), and C_h, C_w the
// circulant matrices of the two kernels, C[p, q] = weight[(q − p) mod L]. They act on different axes, so the products
// commute, and both branches are
//
//   v̂ = (x + pe_a − mean) · rstd,   u0 = gamma · v̂ + beta
//   y = C_h u0 C_wᵀ + D[q] (+ x),   D[q] = bias_b + Σ_t weight_b[t] · (bias_a + pe_b[(q + t) mod L_b])
//
// and differ only in the offsets. The gradient of u0 is g = C_hᵀ grad_y C_w.
#pragma once

#include "../common/index.h"
#include "../common/tensor.h"
#include "launch.cuh"
#include "ptx.cuh"

namespace molkernels {
namespace fcc_kernels {

constexpr int max_side = 64;
constexpr unsigned all_lanes = 0xffffffffu;

// ---------------------------------------------------------------------------------------------------------------------
// Work

// The samples of a group are split over `chunks` blocks per channel; a block of `Plan` has one channel and one group.
struct Plan {
  int64_t samples;    // of one group: N / groups
  int64_t per_chunk;  // the last chunk of a group may hold fewer
  int chunks, groups, channels, height, width;

  MK_HOST_DEVICE int pixels() const { return height * width; }
  // Floats between the records of two channels: the length of the longer record of the two branches.
  MK_HOST_DEVICE int record_pitch() const { return 2 * (height + width) + (height > width ? height : width); }
  // Values between a sample of a group and the next one of the group.
  MK_HOST_DEVICE int64_t step() const { return int64_t(groups) * channels * pixels(); }
  MK_HOST_DEVICE int64_t blocks() const { return int64_t(chunks) * groups * channels; }
};

// The share of one block: `count` samples of a group from `begin` on. Adjacent blocks have adjacent channels, which are
// adjacent in memory.
struct Share {
  int channel, group, chunk, count;
  int64_t begin;
};

MK_DEVICE Share share_of(const Plan& plan, int block) {
  Share s;
  s.channel = block % plan.channels;
  const int rest = block / plan.channels;
  s.chunk = rest % plan.chunks;
  s.group = rest / plan.chunks;
  s.begin = s.chunk * plan.per_chunk;
  s.count = int(s.begin + plan.per_chunk < plan.samples ? plan.per_chunk : plan.samples - s.begin);
  return s;
}

// The start of the map of the share's sample `m`; sample m of group g is n = m G + g.
MK_DEVICE int64_t map_of(const Plan& plan, const Share& s, int m) {
  return (((s.begin + m) * plan.groups + s.group) * plan.channels + s.channel) * plan.pixels();
}

// ---------------------------------------------------------------------------------------------------------------------
// Parameters

template <class T>
struct Parameters {
  const T *gamma, *beta, *pe_h, *pe_w, *weight_h, *weight_w, *bias_h, *bias_w;
};

// A channel's parameters, named by the axes a and b of its branch.
template <class T>
struct Channel {
  bool along_h;  // a is H: branch A
  int length_a, length_b;
  const T *pe_a, *pe_b, *weight_a, *weight_b;
  float gamma, beta, bias_a, bias_b;

  MK_DEVICE int length_h() const { return along_h ? length_a : length_b; }
  MK_DEVICE int length_w() const { return along_h ? length_b : length_a; }
};

template <class T>
MK_DEVICE Channel<T> channel_of(const Parameters<T>& p, const Plan& plan, int c) {
  const T *pe_h = p.pe_h + c * plan.height, *pe_w = p.pe_w + c * plan.width;
  const T *weight_h = p.weight_h + c * plan.height, *weight_w = p.weight_w + c * plan.width;
  const float bias_h = static_cast<float>(p.bias_h[c]), bias_w = static_cast<float>(p.bias_w[c]);
  const float gamma = static_cast<float>(p.gamma[c]), beta = static_cast<float>(p.beta[c]);
  if (c < plan.channels / 2)
    return {true, plan.height, plan.width, pe_h, pe_w, weight_h, weight_w, gamma, beta, bias_h, bias_w};
  return {false, plan.width, plan.height, pe_w, pe_h, weight_w, weight_h, gamma, beta, bias_w, bias_h};
}

// A channel's kernels and affine maps, in shared memory. Forward:
//   u0 = in_scale · x + in_a[p],          y = C_h u0 C_wᵀ + out_b[q] (+ x)
// backward:
//   v̂ = in_scale · x + in_a[p],           grad_x = scale · g + slope · x + out_a[p] (+ grad_y)
struct Coefficients {
  float taps_a[max_side], taps_b[max_side];          // of C_a, C_b
  float reversed_a[max_side], reversed_b[max_side];  // of C_aᵀ, C_bᵀ; backward only
  float in_a[max_side], out_a[max_side], out_b[max_side], pe_b[max_side];
  float zeros[max_side];                 // the offsets of an axis without any
  float in_scale, scale, slope, unused;  // a multiple of 16 bytes
};

// Both need blocks of at least max_side threads, and end with a barrier.
template <class T>
MK_DEVICE void fill_forward(Coefficients& k, const Channel<T>& c, float mean, float rstd) {
  const int p = int(threadIdx.x);
  const float in_scale = rstd * c.gamma;
  if (p < max_side) k.zeros[p] = 0;
  if (p < c.length_a) {
    k.taps_a[p] = static_cast<float>(c.weight_a[p]);
    k.in_a[p] = fmaf(static_cast<float>(c.pe_a[p]) - mean, in_scale, c.beta);
  }
  if (p < c.length_b) {
    k.taps_b[p] = static_cast<float>(c.weight_b[p]);
    k.pe_b[p] = static_cast<float>(c.pe_b[p]);
  }
  if (p == 0) k.in_scale = in_scale;
  __syncthreads();
  if (p < c.length_b) {
    float offset = c.bias_b;
#pragma unroll 4
    for (int t = 0; t < c.length_b; ++t)
      offset = fmaf(k.taps_b[t], c.bias_a + k.pe_b[circular(p, t, c.length_b)], offset);
    k.out_b[p] = offset;
  }
  __syncthreads();
}

// grad_x = rstd · (gamma · g − mean_g − v̂ · mean_gv); the two means are zero if the statistics are given.
template <class T>
MK_DEVICE void fill_backward(Coefficients& k, const Channel<T>& c, float mean, float rstd, float2 means) {
  const int p = int(threadIdx.x);
  if (p < max_side) k.zeros[p] = 0;
  if (p < c.length_a) {
    const float in = (static_cast<float>(c.pe_a[p]) - mean) * rstd;
    k.taps_a[p] = static_cast<float>(c.weight_a[p]);
    k.reversed_a[p] = static_cast<float>(c.weight_a[p > 0 ? c.length_a - p : 0]);
    k.in_a[p] = in;
    k.out_a[p] = -rstd * fmaf(means.y, in, means.x);
  }
  if (p < c.length_b) {
    k.taps_b[p] = static_cast<float>(c.weight_b[p]);
    k.reversed_b[p] = static_cast<float>(c.weight_b[p > 0 ? c.length_b - p : 0]);
  }
  if (p == 0) {
    k.in_scale = rstd;
    k.scale = rstd * c.gamma;
    k.slope = -rstd * rstd * means.y;
  }
  __syncthreads();
}

MK_DEVICE float reciprocal_root(float var, float eps) { return 1.0f / sqrtf(var + eps); }

// ---------------------------------------------------------------------------------------------------------------------
// Batch statistics

// The mean of `count` values, and the sum of their squared differences from it.
struct Moments {
  float count, mean, squares;
};

// The moments of the union of two sets (Chan, Golub, LeVeque 1983); precise for |mean| ≫ std. The square of a
// difference of means is never alone: beside an empty set it can exceed the range.
MK_DEVICE Moments merge(const Moments& a, const Moments& b) {
  const float count = a.count + b.count;
  const float weight = count > 0 ? __fdividef(b.count, count) : 0.0f;
  const float delta = b.mean - a.mean;
  return {count, fmaf(delta, weight, a.mean), a.squares + b.squares + delta * (delta * a.count * weight)};
}

// The union over all lanes, in a fixed order; valid in lane 0.
MK_DEVICE Moments merge_lanes(Moments m) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Moments other{__shfl_down_sync(all_lanes, m.count, distance), __shfl_down_sync(all_lanes, m.mean, distance),
                        __shfl_down_sync(all_lanes, m.squares, distance)};
    m = merge(m, other);
  }
  return m;
}

// The moments of V values: first their mean, then the differences from it.
template <int V>
MK_DEVICE Moments moments_of(const float (&v)[V]) {
  float sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) sum += v[i];
  const float mean = sum * (1.0f / V);
#pragma unroll
  for (int i = 0; i < V; ++i) squares = fmaf(v[i] - mean, v[i] - mean, squares);
  return {float(V), mean, squares};
}

template <class T>
MK_DEVICE void load_values(float (&v)[1], const T* p) {
  v[0] = static_cast<float>(*p);
}
MK_DEVICE void load_values(float (&v)[8], const float* p) {
  const float4 low = *reinterpret_cast<const float4*>(p), high = *reinterpret_cast<const float4*>(p + 4);
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
  v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}
template <class T>
MK_DEVICE void load_values(float (&v)[8], const T* p) {
  const uint4 bits = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = static_cast<float>(T(uint16_t(words[i]), T::from_bits()));
    v[2 * i + 1] = static_cast<float>(T(uint16_t(words[i] >> 16), T::from_bits()));
  }
}

constexpr int statistics_threads = 256;

template <class T>
struct StatisticsArguments {
  Plan plan;
  const T *x, *pe_h, *pe_w;
  float2* moments;
};

// Mean and squared differences of x + pe_a over a chunk, V values of a map at a time (16-byte loads with V = 8).
// x (N, C, H, W) → moments (chunks of all groups, C). Reads x once.
template <class T, int V>
__global__ void __launch_bounds__(statistics_threads, 4) fcc_statistics_kernel(StatisticsArguments<T> a) {
  const Plan& plan = a.plan;
  float* pe = reinterpret_cast<float*>(dynamic_shared());  // of every pixel
  const Share s = share_of(plan, int(blockIdx.x));
  const bool along_h = s.channel < plan.channels / 2;
  const int pixels = plan.pixels(), units = pixels / V;
  for (int p = int(threadIdx.x); p < pixels; p += statistics_threads)
    pe[p] = static_cast<float>(along_h ? a.pe_h[s.channel * plan.height + p / plan.width]
                                       : a.pe_w[s.channel * plan.width + p % plan.width]);
  __syncthreads();

  Moments mine{0, 0, 0};
  const int64_t step = plan.step();
  const int more_maps = statistics_threads / units, more_units = statistics_threads % units;
  const T* maps = a.x + map_of(plan, s, 0);
  int m = int(threadIdx.x) / units, unit = int(threadIdx.x) % units;
  while (m < s.count) {
    float v[V];
    load_values(v, maps + m * step + unit * V);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] += pe[unit * V + i];
    mine = merge(mine, moments_of(v));
    m += more_maps, unit += more_units;
    if (unit >= units) unit -= units, ++m;
  }

  __shared__ Moments of_warp[statistics_threads / 32];
  mine = merge_lanes(mine);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < statistics_threads / 32; ++w) mine = merge(mine, of_warp[w]);
    a.moments[(int64_t(s.group) * plan.chunks + s.chunk) * plan.channels + s.channel] =
        make_float2(mine.mean, mine.squares);
  }
}

// The source of a forward kernel's statistics: given ones, or the chunks' moments, which every block merges by itself
// (an extra kernel would cost more) and the first block of a channel and group stores.
struct Statistics {
  const float *mean, *var;  // (G, C), or nullptr:
  Plan plan;                // of the statistics kernel
  const float2* moments;
  float *batch_mean, *batch_var;
};

// Mean and variance of the share's channel and group; the whole warp calls.
MK_DEVICE float2 statistics_of(const Statistics& from, const Share& s) {
  const int64_t at = int64_t(s.group) * from.plan.channels + s.channel;
  if (from.mean != nullptr) return make_float2(from.mean[at], from.var[at]);
  const Plan& plan = from.plan;
  Moments m{0, 0, 0};
#pragma unroll 1
  for (int chunk = int(threadIdx.x % 32); chunk < plan.chunks; chunk += 32) {
    const float2 part = from.moments[(int64_t(s.group) * plan.chunks + chunk) * plan.channels + s.channel];
    const int64_t begin = chunk * plan.per_chunk, left = plan.samples - begin;
    m = merge(m, {float(left < plan.per_chunk ? left : plan.per_chunk) * plan.pixels(), part.x, part.y});
  }
  m = merge_lanes(m);
  const float mean = __shfl_sync(all_lanes, m.mean, 0);
  const float var = __shfl_sync(all_lanes, m.squares, 0) / (float(plan.samples) * plan.pixels());
  if (s.chunk == 0 && threadIdx.x == 0) from.batch_mean[at] = mean, from.batch_var[at] = var;
  return make_float2(mean, var);
}

// ---------------------------------------------------------------------------------------------------------------------
// Arguments of the kernels that read and write maps

// y from x, or grad_x from grad_y and x.
template <class T>
struct ApplyArguments {
  Plan plan;
  Parameters<T> parameters;
  const T *in, *x;  // forward: x and nothing; backward: grad_y and x
  T* out;
  Statistics statistics;
  const float2* means;  // backward: (G, C), see fill_backward
  float eps;
  bool residual;
};

template <class T>
struct GradientArguments {
  Plan plan;
  Parameters<T> parameters;
  const T *grad_y, *x;
  const float *mean, *var;
  float* sums;  // (chunks of all groups, C, Record)
  T* grad_x;    // if the statistics are given, so that one pass is enough; else nullptr
  float eps;
  bool residual;
};

// Launches for square maps with L = 8, 16 or 32 on tensor cores, in fcc_tensor.cu for every T (float in TF32).
template <class T, bool Backward>
void launch_tensor(const OnDevice& device, const ApplyArguments<T>& a);
template <class T>
void launch_tensor_gradient(const OnDevice& device, const GradientArguments<T>& a);

// f with the side L of square maps that have specialised kernels.
inline bool has_side(const Plan& plan) {
  return plan.height == plan.width && (plan.height == 8 || plan.height == 16 || plan.height == 32);
}
template <class F>
void for_side(const Plan& plan, F&& f) {
  if (plan.height == 8) f(std::integral_constant<int, 8>{});
  if (plan.height == 16) f(std::integral_constant<int, 16>{});
  if (plan.height == 32) f(std::integral_constant<int, 32>{});
}

template <class... P, class... A>
void launch_plan(const OnDevice& device, void (*kernel)(P...), const Plan& plan, int threads, int shared,
                 const A&... arguments) {
  if (shared > device.shared_memory())
    throw std::runtime_error("molkernels: fcc needs " + std::to_string(shared) +
                             " bytes of shared memory a block; this device grants " +
                             std::to_string(device.shared_memory()));
  launch(device, kernel, dim3(unsigned(plan.blocks())), threads, shared, arguments...);
}

// The chunks joined so that all blocks are resident at once: each then prepares its kernels once for all its samples,
// and none waits for another to end.
inline Plan in_one_wave(Plan plan, int64_t resident) {
  const int64_t columns = int64_t(plan.groups) * plan.channels, most = resident / (columns > 0 ? columns : 1);
  const int64_t joined = ceil_div<int64_t>(plan.chunks, most > 0 ? most : 1);
  if (joined > 1) plan.per_chunk *= joined, plan.chunks = int(ceil_div(plan.samples, plan.per_chunk));
  return plan;
}

template <class T, class... P, class... A>
void launch_wave(const OnDevice& device, void (*kernel)(P...), ApplyArguments<T> a, int threads, int shared,
                 const A&... more) {
  a.plan = in_one_wave(a.plan, int64_t(device.multiprocessors()) * resident_blocks(kernel, threads, shared));
  launch_plan(device, kernel, a.plan, threads, shared, a, more...);
}

template <class T, bool Backward>
MK_DEVICE void fill(Coefficients& k, const ApplyArguments<T>& a, const Channel<T>& c, const Share& s) {
  const float2 statistics = statistics_of(a.statistics, s);
  const float rstd = reciprocal_root(statistics.y, a.eps);
  if constexpr (Backward)
    fill_backward(k, c, statistics.x, rstd, a.means[int64_t(s.group) * a.plan.channels + s.channel]);
  else
    fill_forward(k, c, statistics.x, rstd);
}

template <class T>
MK_DEVICE void fill(Coefficients& k, const GradientArguments<T>& a, const Channel<T>& c, const Share& s) {
  const int64_t at = int64_t(s.group) * a.plan.channels + s.channel;
  fill_backward(k, c, a.mean[at], reciprocal_root(a.var[at], a.eps), make_float2(0, 0));
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients of the parameters

// The sums of a block over its samples, with E = grad_y C_b (along b) and F = C_aᵀ grad_y (along a):
//   lag_a[t] = Σ E[p, q] · v̂[(p + t) mod L_a, q]     lag_b[t] = Σ F[p, q] · v̂[p, (q + t) mod L_b]
//   f[p] = Σ_q F[p, q]     v[p] = Σ_q v̂[p, q]        d[q] = Σ_p grad_y[p, q]
// All gradients of parameters, and the two means that batch statistics need, are linear in these.
struct Record {
  int lag_a, f, v, lag_b, d, length;  // the start of each
  MK_HOST_DEVICE constexpr Record(int a, int b)
      : lag_a(0), f(a), v(2 * a), lag_b(3 * a), d(3 * a + b), length(3 * a + 2 * b) {}
};

MK_DEVICE float* record_of(float* sums, const Plan& plan, const Share& s) {
  return sums + ((int64_t(s.group) * plan.chunks + s.chunk) * plan.channels + s.channel) * plan.record_pitch();
}

// The block's record from those of its warps, [warp][record], computed by any number of threads.
MK_DEVICE void write_record(float* to, const float* of_warps, int warps, int length) {
  __syncthreads();
  for (int e = int(threadIdx.x); e < length; e += int(blockDim.x)) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += of_warps[w * length + e];
    to[e] = sum;
  }
}

template <class T>
struct ParameterArguments {
  Plan plan;
  Parameters<T> parameters;
  const float *sums, *var;
  float2* means;  // (G, C), in training
  T *gamma, *beta, *pe_h, *pe_w, *weight_h, *weight_w, *bias_h, *bias_w;
  float eps;
  bool training;
};

constexpr int parameter_threads = 512;

// Σ_t x[t] · y[t], in order.
MK_DEVICE float dot(const float* x, const float* y, int length) {
  float sum = 0;
  for (int t = 0; t < length; ++t) sum = fmaf(x[t], y[t], sum);
  return sum;
}
MK_DEVICE float total(const float* x, int length) {
  float sum = 0;
  for (int t = 0; t < length; ++t) sum += x[t];
  return sum;
}

// Element e of a group's record, over its chunks in order.
MK_DEVICE float sum_chunks(const float* sums, const Plan& plan, int group, int channel, int e) {
  const int64_t step = int64_t(plan.channels) * plan.record_pitch();
  const float* from = sums + int64_t(group) * plan.chunks * step + int64_t(channel) * plan.record_pitch() + e;
  float sum = 0;
#pragma unroll 4
  for (int chunk = 0; chunk < plan.chunks; ++chunk) sum += from[chunk * step];
  return sum;
}

// The data of a channel that the parameters' gradients need, in shared memory; followed by `sums`.
struct ChannelSums {
  float weight_a[max_side], weight_b[max_side], pe_b[max_side];
};

// The means over a group of gamma · g and gamma · g · v̂: Σ g = Σ weight_a · Σ weight_b · Σ grad_y, and
// Σ g v̂ = Σ_t weight_a[t] lag_a[t].
template <class T>
MK_DEVICE float2 means_of(const ChannelSums& k, const Channel<T>& c, const Record& record, const float* sums,
                          float count) {
  const float sum_g =
      total(k.weight_a, c.length_a) * total(k.weight_b, c.length_b) * total(sums + record.d, c.length_b);
  const float sum_gv = dot(k.weight_a, sums + record.lag_a, c.length_a);
  return make_float2(c.gamma * sum_g / count, c.gamma * sum_gv / count);
}

// The gradients that are linear in a channel's record over all groups; that of pe_a replaces `f`.
template <class T>
MK_DEVICE void write_gradients(const ParameterArguments<T>& a, const ChannelSums& k, const Channel<T>& c,
                               const Record& record, int channel, const float* sums) {
  const float weights_a = total(k.weight_a, c.length_a), weights_b = total(k.weight_b, c.length_b);
  const float *lag_a = sums + record.lag_a, *lag_b = sums + record.lag_b, *d = sums + record.d;
  const float sum_d = total(d, c.length_b);
  T *pe_h = a.pe_h + channel * c.length_h(), *pe_w = a.pe_w + channel * c.length_w();
  T *weight_h = a.weight_h + channel * c.length_h(), *weight_w = a.weight_w + channel * c.length_w();
  const int p = int(threadIdx.x);
  if (p < c.length_a) {
    (c.along_h ? pe_h : pe_w)[p] = static_cast<T>(sums[record.f + p]);
    (c.along_h ? weight_h : weight_w)[p] = static_cast<T>(fmaf(c.gamma, lag_a[p], c.beta * weights_b * sum_d));
  }
  for (int q = p; q < c.length_b; q += int(blockDim.x)) {
    float pe = 0, weight = fmaf(c.gamma, lag_b[q], (c.beta * weights_a + c.bias_a) * sum_d);
    for (int t = 0; t < c.length_b; ++t) {
      pe = fmaf(d[t], k.weight_b[q >= t ? q - t : q - t + c.length_b], pe);
      weight = fmaf(d[t], k.pe_b[circular(q, t, c.length_b)], weight);
    }
    (c.along_h ? pe_w : pe_h)[q] = static_cast<T>(pe);
    (c.along_h ? weight_w : weight_h)[q] = static_cast<T>(weight);
  }
  if (p == 0) {
    a.gamma[channel] = static_cast<T>(dot(k.weight_a, lag_a, c.length_a));
    a.beta[channel] = static_cast<T>(weights_a * weights_b * sum_d);
    (c.along_h ? a.bias_h : a.bias_w)[channel] = static_cast<T>(weights_b * sum_d);
    (c.along_h ? a.bias_w : a.bias_h)[channel] = static_cast<T>(sum_d);
  }
}

// Gradients of one channel's parameters from the chunks' records, and the means for grad_x. A block has as many slots
// as fit, each for one group at a time.
// sums (chunks of all groups, C, Record) → eight gradients, means (G, C). Reads sums once.
template <class T>
__global__ void __launch_bounds__(parameter_threads, 1) fcc_parameters_kernel(ParameterArguments<T> a) {
  ChannelSums& k = *reinterpret_cast<ChannelSums*>(dynamic_shared());
  float* sums = reinterpret_cast<float*>(&k + 1);
  const int channel = int(blockIdx.x);
  const Channel<T> c = channel_of(a.parameters, a.plan, channel);
  const Record record(c.length_a, c.length_b);
  const int slot_threads = ceil_div(a.plan.record_pitch(), 32) * 32, slots = int(blockDim.x) / slot_threads;
  const int slot = int(threadIdx.x) / slot_threads, e = int(threadIdx.x) % slot_threads;
  const float count = float(a.plan.samples) * a.plan.pixels(), line = float(a.plan.samples) * c.length_b;
  for (int p = int(threadIdx.x); p < max_side; p += int(blockDim.x)) {
    if (p < c.length_a) k.weight_a[p] = static_cast<float>(c.weight_a[p]);
    if (p < c.length_b) k.weight_b[p] = static_cast<float>(c.weight_b[p]), k.pe_b[p] = static_cast<float>(c.pe_b[p]);
  }

  float mine = 0;
  for (int first = 0; first < a.plan.groups; first += slots) {
    const int group = first + slot;
    const bool active = group < a.plan.groups && e < record.length;
    const float sum = active ? sum_chunks(a.sums, a.plan, group, channel, e) : 0.0f;
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (active && count > 0 && e >= record.f && e < record.v) {  // pe_a: rstd · (gamma g − mean_g − v̂ mean_gv)
      const int64_t at = int64_t(group) * a.plan.channels + channel;
      const float* of_group = sums + slot * slot_threads;
      const float2 means = a.training ? means_of(k, c, record, of_group, count) : make_float2(0, 0);
      const float g = sum * total(k.weight_b, c.length_b), v = of_group[record.v + e - record.f];
      mine += reciprocal_root(a.var[at], a.eps) * (c.gamma * g - line * means.x - v * means.y);
      if (a.training && e == record.f) a.means[at] = means;
    } else {
      mine += sum;
    }
    __syncthreads();
  }

  sums[threadIdx.x] = mine;
  __syncthreads();
  for (int other = 1; slot == 0 && other < slots; ++other) mine += sums[other * slot_threads + e];
  if (slot == 0) sums[e] = mine;
  __syncthreads();
  write_gradients(a, k, c, record, channel, sums);
}

}  // namespace fcc_kernels
}  // namespace molkernels

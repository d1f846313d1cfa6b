// FCC for maps of any size up to 64×64, any dtype, in float32 multiply-adds: a block processes one map at a time in
// shared memory.
#pragma once

#include "fcc.cuh"

namespace molkernels {
namespace fcc_kernels {

constexpr int general_threads = 256;
constexpr int window = 4;  // values of a line that a thread computes at once

// Lines of a map in shared memory: `count` of them, of `length` values.
struct Lines {
  int count, length, line_step, value_step;
};

// An odd pitch: neither adjacent rows nor adjacent columns share a bank.
MK_HOST_DEVICE constexpr int general_pitch(int width) { return width | 1; }
MK_HOST_DEVICE constexpr int general_floats(int height, int width) { return height * general_pitch(width); }

MK_DEVICE Lines rows_of(const Plan& plan) { return {plan.height, plan.width, general_pitch(plan.width), 1}; }
MK_DEVICE Lines columns_of(const Plan& plan) { return {plan.width, plan.height, 1, general_pitch(plan.width)}; }

// A sliding window of `window` consecutive values of a line, from `begin` on.
struct Window {
  const float* line;
  int length, step, next;
  float v[window];

  MK_DEVICE Window(const float* line, int begin, const Lines& lines)
      : line(line), length(lines.length), step(lines.value_step), next((begin + window) % length) {
#pragma unroll
    for (int r = 0; r < window; ++r) v[r] = line[(begin + r) % length * step];
  }
  MK_DEVICE void move() {
#pragma unroll
    for (int r = 0; r + 1 < window; ++r) v[r] = v[r + 1];
    v[window - 1] = line[next * step];
    next = next + 1 == length ? 0 : next + 1;
  }
};

// put(line, p, Σ_t taps[t] · tile[line, p + t]) for all lines and p, by the whole block.
template <class Put>
MK_DEVICE void correlate_lines(const float* tile, const Lines& lines, const float* taps, Put put) {
  const int tasks = lines.count * ceil_div(lines.length, window);
  for (int task = int(threadIdx.x); task < tasks; task += general_threads) {
    const int line = task % lines.count, begin = task / lines.count * window;
    Window w(tile + line * lines.line_step, begin, lines);
    float sum[window] = {};
    for (int t = 0; t < lines.length; ++t) {
      const float tap = taps[t];
#pragma unroll
      for (int r = 0; r < window; ++r) sum[r] = fmaf(tap, w.v[r], sum[r]);
      w.move();
    }
#pragma unroll
    for (int r = 0; r < window; ++r)
      if (begin + r < lines.length) put(line, begin + r, sum[r]);
  }
}

// The lags that one thread sums: `window` of them from `begin` on, over every `slices`-th line.
struct LagTask {
  int begin, slice, slices;
  bool active;

  MK_DEVICE explicit LagTask(int length) {
    const int windows = ceil_div(length, window);
    slices = general_threads / windows;
    begin = int(threadIdx.x) / slices * window;
    slice = int(threadIdx.x) % slices;
    active = begin < length;
  }
};

// lags[r] += Σ x[line, p] · y[line, p + begin + r] over the task's lines.
MK_DEVICE void add_lags(float (&lags)[window], const LagTask& task, const Lines& lines, const float* x,
                        const float* y) {
  if (!task.active) return;
  for (int line = task.slice; line < lines.count; line += task.slices) {
    Window w(y + line * lines.line_step, task.begin, lines);
    for (int p = 0; p < lines.length; ++p) {
      const float factor = x[line * lines.line_step + p * lines.value_step];
#pragma unroll
      for (int r = 0; r < window; ++r) lags[r] = fmaf(factor, w.v[r], lags[r]);
      w.move();
    }
  }
}

// The block's lags from those of its threads, through `work` (window × general_threads).
MK_DEVICE void write_lags(float* to, const float (&lags)[window], const LagTask& task, int length, float* work) {
  __syncthreads();
#pragma unroll
  for (int r = 0; r < window; ++r)
    if (task.active) work[(task.begin + r) * task.slices + task.slice] = lags[r];
  __syncthreads();
  const int t = int(threadIdx.x);
  if (t < length) to[t] = total(work + t * task.slices, task.slices);
}

constexpr int general_shared(int height, int width, bool gradient) {
  const int floats = (gradient ? 3 : 2) * general_floats(height, width) + (gradient ? window * general_threads : 0);
  return int(sizeof(Coefficients)) + floats * int(sizeof(float));
}

// y from x, or with `backward` grad_x from grad_y and x, (N, C, H, W) each. Reads each map once, and again from the
// cache if it is added at the end; writes each once.
template <class T>
__global__ void __launch_bounds__(general_threads, 3) fcc_general_kernel(ApplyArguments<T> a, bool backward) {
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const int pitch = general_pitch(a.plan.width), pixels = a.plan.pixels(), width = a.plan.width;
  float *u = reinterpret_cast<float*>(&k + 1), *turned = u + general_floats(a.plan.height, a.plan.width);
  const Share s = share_of(a.plan, int(blockIdx.x));
  const Channel<T> c = channel_of(a.parameters, a.plan, s.channel);
  if (backward)
    fill<T, true>(k, a, c, s);
  else
    fill<T, false>(k, a, c, s);
  const float *taps_a = backward ? k.reversed_a : k.taps_a, *taps_b = backward ? k.reversed_b : k.taps_b;
  const float *taps_h = c.along_h ? taps_a : taps_b, *taps_w = c.along_h ? taps_b : taps_a;
  const float in_scale = backward ? 1.0f : k.in_scale, scale = backward ? k.scale : 1.0f;
  const float *in_a = backward ? k.zeros : k.in_a, *out = backward ? k.out_a : k.out_b;
  const bool out_along_h = backward == c.along_h;

  for (int m = 0; m < s.count; ++m) {
    const int64_t at = map_of(a.plan, s, m);
    const T* in = a.in + at;
    for (int p = int(threadIdx.x); p < pixels; p += general_threads) {
      const int i = p / width, j = p % width;
      u[i * pitch + j] = fmaf(static_cast<float>(in[p]), in_scale, in_a[c.along_h ? i : j]);
    }
    __syncthreads();
    correlate_lines(u, rows_of(a.plan), taps_w, [&](int i, int j, float sum) { turned[i * pitch + j] = sum; });
    __syncthreads();
    correlate_lines(turned, columns_of(a.plan), taps_h, [&](int j, int i, float sum) {
      const int p = i * width + j;
      float v = fmaf(sum, scale, out[out_along_h ? i : j]);
      if (a.residual) v += static_cast<float>(in[p]);
      if (backward) v = fmaf(k.slope, static_cast<float>(a.x[at + p]), v);
      a.out[at + p] = static_cast<T>(v);
    });
    // The next map overwrites u, which no thread reads after the barrier between the products.
  }
}

// The records of a chunk's maps (see Record), and with given statistics grad_x. x, grad_y (N, C, H, W) → sums. Reads
// each once, grad_y again from the cache for a residual.
template <class T>
__global__ void __launch_bounds__(general_threads, 2) fcc_general_gradient_kernel(GradientArguments<T> a) {
  Coefficients& k = *reinterpret_cast<Coefficients*>(dynamic_shared());
  const int pitch = general_pitch(a.plan.width), pixels = a.plan.pixels(), width = a.plan.width;
  const int floats = general_floats(a.plan.height, a.plan.width), thread = int(threadIdx.x);
  float *hat = reinterpret_cast<float*>(&k + 1), *d = hat + floats, *turned = d + floats, *work = turned + floats;
  const Share s = share_of(a.plan, int(blockIdx.x));
  const Channel<T> c = channel_of(a.parameters, a.plan, s.channel);
  fill(k, a, c, s);
  const Lines along_a = c.along_h ? columns_of(a.plan) : rows_of(a.plan);
  const Lines along_b = c.along_h ? rows_of(a.plan) : columns_of(a.plan);
  const LagTask task_a(c.length_a), task_b(c.length_b);
  float lag_a[window] = {}, lag_b[window] = {};
  float sum = 0;  // of f, v or d: a quarter of the threads each

  const auto line_sum = [&](const float* tile, const Lines& lines, int first) {
    const int line = thread - first;
    if (line < 0 || line >= lines.count) return 0.0f;
    float v = 0;
    for (int p = 0; p < lines.length; ++p) v += tile[line * lines.line_step + p * lines.value_step];
    return v;
  };
  const auto place = [&](const Lines& lines, int line, int p) { return line * lines.line_step + p * lines.value_step; };

  for (int m = 0; m < s.count; ++m) {
    const int64_t at = map_of(a.plan, s, m);
    for (int p = thread; p < pixels; p += general_threads) {
      const int i = p / width, j = p % width;
      hat[i * pitch + j] = fmaf(static_cast<float>(a.x[at + p]), k.in_scale, k.in_a[c.along_h ? i : j]);
      d[i * pitch + j] = static_cast<float>(a.grad_y[at + p]);
    }
    __syncthreads();
    sum += line_sum(hat, along_b, max_side) + line_sum(d, along_a, 2 * max_side);
    correlate_lines(hat, along_b, k.taps_b, [&](int line, int p, float v) { turned[place(along_b, line, p)] = v; });
    __syncthreads();
    add_lags(lag_a, task_a, along_a, d, turned);
    __syncthreads();
    correlate_lines(d, along_a, k.reversed_a, [&](int line, int p, float v) { turned[place(along_a, line, p)] = v; });
    __syncthreads();
    add_lags(lag_b, task_b, along_b, turned, hat);
    sum += line_sum(turned, along_b, 0);
    if (a.grad_x != nullptr)
      correlate_lines(turned, along_b, k.reversed_b, [&](int line, int q, float v) {
        const int64_t p = at + (c.along_h ? line * width + q : q * width + line);
        v *= k.scale;
        if (a.residual) v += static_cast<float>(a.grad_y[p]);
        a.grad_x[p] = static_cast<T>(v);
      });
    __syncthreads();
  }

  const Record record(c.length_a, c.length_b);
  float* to = record_of(a.sums, a.plan, s);
  write_lags(to + record.lag_a, lag_a, task_a, c.length_a, work);
  write_lags(to + record.lag_b, lag_b, task_b, c.length_b, work);
  const int part = thread / max_side, p = thread % max_side;
  if (part == 0 && p < c.length_a) to[record.f + p] = sum;
  if (part == 1 && p < c.length_a) to[record.v + p] = sum;
  if (part == 2 && p < c.length_b) to[record.d + p] = sum;
}

template <class T>
void launch_general(const OnDevice& device, const ApplyArguments<T>& a, bool backward) {
  launch_wave(device, fcc_general_kernel<T>, a, general_threads, general_shared(a.plan.height, a.plan.width, false),
              backward);
}

template <class T>
void launch_general_gradient(const OnDevice& device, const GradientArguments<T>& a) {
  launch_plan(device, fcc_general_gradient_kernel<T>, a.plan, general_threads,
              general_shared(a.plan.height, a.plan.width, true), a);
}

}  // namespace fcc_kernels
}  // namespace molkernels

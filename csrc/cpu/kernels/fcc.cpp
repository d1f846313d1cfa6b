// Fully-connected convolution; formula and shapes: molkernels/reference.py.
//
// Both correlations of a map are linear and act on different axes, so they commute and all constants can be added last:
// with D the correlation along H, A the one along W and û0 the normalised map, both branches are
//   y = D A û0 + offset   (+ x),
// where û0 includes the embedding of the branch's first axis and the offset is the second axis' kernel applied to the
// second embedding plus the first bias, plus the second bias. A map stays in L1 from its one read to its one write.
//
// x is (N, C, H, W). Memory: N·C·H·W read and written once. Work, halved (see circular.h): N·C·H·W·(H + W) / 2
// products.
#include "fcc.h"

#include "circular.h"

namespace molkernels {
namespace MK_ISA {
namespace {

// The forward pass of float maps is computed in double: it is memory-bound, and the graph of the convolution that
// follows depends on differences smaller than the rounding error of float arithmetic.
template <class T>
struct ForwardOf {
  using type = wide<T>;
};
template <>
struct ForwardOf<float> {
  using type = double;
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline float root(float v) { return __builtin_sqrtf(v); }
inline double root(double v) { return __builtin_sqrt(v); }

// One value per row plus one per column: what an embedding or an offset of either branch adds to a map.
template <class W>
struct Placed {
  alignas(64) W row[kMaxSide];
  alignas(64) W column[kMaxSide + lanes<W>];

  Vec<W> at(int i, int j) const { return row[i] + load(column + j); }
  void clear(int height, int width) {
    std::memset(row, 0, sizeof(W) * size_t(height));
    std::memset(column, 0, sizeof(W) * size_t(width + lanes<W>));
  }
};

template <class W>
struct Channel {
  CircularKernel<W> along_h, along_w;
  Placed<W> embedding, offset;
  W gamma, beta;
};

// out[j] = Σ_t weight[t] · (embedding[(j + t) mod length] + bias1) + bias2
template <class S, class T, class W>
void correlate_embedding(const S* weight, const T* embedding, W bias1, W bias2, int length, W* out) {
  W twice[2 * kMaxSide];
  for (int i = 0; i < length; ++i) twice[i] = twice[i + length] = to_wide(embedding[i]) + bias1;
  for (int j = 0; j < length; ++j) out[j] = bias2;
  for (int t = 0; t < length; ++t) {
    const W w = to_wide(weight[t]);
    for (int j = 0; j < length; ++j) out[j] += w * twice[j + t];
  }
}

// Whether the first axis of a channel's branch is H.
template <class T, class W>
bool rows_first(const FccInput<T, W>& a, int64_t c) {
  return c < a.channels / 2;
}

// The embedding of the first axis.
template <class T, class W, class A>
void make_embedding(const FccInput<T, W>& a, int height, int width, int64_t c, Placed<A>& embedding) {
  embedding.clear(height, width);
  if (rows_first(a, c)) {
    for (int i = 0; i < height; ++i) embedding.row[i] = to_wide(a.pe_h[c * height + i]);
  } else {
    for (int j = 0; j < width; ++j) embedding.column[j] = to_wide(a.pe_w[c * width + j]);
  }
}

template <class L, class T, class W, class A>
void make_channel(const FccInput<T, W>& a, L l, int64_t c, Channel<A>& channel) {
  const T *weight_h = a.weight_h + c * l.height(), *weight_w = a.weight_w + c * l.width();
  const T *pe_h = a.pe_h + c * l.height(), *pe_w = a.pe_w + c * l.width();
  const A bias_h = to_wide(a.bias_h[c]), bias_w = to_wide(a.bias_w[c]);
  make_kernel(weight_h, l.row_blocks(), l.block_height(), channel.along_h);
  make_kernel(weight_w, l.column_blocks(), l.block_width(), channel.along_w);
  channel.gamma = to_wide(a.gamma[c]);
  channel.beta = to_wide(a.beta[c]);
  make_embedding(a, l.height(), l.width(), c, channel.embedding);
  channel.offset.clear(l.height(), l.width());
  if (rows_first(a, c)) {
    correlate_embedding(weight_w, pe_w, bias_h, bias_w, l.width(), channel.offset.column);
  } else {
    correlate_embedding(weight_h, pe_h, bias_w, bias_h, l.height(), channel.offset.row);
  }
}

template <class L, class T, class W>
MK_INLINE void forward_map(L l, const Channel<W>& channel, W mean, W rstd, bool residual, const T* x, T* y, W* u,
                           W* v) {
  const W scale = channel.gamma * rstd;
  // x − mean first: it is exact if the mean is large relative to the deviation.
  enter(l, u, l.block_height(), [&](int i, int j) __attribute__((always_inline)) {
    const Vec<W> centred = load_part_as<W>(x + i * l.width() + j, l.valid(j)) - mean;
    return (centred + channel.embedding.at(i, j)) * scale + channel.beta;
  });
  correlate_rows(l, channel.along_h, false, u, l.block_height(), v);
  correlate_columns(l, channel.along_w, false, v, u);
  leave(l, u, [&](int i, int j, Vec<W> value) __attribute__((always_inline)) {
    const int at = i * l.width() + j;
    value += channel.offset.at(i, j);
    if (residual) value += load_part_as<W>(x + at, l.valid(j));
    store_part_as<W>(y + at, value, l.valid(j));
  });
}

// Scratch for a map whose sides are known at compile time, or for any map (0).
template <int kHeight, int kWidth>
inline constexpr int kScratch = kHeight == 0 ? kMaxArea : kHeight * (kWidth < 16 ? 16 : kWidth);

template <class T, class W, int kHeight, int kWidth>
void forward_channels(const FccForward<T, W>& a, int64_t sample, int64_t sample_end, int64_t channel,
                      int64_t channel_end) {
  using A = typename ForwardOf<T>::type;
  const Layout<A, kHeight, kWidth> l{a.height, a.width};
  alignas(64) A u[kScratch<kHeight, kWidth>], v[kScratch<kHeight, kWidth>];
  Channel<A> channels[fcc::kChannelsPerTask];
  for (int64_t c = channel; c < channel_end; ++c) make_channel(a, l, c, channels[c - channel]);
  const int64_t area = int64_t(l.height()) * l.width();
  for (int64_t n = sample; n < sample_end; ++n) {
    const int64_t group = fcc::group_of(n, a.groups);
    for (int64_t c = channel; c < channel_end; ++c) {
      const A mean = a.mean[group * a.channels + c], rstd = 1 / root(A(a.var[group * a.channels + c]) + A(a.eps));
      const int64_t first = (n * a.channels + c) * area;
      forward_map(l, channels[c - channel], mean, rstd, a.residual, a.x + first, a.y + first, u, v);
    }
  }
}

template <class T, class W, int kHeight, int kWidth>
void forward_tasks(const FccForward<T, W>& a, int64_t begin, int64_t end) {
  const int64_t blocks = ceil_div(a.channels, fcc::kChannelsPerTask);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t sample = task / blocks * fcc::kSamplesPerTask, channel = task % blocks * fcc::kChannelsPerTask;
    forward_channels<T, W, kHeight, kWidth>(a, sample, least(sample + fcc::kSamplesPerTask, a.samples), channel,
                                            least(channel + fcc::kChannelsPerTask, a.channels));
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Statistics

// Moves the embedding to mean 0; returns the mean.
template <class W>
double centre_embedding(int height, int width, Placed<W>& embedding) {
  double row = 0, column = 0;
  for (int i = 0; i < height; ++i) row += double(embedding.row[i]);
  for (int j = 0; j < width; ++j) column += double(embedding.column[j]);
  row /= height;
  column /= width;
  for (int i = 0; i < height; ++i) embedding.row[i] = W(double(embedding.row[i]) - row);
  for (int j = 0; j < width; ++j) embedding.column[j] = W(double(embedding.column[j]) - column);
  return row + column;
}

// Mean and sum of squared deviations of a map with its embedding, which has the mean 0. Deviations are from the mean of
// x, which is computed first: so neither a mean of x nor one of the embedding that is large beside the deviations costs
// precision. What rounding leaves of the mean is then corrected for.
template <class T, class W>
MK_INLINE void map_moments(int height, int width, const Placed<W>& embedding, const T* x, double& mean,
                           double& squares) {
  const int area = height * width;
  const W share = W(1) / W(area);  // of each value: their sum may exceed the range
  Vec<W> total{};
  int k = 0;
  for (; k + lanes<W> <= area; k += lanes<W>) total += load(x + k) * share;
  if (k < area) total += load_part(x + k, area - k) * share;
  const W centre = sum_lanes<W>(total);
  Vec<W> sum{}, sum_squares{};
  for (int i = 0; i < height; ++i) {
    int j = 0;
    for (; j + lanes<W> <= width; j += lanes<W>) {
      const Vec<W> deviation = (load(x + i * width + j) - centre) + embedding.at(i, j);
      sum += deviation;
      sum_squares += deviation * deviation;
    }
    if (j < width) {
      const Vec<W> deviation = (load_part(x + i * width + j, width - j) - centre) + embedding.at(i, j);
      const Vec<W> valid = first_lanes<W>(deviation, width - j);
      sum += valid;
      sum_squares += valid * valid;
    }
  }
  const double offset = double(sum_lanes<W>(sum)) / area;
  mean = double(centre) + offset;
  squares = double(sum_lanes<W>(sum_squares)) - offset * offset * area;
  if (squares < 0) squares = 0;  // NaN stays
}

// The means and variances of each group for some channels: those of the samples, combined in order, in double (Chan,
// Golub and LeVeque, 1983).
template <class T, class W, int kHeight, int kWidth>
void statistics(const FccTrain<T, W>& a, int64_t channel, int64_t channel_end) {
  const int height = kHeight ? kHeight : a.height, width = kWidth ? kWidth : a.width;
  const double area = double(height) * width;
  Placed<W> embeddings[fcc::kChannelsPerTask];
  double shift[fcc::kChannelsPerTask];
  for (int64_t c = channel; c < channel_end; ++c) {
    make_embedding(a, height, width, c, embeddings[c - channel]);
    shift[c - channel] = centre_embedding(height, width, embeddings[c - channel]);
  }
  std::memset(a.moments + channel * a.groups * 2, 0, sizeof(double) * size_t((channel_end - channel) * a.groups * 2));
  for (int64_t n = 0; n < a.samples; ++n) {
    const double before = double(n / a.groups) * area;
    for (int64_t c = channel; c < channel_end; ++c) {
      double mean, squares;
      const T* x = a.x + (n * a.channels + c) * height * width;
      map_moments(height, width, embeddings[c - channel], x, mean, squares);
      double* moments = a.moments + (c * a.groups + fcc::group_of(n, a.groups)) * 2;
      const double delta = mean - moments[0];
      moments[0] += delta * (area / (before + area));
      moments[1] += squares + delta * delta * (before * area / (before + area));
    }
  }
  const double count = double(a.samples / a.groups) * area;
  for (int64_t c = channel; c < channel_end; ++c) {
    for (int64_t g = 0; g < a.groups; ++g) {
      const double* moments = a.moments + (c * a.groups + g) * 2;
      a.batch_mean[g * a.channels + c] = W(count > 0 ? moments[0] + shift[c - channel] : 0.0);
      a.batch_var[g * a.channels + c] = W(count > 0 ? moments[1] / count : 0.0);
    }
  }
}

template <class T, class W, int kHeight, int kWidth>
void train_tasks(const FccTrain<T, W>& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const int64_t channel = task * fcc::kChannelsPerTask,
                  channel_end = least(channel + fcc::kChannelsPerTask, a.channels);
    statistics<T, W, kHeight, kWidth>(a, channel, channel_end);
    forward_channels<T, W, kHeight, kWidth>(a, 0, a.samples, channel, channel_end);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Backward. With v̂ the normalised map, u0 = γ·v̂ + β, and ga = Aᵀ grad, a map needs five correlations, all halved:
//   U = D v̂,  ga,  grad_u0 = Dᵀ ga,  lags_h[t] = Σ ga[i, j]·v̂[i + t, j],  lags_w[t] = Σ grad[i, j]·U[i, j + t].
// As D and A commute, these serve both branches; what β, the first bias and the second embedding add to the gradients
// of the kernels needs only the sums of grad by row or by column, once per channel.

template <class W>
struct BackwardMaps {
  W *normalised, *grad, *along_h, *adjoint_w, *products, *lag_sums, *grad_sums, *grad_v_sums, *grad_u0;

  // `area` values per map.
  BackwardMaps(W* scratch, int area)
      : normalised(scratch),
        grad(scratch + 2 * area),
        along_h(scratch + 3 * area),
        adjoint_w(scratch + 4 * area),
        products(scratch + 5 * area),
        lag_sums(products + kMaxArea),
        grad_sums(lag_sums + kMaxSide * lanes<W>),
        grad_v_sums(grad_sums + kMaxSide * lanes<W>),
        grad_u0(scratch + 7 * kMaxArea) {}
};

// Sums over the map's other axis: by row (a vector of partial sums per row) in the branch whose first axis is the
// rows, else by column.
template <class W>
struct AxisSums {
  W* sums;
  int row_step, column_step;

  AxisSums(W* sums, bool by_row) : sums(sums), row_step(by_row ? lanes<W> : 0), column_step(by_row ? 0 : 1) {}

  void add(int i, int j, Vec<W> value) const {
    W* at = sums + i * row_step + j * column_step;
    store<W>(at, load(at) + value);
  }
  template <class L>
  void clear(L l) const {
    std::memset(sums, 0, sizeof(W) * size_t(row_step ? l.height() * lanes<W> : l.stride()));
  }
  void collect(int length, W* out) const {
    for (int i = 0; i < length; ++i) out[i] = row_step ? sum_lanes<W>(load(sums + i * lanes<W>)) : sums[i];
  }
};

// Normalise x, compute all correlations of one sample, and add to the channel's sums. `sums`: of grad and grad_u0·v̂.
template <class L, class T, class W>
MK_INLINE void backward_map(L l, const Channel<W>& channel, W mean, W rstd, const T* x, const T* grad_y,
                            const BackwardMaps<W>& maps, const AxisSums<W>& grad_sums, W* grad_u0, double* sums) {
  Vec<W> grad_sum{}, dot{};
  enter(l, maps.normalised, 2 * l.block_height(), [&](int i, int j) __attribute__((always_inline)) {
    const Vec<W> centred = load_part(x + i * l.width() + j, l.valid(j)) - mean;
    return first_lanes<W>((centred + channel.embedding.at(i, j)) * rstd, l.valid(j));
  });
  repeat_rows(l, maps.normalised);
  enter(l, maps.grad, l.block_height(), [&](int i, int j) __attribute__((always_inline)) {
    const Vec<W> grad = load_part(grad_y + i * l.width() + j, l.valid(j));
    grad_sums.add(i, j, grad);
    grad_sum += grad;
    return grad;
  });
  correlate_rows(l, channel.along_h, false, maps.normalised, 2 * l.block_height(), maps.along_h);
  correlate_columns(l, channel.along_w, true, maps.grad, maps.adjoint_w);
  correlate_rows(l, channel.along_h, true, maps.adjoint_w, l.block_height(), grad_u0);
  add_row_lags(l, maps.adjoint_w, maps.normalised, maps.lag_sums);
  add_column_products(l, maps.grad, maps.along_h, maps.products);
  for (int i = 0; i < l.height(); ++i) {
    const W* normalised = maps.normalised + (i + (i < l.block_height() ? 0 : l.block_height())) * l.stride();
    for (int j = 0; j < l.stride(); j += lanes<W>) dot += load(grad_u0 + i * l.stride() + j) * load(normalised + j);
  }
  sums[0] += double(sum_lanes<W>(grad_sum));
  sums[1] += double(sum_lanes<W>(dot));
}

// grad_x from grad_u0:  grad_v = rstd · (γ·grad_u0 − mean_grad − v̂ · mean_dot)   (+ grad_y).
template <class L, class T, class W>
MK_INLINE void finish_map(L l, const Channel<W>& channel, W mean, W rstd, W mean_grad, W mean_dot, bool residual,
                          const T* x, const T* grad_y, const W* grad_u0, const AxisSums<W>& grad_v_sums, T* grad_x) {
  leave(l, grad_u0, [&](int i, int j, Vec<W> value) __attribute__((always_inline)) {
    const int at = i * l.width() + j, count = l.valid(j);
    const Vec<W> normalised = ((load_part(x + at, count) - mean) + channel.embedding.at(i, j)) * rstd;
    Vec<W> grad_v = (value * channel.gamma - mean_grad - normalised * mean_dot) * rstd;
    grad_v_sums.add(i, j, first_lanes<W>(grad_v, count));
    if (residual) grad_v += load_part(grad_y + at, count);
    store_part(grad_x + at, grad_v, count);
  });
}

template <class W, class T>
W sum_of(const T* values, int count) {
  W sum = 0;
  for (int i = 0; i < count; ++i) sum += to_wide(values[i]);
  return sum;
}

// grad_weight[t] = γ·lags[t] + constant + Σ_i sums[i] · (embedding[(i + t) mod length] + bias), the last term only if
// `sums` is given: for the branch's second kernel.
template <class T, class W>
void write_weight_gradient(const W* lags, W gamma, W constant, const W* sums, const T* embedding, W bias, int length,
                           T* grad_weight) {
  W value[kMaxSide];
  for (int t = 0; t < length; ++t) value[t] = constant;
  if (sums != nullptr) correlate_embedding(sums, embedding, bias, constant, length, value);
  for (int t = 0; t < length; ++t) grad_weight[t] = narrow<T>(gamma * lags[t] + value[t]);
}

// The gradient of the second axis' embedding: the adjoint of its kernel, applied to the sums of grad, which is the
// correlation of the kernel with them in reverse.
template <class T, class W>
void write_embedding_gradient(const W* sums, const T* weight, int length, T* grad_embedding) {
  W reverse[kMaxSide] = {}, value[kMaxSide];
  for (int t = 0; t < length; ++t) reverse[t] = sums[t == 0 ? 0 : length - t];
  correlate_embedding(reverse, weight, W(0), W(0), length, value);
  for (int m = 0; m < length; ++m) grad_embedding[m] = narrow<T>(value[m]);
}

// All parameter gradients of channel c except those of gamma, beta and the first embedding, which any norm has.
template <class L, class T, class W>
void write_kernel_gradients(const FccBackward<T, W>& a, L l, const Channel<W>& channel, int64_t c,
                            const BackwardMaps<W>& maps, const AxisSums<W>& grad_sums, W grad_total) {
  const T *weight_h = a.weight_h + c * l.height(), *weight_w = a.weight_w + c * l.width();
  const T *pe_h = a.pe_h + c * l.height(), *pe_w = a.pe_w + c * l.width();
  const W total_h = sum_of<W>(weight_h, l.height()), total_w = sum_of<W>(weight_w, l.width());
  const W from_beta_h = channel.beta * total_w * grad_total, from_beta_w = channel.beta * total_h * grad_total;
  W lags_h[kMaxSide], lags_w[kMaxSide], sums[kMaxSide];
  row_lags(l, maps.lag_sums, lags_h);
  column_lags(l, maps.products, lags_w);
  const bool first = rows_first(a, c);
  grad_sums.collect(first ? l.width() : l.height(), sums);
  write_weight_gradient(lags_h, channel.gamma, from_beta_h, first ? nullptr : sums, pe_h, W(to_wide(a.bias_w[c])),
                        l.height(), a.grad_weight_h + c * l.height());
  write_weight_gradient(lags_w, channel.gamma, from_beta_w, first ? sums : nullptr, pe_w, W(to_wide(a.bias_h[c])),
                        l.width(), a.grad_weight_w + c * l.width());
  if (first) {
    write_embedding_gradient(sums, weight_w, l.width(), a.grad_pe_w + c * l.width());
  } else {
    write_embedding_gradient(sums, weight_h, l.height(), a.grad_pe_h + c * l.height());
  }
  a.grad_bias_h[c] = narrow<T>(first ? total_w * grad_total : grad_total);
  a.grad_bias_w[c] = narrow<T>(first ? grad_total : total_h * grad_total);
}

template <class L, class T, class W>
void write_norm_gradients(const FccBackward<T, W>& a, L l, int64_t c, const AxisSums<W>& grad_v_sums,
                          double grad_u0_total, double dot_total) {
  a.grad_gamma[c] = narrow<T>(W(dot_total));
  a.grad_beta[c] = narrow<T>(W(grad_u0_total));
  const int length = rows_first(a, c) ? l.height() : l.width();
  T* grad_embedding = rows_first(a, c) ? a.grad_pe_h + c * length : a.grad_pe_w + c * length;
  W sums[kMaxSide];
  grad_v_sums.collect(length, sums);
  for (int i = 0; i < length; ++i) grad_embedding[i] = narrow<T>(sums[i]);
}

template <class T, class W, int kHeight, int kWidth>
void backward_channel(const FccBackward<T, W>& a, int64_t c, W* scratch, double* sums) {
  const Layout<W, kHeight, kWidth> l{a.height, a.width};
  const int area = l.height() * l.width(), padded = l.height() * l.stride();
  const BackwardMaps<W> maps(scratch, padded);
  const bool first = rows_first(a, c);
  const AxisSums<W> grad_sums(maps.grad_sums, !first), grad_v_sums(maps.grad_v_sums, first);
  // Only what is used: for a small map the whole of this memory would cost as much to clear as a sample to compute.
  std::memset(maps.products, 0, sizeof(W) * size_t(l.width() * l.block_vectors() * lanes<W>));
  std::memset(maps.lag_sums, 0, sizeof(W) * size_t(l.height() * lanes<W>));
  grad_sums.clear(l);
  grad_v_sums.clear(l);
  std::memset(sums, 0, sizeof(double) * 2 * size_t(a.groups));
  Channel<W> channel;
  make_channel(a, l, c, channel);

  const auto finish = [&](int64_t n, double grad_mean, double dot_mean) {
    const int64_t at = fcc::group_of(n, a.groups) * a.channels + c, map = (n * a.channels + c) * area;
    finish_map(l, channel, a.mean[at], 1 / root(a.var[at] + a.eps), W(grad_mean), W(dot_mean), a.residual, a.x + map,
               a.grad_y + map, maps.grad_u0 + (a.training ? n * padded : 0), grad_v_sums, a.grad_x + map);
  };
  for (int64_t n = 0; n < a.samples; ++n) {
    const int64_t group = fcc::group_of(n, a.groups), at = group * a.channels + c, map = (n * a.channels + c) * area;
    backward_map(l, channel, a.mean[at], 1 / root(a.var[at] + a.eps), a.x + map, a.grad_y + map, maps, grad_sums,
                 maps.grad_u0 + (a.training ? n * padded : 0), sums + 2 * group);
    if (!a.training) finish(n, 0, 0);
  }
  // An adjoint multiplies the sum of a map by the sum of its kernel: Σ grad_u0 = Σ weight_h · Σ weight_w · Σ grad.
  const double to_u0 =
      double(sum_of<W>(a.weight_h + c * l.height(), l.height())) * sum_of<W>(a.weight_w + c * l.width(), l.width());
  const double scale = double(channel.gamma) * double(a.groups) / (double(a.samples) * area);
  for (int64_t n = 0; a.training && n < a.samples; ++n) {
    const double* of_group = sums + 2 * fcc::group_of(n, a.groups);
    finish(n, scale * to_u0 * of_group[0], scale * of_group[1]);
  }
  double grad_total = 0, dot_total = 0;
  for (int64_t g = 0; g < a.groups; ++g) grad_total += sums[2 * g], dot_total += sums[2 * g + 1];
  write_kernel_gradients(a, l, channel, c, maps, grad_sums, W(grad_total));
  write_norm_gradients(a, l, c, grad_v_sums, to_u0 * grad_total, dot_total);
}

template <class T, class W, int kHeight, int kWidth>
void backward_tasks(const FccBackward<T, W>& a, int64_t begin, int64_t end, W* scratch, double* sums) {
  for (int64_t c = begin; c < end; ++c) backward_channel<T, W, kHeight, kWidth>(a, c, scratch, sums);
}

}  // namespace

// Call function<T, W, H, W>(arguments) with the sides of the map if they were compiled for, else with 0.
#define MK_FOR_SIDES(function, a, ...)                                                    \
  if ((a).height == 16 && (a).width == 16) return function<T, W, 16, 16>(a, __VA_ARGS__); \
  if ((a).height == 8 && (a).width == 8) return function<T, W, 8, 8>(a, __VA_ARGS__);     \
  if ((a).height == 32 && (a).width == 32) return function<T, W, 32, 32>(a, __VA_ARGS__); \
  return function<T, W, 0, 0>(a, __VA_ARGS__)

template <class T, class W>
void fcc_forward(const FccForward<T, W>& a, int64_t begin, int64_t end) {
  MK_FOR_SIDES(forward_tasks, a, begin, end);
}

template <class T, class W>
void fcc_train(const FccTrain<T, W>& a, int64_t begin, int64_t end) {
  MK_FOR_SIDES(train_tasks, a, begin, end);
}

template <class T, class W>
void fcc_backward(const FccBackward<T, W>& a, int64_t begin, int64_t end, W* scratch, double* sums) {
  MK_FOR_SIDES(backward_tasks, a, begin, end, scratch, sums);
}

#define MK_INSTANTIATE(T, W)                                            \
  template void fcc_forward(const FccForward<T, W>&, int64_t, int64_t); \
  template void fcc_train(const FccTrain<T, W>&, int64_t, int64_t);     \
  template void fcc_backward(const FccBackward<T, W>&, int64_t, int64_t, W*, double*);

MK_INSTANTIATE(double, double)
MK_INSTANTIATE(float, float)
MK_INSTANTIATE(BFloat16, float)
MK_INSTANTIATE(Half, float)

}  // namespace MK_ISA
}  // namespace molkernels

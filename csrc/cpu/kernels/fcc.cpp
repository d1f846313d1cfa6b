// Fully-connected convolution; formula and shapes: molkernels/reference.py.
//
// Both correlations of a map are linear and act on different axes, so their order is free and all constants can wait:
// with D the correlation along H, A the one along W and û0 the normalised map, both branches are
//   y = D A û0 + offset   (+ x),
// where û0 takes the embedding of the branch's first axis and the offset is the second axis' kernel applied to the
// second embedding plus the first bias, plus the second bias. A map stays in L1 from its one read to its one write.
//
// x is (N, C, H, W). Memory: N·C·H·W read and written once. Work, halved (see circular.h): N·C·H·W·(H + W) / 2
// products.
#include "fcc.h"

#include "circular.h"

namespace molkernels {
namespace MK_ISA {
namespace {

inline float root(float v) { return __builtin_sqrtf(v); }
inline double root(double v) { return __builtin_sqrt(v); }

// A value for each row plus one for each column: what an embedding or an offset of either branch adds to a map.
template <class W>
struct Placed {
  alignas(64) W row[kMaxSide];
  alignas(64) W column[kMaxSide + lanes<W>];

  Vec<W> at(int i, int j) const { return row[i] + load(column + j); }
};

template <class W>
struct Channel {
  CircularKernel<W> along_h, along_w;
  Placed<W> embedding, offset;
  W gamma, beta;
};

// out[j] = Σ_t weight[t] · (embedding[(j + t) mod length] + bias1) + bias2
template <class T, class W>
void correlate_embedding(const T* weight, const T* embedding, W bias1, W bias2, int length, W* out) {
  W twice[2 * kMaxSide];
  for (int i = 0; i < length; ++i) twice[i] = twice[i + length] = to_wide(embedding[i]) + bias1;
  for (int j = 0; j < length; ++j) out[j] = bias2;
  for (int t = 0; t < length; ++t) {
    const W w = to_wide(weight[t]);
    for (int j = 0; j < length; ++j) out[j] += w * twice[j + t];
  }
}

template <class T, class W>
void make_channel(const FccInput<T, W>& a, const Layout<W>& l, int64_t c, Channel<W>& channel) {
  const T *weight_h = a.weight_h + c * l.height, *weight_w = a.weight_w + c * l.width;
  const T *pe_h = a.pe_h + c * l.height, *pe_w = a.pe_w + c * l.width;
  const W bias_h = to_wide(a.bias_h[c]), bias_w = to_wide(a.bias_w[c]);
  make_kernel(weight_h, l.row_blocks, l.block_height, channel.along_h);
  make_kernel(weight_w, l.column_blocks, l.block_width, channel.along_w);
  channel.gamma = to_wide(a.gamma[c]);
  channel.beta = to_wide(a.beta[c]);
  std::memset(&channel.embedding, 0, sizeof channel.embedding);
  std::memset(&channel.offset, 0, sizeof channel.offset);
  if (c < a.channels / 2) {
    for (int i = 0; i < l.height; ++i) channel.embedding.row[i] = to_wide(pe_h[i]);
    correlate_embedding(weight_w, pe_w, bias_h, bias_w, l.width, channel.offset.column);
  } else {
    for (int j = 0; j < l.width; ++j) channel.embedding.column[j] = to_wide(pe_w[j]);
    correlate_embedding(weight_h, pe_h, bias_w, bias_h, l.height, channel.offset.row);
  }
}

// How many values of the vector at column j belong to the map.
template <class W>
MK_INLINE int valid_lanes(const Layout<W>& l, int j) {
  return l.width % lanes<W> == 0 ? lanes<W> : l.width - j;
}

template <class T, class W>
MK_INLINE void forward_map(const Layout<W>& l, const Channel<W>& channel, W mean, W rstd, bool residual, const T* x,
                           T* y, W* u, W* v) {
  const W scale = channel.gamma * rstd;
  // x − mean first: it is exact where the mean is large beside the deviation.
  enter(l, u, [&](int i, int j) __attribute__((always_inline)) {
    const Vec<W> centred = load_part(x + i * l.width + j, valid_lanes(l, j)) - mean;
    return (centred + channel.embedding.at(i, j)) * scale + channel.beta;
  });
  correlate_rows(l, channel.along_h, false, u, v);
  correlate_columns(l, channel.along_w, false, v, u);
  leave(l, u, [&](int i, int j, Vec<W> value) __attribute__((always_inline)) {
    const int at = i * l.width + j;
    value += channel.offset.at(i, j);
    if (residual) value += load_part(x + at, valid_lanes(l, j));
    store_part(y + at, value, valid_lanes(l, j));
  });
}

// Scratch for a map whose sides are known at compile time, or for any map (0).
template <int kHeight, int kWidth>
inline constexpr int kScratch = kHeight == 0 ? kMaxArea : kHeight * (kWidth < 16 ? 16 : kWidth);

template <class T, class W, int kHeight, int kWidth>
void forward_channels(const FccForward<T, W>& a, int64_t sample, int64_t sample_end, int64_t channel,
                      int64_t channel_end) {
  const Layout<W> l = make_layout<W>(kHeight ? kHeight : a.height, kWidth ? kWidth : a.width);
  alignas(64) W u[kScratch<kHeight, kWidth>], v[kScratch<kHeight, kWidth>];
  Channel<W> channels[fcc::kChannelsPerTask];
  for (int64_t c = channel; c < channel_end; ++c) make_channel(a, l, c, channels[c - channel]);
  const int64_t area = int64_t(l.height) * l.width;
  for (int64_t n = sample; n < sample_end; ++n) {
    const int64_t group = fcc::group_of(n, a.groups);
    for (int64_t c = channel; c < channel_end; ++c) {
      const W mean = a.mean[group * a.channels + c], rstd = 1 / root(a.var[group * a.channels + c] + a.eps);
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
    const int64_t sample_end = sample + fcc::kSamplesPerTask, channel_end = channel + fcc::kChannelsPerTask;
    forward_channels<T, W, kHeight, kWidth>(a, sample, sample_end < a.samples ? sample_end : a.samples, channel,
                                            channel_end < a.channels ? channel_end : a.channels);
  }
}

}  // namespace

template <class T, class W>
void fcc_forward(const FccForward<T, W>& a, int64_t begin, int64_t end) {
  if (a.height == 16 && a.width == 16) return forward_tasks<T, W, 16, 16>(a, begin, end);
  if (a.height == 8 && a.width == 8) return forward_tasks<T, W, 8, 8>(a, begin, end);
  if (a.height == 32 && a.width == 32) return forward_tasks<T, W, 32, 32>(a, begin, end);
  forward_tasks<T, W, 0, 0>(a, begin, end);
}

template void fcc_forward(const FccForward<double, double>&, int64_t, int64_t);
template void fcc_forward(const FccForward<float, float>&, int64_t, int64_t);
template void fcc_forward(const FccForward<BFloat16, float>&, int64_t, int64_t);
template void fcc_forward(const FccForward<Half, float>&, int64_t, int64_t);

}  // namespace MK_ISA
}  // namespace molkernels

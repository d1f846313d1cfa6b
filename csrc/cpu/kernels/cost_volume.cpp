// Correlation of two maps over displacements, as products over pairs of pixels that a displacement can connect.
//
// Pixels whose coordinates have the same remainders modulo the stride form a class; displacements stay inside it. For a
// class of m pixels the product is m × m × channels, and only those of its rows that the radius reaches are computed:
// at stride 2 a quarter of the work for all pairs. Products of kRows pixels stay in L1 until they have been distributed
// to their displacements.
//
// FLOPs: 2 · channels per pair within reach. Bytes: both maps once, the volume twice (zeros first).
#include "cost_volume.h"

#include "gemm.h"

namespace molkernels {
namespace MK_ISA {
namespace {

int64_t aligned(int64_t bytes) { return ceil_div<int64_t>(bytes, 64) * 64; }

// One class of pixels: coordinates (y0 + stride · i, x0 + stride · j) of rows × columns of them, numbered row by row.
struct PixelClass {
  int y0, x0, rows, columns;
  int count() const { return rows * columns; }
};

PixelClass pixel_class(const CostVolumeShape& s, int index) {
  const int across = class_count(s.width, s.stride), y0 = index / across, x0 = index % across;
  return {y0, x0, class_extent(s.height, s.stride, y0), class_extent(s.width, s.stride, x0)};
}

int pixel_classes(const CostVolumeShape& s) { return class_count(s.height, s.stride) * class_count(s.width, s.stride); }

// The first class is the largest. Columns are padded, because a panel may begin before the end and extend beyond it.
int64_t most_pixels(const CostVolumeShape& s) { return pixel_class(s, 0).count(); }
template <class W>
int64_t padded(int64_t pixels) {
  return ceil_div<int64_t>(pixels, kColumns<W>) * kColumns<W> + kColumns<W>;
}

// Pixels of a class that displacements connect to pixels [first, last): whole rows of the class.
struct Reach {
  int begin, end;
};
Reach reach_of(const CostVolumeShape& s, const PixelClass& c, int first, int last) {
  const int top = first / c.columns - s.radius_y, bottom = (last - 1) / c.columns + s.radius_y + 1;
  return {(top > 0 ? top : 0) * c.columns, (bottom < c.rows ? bottom : c.rows) * c.columns};
}

// The least power of two that is not less than the number of channels. Divided by it, which is exact, a sum of products
// stays in the range that its terms are in.
template <class W>
W power_above(int64_t channels) {
  W power = 1;
  while (power < W(channels)) power *= 2;
  return power;
}

// (channels, width) ← the pixels of a class times a scale, zero after the last.
template <class T, class W>
void read_class(const CostVolumeShape& s, const PixelClass& c, const T* map, W scale, int64_t width, W* to) {
  for (int64_t channel = 0; channel < s.channels; ++channel) {
    W* row = to + channel * width;
    for (int i = 0; i < c.rows; ++i) {
      const T* from = map + (channel * s.height + c.y0 + i * s.stride) * s.width + c.x0;
      for (int j = 0; j < c.columns; ++j) row[i * c.columns + j] = scale * to_wide(from[j * s.stride]);
    }
    for (int64_t q = c.count(); q < width; ++q) row[q] = 0;
  }
}

template <class W>
struct Scratch {
  W *a, *b;      // a class of either map, (channels, padded)
  W* panels;     // backward: one of them as panels of kRows channels
  W* products;   // forward: (kRows, padded)
  W* gradients;  // backward: (pixels, kColumns)
};

template <class W>
int64_t lay_out(const CostVolumeShape& s, unsigned char* memory, Scratch<W>& scratch) {
  const int64_t width = padded<W>(most_pixels(s)), channels = ceil_div<int64_t>(s.channels, kRows) * kRows;
  int64_t at = 0;
  const auto take = [&](int64_t count) {
    W* piece = reinterpret_cast<W*>(memory + at);
    at += aligned(count * int64_t(sizeof(W)));
    return piece;
  };
  scratch.a = take(s.channels * width);
  scratch.b = take(s.channels * width);
  scratch.panels = take(channels * width);
  scratch.products = take(kRows * width);
  scratch.gradients = take(width * kColumns<W>);
  return at;
}

}  // namespace

template <class W>
int64_t cost_volume_scratch(const CostVolumeShape& shape) {
  Scratch<W> scratch;
  return lay_out<W>(shape, nullptr, scratch);
}

namespace {

// Distribute the products of pixels [first, first + kRows) of a, divided by `power_above`, to their displacements.
template <class T, class W>
void write_products(const CostVolumeInput<T, W>& v, const PixelClass& c, int first, int begin, int64_t width,
                    const W* products, T* out) {
  const int64_t pixels = int64_t(v.height) * v.width;
  const W scale = power_above<W>(v.channels) * (W(1) / W(v.channels));
  for (int r = 0; r < kRows && first + r < c.count(); ++r) {
    const int i = (first + r) / c.columns, j = (first + r) % c.columns;
    const StepRange dy = steps_into(i, 0, c.rows, v.radius_y), dx = steps_into(j, 0, c.columns, v.radius_x);
    T* to = out + int64_t(c.y0 + i * v.stride) * v.width + c.x0 + j * v.stride;
    for (int y = dy.first; y <= dy.last; ++y) {
      const W* row = products + r * width + (i + y) * c.columns + j - begin;
      T* channel = to + displacement_channel(y, dx.first, v.radius_y, v.radius_x) * pixels;
      for (int x = dx.first; x <= dx.last; ++x, channel += pixels) {
        const W value = row[x] * scale;
        *channel = narrow<T>(value > 0 ? value : value * v.negative_slope);
      }
    }
  }
}

}  // namespace

template <class T, class W>
void cost_volume(const CostVolumeInput<T, W>& v, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch<W> scratch;
  lay_out<W>(v, memory, scratch);
  const int64_t pixels = int64_t(v.height) * v.width, volume = displacement_channels(v.radius_y, v.radius_x) * pixels;
  for (int64_t n = begin; n < end; ++n) {
    T* out = v.out + n * volume;
    std::memset(static_cast<void*>(out), 0, sizeof(T) * size_t(volume));
    for (int index = 0; index < pixel_classes(v); ++index) {
      const PixelClass c = pixel_class(v, index);
      const int64_t width = padded<W>(c.count());
      read_class(v, c, v.a + n * v.channels * pixels, W(1) / power_above<W>(v.channels), width, scratch.a);
      read_class(v, c, v.b + n * v.channels * pixels, W(1), width, scratch.b);
      for (int first = 0; first < c.count(); first += kRows) {
        const int last = first + kRows < c.count() ? first + kRows : c.count();
        const Reach reach = reach_of(v, c, first, last);
        for (int q = reach.begin; q < reach.end; q += kColumns<W>) {
          const Tile<W> tile = multiply<W>(scratch.a + first, width, v.channels,
                                           [&](int64_t channel) { return scratch.b + channel * width + q; });
          for (int r = 0; r < kRows; ++r) {
            for (int part = 0; part < kVectors; ++part) {
              store(scratch.products + r * width + q - reach.begin + part * lanes<W>, tile.v[r][part]);
            }
          }
        }
        write_products(v, c, first, reach.begin, width, scratch.products, out);
      }
    }
  }
}

namespace {

// gradients (reach, kColumns) ← for each pixel within reach and each of the pixels [first, first + kColumns) the
// gradient of their product: those of the second map by those of the first (`of_first`), or vice versa.
template <class T, class W>
void read_gradients(const CostVolumeGradient<T, W>& v, const PixelClass& c, const Reach& reach, int first,
                    bool of_first, int64_t n, W* gradients) {
  const int64_t pixels = int64_t(v.height) * v.width, volume = displacement_channels(v.radius_y, v.radius_x) * pixels;
  const W scale = W(1) / W(v.channels);
  for (int64_t i = 0; i < int64_t(reach.end - reach.begin) * kColumns<W>; ++i) gradients[i] = 0;
  for (int column = 0; column < kColumns<W> && first + column < c.count(); ++column) {
    const int i = (first + column) / c.columns, j = (first + column) % c.columns;
    const StepRange dy = steps_into(i, 0, c.rows, v.radius_y), dx = steps_into(j, 0, c.columns, v.radius_x);
    for (int y = dy.first; y <= dy.last; ++y) {
      for (int x = dx.first; x <= dx.last; ++x) {
        // The pixel of the first map, and the displacement from it.
        const int at_y = of_first ? i : i + y, at_x = of_first ? j : j + x, sign = of_first ? 1 : -1;
        const int64_t at = n * volume + displacement_channel(sign * y, sign * x, v.radius_y, v.radius_x) * pixels +
                           int64_t(c.y0 + at_y * v.stride) * v.width + c.x0 + at_x * v.stride;
        const W grad = to_wide(v.grad_out[at]) * scale;
        gradients[((i + y) * c.columns + j + x - reach.begin) * kColumns<W> + column] =
            to_wide(v.out[at]) > 0 ? grad : grad * v.negative_slope;
      }
    }
  }
}

// grad[channel, p] = Σ_q other[channel, q] · gradient[q, p] for all pixels p of a class.
template <class T, class W>
void gradient_of_class(const CostVolumeGradient<T, W>& v, const PixelClass& c, int64_t n, bool of_first, const W* other,
                       T* grad, const Scratch<W>& scratch) {
  const int64_t width = padded<W>(c.count()), pixels = int64_t(v.height) * v.width;
  pack_panels(other, v.channels, int64_t(c.count()), width, int64_t(1), kRows, scratch.panels, 0,
              ceil_div<int64_t>(v.channels, kRows));
  for (int first = 0; first < c.count(); first += kColumns<W>) {
    const int last = first + kColumns<W> < c.count() ? first + kColumns<W> : c.count();
    const Reach reach = reach_of(v, c, first, last);
    read_gradients(v, c, reach, first, of_first, n, scratch.gradients);
    for (int64_t channel = 0; channel < v.channels; channel += kRows) {
      const W* panel = scratch.panels + channel * c.count() + int64_t(reach.begin) * kRows;
      const Tile<W> tile = multiply<W>(panel, kRows, reach.end - reach.begin,
                                       [&](int64_t q) { return scratch.gradients + q * kColumns<W>; });
      for (int r = 0; r < kRows && channel + r < v.channels; ++r) {
        W values[kColumns<W>];
        for (int part = 0; part < kVectors; ++part) store(values + part * lanes<W>, tile.v[r][part]);
        for (int p = first; p < last; ++p) {
          const int64_t y = c.y0 + (p / c.columns) * v.stride, x = c.x0 + (p % c.columns) * v.stride;
          grad[(n * v.channels + channel + r) * pixels + y * v.width + x] = narrow<T>(values[p - first]);
        }
      }
    }
  }
}

}  // namespace

template <class T, class W>
void cost_volume_backward(const CostVolumeGradient<T, W>& v, unsigned char* memory, int64_t begin, int64_t end) {
  Scratch<W> scratch;
  lay_out<W>(v, memory, scratch);
  const int64_t size = v.channels * v.height * v.width;
  for (int64_t n = begin; n < end; ++n) {
    for (int index = 0; index < pixel_classes(v); ++index) {
      const PixelClass c = pixel_class(v, index);
      const int64_t width = padded<W>(c.count());
      read_class(v, c, v.a + n * size, W(1), width, scratch.a);
      read_class(v, c, v.b + n * size, W(1), width, scratch.b);
      gradient_of_class(v, c, n, true, scratch.b, v.grad_a, scratch);
      gradient_of_class(v, c, n, false, scratch.a, v.grad_b, scratch);
    }
  }
}

#define MK_INSTANTIATE(T, W)                                                                       \
  template void cost_volume<T, W>(const CostVolumeInput<T, W>&, unsigned char*, int64_t, int64_t); \
  template void cost_volume_backward<T, W>(const CostVolumeGradient<T, W>&, unsigned char*, int64_t, int64_t);
MK_INSTANTIATE(double, double)
MK_INSTANTIATE(float, float)
MK_INSTANTIATE(BFloat16, float)
MK_INSTANTIATE(Half, float)
#undef MK_INSTANTIATE

template int64_t cost_volume_scratch<double>(const CostVolumeShape&);
template int64_t cost_volume_scratch<float>(const CostVolumeShape&);

}  // namespace MK_ISA
}  // namespace molkernels

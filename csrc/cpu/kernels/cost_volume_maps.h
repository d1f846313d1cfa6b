// Correlation of two maps over displacements, as products over pairs of pixels that a displacement can connect.
//
// Pixels whose coordinates have the same remainders modulo the stride form a class; displacements stay inside it. For a
// class of m pixels the product is m × m × channels, and only those of its rows that the radius reaches are computed:
// at stride 2 a quarter of the work for all pairs. Float is multiplied in registers, bfloat16 as bfloat16 where the
// instruction set has such products (cost_volume_bf16.cpp).
//
// The volume holds, for each displacement, rows of pixels; a product holds, for each pixel, the pixels that it was
// multiplied with. For one row of pixels and one row of the other map the two are transposes of each other, in which a
// pixel's values begin at its own column: so a block of pixels × displacements is transposed in registers, and both
// sides are read and written in whole vectors. The classes of a row of the map are its columns by turns, and are
// therefore computed together.
//
// FLOPs: 2 · channels per pair within reach, backward 4. Bytes: both maps and the volume once (zeros first); backward
// both maps and their gradients once, grad_out and the volume twice, the second time from cache.
#pragma once

#include <type_traits>

#include "cost_volume.h"
#include "gemm.h"

namespace molkernels {
namespace MK_ISA {
namespace {

int64_t aligned(int64_t bytes) { return ceil_div<int64_t>(bytes, 64) * 64; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// A class of pixels is stored and multiplied as V: the arithmetic's type W, or BFloat16 for products in pairs.
template <class V>
inline constexpr bool kInPairs = sizeof(V) == 2;

// Channels that a product makes at once in the backward pass.
template <class V>
inline constexpr int kChannels = kInPairs<V> ? 32 : kRows;

// The classes of pixels: coordinates (y0 + stride · i, x0 + stride · j), numbered row by row. All classes of one y0
// have as many columns as the widest; what they lack is zero.
struct Classes {
  int down, across, columns;
  int reach;            // steps along a row that can stay inside the map
  int rows_at_once;     // rows of a class that are multiplied at once
  int64_t most, width;  // pixels of the largest class; values from one channel of a class to the next
  int64_t step;         // from one class to the next; no multiple of a page, which would make their rows collide

  explicit Classes(const CostVolumeShape& s)
      : down(class_count(s.height, s.stride)),
        across(class_count(s.width, s.stride)),
        columns(s.width > 0 ? class_extent(s.width, s.stride, 0) : 1),
        reach(int(least(s.radius_x, columns - 1))),
        rows_at_once(columns < 32 ? 32 / columns : 1),
        most(s.height > 0 ? int64_t(columns) * class_extent(s.height, s.stride, 0) : 0),
        width(ceil_div<int64_t>(most, 32) * 32 + 32),
        step(s.channels * width + 64) {}

  int pixels_at_once() const { return rows_at_once * columns; }
};

// Some rows of the classes of one y0, and the pixels that displacements connect to theirs.
struct Band {
  int y0, rows;        // all rows of the classes
  int first, last;     // the rows of the band
  int64_t begin, end;  // pixels within reach, whole rows; `begin` a multiple of 32 at or before the first

  Band(const CostVolumeShape& s, const Classes& c, int y0, int first)
      : y0(y0), rows(class_extent(s.height, s.stride, y0)), first(first) {
    last = int(least(first + c.rows_at_once, rows));
    const int64_t top = first - s.radius_y;
    begin = (top > 0 ? top : 0) * c.columns / 32 * 32;
    end = least(last + int64_t(s.radius_y), rows) * c.columns;
  }
  int64_t depth() const { return ceil_div<int64_t>(end - begin, 32) * 32; }
};

// The least power of two that is not less than the number of channels. Divided by it, which is exact, a sum of products
// stays in the range that its terms are in.
template <class W>
W power_above(int64_t channels) {
  W power = 1;
  while (power < W(channels)) power *= 2;
  return power;
}

// --------------------------------------------------------------------------------------------------------------------
// Rows of the map to and from the classes of columns, of words of 2, 4 or 8 bytes.

template <int kBytes>
struct Pairs;
template <>
struct Pairs<2> {
  typedef uint16_t One __attribute__((vector_size(16), aligned(2), may_alias));
  typedef uint32_t Two __attribute__((vector_size(32), aligned(2), may_alias));
};
template <>
struct Pairs<4> {
  typedef uint32_t One __attribute__((vector_size(32), aligned(4), may_alias));
  typedef uint64_t Two __attribute__((vector_size(64), aligned(4), may_alias));
};

// to[x0 · step + j] = row[x0 + j · stride], zero where the row has ended.
template <class V>
void split_row(const V* row, int width, int stride, int columns, V* to, int64_t step) {
  if constexpr (sizeof(V) <= 4) {
    using P = Pairs<sizeof(V)>;
    if (stride == 2 && width % 16 == 0) {
      for (int j = 0; j < columns; j += 8) {
        const typename P::Two both = *reinterpret_cast<const typename P::Two*>(row + 2 * j);
        *reinterpret_cast<typename P::One*>(to + j) = __builtin_convertvector(both, typename P::One);
        *reinterpret_cast<typename P::One*>(to + step + j) =
            __builtin_convertvector(both >> (8 * sizeof(V)), typename P::One);
      }
      return;
    }
  }
  if (stride == 1) {
    std::memcpy(static_cast<void*>(to), row, sizeof(V) * size_t(width));
    return;
  }
  for (int x0 = 0; x0 < stride && x0 < width; ++x0) {
    for (int j = 0; j < columns; ++j) to[x0 * step + j] = x0 + j * stride < width ? row[x0 + j * stride] : V(0);
  }
}

// The reverse.
template <class V>
void join_row(const V* from, int64_t step, int width, int stride, int columns, V* row) {
  if constexpr (sizeof(V) <= 4) {
    using P = Pairs<sizeof(V)>;
    if (stride == 2 && width % 16 == 0) {
      for (int j = 0; j < columns; j += 8) {
        const auto even = *reinterpret_cast<const typename P::One*>(from + j);
        const auto odd = *reinterpret_cast<const typename P::One*>(from + step + j);
        *reinterpret_cast<typename P::Two*>(row + 2 * j) =
            __builtin_convertvector(even, typename P::Two) |
            (__builtin_convertvector(odd, typename P::Two) << (8 * sizeof(V)));
      }
      return;
    }
  }
  for (int x0 = 0; x0 < stride && x0 < width; ++x0) {
    for (int j = 0; x0 + j * stride < width; ++j) row[x0 + j * stride] = from[x0 * step + j];
  }
}

inline constexpr int kMostColumns = 64;

// The address of channel 0 of a class.
template <class V>
V* class_at(V* classes, const Classes& c, int y0, int x0) {
  return classes + (int64_t(y0) * c.across + x0) * c.step;
}

// All classes, each (channels, width), ← a map times a scale.
template <class T, class V>
void read_classes(const CostVolumeShape& s, const Classes& c, const T* map, wide<T> scale, V* classes) {
  using W = wide<T>;
  for (int64_t channel = 0; channel < s.channels; ++channel, map += int64_t(s.height) * s.width) {
    for (int y0 = 0; y0 < c.down; ++y0) {
      V* to = class_at(classes, c, y0, 0) + channel * c.width;
      for (int y = y0; y < s.height; y += s.stride, to += c.columns) {
        const T* row = map + int64_t(y) * s.width;
        if constexpr (std::is_same_v<T, V>) {
          if (scale == W(1)) {
            split_row(row, s.width, s.stride, c.columns, to, c.step);
            continue;
          }
        }
        V scaled[kMostColumns + lanes<W>];
        for (int x = 0; x < s.width; x += lanes<W>) store<V>(scaled + x, load_part(row + x, s.width - x) * scale);
        split_row<V>(scaled, s.width, s.stride, c.columns, to, c.step);
      }
    }
  }
}

// What lies beyond the last pixel of a class is read, but does not count: it must only be no subnormal number.
template <class V>
void clear_ends(const CostVolumeShape& s, const Classes& c, V* classes) {
  for (int y0 = 0; y0 < c.down; ++y0) {
    const int64_t count = int64_t(class_extent(s.height, s.stride, y0)) * c.columns;
    for (int x0 = 0; x0 < c.across; ++x0) {
      for (int64_t channel = 0; channel < s.channels; ++channel) {
        V* end = class_at(classes, c, y0, x0) + channel * c.width + count;
        std::memset(static_cast<void*>(end), 0, sizeof(V) * size_t(c.width - count));
      }
    }
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Memory

// A window of displacements may begin up to 63 values before its row and end as far behind it.
inline constexpr int64_t kMargin = 2 * kMostColumns;

template <class V>
struct Scratch {
  V *a, *b;              // all classes of either map
  V* panels;             // forward: of a and of b; backward: of a class of the other map
  wide<V>* products;     // (across, pixels at once, pitch): forward products, backward their gradients
  V* operand;            // backward: the same as they are multiplied
  V* narrow;             // backward: the same of a class, narrowed
  wide<V>* results;      // backward: (across, channels, pixels at once) of a few channels
  int64_t pitch, step;   // of `products`, from pixel to pixel and from class to class
  int64_t of_pixels;     // values per row of `results`
  int64_t operand_step;  // of `operand`, from class to class
};

template <class V>
int64_t lay_out(const CostVolumeShape& s, const Classes& c, unsigned char* memory, Scratch<V>& scratch) {
  int64_t at = 0;
  const auto take = [&](auto*& piece, int64_t count) {
    piece = reinterpret_cast<decltype(&*piece)>(memory + at);
    at += aligned(count * int64_t(sizeof *piece));
  };
  const int64_t channels = ceil_div<int64_t>(s.channels, 32) * 32;
  scratch.pitch = c.width;
  scratch.of_pixels = ceil_div<int64_t>(c.pixels_at_once(), 32) * 32;
  scratch.step = (scratch.of_pixels + kRows) * scratch.pitch;
  const int64_t classes = int64_t(c.down) * c.across * c.step;
  take(scratch.a, classes);
  take(scratch.b, classes);
  take(scratch.panels, kInPairs<V> ? channels * (c.width * c.across + 64) : 0);
  take(scratch.products, c.across * scratch.step + 2 * kMargin);
  scratch.products += kMargin;
  scratch.operand_step = scratch.of_pixels * c.width;
  take(scratch.operand, c.across * scratch.operand_step);
  take(scratch.narrow, kInPairs<V> ? scratch.operand_step : 0);
  take(scratch.results, c.across * kChannels<V> * scratch.of_pixels);
  return at;
}

// In bytes.
template <class V>
int64_t scratch_of(const CostVolumeShape& shape) {
  Scratch<V> scratch;
  return lay_out(shape, Classes(shape), nullptr, scratch);
}

// --------------------------------------------------------------------------------------------------------------------
// Blocks of pixels × displacements

// For each of lanes<W> columns of the map, from `x` on, where the values of its pixel in the first row of a band begin,
// so that the pixel of row i and column j + e of its class is at window + i · columns + e. Beyond the map: any.
template <class W>
struct Windows {
  W* at[lanes<W>];

  Windows(const CostVolumeShape& s, const Classes& c, const Band& band, int i, int x, W* products, int64_t step,
          int64_t pitch) {
    for (int lane = 0; lane < lanes<W>; ++lane) {
      const int column = int(least(x + lane, s.width - 1)), x0 = column % s.stride, j = column / s.stride;
      at[lane] = products + x0 * step + (int64_t(i - band.first) * c.columns + j) * pitch + j - band.begin;
    }
  }
};

// Lanes whose column, of those from `x` on, is inside the map.
template <class W>
Mask<W> inside(int x, int width) {
  Mask<W> column;
  for (int lane = 0; lane < lanes<W>; ++lane) column[lane] = x + lane;
  return (column >= 0) & (column < width);
}

// Distribute the products of a band, divided by `power_above`, to their displacements.
template <class T, class W, class V>
void write_products(const CostVolumeInput<T, W>& v, const Classes& c, const Band& band, const Scratch<V>& scratch,
                    T* out) {
  const int64_t pixels = int64_t(v.height) * v.width;
  const W scale = power_above<W>(v.channels) * (W(1) / W(v.channels));
  for (int i = band.first; i < band.last; ++i) {
    const StepRange dy = steps_into(i, 0, band.rows, v.radius_y);
    for (int x = 0; x < v.width; x += lanes<W>) {
      const Windows<W> windows(v, c, band, i, x, scratch.products, scratch.step, scratch.pitch);
      T* to = out + int64_t(band.y0 + i * v.stride) * v.width + x;
      for (int y = dy.first; y <= dy.last; ++y) {
        for (int first = -c.reach; first <= c.reach; first += lanes<W>) {
          Vec<W> value[lanes<W>];
          for (int lane = 0; lane < lanes<W>; ++lane) {
            value[lane] = load(windows.at[lane] + int64_t(i + y) * c.columns + first);
          }
          transpose<W>(value);
          T* channel = to + displacement_channel(y, first, v.radius_y, v.radius_x) * pixels;
          for (int e = 0; e < lanes<W> && first + e <= c.reach; ++e, channel += pixels) {
            const Vec<W> scaled = value[e] * scale, sloped = scaled > 0 ? scaled : scaled * v.negative_slope;
            store_part(channel, inside<W>(x + v.stride * (first + e), v.width) ? sloped : Vec<W>{}, v.width - x);
          }
        }
      }
    }
  }
}

// The gradients of the products of a band: of the pixels of the first map with those of the second (`of_first`), or
// vice versa, divided by `power_above`. Zero where no displacement leads.
template <class T, class W, class V>
void read_gradients(const CostVolumeGradient<T, W>& v, const Classes& c, const Band& band, bool of_first, int64_t n,
                    const Scratch<V>& scratch) {
  const int64_t pixels = int64_t(v.height) * v.width, volume = displacement_channels(v.radius_y, v.radius_x) * pixels;
  const W scale = W(1) / power_above<W>(v.channels);
  const auto load_inside = [&](const T* from, int64_t at) {
    if (0 <= at && at + lanes<W> <= v.maps * volume) return load(from + at);
    Vec<W> values{};
    for (int lane = 0; lane < lanes<W>; ++lane) {
      if (0 <= at + lane && at + lane < v.maps * volume) values[lane] = to_wide(from[at + lane]);
    }
    return values;
  };
  std::memset(static_cast<void*>(scratch.products - kMargin), 0,
              sizeof(W) * size_t(c.across * scratch.step + 2 * kMargin));
  for (int i = band.first; i < band.last; ++i) {
    const StepRange dy = steps_into(i, 0, band.rows, v.radius_y);
    for (int x = 0; x < v.width; x += lanes<W>) {
      const Windows<W> windows(v, c, band, i, x, scratch.products, scratch.step, scratch.pitch);
      for (int y = dy.first; y <= dy.last; ++y) {
        const int64_t row = n * volume + int64_t(band.y0 + (of_first ? i : i + y) * v.stride) * v.width + x;
        for (int first = -c.reach; first <= c.reach; first += lanes<W>) {
          Vec<W> value[lanes<W>] = {};
          for (int e = 0; e < lanes<W> && first + e <= c.reach; ++e) {
            // The pixel of the first map is at this column or, seen from the second, a displacement away.
            const int shift = v.stride * (first + e), sign = of_first ? 1 : -1;
            const int64_t at = row + (of_first ? 0 : shift) +
                               displacement_channel(sign * y, sign * (first + e), v.radius_y, v.radius_x) * pixels;
            Vec<W> grad = load_inside(v.grad_out, at) * scale;
            if (v.negative_slope != W(1)) grad = load_inside(v.out, at) > 0 ? grad : grad * v.negative_slope;
            value[e] = inside<W>(x + shift, v.width) ? grad : Vec<W>{};
          }
          transpose<W>(value);
          // Windows overlap where their values are zero.
          for (int lane = 0; lane < lanes<W> && x + lane < v.width; ++lane) {
            W* to = windows.at[lane] + int64_t(i + y) * c.columns + first;
            store<W>(to, load(to) + value[lane]);
          }
        }
      }
    }
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Products

// Around all products of a thread.
template <class V>
void begin_products() {
#if defined(MK_BF16_PRODUCTS)
  if constexpr (kInPairs<V>) take_tiles();
#endif
}
template <class V>
void end_products() {
#if defined(MK_BF16_PRODUCTS)
  if constexpr (kInPairs<V>) leave_tiles();
#endif
}

#if defined(MK_BF16_PRODUCTS)
// The panels of B of all pixels of a class.
void pack_class(const CostVolumeShape& s, int64_t count, int64_t width, const BFloat16* of_class, BFloat16* panels) {
  const int64_t size = panels16(kBlock16, s.channels);
  for (int64_t q = 0; q < count; q += kBlock16, panels += size) {
    pack_pairs16(of_class + q, least(kBlock16, count - q), width, s.channels, panels);
  }
}

// products[p][q] = Σ_channel a[channel, first + p] · panels[channel, q] for `pixels` of a and q in [begin, end).
void multiply_pixels(const CostVolumeShape& s, const Classes& c, const Band& band, const BFloat16* a,
                     const BFloat16* panels, BFloat16* memory, float* products, int64_t pitch) {
  const int64_t size = panels16(kBlock16, s.channels), first = int64_t(band.first) * c.columns;
  const int64_t last = int64_t(band.last) * c.columns;
  BFloat16 *pairs = memory, *rows = memory + size;
  for (int64_t p = first; p < last; p += kBlock16, products += kBlock16 * pitch) {
    pack_pairs16(a + p, least(kBlock16, last - p), c.width, s.channels, pairs);
    transpose_panel16(pairs, padded16(s.channels), rows);
    for (int64_t q = band.begin; q < band.end; q += kBlock16) {
      float block[kBlockSize16];
      multiply16(rows, panels + q / kBlock16 * size, padded16(s.channels), block);
      for (int r = 0; r < kBlock16; ++r) {
        std::memcpy(products + r * pitch + q - band.begin, block + r * kBlock16, sizeof(float) * kBlock16);
      }
    }
  }
}
#endif

template <class W>
void multiply_pixels(const CostVolumeShape& s, const Classes& c, const Band& band, const W* a, const W* b, W* products,
                     int64_t pitch) {
  const int64_t last = int64_t(band.last) * c.columns;
  for (int64_t p = int64_t(band.first) * c.columns; p < last; p += kRows, products += kRows * pitch) {
    for (int64_t q = band.begin; q < band.end; q += kColumns<W>) {
      const Tile<W> tile =
          multiply<W>(a + p, c.width, s.channels, [&](int64_t channel) { return b + channel * c.width + q; });
      for (int r = 0; r < kRows; ++r) {
        for (int part = 0; part < kVectors; ++part) {
          store<W>(products + r * pitch + q - band.begin + part * lanes<W>, tile.v[r][part]);
        }
      }
    }
  }
}

template <class T, class W, class V>
void forward_map(const CostVolumeInput<T, W>& v, const Classes& c, const T* a, const T* b, const Scratch<V>& scratch,
                 T* out) {
  read_classes(v, c, a, W(1) / power_above<W>(v.channels), scratch.a);
  read_classes(v, c, b, W(1), scratch.b);
  for (int y0 = 0; y0 < c.down; ++y0) {
    const int rows = class_extent(v.height, v.stride, y0);
    // Panels of b, and after them memory for one of a.
    const int64_t size = kInPairs<V> ? ceil_div<int64_t>(v.channels, 32) * 32 * c.width : 0;
    if constexpr (kInPairs<V>) {
      for (int x0 = 0; x0 < c.across; ++x0) {
        pack_class(v, int64_t(rows) * c.columns, c.width, class_at(scratch.b, c, y0, x0), scratch.panels + x0 * size);
      }
    }
    for (int first = 0; first < rows; first += c.rows_at_once) {
      const Band band(v, c, y0, first);
      for (int x0 = 0; x0 < c.across; ++x0) {
        const V* of_a = class_at(scratch.a, c, y0, x0);
        W* products = scratch.products + x0 * scratch.step;
        if constexpr (kInPairs<V>) {
          multiply_pixels(v, c, band, of_a, scratch.panels + x0 * size, scratch.panels + c.across * size, products,
                          scratch.pitch);
        } else {
          multiply_pixels(v, c, band, of_a, class_at(scratch.b, c, y0, x0), products, scratch.pitch);
        }
      }
      write_products(v, c, band, scratch, out);
    }
  }
}

template <class V, class T, class W>
void forward_maps(const CostVolumeInput<T, W>& v, unsigned char* memory, int64_t begin, int64_t end) {
  const Classes c(v);
  Scratch<V> scratch;
  lay_out(v, c, memory, scratch);
  if constexpr (!kInPairs<V>) clear_ends(v, c, scratch.a), clear_ends(v, c, scratch.b);
  begin_products<V>();
  const int64_t size = v.channels * v.height * v.width;
  const int64_t volume = displacement_channels(v.radius_y, v.radius_x) * v.height * v.width;
  for (int64_t n = begin; n < end; ++n) {
    T* out = v.out + n * volume;
    std::memset(static_cast<void*>(out), 0, sizeof(T) * size_t(volume));
    forward_map(v, c, v.a + n * size, v.b + n * size, scratch, out);
  }
  end_products<V>();
}

// results[channel][p] = Σ_q other[channel, q] · gradients[p, q] for channels from `channel` on.
#if defined(MK_BF16_PRODUCTS)
// `operand`: the gradients as panels of B, a panel for each 32 pixels; `panels`: those of A of the class.
void multiply_gradients(const Classes& c, const Band& band, int64_t class_depth, int64_t channel,
                        const BFloat16* panels, const BFloat16* operand, float* results, int64_t of_pixels) {
  const BFloat16* rows = panels + channel * class_depth + band.begin * kBlock16;
  for (int64_t p = 0; p < int64_t(band.last - band.first) * c.columns; p += kBlock16) {
    float block[kBlockSize16];
    multiply16(rows, operand + p * band.depth(), band.depth(), block);
    for (int r = 0; r < kBlock16; ++r) {
      std::memcpy(results + r * of_pixels + p, block + r * kBlock16, sizeof(float) * kBlock16);
    }
  }
}
#endif

// `operand`: the gradients with their pixels last.
template <class W>
void multiply_gradients(const CostVolumeShape& s, const Classes& c, const Band& band, int64_t channel, const W* other,
                        const W* operand, W* results, int64_t of_pixels) {
  const int64_t channels = least(kRows, s.channels - channel);
  const W* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = other + (channel + (r < channels ? r : 0)) * c.width + band.begin;
  for (int64_t p = 0; p < int64_t(band.last - band.first) * c.columns; p += kColumns<W>) {
    const Tile<W> tile =
        multiply_rows<W>(rows, band.end - band.begin, [&](int64_t q) { return operand + q * of_pixels + p; });
    for (int r = 0; r < kRows; ++r) {
      for (int part = 0; part < kVectors; ++part) {
        store<W>(results + r * of_pixels + p + part * lanes<W>, tile.v[r][part]);
      }
    }
  }
}

// The gradients (pixels, pitch) of a class as the second operand of their products.
#if defined(MK_BF16_PRODUCTS)
void make_operand(const Classes& c, const Band& band, const float* gradients, const Scratch<BFloat16>& scratch,
                  BFloat16* operand) {
  const int64_t pixels = int64_t(band.last - band.first) * c.columns, depth = band.depth();
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t q = 0; q < depth; q += lanes<float>) {
      store(scratch.narrow + p * depth + q, load(gradients + p * scratch.pitch + q));
    }
  }
  for (int64_t p = 0; p < pixels; p += kBlock16) {
    pack_columns16(scratch.narrow + p * depth, least(kBlock16, pixels - p), depth, depth, operand + p * depth);
  }
}
#endif

template <class W>
void make_operand(const Classes& c, const Band& band, const W* gradients, const Scratch<W>& scratch, W* operand) {
  for (int64_t p = 0; p < scratch.of_pixels; p += lanes<W>) {
    for (int64_t q = 0; q < band.depth(); q += lanes<W>) {
      Vec<W> value[lanes<W>];
      for (int r = 0; r < lanes<W>; ++r) value[r] = load(gradients + (p + r) * scratch.pitch + q);
      transpose<W>(value);
      for (int r = 0; r < lanes<W>; ++r) store<W>(operand + (q + r) * scratch.of_pixels + p, value[r]);
    }
  }
}

// grad (channels, height, width) ← the gradient of the pixels of a band, from results (across, channels, pixels).
template <class T, class W, class V>
void write_gradients(const CostVolumeGradient<T, W>& v, const Classes& c, const Band& band, int64_t channel,
                     const Scratch<V>& scratch, T* grad) {
  const W scale = power_above<W>(v.channels) * (W(1) / W(v.channels));
  for (int64_t r = 0; r < kChannels<V> && channel + r < v.channels; ++r) {
    for (int i = band.first; i < band.last; ++i) {
      W row[kMostColumns + lanes<W>];
      join_row(scratch.results + r * scratch.of_pixels + int64_t(i - band.first) * c.columns,
               kChannels<V> * scratch.of_pixels, v.width, v.stride, c.columns, row);
      T* to = grad + ((channel + r) * v.height + band.y0 + i * v.stride) * v.width;
      for (int x = 0; x < v.width; x += lanes<W>) store_part(to + x, load(row + x) * scale, v.width - x);
    }
  }
}

// The gradient of one of the maps, from the classes of the other.
template <class T, class W, class V>
void backward_map(const CostVolumeGradient<T, W>& v, const Classes& c, bool of_first, int64_t n, const V* other,
                  const Scratch<V>& scratch, T* grad) {
  for (int y0 = 0; y0 < c.down; ++y0) {
    const int rows = class_extent(v.height, v.stride, y0);
    const int64_t count = int64_t(rows) * c.columns, class_depth = ceil_div<int64_t>(count, 32) * 32;
    const int64_t panels = ceil_div<int64_t>(v.channels, 32) * 32 * c.width;  // of a class
    if constexpr (kInPairs<V>) {
      for (int x0 = 0; x0 < c.across; ++x0) {
        for (int64_t channel = 0; channel < v.channels; channel += 32) {
          pack_rows16(class_at(other, c, y0, x0) + channel * c.width, least(32, v.channels - channel), c.width, count,
                      scratch.panels + x0 * panels + channel * class_depth);
        }
      }
    }
    for (int first = 0; first < rows; first += c.rows_at_once) {
      const Band band(v, c, y0, first);
      read_gradients(v, c, band, of_first, n, scratch);
      for (int x0 = 0; x0 < c.across; ++x0) {
        make_operand(c, band, scratch.products + x0 * scratch.step, scratch,
                     scratch.operand + x0 * scratch.operand_step);
      }
      for (int64_t channel = 0; channel < v.channels; channel += kChannels<V>) {
        for (int x0 = 0; x0 < c.across; ++x0) {
          const V* operand = scratch.operand + x0 * scratch.operand_step;
          W* results = scratch.results + x0 * kChannels<V> * scratch.of_pixels;
          if constexpr (kInPairs<V>) {
            multiply_gradients(c, band, class_depth, channel, scratch.panels + x0 * panels, operand, results,
                               scratch.of_pixels);
          } else {
            multiply_gradients(v, c, band, channel, class_at(other, c, y0, x0), operand, results, scratch.of_pixels);
          }
        }
        write_gradients(v, c, band, channel, scratch, grad);
      }
    }
  }
}

template <class V, class T, class W>
void backward_maps(const CostVolumeGradient<T, W>& v, unsigned char* memory, int64_t begin, int64_t end) {
  const Classes c(v);
  Scratch<V> scratch;
  lay_out(v, c, memory, scratch);
  if constexpr (!kInPairs<V>) clear_ends(v, c, scratch.a), clear_ends(v, c, scratch.b);
  begin_products<V>();
  const int64_t size = v.channels * v.height * v.width;
  for (int64_t n = begin; n < end; ++n) {
    read_classes(v, c, v.a + n * size, W(1), scratch.a);
    read_classes(v, c, v.b + n * size, W(1), scratch.b);
    backward_map(v, c, true, n, scratch.b, scratch, v.grad_a + n * size);
    backward_map(v, c, false, n, scratch.a, scratch, v.grad_b + n * size);
  }
  end_products<V>();
}

}  // namespace
}  // namespace MK_ISA
}  // namespace molkernels

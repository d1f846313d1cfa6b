// Cost volume: correlation of two maps over displacements, and its gradients.
//
//   out[n, d, p]    = LeakyReLU(1/C Σ_c a[n, c, p] b[n, c, q]),   q = p + s·(dy, dx); zero where q is outside
//   grad_a[n, c, p] = 1/C Σ_q G[n, p, q] b[n, c, q]
//   grad_b[n, c, q] = 1/C Σ_p G[n, p, q] a[n, c, p],   G[n, p, q] = LeakyReLU'(out[n, d, p]) · grad_out[n, d, p]
//
// a, b (N, C, H, W); out (N, (2Ry + 1)(2Rx + 1), H, W).
//
// All three are matrix products over pairs of pixels. Pixels pair only within a class (common/cost_volume.h), so a pair
// matrix splits into s² blocks: that of a 16×16 map with s = 2 into four of 64×64. A tile is 64 pixels of a class
// against 64: whole rows of that class, both classes of a row together if s = 2, so that memory is read and written in
// whole sectors. Pairs go through shared memory between the layout of the matrices and that of the displacements.
//
// Minimum work at N = 224, C = 256, 16×16, s = 2, R = 10 (D = 441), float32:
//   forward   reads 2·NCHW, writes N·D·HW: 117 + 101 MB (51 MB for the 225 displacements inside the map); 1.9 GFLOP
//   backward  reads 2·NCHW, N·HW·64 of grad_out (and of out, unless the slope is 1), writes 2·NCHW: 250 MB; 3.8 GFLOP
// So all three are memory-bound, with tensor cores and without.
#include <algorithm>

#include "../common/cost_volume.h"
#include "launch.cuh"
#include "ops.h"
#include "ptx.cuh"

namespace molkernels {
namespace cuda {
namespace {

// Capacity of a tile on either side, in pixels of a class.
constexpr int kSlots = 64;
// Row pitch of a tile of pairs, in floats: displacements read it along diagonals, 69 apart, with conflicts of at most
// two lanes; so do fragments of B, 4 g + t.
constexpr int kPairPitch = kSlots + 4;

// Stride 1 or 2: rows are moved in pieces of 16 bytes. Stride 0: any stride and width, pixel by pixel, one class per
// block.
template <class T, int Stride>
struct Tile {
  static constexpr int classes = Stride == 2 ? 2 : 1;
  static constexpr int width = classes * kSlots;
  static constexpr int threads = 128 * classes;
  // The pixels that a thread moves at once, the number of such pieces in a tile, and the number of channels that all
  // threads move at once.
  static constexpr int piece = Stride == 0 ? 1 : 16 / int(sizeof(T));
  static constexpr int pieces = width / piece;
  static constexpr int step = threads / pieces;
  using Piece = std::conditional_t<Stride == 0, T, uint4>;
};

struct Shape {
  int channels, height, width, plane, stride, radius_y, radius_x;
  int columns;               // of a class in a row
  int y_classes, x_classes;  // of the map; a block has all of the x classes if rows are moved in pieces
  int rows, strips;          // of a class in a tile; and tiles
  int rows_b, strips_b;      // forward: of b
};

// 1/C as two factors: a power of two, which is exact, before the sum, so that the sum stays in the range of its terms;
// and the rest after it.
struct Scales {
  float before, after;
};

template <class T>
Scales scales_of(const Shape& shape) {
  float power = 1.0f;
  while (!std::is_same_v<T, Half> && power < float(shape.channels)) power *= 2;
  return {1.0f / power, float(double(power) / double(shape.channels))};
}

// Rows [begin, begin + count) of a class, as far as they are inside the map.
struct Strip {
  int begin, count;
};

MK_DEVICE Strip strip(const Shape& shape, int y_class, int index, int rows) {
  const int left = class_extent(shape.height, shape.stride, y_class) - index * rows;
  return {index * rows, left < 0 ? 0 : left < rows ? left : rows};
}

// The piece that a thread moves: `tid % pieces` of the tile.
struct Place {
  int row, column;  // in the class; `column` of the piece's first pixel
  int slot;         // of the piece's first pixel in a tile
  int x;            // of the piece's first pixel in the map
  bool in_map;      // along x
};

template <class Tile, int Stride>
MK_DEVICE Place place_of(const Shape& shape, int x_class) {
  const int index = int(threadIdx.x) % Tile::pieces;
  const int a_row = Stride == 0 ? shape.columns : shape.width / Tile::piece;
  const int row = index / a_row, in_row = index % a_row;
  const int column = in_row * (Tile::piece / Tile::classes);
  const int x = Stride == 0 ? x_class + shape.stride * in_row : in_row * Tile::piece;
  return {row, column, row * shape.columns + column, x, x < shape.width};
}

// The offset of the thread's piece from the map's first pixel, if its rows are those of `strip`.
MK_DEVICE int offset_of(const Shape& shape, int y_class, const Strip& strip, const Place& place) {
  return (y_class + shape.stride * (strip.begin + place.row)) * shape.width + place.x;
}

// The number of pixels of a row in a class.
template <int Stride>
MK_DEVICE int class_columns(const Shape& shape, int x_class) {
  return Stride == 0 ? class_extent(shape.width, shape.stride, x_class) : shape.columns;
}

// ---------------------------------------------------------------------------------------------------------------------
// Pieces: pixels in map order on one side, in the order of their classes on the other

template <class T>
MK_DEVICE uint32_t pack(float low, float high) {
  return uint32_t(T(low).x) | uint32_t(T(high).x) << 16;
}

MK_DEVICE uint32_t low_halves(uint32_t first, uint32_t second) { return (first & 0xffffu) | second << 16; }
MK_DEVICE uint32_t high_halves(uint32_t first, uint32_t second) { return first >> 16 | (second & 0xffff0000u); }

// The number of values in a piece of 16 bytes, and a piece of values.
template <class T, int Count>
MK_DEVICE void unpack(float (&values)[Count], const uint4& piece) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    if constexpr (sizeof(T) == 4) {
      values[i] = __uint_as_float(words[i]);
    } else {
      values[i] = static_cast<float>(T(uint16_t(words[i / 2] >> (i % 2 * 16)), T::from_bits()));
    }
  }
}
template <class T>
MK_DEVICE void unpack(float (&values)[1], T piece) {
  values[0] = static_cast<float>(piece);
}
template <class T, int Count>
MK_DEVICE void write_piece(T* to, const float (&values)[Count]) {
  if constexpr (Count == 1) {
    *to = T(values[0]);
  } else if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
  } else {
    *reinterpret_cast<uint4*>(to) = make_uint4(pack<T>(values[0], values[1]), pack<T>(values[2], values[3]),
                                               pack<T>(values[4], values[5]), pack<T>(values[6], values[7]));
  }
}

// A piece times a power of two, see `Scales`. Half has no range to lose: its scale is 1.
template <class T>
MK_DEVICE T scaled(T piece, float down) {
  return std::is_same_v<T, Half> ? piece : T(static_cast<float>(piece) * down);
}
template <class T>
MK_DEVICE uint4 scaled(uint4 piece, float down) {
  if constexpr (std::is_same_v<T, Half>) {
    return piece;
  } else if constexpr (sizeof(T) == 4) {
    return make_uint4(
        __float_as_uint(__uint_as_float(piece.x) * down), __float_as_uint(__uint_as_float(piece.y) * down),
        __float_as_uint(__uint_as_float(piece.z) * down), __float_as_uint(__uint_as_float(piece.w) * down));
  } else {
    const auto pair = [down](uint32_t word) {
      const float low = __uint_as_float(word << 16) * down, high = __uint_as_float(word & 0xffff0000u) * down;
      return high_halves(__float_as_uint(low), __float_as_uint(high));
    };
    return make_uint4(pair(piece.x), pair(piece.y), pair(piece.z), pair(piece.w));
  }
}

template <bool Tf32>
MK_DEVICE uint4 rounded(uint4 piece) {
  if constexpr (Tf32) {
    piece = make_uint4(to_tf32(__uint_as_float(piece.x)), to_tf32(__uint_as_float(piece.y)),
                       to_tf32(__uint_as_float(piece.z)), to_tf32(__uint_as_float(piece.w)));
  }
  return piece;
}

// Pixels of the map to the slots of their classes.
template <class T, bool Tf32, int Stride>
MK_DEVICE void to_slots(T* row, int slot, const typename Tile<T, Stride>::Piece& piece) {
  if constexpr (Stride == 0) {
    if constexpr (Tf32) {
      row[slot] = __uint_as_float(to_tf32(piece));
    } else {
      row[slot] = piece;
    }
  } else {
    const uint4 p = rounded<Tf32>(piece);
    if constexpr (Stride == 1) {
      *reinterpret_cast<uint4*>(row + slot) = p;
    } else if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<uint2*>(row + slot) = make_uint2(p.x, p.z);
      *reinterpret_cast<uint2*>(row + kSlots + slot) = make_uint2(p.y, p.w);
    } else {
      *reinterpret_cast<uint2*>(row + slot) = make_uint2(low_halves(p.x, p.y), low_halves(p.z, p.w));
      *reinterpret_cast<uint2*>(row + kSlots + slot) = make_uint2(high_halves(p.x, p.y), high_halves(p.z, p.w));
    }
  }
}

// And back.
template <class T, int Stride>
MK_DEVICE typename Tile<T, Stride>::Piece from_slots(const T* row, int slot) {
  if constexpr (Stride == 0) {
    return row[slot];
  } else if constexpr (Stride == 1) {
    return *reinterpret_cast<const uint4*>(row + slot);
  } else {
    const uint2 even = *reinterpret_cast<const uint2*>(row + slot);
    const uint2 odd = *reinterpret_cast<const uint2*>(row + kSlots + slot);
    if constexpr (sizeof(T) == 4) {
      return make_uint4(even.x, odd.x, even.y, odd.y);
    } else {
      return make_uint4(low_halves(even.x, odd.x), high_halves(even.x, odd.x), low_halves(even.y, odd.y),
                        high_halves(even.y, odd.y));
    }
  }
}

// `Count` pieces of a tile, at `from` and every `step` channels after it; zeros past the remaining `channels`.
template <class T, int Stride, int Count>
MK_DEVICE void read_pieces(typename Tile<T, Stride>::Piece (&pieces)[Count], const T* from, int plane, int channels) {
  using Piece = typename Tile<T, Stride>::Piece;
  constexpr int step = Tile<T, Stride>::step;
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    pieces[i] = Piece{};
    if (i * step < channels) pieces[i] = *reinterpret_cast<const Piece*>(from + i * step * plane);
  }
}

template <class T, bool Tf32, int Stride, int Pitch, int Count>
MK_DEVICE void write_tile(T* tile, const typename Tile<T, Stride>::Piece (&pieces)[Count], const Place& place) {
  constexpr int step = Tile<T, Stride>::step, pieces_a_row = Tile<T, Stride>::pieces;
#pragma unroll
  for (int i = 0; i < Count; ++i)
    to_slots<T, Tf32, Stride>(tile + (int(threadIdx.x) / pieces_a_row + i * step) * Pitch, place.slot, pieces[i]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Products of a warp: 16 rows × 64 columns, in sum[8][4]

template <class T>
MK_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t b0, const uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  if constexpr (std::is_same_v<T, float>) {
    mma_tf32(c, a, b);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    mma_bf16(c, a, b);
  } else {
    mma_f16(c, a, b);
  }
}

// sum[j][i] is at (row, column) of the product; `Along`: of `multiply_along`, where IEEE products have another layout.
template <bool Mma, bool Along>
MK_DEVICE int row_of(int i) {
  const int lane = int(threadIdx.x) % 32;
  if constexpr (Mma) return lane / 4 + i / 2 * 8;
  return Along ? lane / 8 + 4 * i : lane / 8 * 4 + i;
}
template <bool Mma, bool Along>
MK_DEVICE int column_of(int j, int i) {
  const int lane = int(threadIdx.x) % 32;
  if constexpr (Mma) return 8 * j + lane % 4 * 2 + i % 2;
  return Along ? lane % 8 + 8 * j : j / 4 * 32 + lane % 8 * 4 + j % 4;
}

// sum += aᵀ b, with a (Depth, 16) and b (Depth, 64), both `Pitch` apart; the first `columns` columns.
template <class T, bool Tf32, int Pitch, int Depth>
MK_DEVICE void multiply_across(float (&sum)[8][4], const T* a, const T* b, int columns) {
  const int lane = int(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 2) {
    a += (lane / 16 * 8 + lane % 8) * Pitch + lane / 8 % 2 * 8;
    b += (lane / 8 % 2 * 8 + lane % 8) * Pitch + lane / 16 * 8;
#pragma unroll 1  // registers are scarce
    for (int k = 0; k < Depth; k += 16) {
      uint32_t fa[4], fb[4];
      load_matrices_transposed(fa, a + k * Pitch);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        if (8 * j < columns) {
          load_matrices_transposed(fb, b + k * Pitch + 8 * j);
          mma<T>(sum[j], fa, fb[0], fb[1]);
          mma<T>(sum[j + 1], fa, fb[2], fb[3]);
        }
      }
    }
  } else if constexpr (Tf32) {
    a += lane % 4 * Pitch + lane / 4;
    b += lane % 4 * Pitch + lane / 4;
#pragma unroll
    for (int k = 0; k < Depth; k += 8) {
      const uint32_t fa[4] = {__float_as_uint(a[k * Pitch]), __float_as_uint(a[k * Pitch + 8]),
                              __float_as_uint(a[(k + 4) * Pitch]), __float_as_uint(a[(k + 4) * Pitch + 8])};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (8 * j < columns)
          mma<T>(sum[j], fa, __float_as_uint(b[k * Pitch + 8 * j]), __float_as_uint(b[(k + 4) * Pitch + 8 * j]));
      }
    }
  } else {
    a += lane / 8 * 4;
    b += lane % 8 * 4;
#pragma unroll 4
    for (int k = 0; k < Depth; ++k) {
      const float4 va = *reinterpret_cast<const float4*>(a + k * Pitch);
      const float left[4] = {va.x, va.y, va.z, va.w};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (32 * half < columns) {
          const float4 vb = *reinterpret_cast<const float4*>(b + k * Pitch + 32 * half);
          const float right[4] = {vb.x, vb.y, vb.z, vb.w};
#pragma unroll
          for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[4 * half + j][i] = fmaf(left[i], right[j], sum[4 * half + j][i]);
        }
      }
    }
  }
}

// sum += a bᵀ, with a (16, depth) and b (64, depth), PitchA and PitchB apart; the first `columns` columns.
template <class T, bool Tf32, int PitchA, int PitchB>
MK_DEVICE void multiply_along(float (&sum)[8][4], const T* a, const T* b, int depth, int columns) {
  const int lane = int(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 2) {
    a += lane % 16 * PitchA + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * PitchB + lane / 8 % 2 * 8;
    for (int k = 0; k < depth; k += 16) {
      uint32_t fa[4], fb[4];
      load_matrices(fa, a + k);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        if (8 * j < columns) {
          load_matrices(fb, b + 8 * j * PitchB + k);
          mma<T>(sum[j], fa, fb[0], fb[1]);
          mma<T>(sum[j + 1], fa, fb[2], fb[3]);
        }
      }
    }
  } else if constexpr (Tf32) {
    a += lane / 4 * PitchA + lane % 4;
    b += lane / 4 * PitchB + lane % 4;
    for (int k = 0; k < depth; k += 8) {
      const uint32_t fa[4] = {__float_as_uint(a[k]), __float_as_uint(a[8 * PitchA + k]), __float_as_uint(a[k + 4]),
                              __float_as_uint(a[8 * PitchA + k + 4])};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (8 * j < columns)
          mma<T>(sum[j], fa, __float_as_uint(b[8 * j * PitchB + k]), __float_as_uint(b[8 * j * PitchB + k + 4]));
      }
    }
  } else {
    a += lane / 8 * PitchA;
    b += lane % 8 * PitchB;
    for (int k = 0; k < depth; k += 4) {
      float4 left[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = *reinterpret_cast<const float4*>(a + 4 * i * PitchA + k);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (8 * j < columns) {
          const float4 right = *reinterpret_cast<const float4*>(b + 8 * j * PitchB + k);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[j][i] = fmaf(left[i].x, right.x, sum[j][i]);
            sum[j][i] = fmaf(left[i].y, right.y, sum[j][i]);
            sum[j][i] = fmaf(left[i].z, right.z, sum[j][i]);
            sum[j][i] = fmaf(left[i].w, right.w, sum[j][i]);
          }
        }
      }
    }
  }
}

template <class T, bool Tf32>
inline constexpr bool uses_mma = sizeof(T) == 2 || Tf32;

// ---------------------------------------------------------------------------------------------------------------------
// Forward: a block multiplies one strip of rows of a by one of b, and writes the displacements between them.

template <class T, int Stride>
struct ForwardTile : Tile<T, Stride> {
  static constexpr int depth = 64 / int(sizeof(T));            // channels per stage
  static constexpr int pitch = Tile<T, Stride>::width + 8;     // fragments of [k][pixel] have no bank conflicts
  static constexpr int stage = 2 * depth * pitch;              // a, then b
  static constexpr int moves = depth / Tile<T, Stride>::step;  // pieces per thread and map
  static constexpr int shared = std::max(2 * stage * int(sizeof(T)), Tile<T, Stride>::width * kPairPitch * 4);
};

// Afterwards shared memory holds pairs[slot of a][slot of b]. The thread's piece of a is at a + at, that of b at
// b + at + to_b.
template <class T, bool Tf32, int Stride>
MK_DEVICE void correlate(const T* a, const T* b, int64_t at, int to_b, const Shape& shape, bool a_inside, bool b_inside,
                         const Place& place, float down) {
  using Block = ForwardTile<T, Stride>;
  T* stages = reinterpret_cast<T*>(dynamic_shared());
  const int first = int(threadIdx.x) / Block::pieces;
  const int warp = int(threadIdx.x) / 32, corner = warp / 4 * kSlots;
  const int rows = shape.rows * shape.columns, columns = shape.rows_b * shape.columns;
  const bool has_rows = warp % 4 * 16 < rows;

  typename Block::Piece of_a[Block::moves], of_b[Block::moves];
  int left = shape.channels - first;
  at += first * shape.plane;
  const auto read = [&] {
    read_pieces<T, Stride>(of_a, a + at, shape.plane, a_inside ? left : 0);
    read_pieces<T, Stride>(of_b, b + at + to_b, shape.plane, b_inside ? left : 0);
    at += Block::depth * shape.plane;
    left -= Block::depth;
  };
  const auto write = [&](T* stage) {
    if (place.row < shape.rows) {
#pragma unroll
      for (int i = 0; i < Block::moves; ++i) of_a[i] = scaled<T>(of_a[i], down);
      write_tile<T, Tf32, Stride, Block::pitch>(stage, of_a, place);
    }
    if (place.row < shape.rows_b)
      write_tile<T, Tf32, Stride, Block::pitch>(stage + Block::depth * Block::pitch, of_b, place);
  };

  float sum[8][4] = {};
  read();
  write(stages);
  __syncthreads();
  for (int chunks = ceil_div(shape.channels, Block::depth), now = 0; chunks > 0; --chunks, now ^= 1) {
    const T* stage = stages + now * Block::stage;
    if (chunks > 1) read();
    if (has_rows)
      multiply_across<T, Tf32, Block::pitch, Block::depth>(sum, stage + corner + warp % 4 * 16,
                                                           stage + Block::depth * Block::pitch + corner, columns);
    if (chunks > 1) write(stages + (now ^ 1) * Block::stage);
    __syncthreads();
  }
  float* pairs = reinterpret_cast<float*>(dynamic_shared()) + (corner + warp % 4 * 16) * kPairPitch;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs[row_of<uses_mma<T, Tf32>, false>(i) * kPairPitch + column_of<uses_mma<T, Tf32>, false>(j, i)] = sum[j][i];
  __syncthreads();
}

// `out` at the thread's piece of displacement channel 0.
template <class T, int Stride>
MK_DEVICE void write_displacements(T* out, const Shape& shape, const Place& place, StepRange dy_range, int b_row,
                                   int b_rows, int b_columns, float scale, float slope) {
  using Block = ForwardTile<T, Stride>;
  constexpr int groups_x = Block::step < 8 ? Block::step : 8, groups_y = Block::step / groups_x;
  const float* pairs = reinterpret_cast<const float*>(dynamic_shared());
  const int group = int(threadIdx.x) / Block::pieces;
  for (int dx = group % groups_x - shape.radius_x; dx <= shape.radius_x; dx += groups_x) {
    for (int dy = dy_range.first + group / groups_x; dy <= dy_range.last; dy += groups_y) {
      const int row = b_row + dy;
      float values[Block::piece];
#pragma unroll
      for (int e = 0; e < Block::piece; ++e) {
        const int in_class = e / Block::classes, column = place.column + in_class + dx;
        const bool met = row >= 0 && row < b_rows && column >= 0 && column < b_columns;
        const int slot = e % Block::classes * kSlots + place.slot + in_class;
        const float v = met ? scale * pairs[slot * kPairPitch + row * shape.columns + column] : 0.0f;
        values[e] = v > 0.0f ? v : v * slope;
      }
      write_piece(out + displacement_channel(dy, dx, shape.radius_y, shape.radius_x) * shape.plane, values);
    }
  }
}

// The task of a block, kept in shared memory while the products need the registers.
struct Pairing {
  int n, y_class, x_class;
  Strip a, b;
  bool meet, first_b, last_b;
};

template <int Stride>
MK_DEVICE Pairing pairing_of(const Shape& shape, int index) {
  Pairing pairing;
  const int index_b = index % shape.strips_b;
  index /= shape.strips_b;
  const int index_a = index % shape.strips;
  index /= shape.strips;
  const int x_blocks = Stride == 0 ? shape.x_classes : 1;
  pairing.x_class = index % x_blocks;
  index /= x_blocks;
  pairing.y_class = index % shape.y_classes;
  pairing.n = index / shape.y_classes;
  const Strip a = strip(shape, pairing.y_class, index_a, shape.rows);
  const Strip b = strip(shape, pairing.y_class, index_b, shape.rows_b);
  pairing.a = a;
  pairing.b = b;
  pairing.meet = a.count > 0 && b.count > 0 && b.begin <= a.begin + a.count - 1 + shape.radius_y &&
                 b.begin + b.count - 1 >= a.begin - shape.radius_y;
  pairing.first_b = index_b == 0;
  pairing.last_b = index_b == shape.strips_b - 1;
  return pairing;
}

template <class T, bool Tf32, int Stride>
__global__ void __launch_bounds__(Tile<T, Stride>::threads, Stride == 2 ? 3 : 4)
    cost_volume_kernel(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out, Shape shape,
                       Scales scales, float slope) {
  __shared__ Pairing pairing;
  if (threadIdx.x == 0) pairing = pairing_of<Stride>(shape, int(blockIdx.x));
  __syncthreads();
  const Place place = place_of<Tile<T, Stride>, Stride>(shape, pairing.x_class);
  if (pairing.meet) {
    const int from = offset_of(shape, pairing.y_class, pairing.a, place);
    const int to = offset_of(shape, pairing.y_class, pairing.b, place);
    correlate<T, Tf32, Stride>(a, b, int64_t(pairing.n) * shape.channels * shape.plane + from, to - from, shape,
                               place.in_map && place.row < pairing.a.count, place.in_map && place.row < pairing.b.count,
                               place, scales.before);
  }
  if (!place.in_map || place.row >= pairing.a.count) return;
  // Displacements beyond the map's edge belong to the outermost strips of b.
  const int row = pairing.a.begin + place.row;
  StepRange dy_range = steps_into(row, pairing.b.begin, shape.rows_b, shape.radius_y);
  if (pairing.first_b) dy_range.first = -shape.radius_y;
  if (pairing.last_b) dy_range.last = shape.radius_y;
  out += pairing.n * displacement_channels(shape.radius_y, shape.radius_x) * shape.plane;
  write_displacements<T, Stride>(out + offset_of(shape, pairing.y_class, pairing.a, place), shape, place, dy_range,
                                 row - pairing.b.begin, pairing.meet ? pairing.b.count : 0,
                                 class_columns<Stride>(shape, pairing.x_class), scales.after, slope);
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward: a block computes one strip of rows of one map for a range of channels, and sums over the strips of the
// other map.

template <class T, int Stride>
struct BackwardTile : Tile<T, Stride> {
  static constexpr int depth = 64;                                                 // channels per tile
  static constexpr int pitch = Tile<T, Stride>::width + (sizeof(T) == 2 ? 8 : 4);  // of [channel][slot]
  static constexpr int pair_pitch = sizeof(T) == 2 ? kSlots + 8 : kPairPitch;      // of [own slot][other slot]
  static constexpr int moves = depth / Tile<T, Stride>::step;
  static constexpr int values = depth * pitch;
  static constexpr int pairs = Tile<T, Stride>::width * pair_pitch;
  static constexpr int shared = (values + pairs) * int(sizeof(T));
};

// The task of a block of the backward pass: the gradient of one strip of a, or of b, for `tiles` tiles of channels.
struct Part {
  int n, y_class, x_class, first_tile;
  Strip own;
  int first_other, last_other;  // strips of the other map within reach
  bool own_is_b;
};

template <int Stride>
MK_DEVICE Part part_of(const Shape& shape, int tiles, int groups, int index) {
  Part part;
  part.own_is_b = index % 2;
  index /= 2;
  part.first_tile = index % groups * tiles;
  index /= groups;
  const int own_index = index % shape.strips;
  index /= shape.strips;
  const int x_blocks = Stride == 0 ? shape.x_classes : 1;
  part.x_class = index % x_blocks;
  index /= x_blocks;
  part.y_class = index % shape.y_classes;
  part.n = index / shape.y_classes;
  const Strip own = strip(shape, part.y_class, own_index, shape.rows);
  part.own = own;
  part.first_other = max(own.begin - shape.radius_y, 0) / shape.rows;
  part.last_other = min((own.begin + own.count - 1 + shape.radius_y) / shape.rows, shape.strips - 1);
  return part;
}

template <int Threads>
MK_DEVICE void clear(void* memory, int bytes) {
  for (int i = int(threadIdx.x); i < bytes / 16; i += Threads) static_cast<uint4*>(memory)[i] = make_uint4(0, 0, 0, 0);
}

template <class T, bool Tf32>
MK_DEVICE T operand(float v) {
  if constexpr (Tf32) return __uint_as_float(to_tf32(v));
  return T(v);
}

// pairs[own slot][other slot] = G between the pixels p of a and q of b; `grad_out` and `out` of the block's map.
template <class T, bool Tf32, int Stride>
MK_DEVICE void gather_pairs(T* pairs, const T* grad_out, const T* out, const Shape& shape, const Place& place,
                            const Part& part, Strip other, float down, float slope) {
  using Block = BackwardTile<T, Stride>;
  constexpr int groups_x = Block::step < 8 ? Block::step : 8, groups_y = Block::step / groups_x;
  clear<Block::threads>(pairs, Block::pairs * int(sizeof(T)));
  __syncthreads();
  const bool own_is_b = part.own_is_b;
  const Strip p_strip{own_is_b ? other.begin : part.own.begin, own_is_b ? other.count : part.own.count};
  const Strip q_strip{own_is_b ? part.own.begin : other.begin, own_is_b ? part.own.count : other.count};
  if (place.in_map && place.row < p_strip.count) {
    const int offset = offset_of(shape, part.y_class, p_strip, place);
    const int group = int(threadIdx.x) / Block::pieces, columns = class_columns<Stride>(shape, part.x_class);
    const int radius_x = min(shape.radius_x, columns - 1);
    const int q_row = p_strip.begin + place.row - q_strip.begin;
    const StepRange range = steps_into(q_row, 0, q_strip.count, shape.radius_y);
    for (int dx = group % groups_x - radius_x; dx <= radius_x; dx += groups_x) {
      const int first = place.column + dx;
      if (first >= columns || first + ceil_div(Block::piece, Block::classes) <= 0) continue;
#pragma unroll 2
      for (int dy = range.first + group / groups_x; dy <= range.last; dy += groups_y) {
        using Piece = typename Block::Piece;
        const int64_t at = displacement_channel(dy, dx, shape.radius_y, shape.radius_x) * shape.plane + offset;
        float grad[Block::piece], value[Block::piece];
        unpack<T>(grad, *reinterpret_cast<const Piece*>(grad_out + at));
        if (slope != 1.0f) unpack<T>(value, *reinterpret_cast<const Piece*>(out + at));
#pragma unroll
        for (int e = 0; e < Block::piece; ++e) {
          const int column = place.column + e / Block::classes, target = column + dx;
          if (target < 0 || target >= columns) continue;
          const float g = slope == 1.0f || value[e] > 0.0f ? grad[e] : grad[e] * slope;
          const int p = place.row * shape.columns + column, q = (q_row + dy) * shape.columns + target;
          const int own = e % Block::classes * kSlots + (own_is_b ? q : p), other = own_is_b ? p : q;
          pairs[own * Block::pair_pitch + other] = operand<T, Tf32>(g * down);
        }
      }
    }
  }
}

// Writes scale · sum to `to`, the thread's piece of the first channel of a tile with `channels` channels left, through
// `values`.
template <class T, bool Tf32, int Stride>
MK_DEVICE void write_gradient(T* to, T* values, const float (&sum)[8][4], const Shape& shape, const Place& place,
                              int channels, bool inside, float scale) {
  using Block = BackwardTile<T, Stride>;
  const int warp = int(threadIdx.x) / 32, slots = shape.rows * shape.columns;
  T* corner = values + warp % 4 * 16 * Block::pitch + warp / 4 * kSlots;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = column_of<uses_mma<T, Tf32>, true>(j, i);
      if (column < slots) corner[row_of<uses_mma<T, Tf32>, true>(i) * Block::pitch + column] = T(scale * sum[j][i]);
    }
  __syncthreads();
  // No barrier is needed after this: the values that a thread reads here are overwritten by the same thread.
  const int first = int(threadIdx.x) / Block::pieces;
  if (inside) {
#pragma unroll
    for (int i = 0; i < Block::moves; ++i) {
      const int channel = first + i * Block::step;
      if (channel < channels)
        *reinterpret_cast<typename Block::Piece*>(to + channel * shape.plane) =
            from_slots<T, Stride>(values + channel * Block::pitch, place.slot);
    }
  }
}

template <class T, bool Tf32, int Stride>
__global__ void __launch_bounds__(Tile<T, Stride>::threads, Stride == 1 ? 4 : 2)
    cost_volume_backward_kernel(const T* __restrict__ grad_out, const T* __restrict__ a, const T* __restrict__ b,
                                const T* __restrict__ out, T* __restrict__ grad_a, T* __restrict__ grad_b, Shape shape,
                                int tiles, int groups, Scales scales, float slope) {
  using Block = BackwardTile<T, Stride>;
  const Part part = part_of<Stride>(shape, tiles, groups, int(blockIdx.x));
  const Strip own = part.own;
  if (own.count == 0) return;
  const Place place = place_of<Block, Stride>(shape, part.x_class);
  const int64_t map = int64_t(part.n) * shape.channels * shape.plane;
  const int64_t volume = part.n * displacement_channels(shape.radius_y, shape.radius_x) * shape.plane;
  const int warp = int(threadIdx.x) / 32, corner = warp / 4 * kSlots, first = int(threadIdx.x) / Block::pieces;
  const int slots = shape.rows * shape.columns, depth = ceil_div(slots, 16) * 16;

  T* values = reinterpret_cast<T*>(dynamic_shared());
  T* pairs = values + Block::values;
  clear<Block::threads>(values, Block::values * int(sizeof(T)));  // slots past the last row stay zero
  for (int tile = part.first_tile; tile < part.first_tile + tiles; ++tile) {
    const int left = shape.channels - tile * Block::depth;
    if (left <= 0) return;
    const int64_t tile_at = map + int64_t(tile) * Block::depth * shape.plane;
    float sum[8][4] = {};
    for (int index = part.first_other; index <= part.last_other; ++index) {
      const Strip other = strip(shape, part.y_class, index, shape.rows);
      if (tile == part.first_tile || part.first_other < part.last_other)
        gather_pairs<T, Tf32, Stride>(pairs, grad_out + volume, out + volume, shape, place, part, other, scales.before,
                                      slope);
      if (place.row < shape.rows) {
        const T* from = (part.own_is_b ? a : b) + tile_at + offset_of(shape, part.y_class, other, place);
        typename Block::Piece pieces[Block::moves];
        read_pieces<T, Stride>(pieces, from + first * shape.plane, shape.plane,
                               place.in_map && place.row < other.count ? left - first : 0);
        write_tile<T, Tf32, Stride, Block::pitch>(values, pieces, place);
      }
      __syncthreads();
      if (warp % 4 * 16 < left)
        multiply_along<T, Tf32, Block::pitch, Block::pair_pitch>(sum, values + warp % 4 * 16 * Block::pitch + corner,
                                                                 pairs + corner * Block::pair_pitch, depth, slots);
      __syncthreads();
    }
    T* to = (part.own_is_b ? grad_b : grad_a) + tile_at + offset_of(shape, part.y_class, own, place);
    write_gradient<T, Tf32, Stride>(to, values, sum, shape, place, left, place.in_map && place.row < own.count,
                                    scales.after);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches

Shape shape_of(const Tensor& a, int64_t radius_y, int64_t radius_x, int64_t stride) {
  Shape shape{};
  shape.channels = int(a.size(1));
  shape.height = int(a.size(2));
  shape.width = int(a.size(3));
  shape.plane = shape.height * shape.width;
  require(std::max(radius_y, radius_x) < (1 << 20), "the radius of a cost volume is too large");
  shape.radius_y = int(radius_y);
  shape.radius_x = int(radius_x);
  // A stride beyond the map reaches the same as one of the map's length: only the pixel itself.
  shape.stride = int(std::min<int64_t>(stride, std::max(shape.height, shape.width)));
  shape.columns = ceil_div(shape.width, shape.stride);
  require(shape.columns <= kSlots, "a cost volume on CUDA takes maps up to 64 pixels wide");
  shape.y_classes = class_count(shape.height, shape.stride);
  shape.x_classes = class_count(shape.width, shape.stride);
  const int extent = ceil_div(shape.height, shape.stride);
  shape.rows = shape.rows_b = std::min(kSlots / shape.columns, extent);
  shape.strips = shape.strips_b = ceil_div(extent, shape.rows);
  return shape;
}

// Calls f(T{}, tf32, stride) with values that the kernels are instantiated for: stride 0 if rows are not whole pieces
// of 16 bytes or not aligned to 16 bytes.
template <class F>
void with_kernel(const Shape& shape, ScalarType dtype, bool tf32, std::initializer_list<const void*> pointers, F f) {
  const bool aligned = std::all_of(pointers.begin(), pointers.end(),
                                   [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
  for_dtype<float, BFloat16, Half>(dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool pieces = aligned && shape.width % (16 / int(sizeof(T))) == 0;
    const auto with_stride = [&](auto precision) {
      if (pieces && shape.stride == 1) {
        f(zero, precision, std::integral_constant<int, 1>());
      } else if (pieces && shape.stride == 2) {
        f(zero, precision, std::integral_constant<int, 2>());
      } else {
        f(zero, precision, std::integral_constant<int, 0>());
      }
    };
    if constexpr (std::is_same_v<T, float>) {
      if (tf32) return with_stride(std::true_type());
    }
    with_stride(std::false_type());
  });
}

dim3 grid_of(int64_t blocks) {
  require(blocks < (int64_t(1) << 31), "a cost volume of too many maps for one launch");
  return dim3(unsigned(blocks));
}

}  // namespace

Tensor cost_volume(const Tensor& a, const Tensor& b, int64_t radius_y, int64_t radius_x, int64_t stride,
                   double negative_slope, bool tf32) {
  const Tensor from = molkernels::contiguous(a), to = molkernels::contiguous(b);
  const int64_t n = a.size(0), height = a.size(2), width = a.size(3);
  Tensor out = empty(a, {n, displacement_channels(radius_y, radius_x), height, width}, a.scalar_type());
  if (n == 0) return out;
  const OnDevice device(a);
  Shape shape = shape_of(a, radius_y, radius_x, stride);
  const void *a_data = from.const_data_ptr(), *b_data = to.const_data_ptr();
  with_kernel(shape, a.scalar_type(), tf32, {a_data, b_data}, [&](auto zero, auto precision, auto stride_constant) {
    using T = decltype(zero);
    constexpr int Stride = decltype(stride_constant)::value;
    constexpr bool Tf32 = decltype(precision)::value;
    const int64_t own = n * shape.y_classes * (Stride == 0 ? shape.x_classes : 1) * shape.strips;
    // Four blocks per multiprocessor hide each other's latency: split b into more strips if there are fewer.
    while (own * shape.strips_b < 4 * device.multiprocessors() && shape.rows_b > 1) {
      shape.rows_b = ceil_div(shape.rows_b, 2);
      shape.strips_b = ceil_div(ceil_div(shape.height, shape.stride), shape.rows_b);
    }
    launch(device, cost_volume_kernel<T, Tf32, Stride>, grid_of(own * shape.strips_b), Tile<T, Stride>::threads,
           ForwardTile<T, Stride>::shared, in<T>(from), in<T>(to), molkernels::out<T>(out), shape, scales_of<T>(shape),
           float(negative_slope));
  });
  return out;
}

std::tuple<Tensor, Tensor> cost_volume_backward(const Tensor& grad_out, const Tensor& a, const Tensor& b,
                                                const Tensor& out, int64_t radius_y, int64_t radius_x, int64_t stride,
                                                double negative_slope, bool tf32) {
  const Tensor grad = molkernels::contiguous(grad_out), from = molkernels::contiguous(a),
               to = molkernels::contiguous(b), sign = molkernels::contiguous(out);
  Tensor grad_a = empty_like(from), grad_b = empty_like(to);
  const int64_t n = a.size(0);
  if (n == 0) return {grad_a, grad_b};
  const OnDevice device(a);
  const Shape shape = shape_of(a, radius_y, radius_x, stride);
  const std::initializer_list<const void*> pointers = {grad.const_data_ptr(), from.const_data_ptr(),
                                                       to.const_data_ptr(), sign.const_data_ptr()};
  with_kernel(shape, a.scalar_type(), tf32, pointers, [&](auto zero, auto precision, auto stride_constant) {
    using T = decltype(zero);
    constexpr int Stride = decltype(stride_constant)::value;
    constexpr bool Tf32 = decltype(precision)::value;
    using Block = BackwardTile<T, Stride>;
    const int64_t strips = 2 * n * shape.y_classes * (Stride == 0 ? shape.x_classes : 1) * shape.strips;
    // With all channels in one block the pairs are gathered once; use fewer channels if there would be too few blocks.
    int tiles = ceil_div(shape.channels, Block::depth), groups = 1;
    while (strips * groups < 4 * device.multiprocessors() && tiles > 1) {
      tiles = ceil_div(tiles, 2);
      groups = ceil_div(ceil_div(shape.channels, Block::depth), tiles);
    }
    launch(device, cost_volume_backward_kernel<T, Tf32, Stride>, grid_of(strips * groups), Block::threads,
           Block::shared, in<T>(grad), in<T>(from), in<T>(to), in<T>(sign), molkernels::out<T>(grad_a),
           molkernels::out<T>(grad_b), shape, tiles, groups, scales_of<T>(shape), float(negative_slope));
  });
  return {grad_a, grad_b};
}

}  // namespace cuda
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cuda, MK_DISPATCH_KEY, m) {
  m.impl("cost_volume", TORCH_BOX(&molkernels::cuda::cost_volume));
  m.impl("cost_volume_backward", TORCH_BOX(&molkernels::cuda::cost_volume_backward));
}

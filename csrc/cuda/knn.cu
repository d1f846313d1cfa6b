// The cosine k-nearest-neighbour graph, exact, with the similarities on the chip.
//
// s[m, q] = ⟨x_m, x_q⟩ / (‖x_m‖ ‖x_q‖) for the M nodes x (M, D) of each map; idx[m] = m, then the k − 1 best q ≠ m by
// s in double, rounded and ordered as in common/neighbours.h.
//
// A block compares kRows nodes of a map with all M in tiles of kSlots, and streams their components once through
// shared memory. Tensor cores compute a fast similarity f with |f − s| ≤ bound (`similarity_bound` derives it), the
// tile of f stays in shared memory, and each warp then processes a row:
//   - the k − 1 best of the row cannot have f below the (k − 1)-th best f − 2·bound: all others are dropped;
//   - f alone orders two candidates more than 2·bound apart; closer ones are compared in float, whose bound is far
//     smaller (`refined_bound`), and only what that cannot order in double. There may be any number of those: a
//     constant map is slow, never wrong.
//
// The fast products: 16-bit nodes are used as they are (products of 16-bit floats are exact in float). A float is split
// into two bfloat16, x = h + l + r with |r| ≤ 2⁻¹⁶ |x|, and h h' + h l' + l h' is summed: 20 times as accurate as TF32,
// for three products at twice its rate.
//
// Work: 2·M²·D FLOP per map (8.4 MFLOP at 128×256, 16.8 at 256×128; times 3 in float32). Bytes: each of the ⌈M/kRows⌉
// blocks of a map reads it once, all but the first from L2; M·k indices are written.

#include <cfloat>

#include "../common/neighbours.h"
#include "launch.cuh"
#include "ops.h"
#include "ptx.cuh"

namespace molkernels {
namespace cuda {
namespace {

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890)
constexpr bool kConsumerChip = true;
#else
constexpr bool kConsumerChip = false;
#endif
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMostNeighbours = 16;
constexpr unsigned kWarp = 0xffffffffu;
constexpr float kInfinity = __builtin_huge_valf();
// Squared norms outside this range are not computed in float: sums may overflow or lose all digits.
constexpr float kLeastSquare = 0x1p-80f, kGreatestSquare = 0x1p80f;

template <class T>
struct Graph {
  const T* x;
  int64_t map_stride, pitch;  // elements from map to map, and from node to node (transposed: component to component)
  int nodes, size, k, row_blocks;
  float fast, refined;  // bounds on the errors of the similarities by tensor cores, and in float
  bool aligned;         // 16-byte pieces of x never cross an edge
  int32_t* idx;
};

// The tile of a block. A chunk of kDepth components of kSlots nodes is staged as 16-bit planes (two for a float), node
// after node, or transposed component after component; eight extra elements per row avoid bank conflicts of the matrix
// loads. Slots 0 … kRows − 1 hold the block's own nodes, the others the remaining ones, tile by tile.
template <class T_, bool kTransposed_, int kRows_, int kSlots_>
struct Tile {
  using T = T_;
  static constexpr bool kTransposed = kTransposed_;
  static constexpr int kRows = kRows_, kSlots = kSlots_, kOthers = kSlots - kRows;
  static constexpr bool kSplit = std::is_same_v<T, float>;
  static constexpr int kPlanes = kSplit ? 2 : 1;
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDepth = 4 * kVector;
  static constexpr int kPitch = (kTransposed ? kSlots : kDepth) + 8;
  static constexpr int kPlane = (kTransposed ? kDepth : kSlots) * kPitch;
  static constexpr int kChunk = kPlanes * kPlane;

  static constexpr int kAcross = (kTransposed ? kSlots : kDepth) / kVector;  // 16-byte pieces in a staged row
  static constexpr int kPieces = 4 * kSlots / kThreads;                      // … that a thread stages
  static constexpr int kGroups = kThreads / kAcross;  // threads that add to a node's norm, if transposed
  static constexpr int kSquares = kTransposed ? kVector : kPieces;

  static constexpr int kWarpRows = kRows < 32 ? kRows : 32, kWarpsDown = kRows / kWarpRows;
  static constexpr int kWarpSlots = kSlots * kWarpsDown / kWarps;
  static constexpr int kRowTiles = kWarpRows / 16, kSlotTiles = kWarpSlots / 8;

  // Blocks per multiprocessor, which limits the registers. Transposed 16-bit nodes spill with three on sm_86 and sm_89.
  static constexpr int kResident = kSlots == 128 && !(kConsumerChip && kTransposed && !kSplit) ? 3 : 2;

  static constexpr int kSimilarityPitch = kSlots + 8;
  static constexpr int kStageBytes = 2 * kChunk * 2, kSimilarityBytes = kRows * kSimilarityPitch * 4;
  static constexpr int kTileBytes = kStageBytes > kSimilarityBytes ? kStageBytes : kSimilarityBytes;
  static constexpr int kListBytes = kRows * (kMostNeighbours * (8 + 4) + 8);  // only if there is more than one tile
};

// One block's place in the graph, and its shared memory. `similarities` and `partial` replace the stage.
template <class S>
struct Block {
  using T = typename S::T;
  const T* map;
  int row0, tile;
  uint16_t* stage;
  float *similarities, *partial, *inverse;
  int64_t* ranks;
  float* values;
  uint32_t *exact, *refined;  // a bit per neighbour
};

template <class S>
MK_DEVICE Block<S> this_block(const Graph<typename S::T>& graph) {
  unsigned char* shared = dynamic_shared();
  Block<S> b;
  b.map = graph.x + (blockIdx.x / graph.row_blocks) * graph.map_stride;
  b.row0 = static_cast<int>(blockIdx.x % graph.row_blocks) * S::kRows;
  b.tile = 0;
  b.stage = reinterpret_cast<uint16_t*>(shared);
  b.similarities = reinterpret_cast<float*>(shared);
  b.partial = reinterpret_cast<float*>(shared);
  b.inverse = reinterpret_cast<float*>(shared + S::kTileBytes);
  b.ranks = reinterpret_cast<int64_t*>(shared + S::kTileBytes + S::kSlots * 4);
  b.values = reinterpret_cast<float*>(b.ranks + S::kRows * kMostNeighbours);
  b.exact = reinterpret_cast<uint32_t*>(b.values + S::kRows * kMostNeighbours);
  b.refined = b.exact + S::kRows;
  return b;
}

// The node in a slot; an index past the last node if the slot is empty.
template <class S>
MK_DEVICE int node_of(const Block<S>& b, int slot) {
  const int other = b.tile * S::kOthers + slot - S::kRows;
  return slot < S::kRows ? b.row0 + slot : other < b.row0 ? other : other + S::kRows;
}

template <class S>
MK_DEVICE int64_t offset_of(const Graph<typename S::T>& graph, int node, int d) {
  return S::kTransposed ? d * graph.pitch + node : node * graph.pitch + d;
}

template <class S>
MK_DEVICE float component(const Graph<typename S::T>& graph, const Block<S>& b, int node, int d) {
  return static_cast<float>(b.map[offset_of<S>(graph, node, d)]);
}

// -------------------------------------------------------------------------------------------------------------
// Staging

MK_DEVICE uint32_t bits_of(float v) { return __float_as_uint(v); }
MK_DEVICE uint32_t bits_of(BFloat16 v) { return v.x; }
MK_DEVICE uint32_t bits_of(Half v) { return v.x; }

template <class T>
MK_DEVICE float widen(uint32_t bits16) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return __uint_as_float(bits16 << 16);
  } else {
    return static_cast<float>(Half(static_cast<uint16_t>(bits16), Half::from_bits()));
  }
}

// The source of the i-th piece of a thread.
struct Place {
  int node, d;
};

template <class S>
MK_DEVICE Place place_of(const Block<S>& b, int chunk, int i) {
  const int piece = threadIdx.x + i * kThreads;
  const int along = piece / S::kAcross, across = piece % S::kAcross * S::kVector;
  return {node_of<S>(b, S::kTransposed ? across : along), chunk * S::kDepth + (S::kTransposed ? along : across)};
}

// Components of a node or, transposed, the component of several nodes, one by one; zeros outside.
template <class S>
MK_DEVICE uint4 gather_piece(const Graph<typename S::T>& graph, const Block<S>& b, Place place) {
  const int inside = S::kTransposed ? graph.nodes - place.node : graph.size - place.d;
  const bool somewhere = S::kTransposed ? place.d < graph.size : place.node < graph.nodes;
  const auto* from = b.map + offset_of<S>(graph, place.node, place.d);
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < S::kVector; ++e) {
    if (somewhere && e < inside) words[e * 4 / S::kVector] |= bits_of(from[e]) << (e * 128 / S::kVector % 32);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

template <class S>
MK_DEVICE void fetch_chunk(uint4 (&pieces)[S::kPieces], const Graph<typename S::T>& graph, const Block<S>& b,
                           int chunk) {
  if (graph.aligned) {
#pragma unroll
    for (int i = 0; i < S::kPieces; ++i) {
      const Place place = place_of<S>(b, chunk, i);
      const auto* from = b.map + offset_of<S>(graph, place.node, place.d);
      const bool inside = place.node < graph.nodes && place.d < graph.size;
      pieces[i] = inside ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
    }
  } else {
    // The slow path stays small: a loop, which may not index registers.
#pragma unroll 1
    for (int i = 0; i < S::kPieces; ++i) {
      const uint4 piece = gather_piece<S>(graph, b, place_of<S>(b, chunk, i));
#pragma unroll
      for (int j = 0; j < S::kPieces; ++j) pieces[j] = i == j ? piece : pieces[j];
    }
  }
}

// Bits of the bfloat16 nearest to a float, in the upper half; the lower half is noise.
MK_DEVICE uint32_t nearest_bf16(float v) { return __float_as_uint(v) + 0x8000u; }
MK_DEVICE float upper_half(uint32_t bits) { return __uint_as_float(bits & 0xffff0000u); }
MK_DEVICE uint32_t pack_upper(uint32_t low, uint32_t high) { return (low >> 16) | (high & 0xffff0000u); }

// Writes the planes of one piece to `to`, and its elements as floats to values[e].
template <class S>
MK_DEVICE void stage_piece(uint16_t* to, uint4 piece, float (&values)[S::kVector]) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
  if constexpr (S::kSplit) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      values[e] = __uint_as_float(words[e]);
      high[e] = nearest_bf16(values[e]);
      low[e] = nearest_bf16(values[e] - upper_half(high[e]));
    }
    *reinterpret_cast<uint2*>(to) = make_uint2(pack_upper(high[0], high[1]), pack_upper(high[2], high[3]));
    *reinterpret_cast<uint2*>(to + S::kPlane) = make_uint2(pack_upper(low[0], low[1]), pack_upper(low[2], low[3]));
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = widen<typename S::T>(words[e / 2] >> (e % 2 * 16) & 0xffffu);
    *reinterpret_cast<uint4*>(to) = piece;
  }
}

template <class S>
MK_DEVICE void stage_chunk(uint16_t* stage, const uint4 (&pieces)[S::kPieces], float (&squares)[S::kSquares]) {
#pragma unroll
  for (int i = 0; i < S::kPieces; ++i) {
    const int piece = threadIdx.x + i * kThreads;
    float values[S::kVector];
    stage_piece<S>(stage + piece / S::kAcross * S::kPitch + piece % S::kAcross * S::kVector, pieces[i], values);
#pragma unroll
    for (int e = 0; e < S::kVector; ++e) {
      float& sum = squares[S::kTransposed ? e : i];
      sum = fmaf(values[e], values[e], sum);
    }
  }
}

// -------------------------------------------------------------------------------------------------------------
// Fast similarities

template <class T>
MK_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, Half>) {
    mma_f16(c, a, b);
  } else {
    mma_bf16(c, a, b);
  }
}

// The 16×16 block of a plane at (node, d) as the left factor, or as two right factors side by side.
template <class S, bool kLeft>
MK_DEVICE void load_factor(uint32_t (&r)[4], const uint16_t* plane, int node, int d) {
  const int lane = threadIdx.x % 32, line = lane % 8, first = lane / 8 % 2 * 8, second = lane / 16 * 8;
  node += kLeft ? first : second;
  d += kLeft ? second : first;
  if constexpr (S::kTransposed) {
    load_matrices_transposed(r, plane + (d + line) * S::kPitch + node);
  } else {
    load_matrices(r, plane + (node + line) * S::kPitch + d);
  }
}

// sums += x_row · x_slot over a chunk, for the warp's kWarpRows × kWarpSlots: all products of planes but low with low.
template <class S>
MK_DEVICE void multiply_chunk(float (&sums)[S::kRowTiles][S::kSlotTiles][4], const uint16_t* stage, int row, int slot) {
#pragma unroll
  for (int d = 0; d < S::kDepth; d += 16) {
#pragma unroll
    for (int p = 0; p < S::kPlanes; ++p) {
      uint32_t left[S::kRowTiles][4];
#pragma unroll
      for (int i = 0; i < S::kRowTiles; ++i) load_factor<S, true>(left[i], stage + p * S::kPlane, row + 16 * i, d);
#pragma unroll
      for (int j = 0; j < S::kSlotTiles; j += 2) {
#pragma unroll
        for (int q = 0; q < S::kPlanes - p; ++q) {
          uint32_t right[4];
          load_factor<S, false>(right, stage + q * S::kPlane, slot + 8 * j, d);
#pragma unroll
          for (int i = 0; i < S::kRowTiles; ++i) {
            multiply_add<typename S::T>(sums[i][j], left[i], {right[0], right[1]});
            multiply_add<typename S::T>(sums[i][j + 1], left[i], {right[2], right[3]});
          }
        }
      }
    }
  }
}

// The squared norm of the node in slot threadIdx.x, from the squares that all threads have summed.
template <class S>
MK_DEVICE float gather_square(const Block<S>& b, float (&squares)[S::kSquares]) {
  if constexpr (S::kTransposed) {
    const int slot = threadIdx.x % S::kAcross * S::kVector;
#pragma unroll
    for (int e = 0; e < S::kVector; ++e) b.partial[threadIdx.x / S::kAcross * S::kSlots + slot + e] = squares[e];
  } else {
#pragma unroll
    for (int i = 0; i < S::kPieces; ++i) {
      squares[i] += __shfl_xor_sync(kWarp, squares[i], 1);
      squares[i] += __shfl_xor_sync(kWarp, squares[i], 2);
      if (threadIdx.x % 4 == 0) b.partial[threadIdx.x / 4 + i * (kThreads / 4)] = squares[i];
    }
  }
  __syncthreads();
  float sum = 0;
  if (threadIdx.x < S::kSlots) {
    for (int group = 0; group < (S::kTransposed ? S::kGroups : 1); ++group) {
      sum += b.partial[group * S::kSlots + threadIdx.x];
    }
  }
  return sum;
}

// The replacement for 1/‖x‖ if the fast similarities of a node are meaningless: 0 for a node of zeros, NaN for one with
// a NaN or an infinity, both of which determine the similarity; infinity for one outside the range of float.
template <class S>
MK_DEVICE float odd_inverse(const Graph<typename S::T>& graph, const Block<S>& b, int node) {
  bool finite = true, zero = true;
#pragma unroll 1
  for (int d = threadIdx.x % 32; d < graph.size; d += 32) {
    const float v = component<S>(graph, b, node, d);
    finite = finite && fabsf(v) <= FLT_MAX;
    zero = zero && v == 0.0f;
  }
  if (!__all_sync(kWarp, finite)) return __uint_as_float(0x7fffffffu);
  return __all_sync(kWarp, zero) ? 0.0f : kInfinity;
}

// inverse[slot] = 1/‖x‖ of the nodes of a tile; see `odd_inverse`.
template <class S>
MK_DEVICE void invert_norms(const Graph<typename S::T>& graph, const Block<S>& b, float (&squares)[S::kSquares]) {
  const float square = gather_square<S>(b, squares);
  const int node = node_of<S>(b, threadIdx.x);
  float inverse = rsqrtf(square);
  const bool inside = threadIdx.x < S::kSlots && node < graph.nodes;
  unsigned odd = __ballot_sync(kWarp, inside && !(square >= kLeastSquare && square <= kGreatestSquare));
  for (; odd != 0; odd &= odd - 1) {
    const int lane = __ffs(odd) - 1;
    const float found = odd_inverse<S>(graph, b, __shfl_sync(kWarp, node, lane));
    if (static_cast<int>(threadIdx.x % 32) == lane) inverse = found;
  }
  if (threadIdx.x < S::kSlots) b.inverse[threadIdx.x] = inverse;
  __syncthreads();
}

// A similarity that is known without the product, or infinity: to be computed in double.
MK_DEVICE float odd_similarity(float inverse1, float inverse2) {
  if (inverse1 != inverse1 || inverse2 != inverse2) return -2.0f;
  return inverse1 == 0.0f || inverse2 == 0.0f ? 0.0f : kInfinity;
}

// similarities[row][slot], −∞ if a slot is not a candidate: the node itself, empty, or seen in an earlier tile.
template <class S>
MK_DEVICE void write_similarities(const Graph<typename S::T>& graph, const Block<S>& b,
                                  const float (&sums)[S::kRowTiles][S::kSlotTiles][4], int row, int slot) {
  row += threadIdx.x % 32 / 4;
  slot += threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < S::kSlotTiles; ++j) {
    const int column = slot + 8 * j;
    const float inverse[2] = {b.inverse[column], b.inverse[column + 1]};
    const bool seen = b.tile > 0 && column < S::kRows;
    const bool inside[2] = {!seen && node_of<S>(b, column) < graph.nodes,
                            !seen && node_of<S>(b, column + 1) < graph.nodes};
#pragma unroll
    for (int i = 0; i < 2 * S::kRowTiles; ++i) {
      const int line = row + 8 * i;
      float f[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        f[e] = sums[i / 2][j][i % 2 * 2 + e] * b.inverse[line] * inverse[e];
        if (!(fabsf(f[e]) < 2.0f)) f[e] = odd_similarity(b.inverse[line], inverse[e]);
        if (!inside[e] || column + e == line) f[e] = -kInfinity;
      }
      *reinterpret_cast<float2*>(b.similarities + line * S::kSimilarityPitch + column) = make_float2(f[0], f[1]);
    }
  }
}

// The fast similarities of a tile, from the nodes in global memory to shared memory.
template <class S>
MK_DEVICE void compute_tile(const Graph<typename S::T>& graph, const Block<S>& b) {
  const int warp = threadIdx.x / 32;
  const int row = warp % S::kWarpsDown * S::kWarpRows, slot = warp / S::kWarpsDown * S::kWarpSlots;
  const bool wanted = node_of<S>(b, row) < graph.nodes && node_of<S>(b, slot) < graph.nodes;
  const int chunks = ceil_div(graph.size, S::kDepth);
  float sums[S::kRowTiles][S::kSlotTiles][4] = {};
  float squares[S::kSquares] = {};
  uint4 pieces[S::kPieces] = {};
  for (int chunk = 0; chunk <= chunks; ++chunk) {
    if (chunk < chunks) fetch_chunk<S>(pieces, graph, b, chunk);
    if (chunk > 0 && wanted) multiply_chunk<S>(sums, b.stage + (chunk - 1) % 2 * S::kChunk, row, slot);
    if (chunk < chunks) stage_chunk<S>(b.stage + chunk % 2 * S::kChunk, pieces, squares);
    __syncthreads();
  }
  invert_norms<S>(graph, b, squares);
  write_similarities<S>(graph, b, sums, row, slot);
  __syncthreads();
}

// -------------------------------------------------------------------------------------------------------------
// Selection: one warp per row

// Lane i holds the i-th best so far; `value` is within `error` of its similarity: graph.fast, graph.refined or 0.
struct Best {
  int64_t rank;
  float value, error;
};

// What separates values whose errors are zero: the rounding of a similarity to float, and to the steps of a rank.
constexpr float kSlack = 0x1p-21f;

template <class W>
MK_DEVICE W warp_sum(W v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kWarp, v, step);
  return v;
}

MK_DEVICE float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kWarp, v, step));
  return v;
}

// The similarity of two nodes, computed in double (exact) or float.
template <class W, class S>
MK_DEVICE W similarity_in(const Graph<typename S::T>& graph, const Block<S>& b, int node, int other) {
  W product = 0, square1 = 0, square2 = 0;
#pragma unroll 2
  for (int d = threadIdx.x % 32; d < graph.size; d += 32) {
    const W v1 = component<S>(graph, b, node, d), v2 = component<S>(graph, b, other, d);
    product = fma(v1, v2, product);
    square1 = fma(v1, v1, square1);
    square2 = fma(v2, v2, square2);
  }
  constexpr W least = kSmallestNorm;
  const W norm1 = sqrt(warp_sum(square1)), norm2 = sqrt(warp_sum(square2));
  return warp_sum(product) / ((norm1 < least ? least : norm1) * (norm2 < least ? least : norm2));
}

// A node that may be a neighbour, with what is known of its similarity.
struct Known {
  double similarity;
  float error;
};

// The next better knowledge of a similarity: in float if only the fast one is known, else in double. The float one is
// kept inside the interval known before: what was in order stays in order.
template <class S>
MK_DEVICE Known refine(const Graph<typename S::T>& graph, const Block<S>& b, int node, int other, float value,
                       float error) {
  if (error != graph.fast || value == kInfinity) return {similarity_in<double, S>(graph, b, node, other), 0.0f};
  const float found = similarity_in<float, S>(graph, b, node, other);
  return {fminf(fmaxf(found, value - error), value + error), graph.refined};
}

// The count-th greatest of the distinct similarities of a row in this tile, not counting those that are still unknown;
// −∞ if there are fewer.
template <class S>
MK_DEVICE float fast_threshold(const float* similarities, int count) {
  float values[S::kSlots / 32];
#pragma unroll
  for (int j = 0; j < S::kSlots / 32; ++j) values[j] = similarities[32 * j + threadIdx.x % 32];
  float threshold = kInfinity;
  for (int i = 0; i < count && threshold > -kInfinity; ++i) {
    float next = -kInfinity;
#pragma unroll
    for (int j = 0; j < S::kSlots / 32; ++j) next = fmaxf(next, values[j] < threshold ? values[j] : -kInfinity);
    threshold = warp_max(next);
  }
  return threshold;
}

MK_DEVICE void insert(Best& best, int64_t rank, float value, float error, int count) {
  const int lane = threadIdx.x % 32;
  const int place = __popc(__ballot_sync(kWarp, best.rank > rank));
  const int64_t rank_before = __shfl_up_sync(kWarp, best.rank, 1);
  const float value_before = __shfl_up_sync(kWarp, best.value, 1);
  const float error_before = __shfl_up_sync(kWarp, best.error, 1);
  if (lane >= count || lane < place) return;
  best.rank = lane == place ? rank : rank_before;
  best.value = lane == place ? value : value_before;
  best.error = lane == place ? error : error_before;
}

// Consider a candidate with the fast similarity f: refine the nodes whose order is not certain, one node per turn,
// first the candidate and then those of the best that are close to it. Evicted nodes do not matter: enough better ones
// are known.
template <class S>
MK_DEVICE void consider(Best& best, const Graph<typename S::T>& graph, const Block<S>& b, int row, int slot, float f,
                        int count) {
  const int node = b.row0 + row, other = node_of<S>(b, slot);
  const float known = b.inverse[row] * b.inverse[slot];
  Known mine{f, known == 0.0f || known != known ? 0.0f : graph.fast};
  for (;;) {
    const float value = static_cast<float>(mine.similarity);
    const unsigned near = __ballot_sync(kWarp, fabsf(best.value - value) <= best.error + mine.error + kSlack);
    const unsigned vague = near & __ballot_sync(kWarp, best.error > 0.0f);
    const bool itself = mine.error > 0.0f && (near != 0 || value == kInfinity);
    if (!itself && vague == 0) break;
    const int lane = __ffs(vague | 1u << 31) - 1;
    const int held = neighbour_index(__shfl_sync(kWarp, best.rank, lane));
    const float of_held = __shfl_sync(kWarp, best.value, lane), error = __shfl_sync(kWarp, best.error, lane);
    const Known found =
        refine<S>(graph, b, node, itself ? other : held, itself ? value : of_held, itself ? mine.error : error);
    if (itself) {
      mine = found;
    } else if (static_cast<int>(threadIdx.x % 32) == lane) {
      best = {neighbour_rank(found.similarity, held), static_cast<float>(found.similarity), found.error};
    }
  }
  insert(best, neighbour_rank(mine.similarity, other), static_cast<float>(mine.similarity), mine.error, count);
}

// Add a row's candidates in this tile to its list.
template <class S>
MK_DEVICE void select(Best& best, const Graph<typename S::T>& graph, const Block<S>& b, int row, int count) {
  const float* similarities = b.similarities + row * S::kSimilarityPitch;
  const float last = __shfl_sync(kWarp, best.value, count - 1);
  const float least = fmaxf(fast_threshold<S>(similarities, count), last) - (2 * graph.fast + kSlack);
#pragma unroll 1
  for (int base = 0; base < S::kSlots; base += 32) {
    const float f = similarities[base + threadIdx.x % 32];
    unsigned candidates = __ballot_sync(kWarp, f >= least && f > -kInfinity);
    for (; candidates != 0; candidates &= candidates - 1) {
      const int lane = __ffs(candidates) - 1;
      consider<S>(best, graph, b, row, base + lane, __shfl_sync(kWarp, f, lane), count);
    }
  }
}

// The list of a row between two tiles.
template <class S>
MK_DEVICE Best restore(const Graph<typename S::T>& graph, const Block<S>& b, int row) {
  const int lane = threadIdx.x % 32;
  if (b.tile == 0 || lane >= kMostNeighbours) return {INT64_MIN, -kInfinity, 0.0f};
  const int at = row * kMostNeighbours + lane;
  const bool exact = b.exact[row] >> lane & 1u, refined = b.refined[row] >> lane & 1u;
  return {b.ranks[at], b.values[at], exact ? 0.0f : refined ? graph.refined : graph.fast};
}

template <class S>
MK_DEVICE void keep(const Graph<typename S::T>& graph, const Block<S>& b, int row, const Best& best) {
  const int lane = threadIdx.x % 32;
  const unsigned exact = __ballot_sync(kWarp, best.error == 0.0f);
  const unsigned refined = __ballot_sync(kWarp, best.error == graph.refined);
  if (lane == 0) b.exact[row] = exact, b.refined[row] = refined;
  if (lane >= kMostNeighbours) return;
  b.ranks[row * kMostNeighbours + lane] = best.rank;
  b.values[row * kMostNeighbours + lane] = best.value;
}

template <class S>
MK_DEVICE void write_neighbours(const Graph<typename S::T>& graph, int64_t row, int node, const Best& best) {
  const int lane = threadIdx.x % 32;
  const int64_t rank = __shfl_up_sync(kWarp, best.rank, 1);
  if (lane < graph.k) graph.idx[row * graph.k + lane] = lane == 0 ? node : neighbour_index(rank);
}

template <class S>
__global__ void __launch_bounds__(kThreads, S::kResident) knn_kernel(Graph<typename S::T> graph) {
  Block<S> b = this_block<S>(graph);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x / graph.row_blocks) * graph.nodes + b.row0;
  const int rows = min(S::kRows, graph.nodes - b.row0);
  const int count = graph.k - 1;
  const int tiles = max(1, ceil_div(graph.nodes - rows, S::kOthers));
  for (; b.tile < tiles; ++b.tile) {
    if (count > 0) compute_tile<S>(graph, b);
    for (int row = threadIdx.x / 32; row < rows; row += kWarps) {
      Best best = restore<S>(graph, b, row);
      if (count > 0) select<S>(best, graph, b, row, count);
      if (b.tile + 1 < tiles) {
        keep<S>(graph, b, row, best);
      } else {
        write_neighbours<S>(graph, row0 + row, b.row0 + row, best);
      }
    }
    __syncthreads();
  }
}

// -------------------------------------------------------------------------------------------------------------
// Host

// A bound on |f − s|, f as above, with ε = 2⁻²³ and Σ_d |x_d x'_d| ≤ ‖x‖ ‖x'‖ throughout:
//   - Splitting: h and l have an error of at most 2⁻⁸ of their values (a bfloat16 has 8 bits, rounded to nearest), so
//     the omitted products, l l' + r x' + x r' + …, are at most 3.01·2⁻¹⁶ ‖x‖ ‖x'‖.
//   - Summing: a tensor core aligns the products of a 16-deep step and the running sum to the greatest of them and
//     truncates them below its 24 bits; two halves of 8 products lose at most 2·(8 + 2) ε of the greatest, which is at
//     most ‖x‖ ‖x'‖. A step is one product, or three for floats. (Sums that begin anew at every chunk would lose far
//     less, but their registers spill.)
//   - Norms: a thread sums V squares of each of n chunks (4, if transposed) and then up to 16 such sums are added; m
//     additions in float have an error of at most m/2·ε, its root half of that, for two nodes; rsqrtf 2 units in the
//     last place, the two products half a unit each.
//   - Second-order terms are below 2 % of this; underflow in the trusted range of norms is below 2⁻³⁰.
double similarity_bound(int size, bool split) {
  const int vector = split ? 4 : 8, chunks = ceil_div(size, 4 * vector);
  const double steps = 2 * ceil_div(size, 32) * (split ? 3 : 1), splitting = split ? 3.01 * 0x1p-16 : 0;
  return 1.02 * (splitting + (20 * steps + 0.5 * (vector * chunks + 16) + 5) * 0x1p-23) + 0x1p-30;
}

// A bound on the error of `similarity_in<float>`: each of the three sums has ⌈D/32⌉ + 5 additions, of which an error of
// half a unit each; those of two squares count half. Then two roots, a product and a quotient.
double refined_bound(int size) { return 1.02 * (ceil_div(size, 32) + 5 + 2) * 0x1p-23 + 0x1p-30; }

template <class S>
void launch_tile(const OnDevice& device, Graph<typename S::T> graph, int64_t maps) {
  graph.row_blocks = ceil_div(graph.nodes, S::kRows);
  const bool one_tile = graph.nodes <= S::kSlots;
  const int shared = S::kTileBytes + S::kSlots * 4 + (one_tile ? 0 : S::kListBytes);
  require(shared <= device.shared_memory(), "knn: the device grants too little shared memory");
  require(maps <= INT32_MAX / graph.row_blocks, "knn: too many maps for one launch");
  launch(device, knn_kernel<S>, dim3(static_cast<unsigned>(maps * graph.row_blocks)), kThreads, shared, graph);
}

// With few maps, blocks have few rows, so that every multiprocessor gets one.
template <class T, bool kTransposed>
void launch_graph(const OnDevice& device, const Graph<T>& graph, int64_t maps) {
  if (maps * ceil_div(graph.nodes, 64) < device.multiprocessors()) {
    launch_tile<Tile<T, kTransposed, 16, 256>>(device, graph, maps);
  } else if (graph.nodes <= 128) {
    launch_tile<Tile<T, kTransposed, 64, 128>>(device, graph, maps);
  } else {
    launch_tile<Tile<T, kTransposed, 64, 256>>(device, graph, maps);
  }
}

// Which dimension of nodes (N, M, D) is contiguous.
bool components_contiguous(const Tensor& nodes) { return nodes.size(2) == 1 || nodes.stride(2) == 1; }
bool nodes_contiguous(const Tensor& nodes) { return nodes.size(1) == 1 || nodes.stride(1) == 1; }

template <class T>
Graph<T> make_graph(const Tensor& nodes, const Tensor& idx, bool transposed) {
  constexpr int64_t vector = 16 / sizeof(T);
  Graph<T> graph{};
  graph.x = in<T>(nodes);
  graph.idx = out<int32_t>(idx);
  graph.map_stride = nodes.stride(0);
  graph.pitch = nodes.stride(transposed ? 2 : 1);
  graph.nodes = static_cast<int>(nodes.size(1));
  graph.size = static_cast<int>(nodes.size(2));
  graph.k = static_cast<int>(idx.size(2));
  graph.fast = static_cast<float>(similarity_bound(graph.size, std::is_same_v<T, float>));
  graph.refined = static_cast<float>(refined_bound(graph.size));
  graph.aligned = reinterpret_cast<uintptr_t>(graph.x) % 16 == 0 && graph.map_stride % vector == 0 &&
                  graph.pitch % vector == 0 && (transposed ? graph.nodes : graph.size) % vector == 0;
  return graph;
}

}  // namespace

Tensor knn(const Tensor& nodes, int64_t k, bool) {
  const int64_t maps = nodes.size(0), count = nodes.size(1);
  require(count <= 65535 && k >= 1 && k <= kMostNeighbours && k <= count, "knn: k is out of range");
  Tensor idx = empty(nodes, {maps, count, k}, ScalarType::Int);
  if (maps == 0) return idx;
  const bool transposed = !components_contiguous(nodes) && nodes_contiguous(nodes);
  const Tensor x = transposed || components_contiguous(nodes) ? nodes : molkernels::contiguous(nodes);
  const OnDevice device(x);
  for_dtype<float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Graph<T> graph = make_graph<T>(x, idx, transposed);
    if (transposed) {
      launch_graph<T, true>(device, graph, maps);
    } else {
      launch_graph<T, false>(device, graph, maps);
    }
  });
  return idx;
}

}  // namespace cuda
}  // namespace molkernels

STABLE_TORCH_LIBRARY_IMPL(molkernels_cuda, MK_DISPATCH_KEY, m) { m.impl("knn", TORCH_BOX(&molkernels::cuda::knn)); }

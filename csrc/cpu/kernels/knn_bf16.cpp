// The cosine k-nearest-neighbour graph of bfloat16 nodes: the search of knn.cpp on products of bfloat16 operands, which
// are exact; only their sums round.
//
// FLOPs: 2 · count² · length per map. Bytes: x once, the graph once.
#include "gemm_bf16.h"
#include "knn.h"
#include "knn_rank.h"

#if defined(MK_BF16_PRODUCTS)

namespace molkernels {
namespace MK_ISA {
namespace {

int64_t aligned(int64_t bytes) { return ceil_div<int64_t>(bytes, 64) * 64; }

// One map as both operands of the product with itself.
struct Map16 {
  BFloat16 *rows, *columns;  // panels of A and of B
  float* inverse;            // (padded count): 1 / ‖x‖; 0 for a node of zeros and past the last node
  double* square;            // (count): ‖x‖² in double, if it is needed
  float* similar;            // (32 rows, padded count), a block after another
  float* row;                // (padded count)
};

int64_t lay_out(unsigned char* memory, int64_t count, int64_t length, Map16& map) {
  int64_t at = 0;
  const auto take = [&](int64_t bytes) {
    unsigned char* piece = memory + at;
    at += aligned(bytes);
    return piece;
  };
  const int64_t size = panels16(count, length), width = padded16(count);
  map.rows = reinterpret_cast<BFloat16*>(take(size * 2));
  map.columns = reinterpret_cast<BFloat16*>(take(size * 2));
  map.inverse = reinterpret_cast<float*>(take(width * 4));
  map.square = reinterpret_cast<double*>(take(count * 8));
  map.similar = reinterpret_cast<float*>(take(width * kBlock16 * 4));
  map.row = reinterpret_cast<float*>(take(width * 4));
  return at;
}

// The rounding of 1 / ‖x‖ for both nodes and of `length` additions, relative to Σ|u v| ≤ 1; and a margin.
float error_bound(int64_t length) { return (2 * float(length) + 16) * 6.1e-8f; }

// Pack the map and measure its nodes. False if a sum of products could overflow or lose bits below the smallest number.
bool read_map(const KnnInput<BFloat16>& a, int64_t n, const Map16& map) {
  const BFloat16* from = a.nodes + n * a.map_stride;
  const int64_t depth = padded16(a.length), width = padded16(a.count);
  for (int64_t m = 0; m < width; m += lanes<float>) store(map.inverse + m, Vec<float>{});
  if (a.component_stride == 1) {
    for (int64_t m = 0; m < a.count; ++m) {
      Vec<float> sum = {};
      for (int64_t d = 0; d < a.length; d += lanes<float>) {
        const Vec<float> v = load_part(from + m * a.node_stride + d, int(a.length - d));
        sum += v * v;
      }
      map.inverse[m] = sum_lanes<float>(sum);
    }
  } else {
    for (int64_t d = 0; d < a.length; ++d) {
      for (int64_t m = 0; m < a.count; m += lanes<float>) {
        const Vec<float> v = load_part(from + d * a.component_stride + m, int(a.count - m));
        store(map.inverse + m, load(map.inverse + m) + v * v);
      }
    }
  }
  constexpr float kLeast = 1.0f / (1ull << 40), kMost = float(1ull << 40);
  for (int64_t m = 0; m < a.count; ++m) {
    if (map.inverse[m] == 0) continue;
    if (!(kLeast <= map.inverse[m] && map.inverse[m] <= kMost)) return false;
    map.inverse[m] = 1 / __builtin_sqrtf(map.inverse[m]);
  }
  for (int64_t m = 0; m < a.count; m += kBlock16) {
    BFloat16 *rows = map.rows + m * depth, *columns = map.columns + m * depth;
    if (a.component_stride == 1) {
      pack_rows16(from + m * a.node_stride, a.count - m, a.node_stride, a.length, rows);
      pack_columns16(from + m * a.node_stride, a.count - m, a.node_stride, a.length, columns);
    } else {
      pack_pairs16(from + m, a.count - m, a.component_stride, a.length, columns);
      transpose_panel16(columns, depth, rows);
    }
  }
  return true;
}

// Σ x_m · x_q in double: a product of two bfloat16 is exact in float.
double dot(const Map16& map, int64_t m, int64_t q, int64_t depth) {
  const BFloat16* x = map.rows + m / kBlock16 * kBlock16 * depth + m % kBlock16 * kBlock16;
  const BFloat16* y = map.rows + q / kBlock16 * kBlock16 * depth + q % kBlock16 * kBlock16;
  Vec<double> sum[2] = {};
  for (int64_t d = 0; d < depth; d += kBlock16) {
    for (int i = 0; i < kBlock16; i += lanes<float>) {
      const Vec<float> product = load(x + d * kBlock16 + i) * load(y + d * kBlock16 + i);
      HalfFloats halves[2];
      std::memcpy(halves, &product, sizeof product);
      sum[0] += __builtin_convertvector(halves[0], Vec<double>);
      sum[1] += __builtin_convertvector(halves[1], Vec<double>);
    }
  }
  return sum_lanes<double>(sum[0] + sum[1]);
}

double exact_similarity(const Map16& map, int64_t m, int64_t q, int64_t depth) {
  if (map.inverse[m] == 0 || map.inverse[q] == 0) return 0;
  return dot(map, m, q, depth) / (__builtin_sqrt(map.square[m]) * __builtin_sqrt(map.square[q]));
}

}  // namespace

int64_t knn16_scratch(int64_t count, int64_t length) {
  Map16 map;
  return lay_out(nullptr, count, length, map);
}

int64_t knn16_tasks(int64_t count) { return blocks16(count); }

void knn16(const KnnInput<BFloat16>& a, unsigned char* scratch, uint8_t* unfit, int64_t begin, int64_t end) {
  Map16 map;
  lay_out(scratch, a.count, a.length, map);
  take_tiles();
  const int64_t blocks = blocks16(a.count), depth = padded16(a.length), width = padded16(a.count);
  int64_t in_scratch = -1;
  bool fits = false, squared = false;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, first = task % blocks * kBlock16;
    if (n != in_scratch) fits = read_map(a, n, map), squared = false;
    in_scratch = n;
    if (first == 0) unfit[n] = !fits;
    if (!fits) continue;
    for (int64_t q = 0; q < width && a.k > 1; q += kBlock16) {
      multiply16(map.rows + first * depth, map.columns + q * depth, depth, map.similar + q * kBlock16);
    }
    for (int64_t m = first; m < first + kBlock16 && m < a.count; ++m) {
      const Vec<float> inverse = broadcast(map.inverse[m]);
      for (int64_t q = 0; q < width && a.k > 1; q += lanes<float>) {
        const float* block = map.similar + q / kBlock16 * kBlockSize16 + (m - first) * kBlock16 + q % kBlock16;
        store(map.row + q, load(block) * (inverse * load(map.inverse + q)));
      }
      map.row[m] = kNothing;
      for (int64_t q = a.count; q < width; ++q) map.row[q] = kNothing;
      rank_row(map.row, width, m, a.k, error_bound(a.length), a.graph + (n * a.count + m) * a.k, [&](int64_t i) {
        for (int64_t q = 0; q < a.count && !squared; ++q) map.square[q] = dot(map, q, q, depth);
        squared = true;
        return exact_similarity(map, m, i, depth);
      });
    }
  }
  leave_tiles();
}

}  // namespace MK_ISA
}  // namespace molkernels
#endif

// The cosine k-nearest-neighbour graph: a fast search in float, decided in double.
//
//   s[m, q] = ⟨x_m, x_q⟩ / (‖x_m‖ ‖x_q‖)       ranked by neighbour_rank: steps of 2⁻⁴⁰, then the lowest index
//
// Nodes are scaled to length 1 in float and their products computed one block of rows at a time (block × count floats,
// in L1). A float product differs from the exact one by at most `error_bound`; so every node within twice that of the
// k-th best may belong to the k best. Where those nearly tie, they are recomputed in double (`rank_row`).
//
// FLOPs: 2 · count² · length per map, and 2 · length per node recomputed. Bytes: x once, the graph once.
#include "knn.h"

#include "gemm.h"
#include "knn_rank.h"

namespace molkernels {
namespace MK_ISA {
namespace {

constexpr int kPanels = 4;
constexpr int kBlock = kPanels * kRows;

int64_t padded(int64_t count) { return ceil_div<int64_t>(count, kColumns<float>) * kColumns<float>; }
int64_t aligned(int64_t bytes) { return ceil_div<int64_t>(bytes, 64) * 64; }

// One map, laid out for both passes.
template <class W>
struct Map {
  W* nodes;         // (count, length): exact values
  double* inverse;  // (count): 1 / ‖x‖
  float* unit;      // (length, padded(count)): x / ‖x‖, zero past the last node
  float* similar;   // (kBlock, padded(count))
  double* scaled;   // (length): the row's own node, of length 1
};

template <class W>
Map<W> lay_out(unsigned char* scratch, int64_t count, int64_t length) {
  Map<W> map;
  map.nodes = reinterpret_cast<W*>(scratch);
  scratch += aligned(count * length * int64_t(sizeof(W)));
  map.inverse = reinterpret_cast<double*>(scratch);
  scratch += aligned(count * 8);
  map.unit = reinterpret_cast<float*>(scratch);
  // A panel of rows may begin up to kBlock columns before the end.
  scratch += aligned((length * padded(count) + kBlock) * 4);
  map.similar = reinterpret_cast<float*>(scratch);
  scratch += aligned(kBlock * padded(count) * 4);
  map.scaled = reinterpret_cast<double*>(scratch);
  return map;
}

inline Vec<double> load_double(const float* p) {
  return __builtin_convertvector(*reinterpret_cast<const HalfFloats*>(p), Vec<double>);
}
inline Vec<double> load_double(const double* p) { return load(p); }

// Σ a[i] · b[i] in double, always in the same order.
template <class A, class B>
double dot(const A* a, const B* b, int64_t length) {
  Vec<double> sum0 = {}, sum1 = {};
  int64_t i = 0;
  for (; i + 2 * lanes<double> <= length; i += 2 * lanes<double>) {
    sum0 += load_double(a + i) * load_double(b + i);
    sum1 += load_double(a + i + lanes<double>) * load_double(b + i + lanes<double>);
  }
  double sum = sum_lanes<double>(sum0 + sum1);
  for (; i < length; ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

// to[i · columns + j] ← value(from[j · stride + i], i, j), strips of whole cache lines on both sides.
template <class T, class V, class Value>
void transpose(const T* from, int64_t stride, int64_t rows, int64_t columns, V* to, int64_t to_stride, Value value) {
  constexpr int64_t kStrip = 16;
  for (int64_t first = 0; first < columns; first += kStrip) {
    const int64_t last = first + kStrip < columns ? first + kStrip : columns;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = first; j < last; ++j) to[i * to_stride + j] = value(from[j * stride + i], i, j);
    }
  }
}

template <class W>
void measure(const Map<W>& map, int64_t count, int64_t length) {
  for (int64_t m = 0; m < count; ++m) {
    const W* node = map.nodes + m * length;
    const double norm = __builtin_sqrt(dot(node, node, length));
    map.inverse[m] = 1.0 / (norm < kSmallestNorm ? kSmallestNorm : norm);
  }
}

// One of the two layouts is that of the input, the other is its transpose.
template <class T>
void read_map(const KnnInput<T>& a, int64_t n, const Map<wide<T>>& map) {
  const T* from = a.nodes + n * a.map_stride;
  const int64_t width = padded(a.count);
  const auto unit = [&](double value, int64_t m) { return float(value * map.inverse[m]); };
  if (a.component_stride == 1) {
    for (int64_t m = 0; m < a.count; ++m) {
      for (int64_t d = 0; d < a.length; ++d) map.nodes[m * a.length + d] = to_wide(from[m * a.node_stride + d]);
    }
    measure(map, a.count, a.length);
    transpose(map.nodes, a.length, a.length, a.count, map.unit, width,
              [&](wide<T> value, int64_t, int64_t m) { return unit(value, m); });
  } else {
    transpose(from, a.component_stride, a.count, a.length, map.nodes, a.length,
              [](T value, int64_t, int64_t) { return to_wide(value); });
    measure(map, a.count, a.length);
    for (int64_t d = 0; d < a.length; ++d) {
      const T* row = from + d * a.component_stride;
      for (int64_t m = 0; m < a.count; ++m) map.unit[d * width + m] = unit(to_wide(row[m]), m);
    }
  }
  for (int64_t d = 0; d < a.length; ++d) {
    for (int64_t m = a.count; m < width; ++m) map.unit[d * width + m] = 0;
  }
  for (int64_t i = 0; i < kBlock; ++i) map.unit[a.length * width + i] = 0;
}

// A float dot product of two float vectors, each rounded from one of length at most 1: 2⁻²⁴ for the rounding of each
// factor and for each of `length` additions, relative to Σ|u v| ≤ 1; and a margin.
float error_bound(int64_t length) { return (float(length) + 8) * 6.1e-8f; }

// Prepare the similarities of one row for ranking: no NaN; the node itself and lanes past the last node below all
// others.
void finish_row(float* row, int64_t m, int64_t count, int64_t width) {
  for (int64_t q = 0; q < width; q += lanes<float>) {
    const Vec<float> v = load(row + q);
    store(row + q, v == v ? v : broadcast(kUnordered));
  }
  row[m] = kNothing;
  for (int64_t q = count; q < width; ++q) row[q] = kNothing;
}

// Rows [first, first + kBlock) of the similarities.
template <class W>
void multiply_block(const Map<W>& map, int64_t first, int64_t count, int64_t length) {
  const int64_t width = padded(count);
  for (int64_t q = 0; q < width; q += kColumns<float>) {
    for (int panel = 0; panel < kPanels && first + panel * kRows < count; ++panel) {
      const float* rows = map.unit + first + panel * kRows;
      const Tile<float> tile =
          multiply<float>(rows, width, length, [&](int64_t d) { return map.unit + d * width + q; });
      for (int r = 0; r < kRows; ++r) {
        float* to = map.similar + (panel * kRows + r) * width + q;
        for (int v = 0; v < kVectors; ++v) store(to + v * lanes<float>, tile.v[r][v]);
      }
    }
  }
}

}  // namespace

template <class T>
int64_t knn_scratch(int64_t count, int64_t length) {
  const Map<wide<T>> map = lay_out<wide<T>>(nullptr, count, length);
  return reinterpret_cast<unsigned char*>(map.scaled) - static_cast<unsigned char*>(nullptr) + aligned(length * 8);
}

template <class T>
int64_t knn_tasks(int64_t count) {
  return ceil_div<int64_t>(count, kBlock);
}

template <class T>
void knn(const KnnInput<T>& a, unsigned char* scratch, int64_t begin, int64_t end) {
  const int64_t blocks = knn_tasks<T>(a.count), width = padded(a.count);
  const Map<wide<T>> map = lay_out<wide<T>>(scratch, a.count, a.length);
  int64_t in_scratch = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / blocks, first = task % blocks * kBlock;
    if (n != in_scratch) read_map(a, n, map);
    in_scratch = n;
    if (a.k > 1) multiply_block(map, first, a.count, a.length);
    for (int64_t m = first; m < first + kBlock && m < a.count; ++m) {
      float* row = map.similar + (m - first) * width;
      if (a.k > 1) finish_row(row, m, a.count, width);
      const wide<T>* node = map.nodes + m * a.length;
      bool scaled = false;
      rank_row(row, width, m, a.k, error_bound(a.length), a.graph + (n * a.count + m) * a.k, [&](int64_t i) {
        for (int64_t d = 0; d < a.length && !scaled; ++d) map.scaled[d] = double(node[d]) * map.inverse[m];
        scaled = true;
        return dot(map.scaled, map.nodes + i * a.length, a.length) * map.inverse[i];
      });
    }
  }
}

#define MK_INSTANTIATE(T)                            \
  template int64_t knn_scratch<T>(int64_t, int64_t); \
  template int64_t knn_tasks<T>(int64_t);            \
  template void knn<T>(const KnnInput<T>&, unsigned char*, int64_t, int64_t);
MK_INSTANTIATE(double)
MK_INSTANTIATE(float)
MK_INSTANTIATE(BFloat16)
MK_INSTANTIATE(Half)

}  // namespace MK_ISA
}  // namespace molkernels

// The cosine k-nearest-neighbour graph: a fast search in float, decided in double.
//
//   s[m, q] = ⟨x_m, x_q⟩ / (‖x_m‖ ‖x_q‖)       ranked by neighbour_rank: steps of 2⁻⁴⁰, then the lowest index
//
// Nodes are scaled to length 1 in float and their products computed one block of rows at a time (block × count floats,
// in L1). A float product differs from the exact one by at most `error_bound`; so every node within twice that of the
// k-th best may belong to the k best and is recomputed in double, and the k best of those are the exact ones.
//
// FLOPs: 2 · count² · length per map, and 2 · length per candidate (k − 1 of them if there are no ties). Bytes: x once,
// the graph once.
#include "knn.h"

#include "gemm.h"

namespace molkernels {
namespace MK_ISA {
namespace {

constexpr int kPanels = 4;
constexpr int kBlock = kPanels * kRows;
constexpr int kMostNeighbours = 16;
constexpr float kNothing = -3.0f;    // below every similarity: the node itself, and lanes past the last node
constexpr float kUnordered = -2.0f;  // NaN

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

bool any_above(Vec<float> v, Vec<float> limit) {
#if defined(__AVX512F__) && MK_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__) && MK_VECTOR_BYTES == 32
  return _mm256_movemask_ps((__m256)(v > limit)) != 0;
#elif defined(__aarch64__)
  return vmaxvq_u32((uint32x4_t)(v > limit)) != 0;
#else
  const Mask<float> above = v > limit;
  int32_t found = 0;
  for (int i = 0; i < lanes<float>; ++i) found |= above[i];
  return found != 0;
#endif
}

// The k-th largest of a row (padded, without NaN): first the k largest of each lane, without a branch, then the k
// largest of those. K is k, or 0 if it is not a compile-time constant; with it, the best so far stay in registers.
template <int K>
float kth_largest(const float* row, int64_t width, int any_k) {
  const int k = K != 0 ? K : any_k;
  constexpr int room = K != 0 ? K : kMostNeighbours;
  Vec<float> best[room];
  for (Vec<float>& lane : best) lane = broadcast(kNothing);
  for (int64_t q = 0; q < width; q += lanes<float>) {
    Vec<float> v = load(row + q);
    for (int i = 0; i < k; ++i) {
      const Mask<float> larger = v > best[i];
      const Vec<float> kept = larger ? v : best[i];
      v = larger ? best[i] : v;
      best[i] = kept;
    }
  }
  float sorted[room];
  for (float& value : sorted) value = kNothing;
  for (int i = 0; i < k; ++i) {
    float of_lanes[lanes<float>];
    store(of_lanes, best[i]);
    for (const float value : of_lanes) {
      if (!(value > sorted[k - 1])) continue;
      int place = k - 1;
      for (; place > 0 && sorted[place - 1] < value; --place) sorted[place] = sorted[place - 1];
      sorted[place] = value;
    }
  }
  return sorted[k - 1];
}

float search(const float* row, int64_t width, int k) {
  return k == 3 ? kth_largest<3>(row, width, k) : kth_largest<0>(row, width, k);
}

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

template <class W>
void rank_row(const Map<W>& map, const float* row, int64_t m, int64_t count, int64_t length, int k, int32_t* graph) {
  graph[0] = int32_t(m);
  if (k == 1) return;
  const int64_t width = padded(count);
  const int others = k - 1;
  // The comparison below is strict: a slightly lower limit includes the nodes at the limit itself.
  const float limit = search(row, width, others) - 2.0f * error_bound(length) - 1e-6f;
  const W* node = map.nodes + m * length;
  for (int64_t d = 0; d < length; ++d) map.scaled[d] = double(node[d]) * map.inverse[m];
  int64_t best[kMostNeighbours];
  for (int i = 0; i < others; ++i) best[i] = INT64_MIN;
  for (int64_t q = 0; q < width; q += lanes<float>) {
    if (!any_above(load(row + q), broadcast(limit))) continue;
    for (int64_t i = q; i < q + lanes<float>; ++i) {
      if (!(row[i] > limit) || row[i] == kNothing) continue;
      const double exact = dot(map.scaled, map.nodes + i * length, length) * map.inverse[i];
      const int64_t rank = neighbour_rank(exact, int(i));
      if (rank <= best[others - 1]) continue;
      int place = others - 1;
      for (; place > 0 && best[place - 1] < rank; --place) best[place] = best[place - 1];
      best[place] = rank;
    }
  }
  for (int i = 0; i < others; ++i) graph[1 + i] = neighbour_index(best[i]);
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
      rank_row(map, row, m, a.count, a.length, a.k, a.graph + (n * a.count + m) * a.k);
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

// What all kernels of edge_max do with vectors and scratch memory.
#pragma once

#include "../../common/index.h"
#include "simd.h"

namespace molkernels {
namespace MK_ISA {
namespace {

int64_t aligned(int64_t bytes) { return ceil_div<int64_t>(bytes, 64) * 64; }

// Hands out pieces of a part's scratch memory.
class Scratch {
 public:
  explicit Scratch(unsigned char* memory) : at_(memory) {}
  template <class V>
  V* take(int64_t count) {
    V* piece = reinterpret_cast<V*>(at_);
    at_ += aligned(count * int64_t(sizeof(V)));
    return piece;
  }

 private:
  unsigned char* at_;
};

// Whether the message beats the best one so far: greater, or the first NaN; equals leave the earlier one.
template <class W>
Mask<W> beats(Vec<W> message, Vec<W> best) {
  return ~(Mask<W>)(message <= best) & (Mask<W>)(best == best);
}

typedef uint8_t WinnersOfFloat __attribute__((vector_size(MK_VECTOR_BYTES / 4), aligned(1), may_alias));

template <class W>
void store_winners(uint8_t* to, Mask<W> winner) {
  if constexpr (sizeof(W) == 4) {
    *reinterpret_cast<WinnersOfFloat*>(to) = __builtin_convertvector(winner, WinnersOfFloat);
  } else {
    for (int i = 0; i < lanes<W>; ++i) to[i] = uint8_t(winner[i]);
  }
}

template <class W>
Mask<W> load_winners(const uint8_t* from) {
  typedef uint8_t Winners __attribute__((vector_size(MK_VECTOR_BYTES / sizeof(W)), aligned(1), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Winners*>(from), Mask<W>);
}

// The gradient where the ReLU is active.
template <class W>
Vec<W> passed(Vec<W> grad_y, Vec<W> y) {
  return y > 0 ? grad_y : Vec<W>{};
}

// NaN stays NaN, as in torch.
template <class W>
Vec<W> relu(Vec<W> v) {
  return v < 0 ? Vec<W>{} : v;
}

}  // namespace
}  // namespace MK_ISA
}  // namespace molkernels

#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "../common/tensor.h"

namespace molkernels {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};

bool runs_here(Isa set) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  switch (set) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512_bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return set == Isa::portable;
#endif
}

Isa choose() {
  const char* asked = std::getenv("MOLKERNELS_CPU_ISA");
  if (asked != nullptr && *asked != '\0') {
    for (int set = 0; set < 4; ++set) {
      if (std::strcmp(asked, kNames[set]) != 0) continue;
      if (runs_here(static_cast<Isa>(set))) return static_cast<Isa>(set);
      throw std::runtime_error("MOLKERNELS_CPU_ISA is '" + std::string(asked) +
                               "', which this processor does not have");
    }
    throw std::runtime_error("MOLKERNELS_CPU_ISA is '" + std::string(asked) +
                             "'; allowed are portable, avx2, avx512 and avx512_bf16");
  }
  for (int set = 3; set > 0; --set) {
    if (runs_here(static_cast<Isa>(set))) return static_cast<Isa>(set);
  }
  return Isa::portable;
}

int64_t chosen_isa() { return static_cast<int64_t>(isa()); }

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace molkernels

STABLE_TORCH_LIBRARY_FRAGMENT(molkernels_cpu, m) { m.def("isa() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(molkernels_cpu, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&molkernels::chosen_isa));
}

#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "../common/tensor.h"

namespace molkernels {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_bf16"};
constexpr int kSets = sizeof kNames / sizeof *kNames;

#if defined(__x86_64__)

// Whether the processor has tiles with bfloat16 products and the system lets this process use them. Linux saves the
// tiles of a process only after it has asked once; the answer may be no (an old kernel, a virtual machine, a sandbox).
bool amx_permitted() {
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Not every clang's __builtin_cpu_supports knows it.
bool has_f16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool runs_here(Isa set) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
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
    case Isa::amx:
      return avx512 && __builtin_cpu_supports("avx512bf16") && amx_permitted();
    default:
      return false;
  }
}

#elif defined(__aarch64__)

bool has_bf16() {
#if defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
#elif defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &found, &size, nullptr, 0) == 0 && found != 0;
#else
  return false;
#endif
}

bool runs_here(Isa set) { return set == Isa::neon || (set == Isa::neon_bf16 && has_bf16()); }

#else

bool runs_here(Isa set) { return set == Isa::portable; }

#endif

Isa choose() {
  const char* asked = std::getenv("MOLKERNELS_CPU_ISA");
  if (asked != nullptr && *asked != '\0') {
    for (int set = 0; set < kSets; ++set) {
      if (std::strcmp(asked, kNames[set]) != 0) continue;
      if (runs_here(static_cast<Isa>(set))) return static_cast<Isa>(set);
      throw std::runtime_error("MOLKERNELS_CPU_ISA is '" + std::string(asked) +
                               "', which this processor does not have or the system does not permit");
    }
    throw std::runtime_error("MOLKERNELS_CPU_ISA is '" + std::string(asked) +
                             "'; allowed are portable, avx2, avx512, avx512_bf16, amx, neon and neon_bf16");
  }
  for (int set = kSets - 1; set > 0; --set) {
#if defined(__x86_64__)
    if (static_cast<Isa>(set) == Isa::avx512_bf16 && __builtin_cpu_is("intel")) continue;
#endif
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

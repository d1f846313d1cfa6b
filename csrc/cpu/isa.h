// The instruction sets that csrc/cpu/kernels is compiled for, and the choice among them at run time.
//
// Every file in kernels/ is compiled once per set; MK_ISA names the set and its namespace. Such a file must not
// instantiate inline functions of the standard library: the linker keeps one copy of each, possibly one that the
// machine cannot run.
#pragma once

#include <cstdint>

namespace molkernels {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, amx = 4, neon = 5, neon_bf16 = 6 };

// The best built set that this machine supports, or the one that the environment variable MOLKERNELS_CPU_ISA names.
// Intel's AVX-512 has two units for float and one for products of bfloat16, so that these are no faster there (edge_max
// on the graph of the channels took 3.0 ms instead of 1.7 on a Xeon with AMX switched off): without AMX, avx512 is the
// best of an Intel processor.
Isa isa();

// Whether the chosen set multiplies bfloat16 (kernels/gemm_bf16.h).
inline bool multiplies_bf16() { return isa() == Isa::avx512_bf16 || isa() == Isa::amx || isa() == Isa::neon_bf16; }

}  // namespace molkernels

// Declare a kernel, a plain function, in each instruction set's namespace:
//   MK_DECLARE(void fcc_forward(const FccArguments<T>& a, int64_t begin, int64_t end), template <class T>)
// and MK_DECLARE_BF16 a kernel on products of bfloat16 (kernels/*_bf16.cpp) in those of the sets that have them.
#if defined(__x86_64__)
#define MK_DECLARE(declaration, ...) \
  namespace portable {               \
  __VA_ARGS__ declaration;           \
  }                                  \
  namespace avx2 {                   \
  __VA_ARGS__ declaration;           \
  }                                  \
  namespace avx512 {                 \
  __VA_ARGS__ declaration;           \
  }                                  \
  namespace avx512_bf16 {            \
  __VA_ARGS__ declaration;           \
  }
#define MK_DECLARE_BF16(declaration) \
  namespace avx512_bf16 {            \
  declaration;                       \
  }                                  \
  namespace amx {                    \
  declaration;                       \
  }

// The pointer to the chosen set's function:  MK_KERNEL(fcc_forward<T>)(arguments, begin, end)
#define MK_KERNEL(...)                                                            \
  (::molkernels::multiplies_bf16()                    ? &avx512_bf16::__VA_ARGS__ \
   : ::molkernels::isa() == ::molkernels::Isa::avx512 ? &avx512::__VA_ARGS__      \
   : ::molkernels::isa() == ::molkernels::Isa::avx2   ? &avx2::__VA_ARGS__        \
                                                      : &portable::__VA_ARGS__)
// The same for MK_DECLARE_BF16, where `multiplies_bf16()`.
#define MK_KERNEL_BF16(name) (::molkernels::isa() == ::molkernels::Isa::amx ? &amx::name : &avx512_bf16::name)
#elif defined(__aarch64__)
#define MK_DECLARE(declaration, ...) \
  namespace neon {                   \
  __VA_ARGS__ declaration;           \
  }                                  \
  namespace neon_bf16 {              \
  __VA_ARGS__ declaration;           \
  }
#define MK_DECLARE_BF16(declaration) \
  namespace neon_bf16 {              \
  declaration;                       \
  }
#define MK_KERNEL(...) \
  (::molkernels::isa() == ::molkernels::Isa::neon_bf16 ? &neon_bf16::__VA_ARGS__ : &neon::__VA_ARGS__)
#define MK_KERNEL_BF16(name) (&neon_bf16::name)
#else
#define MK_DECLARE(declaration, ...) \
  namespace portable {               \
  __VA_ARGS__ declaration;           \
  }
#define MK_DECLARE_BF16(declaration)
#define MK_KERNEL(...) (&portable::__VA_ARGS__)
#endif

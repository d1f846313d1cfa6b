// Tensors through PyTorch's stable ABI: what every operator needs, in both the CPU and the CUDA library.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace molkernels {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
inline constexpr ScalarType scalar_type_of = ScalarType::Undefined;
template <>
inline constexpr ScalarType scalar_type_of<double> = ScalarType::Double;
template <>
inline constexpr ScalarType scalar_type_of<float> = ScalarType::Float;
template <>
inline constexpr ScalarType scalar_type_of<BFloat16> = ScalarType::BFloat16;
template <>
inline constexpr ScalarType scalar_type_of<Half> = ScalarType::Half;
template <>
inline constexpr ScalarType scalar_type_of<int32_t> = ScalarType::Int;
template <>
inline constexpr ScalarType scalar_type_of<int64_t> = ScalarType::Long;
template <>
inline constexpr ScalarType scalar_type_of<uint8_t> = ScalarType::Byte;

// Statistics and accumulations: double for double, float for everything narrower.
template <class T>
using wide_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A last line of defence: molkernels/checks.py has already rejected wrong arguments with a user-level message.
inline void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(std::string("molkernels: ") + what);
}

// The tensor itself if it is contiguous, else a contiguous copy.
using torch::stable::contiguous;

// Pointers with the dtype checked. `in` is read-only; an empty tensor may give any pointer.
template <class T>
const T* in(const Tensor& t) {
  require(t.scalar_type() == scalar_type_of<T>, "a tensor has another dtype than the kernel was chosen for");
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* out(const Tensor& t) {
  require(t.scalar_type() == scalar_type_of<T>, "a tensor has another dtype than the kernel was chosen for");
  return static_cast<T*>(t.mutable_data_ptr());
}

// New memory on the device of `like`, from torch's own allocator.
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()), dtype);
}

// The same shape, dtype and device, for a contiguous tensor.
using torch::stable::empty_like;

// Call f(T{}) with the type of `dtype`, as in
// for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {...}).
template <class... Types, class F>
void for_dtype(ScalarType dtype, F&& f) {
  const bool found = ((dtype == scalar_type_of<Types> ? (f(Types{}), true) : false) || ...);
  require(found, "this dtype has no kernel");
}

}  // namespace molkernels

// Tensors through PyTorch's stable ABI: what every operator needs, in both the CPU and the CUDA library.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
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

// The tensor itself if it is contiguous, else a contiguous copy. torch's own function goes through the boxed dispatcher
// even where there is nothing to copy. An object, not a function: of two functions argument-dependent lookup finds
// both.
inline constexpr auto contiguous = [](const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); };

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

// New memory on the device of `like`, from torch's own allocator; not through the boxed dispatcher, which costs more
// than the allocation.
inline Tensor empty_of(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape, ScalarType dtype) {
  std::array<int64_t, 4> strides{};
  require(shape.size() <= strides.size(), "a tensor has at most four axes");
  int64_t step = 1;
  for (size_t axis = shape.size(); axis-- > 0; step *= std::max<int64_t>(shape[axis], 1)) strides[axis] = step;
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type, device_index, &made));
  return Tensor(made);
}

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return empty_of(like, torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()), dtype);
}

// The same shape, dtype and device, for a contiguous tensor.
inline constexpr auto empty_like = [](const Tensor& t) { return empty_of(t, t.sizes(), t.scalar_type()); };

// Call f(T{}) with the type of `dtype`, as in
// for_dtype<double, float, BFloat16, Half>(x.scalar_type(), [&](auto zero) {...}).
template <class... Types, class F>
void for_dtype(ScalarType dtype, F&& f) {
  const bool found = ((dtype == scalar_type_of<Types> ? (f(Types{}), true) : false) || ...);
  require(found, "this dtype has no kernel");
}

}  // namespace molkernels

// A stand-in for PyTorch where there is none: the functions of its stable ABI that csrc/cpu uses, and a program that
// loads `_cpu.so` and runs its operators on request.
//
//   stand_in LIBRARY: reads requests from standard input and writes an answer to each to standard output, in the format
//   of helpers/aarch64/__init__.py.
//
// New memory is filled with NaN. Writing beyond the end of a tensor is an error, and so is an operator of torch that is
// not here.
#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;

namespace {

constexpr int64_t kThreads = 3;  // in turn, not at once
constexpr size_t kGuard = 64;
constexpr unsigned char kNaN = 0xff, kUntouched = 0xa5;
std::string problem;  // what went wrong behind the C functions

class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    const size_t whole = (bytes + 2 * kGuard) / kGuard * kGuard;
    data_ = static_cast<unsigned char*>(std::aligned_alloc(kGuard, whole));
    std::memset(data_, kNaN, bytes);
    std::memset(data_ + bytes, kUntouched, kGuard);
  }
  ~Memory() {
    for (size_t i = 0; i < kGuard; ++i) {
      if (data_[bytes_ + i] != kUntouched) problem = "a kernel wrote beyond the end of a tensor";
    }
    std::free(data_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  unsigned char* data() const { return data_; }

 private:
  unsigned char* data_;
  size_t bytes_;
};

int64_t size_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return 1;
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    case ScalarType::Int:
    case ScalarType::Float:
      return 4;
    case ScalarType::Long:
    case ScalarType::Double:
      return 8;
    default:
      throw std::runtime_error("the stand-in has no tensors of this dtype");
  }
}

struct Tensor {
  ScalarType dtype;
  std::vector<int64_t> sizes, strides;
  std::shared_ptr<Memory> memory;

  int64_t count() const {
    int64_t product = 1;
    for (int64_t size : sizes) product *= size;
    return product;
  }
  // The number of elements from the first to the last.
  int64_t span() const {
    int64_t last = 0;
    for (size_t axis = 0; axis < sizes.size(); ++axis) last += (sizes[axis] - 1) * strides[axis];
    return count() == 0 ? 0 : last + 1;
  }
  // Where element `index`, counted in row-major order, is.
  unsigned char* at(int64_t index) const {
    int64_t offset = 0;
    for (size_t axis = sizes.size(); axis-- > 0; index /= sizes[axis]) offset += index % sizes[axis] * strides[axis];
    return memory->data() + offset * size_of(dtype);
  }
  bool contiguous() const { return count() == 0 || strides == dense(sizes); }

  static std::vector<int64_t> dense(const std::vector<int64_t>& sizes) {
    std::vector<int64_t> strides(sizes.size());
    int64_t step = 1;
    for (size_t axis = sizes.size(); axis-- > 0; step *= std::max<int64_t>(sizes[axis], 1)) strides[axis] = step;
    return strides;
  }
  static Tensor empty(ScalarType dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
    Tensor made{dtype, std::move(sizes), std::move(strides), nullptr};
    made.memory = std::make_shared<Memory>(size_t(made.span() * size_of(dtype)));
    return made;
  }
  static Tensor empty(ScalarType dtype, const std::vector<int64_t>& sizes) { return empty(dtype, sizes, dense(sizes)); }
};

template <class T>
T as(StableIValue value) {
  T result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}
template <class T>
StableIValue stacked(T value) {
  StableIValue result = 0;
  std::memcpy(&result, &value, sizeof value);
  return result;
}

Tensor& of(AtenTensorHandle handle) { return *reinterpret_cast<Tensor*>(handle); }
AtenTensorHandle handle_of(Tensor tensor) { return reinterpret_cast<AtenTensorHandle>(new Tensor(std::move(tensor))); }

Tensor take(StableIValue value) {
  const auto owned = std::unique_ptr<Tensor>(as<Tensor*>(value));
  return *owned;
}

// f(T{}) for the type of a dtype.
template <class F>
void typed(ScalarType dtype, F f) {
  switch (dtype) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Float:
      return f(float{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::Int:
      return f(int32_t{});
    case ScalarType::Long:
      return f(int64_t{});
    default:
      throw std::runtime_error("the stand-in does not compute in this dtype");
  }
}

Tensor converted(const Tensor& from, ScalarType dtype) {
  Tensor to = Tensor::empty(dtype, from.sizes);
  if (dtype == from.dtype) {
    for (int64_t i = 0; i < to.count(); ++i) std::memcpy(to.at(i), from.at(i), size_t(size_of(dtype)));
    return to;
  }
  typed(from.dtype, [&](auto a) {
    typed(dtype, [&](auto b) {
      using From = decltype(a);
      using To = decltype(b);
      for (int64_t i = 0; i < to.count(); ++i) {
        *reinterpret_cast<To*>(to.at(i)) = static_cast<To>(*reinterpret_cast<From*>(from.at(i)));
      }
    });
  });
  return to;
}

Tensor product(const Tensor& a, const Tensor& b) {
  if (a.sizes.size() != 2 || b.sizes.size() != 2 || a.sizes[1] != b.sizes[0] || a.dtype != b.dtype) {
    throw std::runtime_error("the stand-in multiplies matrices of the same dtype only");
  }
  const Tensor left = converted(a, ScalarType::Double), right = converted(b, ScalarType::Double);
  const int64_t rows = a.sizes[0], depth = a.sizes[1], columns = b.sizes[1];
  Tensor out = Tensor::empty(ScalarType::Double, {rows, columns});
  const auto at = [](const Tensor& t) { return reinterpret_cast<double*>(t.memory->data()); };
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += at(left)[i * depth + k] * at(right)[k * columns + j];
      at(out)[i * columns + j] = sum;
    }
  }
  return converted(out, a.dtype);
}

// torch's own operators, with the arguments on the stack.
Tensor torch_operator(const std::string& name, StableIValue* stack) {
  Tensor x = take(stack[0]);
  if (name == "aten::contiguous") return x.contiguous() ? x : converted(x, x.dtype);
  if (name == "aten::matmul") return product(x, take(stack[1]));
  if (name == "aten::to") {
    const auto dtype = std::unique_ptr<StableIValue>(as<StableIValue*>(stack[1]));
    return converted(x, dtype != nullptr ? ScalarType(as<int32_t>(*dtype)) : x.dtype);
  }
  if (name == "aten::transpose") {
    const auto axis = [&](StableIValue v) { return size_t(as<int64_t>(v) + (as<int64_t>(v) < 0) * x.sizes.size()); };
    std::swap(x.sizes[axis(stack[1])], x.sizes[axis(stack[2])]);
    std::swap(x.strides[axis(stack[1])], x.strides[axis(stack[2])]);
    return x;
  }
  if (name == "aten::view") {
    const auto shape = std::unique_ptr<std::vector<StableIValue>>(as<std::vector<StableIValue>*>(stack[1]));
    const int64_t before = x.count();
    if (!x.contiguous()) throw std::runtime_error("the stand-in views contiguous tensors only");
    x.sizes.clear();
    for (StableIValue size : *shape) x.sizes.push_back(as<int64_t>(size));
    x.strides = Tensor::dense(x.sizes);
    if (x.count() != before) throw std::runtime_error("a view has another number of elements");
    return x;
  }
  throw std::runtime_error("the stand-in has no " + name);
}

using Boxed = void (*)(StableIValue*, uint64_t, uint64_t);
std::map<std::string, Boxed>& kernels() {
  static std::map<std::string, Boxed> all;
  return all;
}

template <class F>
AOTITorchError checked(F f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    problem = error.what();
    return 1;
  }
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------------
// The stable ABI

extern "C" {

#define CONSTANT(name, value) \
  int32_t name() { return int32_t(value); }
#define DTYPE(name, type) CONSTANT(aoti_torch_dtype_##name, ScalarType::type)
DTYPE(bfloat16, BFloat16)
DTYPE(bool, Bool)
DTYPE(complex128, ComplexDouble)
DTYPE(complex32, ComplexHalf)
DTYPE(complex64, ComplexFloat)
DTYPE(float16, Half)
DTYPE(float32, Float)
DTYPE(float64, Double)
DTYPE(float8_e4m3fn, Float8_e4m3fn)
DTYPE(float8_e4m3fnuz, Float8_e4m3fnuz)
DTYPE(float8_e5m2, Float8_e5m2)
DTYPE(float8_e5m2fnuz, Float8_e5m2fnuz)
DTYPE(int16, Short)
DTYPE(int32, Int)
DTYPE(int64, Long)
DTYPE(int8, Char)
DTYPE(uint16, UInt16)
DTYPE(uint32, UInt32)
DTYPE(uint64, UInt64)
DTYPE(uint8, Byte)
// Only the CPU, dense and contiguous, is used; the others must differ from it.
CONSTANT(aoti_torch_device_type_cpu, 0)
CONSTANT(aoti_torch_device_type_cuda, 1)
CONSTANT(aoti_torch_device_type_meta, 2)
CONSTANT(aoti_torch_device_type_mps, 3)
CONSTANT(aoti_torch_device_type_privateuse1, 4)
CONSTANT(aoti_torch_device_type_xpu, 5)
CONSTANT(aoti_torch_layout_strided, 0)
CONSTANT(aoti_torch_layout_sparse_coo, 1)
CONSTANT(aoti_torch_layout_sparse_csr, 2)
CONSTANT(aoti_torch_layout_sparse_csc, 3)
CONSTANT(aoti_torch_layout_sparse_bsr, 4)
CONSTANT(aoti_torch_layout_sparse_bsc, 5)
CONSTANT(aoti_torch_layout__mkldnn, 6)
CONSTANT(aoti_torch_layout_jagged, 7)
CONSTANT(aoti_torch_memory_format_contiguous_format, 0)
CONSTANT(aoti_torch_memory_format_preserve_format, 1)
CONSTANT(aoti_torch_memory_format_channels_last, 2)
CONSTANT(aoti_torch_memory_format_channels_last_3d, 3)

uint64_t aoti_torch_abi_version() { return uint64_t(2) << 56 | uint64_t(10) << 48; }

AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryHandle*) {
  return 0;
}
AOTITorchError aoti_torch_library_init_fragment(const char*, const char*, uint32_t, TorchLibraryHandle*) { return 0; }
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char*) { return 0; }
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) { return 0; }
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, Boxed kernel, uint64_t) {
  kernels()[name] = kernel;
  return 0;
}

AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t, AtenTensorHandle* made) {
  return checked(
      [&] { *made = handle_of(Tensor::empty(ScalarType(dtype), {sizes, sizes + dim}, {strides, strides + dim})); });
}
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle tensor, AtenTensorHandle* another) {
  *another = handle_of(of(tensor));
  return 0;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  delete &of(tensor);
  return 0;
}
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* dim) {
  *dim = int64_t(of(tensor).sizes.size());
  return 0;
}
AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* count) {
  *count = of(tensor).count();
  return 0;
}
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes) {
  *sizes = of(tensor).sizes.data();
  return 0;
}
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides) {
  *strides = of(tensor).strides.data();
  return 0;
}
AOTITorchError aoti_torch_get_size(AtenTensorHandle tensor, int64_t axis, int64_t* size) {
  return checked([&] { *size = of(tensor).sizes.at(size_t(axis)); });
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle tensor, int64_t axis, int64_t* stride) {
  return checked([&] { *stride = of(tensor).strides.at(size_t(axis)); });
}
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype) {
  *dtype = int32_t(of(tensor).dtype);
  return 0;
}
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  *type = aoti_torch_device_type_cpu();
  return 0;
}
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  *index = -1;
  return 0;
}
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle tensor, bool* contiguous) {
  *contiguous = of(tensor).contiguous();
  return 0;
}
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** data) {
  *data = of(tensor).memory->data();
  return 0;
}
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle tensor, const void** data) {
  *data = of(tensor).memory->data();
  return 0;
}

AOTITorchError torch_new_list_reserve_size(size_t size, StableListHandle* list) {
  auto* made = new std::vector<StableIValue>;
  made->reserve(size);
  *list = reinterpret_cast<StableListHandle>(made);
  return 0;
}
AOTITorchError torch_list_push_back(StableListHandle list, StableIValue element) {
  reinterpret_cast<std::vector<StableIValue>*>(list)->push_back(element);
  return 0;
}
AOTITorchError torch_delete_list(StableListHandle list) {
  delete reinterpret_cast<std::vector<StableIValue>*>(list);
  return 0;
}
AOTITorchError torch_string_length(StringHandle text, size_t* length) {
  *length = reinterpret_cast<std::string*>(text)->size();
  return 0;
}
AOTITorchError torch_string_c_str(StringHandle text, const char** data) {
  *data = reinterpret_cast<std::string*>(text)->c_str();
  return 0;
}
AOTITorchError torch_delete_string(StringHandle text) {
  delete reinterpret_cast<std::string*>(text);
  return 0;
}

AOTITorchError torch_get_num_threads(uint32_t* count) {
  *count = kThreads;
  return 0;
}
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc function, void* context) {
  const int64_t count = end - begin;
  return checked([&] {
    for (int64_t part = 0; part < kThreads; ++part) {
      const int64_t first = begin + count * part / kThreads, last = begin + count * (part + 1) / kThreads;
      if (first < last) function(first, last, context);
    }
  });
}

AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  return checked([&] { stack[0] = stacked(handle_of(torch_operator(name, stack))); });
}

}  // extern "C"

// --------------------------------------------------------------------------------------------------------------------
// Requests and answers

namespace {

template <class T>
T get() {
  T value;
  if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(std::feof(stdin) ? 0 : 1);
  return value;
}
std::string get_text() {
  std::string text(get<uint32_t>(), '\0');
  if (std::fread(text.data(), 1, text.size(), stdin) != text.size()) std::exit(1);
  return text;
}
Tensor get_tensor() {
  const ScalarType dtype = ScalarType(get<int32_t>());
  std::vector<int64_t> sizes(get<uint32_t>()), strides(sizes.size());
  for (int64_t& size : sizes) size = get<int64_t>();
  for (int64_t& stride : strides) stride = get<int64_t>();
  Tensor tensor = Tensor::empty(dtype, sizes, strides);
  const size_t bytes = size_t(tensor.span() * size_of(dtype));
  if (std::fread(tensor.memory->data(), 1, bytes, stdin) != bytes) std::exit(1);
  return tensor;
}
// 'T' a tensor, 'O' an optional tensor that is there, 'N' one that is not, 'I' an integer, 'B' a truth value, 'D' a
// double, 'S' a text.
StableIValue get_argument() {
  switch (get<char>()) {
    case 'T':
      return stacked(handle_of(get_tensor()));
    case 'O':
      return stacked(new StableIValue(stacked(handle_of(get_tensor()))));
    case 'N':
      return stacked<StableIValue*>(nullptr);
    case 'I':
      return stacked(get<int64_t>());
    case 'B':
      return stacked(get<int64_t>() != 0);
    case 'D':
      return stacked(get<double>());
    case 'S':
      return stacked(new std::string(get_text()));
    default:
      std::exit(1);
  }
}

template <class T>
void put(T value) {
  std::fwrite(&value, sizeof value, 1, stdout);
}
void put_text(const std::string& text) {
  put(uint32_t(text.size()));
  std::fwrite(text.data(), 1, text.size(), stdout);
}
void put_tensor(const Tensor& tensor) {
  put(int32_t(tensor.dtype));
  put(uint32_t(tensor.sizes.size()));
  for (int64_t size : tensor.sizes) put(size);
  const Tensor whole = converted(tensor, tensor.dtype);
  std::fwrite(whole.memory->data(), size_t(size_of(whole.dtype)), size_t(whole.count()), stdout);
}

void answer() {
  const std::string name = get_text();
  const std::string results = get_text();  // 'T' or 'I' for each
  const uint32_t count = get<uint32_t>();
  std::vector<StableIValue> stack(std::max<size_t>(count, results.size()));
  for (uint32_t i = 0; i < count; ++i) stack[i] = get_argument();
  problem.clear();
  std::vector<Tensor> tensors;
  try {
    if (kernels().count(name) == 0) throw std::runtime_error("the library has no " + name);
    kernels()[name](stack.data(), count, results.size());
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i] == 'T') tensors.push_back(take(stack[i]));
    }
  } catch (const std::exception& error) {
    if (problem.empty()) problem = error.what();
  }
  put(char(problem.empty()));
  if (!problem.empty()) return put_text(problem);
  size_t next = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i] == 'T') {
      put_tensor(tensors[next++]);
    } else {
      put(as<int64_t>(stack[i]));
    }
  }
}

}  // namespace

int main(int, char** arguments) {
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  while (true) {
    answer();
    std::fflush(stdout);
  }
}

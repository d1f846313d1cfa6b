// The scheduler behind fibres.h.
//
// MOLKERNELS_EMULATED_SCHEDULE: forward (default), reverse or random:SEED, the order of blocks, of the warps that can
// continue, and of the lanes of a warp. Results must not depend on it; otherwise the kernel has a race.
#include "fibres.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// The library's own static variables, from the linker.
extern "C" __attribute__((visibility("hidden"))) char __bss_start, _end;

namespace molkernels {
namespace emulator {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Memory with an inaccessible page on either side

constexpr size_t page = 4096;

class Guarded {
 public:
  explicit Guarded(size_t bytes) : size_((bytes + page - 1) / page * page) {
    void* p = mmap(nullptr, size_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    begin_ = static_cast<unsigned char*>(p) + page;
    mprotect(begin_, size_, PROT_READ | PROT_WRITE);
  }
  ~Guarded() { munmap(begin_ - page, size_ + 2 * page); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  unsigned char* begin() const { return begin_; }
  unsigned char* end() const { return begin_ + size_; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  unsigned char* begin_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Switching stacks

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer, and continues where `load` was saved.
extern "C" __attribute__((visibility("hidden"))) void molkernels_switch(void** save, void* load);
asm(R"(
.text
.hidden molkernels_switch
.globl molkernels_switch
.type molkernels_switch, @function
molkernels_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size molkernels_switch, .-molkernels_switch
)");

using Context = void*;
void prepare(Context& context, unsigned char*, unsigned char* top, void (*entry)()) {
  void** words = reinterpret_cast<void**>(top) - 8;
  std::memset(words, 0, 8 * sizeof(void*));  // six registers, the entry, and no caller
  words[6] = reinterpret_cast<void*>(entry);
  context = words;
}
void change(Context& from, Context& to) { molkernels_switch(&from, to); }
#else
using Context = ucontext_t;
void prepare(Context& context, unsigned char* bottom, unsigned char* top, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = bottom;
  context.uc_stack.ss_size = top - bottom;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
void change(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Fibres

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = 512 * 1024;
#else
constexpr size_t stack_bytes = 128 * 1024;
#endif

enum class State { ready, collective, barrier, ended };

struct Copy {
  void* to;
  const void* from;  // nullptr: zeros
  int bytes;
  int group;
};

struct Fibre {
  explicit Fibre(int index) : stack(stack_bytes), index(index) {}

  Guarded stack;
  Context context;
  int index;
  State state = State::ready;
  Site site;
  Complete complete = nullptr;
  void* argument = nullptr;
  std::vector<Copy> copies;
  int groups = 0;  // committed so far
  void* fake_stack = nullptr;
};

struct Scheduler {
  std::mutex one_launch;
  std::vector<std::unique_ptr<Fibre>> fibres;
  Fibre* running = nullptr;
  Context context;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
  unsigned char *shared_begin = nullptr, *shared_end = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  void* fake_stack = nullptr;
};
Scheduler scheduler;

void enter(Fibre& fibre) {
  scheduler.running = &fibre;
  const unsigned i = unsigned(fibre.index);
  threadIdx = {i, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler.fake_stack, fibre.stack.begin(), fibre.stack.size());
#endif
  change(scheduler.context, fibre.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
}

void leave() {
  Fibre& fibre = *scheduler.running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fibre.state == State::ended ? nullptr : &fibre.fake_stack, scheduler.stack_bottom,
                                 scheduler.stack_size);
#endif
  change(fibre.context, scheduler.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fibre.fake_stack, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
}

void start() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
  try {
    scheduler.body(scheduler.argument);
  } catch (const std::exception& error) {
    scheduler.error = error.what();
  }
  scheduler.running->state = State::ended;
  leave();
}

void reset(Fibre& fibre) {
  // Equally spaced stacks would share the same cache sets.
  unsigned char* top = fibre.stack.end() - fibre.index % 61 * 320;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fibre.stack.begin(), fibre.stack.size());
#endif
  prepare(fibre.context, fibre.stack.begin(), top, &start);
  fibre.state = State::ready;
  fibre.copies.clear();
  fibre.groups = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Schedules

class Order {
 public:
  Order() {
    const char* text = std::getenv("MOLKERNELS_EMULATED_SCHEDULE");
    const std::string name = text ? text : "forward";
    random_ = name.rfind("random:", 0) == 0;
    reverse_ = name == "reverse";
    if (random_) engine_.seed(std::strtoul(name.c_str() + 7, nullptr, 10));
    if (!random_ && !reverse_ && name != "forward" && !name.empty())
      throw std::runtime_error("MOLKERNELS_EMULATED_SCHEDULE is '" + name +
                               "'; allowed are forward, reverse and random:SEED");
  }

  template <class T>
  void arrange(std::vector<T>& items) {
    if (reverse_) std::reverse(items.begin(), items.end());
    if (random_) std::shuffle(items.begin(), items.end(), engine_);
  }

  size_t pick(size_t count) { return random_ ? engine_() % count : reverse_ ? count - 1 : 0; }

 private:
  bool random_ = false, reverse_ = false;
  std::minstd_rand engine_;
};

std::string place(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string where(const Fibre& fibre) {
  return "thread " + std::to_string(fibre.index) + " of block (" + std::to_string(blockIdx.x) + ", " +
         std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")";
}

std::string doing(const Fibre& fibre) {
  if (fibre.state == State::ended) return where(fibre) + " has ended";
  return where(fibre) + (fibre.state == State::barrier ? " waits for its block at " : " waits for its warp at ") +
         place(fibre.site);
}

bool together(const Fibre& a, const Fibre& b) {
  if (a.state != b.state) return false;
  return a.state == State::ended || (a.site == b.site && a.complete == b.complete);
}

[[noreturn]] void diverged(const Fibre& a, const Fibre& b) {
  throw std::runtime_error("emulated kernel: threads diverge: " + doing(a) + ", but " + doing(b));
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks

class Block {
 public:
  Block(int threads, Order& order) : threads_(threads), order_(order) {
    for (int i = 0; i < threads; ++i) reset(*scheduler.fibres[i]);
    for (int i = 0; i < threads; i += 32) ready_.push_back(i / 32);
  }

  void run() {
    while (true) {
      while (!ready_.empty()) {
        const size_t chosen = order_.pick(ready_.size());
        if (!advance(ready_[chosen])) ready_.erase(ready_.begin() + chosen);
      }
      if (!open_barrier()) return;
    }
  }

 private:
  Fibre& fibre(int i) const { return *scheduler.fibres[i]; }
  int begin(int warp) const { return 32 * warp; }
  int end(int warp) const { return std::min(threads_, 32 * warp + 32); }

  // Runs each lane up to its next barrier or warp operation. Returns whether the warp can continue without the others.
  bool advance(int warp) {
    lanes_.resize(end(warp) - begin(warp));
    std::iota(lanes_.begin(), lanes_.end(), begin(warp));
    order_.arrange(lanes_);
    for (const int i : lanes_) {
      enter(fibre(i));
      if (!scheduler.error.empty()) throw std::runtime_error(scheduler.error);
    }
    Fibre& first = fibre(begin(warp));
    for (int i = begin(warp); i < end(warp); ++i)
      if (!together(first, fibre(i))) diverged(first, fibre(i));
    if (first.state != State::collective) return false;
    if (end(warp) - begin(warp) != 32)
      throw std::runtime_error("emulated kernel: " + doing(first) + ", but that warp has fewer than 32 threads");
    void* arguments[32];
    for (int i = 0; i < 32; ++i) {
      arguments[i] = fibre(begin(warp) + i).argument;
      fibre(begin(warp) + i).state = State::ready;
    }
    first.complete(arguments);
    return true;
  }

  // All warps have stopped. Returns whether any of them can continue.
  bool open_barrier() {
    for (int i = 0; i < threads_; ++i)
      if (!together(fibre(0), fibre(i))) diverged(fibre(0), fibre(i));
    if (fibre(0).state == State::ended) return false;
    for (int i = 0; i < threads_; ++i) fibre(i).state = State::ready;
    for (int i = 0; i < threads_; i += 32) ready_.push_back(i / 32);
    return true;
  }

  int threads_;
  Order& order_;
  std::vector<int> ready_, lanes_;
};

void check_limits(dim3 grid, int threads, int shared, int limit) {
  if (shared > limit)
    throw std::runtime_error("molkernels: more shared memory than the device grants: " + std::to_string(shared) +
                             " bytes of " + std::to_string(limit));
  if (threads < 1 || threads > 1024 || shared < 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("molkernels: kernel launch: invalid configuration: grid (" + std::to_string(grid.x) +
                             ", " + std::to_string(grid.y) + ", " + std::to_string(grid.z) + "), " +
                             std::to_string(threads) + " threads");
}

// The dynamic shared memory of a launch, up to an inaccessible page; under AddressSanitizer its end is exact.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : memory_(bytes ? bytes : 1), bytes_(bytes) {
    scheduler.shared_begin = memory_.end() - (bytes + 15) / 16 * 16;
    scheduler.shared_end = scheduler.shared_begin + bytes;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(memory_.begin(), memory_.size());
    ASAN_UNPOISON_MEMORY_REGION(scheduler.shared_begin, bytes);
#endif
  }
  ~SharedMemory() {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(memory_.begin(), memory_.size());
#endif
    scheduler.shared_begin = scheduler.shared_end = nullptr;
  }
  // As NaN, or −1.
  void poison() { std::memset(scheduler.shared_begin, 0xff, bytes_); }

 private:
  Guarded memory_;
  size_t bytes_;
};

void arrive(Copy& copy) {
  if (copy.from)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

}  // namespace

void fail(Site site, const std::string& what) {
  throw std::runtime_error("emulated kernel: " + place(site) + ": " + what + " (" + where(*scheduler.running) + ")");
}

void run(dim3 grid, int threads, int shared, int limit, void (*body)(void*), void* argument) {
  check_limits(grid, threads, shared, limit);
  const std::lock_guard<std::mutex> lock(scheduler.one_launch);
  Order order;
  while (int(scheduler.fibres.size()) < threads)
    scheduler.fibres.push_back(std::make_unique<Fibre>(int(scheduler.fibres.size())));
  scheduler.body = body;
  scheduler.argument = argument;
  scheduler.error.clear();
  gridDim = grid;
  blockDim = dim3(unsigned(threads));
  SharedMemory memory(shared);

  std::vector<size_t> blocks(size_t(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), size_t(0));
  order.arrange(blocks);
  for (const size_t i : blocks) {
    blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
    memory.poison();
    Block(threads, order).run();
  }
}

void block_barrier(Site site) {
  Fibre& fibre = *scheduler.running;
  fibre.state = State::barrier;
  fibre.site = site;
  fibre.complete = nullptr;
  leave();
}

void warp_collective(Complete complete, void* mine, Site site) {
  Fibre& fibre = *scheduler.running;
  fibre.state = State::collective;
  fibre.site = site;
  fibre.complete = complete;
  fibre.argument = mine;
  leave();
}

unsigned char* dynamic_shared() { return scheduler.shared_begin; }

bool in_shared(const void* p, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(p);
  const auto inside = [&](const void* from, const void* to) { return begin >= from && begin + bytes <= to; };
  return inside(scheduler.shared_begin, scheduler.shared_end) || inside(&__bss_start, &_end);
}

void copy_begin(void* to, const void* from, int bytes, bool valid, Site site) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
    fail(site, "an asynchronous copy of " + std::to_string(bytes) + " bytes is not aligned");
  if (!in_shared(to, bytes)) fail(site, "an asynchronous copy goes elsewhere than to shared memory");
  std::memset(to, 0xff, bytes);
  Fibre& fibre = *scheduler.running;
  fibre.copies.push_back({to, valid ? from : nullptr, bytes, fibre.groups});
}

void copy_commit() { ++scheduler.running->groups; }

void copy_wait(int pending) {
  Fibre& fibre = *scheduler.running;
  size_t done = 0;
  while (done < fibre.copies.size() && fibre.copies[done].group < fibre.groups - pending) arrive(fibre.copies[done++]);
  fibre.copies.erase(fibre.copies.begin(), fibre.copies.begin() + done);
}

int setting(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoi(text) : otherwise;
}

}  // namespace emulator
}  // namespace molkernels

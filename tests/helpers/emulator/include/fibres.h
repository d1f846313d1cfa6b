// A block of CUDA threads as fibres of one OS thread: the basis of the replacement CUDA headers.
//
// A fibre runs until it reaches a barrier or an operation of its whole warp, or ends. The scheduler continues with a
// warp once all of its lanes have reached the same one, and with the block once all of its warps are at the same
// barrier; anything else is reported as an error: on a GPU it would hang, or be undefined.
#pragma once

#include <cstddef>
#include <string>

struct dim3;

namespace molkernels {
namespace emulator {

// A place in a kernel's source: the call site at which a default argument of this type was omitted.
struct Site {
  const char* file;
  int line;
  constexpr Site(const char* file = __builtin_FILE(), int line = __builtin_LINE()) : file(file), line(line) {}
  bool operator==(const Site& other) const { return file == other.file && line == other.line; }
};

// Ends the launch with an error that names the place, the block and the thread.
[[noreturn]] void fail(Site site, const std::string& what);

inline void require_full(unsigned mask, Site site) {
  if (mask != 0xffffffffu) fail(site, "only the full mask 0xffffffff is emulated");
}

// Runs body(argument) once per thread, block after block.  `limit`: bytes of shared memory that the device allows.
void run(dim3 grid, int threads, int shared, int limit, void (*body)(void*), void* argument);

void block_barrier(Site site);

// All lanes of the warp wait here for each other; then `complete` is called once with the values that all lanes passed,
// and all continue.
using Complete = void (*)(void* const* lanes);
void warp_collective(Complete complete, void* mine, Site site);

unsigned char* dynamic_shared();
// Whether [p, p + bytes) lies in dynamic shared memory or among the library's static variables.
bool in_shared(const void* p, size_t bytes);

// Asynchronous copies of the running thread: the bytes are copied when the copy's group is waited for; until then the
// target holds 0xFF.
void copy_begin(void* to, const void* from, int bytes, bool valid, Site site);
void copy_commit();
void copy_wait(int pending);

// An integer from the environment.
int setting(const char* name, int otherwise);

}  // namespace emulator
}  // namespace molkernels

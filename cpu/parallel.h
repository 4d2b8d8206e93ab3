// Runs independent tasks on XLA's own threads and on the calling one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "xla/ffi/api/ffi.h"

namespace jax_na {

// Calls run(task, scratch) once for every task in [0, tasks), with `scratch_bytes` bytes aligned to
// a cache line, and returns when all have ended. The caller takes tasks itself, so a pool whose
// threads are all busy delays nothing. Throws
// what the first failing task threw, once all have ended.
void parallel_for(xla::ffi::ThreadPool& pool, int64_t tasks, int64_t scratch_bytes,
                  const std::function<void(int64_t, std::byte*)>& run);

}  // namespace jax_na

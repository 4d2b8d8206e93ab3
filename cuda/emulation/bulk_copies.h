// The tensor memory accelerator: copies of boxes that run on while threads do.
//
// Each is made at some moment of chance between its issue and the wait for it. Until then the
// target of a load is poisoned, and the source of a store is still to be read.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace jax_na::emulation {

// Begins a block; ends it, where no load may be under way; ends the calling thread, which has to
// have waited for its stores.
void begin_bulk_copies(int threads);
void end_bulk_copies();
void end_bulk_copies_of_thread();

// Makes one copy, of those under way; false where there is none.
bool advance_bulk_copies();

// `at` is the box's first element on every axis, the innermost first.
void start_bulk_load(uint32_t to, const CUtensorMap* map, uint32_t mbarrier, const int (&at)[5]);
// Adds to the tensor where `adds` is true.
void start_bulk_store(const CUtensorMap* map, uint32_t from, const int (&at)[5], bool adds);

// Of this thread's stores: ends a group; waits until at most `pending` groups have not been read.
void commit_bulk_stores();
void wait_bulk_stores(int pending);

}  // namespace jax_na::emulation

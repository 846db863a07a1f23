// What whoever fills a slot does with its memory.
#pragma once

#include <cstddef>
#include <span>

#include "engram/base/status.h"
#include "shard_server/slot_store.h"

namespace engram {

// Has the system give the pages behind `bytes`. Fresh shared memory in small pages costs more than
// what is written to it, and where there is none left (a small /dev/shm, a container's limit) this
// is an error, while touching it would be a SIGBUS. A kernel without the call faults them in later.
// Thread-safe. ERRORS: kResourceExhausted naming the slot.
[[nodiscard]] Status PopulatePages(SlotIndex slot, std::span<std::byte> bytes);

// The digest of a slot's stored rows (docs/formats/slot_digest.md). Thread-safe.
[[nodiscard]] SlotDigest DigestOfRows(std::span<const std::byte> rows);

}  // namespace engram

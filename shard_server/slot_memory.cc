#include "shard_server/slot_memory.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <sys/mman.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace engram {

Status PopulatePages(SlotIndex slot, std::span<std::byte> bytes) {
#ifdef MADV_POPULATE_WRITE
  static const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t before = reinterpret_cast<uintptr_t>(bytes.data()) % page_bytes;
  if (::madvise(bytes.data() - before, before + bytes.size(), MADV_POPULATE_WRITE) == 0) return {};
  if (errno != EFAULT && errno != ENOMEM) return {};
  return {StatusCode::kResourceExhausted,
          "the system has no memory left for slot " + std::to_string(slot.value()) + ": " +
              std::strerror(errno) +
              "; look at the size of /dev/shm and at the container's limits, or lower --memory"};
#else
  (void)slot;
  (void)bytes;
  return {};
#endif
}

SlotDigest DigestOfRows(std::span<const std::byte> rows) {
  const SlotDigest digest = XXH3_64bits(rows.data(), rows.size());
  return digest == 0 ? 1 : digest;
}

}  // namespace engram

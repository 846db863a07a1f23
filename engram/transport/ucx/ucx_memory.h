// Memory that UCX knows: reachable by peers that hold its key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <ucp/api/ucp.h>

#include "engram/transport/ucx/ucx_context.h"

namespace engram {

// Immutable after its factory; thread-safe. The context must outlive it.
class UcxMemory {
 public:
  // New memory, zeroed, huge pages where they can be had. Only such memory can be mapped by a peer
  // on the same host; a user's own would be emulated without a word.
  // ERRORS: kResourceExhausted with the bytes asked for.
  [[nodiscard]] static Result<std::unique_ptr<UcxMemory>> Allocate(const UcxContext& context,
                                                                   uint64_t bytes);
  // Memory that exists and outlives this: for a network card.
  [[nodiscard]] static Result<std::unique_ptr<UcxMemory>> Register(const UcxContext& context,
                                                                   std::span<std::byte> memory);
  ~UcxMemory();
  UcxMemory(const UcxMemory&) = delete;
  UcxMemory& operator=(const UcxMemory&) = delete;

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  // What a peer needs to reach it.
  [[nodiscard]] Result<std::string> PackKey() const;
  // Whether the kernel backs it with pages above 4 KiB.
  [[nodiscard]] bool huge_pages() const { return huge_pages_; }

 private:
  UcxMemory(const UcxContext& context, ucp_mem_h memory) : context_(context), memory_(memory) {}
  [[nodiscard]] static Result<std::unique_ptr<UcxMemory>> Map(const UcxContext& context,
                                                              const ucp_mem_map_params_t& params,
                                                              uint64_t bytes);

  const UcxContext& context_;
  const ucp_mem_h memory_;  // owned
  std::span<std::byte> bytes_;
  bool huge_pages_ = false;
};

}  // namespace engram

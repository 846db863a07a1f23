// The right to reach one region of a peer's memory through one endpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <ucp/api/ucp.h>

#include "engram/transport/ucx/ucx_endpoint.h"

namespace engram {

// Lives on its endpoint's thread and not longer than the endpoint. While it lives, mapped memory
// of the peer stays pinned here, even if the peer is dead.
class UcxRemoteKey {
 public:
  // `packed` is what the peer's UcxMemory::PackKey gave. ERRORS: kUnavailable, kIo.
  [[nodiscard]] static Result<std::unique_ptr<UcxRemoteKey>> Unpack(UcxEndpoint& endpoint,
                                                                    const std::string& packed);
  ~UcxRemoteKey();
  UcxRemoteKey(const UcxRemoteKey&) = delete;
  UcxRemoteKey& operator=(const UcxRemoteKey&) = delete;

  [[nodiscard]] ucp_rkey_h handle() const { return key_; }
  // Where the peer's memory at `remote_address` lies here; valid while the key lives.
  // ERRORS: kUnavailable when it cannot be mapped (another host, or not made for it).
  [[nodiscard]] Result<const std::byte*> Map(uint64_t remote_address) const;

 private:
  explicit UcxRemoteKey(ucp_rkey_h key) : key_(key) {}
  const ucp_rkey_h key_;  // owned
};

}  // namespace engram

#include "engram/transport/ucx/ucx_remote_key.h"

#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {
// UCX takes keys without their length, at most 64 parts of 255 bytes: zeros behind a cut-off one
// keep its parser inside.
constexpr size_t kKeyPaddingBytes = 64 * 256 + 16;
}  // namespace

Result<std::unique_ptr<UcxRemoteKey>> UcxRemoteKey::Unpack(UcxEndpoint& endpoint,
                                                           const std::string& packed) {
  if (packed.empty()) {
    return Error(StatusCode::kInvalidArgument, "the peer's memory key is empty");
  }
  const std::string padded = packed + std::string(kKeyPaddingBytes, '\0');
  ucp_rkey_h key = nullptr;
  const ucs_status_t status = ucp_ep_rkey_unpack(endpoint.handle(), padded.data(), &key);
  if (status != UCS_OK) return Error(UcxStatus(status, "unpacking a peer's memory key"));
  return std::unique_ptr<UcxRemoteKey>(new UcxRemoteKey(key));
}

UcxRemoteKey::~UcxRemoteKey() { ucp_rkey_destroy(key_); }

Result<const std::byte*> UcxRemoteKey::Map(uint64_t remote_address) const {
  void* local = nullptr;
  const ucs_status_t status = ucp_rkey_ptr(key_, remote_address, &local);
  if (status != UCS_OK) {
    return Error(
        StatusCode::kUnavailable,
        std::string("the node's memory cannot be mapped here: ") + ucs_status_string(status));
  }
  return static_cast<const std::byte*>(local);
}

}  // namespace engram

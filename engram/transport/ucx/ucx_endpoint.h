// A UCX endpoint: the way to one worker of a peer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <ucp/api/ucp.h>

#include "engram/transport/ucx/ucx_worker.h"

namespace engram {

class UcxRemoteKey;

// Lives on its worker's thread; the worker must outlive it. The destructor is the one place that
// closes it: operations in flight complete with an error during the worker's next Progress calls.
// Not to be destroyed inside a completion or message handler.
class UcxEndpoint {
 public:
  // `peer_address` is what the peer's UcxWorker::Address gave.
  // ERRORS: kUnavailable (no transport in common), kInvalidArgument, kIo.
  [[nodiscard]] static Result<std::unique_ptr<UcxEndpoint>> Create(UcxWorker& worker,
                                                                   const std::string& peer_address);
  ~UcxEndpoint();
  UcxEndpoint(const UcxEndpoint&) = delete;
  UcxEndpoint& operator=(const UcxEndpoint&) = delete;

  [[nodiscard]] ucp_ep_h handle() const { return endpoint_; }

  // Sends a message. `header` and `body` must stay until it is complete.
  //   eager  the body goes at once, even if it is long
  [[nodiscard]] UcxStarted Send(uint32_t id, std::span<const std::byte> header,
                                std::span<const std::byte> body, bool eager, UcxCompletion* done);

  // Complete when everything sent so far has been handed to the network, or cannot be any more.
  [[nodiscard]] UcxStarted Flush(UcxCompletion* done);

  // Reads `bytes` of the peer's memory at `remote_address` into `target`, by the network card.
  [[nodiscard]] UcxStarted Get(const UcxRemoteKey& key, uint64_t remote_address, std::byte* target,
                               uint64_t bytes, UcxCompletion* done);

  // Not kOk once UCX found the peer lost. Whoever owns the endpoint looks and ends the session.
  [[nodiscard]] ucs_status_t failure() const { return failure_; }

 private:
  explicit UcxEndpoint(UcxWorker& worker) : worker_(worker) {}
  static void OnError(void* arg, ucp_ep_h endpoint, ucs_status_t status);

  UcxWorker& worker_;
  ucp_ep_h endpoint_ = nullptr;  // owned
  ucs_status_t failure_ = UCS_OK;
};

}  // namespace engram

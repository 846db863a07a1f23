// A UCX context: the networks and shared memory that its workers may use.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <ucp/api/ucp.h>

#include "engram/base/status.h"

namespace engram {

// Sets the UCX settings that this transport needs, each as an environment variable and only where
// the user has not set it. Called by every UcxContext::Create; works once. It is not safe beside
// another thread that reads the environment, so programs create their transport before threads that
// do.
//   UCX_{POSIX,SYSV,MM}_ERROR_HANDLING=y  shared memory between peers that may die
//   UCX_{POSIX,SYSV}_HUGETLB_MODE=try     huge pages where there are any; "yes" fails elsewhere
//   UCX_WARN_UNUSED_ENV_VARS=n            these names differ between UCX versions and transports
//   UCX_TCP_KEEPIDLE, UCX_KEEPALIVE_INTERVAL  shorter; sessions have their own sign of life anyway
//   UCX_TCP_CONN_NB=y                     nobody waits for a peer that does not take a connection
//   UCX_TCP_RX_SEG_SIZE=256k              the largest piece of a message; the same on both sides
//   UCX_POSIX_USE_PROC_LINK is left alone: memory of another PID namespace is then not mapped
void SetUcxDefaults();

// UCX_TCP_RX_SEG_SIZE as it is set. UCX sends pieces of its own size and receives into buffers of
// its own size, unchecked: from a peer with a larger one it writes past them. So a session opens
// only where both are alike.
std::string UcxTcpSegment();

// Bytes of a message, without its headers, that UCX sends as one piece over TCP by our default.
inline constexpr uint64_t kTcpPieceBytes = (256u << 10) - 1024;

// Thread-safe after Create.
class UcxContext {
 public:
  struct Options {
    uint64_t features = 0;  // UCP_FEATURE_*
    // "auto": UCX's choice without cross-memory attach (or the user's UCX_TLS);
    // "tcp": TCP and nothing else; "shm": shared memory and nothing else;
    // "rdma": network cards that do remote memory access, and nothing else;
    // anything else is given to UCX as its UCX_TLS.
    std::string tls = "auto";
    std::string name;  // for UCX's own messages
    // Reads by "rdma" go into memory that processors cannot write: a GPU's, which `nvidia-peermem`
    // lets the card reach. UCX takes it for the host's, so it needs no CUDA.
    bool into_gpu = false;
  };
  // ERRORS: kUnavailable (no such device here), kIo.
  [[nodiscard]] static Result<std::unique_ptr<UcxContext>> Create(const Options& options);
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  [[nodiscard]] ucp_context_h handle() const { return context_; }
  // Whether some peers may be reached by network cards that fetch a long message by themselves.
  // Else (TCP, shared memory) processors copy it whatever is done.
  [[nodiscard]] bool has_network_cards() const { return has_network_cards_; }

 private:
  UcxContext(ucp_context_h context, bool has_network_cards)
      : context_(context), has_network_cards_(has_network_cards) {}
  const ucp_context_h context_;  // owned
  const bool has_network_cards_;
};

}  // namespace engram

// A blocking connection that sends any bytes, plain or under TLS.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engram/security/tls_identity.h"
#include "proto/rpc.pb.h"

struct ssl_st;

namespace engram::test {

// Nothing of it waits longer than its patience. Thread-compatible.
class Wire {
 public:
  struct Options {
    std::chrono::milliseconds patience{5000};
    std::string source;  // "127.0.0.2": the address it comes from; empty: as the system likes
    bool tls = false;
    // Shown and checked; null with tls: no certificate, and any is taken.
    std::shared_ptr<TlsIdentity> identity;
    int tls_version_max = 0;  // 0: the newest
    bool reset = false;       // goes without a goodbye
    // Bytes that the system keeps of what came; 0: as it likes.
    int receive_buffer_bytes = 0;
  };
  // Null: it was not let in.
  [[nodiscard]] static std::unique_ptr<Wire> Connect(const std::string& address,
                                                     const Options& options);
  [[nodiscard]] static std::unique_ptr<Wire> Connect(const std::string& address);
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  // False: the peer has closed, or does not take them.
  bool Send(std::string_view bytes);
  // What has come, waiting for it; empty: closed, or nothing within the patience.
  [[nodiscard]] std::string Receive();
  // True when the peer has closed, or does within `patience`.
  [[nodiscard]] bool ClosedWithin(std::chrono::milliseconds patience);
  [[nodiscard]] int fd() const { return fd_; }

  bool SendFrame(const proto::Frame& frame);
  // None: closed, or nothing whole within the patience.
  [[nodiscard]] std::optional<proto::Frame> ReceiveFrame();

 private:
  explicit Wire(int fd) : fd_(fd) {}
  [[nodiscard]] bool StartTls(const Options& options);
  void SetPatience(std::chrono::milliseconds patience) const;

  const int fd_;  // owned
  bool reset_ = false;
  std::shared_ptr<void> context_;  // outlives ssl_
  ssl_st* ssl_ = nullptr;          // owned
  std::string frames_;             // came, and not yet given
};

// The bytes of a frame with this length field.
[[nodiscard]] std::string FrameBytes(uint32_t length, std::string_view bytes);

}  // namespace engram::test

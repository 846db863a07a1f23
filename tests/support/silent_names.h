// A thread where nobody answers what address a name has, as in a container whose peer is gone.
#pragma once

#include <memory>
#include <string>

#include "engram/base/status.h"

namespace engram::test {

// From its creation on the calling thread, and threads that it starts later, are on a network of
// their own with loopback alone, know "here" (127.0.0.1), and ask a DNS server for other names that
// takes questions and answers none: getaddrinfo gives up after 10 s. There is no way back, so take
// a thread for it, and one such object a thread. Thread-compatible.
class SilentNames {
 public:
  // ERRORS: kPermissionDenied where the process may make no namespaces: root may.
  [[nodiscard]] static Result<std::unique_ptr<SilentNames>> Create();
  ~SilentNames();
  SilentNames(const SilentNames&) = delete;
  SilentNames& operator=(const SilentNames&) = delete;

 private:
  explicit SilentNames(int socket) : socket_(socket) {}
  const int socket_;  // UDP, at 127.0.0.1:53
};

}  // namespace engram::test

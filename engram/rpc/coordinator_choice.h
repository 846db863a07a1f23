// Which of several coordinators to ask next. Pure: no I/O, no time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engram {

// Goes through the addresses in turn, and at once to the leader that a follower names. Followers
// may be wrong for a moment, about each other too: after kRedirectsMax redirects without an answer
// in between, one more is an ordinary failure, so that its caller waits. Thread-compatible.
class CoordinatorChoice {
 public:
  static constexpr uint32_t kRedirectsMax = 3;

  // Precondition: at least one address.
  explicit CoordinatorChoice(std::vector<std::string> addresses);

  // Whom to ask now: an address given, or the leader that a follower named.
  [[nodiscard]] const std::string& current() const { return current_; }
  [[nodiscard]] size_t size() const { return addresses_.size(); }

  // `current` answered as it should.
  void Answered() { redirects_ = 0; }
  // `current` failed; `leader` is whom it named (RpcClient::leader()), or empty.
  // True: ask the new `current` at once. False: it is the next one's turn, after a pause.
  [[nodiscard]] bool Failed(std::string_view leader);

 private:
  const std::vector<std::string> addresses_;
  size_t next_ = 0;  // whose turn it is when `current` fails
  uint32_t redirects_ = 0;
  std::string current_;
};

}  // namespace engram

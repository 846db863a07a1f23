#include "engram/rpc/coordinator_choice.h"

#include <utility>

#include "engram/base/check.h"
#include "engram/rpc/host_port.h"

namespace engram {

CoordinatorChoice::CoordinatorChoice(std::vector<std::string> addresses)
    : addresses_(std::move(addresses)) {
  ENGRAM_CHECK(!addresses_.empty());
  current_ = addresses_[0];
  next_ = 1 % addresses_.size();
}

bool CoordinatorChoice::Failed(std::string_view leader) {
  if (leader != current_ && redirects_ < kRedirectsMax && ParseHostPort(leader).has_value()) {
    ++redirects_;
    current_ = leader;
    return true;
  }
  current_ = addresses_[next_];
  next_ = (next_ + 1) % addresses_.size();
  redirects_ = 0;
  return false;
}

}  // namespace engram

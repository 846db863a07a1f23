// The session tokens that the coordinator gave this client.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "engram/base/strong_id.h"

namespace engram {

// Filled by the shard directories of each version, read when sessions are opened and renewed.
// Thread-safe.
class TokenBook {
 public:
  void Put(TableVersion version, const std::string& address, std::string token) {
    const std::lock_guard lock(mutex_);
    tokens_.insert_or_assign({version, address}, std::move(token));
  }
  // Empty: none.
  [[nodiscard]] std::string Get(TableVersion version, const std::string& address) const {
    const std::lock_guard lock(mutex_);
    const auto found = tokens_.find({version, address});
    return found == tokens_.end() ? std::string() : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<TableVersion, std::string>, std::string> tokens_;  // guarded by mutex_
};

}  // namespace engram

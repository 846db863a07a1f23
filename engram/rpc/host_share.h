// Who may come in and who goes, where hosts share what a server has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

namespace engram {

// "As much as is free": whether a host that has `of_host` may have `more`, where all hosts together
// have `all` of `all_max`. One alone gets half, two a third each: somebody new always finds room.
[[nodiscard]] inline bool IsFree(uint64_t of_host, uint64_t more, uint64_t all, uint64_t all_max) {
  return all <= all_max && of_host + more <= all_max - all;
}

// Counts by host. Thread-compatible.
class HostCounts {
 public:
  // Counts `amount` while it lives, the counts too.
  class Share {
   public:
    Share(std::shared_ptr<HostCounts> counts, std::string host, uint64_t amount = 1)
        : counts_(std::move(counts)), host_(std::move(host)), amount_(amount) {
      counts_->by_host_[host_] += amount_;
      counts_->all_ += amount_;
    }
    ~Share() {
      counts_->all_ -= amount_;
      const auto found = counts_->by_host_.find(host_);
      if (found != counts_->by_host_.end() && (found->second -= amount_) == 0) {
        counts_->by_host_.erase(found);
      }
    }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

   private:
    const std::shared_ptr<HostCounts> counts_;
    const std::string host_;
    const uint64_t amount_;
  };

  [[nodiscard]] uint64_t of(const std::string& host) const {
    const auto found = by_host_.find(host);
    return found == by_host_.end() ? 0 : found->second;
  }
  [[nodiscard]] uint64_t all() const { return all_; }

 private:
  std::unordered_map<std::string, uint64_t> by_host_;  // none is 0
  uint64_t all_ = 0;
};

// Those that wait to be told who they are, or never will be: where one is too many, the oldest of
// the host that has most goes, so that no host keeps another's out. Thread-compatible.
class HostQueue {
 public:
  // The number is what Remove takes. `close` is called once at most.
  [[nodiscard]] uint64_t Add(std::string host, std::function<void()> close) {
    ++by_host_[host];
    waiting_.emplace(next_, Waiting{std::move(host), std::move(close)});
    return next_++;
  }
  // Nothing where it has gone already.
  void Remove(uint64_t number) {
    const auto found = waiting_.find(number);
    if (found == waiting_.end()) return;
    const auto count = by_host_.find(found->second.host);
    if (--count->second == 0) by_host_.erase(count);
    waiting_.erase(found);
  }
  void CloseOne() {
    const auto most =
        std::max_element(by_host_.begin(), by_host_.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most == by_host_.end()) return;
    const auto oldest = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& entry) {
      return entry.second.host == most->first;
    });
    const std::function<void()> close = std::move(oldest->second.close);
    Remove(oldest->first);
    close();
  }
  void CloseAll() {
    while (!waiting_.empty()) CloseOne();
  }
  [[nodiscard]] size_t size() const { return waiting_.size(); }

 private:
  struct Waiting {
    std::string host;
    std::function<void()> close;
  };
  std::map<uint64_t, Waiting> waiting_;  // by number, so oldest first
  std::unordered_map<std::string, uint64_t> by_host_;
  uint64_t next_ = 1;
};

}  // namespace engram

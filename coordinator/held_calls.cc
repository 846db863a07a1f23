#include "coordinator/held_calls.h"

#include <utility>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace engram {
namespace {

template <typename Counts, typename Key>
void CountDown(Counts& counts, const Key& key) {
  const auto found = counts.find(key);
  if (--found->second == 0) counts.erase(found);
}

}  // namespace

std::string HostOfPeer(const RpcPeer& peer) {
  return peer.address.substr(0, peer.address.rfind(':'));
}

HeldCalls::Call::Call(std::shared_ptr<HeldCalls> calls, const RpcPeer& peer, By by)
    : calls_(std::move(calls)),
      connection_(peer.connection_id),
      by_(by),
      host_(HostOfPeer(peer)),
      timer_(calls_->executor_) {
  calls_->calls_.insert(this);
  ++calls_->by_connection_[connection_];
  if (by_ == By::kNode) return;
  ++calls_->by_host_[host_];
  ++calls_->readers_;
}

HeldCalls::Call::~Call() {
  calls_->calls_.erase(this);
  CountDown(calls_->by_connection_, connection_);
  if (by_ == By::kNode) return;
  CountDown(calls_->by_host_, host_);
  --calls_->readers_;
}

boost::asio::awaitable<void> HeldCalls::Call::Wait(MonotonicTime until) {
  boost::system::error_code ignored;
  timer_.expires_at(until);
  co_await timer_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
  ++calls_->wakes_;
}

Status HeldCalls::Hold(const RpcPeer& peer, By by, std::unique_ptr<Call>* call) {
  if (*call != nullptr) return Status();
  const auto of_connection = by_connection_.find(peer.connection_id);
  if (of_connection != by_connection_.end() && of_connection->second >= options_.connection_max) {
    return Status(StatusCode::kResourceExhausted,
                  std::to_string(of_connection->second) +
                      " calls of this connection are held back already: await one of them, or ask "
                      "with wait_ms 0");
  }
  // Nodes must not find their room taken by readers.
  if (by == By::kReader) {
    const auto found = by_host_.find(HostOfPeer(peer));
    const uint32_t of_host = found == by_host_.end() ? 0 : found->second;
    if (of_host >= options_.readers_max - readers_) {
      return Status(StatusCode::kResourceExhausted,
                    std::to_string(readers_) + " of " + std::to_string(options_.readers_max) +
                        " calls are held back, " + std::to_string(of_host) +
                        " of them for this host, which may have no more: await one of them, or ask "
                        "with wait_ms 0");
    }
  }
  call->reset(new Call(shared_from_this(), peer, by));
  return Status();
}

void HeldCalls::WakeAll() {
  for (Call* const call : calls_) call->timer_.cancel();
}

}  // namespace engram

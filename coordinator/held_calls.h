// Calls that are held back until something changes or their time is up, and how many there may be.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/rpc/rpc_server.h"

namespace engram {

// In a coroutine, again and again until there is an answer: look, Hold, Wait. Everything runs on
// the executor given (a strand or a single-threaded io_context). Owned by shared_ptr: calls keep
// it.
class HeldCalls : public std::enable_shared_from_this<HeldCalls> {
 public:
  struct Options {
    // Our own clients and nodes hold one.
    uint32_t connection_max = 4;
    // Of everybody but nodes: a host may have as many as are still free, so half of them alone, a
    // third each of two, and somebody new always finds room.
    uint32_t readers_max = 4096;
  };
  enum class By : uint8_t { kReader, kNode };

  // One that is held, from its making to its end.
  class Call {
   public:
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    // Until WakeAll or `until`, which wakes nobody else. The caller looks at what it waits for and
    // then waits without suspending in between.
    [[nodiscard]] boost::asio::awaitable<void> Wait(MonotonicTime until);

   private:
    friend class HeldCalls;
    Call(std::shared_ptr<HeldCalls> calls, const RpcPeer& peer, By by);

    const std::shared_ptr<HeldCalls> calls_;
    const uint64_t connection_;
    const By by_;
    const std::string host_;
    boost::asio::steady_timer timer_;
  };

  HeldCalls(boost::asio::any_io_executor executor, const Options& options)
      : executor_(std::move(executor)), options_(options) {}

  // Makes `call`, unless it is there already. ERRORS: kResourceExhausted naming the bound.
  [[nodiscard]] Status Hold(const RpcPeer& peer, By by, std::unique_ptr<Call>* call);
  void WakeAll();

  [[nodiscard]] size_t count() const { return calls_.size(); }
  // How often a held call looked again, since the start.
  [[nodiscard]] uint64_t wakes() const { return wakes_; }

 private:
  const boost::asio::any_io_executor executor_;
  const Options options_;
  std::unordered_set<Call*> calls_;
  std::unordered_map<uint64_t, uint32_t> by_connection_;
  std::unordered_map<std::string, uint32_t> by_host_;  // readers'
  uint32_t readers_ = 0;
  uint64_t wakes_ = 0;
};

// "host" of a peer's "host:port".
[[nodiscard]] std::string HostOfPeer(const RpcPeer& peer);

}  // namespace engram

#include "engram/rpc/host_lookup.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

// Somebody who waits; its timer ends the wait, and is touched on its executor alone.
using Waiter = std::shared_ptr<boost::asio::steady_timer>;

struct Lookup {
  std::vector<Waiter> waiters;
  bool ended = false;
  error_code error;
  tcp::resolver::results_type found;
};

// Those that run. Thread-safe.
class Lookups {
 public:
  // Of the process; never destroyed, since its threads may outlive main.
  static Lookups& Instance() {
    static auto* const instance = new Lookups;
    return *instance;
  }

  // Joins the lookup of this name, or begins one.
  Result<std::shared_ptr<Lookup>> Join(const HostPort& host, const Waiter& waiter) {
    const std::string name = host.host + ":" + std::to_string(host.port);
    const std::lock_guard lock(mutex_);
    const auto running = running_.find(name);
    if (running != running_.end()) {
      running->second->waiters.push_back(waiter);
      return running->second;
    }
    auto lookup = std::make_shared<Lookup>();
    lookup->waiters.push_back(waiter);
    try {
      std::thread([this, host, name, lookup] { Run(host, name, *lookup); }).detach();
    } catch (const std::system_error& e) {
      return Error(StatusCode::kUnavailable,
                   "no thread to look the name '" + host.host + "' up: " + e.what());
    }
    running_.emplace(name, lookup);
    return lookup;
  }
  // What it found; kDeadlineExceeded where it goes on. `waiter` is told of nothing any more.
  Result<tcp::resolver::results_type> Leave(Lookup& lookup, const Waiter& waiter,
                                            const std::string& host) {
    const std::lock_guard lock(mutex_);
    std::erase(lookup.waiters, waiter);
    if (!lookup.ended) {
      return Error(StatusCode::kDeadlineExceeded,
                   "nobody has said yet what address the name '" + host + "' has");
    }
    if (lookup.error) return Error(StatusCode::kUnavailable, lookup.error.message());
    return lookup.found;
  }

 private:
  void Run(const HostPort& host, const std::string& name, Lookup& lookup) {
    boost::asio::io_context io;
    tcp::resolver resolver(io);
    error_code error;
    auto found = resolver.resolve(host.host, std::to_string(host.port), error);
    const std::lock_guard lock(mutex_);
    lookup.ended = true;
    lookup.error = error;
    lookup.found = std::move(found);
    running_.erase(name);
    // Under the lock: nobody leaves, and with it its executor, meanwhile.
    for (const Waiter& waiter : lookup.waiters) {
      boost::asio::post(waiter->get_executor(), [waiting = std::weak_ptr(waiter)] {
        if (const Waiter still = waiting.lock()) still->cancel();
      });
    }
    lookup.waiters.clear();
  }

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Lookup>> running_;
};

// Leaves where the coroutine is destroyed while it waits, too.
class Joined {
 public:
  Joined(std::shared_ptr<Lookup> lookup, Waiter waiter, std::string host)
      : lookup_(std::move(lookup)), waiter_(std::move(waiter)), host_(std::move(host)) {}
  ~Joined() { (void)Leave(); }
  Joined(const Joined&) = delete;
  Joined& operator=(const Joined&) = delete;
  Result<tcp::resolver::results_type> Leave() {
    return Lookups::Instance().Leave(*lookup_, waiter_, host_);
  }

 private:
  const std::shared_ptr<Lookup> lookup_;
  const Waiter waiter_;
  const std::string host_;
};

}  // namespace

awaitable<Result<tcp::resolver::results_type>> LookUpHost(boost::asio::any_io_executor executor,
                                                          HostPort host, MonotonicTime until) {
  error_code error;
  const auto number = boost::asio::ip::make_address(host.host, error);
  if (!error) {
    co_return tcp::resolver::results_type::create(tcp::endpoint(number, host.port), host.host,
                                                  std::to_string(host.port));
  }
  const auto waiter = std::make_shared<boost::asio::steady_timer>(executor, until);
  auto lookup = Lookups::Instance().Join(host, waiter);
  if (!lookup.has_value()) co_return Error(lookup.error());
  Joined joined(*std::move(lookup), waiter, host.host);
  // The thread's word comes by way of this executor, so not before this waits.
  co_await waiter->async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, error));
  co_return joined.Leave();
}

}  // namespace engram

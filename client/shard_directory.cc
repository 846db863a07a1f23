#include "client/shard_directory.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <spdlog/spdlog.h>

#include "client/directory_state.h"
#include "engram/base/clock.h"
#include "engram/rpc/coordinator_choice.h"
#include "engram/rpc/rpc_client.h"
#include "proto/directory.pb.h"

namespace engram {
namespace {

namespace asio = boost::asio;
using Milliseconds = std::chrono::milliseconds;

constexpr Milliseconds kReadyPoll{50};
constexpr Milliseconds kTokensRetry{1000};
constexpr Duration kReportAgain = std::chrono::seconds(10);

// Errors that no other try changes.
bool IsFinal(StatusCode code) {
  return code == StatusCode::kWrongModel || code == StatusCode::kInvalidArgument ||
         code == StatusCode::kPermissionDenied;
}

DirectoryState::Options StateOptions(const ShardDirectoryOptions& options) {
  DirectoryState::Options state;
  state.version = options.version;
  if (options.identity != nullptr) state.identity = *options.identity;
  return state;
}

class ShardDirectoryImpl final : public ShardDirectory {
 public:
  explicit ShardDirectoryImpl(const ShardDirectoryOptions& options)
      : options_(options),
        timer_(io_),
        state_(StateOptions(options)),
        random_(std::random_device{}()) {}

  ~ShardDirectoryImpl() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  // Blocks; see ShardDirectory::Connect.
  Status Start() {
    asio::co_spawn(io_, Run(), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
    (void)pthread_setname_np(thread_.native_handle(), "engram-maps");
    std::unique_lock lock(mutex_);
    const auto done = [this] {
      return !final_error_.ok() || (map_ != nullptr && (ready_.load() || !options_.wait_ready));
    };
    if (!changed_.wait_for(lock, options_.ready_timeout, done)) {
      const std::string waited = std::to_string(options_.ready_timeout.count()) + " ms";
      if (map_ != nullptr) {
        return Status(StatusCode::kUnavailable,
                      "table version " + std::to_string(map_->version.value()) +
                          " is not ready after " + waited +
                          ": memory nodes are missing or still loading (engramctl status)");
      }
      if (health_.ok()) {
        return Status(StatusCode::kDeadlineExceeded, "no shard map came within " + waited);
      }
      return health_.WithContext("no shard map after " + waited);
    }
    return final_error_;
  }

  // -- ShardMapSource
  [[nodiscard]] std::shared_ptr<const ShardMap> Current() const override {
    const std::lock_guard lock(mutex_);
    return map_;
  }
  [[nodiscard]] uint64_t Subscribe(std::function<void()> on_change) override {
    const std::lock_guard lock(subscribers_mutex_);
    subscribers_.emplace(++last_subscription_, std::move(on_change));
    return last_subscription_;
  }
  void Unsubscribe(uint64_t subscription) override {
    const std::lock_guard lock(subscribers_mutex_);
    subscribers_.erase(subscription);
  }
  // -- CurrentVersionSource
  [[nodiscard]] TableVersion CurrentVersion() const override { return current_version_.load(); }
  [[nodiscard]] uint64_t SubscribeCurrent(std::function<void()> on_change) override {
    const std::lock_guard lock(subscribers_mutex_);
    current_subscribers_.emplace(++last_subscription_, std::move(on_change));
    return last_subscription_;
  }
  void UnsubscribeCurrent(uint64_t subscription) override {
    const std::lock_guard lock(subscribers_mutex_);
    current_subscribers_.erase(subscription);
  }
  // A poll waits at the coordinator all the time, or the next try to reach one is at most
  // reconnect_delay_max away: there is nothing to hurry.
  void WantNewer() override {}
  void ReportSlot(SlotIndex slot, const ShardMapNode& node) override {
    {
      const std::lock_guard lock(mutex_);
      const MonotonicTime now = SteadyClock().Now();
      if (now - reports_since_ > kReportAgain) {
        reports_.clear();
        reports_since_ = now;
      }
      if (reports_.size() >= kSlotReportsMax || !reports_.emplace(slot, node.id).second) return;
    }
    proto::ReportSlotRequest request;
    request.set_version(version().value());
    request.set_slot(slot.value());
    request.set_node_id(node.id);
    request.set_incarnation(node.incarnation.value());
    asio::post(io_, [this, request = std::move(request)]() mutable {
      if (client_ == nullptr) return;  // scrubbing finds it later
      asio::co_spawn(io_, Report(client_, std::move(request)), asio::detached);
    });
  }

  // -- ShardDirectory. What is set before the first map is there never changes after.
  [[nodiscard]] TableVersion version() const override { return state_.version(); }
  [[nodiscard]] const std::shared_ptr<const TableLayout>& layout() const override {
    return state_.layout();
  }
  [[nodiscard]] const ModelIdentity& identity() const override { return state_.identity(); }
  [[nodiscard]] bool ready() const override { return ready_.load(); }
  [[nodiscard]] Status Health() const override {
    const std::lock_guard lock(mutex_);
    return health_;
  }

 private:
  // The control thread's life: one coordinator after the other, for ever.
  asio::awaitable<void> Run() {
    uint32_t failures = 0;
    CoordinatorChoice choice(options_.coordinators);
    while (true) {
      const std::string address = choice.current();
      std::string leader;
      auto client = co_await RpcClient::Connect(io_.get_executor(), address, options_.call_timeout,
                                                options_.security);
      Status why;
      if (client.has_value()) {
        client_ = *client;
        bool answered = false;
        why = co_await Poll(*client, &answered);
        leader = client_->leader();
        client_->Close();
        client_ = nullptr;
        if (answered) {
          failures = 0;
          choice.Answered();
        }
      } else {
        why = client.error();
      }
      why = why.WithContext("coordinator " + address);
      SetHealth(why);
      if (IsFinal(why.code()) && Current() == nullptr) {
        Fail(why);
        co_return;
      }
      if (failures == 0) {
        spdlog::warn("{}; {}", why.ToString(),
                     Current() == nullptr ? "trying again" : "reads go on with the last shard map");
      }
      // A follower that cannot answer names its leader; an answer of its own is as good as his.
      if (!choice.Failed(why.code() == StatusCode::kUnavailable ? leader : std::string())) {
        co_await Pause(ReconnectDelay(failures++));
      }
    }
  }

  // Asks one coordinator for newer maps until it fails.
  asio::awaitable<Status> Poll(std::shared_ptr<RpcClient> client, bool* answered) {
    while (true) {
      const Milliseconds wait =
          state_.ready() ? std::min(options_.poll_wait, tokens_again_) : Milliseconds(0);
      proto::GetShardMapRequest request = state_.NextRequest();
      request.set_wait_ms(static_cast<uint32_t>(wait.count()));
      auto reply = co_await client->Call<proto::GetShardMapReply>("directory.GetShardMap", request,
                                                                  wait + options_.call_timeout);
      if (!reply.has_value()) co_return reply.error();
      const Status taken = co_await Take(client, *reply);
      if (!taken.ok()) co_return taken;
      *answered = true;
      SetHealth({});
      if (!ready_.load()) co_await Pause(kReadyPoll);
    }
  }

  asio::awaitable<Status> Take(std::shared_ptr<RpcClient> client,
                               const proto::GetShardMapReply& reply) {
    auto newer = state_.Take(reply);
    if (!newer.has_value()) co_return std::move(newer).error();
    if (options_.tokens != nullptr && state_.map() != nullptr &&
        (*newer || SteadyClock().Now() >= tokens_due_)) {
      co_await FetchTokens(client);
    }
    // Before Connect returns: who subscribes after it is told of later maps only.
    if (*newer) {
      {
        const std::lock_guard lock(mutex_);
        map_ = state_.map();
      }
      Tell(subscribers_);
    }
    if (current_version_.exchange(state_.current_version()) != state_.current_version()) {
      Tell(current_subscribers_);
    }
    if (map_ != nullptr) SetReady(state_.ready());
    co_return Status();
  }

  // Those that are there stay where new ones cannot be had: they are good for a while.
  asio::awaitable<void> FetchTokens(std::shared_ptr<RpcClient> client) {
    const std::shared_ptr<const ShardMap> map = state_.map();
    proto::GetTokensRequest request;
    request.set_version(map->version.value());
    for (const ShardMapNode& node : map->nodes) request.add_addresses(node.address);
    const auto reply =
        co_await CallLeader<proto::GetTokensReply>(client, "directory.GetTokens", request);
    if (!reply.has_value()) {
      tokens_due_ = SteadyClock().Now() + kTokensRetry;
      tokens_again_ = kTokensRetry;
      spdlog::warn("no new session tokens: {}", reply.error().ToString());
      co_return;
    }
    if (reply->tokens_size() == 0) {  // development mode
      tokens_due_ = MonotonicTime::max();
      tokens_again_ = Milliseconds::max();
      co_return;
    }
    const MonotonicTime now = SteadyClock().Now();
    const std::set<uint32_t> untold(reply->untold().begin(), reply->untold().end());
    for (int i = 0; i < std::min(reply->tokens_size(), request.addresses_size()); ++i) {
      // An older one that is good opens sessions there now.
      if (now < tokens_lapse_ && untold.contains(static_cast<uint32_t>(i)) &&
          !options_.tokens->Get(map->version, request.addresses(i)).empty()) {
        continue;
      }
      options_.tokens->Put(map->version, request.addresses(i), reply->tokens(i));
    }
    const Milliseconds lifetime(reply->lifetime_ms());
    if (untold.empty()) tokens_lapse_ = now + lifetime;
    tokens_again_ = untold.empty() ? std::max(lifetime / 4, Milliseconds(100)) : kTokensRetry;
    tokens_due_ = now + tokens_again_;
  }

  // Maps may come from a follower; this is for the leader.
  template <typename Reply, typename Request>
  asio::awaitable<Result<Reply>> CallLeader(std::shared_ptr<RpcClient> client,
                                            std::string_view method, const Request& request) {
    auto reply = co_await client->Call<Reply>(method, request, options_.call_timeout);
    const std::string leader = client->leader();
    if (reply.has_value() || reply.error().code() != StatusCode::kUnavailable || leader.empty()) {
      co_return reply;
    }
    auto led = co_await RpcClient::Connect(io_.get_executor(), leader, options_.call_timeout,
                                           options_.security);
    if (!led.has_value()) co_return Error(led.error());
    co_return co_await (*led)->template Call<Reply>(method, request, options_.call_timeout);
  }

  void Tell(const std::map<uint64_t, std::function<void()>>& subscribers) {
    const std::lock_guard lock(subscribers_mutex_);
    for (const auto& [id, on_change] : subscribers) on_change();
  }

  asio::awaitable<void> Report(std::shared_ptr<RpcClient> client,
                               proto::ReportSlotRequest request) {
    const auto reply =
        co_await CallLeader<proto::ReportSlotReply>(client, "directory.ReportSlot", request);
    if (!reply.has_value()) {
      spdlog::warn("slot {} on {} has damaged rows; the report was not taken: {}", request.slot(),
                   request.node_id(), reply.error().ToString());
    }
  }

  asio::awaitable<void> Pause(Duration delay) {
    timer_.expires_after(delay);
    (void)co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
  }

  Duration ReconnectDelay(uint32_t failures) {
    Duration delay = options_.reconnect_delay_min;
    for (uint32_t i = 0; i < failures && delay < options_.reconnect_delay_max; ++i) delay *= 2;
    delay = std::min<Duration>(delay, options_.reconnect_delay_max);
    std::uniform_int_distribution<Duration::rep> jitter(delay.count() / 2, delay.count());
    return Duration(jitter(random_));
  }

  void SetHealth(const Status& status) {
    const std::lock_guard lock(mutex_);
    health_ = status;
  }
  void SetReady(bool ready) {
    {
      const std::lock_guard lock(mutex_);
      ready_.store(ready);
    }
    changed_.notify_all();
  }
  void Fail(const Status& status) {
    {
      const std::lock_guard lock(mutex_);
      final_error_ = status;
    }
    changed_.notify_all();
  }

  const ShardDirectoryOptions options_;
  asio::io_context io_{1};
  std::thread thread_;
  // The control thread's own.
  asio::steady_timer timer_;
  std::shared_ptr<RpcClient> client_;
  MonotonicTime tokens_due_ = MonotonicTime::max();  // fetched with the first map, then again
  Milliseconds tokens_again_ = Milliseconds::max();
  MonotonicTime tokens_lapse_ = MonotonicTime::min();  // of the oldest that are kept
  // What does not change after the first map may be read on any thread from then on.
  DirectoryState state_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<const ShardMap> map_;  // guarded by mutex_; written by the control thread
  Status health_;                        // guarded by mutex_
  Status final_error_;                   // guarded by mutex_
  std::set<std::pair<SlotIndex, std::string>> reports_;  // guarded by mutex_
  MonotonicTime reports_since_;                          // guarded by mutex_
  std::atomic<bool> ready_{false};
  std::atomic<TableVersion> current_version_{TableVersion()};
  std::mutex subscribers_mutex_;
  using Subscribers = std::map<uint64_t, std::function<void()>>;
  Subscribers subscribers_;          // guarded by subscribers_mutex_, as the next
  Subscribers current_subscribers_;  // of the current version
  uint64_t last_subscription_ = 0;   // guarded by subscribers_mutex_
  std::mt19937_64 random_;
};

}  // namespace

Result<std::shared_ptr<ShardDirectory>> ShardDirectory::Connect(
    const ShardDirectoryOptions& options) {
  if (options.coordinators.empty()) {
    return Error(StatusCode::kInvalidArgument,
                 "no coordinator address: give at least one host:port");
  }
  auto directory = std::make_shared<ShardDirectoryImpl>(options);
  ENGRAM_TRY(directory->Start());
  return directory;
}

}  // namespace engram

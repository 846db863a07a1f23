// The shell around ClusterState: carries events in from the network and effects out, in this order:
// durable first, visible after.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include "coordinator/cluster_state.h"
#include "coordinator/metadata_store.h"
#include "engram/base/status.h"
#include "engram/http/http_server.h"
#include "engram/http/service_pages.h"
#include "engram/rpc/rpc_server.h"

namespace engram {

// Everything runs on the executor given (a strand or a single-threaded io_context), which owns all
// state here; only checkpoints are read on a thread of its own.
class CoordinatorService {
 public:
  struct Options {
    ClusterState::Options cluster;
    uint32_t wait_ms_max = 30'000;  // a held call is answered by then
  };
  // Called when the store fails or another coordinator took over: what is in memory may run ahead
  // of what is durable, so the process must end.
  using OnFatal = std::function<void(const Status&)>;

  // Begins a term, reads the state back. `executor` and `clock` outlive the service.
  // ERRORS: those of the store, kCorrupt.
  [[nodiscard]] static Result<std::unique_ptr<CoordinatorService>> Create(
      boost::asio::any_io_executor executor, std::unique_ptr<MetadataStore> store,
      const Options& options, OnFatal on_fatal);
  ~CoordinatorService();

  // The methods of node.proto, directory.proto and admin.proto. ERRORS: kNotFound for another
  // method, kMalformed for a body that is not the method's message.
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> Handle(const RpcPeer& peer,
                                                                   std::string_view method,
                                                                   std::string body);
  // Starts the clock that finds lost nodes.
  void StartTicking();
  // Ends held calls and the clock.
  void Stop();

  // /healthz, /readyz, /metrics and /status (JSON).
  [[nodiscard]] HttpServer::Handler Pages();

 private:
  CoordinatorService(boost::asio::any_io_executor executor, std::unique_ptr<MetadataStore> store,
                     const Options& options, OnFatal on_fatal, uint64_t term);
  // Steps, persists, then wakes. The event's status, or why it could not be persisted.
  [[nodiscard]] Status Apply(const ClusterEvent& event, TableVersion* created = nullptr);
  [[nodiscard]] Status Settle(const ClusterEffects& effects);
  [[nodiscard]] boost::asio::awaitable<void> Tick();
  // Until something changed or `until`.
  [[nodiscard]] boost::asio::awaitable<void> WaitForChange(MonotonicTime until);

  [[nodiscard]] boost::asio::awaitable<Result<std::string>> Register(std::string body);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> Heartbeat(std::string body);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> GetShardMap(std::string body);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> ReportSlot(std::string body);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> CreateVersion(std::string body);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> GetStatus(std::string body);
  void UpdateGauges();

  const boost::asio::any_io_executor executor_;
  const std::unique_ptr<MetadataStore> store_;
  const Options options_;
  const OnFatal on_fatal_;
  ClusterState state_;
  boost::asio::steady_timer changed_;  // cancelled to wake every held call
  boost::asio::steady_timer tick_;
  boost::asio::thread_pool checkpoint_readers_{1};
  bool stopped_ = false;

  std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Counter>* calls_;
  prometheus::Gauge* nodes_up_;
  prometheus::Gauge* nodes_known_;
  prometheus::Gauge* slots_;
  prometheus::Gauge* slots_ready_;
  prometheus::Gauge* term_;
  prometheus::Counter* damaged_slot_reports_;
};

}  // namespace engram

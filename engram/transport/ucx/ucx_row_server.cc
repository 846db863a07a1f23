#include "engram/transport/ucx/ucx_row_server.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <spdlog/spdlog.h>

#include "engram/base/check.h"
#include "engram/base/network_interfaces.h"
#include "engram/rpc/host_port.h"
#include "engram/transport/ucx/gather_thread.h"
#include "engram/transport/ucx/one_sided_check.h"
#include "engram/transport/ucx/session_service.h"
#include "engram/transport/ucx/ucx_context.h"
#include "engram/transport/ucx/ucx_memory.h"

namespace engram {
namespace {

constexpr uint32_t kGatherThreadsMax = 256;
constexpr std::chrono::seconds kLinkPatience{10};  // carriers of containers come late on busy hosts
// What two clients may have in flight: one alone gets half of the room.
constexpr uint64_t kWaitingRowsMin = 2 * (kReadRowsMax + ReadQueue::kReadCost);
// Rows of a decode step go at once: a rendezvous is one more round trip between threads that sleep,
// which took longer than the rows themselves. Longer ones a card may fetch by itself; no card has
// been measured.
constexpr uint64_t kEagerToCardsBytesMax = 64u << 10;

Status CheckOptions(const UcxRowServerOptions& options) {
  if (options.incarnation == Incarnation(0)) {
    return {StatusCode::kInvalidArgument, "a row server's incarnation must not be 0"};
  }
  if (options.gather_threads == 0 || options.gather_threads > kGatherThreadsMax) {
    return {StatusCode::kInvalidArgument,
            "gather threads must be 1 to 256, not " + std::to_string(options.gather_threads)};
  }
  if (options.waiting_rows_max < uint64_t{options.gather_threads} * kWaitingRowsMin) {
    return {StatusCode::kInvalidArgument, "room for waiting rows must be " +
                                              std::to_string(kWaitingRowsMin) +
                                              " at least for every gather thread, not " +
                                              std::to_string(options.waiting_rows_max) + " in all"};
  }
  if (options.lease.count() < 0 || options.lease > std::chrono::minutes(1)) {
    return {StatusCode::kInvalidArgument,
            "a lease must be 0 to 60000 ms, not " + std::to_string(options.lease.count())};
  }
  if (options.one_sided != "off" && options.one_sided != "rdma" && options.one_sided != "shm") {
    return {StatusCode::kInvalidArgument,
            "one-sided reads are off, rdma or shm, not '" + options.one_sided + "'"};
  }
  return {};
}

class UcxRowServerImpl final : public UcxRowServer {
 public:
  explicit UcxRowServerImpl(const UcxRowServerOptions& options)
      : options_(options),
        hooks_(options.test_hooks != nullptr ? options.test_hooks : &no_hooks_),
        work_(boost::asio::make_work_guard(io_)) {}
  ~UcxRowServerImpl() override;

  Status Start();
  [[nodiscard]] Result<Region> AllocateRegion(uint64_t bytes) override;
  void Serve(std::shared_ptr<const ServedSlots> slots) override;
  void Drop(TableVersion version) override;
  [[nodiscard]] std::string address() const override { return address_; }
  [[nodiscard]] RowServerStats stats() const override;
  [[nodiscard]] bool AllAcknowledged(TableVersion version, Epoch epoch) override {
    return leases_.AllAcknowledged(version, epoch, std::chrono::steady_clock::now());
  }
  [[nodiscard]] MemoryRelease StartRelease(TableVersion version, Epoch epoch,
                                           uint64_t generation) override;
  [[nodiscard]] bool MayReuse(const MemoryRelease& release) override;
  [[nodiscard]] std::string ways_off() const override { return ways_off_; }

 private:
  struct OwnedRegion {
    std::unique_ptr<UcxMemory> memory;
    std::unique_ptr<UcxMemory> one_sided;  // the same bytes for the network card
  };

  void StartOneSided();
  Status CheckOneSided();
  Status StartThreads();
  [[nodiscard]] const UcxContext& region_context() const {
    return one_sided_ != nullptr && options_.one_sided == "shm" ? *one_sided_ : *context_;
  }

  const UcxRowServerOptions options_;
  RowServerTestHooks no_hooks_;
  RowServerTestHooks* const hooks_;
  std::unique_ptr<UcxContext> context_;    // gather and mapping; never remote memory access
  std::unique_ptr<UcxContext> one_sided_;  // remote memory access; never TCP
  std::string ways_off_;
  std::string address_;
  LeaseBook leases_;
  ServedState state_;
  // A gather copies rows within one step of its thread, between which it knows no place: a task
  // that ran on a thread after places were withdrawn has outlasted every copy from them.
  std::atomic<uint64_t> sweeps_started_{0};
  std::vector<std::atomic<uint64_t>> swept_;  // [threads] the last sweep that each has seen
  std::mutex regions_mutex_;
  std::vector<OwnedRegion> regions_;  // guarded by regions_mutex_

  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::unique_ptr<SessionService> service_;
  std::vector<std::unique_ptr<GatherThread>> threads_;
  std::thread control_thread_;
};

Status UcxRowServerImpl::Start() {
  ENGRAM_RETURN_IF_ERROR(CheckOptions(options_));
  const auto listen = ParseHostPort(options_.listen_address);
  if (!listen.has_value()) return listen.error();
  ENGRAM_RETURN_IF_ERROR(AwaitLink(
      options_.advertised_host.empty() ? listen->host : options_.advertised_host, kLinkPatience));
  auto context = UcxContext::Create({.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
                                     .tls = options_.tls,
                                     .name = "engram-node"});
  if (!context.has_value()) return context.error();
  context_ = *std::move(context);
  if (options_.one_sided == "off") {
    ways_off_ = "one-sided: off by option";
  } else {
    StartOneSided();
  }
  ENGRAM_RETURN_IF_ERROR(StartThreads());

  std::vector<GatherThread*> threads;
  for (const auto& thread : threads_) threads.push_back(thread.get());
  service_ = std::make_unique<SessionService>(
      io_,
      SessionService::Options{.incarnation = options_.incarnation,
                              .lease = options_.lease,
                              .sessions_max = options_.sessions_max,
                              .ways_off = ways_off_,
                              .token_keys = options_.token_keys},
      &state_, std::move(threads));
  RpcServer::Options rpc;
  rpc.listen_address = options_.listen_address;
  rpc.connections_max = options_.sessions_max + 64;
  rpc.frame_bytes_max = kReaderFrameBytesMax;  // whoever calls a node reads from it
  rpc.security = options_.security;
  rpc.audit = options_.audit;
  ENGRAM_RETURN_IF_ERROR(service_->Listen(rpc));
  address_ = service_->address();
  if (!options_.advertised_host.empty()) {
    address_ = options_.advertised_host + address_.substr(address_.rfind(':'));
  }
  service_->SetNodeAddress(address_);
  control_thread_ = std::thread([this] { io_.run(); });
  return {};
}

void UcxRowServerImpl::StartOneSided() {
  auto context = UcxContext::Create({.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                                     .tls = options_.one_sided,
                                     .name = "engram-node-one-sided"});
  Status status;
  if (context.has_value()) {
    one_sided_ = *std::move(context);
    status = CheckOneSided();
  } else {
    status = context.error();
  }
  if (!status.ok()) {
    one_sided_.reset();
    ways_off_ = "one-sided: " + status.ToString();
    spdlog::warn("one-sided reads are off: {}", status.ToString());
  }
}

Status UcxRowServerImpl::CheckOneSided() {
  auto reader = UcxContext::Create({.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                                    .tls = options_.one_sided,
                                    .name = "engram-one-sided-check"});
  if (!reader.has_value()) return reader.error();
  return CheckOneSidedReads(*one_sided_, **reader, nullptr);
}

Status UcxRowServerImpl::StartThreads() {
  swept_ = std::vector<std::atomic<uint64_t>>(options_.gather_threads);
  for (uint32_t i = 0; i < options_.gather_threads; ++i) {
    GatherThread::Options options;
    options.incarnation = options_.incarnation;
    options.lease = options_.lease;
    options.silence_max =
        std::max<std::chrono::milliseconds>(std::chrono::seconds(10), options_.lease * 5);
    options.spin_max = options_.spin_max;
    options.number = i;
    options.audit = options_.audit;
    options.queue.rows_max = options_.waiting_rows_max / options_.gather_threads;
    options.queue.fair = options_.fair_reads;
    options.slow_reader_max = options_.slow_reader_max;
    options.eager_reply_bytes_max =
        context_->has_network_cards() ? kEagerToCardsBytesMax : kTcpPieceBytes;
    auto thread = GatherThread::Start(
        *context_, i == 0 ? one_sided_.get() : nullptr, options, &leases_, hooks_,
        [this](uint64_t session, const Status& why) { service_->EndSession(session, why); });
    if (!thread.has_value()) return thread.error();
    threads_.push_back(*std::move(thread));
  }
  return {};
}

UcxRowServerImpl::~UcxRowServerImpl() {
  io_.stop();
  if (control_thread_.joinable()) control_thread_.join();
  if (service_ != nullptr) service_->Stop();
  threads_.clear();
}

Result<Region> UcxRowServerImpl::AllocateRegion(uint64_t bytes) {
  const std::lock_guard lock(regions_mutex_);
  OwnedRegion owned;
  ENGRAM_ASSIGN_OR_RETURN(owned.memory, UcxMemory::Allocate(region_context(), bytes));
  ExportedRegion exported;
  exported.address = reinterpret_cast<uint64_t>(owned.memory->bytes().data());
  exported.bytes = bytes;
  ENGRAM_ASSIGN_OR_RETURN(const std::string key, owned.memory->PackKey());
  if (one_sided_ == nullptr) {
    exported.key = key;
  } else if (options_.one_sided == "shm") {
    exported.one_sided_key = key;
  } else {
    exported.key = key;
    ENGRAM_ASSIGN_OR_RETURN(owned.one_sided,
                            UcxMemory::Register(*one_sided_, owned.memory->bytes()));
    ENGRAM_ASSIGN_OR_RETURN(exported.one_sided_key, owned.one_sided->PackKey());
  }
  Region region;
  region.number = static_cast<uint32_t>(regions_.size());
  region.bytes = owned.memory->bytes();
  region.huge_pages = owned.memory->huge_pages();
  regions_.push_back(std::move(owned));
  state_.AddRegion(std::move(exported));
  return region;
}

void UcxRowServerImpl::Serve(std::shared_ptr<const ServedSlots> slots) {
  const TableVersion version = slots->version();
  const auto finder = std::make_shared<const SlotFinder>(std::move(slots));
  state_.SetFinder(version, finder);
  for (const auto& thread : threads_) thread->ReplaceFinder(version, finder);
}

void UcxRowServerImpl::Drop(TableVersion version) {
  state_.SetFinder(version, nullptr);
  for (const auto& thread : threads_) thread->ReplaceFinder(version, nullptr);
}

MemoryRelease UcxRowServerImpl::StartRelease(TableVersion version, Epoch epoch,
                                             uint64_t generation) {
  MemoryRelease release{version, epoch, generation, 0, ++sweeps_started_};
  release.sessions = leases_.Require(version, {epoch, generation});
  for (size_t i = 0; i < threads_.size(); ++i) {
    threads_[i]->Run([swept = &swept_[i], sweep = release.sweep] {
      if (swept->load() < sweep) swept->store(sweep);  // its thread alone stores
    });
  }
  return release;
}

bool UcxRowServerImpl::MayReuse(const MemoryRelease& release) {
  const bool swept = std::all_of(swept_.begin(), swept_.end(), [&](const auto& thread) {
    return thread.load() >= release.sweep;
  });
  return swept &&
         leases_.NoneBehind(release.version, release.sessions, {release.epoch, release.generation},
                            std::chrono::steady_clock::now());
}

RowServerStats UcxRowServerImpl::stats() const {
  RowServerStats stats;
  for (const auto& thread : threads_) thread->AddTo(stats);
  stats.refused_sessions = service_->refused();
  return stats;
}

}  // namespace

Result<std::unique_ptr<UcxRowServer>> UcxRowServer::Create(const UcxRowServerOptions& options) {
  auto server = std::make_unique<UcxRowServerImpl>(options);
  ENGRAM_TRY(server->Start());
  return server;
}

}  // namespace engram

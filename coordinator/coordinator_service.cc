#include "coordinator/coordinator_service.h"

#include <algorithm>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <spdlog/spdlog.h>

#include "engram/checkpoint/model_files.h"
#include "engram/http/status_json.h"
#include "engram/table/table_proto.h"
#include "proto/directory.pb.h"

namespace engram {

using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using std::chrono::milliseconds;

namespace {

template <typename Message>
Result<Message> Parse(const std::string& body) {
  Message message;
  if (!message.ParseFromString(body)) {
    return Error(StatusCode::kMalformed, "the body is not a " + message.GetTypeName());
  }
  return message;
}

}  // namespace

CoordinatorService::CoordinatorService(boost::asio::any_io_executor executor,
                                       std::unique_ptr<MetadataStore> store, const Options& options,
                                       OnFatal on_fatal, uint64_t term)
    : executor_(std::move(executor)),
      store_(std::move(store)),
      options_(options),
      on_fatal_(std::move(on_fatal)),
      state_(options.cluster, term),
      changed_(executor_),
      tick_(executor_) {
  changed_.expires_at(boost::asio::steady_timer::time_point::max());
  calls_ = &prometheus::BuildCounter()
                .Name("engram_coordinator_calls_total")
                .Help("Control calls answered, by method and outcome")
                .Register(*registry_);
  const auto gauge = [&](const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add({});
  };
  nodes_up_ = gauge("engram_coordinator_nodes_up", "Memory nodes heard of lately");
  nodes_known_ = gauge("engram_coordinator_nodes_known", "Memory nodes that ever registered");
  slots_ = gauge("engram_coordinator_slots", "Slots of all versions");
  slots_ready_ = gauge("engram_coordinator_slots_ready", "Slots with a ready replica");
  term_ = gauge("engram_coordinator_term", "This coordinator's term");
  damaged_slot_reports_ = &prometheus::BuildCounter()
                               .Name("engram_coordinator_damaged_slot_reports_total")
                               .Help("Reports of readers that found damaged rows")
                               .Register(*registry_)
                               .Add({});
}

CoordinatorService::~CoordinatorService() {
  checkpoint_readers_.stop();
  checkpoint_readers_.join();
}

Result<std::unique_ptr<CoordinatorService>> CoordinatorService::Create(
    boost::asio::any_io_executor executor, std::unique_ptr<MetadataStore> store,
    const Options& options, OnFatal on_fatal) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t term, store->BeginTerm());
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<MetadataRecord> records, store->ReadAll());
  std::unique_ptr<CoordinatorService> service(new CoordinatorService(
      std::move(executor), std::move(store), options, std::move(on_fatal), term));
  ENGRAM_ASSIGN_OR_RETURN(const ClusterEffects effects,
                          service->state_.Restore(records, SteadyClock().Now()));
  ENGRAM_TRY(service->Settle(effects));
  spdlog::info("term {}: {} records read back", term, records.size());
  return service;
}

Status CoordinatorService::Settle(const ClusterEffects& effects) {
  if (!effects.records.empty()) {
    if (Status written = store_->Commit(state_.term(), effects.records); !written.ok()) {
      on_fatal_(written);
      return written;
    }
  }
  for (const std::string& note : effects.notes) spdlog::info("{}", note);
  if (effects.wake) changed_.cancel();
  return effects.status;
}

Status CoordinatorService::Apply(const ClusterEvent& event, TableVersion* created) {
  const ClusterEffects effects = state_.Step(event, SteadyClock().Now());
  if (created != nullptr) *created = effects.created;
  return Settle(effects);
}

void CoordinatorService::StartTicking() {
  boost::asio::co_spawn(executor_, Tick(), boost::asio::detached);
}

void CoordinatorService::Stop() {
  stopped_ = true;
  changed_.cancel();
  tick_.cancel();
}

awaitable<void> CoordinatorService::Tick() {
  while (!stopped_) {
    boost::system::error_code ignored;
    tick_.expires_after(options_.cluster.heartbeat_interval / 4);
    co_await tick_.async_wait(redirect_error(use_awaitable, ignored));
    if (!stopped_) (void)Apply(TimePassed{});
  }
}

awaitable<void> CoordinatorService::WaitForChange(MonotonicTime until) {
  // A timer of its own ends the wait; cancelling the shared one wakes everybody at once.
  boost::asio::steady_timer deadline(executor_, until);
  deadline.async_wait([this](const boost::system::error_code& error) {
    if (!error) changed_.cancel();
  });
  boost::system::error_code ignored;
  co_await changed_.async_wait(redirect_error(use_awaitable, ignored));
}

awaitable<Result<std::string>> CoordinatorService::Handle(const RpcPeer& /*peer*/,
                                                          std::string_view method_view,
                                                          std::string body) {
  const std::string method(method_view);
  Result<std::string> reply = Error(StatusCode::kNotFound, "the coordinator has no " + method);
  if (method == "node.Register") {
    reply = co_await Register(std::move(body));
  } else if (method == "node.Heartbeat") {
    reply = co_await Heartbeat(std::move(body));
  } else if (method == "directory.GetShardMap") {
    reply = co_await GetShardMap(std::move(body));
  } else if (method == "directory.ReportSlot") {
    reply = co_await ReportSlot(std::move(body));
  } else if (method == "admin.CreateVersion") {
    reply = co_await CreateVersion(std::move(body));
  } else if (method == "admin.GetStatus") {
    reply = co_await GetStatus(std::move(body));
  } else {
    co_return reply;
  }
  const StatusCode code = reply.has_value() ? StatusCode::kOk : reply.error().code();
  calls_->Add({{"method", method}, {"outcome", std::string(StatusCodeName(code))}}).Increment();
  co_return reply;
}

awaitable<Result<std::string>> CoordinatorService::Register(std::string body) {
  auto request = Parse<proto::RegisterNodeRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  if (Status status = Apply(NodeRegistered{request->node()}); !status.ok()) {
    co_return Error(std::move(status));
  }
  proto::RegisterNodeReply reply;
  reply.set_term(state_.term());
  reply.set_heartbeat_interval_ms(
      static_cast<uint32_t>(options_.cluster.heartbeat_interval.count()));
  co_return reply.SerializeAsString();
}

awaitable<Result<std::string>> CoordinatorService::Heartbeat(std::string body) {
  auto request = Parse<proto::HeartbeatRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  if (Status status = Apply(NodeHeartbeat{*request}); !status.ok()) {
    co_return Error(std::move(status));
  }
  request->clear_held();  // taken; the rest is kept while the reply is held back
  const MonotonicTime until =
      SteadyClock().Now() +
      std::min<milliseconds>(milliseconds(request->wait_ms()), options_.cluster.heartbeat_interval);
  while (true) {
    const proto::HeartbeatReply reply = state_.Changes(*request);
    if (reply.changed_size() > 0 || reply.dropped_versions_size() > 0 || stopped_ ||
        SteadyClock().Now() >= until) {
      co_return reply.SerializeAsString();
    }
    co_await WaitForChange(until);
  }
}

awaitable<Result<std::string>> CoordinatorService::GetShardMap(std::string body) {
  const auto request = Parse<proto::GetShardMapRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  const MonotonicTime until =
      SteadyClock().Now() + milliseconds(std::min(request->wait_ms(), options_.wait_ms_max));
  while (true) {
    const TableVersion version =
        request->version() == 0 ? state_.DefaultVersion() : TableVersion(request->version());
    const std::shared_ptr<const ShardMap> map = state_.Map(version);
    const bool late = stopped_ || SteadyClock().Now() >= until;
    if (map == nullptr && (request->version() != 0 || late)) {
      co_return Error(StatusCode::kNotFound,
                      request->version() != 0
                          ? "there is no table version " + std::to_string(request->version())
                          : "there is no table version yet: engramctl create-version makes one");
    }
    if (map != nullptr) {
      if (!request->model_identity().empty() &&
          request->model_identity() != ModelIdentityToBytes(*state_.Identity(version))) {
        co_return Error(StatusCode::kWrongModel,
                        "version " + std::to_string(version.value()) + " has model identity " +
                            ModelIdentityHex(*state_.Identity(version)) +
                            ", the client has another: use the config.json and tokenizer.json "
                            "that the tables were made for");
      }
      proto::GetShardMapReply reply;
      reply.set_ready(state_.Ready(version));
      if (map->epoch.value() > request->known_epoch() ||
          (request->version() == 0 && request->known_epoch() == 0)) {
        *reply.mutable_map() = ShardMapToProto(*map);
        *reply.mutable_spec() = TableSpecToProto(*state_.Spec(version));
        reply.set_model_identity(ModelIdentityToBytes(*state_.Identity(version)));
        co_return reply.SerializeAsString();
      }
      if (late) co_return reply.SerializeAsString();
    }
    co_await WaitForChange(until);
  }
}

awaitable<Result<std::string>> CoordinatorService::ReportSlot(std::string body) {
  const auto request = Parse<proto::ReportSlotRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  Status status = Apply(SlotReported{TableVersion(request->version()), SlotIndex(request->slot()),
                                     request->node_id(), Incarnation(request->incarnation())});
  if (!status.ok()) co_return Error(std::move(status));
  damaged_slot_reports_->Increment();
  co_return proto::ReportSlotReply().SerializeAsString();
}

awaitable<Result<std::string>> CoordinatorService::CreateVersion(std::string body) {
  const auto request = Parse<proto::CreateVersionRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  // The tokenizer and the headers take a second or so to read: not on this thread.
  // The lambda has a name because GCC 12 destroys a temporary one inside co_await twice.
  auto read = [path = request->checkpoint_path()]() -> awaitable<Result<ModelTables>> {
    co_return ReadModelTables(path, true);
  };
  const auto tables =
      co_await boost::asio::co_spawn(checkpoint_readers_, std::move(read), use_awaitable);
  if (!tables.has_value()) co_return Error(tables.error());

  VersionRequested event;
  event.spec = tables->spec;
  event.identity = tables->identity;
  event.checkpoint_path = request->checkpoint_path();
  event.replica_count = request->replica_count();
  event.make_current = request->make_current();
  event.expect_nodes = request->expect_nodes();
  TableVersion created;
  if (Status status = Apply(event, &created); !status.ok()) co_return Error(std::move(status));
  proto::CreateVersionReply reply;
  reply.set_version(created.value());
  co_return reply.SerializeAsString();
}

awaitable<Result<std::string>> CoordinatorService::GetStatus(std::string body) {
  const auto request = Parse<proto::GetStatusRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  co_return state_.ClusterStatus(SteadyClock().Now()).SerializeAsString();
}

void CoordinatorService::UpdateGauges() {
  const proto::GetStatusReply status = state_.ClusterStatus(SteadyClock().Now());
  nodes_known_->Set(status.nodes_size());
  nodes_up_->Set(static_cast<double>(std::count_if(status.nodes().begin(), status.nodes().end(),
                                                   [](const auto& node) { return node.up(); })));
  double slots = 0;
  double ready = 0;
  for (const proto::VersionStatus& version : status.versions()) {
    slots += version.slot_count();
    ready += version.ready_slots();
  }
  slots_->Set(slots);
  slots_ready_->Set(ready);
  term_->Set(static_cast<double>(status.term()));
}

HttpServer::Handler CoordinatorService::Pages() {
  return ServicePages(
      registry_,
      [] {
        return Readiness{true, R"({"role":"leader"})"};
      },
      [this] { UpdateGauges(); },
      [this](const HttpRequest& request, HttpResponder& responder) -> awaitable<void> {
        if (request.path != "/status") co_return;
        const auto json = StatusJson(state_.ClusterStatus(SteadyClock().Now()));
        // A name or path may be no UTF-8: shown with replacement characters.
        (void)co_await responder.Respond(
            200, "application/json",
            json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
      });
}

}  // namespace engram

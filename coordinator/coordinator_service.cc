#include "coordinator/coordinator_service.h"

#include <algorithm>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <spdlog/spdlog.h>

#include "engram/checkpoint/model_files.h"
#include "engram/http/status_json.h"
#include "engram/rpc/parse_message.h"
#include "engram/security/permissions.h"

namespace engram {

using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using std::chrono::milliseconds;

CoordinatorService::CoordinatorService(boost::asio::any_io_executor executor,
                                       std::unique_ptr<MetadataStore> store, const Options& options,
                                       OnFatal on_fatal)
    : executor_(std::move(executor)),
      store_(std::move(store)),
      options_(options),
      on_fatal_(std::move(on_fatal)),
      alive_(std::make_shared<CoordinatorService*>(this)),
      held_(std::make_shared<HeldCalls>(executor_, options_.held)),
      tick_(executor_) {}

CoordinatorService::~CoordinatorService() {
  checkpoint_readers_.stop();
  checkpoint_readers_.join();
}

Status CoordinatorService::Start(std::string address) {
  address_ = std::move(address);
  // From the store's thread to this one.
  auto on_change = [executor = executor_, weak = std::weak_ptr(alive_)] {
    boost::asio::post(executor, [weak] {
      if (const auto self = weak.lock()) (void)(*self)->TakeRole();
    });
  };
  RotateTokenKeys();
  ENGRAM_RETURN_IF_ERROR(store_->Campaign(address_, std::move(on_change)));
  return TakeRole();
}

Status CoordinatorService::TakeRole() {
  const Leadership now = store_->leadership();
  if (term_ != 0 && now.term == term_) return Status();
  if (term_ != 0) {
    spdlog::warn("term {} is over: the lease was not renewed in time, or the key is gone", term_);
    StepDown();
  }
  if (now.term == 0) {
    if (now.followed != nullptr && now.followed != followed_) Follow(now.followed);
    return Status();
  }
  Status led = Lead(now.term);
  if (led.ok()) return led;
  if (!store_->shared()) return led;
  store_->Resign(now.term);
  if (led.code() == StatusCode::kCorrupt) {
    // Whoever leads would find the same.
    on_fatal_(led);
  } else {
    spdlog::error("cannot lead: {}", led.ToString());
  }
  return led;
}

Status CoordinatorService::Lead(uint64_t term) {
  auto records = store_->ReadAll();
  if (!records.has_value()) return records.error();
  auto state = std::make_unique<ClusterState>(options_.cluster, term);
  const auto grace = store_->shared() ? options_.takeover_grace : milliseconds(0);
  const auto effects = state->Restore(*records, SteadyClock().Now() + grace);
  if (!effects.has_value()) return effects.error();
  if (!effects->records.empty()) ENGRAM_RETURN_IF_ERROR(store_->Commit(term, effects->records));
  state_ = std::move(state);
  map_bytes_.clear();
  followed_ = nullptr;
  term_ = term;
  notes_.clear();
  last_note_ = 0;
  held_->WakeAll();
  spdlog::info("term {}: {} records read back", term, records->size());
  return Status();
}

void CoordinatorService::Follow(const std::shared_ptr<const std::vector<MetadataRecord>>& records) {
  auto state = std::make_unique<ClusterState>(options_.cluster, 0);
  if (const Status status = state->RestoreToRead(*records, SteadyClock().Now()); !status.ok()) {
    spdlog::error("following: {}", status.ToString());
    return;
  }
  if (followed_ == nullptr) spdlog::info("following: {} records read", records->size());
  state_ = std::move(state);
  map_bytes_.clear();
  followed_ = records;
  held_->WakeAll();
}

void CoordinatorService::StepDown() {
  const uint64_t term = std::exchange(term_, 0);
  state_ = nullptr;
  map_bytes_.clear();
  token_keys_told_.clear();
  followed_ = nullptr;
  held_->WakeAll();
  if (term == 0) return;
  // Not again in the same term: nodes tell what they hold once a term.
  store_->Resign(term);
  spdlog::warn("stepped down from term {}: what is in memory is forgotten", term);
}

std::string CoordinatorService::leader() const {
  if (term_ != 0) return {};
  std::string leader = store_->leadership().leader;
  return leader == address_ ? std::string() : leader;
}

Status CoordinatorService::CheckLeads() const {
  if (term_ != 0 && store_->leadership().term == term_) return Status();
  const std::string name = leader();
  return Status(StatusCode::kUnavailable,
                "this coordinator follows; " + (name.empty() ? std::string("nobody leads now: ask "
                                                                           "again in some seconds")
                                                             : name + " leads: ask there"));
}

Status CoordinatorService::Settle(const ClusterEffects& effects) {
  if (!effects.records.empty()) {
    if (Status written = store_->Commit(term_, effects.records); !written.ok()) {
      if (!store_->shared()) {
        on_fatal_(written);
        return written;
      }
      spdlog::error("cannot keep state: {}", written.ToString());
      StepDown();
      // Only what was surely not done may be asked for elsewhere.
      return Status(written.code() == StatusCode::kFailedPrecondition
                        ? StatusCode::kUnavailable
                        : StatusCode::kDeadlineExceeded,
                    written.message());
    }
  }
  for (const std::string& note : effects.notes) spdlog::info("{}", note);
  KeepNotes(effects.notes);
  if (effects.wake || !effects.notes.empty()) held_->WakeAll();
  return effects.status;
}

Status CoordinatorService::Apply(const ClusterEvent& event) {
  ENGRAM_RETURN_IF_ERROR(CheckLeads());
  return Settle(state_->Step(event, SteadyClock().Now()));
}

void CoordinatorService::StartTicking() {
  boost::asio::co_spawn(executor_, Tick(), boost::asio::detached);
}

void CoordinatorService::Stop() {
  stopped_ = true;
  held_->WakeAll();
  tick_.cancel();
}

awaitable<void> CoordinatorService::Tick() {
  while (!stopped_) {
    boost::system::error_code ignored;
    tick_.expires_after(options_.cluster.heartbeat_interval / 4);
    co_await tick_.async_wait(redirect_error(use_awaitable, ignored));
    if (stopped_) break;
    (void)TakeRole();  // a lease that is over is seen here at the latest
    RotateTokenKeys();
    if (term_ != 0) (void)Apply(TimePassed{});
  }
}

awaitable<Result<std::string>> CoordinatorService::Handle(const RpcPeer& peer,
                                                          std::string_view method_view,
                                                          std::string body) {
  const std::string method(method_view);
  Result<std::string> reply = Error(StatusCode::kNotFound, "the coordinator has no " + method);
  (void)TakeRole();  // a process that was stopped for a while learns here that its term is over
  if (method == "node.Register") {
    reply = Register(peer.identity.get(), body);
  } else if (method == "node.Heartbeat") {
    reply = co_await Heartbeat(peer, std::move(body));
  } else if (method == "directory.GetShardMap") {
    reply = co_await GetShardMap(peer, std::move(body));
  } else if (method == "directory.GetTokens") {
    reply = GetTokens(peer.identity.get(), body);
  } else if (method == "directory.ReportSlot") {
    reply = ReportSlot(peer, body);
  } else if (method == "admin.CreateVersion") {
    reply = co_await CreateVersion(std::move(body));
  } else if (method == "admin.GetStatus") {
    reply = co_await GetStatus(std::move(body));
  } else if (method == "admin.GetEvents") {
    reply = co_await GetEvents(peer, std::move(body));
  } else if (IsAdminCall(method)) {
    reply = Change(method, body);
  } else {
    co_return reply;
  }
  const StatusCode code = reply.has_value() ? StatusCode::kOk : reply.error().code();
  metrics_->CountCall(method, code);
  co_return reply;
}

Result<std::string> CoordinatorService::Register(const PeerIdentity* peer,
                                                 const std::string& body) {
  ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::RegisterNodeRequest>(body));
  ENGRAM_TRY(CheckNodeName(peer, request.node().id()));
  ENGRAM_TRY(Apply(NodeRegistered{request.node()}));
  proto::RegisterNodeReply reply;
  reply.set_term(term_);
  if (peer != nullptr) TellTokenKeys(request.node().id(), {}, reply.mutable_token_keys());
  reply.set_heartbeat_interval_ms(
      static_cast<uint32_t>(options_.cluster.heartbeat_interval.count()));
  return reply.SerializeAsString();
}

// Of a heartbeat, what is needed while its reply is held back.
struct CoordinatorService::HeartbeatQuestion {
  uint64_t term = 0;
  MonotonicTime until;
  proto::HeartbeatRequest known;  // id, versions, revisions and token keys
};

Result<CoordinatorService::HeartbeatQuestion> CoordinatorService::TakeHeartbeat(
    const PeerIdentity* peer, std::string body) {
  ENGRAM_ASSIGN_OR_RETURN(auto request, ParseMessage<proto::HeartbeatRequest>(body));
  ENGRAM_TRY(CheckNodeName(peer, request.id()));
  ENGRAM_TRY(Apply(NodeHeartbeat{request}));
  HeartbeatQuestion question;
  question.term = term_;
  question.until =
      SteadyClock().Now() +
      std::min<milliseconds>(milliseconds(request.wait_ms()), options_.cluster.heartbeat_interval);
  question.known.set_id(request.id());
  question.known.mutable_known_versions()->Swap(request.mutable_known_versions());
  question.known.mutable_known_assignment_revisions()->Swap(
      request.mutable_known_assignment_revisions());
  for (const TokenKey& key : token_keys_.All()) {
    const auto& known = request.known_token_keys();
    if (std::find(known.begin(), known.end(), key.id) != known.end()) {
      question.known.add_known_token_keys(key.id);
    }
  }
  return question;
}

awaitable<Result<std::string>> CoordinatorService::Heartbeat(const RpcPeer& peer,
                                                             std::string body) {
  const auto question = TakeHeartbeat(peer.identity.get(), std::move(body));
  if (!question.has_value()) co_return Error(question.error());
  std::unique_ptr<HeldCalls::Call> held;
  while (true) {
    if (term_ != question->term) {
      co_return Error(StatusCode::kUnavailable,
                      "this coordinator's term ended meanwhile: ask the leader");
    }
    proto::HeartbeatReply reply = state_->Changes(question->known);
    bool news = reply.changed_size() > 0 || reply.dropped_versions_size() > 0;
    if (peer.identity != nullptr) {
      news |= TellTokenKeys(question->known.id(), question->known.known_token_keys(),
                            reply.mutable_token_keys());
    }
    if (news || IsOver(question->until)) co_return reply.SerializeAsString();
    if (Status status = held_->Hold(peer, HeldCalls::By::kNode, &held); !status.ok()) {
      co_return Error(std::move(status));
    }
    co_await held->Wait(question->until);
  }
}

Result<std::string> CoordinatorService::ReportSlot(const RpcPeer& peer, const std::string& body) {
  ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::ReportSlotRequest>(body));
  ENGRAM_TRY(CheckLeads());
  SlotReported event{TableVersion(request.version()), SlotIndex(request.slot()), request.node_id(),
                     Incarnation(request.incarnation())};
  // In development mode nobody has a name: by host, whatever port it calls from.
  event.reader = peer.identity != nullptr ? peer.identity->name : HostOfPeer(peer);
  const ClusterEffects effects = state_->Step(event, SteadyClock().Now());
  ENGRAM_TRY(Settle(effects));
  if (!effects.notes.empty()) metrics_->CountDamageReport();  // others have told it already
  return proto::ReportSlotReply().SerializeAsString();
}

awaitable<Result<std::string>> CoordinatorService::CreateVersion(std::string body) {
  const auto request = ParseMessage<proto::CreateVersionRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  if (Status status = CheckLeads(); !status.ok()) co_return Error(std::move(status));
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
  event.take_replica = request->take_replica();
  event.dry_run = request->dry_run();
  co_return MakeVersion(event);
}

Result<std::string> CoordinatorService::MakeVersion(const VersionRequested& event) {
  ENGRAM_TRY(CheckLeads());
  const ClusterEffects effects = state_->Step(event, SteadyClock().Now());
  ENGRAM_TRY(Settle(effects));
  proto::CreateVersionReply reply;
  reply.set_version(effects.created.value());
  reply.set_replicas_at_first(effects.replicas_at_first);
  reply.set_taken_from(effects.taken_from.value());
  reply.set_taken_from_keeps(effects.taken_from_keeps);
  reply.set_taken_bytes(effects.taken_bytes);
  ENGRAM_ASSIGN_OR_RETURN(const TableLayout layout, TableLayout::Create(event.spec));
  reply.set_table_bytes(layout.total_bytes());
  return reply.SerializeAsString();
}

awaitable<Result<std::string>> CoordinatorService::GetStatus(std::string body) {
  const auto request = ParseMessage<proto::GetStatusRequest>(body);
  if (!request.has_value()) co_return Error(request.error());
  if (state_ == nullptr) co_return Error(CheckCanRead(0));
  co_return ClusterStatus().SerializeAsString();
}

proto::GetStatusReply CoordinatorService::ClusterStatus() const {
  proto::GetStatusReply status;
  const MonotonicTime now = SteadyClock().Now();
  if (state_ != nullptr) status = state_->ClusterStatus(now);
  if (term_ != 0) return status;
  const Leadership leadership = store_->leadership();
  status.set_follower(true);
  status.set_leader(leadership.leader);
  status.set_state_age_ms(static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(now - leadership.followed_at).count()));
  return status;
}

Readiness CoordinatorService::RoleReadiness() const {
  if (term_ != 0) return {true, R"({"role":"leader"})"};
  const nlohmann::json detail = {{"role", "follower"}, {"leader", store_->leadership().leader}};
  return {state_ != nullptr, detail.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

HttpServer::Handler CoordinatorService::Pages() {
  return ServicePages(
      metrics_, [this] { return RoleReadiness(); },
      [this](const HttpRequest& request, HttpResponder& responder) -> awaitable<void> {
        if (request.path != "/status") co_return;
        const auto json = StatusJson(ClusterStatus());
        // A name or path may be no UTF-8: shown with replacement characters.
        (void)co_await responder.Respond(
            200, "application/json",
            json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
      },
      options_.certificates);
}

}  // namespace engram

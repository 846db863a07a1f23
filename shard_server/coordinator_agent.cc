#include "shard_server/coordinator_agent.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <spdlog/spdlog.h>

#include "engram/rpc/host_port.h"

namespace engram {

using std::chrono::milliseconds;

namespace {

// A coordinator that answers at once, again and again, does not make the node spin.
constexpr milliseconds kHeartbeatSpacingMin{20};
// A node that was given an assignment starts to load within this time.
constexpr milliseconds kBusyAfterAssignment{500};
constexpr milliseconds kIntervalMin{10};
constexpr milliseconds kIntervalMax{60000};

void FillHeld(const HeldVersion& held, proto::HeldVersion* message) {
  message->set_version(held.version.value());
  message->set_assignment_revision(held.revision);
  for (const AssignedSlot& slot : *held.ready) {
    message->add_ready_slots(slot.slot.value());
    message->add_ready_digests(slot.digest);
  }
  message->set_bytes_loaded(held.bytes_ready);
  message->set_bytes_total(held.bytes_total);
  message->set_error(static_cast<proto::ErrorCode>(held.error.code()));
  message->set_error_message(held.error.message());
  for (const SlotIndex slot : held.damaged) message->add_damaged_slots(slot.value());
}

}  // namespace

CoordinatorAgent::CoordinatorAgent(boost::asio::any_io_executor executor, MemoryNode* node,
                                   Options options)
    : executor_(std::move(executor)),
      node_(node),
      options_(std::move(options)),
      timer_(executor_),
      choice_(SplitAddresses(options_.coordinator_address)),
      random_(options_.description.incarnation()) {}

void CoordinatorAgent::Start() { boost::asio::co_spawn(executor_, Run(), boost::asio::detached); }

void CoordinatorAgent::Stop() {
  stopped_ = true;
  timer_.cancel();
  if (client_ != nullptr) client_->Close();
}

boost::asio::awaitable<void> CoordinatorAgent::Run() {
  while (!stopped_) {
    const Status ended = co_await Converse();
    const std::string leader = client_ != nullptr ? client_->leader() : std::string();
    client_ = nullptr;
    if (stopped_) break;
    Tell(ended);
    if (choice_.Failed(leader)) continue;
    // Half to the whole of a time that doubles with each round through the coordinators, so that
    // nodes do not come back all at once.
    const uint32_t rounds = failures_ / static_cast<uint32_t>(choice_.size());
    const auto doubled = options_.backoff_min * (1u << std::min(rounds, 16u));
    const auto longest = std::min<milliseconds>(options_.backoff_max, doubled);
    std::uniform_int_distribution<int64_t> pick(longest.count() / 2, longest.count());
    ++failures_;
    co_await Sleep(milliseconds(pick(random_)));
  }
}

void CoordinatorAgent::Tell(const Status& error) {
  const bool news = figures_.connected || error.code() != figures_.last_error.code();
  if (figures_.connected) ++figures_.connections_lost;
  figures_.connected = false;
  figures_.last_error = error;
  if (news) {
    spdlog::warn("coordinator {}: {}; what is held stays served, connecting again",
                 choice_.current(), error.ToString());
  }
}

boost::asio::awaitable<Status> CoordinatorAgent::Converse() {
  auto client = co_await RpcClient::Connect(executor_, choice_.current(), options_.call_timeout,
                                            options_.security);
  if (!client.has_value()) co_return client.error();
  client_ = *std::move(client);
  if (stopped_) {
    client_->Close();
    co_return Status(StatusCode::kCancelled, "stopped");
  }
  // Whoever answers now may know nothing of what was told before.
  told_changes_.clear();
  bool just_registered = false;
  while (!stopped_) {
    if (must_register_) {
      Status registered = co_await Register();
      if (!registered.ok()) co_return registered;
      just_registered = true;
    }
    const MonotonicTime sent = SteadyClock().Now();
    Status status = co_await Heartbeat();
    if (status.code() == StatusCode::kNotFound) {
      must_register_ = true;
      if (just_registered) co_return status.WithContext("after registering");
      spdlog::info("the coordinator does not know this node: registering");
      continue;
    }
    if (!status.ok()) co_return status;
    just_registered = false;
    const auto next =
        sent + (Busy(*node_->snapshot()) ? std::min(interval_, options_.loading_interval)
                                         : kHeartbeatSpacingMin);
    const auto wait = std::chrono::ceil<milliseconds>(next - SteadyClock().Now());
    if (wait > milliseconds(0)) co_await Sleep(wait);
  }
  co_return Status(StatusCode::kCancelled, "stopped");
}

boost::asio::awaitable<Status> CoordinatorAgent::Register() {
  proto::RegisterNodeRequest request;
  *request.mutable_node() = options_.description;
  auto reply = co_await client_->Call<proto::RegisterNodeReply>("node.Register", request,
                                                                options_.call_timeout);
  if (!reply.has_value()) co_return reply.error().WithContext("registering");
  if (!TakeTerm(reply->term())) {
    co_return Status(StatusCode::kFailedPrecondition,
                     "registering: this coordinator has term " + std::to_string(reply->term()) +
                         ", lower than " + std::to_string(figures_.term) +
                         " seen before: it was deposed, or its state was wiped (then restart this "
                         "node)");
  }
  TakeTokenKeys(reply->token_keys());
  interval_ = std::clamp(milliseconds(reply->heartbeat_interval_ms()), kIntervalMin, kIntervalMax);
  must_register_ = false;
  figures_.registered = true;
  // A coordinator that did not know this node may count revisions from the start: revision 0 is
  // none that it gives, so that every assignment comes again.
  for (auto& [version, revision] : known_revisions_) revision = 0;
  told_changes_.clear();
  spdlog::info("registered with {} at term {}; a heartbeat every {} ms", choice_.current(),
               figures_.term, interval_.count());
  co_return Status();
}

bool CoordinatorAgent::Busy(const NodeSnapshot& snapshot) const {
  return snapshot.loading || SteadyClock().Now() < busy_until_;
}

proto::HeartbeatRequest CoordinatorAgent::MakeHeartbeat(const NodeSnapshot& snapshot) const {
  proto::HeartbeatRequest request;
  request.set_id(options_.description.id());
  request.set_incarnation(options_.description.incarnation());
  request.set_term(figures_.term);
  for (const HeldVersion& held : snapshot.versions) {
    const auto told = told_changes_.find(held.version.value());
    if (told != told_changes_.end() && told->second == held.change) continue;
    FillHeld(held, request.add_held());
  }
  for (const auto& [version, why] : refused_) {
    auto* all = request.mutable_held();
    auto message = std::find_if(all->begin(), all->end(), [version = version](const auto& held) {
      return held.version() == version;
    });
    proto::HeldVersion* held = message != all->end() ? &*message : request.add_held();
    held->set_version(version);
    held->set_assignment_revision(known_revisions_.at(version));
    held->set_error(static_cast<proto::ErrorCode>(why.code()));
    held->set_error_message(why.message());
  }
  for (const auto& [version, revision] : known_revisions_) {
    request.add_known_versions(version);
    request.add_known_assignment_revisions(revision);
  }
  const milliseconds wait =
      Busy(snapshot) ? std::min(interval_, options_.loading_interval) : interval_;
  request.set_wait_ms(static_cast<uint32_t>(wait.count()));
  request.set_corrupt_rows_found(snapshot.corrupt_rows_found);
  request.set_rows_repaired(snapshot.rows_repaired);
  request.set_copy_bytes_per_s(snapshot.copy_bytes_per_s);
  request.set_releasing_bytes(snapshot.memory.leaving_bytes);
  if (options_.token_keys != nullptr) {
    for (const TokenKey& key : options_.token_keys->All()) request.add_known_token_keys(key.id);
  }
  return request;
}

boost::asio::awaitable<Status> CoordinatorAgent::Heartbeat() {
  const std::shared_ptr<const NodeSnapshot> snapshot = node_->snapshot();
  const proto::HeartbeatRequest request = MakeHeartbeat(*snapshot);
  auto reply = co_await client_->Call<proto::HeartbeatReply>(
      "node.Heartbeat", request, options_.call_timeout + milliseconds(request.wait_ms()));
  if (!reply.has_value()) co_return reply.error();
  if (!TakeTerm(reply->term())) {
    co_return Status(StatusCode::kFailedPrecondition,
                     "this coordinator has term " + std::to_string(reply->term()) +
                         ", lower than " + std::to_string(figures_.term) + " seen before");
  }
  for (const HeldVersion& held : snapshot->versions) {
    told_changes_.insert_or_assign(held.version.value(), held.change);
  }
  ++figures_.heartbeats_answered;
  figures_.connected = true;
  figures_.last_error = {};
  failures_ = 0;
  choice_.Answered();
  TakeReply(*reply);
  co_return Status();
}

bool CoordinatorAgent::TakeTerm(uint64_t term) {
  if (term < figures_.term) {
    ++figures_.replies_refused;
    return false;
  }
  // A new leader may know nothing of what was told to the old one.
  if (term > figures_.term) told_changes_.clear();
  figures_.term = term;
  return true;
}

void CoordinatorAgent::TakeTokenKeys(
    const google::protobuf::RepeatedPtrField<proto::TokenKey>& told) {
  if (options_.token_keys == nullptr) return;
  for (const proto::TokenKey& message : told) {
    TokenKey key;
    if (message.secret().size() != key.secret.size()) {
      ++figures_.replies_refused;
      spdlog::error("refused a token key of {} bytes", message.secret().size());
      continue;
    }
    key.id = message.id();
    std::memcpy(key.secret.data(), message.secret().data(), key.secret.size());
    key.good_until = UnixSeconds(message.good_until());
    options_.token_keys->Add(key, UnixNow());
  }
}

void CoordinatorAgent::TakeReply(const proto::HeartbeatReply& reply) {
  TakeTokenKeys(reply.token_keys());
  node_->SetCopyRateMax(reply.copy_bytes_per_s_max());
  for (const uint64_t version : reply.dropped_versions()) {
    known_revisions_.erase(version);
    told_changes_.erase(version);
    refused_.erase(version);
    boost::asio::post(node_->executor(),
                      [node = node_, version] { node->Drop(TableVersion(version)); });
  }
  for (const proto::SlotAssignment& message : reply.changed()) {
    // Known from now on, even when it is refused: the error goes back with the next heartbeat.
    known_revisions_.insert_or_assign(message.version(), message.revision());
    auto assignment = SlotAssignmentFromProto(message);
    if (!assignment.has_value()) {
      ++figures_.replies_refused;
      spdlog::error("refused: {}", assignment.error().ToString());
      refused_.insert_or_assign(message.version(), assignment.error());
      continue;
    }
    refused_.erase(message.version());
    told_changes_.erase(message.version());
    busy_until_ = SteadyClock().Now() + kBusyAfterAssignment;
    boost::asio::post(node_->executor(),
                      [node = node_, applied = *std::move(assignment)]() mutable {
                        node->Apply(std::move(applied));
                      });
  }
  // After the assignments: an epoch is known once what it needs is.
  if (reply.versions_size() != reply.newest_epochs_size()) {
    ++figures_.replies_refused;
    spdlog::error("refused the epochs of a reply: {} versions but {} epochs", reply.versions_size(),
                  reply.newest_epochs_size());
    return;
  }
  std::vector<std::pair<TableVersion, Epoch>> epochs;
  epochs.reserve(static_cast<size_t>(reply.versions_size()));
  for (int i = 0; i < reply.versions_size(); ++i) {
    epochs.emplace_back(reply.versions(i), reply.newest_epochs(i));
  }
  if (epochs.empty()) return;
  boost::asio::post(node_->executor(), [node = node_, epochs = std::move(epochs)] {
    for (const auto& [version, epoch] : epochs) node->SetNewestEpoch(version, epoch);
  });
}

boost::asio::awaitable<void> CoordinatorAgent::Sleep(milliseconds time) {
  if (stopped_) co_return;
  boost::system::error_code ignored;
  timer_.expires_after(time);
  co_await timer_.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
}

}  // namespace engram

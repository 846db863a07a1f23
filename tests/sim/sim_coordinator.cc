#include "tests/sim/sim_coordinator.h"

#include <utility>

#include "engram/table/table_proto.h"
#include "proto/state.pb.h"

namespace engram::sim {
namespace {
using std::chrono::milliseconds;
constexpr Duration kTick = milliseconds(50);
constexpr Duration kCampaign = milliseconds(200);
constexpr Duration kStaleAfter = milliseconds(2000);
// A commit without an answer for this long: whether it was written is not known.
constexpr Duration kCommitTimeout = milliseconds(1000);
// Every version is kept as if its map were the first.
void ForgetEpochs(std::vector<MetadataRecord>* records) {
  for (MetadataRecord& record : *records) {
    const bool is_version = record.key.starts_with("version/") &&
                            record.key.find('/', sizeof("version/")) == std::string::npos;
    proto::VersionRecord version;
    if (!is_version || !record.value.has_value() || !version.ParseFromString(*record.value)) {
      continue;
    }
    version.set_epoch(1);
    record.value = version.SerializeAsString();
  }
}

}  // namespace

SimCoordinator::SimCoordinator(World* world, Network* network, SimStore* store,
                               const ClusterState::Options& options, const std::string& name,
                               PlantedBug bug)
    : world_(world),
      network_(network),
      store_(store),
      options_(options),
      bug_(bug),
      process_(world, name) {}

void SimCoordinator::Start() {
  process_.Start();
  store_link_ = {};
  Campaign();
  Tick();
}

void SimCoordinator::Kill() {
  process_.Kill();
  state_ = nullptr;
  term_ = 0;
  voted_ = 0;
  leader_.clear();
  followed_revision_ = ~uint64_t{0};
  busy_ = false;
  waiting_.clear();
}

void SimCoordinator::Tick() {
  process_.After(kTick, [this] { Tick(); });
  WhenIdle([this] {
    if (term_ != 0 && !Leads()) StepDown();
    if (Leads()) Apply(TimePassed{}, [](const Status&, const ClusterEffects&) {});
  });
}

// Renews its lease, or tries to get one, or follows.
void SimCoordinator::Campaign() {
  process_.After(kCampaign, [this] { Campaign(); });
  const MonotonicTime sent = world_->Now();
  network_->Call(&process_, store_->process(), store_->process()->life(), &store_link_,
                 [this, sent, term = voted_]() -> Action {
                   const SimStore::Election election = store_->Campaign(process_.name(), term);
                   return [this, sent, election, contents = store_->Read()] {
                     OnElection(sent, election, contents);
                   };
                 });
}

void SimCoordinator::OnElection(MonotonicTime sent, const SimStore::Election& election,
                                const SimStore::Contents& contents) {
  if (election.term == 0) {
    leader_ = election.leader;
    voted_ = 0;
    if (term_ == 0 && !busy_) Follow(contents);
    return;
  }
  // Counted from the sending, so that it ends here before it ends there.
  lease_end_ = std::max(lease_end_, sent + SimStore::kLease);
  if (election.term == voted_) return;
  voted_ = election.term;
  leader_.clear();
  WhenIdle([this, term = election.term] {
    if (term_ != 0) StepDown();
    busy_ = true;
    network_->Call(&process_, store_->process(), store_->process()->life(), &store_link_,
                   [this, term]() -> Action {
                     return [this, term, contents = store_->Read()] {
                       busy_ = false;
                       Lead(term, *contents.records);
                       Idle();
                     };
                   });
  });
}

void SimCoordinator::Lead(uint64_t term, const std::vector<MetadataRecord>& records) {
  if (voted_ != term) return;
  if (world_->Now() >= lease_end_) {
    // The store was out of reach for too long: stand again.
    term_ = term;
    StepDown();
    return;
  }
  auto state = std::make_shared<std::unique_ptr<ClusterState>>(
      std::make_unique<ClusterState>(options_, term));
  auto effects = (*state)->Restore(records, world_->Now() + milliseconds(500));
  if (!effects.has_value()) {
    world_->Violated("what the store holds cannot be read back: " + effects.error().ToString());
    return;
  }
  const auto take = [this, term, state](const Status& kept) {
    if (!kept.ok()) {
      StepDown();
      return;
    }
    world_->Note(process_.name() + " leads at term " + std::to_string(term));
    term_ = term;
    state_ = std::move(*state);
  };
  if (effects->records.empty()) {
    take({});
    return;
  }
  term_ = term;  // for the commit
  state_ = nullptr;
  Commit(effects->records, [this, take](const Status& kept) {
    term_ = 0;
    take(kept);
  });
}

void SimCoordinator::Follow(const SimStore::Contents& contents) {
  followed_at_ = world_->Now();
  if (contents.revision == followed_revision_) return;
  auto state = std::make_unique<ClusterState>(options_, 0);
  if (Status status = state->RestoreToRead(*contents.records, world_->Now()); !status.ok()) {
    world_->Violated("a follower cannot read the store: " + status.ToString());
    return;
  }
  followed_revision_ = contents.revision;
  state_ = std::move(state);
}

void SimCoordinator::StepDown() {
  const uint64_t term = std::exchange(term_, 0);
  state_ = nullptr;
  followed_revision_ = ~uint64_t{0};
  if (voted_ != term) return;  // it has a newer one already
  voted_ = 0;
  lease_end_ = world_->Now();
  network_->Send(process_.name(), store_->process(), &store_link_.there,
                 [this, term] { store_->Resign(term); });
}

std::string SimCoordinator::leader() const { return Leads() ? std::string() : leader_; }

void SimCoordinator::WhenIdle(Action what) {
  waiting_.push_back(std::move(what));
  Idle();
}

void SimCoordinator::Idle() {
  while (!busy_ && !waiting_.empty()) {
    const Action next = std::move(waiting_.front());
    waiting_.pop_front();
    next();
  }
}

void SimCoordinator::Commit(std::vector<MetadataRecord> records, std::function<void(Status)> done) {
  busy_ = true;
  if (bug_ == PlantedBug::kReuseEpoch) ForgetEpochs(&records);
  const auto ended = std::make_shared<bool>(false);
  const auto end = [this, ended, done = std::move(done)](const Status& status) {
    if (std::exchange(*ended, true)) return;
    busy_ = false;
    done(status);
    Idle();
  };
  network_->Call(&process_, store_->process(), store_->process()->life(), &store_link_,
                 [this, records, term = term_, end]() -> Action {
                   return [end, status = store_->Commit(term, records)] { end(status); };
                 });
  process_.After(kCommitTimeout,
                 [end] { end(Status(StatusCode::kDeadlineExceeded, "no answer of the store")); });
}

void SimCoordinator::Apply(ClusterEvent event,
                           std::function<void(Status, const ClusterEffects&)> done) {
  WhenIdle([this, event = std::move(event), done = std::move(done)] {
    if (!Leads()) {
      done(Status(StatusCode::kUnavailable, "this coordinator follows"), {});
      return;
    }
    const auto effects = std::make_shared<const ClusterEffects>(state_->Step(event, world_->Now()));
    for (const std::string& note : effects->notes) world_->Note(process_.name() + ": " + note);
    if (effects->records.empty()) {
      done(effects->status, *effects);
      return;
    }
    Commit(effects->records, [this, effects, done](const Status& kept) {
      if (!kept.ok()) {
        StepDown();
        done(Status(StatusCode::kUnavailable, kept.message()), *effects);
        return;
      }
      done(effects->status, *effects);
    });
  });
}

void SimCoordinator::Register(const proto::RegisterNodeRequest& request,
                              const Reply<proto::RegisterNodeReply>& reply) {
  Apply(NodeRegistered{request.node()}, [this, reply](const Status& status, const ClusterEffects&) {
    if (!status.ok()) return reply(Error(status));
    proto::RegisterNodeReply answer;
    answer.set_term(term_);
    reply(answer);
  });
}

void SimCoordinator::Heartbeat(const proto::HeartbeatRequest& request,
                               const Reply<proto::HeartbeatReply>& reply) {
  Apply(NodeHeartbeat{request},
        [this, request, reply](const Status& status, const ClusterEffects&) {
          if (!status.ok()) return reply(Error(status));
          reply(state_->Changes(request));
        });
}

void SimCoordinator::Change(const ClusterEvent& event, const Reply<TableVersion>& reply) {
  Apply(event, [reply](const Status& status, const ClusterEffects& effects) {
    if (!status.ok()) return reply(Error(status));
    reply(effects.created);
  });
}

void SimCoordinator::GetShardMap(const proto::GetShardMapRequest& request,
                                 const Reply<proto::GetShardMapReply>& reply) {
  WhenIdle([this, request, reply] {
    const bool stale =
        term_ == 0 && request.known_epoch() > 0 && world_->Now() - followed_at_ > kStaleAfter;
    if (state_ == nullptr || stale) {
      return reply(Error(StatusCode::kUnavailable, "this coordinator knows too little"));
    }
    const TableVersion version =
        request.version() == 0 ? state_->DefaultVersion() : TableVersion(request.version());
    const std::shared_ptr<const ShardMap> map = state_->Map(version);
    if (map == nullptr) {
      return reply(
          Error(term_ != 0 ? StatusCode::kNotFound : StatusCode::kUnavailable, "no such version"));
    }
    proto::GetShardMapReply answer;
    answer.set_ready(term_ != 0 ? state_->Ready(version) : state_->WasReady(version));
    answer.set_current_version(state_->current().value());
    if (map->epoch.value() > request.known_epoch()) {
      *answer.mutable_map() = ShardMapToProto(*map);
      *answer.mutable_spec() = TableSpecToProto(*state_->Spec(version));
      answer.set_model_identity(ModelIdentityToBytes(*state_->Identity(version)));
      const std::string text = answer.map().SerializeAsString();
      const auto [known, first] =
          map_book_->try_emplace({version.value(), map->epoch.value()}, text);
      if (!first && known->second != text) {
        world_->Violated("epoch " + std::to_string(map->epoch.value()) + " of version " +
                         std::to_string(version.value()) + " names two maps");
      }
    }
    reply(answer);
  });
}

}  // namespace engram::sim

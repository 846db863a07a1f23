#include "coordinator/etcd_store.h"

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "coordinator/etcd_state.h"
#include "coordinator/restored_state.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReadTimeout{20'000};
constexpr milliseconds kWriteAgainAfter{100};
constexpr milliseconds kSkipAgainAfter{250};

}  // namespace

EtcdStore::EtcdStore(Options options)
    : options_(std::move(options)),
      names_(options_.address.prefix),
      client_({.endpoints = options_.address.endpoints,
               .try_timeout = options_.try_timeout,
               .identity = options_.identity,
               .insecure = options_.insecure}) {}

EtcdStore::~EtcdStore() = default;

Status EtcdStore::Campaign(std::string address, std::function<void()> on_change) {
  EtcdElection::Options election;
  election.address = options_.address;
  election.identity = options_.identity;
  election.insecure = options_.insecure;
  election.own_address = std::move(address);
  election.lease = options_.lease;
  election.poll = options_.poll;
  election.try_timeout = options_.try_timeout;
  election_ = std::make_unique<EtcdElection>(std::move(election), std::move(on_change));
  return Status();
}

Leadership EtcdStore::leadership() const {
  return election_ == nullptr ? Leadership() : election_->leadership();
}

void EtcdStore::Resign(uint64_t term) {
  if (election_ != nullptr) election_->Resign(term);
}

Result<std::vector<MetadataRecord>> EtcdStore::ReadAll() {
  ENGRAM_ASSIGN_OR_RETURN(EtcdState state,
                          ReadEtcdState(client_, names_, SteadyClock().Now() + kReadTimeout));
  return std::move(state.records);
}

Status EtcdStore::Commit(uint64_t term, const std::vector<MetadataRecord>& records) {
  const MonotonicTime deadline = SteadyClock().Now() + options_.commit_timeout;
  if (records.empty()) return Status();
  if (leadership().term != term) {
    return Status(StatusCode::kFailedPrecondition, "this coordinator leads no longer; its term " +
                                                       std::to_string(term) +
                                                       " may change nothing any more");
  }
  const std::vector<MetadataRecord> unique = LastOfEachKey(records);
  const auto groups = RecordOps(names_, unique);
  if (!groups.has_value()) return groups.error();
  if (term_ != term) ENGRAM_RETURN_IF_ERROR(BeginTerm(term, deadline));
  return groups->size() == 1 ? Write(groups->front(), deadline)
                             : CommitLarge(unique, *groups, deadline);
}

Status EtcdStore::BeginTerm(uint64_t term, MonotonicTime deadline) {
  const auto state = ReadEtcdState(client_, names_, deadline);
  if (!state.has_value()) return state.error();
  term_ = term;
  leader_revision_ = term - state->restored.revisions_skipped;
  writer_ = std::to_string(term);
  writes_ = 0;
  commit_revision_ = state->commit_revision;
  Status status;
  if (state->has_pending) {
    const auto groups = RecordOps(names_, LastOfEachKey(state->pending));
    status = groups.has_value() ? FinishEvent(*groups, deadline) : groups.error();
  } else {
    // Parts of an event that was never committed. This is also the fence: an earlier term ends
    // here.
    status = Write({ClearEvent()}, deadline);
  }
  if (!status.ok()) term_ = 0;
  return status;
}

Status EtcdStore::SkipGiven(const std::string& name, MonotonicTime deadline) {
  while (true) {
    const auto state = ReadEtcdState(client_, names_, SteadyClock().Now() + kReadTimeout);
    Status status;
    if (!state.has_value()) {
      status = state.error();
    } else if (state->restored.name == name) {
      return Status();
    } else if (!state->leader.empty()) {
      // Or it led when the snapshot was made: its lease ends by itself.
      status =
          Status(StatusCode::kFailedPrecondition,
                 state->leader + " leads: end every coordinator, then start them with --restored");
    } else {
      status = SkipGivenIn(*state, name);
      if (status.ok()) return status;
    }
    // Another coordinator may just have done it.
    const bool again = status.code() == StatusCode::kUnavailable ||
                       status.code() == StatusCode::kFailedPrecondition;
    if (!again || SteadyClock().Now() + kSkipAgainAfter >= deadline) return status;
    std::this_thread::sleep_for(kSkipAgainAfter);
  }
}

Status EtcdStore::SkipGivenIn(const EtcdState& state, const std::string& name) {
  const MonotonicTime deadline = SteadyClock().Now() + options_.commit_timeout;
  const auto changed = SkipGivenNumbers(state.records);
  if (!changed.has_value()) return changed.error();
  const auto groups = RecordOps(names_, *changed);
  if (!groups.has_value()) return groups.error();
  // Writes are fenced as those of a term are: they count while nobody leads.
  term_ = 0;
  leader_revision_ = 0;
  writer_ = "restored:" + std::to_string(std::random_device{}());
  writes_ = 0;
  commit_revision_ = state.commit_revision;
  if (state.has_pending) {
    const auto pending = RecordOps(names_, LastOfEachKey(state.pending));
    if (!pending.has_value()) return pending.error();
    ENGRAM_RETURN_IF_ERROR(FinishEvent(*pending, deadline));
  }
  const EtcdRestored restored{state.restored.revisions_skipped + kRestoredRevisionsSkipped, name};
  std::vector<EtcdOp> last{EtcdOp::Put(names_.restored, EncodeRestored(restored))};
  if (groups->size() > 1) {
    ENGRAM_RETURN_IF_ERROR(CommitLarge(*changed, *groups, deadline));
  } else if (!groups->empty()) {
    last.insert(last.begin(), groups->front().begin(), groups->front().end());
  }
  return Write(std::move(last), deadline);
}

EtcdOp EtcdStore::ClearEvent() const {
  return EtcdOp::Delete(names_.event, EndOfPrefix(names_.event));
}

Status EtcdStore::CommitLarge(const std::vector<MetadataRecord>& records,
                              const std::vector<std::vector<EtcdOp>>& groups,
                              MonotonicTime deadline) {
  EtcdEvent event = EncodeEvent(names_, records);
  // Parts of an earlier event that stopped on the way are overwritten, or lie beyond and are
  // ignored.
  for (EtcdOp& part : event.parts) ENGRAM_RETURN_IF_ERROR(Write({std::move(part)}, deadline));
  ENGRAM_RETURN_IF_ERROR(Write({EtcdOp::Put(names_.pending, event.pending)}, deadline));
  // From here on the event counts, whoever finishes it.
  Status finished = FinishEvent(groups, deadline);
  if (finished.ok()) return finished;
  term_ = 0;  // a later write of this term finishes it first
  if (finished.code() == StatusCode::kFailedPrecondition) return Status();
  return finished;
}

Status EtcdStore::FinishEvent(const std::vector<std::vector<EtcdOp>>& groups,
                              MonotonicTime deadline) {
  for (const std::vector<EtcdOp>& group : groups) ENGRAM_RETURN_IF_ERROR(Write(group, deadline));
  return Write({EtcdOp::Delete(names_.pending), ClearEvent()}, deadline);
}

Status EtcdStore::Write(std::vector<EtcdOp> operations, MonotonicTime deadline) {
  const std::string own = writer_ + "/" + std::to_string(++writes_);
  EtcdTxn txn;
  txn.compares = {{names_.leader, EtcdCompare::Target::kCreateRevision, leader_revision_},
                  {names_.commit, EtcdCompare::Target::kModRevision, commit_revision_}};
  txn.success = std::move(operations);
  txn.success.push_back(EtcdOp::Put(names_.commit, own));
  txn.failure = {EtcdOp::Range(names_.leader), EtcdOp::Range(names_.commit)};
  const auto deposed = [this](const std::string& by) {
    return Status(StatusCode::kFailedPrecondition, "this coordinator leads no longer (" + by +
                                                       "); its term " + std::to_string(term_) +
                                                       " may change nothing any more");
  };
  while (true) {
    const auto reply = client_.Txn(txn, deadline);
    if (reply.has_value() && reply->succeeded) {
      commit_revision_ = reply->revision;
      return Status();
    }
    if (reply.has_value() && reply->ranges.size() == 2) {
      const auto& leader = reply->ranges[0].keys;
      const auto& commit = reply->ranges[1].keys;
      // Sent before, and its reply was lost.
      if (!commit.empty() && commit[0].value == own) {
        commit_revision_ = commit[0].mod_revision;
        return Status();
      }
      if (leader.empty()) return deposed("nobody does");
      if (leader[0].create_revision != leader_revision_) return deposed(leader[0].value + " does");
      return Status(StatusCode::kFailedPrecondition,
                    "somebody else writes under " + names_.commit +
                        " in etcd: each cluster needs a prefix of its own (--store)");
    }
    const Status failure = reply.has_value()
                               ? Status(StatusCode::kMalformed, "etcd left a question unanswered")
                               : reply.error();
    const bool over =
        leadership().term != term_ || SteadyClock().Now() + kWriteAgainAfter >= deadline;
    if (failure.code() != StatusCode::kUnavailable || over) {
      return failure.WithContext("whether it was written is not known");
    }
    std::this_thread::sleep_for(kWriteAgainAfter);
  }
}

}  // namespace engram

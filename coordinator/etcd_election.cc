#include "coordinator/etcd_election.h"

#include <algorithm>
#include <utility>

#include <pthread.h>
#include <spdlog/spdlog.h>

#include "coordinator/etcd_state.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

// The records may be many: more time than for a question.
constexpr milliseconds kReadTimeout{20'000};

}  // namespace

EtcdElection::EtcdElection(Options options, std::function<void()> on_change)
    : options_(std::move(options)),
      names_(options_.address.prefix),
      on_change_(std::move(on_change)),
      client_({.endpoints = options_.address.endpoints,
               .try_timeout = options_.try_timeout,
               .identity = options_.identity,
               .insecure = options_.insecure}),
      thread_([this] { Run(); }) {
  (void)pthread_setname_np(thread_.native_handle(), "engram-election");
}

EtcdElection::~EtcdElection() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  DropLease();
}

MonotonicTime EtcdElection::Deadline() const {
  return SteadyClock().Now() +
         options_.try_timeout * static_cast<int>(options_.address.endpoints.size());
}

Leadership EtcdElection::leadership() const {
  const std::lock_guard lock(mutex_);
  Leadership now = leadership_;
  // The thread may be late to see it; nobody acts on a lease that is over.
  if (now.term != 0 && SteadyClock().Now() >= term_ends_) {
    now.term = 0;
    now.leader.clear();
  }
  return now;
}

void EtcdElection::Resign(uint64_t term) {
  {
    const std::lock_guard lock(mutex_);
    if (term == 0 || leadership_.term != term) return;
    resigned_ = term;
    term_ends_ = SteadyClock().Now();  // for everybody who asks, from now on
  }
  wake_.notify_all();
}

void EtcdElection::Run() {
  while (true) {
    uint64_t term = 0;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      term = leadership_.term;
    }
    if (term != 0) {
      if (!Lead()) continue;
    } else {
      const Status status = Follow();
      if (!status.ok() && reached_) spdlog::warn("following: {}; trying again", status.ToString());
      if (status.ok() && !reached_) spdlog::info("etcd is reached again");
      reached_ = status.ok();
    }
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, options_.poll, [this] {
      return stopping_ || (resigned_ != 0 && resigned_ == leadership_.term);
    });
  }
}

Status EtcdElection::Follow() {
  const MonotonicTime asked = SteadyClock().Now();
  EtcdTxn look;
  look.success = {EtcdOp::Range(names_.leader), EtcdOp::Range(names_.commit)};
  const auto seen = client_.Txn(look, Deadline());
  if (!seen.has_value()) return seen.error();
  if (seen->ranges.size() != look.success.size()) {
    return Status(StatusCode::kMalformed, "etcd left a question unanswered");
  }
  const auto& leader = seen->ranges[0].keys;
  const auto& commit = seen->ranges[1].keys;
  if (leader.empty() && asked >= stand_not_before_) return Stand();

  const uint64_t commit_revision = commit.empty() ? 0 : commit[0].mod_revision;
  std::shared_ptr<const std::vector<MetadataRecord>> records;
  if (!read_once_ || commit_revision != commit_revision_read_) {
    auto state = ReadEtcdState(client_, names_, SteadyClock().Now() + kReadTimeout);
    if (!state.has_value()) return state.error();
    records = std::make_shared<const std::vector<MetadataRecord>>(std::move(state->records));
    commit_revision_read_ = state->commit_revision;
    read_once_ = true;
  }
  bool changed = records != nullptr;
  {
    const std::lock_guard lock(mutex_);
    const std::string& name = leader.empty() ? std::string() : leader[0].value;
    changed = changed || leadership_.leader != name;
    leadership_.leader = name;
    leadership_.followed_at = asked;
    if (records != nullptr) leadership_.followed = std::move(records);
  }
  if (changed) on_change_();
  return Status();
}

Status EtcdElection::Stand() {
  DropLease();  // of a try that nobody answered
  const MonotonicTime asked = SteadyClock().Now();
  const auto lease = client_.GrantLease(options_.lease, Deadline());
  if (!lease.has_value()) return lease.error().WithContext("standing for election");
  lease_id_ = lease->id;
  // etcd rounds up what is too short for it, never down.
  ttl_ = std::min(std::chrono::seconds(lease->ttl_s), options_.lease);
  renewed_at_ = asked;
  EtcdTxn txn;
  txn.compares = {{names_.leader, EtcdCompare::Target::kCreateRevision, 0}};
  txn.success = {EtcdOp::Put(names_.leader, options_.own_address, lease->id),
                 EtcdOp::Range(names_.restored)};
  const auto stood = client_.Txn(txn, asked + ttl_);
  if (!stood.has_value() || !stood->succeeded) {
    DropLease();  // another was faster, or it is not known: then the key goes with the lease
    return stood.has_value() ? Status() : stood.error().WithContext("standing for election");
  }
  const auto restored = RestoredOf(
      names_, stood->ranges.empty() ? std::vector<EtcdKeyValue>() : stood->ranges[0].keys);
  if (!restored.has_value()) {
    DropLease();
    return restored.error();
  }
  leader_revision_ = stood->revision;
  const uint64_t term = restored->revisions_skipped + stood->revision;
  {
    const std::lock_guard lock(mutex_);
    leadership_ = {term, options_.own_address, nullptr, {}};
    term_ends_ = asked + ttl_;
    resigned_ = 0;
  }
  read_once_ = false;
  spdlog::info("elected: this coordinator leads, term {}", term);
  on_change_();
  return Status();
}

bool EtcdElection::Lead() {
  uint64_t term = 0;
  MonotonicTime ends;
  bool resigned = false;
  {
    const std::lock_guard lock(mutex_);
    term = leadership_.term;
    ends = term_ends_;
    resigned = resigned_ == term;
  }
  if (resigned) {
    // The others are to have their turn first.
    stand_not_before_ = SteadyClock().Now() + 4 * options_.poll;
    return EndTerm("it resigned");
  }
  const MonotonicTime asked = SteadyClock().Now();
  if (asked >= ends) return EndTerm("its lease ended before etcd renewed it");
  if (asked - renewed_at_ < ttl_ / 3) return true;
  const auto renewed = client_.KeepAlive(lease_id_, ends);
  if (!renewed.has_value()) {
    spdlog::warn("renewing the lead: {}; trying again", renewed.error().ToString());
    return true;
  }
  if (renewed->ttl_s == 0) return EndTerm("its lease ended at etcd");
  EtcdTxn look;
  look.success = {EtcdOp::Range(names_.leader)};
  const auto seen = client_.Txn(look, ends);
  if (!seen.has_value()) return true;  // it is seen at the next renewal, or the lease ends
  if (seen->ranges.size() != 1 || seen->ranges[0].keys.empty() ||
      seen->ranges[0].keys[0].create_revision != leader_revision_) {
    return EndTerm("somebody removed its key from etcd");
  }
  renewed_at_ = asked;
  const std::lock_guard lock(mutex_);
  if (resigned_ != term) term_ends_ = asked + ttl_;
  return true;
}

bool EtcdElection::EndTerm(const std::string& why) {
  uint64_t term = 0;
  {
    const std::lock_guard lock(mutex_);
    term = leadership_.term;
    leadership_ = {};
  }
  spdlog::warn("this coordinator leads no longer (term {}): {}", term, why);
  on_change_();
  DropLease();
  return false;
}

void EtcdElection::DropLease() {
  if (lease_id_ == 0) return;
  // Where etcd does not answer, the lease ends by itself.
  (void)client_.RevokeLease(lease_id_, SteadyClock().Now() + options_.try_timeout);
  lease_id_ = 0;
}

}  // namespace engram

// MetadataStore in etcd, for several coordinators (docs/formats/state.md, docs/decisions/0015).
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "coordinator/etcd_client.h"
#include "coordinator/etcd_election.h"
#include "coordinator/etcd_records.h"
#include "coordinator/etcd_state.h"
#include "coordinator/metadata_store.h"

namespace engram {

// Every write is a transaction that compares the create revision of the leader's key (the term) and
// the revision of the last write: a deposed leader's is refused, and one that is sent twice,
// because its reply was lost, counts once. An event that is too large for one transaction is laid
// down beside the records first, made to count by one transaction, and then written where it
// belongs; the next leader finishes what a lost one had begun.
class EtcdStore final : public MetadataStore {
 public:
  struct Options {
    EtcdAddress address;
    std::shared_ptr<TlsIdentity> identity;  // see EtcdClient::Options
    bool insecure = false;
    std::chrono::seconds lease{3};  // see EtcdElection
    std::chrono::milliseconds poll{250};
    std::chrono::milliseconds try_timeout{1000};       // one endpoint, one call
    std::chrono::milliseconds commit_timeout{10'000};  // of a write; the term's end ends it earlier
  };
  explicit EtcdStore(Options options);
  ~EtcdStore() override;

  // etcd was put back from a snapshot, which whoever did it calls `name`: moves terms, and the
  // numbers in the records (coordinator/restored_state.h), past what may have been given since the
  // snapshot; once for each name, whichever coordinator comes first. Before Campaign. Waits for
  // etcd, and for the leader that the snapshot has, until `deadline`.
  // ERRORS: kFailedPrecondition (a coordinator leads); kUnavailable; kCorrupt, kIo.
  [[nodiscard]] Status SkipGiven(const std::string& name, MonotonicTime deadline);

  [[nodiscard]] Status Campaign(std::string address, std::function<void()> on_change) override;
  [[nodiscard]] Leadership leadership() const override;
  void Resign(uint64_t term) override;
  [[nodiscard]] bool shared() const override { return true; }
  [[nodiscard]] Result<std::vector<MetadataRecord>> ReadAll() override;
  [[nodiscard]] Status Commit(uint64_t term, const std::vector<MetadataRecord>& records) override;

 private:
  // Before the first write of a term: what a lost leader had begun is finished, or cleared away.
  [[nodiscard]] Status BeginTerm(uint64_t term, MonotonicTime deadline);
  [[nodiscard]] Status SkipGivenIn(const EtcdState& state, const std::string& name);
  [[nodiscard]] Status CommitLarge(const std::vector<MetadataRecord>& records,
                                   const std::vector<std::vector<EtcdOp>>& groups,
                                   MonotonicTime deadline);
  // Writes a committed event where it belongs, then clears it away.
  [[nodiscard]] Status FinishEvent(const std::vector<std::vector<EtcdOp>>& groups,
                                   MonotonicTime deadline);
  // One transaction of this term. Sent again while etcd does not answer.
  [[nodiscard]] Status Write(std::vector<EtcdOp> operations, MonotonicTime deadline);
  [[nodiscard]] EtcdOp ClearEvent() const;

  const Options options_;
  const EtcdKeys names_;
  EtcdClient client_;             // the coordinator's thread's
  uint64_t term_ = 0;             // what the next ones are of; 0 = BeginTerm comes first
  uint64_t leader_revision_ = 0;  // of the leader's key in this term; 0 = there must be no leader
  std::string writer_;            // who writes, in `commit`: the term
  uint64_t writes_ = 0;           // of this term
  uint64_t commit_revision_ = 0;  // of the last one
  std::unique_ptr<EtcdElection> election_;  // null before Campaign
};

}  // namespace engram

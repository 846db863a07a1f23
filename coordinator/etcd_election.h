// Who leads, decided by etcd: the process that made the key `leader` under its lease.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "coordinator/etcd_client.h"
#include "coordinator/etcd_records.h"
#include "coordinator/metadata_store.h"

namespace engram {

// A thread of its own with a connection of its own, so that neither a slow write nor a busy
// coordinator costs the lease. While it leads it keeps the lease alive; else it looks at etcd every
// `poll`, reads the records when they changed, and stands when nobody leads. Thread-safe.
//
// The lease counts here from when its renewal was sent, at etcd from when it came: it is over here
// first. A process that slept, or was stopped, finds its term over before it does anything.
class EtcdElection {
 public:
  struct Options {
    EtcdAddress address;
    std::shared_ptr<TlsIdentity> identity;  // see EtcdClient::Options
    bool insecure = false;
    std::string own_address;        // "host:port" that others are told
    std::chrono::seconds lease{3};  // at least 2
    std::chrono::milliseconds poll{250};
    std::chrono::milliseconds try_timeout{1000};
  };
  EtcdElection(Options options, std::function<void()> on_change);
  // Gives the lead up at once, if etcd answers; waits for that, for try_timeout at most.
  ~EtcdElection();
  EtcdElection(const EtcdElection&) = delete;
  EtcdElection& operator=(const EtcdElection&) = delete;

  [[nodiscard]] Leadership leadership() const;
  // See MetadataStore::Resign. Does not wait for etcd.
  void Resign(uint64_t term);

 private:
  void Run();
  // One look at etcd while it does not lead. ERRORS: those of the client and of the records.
  [[nodiscard]] Status Follow();
  // Nobody leads: make the key, unless another was faster.
  [[nodiscard]] Status Stand();
  // While it leads: renews the lease when it is time; ends the term when it is over.
  // False: it leads no longer.
  [[nodiscard]] bool Lead();
  bool EndTerm(const std::string& why);
  // The lease may still be there: ends it, and with it the key.
  void DropLease();
  [[nodiscard]] MonotonicTime Deadline() const;

  const Options options_;
  const EtcdKeys names_;
  const std::function<void()> on_change_;
  // The thread's own.
  EtcdClient client_;
  uint64_t lease_id_ = 0;  // 0 = none
  uint64_t leader_revision_ =
      0;  // of its key, while it leads; the term is this and what was skipped
  std::chrono::seconds ttl_{0};
  MonotonicTime renewed_at_;        // the last renewal was sent
  MonotonicTime stand_not_before_;  // after a resignation
  uint64_t commit_revision_read_ = 0;
  bool read_once_ = false;
  bool reached_ = true;  // etcd answered last time; so that a failure is logged once

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;    // guarded by mutex_
  uint64_t resigned_ = 0;    // guarded by mutex_; the term to end
  Leadership leadership_;    // guarded by mutex_
  MonotonicTime term_ends_;  // guarded by mutex_; unless the lease is renewed
  std::thread thread_;       // last: the rest is there before it starts
};

}  // namespace engram

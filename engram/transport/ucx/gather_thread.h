// One thread of a memory node that answers gathers and lease requests.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/time_buckets.h"
#include "engram/transport/lease.h"
#include "engram/transport/read_queue.h"
#include "engram/transport/row_server.h"
#include "engram/transport/taking_watch.h"
#include "engram/transport/ucx/event_wait.h"
#include "engram/transport/ucx/port_guard.h"
#include "engram/transport/ucx/reply_pool.h"
#include "engram/transport/ucx/slot_finder.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram {

// Switches that tests throw; all off in production.
struct RowServerTestHooks {
  std::atomic<bool> paused{false};           // every thread stands still, as if stopped
  std::atomic<uint32_t> standing_still{0};   // threads that do now
  std::atomic<bool> withhold_leases{false};  // lease requests are answered, with no lease
};

// A session that a gather thread serves.
struct ServedSession {
  uint64_t id = 0;
  // Whose it is, as the coordinator's certificate and the control connection say.
  std::string holder;
  uint64_t client = 0;    // of this holder: sessions of one client share what a client may have
  uint32_t protocol = 1;  // of its messages
  TableVersion version;
  std::string peer_worker_address;
  // What the session reads from, asked on the gather thread: whoever replaces it meanwhile tells
  // the thread afterwards. Null = dropped meanwhile.
  std::function<std::shared_ptr<const SlotFinder>()> finder;
};

// What the clients of one holder have together on one thread; gone with the last of them.
struct ServedHolder : QueuedHolder {
  std::string name;
  uint32_t clients = 0;
  uint32_t replies = 0;  // on their way
};

// What the sessions of one client have together on one thread; gone with the last of it.
struct ServedClient : QueuedClient {
  ServedClient(ServedHolder* its_holder, uint64_t its_id)
      : QueuedClient(its_holder), holder(its_holder), id(its_id) {}
  ServedHolder* const holder;
  const uint64_t id;
  uint32_t sessions = 0;
  uint32_t replies = 0;  // on their way
};

class GatherThread final : private UcxMessageHandler, private ReplyOwner {
 public:
  struct Options {
    Incarnation incarnation;
    std::chrono::milliseconds lease{2000};         // 0 = none are granted
    std::chrono::milliseconds silence_max{10000};  // a session without a sign of life is ended
    Duration spin_max{};
    std::chrono::milliseconds slow_reader_max{3000};  // UcxRowServerOptions
    uint32_t reply_buffers_max = 32;
    ReadQueue::Options queue;
    uint64_t eager_reply_bytes_max = 0;  // longer ones go as UCX likes
    uint32_t number = 0;                 // of the thread, for its name
    std::shared_ptr<AuditLog> audit;     // PortGuard's
  };
  // A session has ended by itself. Called on the thread.
  using OnLost = std::function<void(uint64_t session, const Status& why)>;

  // `one_sided`: null, or the context whose worker this thread also drives. All pointers outlive
  // the thread.
  [[nodiscard]] static Result<std::unique_ptr<GatherThread>> Start(
      const UcxContext& context, const UcxContext* one_sided, const Options& options,
      LeaseBook* leases, RowServerTestHooks* hooks, OnLost on_lost);
  // Ends every session, waits for the thread.
  ~GatherThread();

  [[nodiscard]] const std::string& worker_address() const { return worker_address_; }
  // Of its worker's ports.
  [[nodiscard]] PortGuard& port_guard() { return port_guard_; }
  // Empty without a one-sided worker.
  [[nodiscard]] const std::string& one_sided_address() const { return one_sided_address_; }

  // The rest is thread-safe.
  // `done` is called on the thread.
  void AddSession(ServedSession session, std::function<void(Status)> done);
  void RemoveSession(uint64_t session);
  // Sessions of this version read from `finder` from now on; null = they end with kWrongVersion.
  // Returns when no read of the old finder is in progress.
  void ReplaceFinder(TableVersion version, std::shared_ptr<const SlotFinder> finder);
  // Runs `task` on the thread, while its worker makes no progress.
  void Run(std::function<void()> task);
  void AddTo(RowServerStats& stats) const;
  [[nodiscard]] uint32_t session_count() const { return session_count_.load(); }
  // Of sessions that are over, whose endpoints are not closed yet.
  [[nodiscard]] uint32_t ending_count() const { return ending_count_.load(); }

 private:
  struct Session {
    uint64_t id = 0;
    uint32_t protocol = 1;
    ServedClient* client = nullptr;
    std::string peer_worker_address;
    std::unique_ptr<UcxEndpoint> endpoint;     // null until the reader's first message
    std::shared_ptr<const SlotFinder> finder;  // null: dropped
    TableVersion version;
    uint32_t reads_in_progress = 0;
    // Messages that the reader has not taken yet.
    uint32_t replies = 0;
    uint32_t refusals = 0;
    uint32_t grants = 0;
    TakingWatch taking;
    MonotonicTime last_sign_of_life;
    Status end_with;  // not ok: to be ended
  };
  // An endpoint of a session that is over. UCX 1.13.1 is left with a half where one is closed whose
  // socket is full (event_guard.h ends that): what fails or empties by itself gets the time to.
  struct EndingEndpoint final : UcxCompletion {
    std::unique_ptr<UcxEndpoint> endpoint;  // null: closed
    MonotonicTime close_at;                 // if it has not failed by then
    bool flushed = false;
    void OnComplete(ucs_status_t /*status*/) override { flushed = true; }
  };
  // A request that waits for its turn.
  struct WaitingRead final : QueuedRead {
    ServedClient* client = nullptr;
    GatherRequestHeader header;
    MonotonicTime came_at;
    std::vector<uint64_t> addresses;
  };
  // A reply without rows on its way.
  struct RefusalBuffer final : UcxCompletion {
    GatherThread* thread = nullptr;
    GatherReplyHeader header;
    void OnComplete(ucs_status_t status) override;
  };
  // A grant on its way.
  struct GrantBuffer final : UcxCompletion {
    GatherThread* thread = nullptr;
    LeaseGrant grant;
    void OnComplete(ucs_status_t status) override;
  };
  struct Counters {
    std::atomic<uint64_t> reads{0}, rows{0}, bytes{0}, rows_not_owned{0}, rows_out_of_range{0},
        refused{0}, refused_busy{0}, expired{0}, slow_readers{0}, rows_waiting{0};
    TimeRecorder gather_times;
  };

  GatherThread(const Options& options, LeaseBook* leases, RowServerTestHooks* hooks,
               OnLost on_lost);
  Status Prepare(const UcxContext& context, const UcxContext* one_sided);
  void Loop();
  void StandStill();
  bool RunTasks();
  bool ProgressAll();
  void SleepOrSpin();
  void KeepHouse(MonotonicTime now);
  void EndSession(uint64_t id);
  void ShutDown();

  bool OnMessage(uint32_t id, const UcxMessage& message) override;
  // When it has failed, or so late that its socket has room again: the kernel ends the connection
  // of a reader that takes nothing for slow_reader_max (PortGuard::stuck_max).
  void CloseEndpoint(std::unique_ptr<UcxEndpoint> endpoint);
  void CloseEnding(MonotonicTime now);
  // A message of the session came: from now on it can be answered. False: it cannot be.
  bool Connect(Session& session);
  void OnGatherRequest(const UcxMessage& message);
  void OnLeaseRequest(const UcxMessage& message);
  void OnReplySent(const ReplyBuffer& buffer, ucs_status_t status) override;
  // kOk, or why this session cannot have the read.
  [[nodiscard]] StatusCode CheckRequest(const Session& session,
                                        const GatherRequestHeader& request) const;
  // Answers the reads whose turn it is, up to kTurnRows rows: what has come meanwhile may go before
  // the rest. True if there was one.
  bool AnswerNext();
  // Returns the rows that it took.
  uint32_t AnswerRead(WaitingRead* read);
  void Answer(Session& session, const WaitingRead& read);
  void RefuseRead(Session& session, const GatherRequestHeader& request, StatusCode status);
  // How long it will take to answer what waits.
  [[nodiscard]] std::chrono::microseconds Backlog() const;
  // A client's share of the reply buffers: so that one that does not read starves no other.
  [[nodiscard]] bool MayHaveBuffer(const ServedClient& client) const;
  void SendReply(Session& session, ReplyBuffer* buffer, size_t body_bytes);
  // A message was handed to the session's endpoint, and left it; `count` is one of the session's.
  static void NoteSent(Session& session, uint32_t* count);
  static void NoteLeft(Session& session, uint32_t* count);
  void FreeRead(WaitingRead* read);
  void ForgetIfUnused(ServedClient* client);
  void SendGrant(Session& session, const LeaseGrant& grant);
  void Refuse(const char* fault);
  [[nodiscard]] Session* Find(uint64_t id);
  [[nodiscard]] WaitingRead* TakeWaitingRead(const Session& session,
                                             const GatherRequestHeader& request);

  const Options options_;
  LeaseBook* const leases_;
  RowServerTestHooks* const hooks_;
  const OnLost on_lost_;
  std::string worker_address_;
  std::string one_sided_address_;
  PortGuard port_guard_;
  std::unique_ptr<EventWait> wait_;

  std::mutex tasks_mutex_;
  std::vector<std::function<void()>> tasks_;  // guarded by tasks_mutex_
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> session_count_{0};
  std::atomic<uint32_t> ending_count_{0};
  Counters counters_;

  // The thread's own, in the order that the worker's end needs: it completes what is in flight.
  ReplyPool replies_;
  std::vector<std::unique_ptr<WaitingRead>> waiting_reads_;  // all there are
  std::vector<WaitingRead*> free_waiting_reads_;
  ReadQueue queue_;
  std::map<std::string, ServedHolder> holders_;
  std::map<std::pair<ServedHolder*, uint64_t>, ServedClient> clients_;
  double row_ns_ = 100;          // that a row takes to be answered, on average
  uint64_t addresses_held_ = 0;  // that all waiting reads have memory for
  std::vector<std::unique_ptr<RefusalBuffer>> refusals_;
  std::vector<RefusalBuffer*> free_refusals_;
  std::vector<std::unique_ptr<GrantBuffer>> grants_;
  std::vector<GrantBuffer*> free_grants_;
  std::unique_ptr<UcxWorker> worker_;
  std::unique_ptr<UcxWorker> one_sided_worker_;
  std::unordered_map<uint64_t, std::unique_ptr<Session>> sessions_;
  std::vector<std::unique_ptr<EndingEndpoint>> ending_;
  std::vector<std::function<void()>> running_tasks_;
  SpinBudget spin_;
  MonotonicTime next_house_keeping_;
  std::thread thread_;
};

}  // namespace engram

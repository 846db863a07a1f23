// A row reader over UCX. One class, split by what a read does: reader_gather.cc, reader_mapped.cc,
// reader_one_sided.cc; by session in reader_sessions.cc and reader_trial.cc.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "engram/transport/ucx/event_wait.h"
#include "engram/transport/ucx/port_guard.h"
#include "engram/transport/ucx/reader_session.h"
#include "engram/transport/ucx/ucx_transport.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram {

// See RowReader. Created, driven and destroyed by any one thread at a time.
class UcxRowReader final : public RowReader, private UcxMessageHandler {
 public:
  // `one_sided`: null = off. All must outlive the reader.
  [[nodiscard]] static Result<std::unique_ptr<UcxRowReader>> Create(
      const UcxTransportOptions& options, const UcxContext& context, const UcxContext* one_sided,
      boost::asio::io_context& control_io, ReaderEvents* events);
  ~UcxRowReader() override;

  [[nodiscard]] SessionId Open(const NodeTarget& target) override;
  void Close(SessionId session) override;
  [[nodiscard]] StatusCode Post(SessionId session, uint64_t tag, std::span<const RowAddress> rows,
                                MonotonicTime wanted_by) override;
  void AcknowledgeEpoch(SessionId session, Epoch epoch) override;
  bool Progress() override;
  void Wait(MonotonicTime until, std::unique_lock<std::mutex>* driving) override;
  void Wake() override { wait_->Notify(); }
  void Borrow() override { wait_->Pause(); }
  [[nodiscard]] bool GiveBack(MonotonicTime until) override;

 private:
  friend struct PendingRead;
  // Mapped rows that are copied, then told of, at a time; they stay in the first-level cache. While
  // their owner checks and scatters them the memory of as many more is on its way.
  static constexpr uint32_t kBounceRows = 64;

  UcxRowReader(const UcxTransportOptions& options, const UcxContext* one_sided,
               boost::asio::io_context& control_io, ReaderEvents* events)
      : options_(options),
        one_sided_context_(one_sided),
        control_io_(control_io),
        events_(events),
        spin_(options.spin_max) {}
  Status Prepare(const UcxContext& context);
  bool ProgressOnce();
  // Makes what comes from now on readable. False: there is something to do already.
  [[nodiscard]] bool Arm();

  // reader_sessions.cc
  void OnControl(ControlEvent& event);
  void OnOpened(ReaderSession& session, ControlEvent& event);
  [[nodiscard]] Status Connect(ReaderSession& session, const ControlEvent& event);
  // Lets the node connect to the worker's ports, until EndSession.
  [[nodiscard]] Status Admit(ReaderSession& session, const proto::OpenSessionReply& opened);
  [[nodiscard]] Status TakeDirectory(ReaderSession& session,
                                     const proto::GetDirectoryReply& directory);
  void OnGrant(const UcxMessage& message);
  void SendLeaseRequest(ReaderSession& session, MonotonicTime now);
  void RunTimers(MonotonicTime now);
  void RunSessionTimers(ReaderSession& session, MonotonicTime now);
  void TellEpoch(ReaderSession& session, Epoch newest);
  void EndLater(ReaderSession& session, Status why);
  void EndSessions();
  void EndSession(SessionId id);
  // Ends the connections: at once, or once the node has answered over that of data.
  void Leave(std::unique_ptr<ReaderSession> session);
  void LeaveAnswered(MonotonicTime now);
  void Part(ReaderSession& session);

  // reader_trial.cc
  void ChooseWay(ReaderSession& session);
  void StartTrialRead(ReaderSession& session);
  void TakeTrialRows(ReaderSession& session, const PendingRead& read, const RowChunk& chunk);
  void OnTrialReadDone(ReaderSession& session, StatusCode status);
  void FinishTrial(ReaderSession& session);
  void BecomeOpen(ReaderSession& session);

  // reader_gather.cc
  bool OnMessage(uint32_t id, const UcxMessage& message) override;
  bool OnReply(const UcxMessage& message);
  [[nodiscard]] bool SendGather(PendingRead& read, uint32_t first);
  void OnRequestSent(PendingRead& read, ucs_status_t status);
  void OnBodyReceived(PendingRead& read, ucs_status_t status);
  void DeliverReply(PendingRead& read, const GatherReplyHeader& reply, const std::byte* body);
  // reader_mapped.cc
  bool RunMapped();
  bool RunMappedRead(PendingRead& read, uint32_t* rows_left);
  // reader_one_sided.cc
  bool RunOneSided();
  // Whether RunOneSided would end or start a block now.
  [[nodiscard]] bool OneSidedHasWork() const;
  bool EndBlocks(ReaderSession& session);
  bool StartBlocks(ReaderSession& session);
  bool StartBlock(ReaderSession& session, PendingRead& read, OneSidedWindow::Block& block);

  // ucx_row_reader.cc
  [[nodiscard]] ReaderSession* Find(SessionId id);
  [[nodiscard]] PendingRead& TakeRead(ReaderSession& session, uint64_t tag,
                                      std::span<const RowAddress> rows, MonotonicTime wanted_by);
  // False: the connection does not take it; the session is about to end.
  [[nodiscard]] bool StartRead(PendingRead& read);
  void Deliver(PendingRead& read, const RowChunk& chunk);
  // Precondition: the read has not ended.
  void FinishRead(PendingRead& read, StatusCode status);
  void Release(PendingRead& read);
  void DropHold(PendingRead& read);

  const UcxTransportOptions options_;
  const UcxContext* const one_sided_context_;
  boost::asio::io_context& control_io_;
  ReaderEvents* const events_;
  std::shared_ptr<EventWait> wait_;
  std::shared_ptr<ControlInbox> inbox_;
  std::vector<ControlEvent> control_events_;

  // Before the workers: their end completes what is in flight.
  std::vector<std::unique_ptr<PendingRead>> reads_;  // all there are, by index
  std::vector<PendingRead*> free_reads_;
  std::vector<std::unique_ptr<LeaseSend>> lease_sends_;
  std::vector<std::unique_ptr<OneSidedWindow>> ended_windows_;  // until their reads completed
  PortGuard port_guard_;
  std::unique_ptr<UcxWorker> worker_;
  std::unique_ptr<UcxWorker> one_sided_worker_;

  std::map<SessionId, std::unique_ptr<ReaderSession>> sessions_;
  std::unordered_map<uint64_t, ReaderSession*> by_number_;
  std::vector<LeavingSession> leaving_;
  std::deque<PendingRead*> mapped_queue_;
  std::vector<std::byte> bounce_;     // [kBounceRows][row_stride]
  std::vector<StatusCode> statuses_;  // [kReadRowsMax]
  uint64_t last_session_ = 0;
  std::string tcp_segment_;
  uint32_t reads_in_flight_ = 0;
  bool sessions_to_end_ = false;
  MonotonicTime next_timer_ = MonotonicTime::min();
  MonotonicTime last_timer_run_ = MonotonicTime::min();
  SpinBudget spin_;
  bool spin_next_ = false;  // Wait asked the next Progress to look longer
  bool spun_ = false;       // it did, and found nothing
  MonotonicTime idle_since_;
  MonotonicTime sleeps_until_;  // of a thread in Wait
};

}  // namespace engram

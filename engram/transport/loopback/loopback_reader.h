#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engram/transport/loopback/wire.h"
#include "engram/transport/row_reader.h"

namespace engram::loopback {

class LoopbackReader final : public RowReader {
 public:
  LoopbackReader(std::shared_ptr<Wire> wire, ReaderEvents* events);
  ~LoopbackReader() override;

  [[nodiscard]] SessionId Open(const NodeTarget& target) override;
  void Close(SessionId session) override;
  [[nodiscard]] StatusCode Post(SessionId session, uint64_t tag, std::span<const RowAddress> rows,
                                MonotonicTime wanted_by) override;
  void AcknowledgeEpoch(SessionId session, Epoch epoch) override;
  bool Progress() override;
  void Wait(MonotonicTime until, std::unique_lock<std::mutex>* driving) override;
  void Wake() override;
  void Borrow() override {}
  // Whoever waits looks again at what is due when.
  [[nodiscard]] bool GiveBack(MonotonicTime /*until*/) override { return false; }

 private:
  struct Read {
    uint64_t tag = 0;
    std::vector<RowAddress> rows;
    MonotonicTime due;
  };
  struct Session {
    NodeTarget target;
    std::shared_ptr<Node> node;  // null until open
    bool open = false;
    bool closing = false;
    Epoch acknowledged;
    Epoch told;
    std::deque<Read> reads;
  };
  // Rows of one read, gathered under the lock and delivered without it.
  struct Answer {
    StatusCode status = StatusCode::kOk;
    std::vector<std::byte> rows;
    std::vector<StatusCode> statuses;
    bool all_ok = true;
    Epoch newest;
  };

  bool ProgressSession(SessionId id, Session& session);
  bool TryOpen(SessionId id, Session& session);
  // Precondition: the wire's mutex is held. Ok while the session may go on.
  [[nodiscard]] Status CheckTarget(const Session& session, const Line& line) const;
  [[nodiscard]] Status CheckAlive(const Session& session, const Line& line) const;
  void Gather(const Session& session, const Read& read, Line& line, Answer& answer);
  void Deliver(SessionId id, const Read& read, const Answer& answer);
  void End(SessionId id, Session& session, const Status& why, StatusCode reads_code);
  [[nodiscard]] MonotonicTime NextDue() const;

  const std::shared_ptr<Wire> wire_;
  ReaderEvents* const events_;
  std::map<SessionId, std::shared_ptr<Session>> sessions_;
  uint64_t last_session_ = 0;
  Sleeper sleeper_;
};

}  // namespace engram::loopback

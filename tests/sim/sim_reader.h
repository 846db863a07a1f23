// The reader of a client process: gathers, and, from nodes of its own host, mapped reads under a
// lease. Sessions behave as those of the UCX reader do; the held lease is the production one.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/transport/lease.h"
#include "engram/transport/row_reader.h"
#include "tests/sim/planted_bug.h"
#include "tests/sim/sim_node.h"
#include "tests/sim/world.h"

namespace engram::sim {

class SimReader final : public RowReader {
 public:
  struct Surroundings {
    World* world = nullptr;
    Network* network = nullptr;
    PlantedBug bug = PlantedBug::kNone;
    Process* process = nullptr;                            // the client's
    std::function<SimNode*(const std::string&)> listener;  // by "host:port"; null: nobody
    std::function<bool(const SimNode&)> same_host;
    Duration stall_max{};  // of a thread that loses its core, twice within one read
  };
  SimReader(const Surroundings& around, ReaderEvents* events) : around_(around), events_(events) {}

  // -- RowReader
  SessionId Open(const NodeTarget& target) override;
  void Close(SessionId session) override;
  StatusCode Post(SessionId session, uint64_t tag, std::span<const RowAddress> rows,
                  MonotonicTime wanted_by) override;
  void AcknowledgeEpoch(SessionId session, Epoch epoch) override;
  bool Progress() override { return false; }
  void Wait(MonotonicTime /*until*/, std::unique_lock<std::mutex>* /*driving*/) override {}
  void Borrow() override {}
  [[nodiscard]] bool GiveBack(MonotonicTime /*until*/) override { return true; }
  void Wake() override {}

  // The connection to a process that died broke.
  void PeerDied(const Process& process, uint64_t life);
  // True while it may read from `bytes` by itself: a mapped session's lease runs, and its directory
  // lists a slot there.
  [[nodiscard]] bool MayRead(std::span<const std::byte> bytes) const;
  // During OnRows: a bit of the rows was flipped on the way.
  [[nodiscard]] bool flipped() const { return flipped_; }
  [[nodiscard]] uint64_t mapped_rows() const { return mapped_rows_; }

 private:
  enum class State : uint8_t { kConnecting, kConfirming, kOpen };
  struct Read {
    uint64_t tag = 0;
    std::vector<RowAddress> rows;
  };
  struct Session {
    SessionId id;
    NodeTarget target;
    SimNode* node = nullptr;
    uint64_t node_life = 0;
    State state = State::kConnecting;
    Connection link;
    uint64_t number = 0;
    bool mapped = false;
    SlotDirectory directory;
    bool refreshing = false;
    HeldLease lease;
    MonotonicTime last_heard;
    MonotonicTime next_lease;
    Epoch acknowledged;
    Epoch told;
    std::map<uint64_t, Read> reads;  // by number
    std::optional<Status> ending;
  };

  [[nodiscard]] Session* Find(SessionId id);
  void OnOpened(SessionId id, SimNode* node, uint64_t life, const SimRowServer::Opened& opened);
  void RequestLease(SessionId id);
  void OnGrant(SessionId id, const SimRowServer::Grant& grant);
  void Refresh(Session& session);
  void Gather(Session& session, uint64_t read);
  void OnGathered(SessionId id, uint64_t read, SimRowServer::Gathered gathered);
  void StartMapped(SessionId id, uint64_t read);
  void CopyMapped(SessionId id, uint64_t read, Duration stall_after);
  void EndMapped(SessionId id, uint64_t read, const std::vector<std::byte>& rows);
  void FinishRead(Session& session, uint64_t read, StatusCode status);
  // Later, never from within Post or an event.
  void EndLater(Session& session, Status why);
  void End(SessionId id);
  void CloseAt(SimNode* node, uint64_t life, uint64_t number);

  const Surroundings around_;
  ReaderEvents* events_;
  std::map<SessionId, std::unique_ptr<Session>> sessions_;
  uint64_t last_session_ = 0;
  uint64_t last_read_ = 0;
  bool flipped_ = false;
  uint64_t mapped_rows_ = 0;
};

}  // namespace engram::sim

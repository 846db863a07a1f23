// What a UCX reader keeps of one session, and of one read. Only ucx_row_reader.h is for others.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engram/transport/gather_message.h"
#include "engram/transport/landing_memory.h"
#include "engram/transport/lease.h"
#include "engram/transport/row_reader.h"
#include "engram/transport/ucx/control_link.h"
#include "engram/transport/ucx/node_memory.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_memory.h"

namespace engram {

class UcxRowReader;
struct ReaderSession;

// One read. Ended reads stay until nothing holds them: UCX may still have their buffers.
struct PendingRead {
  explicit PendingRead(UcxRowReader* owner) : reader(owner), sent(this), received(this) {}
  PendingRead(const PendingRead&) = delete;
  PendingRead& operator=(const PendingRead&) = delete;

  struct RequestSent final : UcxCompletion {
    explicit RequestSent(PendingRead* owner) : read(owner) {}
    void OnComplete(ucs_status_t status) override;
    PendingRead* const read;
  };
  struct BodyReceived final : UcxCompletion {
    explicit BodyReceived(PendingRead* owner) : read(owner) {}
    void OnComplete(ucs_status_t status) override;
    PendingRead* const read;
  };

  UcxRowReader* const reader;
  uint32_t index = 0;                // among the reader's reads
  uint32_t generation = 0;           // of the index; grows when the read ends
  ReaderSession* session = nullptr;  // null: ended
  uint64_t tag = 0;
  bool trial = false;  // the reader's own, to choose a way
  ReadWay way = ReadWay::kGather;
  std::vector<RowAddress> rows;
  MonotonicTime wanted_by;
  uint32_t next = 0;          // mapped, one-sided: first row not asked yet
  uint32_t gather_first = 0;  // first row of the gather
  bool awaits_reply = false;
  uint32_t holds = 0;  // queues and operations that still point here
  GatherRequestHeader request;
  GatherReplyHeader reply;            // while its body is on its way
  std::unique_ptr<std::byte[]> body;  // where a rendezvous reply goes
  uint64_t body_capacity = 0;
  uint64_t body_bytes = 0;
  RequestSent sent;
  BodyReceived received;

  [[nodiscard]] uint64_t id() const { return (uint64_t{generation} << 32) | index; }
};

// One-sided reads of a session: a window of two blocks of rows in registered memory.
struct OneSidedWindow {
  static constexpr uint32_t kBlocks = 2;
  static constexpr uint32_t kBlockRows = 128;

  struct Block final : UcxCompletion {
    void OnComplete(ucs_status_t status) override {
      --outstanding;
      failed |= status != UCS_OK;
    }
    PendingRead* read = nullptr;  // null: free
    uint32_t first = 0;
    uint32_t count = 0;
    uint64_t directory = 0;  // generation that its rows' places come from
    uint32_t outstanding = 0;
    bool failed = false;
    std::byte* rows = nullptr;  // [kBlockRows][row_stride]
  };

  // `landing`: in memory of its kind; null = of the host. ERRORS: its, those of UcxMemory.
  [[nodiscard]] static Result<std::unique_ptr<OneSidedWindow>> Create(const UcxContext& context,
                                                                      LandingMemory* landing,
                                                                      uint32_t row_stride);

  std::unique_ptr<std::byte[]> bytes;
  LandingMemory::Block landed;        // one of the two
  std::unique_ptr<UcxMemory> memory;  // of it
  std::array<Block, kBlocks> blocks;
  uint32_t oldest = 0;              // blocks end in the order they began
  std::vector<PendingRead*> queue;  // oldest first

  [[nodiscard]] bool idle() const {
    for (const Block& block : blocks) {
      if (block.outstanding > 0) return false;
    }
    return true;
  }
};

// Chooses the way of a session: each candidate reads the same rows as gather does and must give the
// same bytes, then again against the clock, so that no way pays for the first touch of a page.
struct WayTrial {
  static constexpr uint32_t kRows = 512;
  static constexpr uint32_t kRounds = 3;  // the first compares, the others are timed
  struct Candidate {
    ReadWay way;
    uint32_t round = 0;
    uint64_t wrong_rows = 0;
    StatusCode status = StatusCode::kOk;
    Duration best = Duration::max();
  };
  std::vector<Candidate> candidates;  // gather first
  size_t current = 0;
  MonotonicTime started;
  std::vector<RowAddress> rows;
  std::vector<std::byte> reference;  // [kRows][row_stride] as gather gave them
  std::vector<std::byte> landed;     // a chunk of rows that landed, for the host to look at
};

struct ReaderSession {
  enum class State : uint8_t { kConnecting, kConfirming, kTrying, kOpen };

  ReaderSession(SessionId session, const NodeTarget& node)
      : id(session),
        target(node),
        memory(node),
        mapped(std::make_shared<std::atomic<bool>>(true)) {}
  ~ReaderSession() { *mapped = false; }
  ReaderSession(const ReaderSession&) = delete;
  ReaderSession& operator=(const ReaderSession&) = delete;

  const SessionId id;
  const NodeTarget target;
  State state = State::kConnecting;
  std::shared_ptr<ControlLink> control;
  uint64_t number = 0;    // the node's name for the session
  uint32_t protocol = 1;  // of its data messages
  Incarnation incarnation;
  bool granted = false;  // a first lease, and with it the first answer over the data connection
  uint32_t lease_ms = 0;
  bool can_share_memory = true;  // the node is on this host
  std::string ways_off;
  std::vector<std::string> hosts;  // that the reader's ports are open to for it
  ReadWay way = ReadWay::kGather;
  std::string reason;
  std::unique_ptr<UcxEndpoint> endpoint;
  std::unique_ptr<UcxEndpoint> one_sided_endpoint;
  NodeMemory memory;  // after the endpoints: its keys go before them
  std::unique_ptr<OneSidedWindow> window;
  bool has_no_window = false;       // none could be made: not tried again
  std::unique_ptr<WayTrial> trial;  // while one runs
  bool tried = false;

  std::shared_ptr<std::atomic<bool>> mapped;  // false once its maps are gone

  HeldLease lease;
  MonotonicTime open_deadline;
  MonotonicTime next_lease = MonotonicTime::max();
  MonotonicTime last_heard;
  bool refreshing_directory = false;
  Epoch acknowledged;
  Epoch told;
  std::vector<PendingRead*> reads;  // in flight
  uint32_t posted_reads = 0;        // of them the caller's
  std::optional<Status> end_with;   // to be ended at the next opportunity
};

// A lease request on its way.
struct LeaseSend final : UcxCompletion {
  void OnComplete(ucs_status_t /*status*/) override { pending = false; }
  LeaseRequest request;
  bool pending = false;
};

// A session that is over and whose node has not answered over the data connection yet. Where that
// ends before, UCX at the node connects to the reader by itself, and asserts if it finds nobody
// (1.13.1, ucp_request_send_state_ff): so the connections stay until then, or give_up.
struct LeavingSession {
  std::unique_ptr<ReaderSession> session;
  MonotonicTime give_up;
};

}  // namespace engram

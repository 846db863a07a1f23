// What a reader with a session can say to a memory node, in any state of its session: messages that
// are right but for some bytes, with the node's queue of reads and its book of leases behind them.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engram/base/check.h"
#include "engram/transport/gather_message.h"
#include "engram/transport/lease.h"
#include "engram/transport/read_queue.h"

using namespace engram;

namespace {

constexpr uint64_t kRowsMax = 3 * (kReadRowsMax + ReadQueue::kReadCost) + 1000;
constexpr uint64_t kIncarnation = 0x1122334455667788;
constexpr size_t kClients = 3;
constexpr size_t kHolders = 2;  // of client i: i % kHolders
constexpr size_t kStepsMax = 512;
constexpr uint64_t kReadsInFlightMax = 64;  // of a session, as a node has it

// The fuzzer's choices, one byte after another; zeros once they are used up.
class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  [[nodiscard]] bool any() const { return left_ > 0; }
  uint8_t Byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  uint64_t Number(int bytes) {
    uint64_t number = 0;
    for (int i = 0; i < bytes; ++i) number = number << 8 | Byte();
    return number;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

// A header's bytes, of which some are changed, cut off or added.
template <typename Header>
std::vector<std::byte> Mutated(const Header& header, Choices& choices) {
  const auto bytes = std::as_bytes(std::span(&header, 1));
  std::vector<std::byte> sent(bytes.begin(), bytes.end());
  for (int changes = choices.Byte() % 4; changes > 0; --changes) {
    const size_t at = choices.Byte() % sent.size();
    sent[at] ^= static_cast<std::byte>(choices.Byte());
  }
  switch (choices.Byte() % 16) {
    case 1:
      sent.resize(choices.Byte() % (sent.size() + 1));
      break;
    case 2:
      sent.resize(sent.size() + choices.Byte());
      break;
    default:
      break;
  }
  sent.shrink_to_fit();
  return sent;
}

struct Session {
  TableVersion version;
  size_t client = 0;
  uint64_t number = 0;
  bool open = true;
  uint64_t reads = 0;
  // As the book has it, by other means.
  ReaderProgress progress;
  ReaderProgress least;
  MonotonicTime end = MonotonicTime::min();
  [[nodiscard]] bool Has(const ReaderProgress& wanted) const {
    return progress.acknowledged >= wanted.acknowledged && progress.directory >= wanted.directory;
  }
};

struct Read : QueuedRead {
  uint64_t session = 0;
  size_t client = 0;
  uint64_t pushed = 0;  // in their order, from 1; 0 = its addresses have not come
};

class Node {
 public:
  Node() {
    clients_.reserve(kClients);
    for (size_t i = 0; i < kClients; ++i) clients_.emplace_back(&holders_[i % kHolders]);
  }
  void Step(Choices& choices) {
    now_ += std::chrono::microseconds(choices.Byte() * 100);
    switch (choices.Byte() % 12) {
      case 0:
        return Open(choices);
      case 1:
        return Close(choices);
      case 2:
      case 3:
      case 4:
        return Gather(choices);
      case 5:
        return AddressesCome(choices);
      case 6:
        return Answer();
      case 7:
        if (QueuedClient* const client = queue_.Front(); client != nullptr) {
          queue_.SetAside(client);
          set_aside_[IndexOf(client)] = true;
        }
        return;
      case 8:
        queue_.BringBack();
        set_aside_ = {};
        return;
      case 9:
        return Require(choices);
      default:
        return Lease(choices);
    }
  }
  void Finish() {
    queue_.BringBack();
    set_aside_ = {};
    while (queue_.Front() != nullptr) Answer();
    while (!coming_.empty()) Forget(0);
    ENGRAM_CHECK(queue_.rows_waiting() == 0);
    for (size_t i = 0; i < kClients; ++i) {
      ENGRAM_CHECK(pushed_[i].empty() && clients_[i].empty() && rows_[i] == 0);
    }
    ENGRAM_CHECK(admitted_ == answered_ + forgotten_);
  }

 private:
  // One of those that were ever opened, or one that never was.
  uint64_t SomeSession(Choices& choices) const {
    const uint64_t choice = choices.Byte();
    return choice == 255 || next_session_ == 1 ? ~uint64_t{0} - choice
                                               : 1 + choice % (next_session_ - 1);
  }
  Session* Find(uint64_t id) {
    const auto found = sessions_.find(id);
    return found == sessions_.end() || !found->second.open ? nullptr : &found->second;
  }
  size_t IndexOf(const QueuedClient* client) const {
    return static_cast<size_t>(client - clients_.data());
  }

  void Open(Choices& choices) {
    Session session;
    session.version = TableVersion(1 + choices.Byte() % 2);
    session.client = choices.Byte() % kClients;
    session.number = next_session_;
    leases_.Open(next_session_, session.version, now_);
    sessions_[next_session_++] = session;
  }
  void Close(Choices& choices) {
    const uint64_t id = SomeSession(choices);
    leases_.Close(id);
    if (Session* const session = Find(id)) session->open = false;
  }

  // GatherThread::OnGatherRequest without its transport.
  void Gather(Choices& choices) {
    const uint64_t id = SomeSession(choices);
    const auto there = sessions_.find(id);
    GatherRequestHeader request;
    request.session = id;
    request.version = there == sessions_.end() ? 1 : there->second.version.value();
    request.incarnation = kIncarnation;
    request.row_count = 1 + static_cast<uint32_t>(choices.Number(2)) % kReadRowsMax;
    request.wanted_within_us = static_cast<uint32_t>(choices.Byte()) * 1000;
    uint64_t body_bytes = uint64_t{request.row_count} * 8;
    if (choices.Byte() % 16 == 1) body_bytes ^= choices.Number(4);
    const auto bytes = Mutated(request, choices);
    const auto decoded = DecodeGatherRequest(bytes, body_bytes);
    Session* const session = decoded.has_header ? Find(decoded.header.session) : nullptr;
    if (session == nullptr || decoded.status != StatusCode::kOk) return;
    const GatherRequestHeader& taken = decoded.header;
    ENGRAM_CHECK(taken.row_count >= 1 && taken.row_count <= kReadRowsMax);
    ENGRAM_CHECK(body_bytes == uint64_t{taken.row_count} * 8);
    if (taken.incarnation != kIncarnation || taken.version != session->version.value() ||
        session->reads >= kReadsInFlightMax) {
      return;
    }
    QueuedClient& client = clients_[session->client];
    const uint64_t cost = taken.row_count + ReadQueue::kReadCost;
    const uint64_t waited = queue_.rows_waiting();
    const uint64_t together = RowsOfHolder(session->client);
    const bool fits = cost + rows_[session->client] + together <= kRowsMax - waited;
    ENGRAM_CHECK(queue_.Admit(&client, taken.row_count) == fits);
    ENGRAM_CHECK(queue_.rows_waiting() == waited + (fits ? cost : 0));
    ENGRAM_CHECK(queue_.rows_waiting() <= kRowsMax);
    if (!fits) return;
    ++admitted_;
    ++session->reads;
    rows_[session->client] += cost;
    // However many sessions and clients it has: no more than was free when it asked.
    ENGRAM_CHECK(RowsOfHolder(session->client) <= kRowsMax - waited);
    auto read = std::make_unique<Read>();
    read->rows = taken.row_count;
    read->session = taken.session;
    read->client = session->client;
    if (taken.wanted_within_us != 0) {
      read->wanted_by = now_ + std::chrono::microseconds(taken.wanted_within_us);
    }
    coming_.push_back(std::move(read));
  }
  [[nodiscard]] uint64_t RowsOfHolder(size_t client) const {
    uint64_t rows = 0;
    for (size_t i = client % kHolders; i < kClients; i += kHolders) rows += rows_[i];
    return rows;
  }
  void AddressesCome(Choices& choices) {
    if (coming_.empty()) return;
    const size_t at = choices.Byte() % coming_.size();
    if (choices.Byte() % 8 == 1) return Forget(at);
    std::unique_ptr<Read> read = std::move(coming_[at]);
    coming_.erase(coming_.begin() + static_cast<std::ptrdiff_t>(at));
    read->pushed = ++pushes_;
    queue_.Push(&clients_[read->client], read.get());
    pushed_[read->client].push_back(std::move(read));
  }
  // They never came, or the session ended before.
  void Forget(size_t at) {
    const std::unique_ptr<Read> read = std::move(coming_[at]);
    coming_.erase(coming_.begin() + static_cast<std::ptrdiff_t>(at));
    queue_.Forget(&clients_[read->client], read->rows);
    ++forgotten_;
    Settle(*read);
  }
  void Answer() {
    QueuedClient* const client = queue_.Front();
    bool any = false;
    for (size_t i = 0; i < kClients; ++i) any = any || (!pushed_[i].empty() && !set_aside_[i]);
    ENGRAM_CHECK((client != nullptr) == any);
    if (client == nullptr) return;
    const size_t index = IndexOf(client);
    ENGRAM_CHECK(!set_aside_[index]);
    const QueuedRead* const popped = queue_.Pop(client);
    auto& reads = pushed_[index];
    const auto found =
        std::find_if(reads.begin(), reads.end(), [&](const auto& r) { return r.get() == popped; });
    ENGRAM_CHECK(found != reads.end());  // once, and of this client
    for (const auto& other : reads) {
      ENGRAM_CHECK(popped->wanted_by < other->wanted_by ||
                   (popped->wanted_by == other->wanted_by && (*found)->pushed <= other->pushed));
    }
    const std::unique_ptr<Read> read = std::move(*found);
    reads.erase(found);
    ++answered_;
    Settle(*read);
  }
  void Settle(const Read& read) {
    rows_[read.client] -= read.rows + ReadQueue::kReadCost;
    --sessions_.at(read.session).reads;
  }

  void Require(Choices& choices) {
    const TableVersion version(1 + choices.Byte() % 2);
    const ReaderProgress least{Epoch(choices.Byte() % 8), uint64_t{choices.Byte()} % 8};
    const uint64_t required = leases_.Require(version, least);
    ENGRAM_CHECK(required == next_session_ - 1);
    bool acknowledged = true;
    bool none_behind = true;
    for (auto& [id, session] : sessions_) {
      const bool counts = session.version == version && (session.open || session.end > now_);
      if (session.version != version) continue;
      session.least.acknowledged = std::max(session.least.acknowledged, least.acknowledged);
      session.least.directory = std::max(session.least.directory, least.directory);
      acknowledged =
          acknowledged && (!counts || session.progress.acknowledged >= least.acknowledged);
      none_behind = none_behind && (session.end <= now_ || session.Has(least));
    }
    ENGRAM_CHECK(leases_.NoneBehind(version, required, least, now_) == none_behind);
    ENGRAM_CHECK(leases_.AllAcknowledged(version, least.acknowledged, now_) == acknowledged);
  }

  // GatherThread::OnLeaseRequest without its transport.
  void Lease(Choices& choices) {
    const uint64_t id = SomeSession(choices);
    const auto there = sessions_.find(id);
    LeaseRequest request;
    request.session = id;
    request.version = there == sessions_.end() ? 1 : there->second.version.value();
    request.incarnation = kIncarnation;
    request.acknowledged_epoch = choices.Byte() % 8;
    request.sequence = 1 + choices.Byte();
    request.directory_generation =
        choices.Byte() % 8 == 1 ? kNoDirectory : uint64_t{choices.Byte()} % 8;
    const auto bytes = Mutated(request, choices);
    const auto decoded = DecodeLeaseRequest(bytes, choices.Byte() % 16 == 1 ? choices.Byte() : 0);
    if (decoded.status != StatusCode::kOk) return;
    const LeaseRequest& taken = decoded.header;
    ENGRAM_CHECK(bytes.size() == sizeof(LeaseRequest));
    ENGRAM_CHECK(std::memcmp(bytes.data(), &taken, sizeof(taken)) == 0);
    Session* const session = Find(taken.session);
    // A node asks its book only for these; the book knows of no other session.
    if (session == nullptr) {
      ENGRAM_CHECK(!leases_.Renew(taken.session, {Epoch(9), kNoDirectory}, now_ + kLease));
      return;
    }
    if (taken.incarnation != kIncarnation || taken.version != session->version.value()) return;
    session->progress.acknowledged =
        std::max(session->progress.acknowledged, Epoch(taken.acknowledged_epoch));
    session->progress.directory = std::max(session->progress.directory, taken.directory_generation);
    const bool grants = choices.Byte() % 8 != 1;  // this node grants any
    const bool granted =
        leases_.Renew(taken.session, {Epoch(taken.acknowledged_epoch), taken.directory_generation},
                      grants ? now_ + kLease : MonotonicTime::min());
    ENGRAM_CHECK(granted == (grants && session->Has(session->least)));
    if (granted) session->end = std::max(session->end, now_ + kLease);
  }

  static constexpr std::chrono::milliseconds kLease{50};

  MonotonicTime now_{std::chrono::seconds(1)};
  ReadQueue queue_{ReadQueue::Options{.rows_max = kRowsMax}};
  LeaseBook leases_;
  std::map<uint64_t, Session> sessions_;
  uint64_t next_session_ = 1;
  std::array<QueuedHolder, kHolders> holders_;
  std::vector<QueuedClient> clients_;
  std::array<uint64_t, kClients> rows_{};  // admitted, with what they cost
  std::array<bool, kClients> set_aside_{};
  std::vector<std::unique_ptr<Read>> coming_;
  std::array<std::vector<std::unique_ptr<Read>>, kClients> pushed_;
  uint64_t pushes_ = 0;
  uint64_t admitted_ = 0;
  uint64_t answered_ = 0;
  uint64_t forgotten_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Choices choices(data, size);
  Node node;
  for (size_t i = 0; i < kStepsMax && choices.any(); ++i) node.Step(choices);
  node.Finish();
  return 0;
}

// UCX messages at a node's gather workers, with an authenticated session and without any.
#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "tests/hostile/attack.h"
#include "tests/support/rude_peer.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kRequest = GatherMessageId::kRequest;
constexpr auto kLeaseRequest = GatherMessageId::kLeaseRequest;
// Messages of one session, and on their way at once.
constexpr uint64_t kSessionMessages = 20000;
constexpr uint64_t kBatch = 64;

// None: why is in the tally.
std::unique_ptr<RudePeer> Enter(const Victim& victim, const std::string& holder, Tally& tally,
                                uint64_t client_id = 0) {
  for (int i = 0; i < 20; ++i) {
    auto token = victim.Token(holder);
    auto peer = token.has_value()
                    ? RudePeer::Create(victim.target, {.security = victim.holder(holder),
                                                       .token = *token,
                                                       .client_id = client_id})
                    : Result<std::unique_ptr<RudePeer>>(Error(token.error()));
    if (peer.has_value()) return *std::move(peer);
    tally.Answer("no session: " + std::string(StatusCodeName(peer.error().code())));
    std::this_thread::sleep_for(milliseconds(250));
  }
  return nullptr;
}

template <typename Header>
std::vector<std::byte> BytesOf(const Header& header) {
  const auto bytes = std::as_bytes(std::span(&header, 1));
  return {bytes.begin(), bytes.end()};
}
std::vector<std::byte> BytesOf(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}
std::vector<std::byte> BytesOf(const std::vector<uint64_t>& numbers) {
  const auto bytes = std::as_bytes(std::span(numbers));
  return {bytes.begin(), bytes.end()};
}

// Counts what came, and forgets it.
void CountAnswers(RudePeer& peer, Tally& tally) {
  for (const StatusCode status : peer.statuses) tally.Answer(StatusCodeName(status));
  for (const LeaseGrant& grant : peer.grants) {
    tally.Answer(grant.lease_ms > 0 ? "a lease" : "no lease");
  }
  peer.statuses.clear();
  peer.grants.clear();
  peer.Forget();
}

// Sends batches that `send` makes, over sessions of `holder`, and drives each until it is gone.
// `judge` looks at what has come before it is forgotten.
template <typename Send, typename Judge>
void InSessions(const Victim& victim, const Order& order, Tally& tally, const std::string& holder,
                const Send& send, const Judge& judge) {
  while (order.Goes(tally)) {
    const auto peer = Enter(victim, holder, tally);
    if (peer == nullptr) return;
    peer->on_reply = [&](const GatherReplyHeader& header, std::span<const std::byte>) {
      if (header.status == 0 && header.row_count > 0 && header.read != 0) {
        tally.Violation("rows for a read that may not have them");
      }
      if (header.session != peer->reply().session()) tally.Violation("another session's reply");
    };
    const uint64_t end = tally.messages + kSessionMessages;
    while (tally.messages < end && order.Goes(tally) && !peer->broken()) {
      for (uint64_t i = 0; i < kBatch; ++i) send(*peer);
      tally.messages += kBatch;
      if (!peer->Drive([&] { return peer->unsent() < kBatch || peer->broken(); }, seconds(10))) {
        tally.Answer("not taken in 10 s");
        break;
      }
      judge(*peer);
      CountAnswers(*peer, tally);
    }
    (void)peer->Drive([] { return false; }, milliseconds(20));
    judge(*peer);
    CountAnswers(*peer, tally);
  }
}

// Requests with one thing wrong; `read` is not 0 in those that may not have rows.
void SendBadRequest(const Victim& victim, Dice& dice, RudePeer& peer) {
  GatherRequestHeader header = peer.GoodHeader();
  header.read = 1 + dice.Below(1000);
  header.epoch = dice.Edge();
  std::vector<std::byte> body(8, std::byte{0});
  bool eager = true;
  auto id = kRequest;
  switch (dice.Below(11)) {
    case 0:
      return peer.Send(kRequest, BytesOf(dice.Bytes(dice.Below(200))), dice.Below(100));
    case 1:
      return peer.Send(
          static_cast<GatherMessageId>(dice.OneIn(2) ? 2 + dice.Below(3)
                                                     : dice.Below(dice.OneIn(2) ? 32 : 1u << 16)),
          BytesOf(dice.Damaged(std::string(48, 'x'))), dice.Below(2000));
    case 2:
      header.session = dice.OneIn(2) ? header.session ^ (1ull << dice.Below(64)) : dice.Edge();
      if (header.session == peer.reply().session()) header.session ^= 1;
      break;
    case 3:
      header.version ^= 1 + dice.Below(1000);
      break;
    case 4:
      header.incarnation ^= 1 + dice.Below(1000);
      break;
    case 5:
      header.row_count =
          dice.OneIn(2) ? 0 : kReadRowsMax + 1 + static_cast<uint32_t>(dice.Below(9));
      body.resize(size_t{header.row_count} * 8);
      break;
    case 6:
      header.row_count = static_cast<uint32_t>(2 + dice.Edge());
      if (header.row_count == 1) header.row_count = 2;
      break;
    case 7:
      body.resize(dice.Below(100));
      if (body.size() == 8) body.push_back(std::byte{});
      break;
    case 8:
      header.magic ^= 1u << dice.Below(32);
      break;
    case 9:  // long, though for one row
      body.resize(100 << 10);
      break;
    default: {  // rows that there are not: the read is answered, its rows are not
      std::vector<uint64_t> rows(1 + dice.Below(100));
      for (uint64_t& row : rows) row = victim.row_space + dice.Number() / 2;
      header.row_count = static_cast<uint32_t>(rows.size());
      header.read = 0;
      body = BytesOf(rows);
      break;
    }
  }
  peer.Send(id, BytesOf(header), std::move(body), eager);
}

void BadRequests(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  InSessions(
      victim, order, tally, "reader", [&](RudePeer& peer) { SendBadRequest(victim, dice, peer); },
      [&](const RudePeer& peer) {
        for (const LeaseGrant& grant : peer.grants) {
          if (grant.lease_ms > 0) tally.Violation("a lease that nobody asked for");
        }
      });
}

// Reads of rows that there are not, and some that there are: only those come.
void RowsOutOfRange(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto peer = Enter(victim, "reader", tally);
  if (peer == nullptr) return;
  const size_t stride = victim.target.row_stride;
  std::map<uint64_t, std::vector<bool>> asked;  // by read: which rows there are not
  peer->on_reply = [&](const GatherReplyHeader& header, std::span<const std::byte> body) {
    const auto found = asked.find(header.read);
    if (found == asked.end()) return tally.Violation("a reply to no read");
    const std::vector<bool> missing = found->second;
    asked.erase(found);
    if (header.status != 0 || body.empty()) return;
    if ((header.flags & kReplyHasStatuses) == 0 &&
        std::count(missing.begin(), missing.end(), true)) {
      return tally.Violation("rows that there are not came as good");
    }
    for (size_t i = 0; i < missing.size(); ++i) {
      if (!missing[i]) continue;
      const auto row = body.subspan(i * stride, stride);
      const bool zero =
          std::all_of(row.begin(), row.end(), [](std::byte b) { return b == std::byte{}; });
      const auto status = body[missing.size() * stride + i];
      if (!zero || status == std::byte{}) tally.Violation("bytes of a row that there is not");
    }
  };
  uint64_t read = 0;
  while (order.Goes(tally) && !peer->broken()) {
    for (uint64_t i = 0; i < 32; ++i) {
      std::vector<uint64_t> rows(1 + dice.Below(64));
      std::vector<bool> missing(rows.size());
      for (size_t r = 0; r < rows.size(); ++r) {
        missing[r] = dice.OneIn(2);
        const uint64_t beyond = victim.row_space + (dice.OneIn(2) ? dice.Below(1000) : dice.Edge());
        rows[r] = missing[r] ? std::max(victim.row_space, beyond)
                             : victim.rows[dice.Below(victim.rows.size())];
      }
      GatherRequestHeader header = peer->GoodHeader();
      header.row_count = static_cast<uint32_t>(rows.size());
      header.read = ++read;
      asked[read] = std::move(missing);
      peer->Send(kRequest, BytesOf(header), BytesOf(rows));
    }
    tally.messages += 32;
    (void)peer->Drive([&] { return asked.size() < 32 || peer->broken(); }, seconds(10));
    // The rest was refused silently: more were asked for than a session may have.
    CountAnswers(*peer, tally);
    if (asked.size() > 1000) asked.erase(asked.begin());
  }
}

// Leases by lies: of other sessions, versions and processes, epochs and generations far ahead.
void LeaseLies(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  uint64_t sequence = 0;
  std::map<uint64_t, bool> may;  // by sequence
  const auto send = [&](RudePeer& peer) {
    LeaseRequest request = peer.GoodLease(++sequence);
    request.acknowledged_epoch = dice.Edge();
    request.directory_generation = dice.Edge();
    const uint64_t kind = dice.Below(5);
    if (kind == 0 && dice.OneIn(2)) request.sequence = sequence = sequence + dice.Below(1000);
    if (kind == 1) request.session ^= 1ull << dice.Below(64);
    if (kind == 2) request.version += 1 + dice.Below(9);
    if (kind == 3) request.incarnation ^= 1ull << dice.Below(64);
    if (kind == 4) request.magic ^= 1u << dice.Below(32);
    const size_t body = dice.OneIn(10) ? dice.Below(200) : 0;
    may[request.sequence] = kind == 0 && body == 0;
    if (may.size() > 100000) may.erase(may.begin());
    peer.Send(kLeaseRequest, request, body);
  };
  InSessions(victim, order, tally, "reader", send, [&](const RudePeer& peer) {
    for (const LeaseGrant& grant : peer.grants) {
      const auto found = may.find(grant.sequence);
      if (grant.lease_ms > 0 && (found == may.end() || !found->second)) {
        tally.Violation("a lease for a request that lies");
      }
    }
  });
}

// Who has learnt where the node's worker is, and has no session of its own: another's number, an
// old one, none; many endpoints.
void NoSession(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  while (order.Goes(tally)) {
    const auto other = Enter(victim, "other", tally);
    auto peer = Enter(victim, "reader", tally);
    if (peer == nullptr || other == nullptr) return;
    const uint64_t ended = peer->reply().session();
    // Its session goes with the connection; its UCX endpoints stay.
    peer->CloseControl();
    std::this_thread::sleep_for(milliseconds(50));
    peer->on_reply = [&](const GatherReplyHeader&, std::span<const std::byte>) {
      tally.Violation("an answer to a peer without a session");
    };
    std::vector<uint64_t> rows(victim.rows);
    rows.resize(std::min<size_t>(rows.size(), 100));
    const uint64_t end = tally.messages + kSessionMessages;
    for (uint64_t sent = 0; tally.messages < end && order.Goes(tally); ++sent) {
      if (sent % 50 == 0 && sent < 2000 && !peer->AddEndpoint()) break;
      for (uint64_t i = 0; i < kBatch; ++i) {
        GatherRequestHeader header = peer->GoodHeader();
        header.row_count = static_cast<uint32_t>(rows.size());
        header.read = 1;
        header.session = dice.OneIn(3)   ? ended
                         : dice.OneIn(2) ? other->reply().session()
                                         : dice.Edge();
        if (dice.OneIn(4)) {
          LeaseRequest lease = peer->GoodLease(i + 1);
          lease.session = header.session;
          peer->Send(kLeaseRequest, lease, 0);
        } else {
          peer->Send(kRequest, BytesOf(header), BytesOf(rows));
        }
      }
      tally.messages += kBatch;
      // The other one's answers go to its own worker, and do it no harm.
      (void)other->Progress();
      if (!peer->Drive([&] { return peer->unsent() < kBatch || peer->broken(); }, seconds(5)))
        break;
      if (!peer->grants.empty()) tally.Violation("a lease to a peer without a session");
      if (peer->broken()) break;
      CountAnswers(*other, tally);
      peer->Forget();
    }
    tally.Answer(peer->broken() ? "the endpoint was closed" : "no answer");
  }
}

// More reads than a session may have, of as many rows as can be, from a peer that takes no reply.
void UnreadReplies(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  while (order.Goes(tally)) {
    const auto peer = Enter(victim, "reader", tally);
    if (peer == nullptr) return;
    std::vector<uint64_t> rows(kReadRowsMax);
    for (uint64_t& row : rows) row = victim.rows[dice.Below(victim.rows.size())];
    GatherRequestHeader header = peer->GoodHeader();
    header.row_count = kReadRowsMax;
    for (int i = 0; i < 200; ++i) peer->Send(kRequest, BytesOf(header), BytesOf(rows));
    tally.messages += 200;
    // Drives just enough that they leave, mostly.
    for (int i = 0; i < 20; ++i) {
      (void)peer->Progress();
      std::this_thread::sleep_for(milliseconds(5));
    }
    tally.Answer("left with replies unread");
  }
}

// One holder as many clients, each with the most and longest reads, who take a little of the
// answers now and then. (Without certificates it would be the same holder as those it pushes
// aside.)
void ManyClients(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  constexpr int kClients = 24;
  std::vector<uint64_t> rows(kReadRowsMax);
  while (victim.tls() && order.Goes(tally)) {
    std::vector<std::unique_ptr<RudePeer>> peers;
    for (int i = 0; i < kClients && order.Goes(tally); ++i) {
      auto peer = Enter(victim, "other", tally, dice.Number());
      if (peer == nullptr) return;
      for (uint64_t& row : rows) row = victim.rows[dice.Below(victim.rows.size())];
      GatherRequestHeader header = peer->GoodHeader();
      header.row_count = kReadRowsMax;
      for (int read = 0; read < 60; ++read) peer->Send(kRequest, BytesOf(header), BytesOf(rows));
      tally.messages += 60;
      peers.push_back(std::move(peer));
    }
    const auto end = std::chrono::steady_clock::now() + seconds(5);
    while (std::chrono::steady_clock::now() < end) {
      for (const auto& peer : peers) (void)peer->Progress();
      std::this_thread::sleep_for(milliseconds(50));
    }
    for (const auto& peer : peers) {
      tally.Answer(peer->broken() ? "cut off" : "left with replies unread");
    }
  }
}

// Requests whose bodies are to be fetched, from a peer that goes before they are.
void BodiesThatNeverCome(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  while (order.Goes(tally)) {
    const auto peer = Enter(victim, "reader", tally);
    if (peer == nullptr) return;
    for (int i = 0; i < 300; ++i) {
      GatherRequestHeader header = peer->GoodHeader();
      header.row_count = static_cast<uint32_t>(1 + dice.Below(kReadRowsMax));
      if (dice.OneIn(4)) header.row_count += kReadRowsMax;
      const size_t body = dice.OneIn(4) ? dice.Below(10 << 20) : size_t{header.row_count} * 8;
      peer->Send(kRequest, BytesOf(header), std::vector<std::byte>(body), /*eager=*/false);
      if (dice.OneIn(10)) (void)peer->Progress();
    }
    tally.messages += 300;
    if (dice.OneIn(2)) (void)peer->Drive([] { return false; }, milliseconds(dice.Below(50)));
    CountAnswers(*peer, tally);
  }
}

}  // namespace

std::vector<Attack> DataAttacks() {
  return {
      {"bad-requests", "gathers with a wrong header, session, version, process, length or row", 20,
       BadRequests},
      {"rows-out-of-range", "reads of rows that there are not among some that there are", 8,
       RowsOutOfRange},
      {"lease-lies", "lease requests of others, with epochs and generations that lie", 10,
       LeaseLies},
      {"no-session", "messages of a peer whose session is over, with numbers of others", 15,
       NoSession},
      {"unread-replies", "the most and longest reads, no reply taken", 2, UnreadReplies},
      {"many-clients", "one certificate as many clients that take little of what they ask for", 2,
       ManyClients},
      {"no-bodies", "requests whose bodies never come", 2, BodiesThatNeverCome},
  };
}

}  // namespace engram::test

#include "tests/sim/sim_reader.h"

#include <algorithm>
#include <cstring>

#include "tests/sim/sim_tables.h"

namespace engram::sim {
namespace {
using std::chrono::microseconds;
using std::chrono::milliseconds;
constexpr Duration kOpenTimeout = milliseconds(600);
constexpr Duration kKeepAlive = milliseconds(900);
constexpr Duration kLeaseInterval = SimRowServer::kLease / 3;
constexpr uint64_t kStalledOneIn = 300;   // of the mapped reads: the thread loses its core within
constexpr uint64_t kFlippedOneIn = 2000;  // of the gathers
}  // namespace

SimReader::Session* SimReader::Find(SessionId id) {
  const auto found = sessions_.find(id);
  return found == sessions_.end() || found->second->ending.has_value() ? nullptr
                                                                       : found->second.get();
}

SessionId SimReader::Open(const NodeTarget& target) {
  const SessionId id(++last_session_);
  auto session = std::make_unique<Session>();
  session->id = id;
  session->target = target;
  session->last_heard = around_.world->Now();
  SimNode* const node = around_.listener(target.address);
  Session& opened = *session;
  sessions_.emplace(id, std::move(session));
  if (node == nullptr || !node->process()->up()) {
    EndLater(opened, Status(StatusCode::kUnavailable, "nobody listens there"));
    return id;
  }
  opened.node = node;
  opened.node_life = node->process()->life();
  opened.mapped = around_.same_host(*node);
  around_.network->Call(around_.process, node->process(), opened.node_life, &opened.link,
                        [this, id, node, target, mapped = opened.mapped]() -> Action {
                          return [this, id, node, life = node->process()->life(),
                                  opened_there = node->server().OpenSession(target, mapped)] {
                            OnOpened(id, node, life, opened_there);
                          };
                        });
  around_.process->After(kOpenTimeout, [this, id] {
    Session* const late = Find(id);
    if (late != nullptr && late->state != State::kOpen) {
      EndLater(*late, Status(StatusCode::kDeadlineExceeded, "it did not open in time"));
    }
  });
  return id;
}

void SimReader::OnOpened(SessionId id, SimNode* node, uint64_t life,
                         const SimRowServer::Opened& opened) {
  Session* const session = Find(id);
  if (session == nullptr) return CloseAt(node, life, opened.session);
  if (!opened.status.ok()) return EndLater(*session, opened.status);
  session->number = opened.session;
  session->directory = opened.directory;
  session->state = State::kConfirming;
  RequestLease(id);
}

void SimReader::RequestLease(SessionId id) {
  Session* const session = Find(id);
  if (session == nullptr) return;
  const MonotonicTime now = around_.world->Now();
  // A reader that slept heard nothing; that says nothing of its nodes.
  if (session->state == State::kOpen && now - session->next_lease > kKeepAlive / 2) {
    session->last_heard = std::min(now, session->last_heard + (now - session->next_lease));
  }
  session->next_lease = now + kLeaseInterval;
  if (now - session->last_heard > kKeepAlive) {
    return EndLater(*session, Status(StatusCode::kPeerLost, "it answers nothing"));
  }
  SimRowServer::LeaseRequest request;
  request.session = session->number;
  request.version = session->target.version;
  request.sequence = session->lease.StartRequest(now);
  request.progress.acknowledged = session->acknowledged;
  request.progress.directory = session->mapped ? session->directory.generation : kNoDirectory;
  SimNode* const node = session->node;
  around_.network->Call(around_.process, node->process(), session->node_life, &session->link,
                        [this, id, node, request]() -> Action {
                          return [this, id, grant = node->server().RenewLease(request)] {
                            OnGrant(id, grant);
                          };
                        });
  around_.process->After(kLeaseInterval, [this, id] { RequestLease(id); });
}

void SimReader::OnGrant(SessionId id, const SimRowServer::Grant& grant) {
  Session* const session = Find(id);
  if (session == nullptr) return;
  session->last_heard = around_.world->Now();
  if (grant.status != StatusCode::kOk) {
    return EndLater(*session, Status(grant.status, "the node ends the session"));
  }
  if (!session->lease.Accept(grant.sequence, grant.lease)) return;
  if (session->mapped && grant.generation != session->directory.generation) Refresh(*session);
  if (session->state == State::kConfirming) {
    session->state = State::kOpen;
    events_->OnOpen(
        id,
        {session->target.incarnation, session->mapped ? ReadWay::kMapped : ReadWay::kGather, {}});
  } else if (grant.newest_epoch > session->acknowledged && grant.newest_epoch > session->told) {
    session->told = grant.newest_epoch;
    events_->OnEpoch(id, grant.newest_epoch);
  }
}

void SimReader::Refresh(Session& session) {
  if (session.refreshing) return;
  session.refreshing = true;
  SimNode* const node = session.node;
  around_.network->Call(
      around_.process, node->process(), session.node_life, &session.link,
      [this, id = session.id, node, version = session.target.version]() -> Action {
        return [this, id, directory = node->server().Directory(version)] {
          Session* const refreshed = Find(id);
          if (refreshed == nullptr) return;
          refreshed->refreshing = false;
          if (directory.has_value()) {
            refreshed->directory = *directory;
          } else {
            EndLater(*refreshed, Status(StatusCode::kWrongVersion, "the version was dropped"));
          }
        };
      });
}

StatusCode SimReader::Post(SessionId id, uint64_t tag, std::span<const RowAddress> rows,
                           MonotonicTime /*wanted_by*/) {
  Session* const session = Find(id);
  if (session == nullptr || session->state != State::kOpen) return StatusCode::kPeerLost;
  if (session->reads.size() >= kReadsInFlightMax) return StatusCode::kResourceExhausted;
  const uint64_t read = ++last_read_;
  session->reads[read] = {tag, {rows.begin(), rows.end()}};
  if (session->mapped) {
    around_.process->After(around_.world->random().Between(microseconds(1), microseconds(50)),
                           [this, id, read] { StartMapped(id, read); });
  } else {
    Gather(*session, read);
  }
  return StatusCode::kOk;
}

void SimReader::Gather(Session& session, uint64_t read) {
  SimNode* const node = session.node;
  around_.network->Call(around_.process, node->process(), session.node_life, &session.link,
                        [this, id = session.id, node, version = session.target.version, read,
                         rows = session.reads.at(read).rows]() -> Action {
                          return [this, id, read,
                                  gathered = node->server().Gather(version, rows)]() mutable {
                            OnGathered(id, read, std::move(gathered));
                          };
                        });
}

void SimReader::OnGathered(SessionId id, uint64_t read, SimRowServer::Gathered gathered) {
  Session* const session = Find(id);
  if (session == nullptr || !session->reads.contains(read)) return;
  session->last_heard = around_.world->Now();
  if (gathered.status != StatusCode::kOk) {
    FinishRead(*session, read, gathered.status);
    return;
  }
  Random& random = around_.world->random();
  flipped_ = random.OneIn(kFlippedOneIn);
  if (flipped_) gathered.rows[random.Below(gathered.rows.size())] ^= std::byte{4};
  RowChunk chunk;
  chunk.count = static_cast<uint32_t>(gathered.statuses.size());
  chunk.rows = gathered.rows.data();
  chunk.statuses = gathered.statuses.data();
  const uint64_t tag = session->reads.at(read).tag;
  events_->OnRows(tag, chunk);
  flipped_ = false;
  if (Session* const still = Find(id); still != nullptr) {
    FinishRead(*still, read, StatusCode::kOk);
  }
}

// A mapped read is one step of one thread; but the thread may lose its core before the copy and
// before the lease is checked, and the whole process with it.
void SimReader::StartMapped(SessionId id, uint64_t read) {
  if (Session* const session = Find(id); session == nullptr || !session->reads.contains(read)) {
    return;
  }
  World* const world = around_.world;
  if (!world->random().OneIn(kStalledOneIn)) return CopyMapped(id, read, Duration());
  const Duration before = world->random().Between(microseconds(1), around_.stall_max);
  const Duration after = world->random().Between(microseconds(1), around_.stall_max);
  around_.process->Stop();
  world->After(before, [this, id, read, after, life = around_.process->life()] {
    if (around_.process->life() == life) CopyMapped(id, read, after);
  });
}

void SimReader::CopyMapped(SessionId id, uint64_t read, Duration stall_after) {
  Session* const session = Find(id);
  World* const world = around_.world;
  const bool stalled = stall_after != Duration();
  std::vector<std::byte> rows;
  if (session != nullptr) {
    const TableLayout& layout = *SimLayout();
    const std::vector<RowAddress>& wanted = session->reads.at(read).rows;
    rows.resize(wanted.size() * layout.row_stride());
    bool found = true;
    for (size_t i = 0; i < wanted.size() && found; ++i) {
      const SlotIndex slot = layout.SlotOf(wanted[i]);
      const auto& places = session->directory.places;
      const auto place = std::lower_bound(
          places.begin(), places.end(), slot,
          [](const SlotDirectory::Place& entry, SlotIndex s) { return entry.slot < s; });
      found = place != places.end() && place->slot == slot;
      if (found) {
        std::memcpy(rows.data() + i * layout.row_stride(),
                    place->rows + size_t{layout.RowInSlot(wanted[i])} * layout.row_stride(),
                    layout.row_stride());
      }
    }
    if (!found) rows.clear();
  }
  if (!stalled) return EndMapped(id, read, rows);
  world->After(stall_after,
               [this, id, read, rows = std::move(rows), life = around_.process->life()] {
                 if (around_.process->life() != life) return;
                 EndMapped(id, read, rows);
                 around_.process->Continue();
               });
}

void SimReader::EndMapped(SessionId id, uint64_t read, const std::vector<std::byte>& rows) {
  Session* const session = Find(id);
  if (session == nullptr || !session->reads.contains(read)) return;
  if (rows.empty() || !session->lease.ValidAt(around_.world->Now())) {
    Gather(*session, read);
    return;
  }
  RowChunk chunk;
  chunk.count = static_cast<uint32_t>(session->reads.at(read).rows.size());
  chunk.rows = rows.data();
  mapped_rows_ += chunk.count;
  events_->OnRows(session->reads.at(read).tag, chunk);
  if (Session* const still = Find(id); still != nullptr) {
    FinishRead(*still, read, StatusCode::kOk);
  }
}

void SimReader::FinishRead(Session& session, uint64_t read, StatusCode status) {
  const uint64_t tag = session.reads.at(read).tag;
  session.reads.erase(read);
  events_->OnReadDone(tag, status);
}

void SimReader::AcknowledgeEpoch(SessionId id, Epoch epoch) {
  if (around_.bug == PlantedBug::kDropAcknowledgement) return;
  if (Session* const session = Find(id); session != nullptr) {
    session->acknowledged = std::max(session->acknowledged, epoch);
  }
}

void SimReader::Close(SessionId id) {
  if (Session* const session = Find(id); session != nullptr) {
    EndLater(*session, Status(StatusCode::kCancelled, "closed"));
  }
}

void SimReader::EndLater(Session& session, Status why) {
  if (session.ending.has_value()) return;
  session.ending = std::move(why);
  around_.process->After(Duration(), [this, id = session.id] { End(id); });
}

void SimReader::End(SessionId id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  // Kept until its messages have been: they point to its link.
  const std::shared_ptr<Session> session = std::move(found->second);
  sessions_.erase(found);
  around_.world->After(std::chrono::minutes(10), [session] {});
  const Status why = *session->ending;
  while (!session->reads.empty()) {
    const uint64_t tag = session->reads.begin()->second.tag;
    session->reads.erase(session->reads.begin());
    events_->OnReadDone(tag, why.code());
  }
  if (session->number != 0) CloseAt(session->node, session->node_life, session->number);
  events_->OnClosed(id, why);
}

// The node sees the connection end.
void SimReader::CloseAt(SimNode* node, uint64_t life, uint64_t number) {
  around_.network->SendTo(around_.process->name(), node->process(), life, nullptr,
                          [node, number] { node->server().CloseSession(number); });
}

void SimReader::PeerDied(const Process& process, uint64_t life) {
  for (auto& [id, session] : sessions_) {
    if (session->node != nullptr && session->node->process() == &process &&
        session->node_life == life && !session->ending.has_value()) {
      EndLater(*session, Status(StatusCode::kPeerLost, "the connection broke"));
    }
  }
}

bool SimReader::MayRead(std::span<const std::byte> bytes) const {
  for (const auto& [id, session] : sessions_) {
    if (!session->mapped || !session->lease.ValidAt(around_.world->Now())) continue;
    for (const SlotDirectory::Place& place : session->directory.places) {
      const std::byte* const end = place.rows + SimLayout()->slot_bytes(place.slot);
      if (place.rows < bytes.data() + bytes.size() && bytes.data() < end) return true;
    }
  }
  return false;
}

}  // namespace engram::sim

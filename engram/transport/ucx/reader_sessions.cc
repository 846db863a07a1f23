// Sessions of a reader: opening, leases, signs of life, ending.
#include <algorithm>
#include <utility>

#include "engram/transport/ucx/host_identity.h"
#include "engram/transport/ucx/map_warmer.h"
#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {
constexpr uint32_t kLeaseMsMax = 60'000;
// How long a session that is over waits for the node's first answer.
constexpr auto kLeaveMax = std::chrono::seconds(2);

// The oldest slot directory that a read of the session may still use. Mapped reads look a place up
// and copy from it in one step; one-sided ones are on their way for a while.
uint64_t DirectoryInUse(const ReaderSession& session, bool by_itself) {
  if (!by_itself) return kNoDirectory;
  uint64_t oldest = session.memory.generation();
  if (session.window == nullptr) return oldest;
  for (const OneSidedWindow::Block& block : session.window->blocks) {
    if (block.read != nullptr) oldest = std::min(oldest, block.directory);
  }
  return oldest;
}

// Or there is nothing that could be answered.
bool IsAnswered(const ReaderSession& session) {
  return session.endpoint == nullptr || session.granted || session.endpoint->failure() != UCS_OK;
}
}  // namespace

SessionId UcxRowReader::Open(const NodeTarget& target) {
  const SessionId id(++last_session_);
  auto session = std::make_unique<ReaderSession>(id, target);
  const MonotonicTime now = std::chrono::steady_clock::now();
  session->open_deadline = now + options_.open_timeout;
  session->last_heard = now;
  next_timer_ = MonotonicTime::min();

  ControlLink::Options link;
  link.session = id;
  link.address = target.address;
  link.want_directory = options_.way != ReadWay::kGather;
  link.timeout = options_.open_timeout;
  link.security = options_.security;
  if (options_.token_of) {
    link.token_of = [token_of = options_.token_of, version = target.version,
                     address = target.address] { return token_of(version, address); };
  }
  link.request.set_client_id(options_.client_id);
  link.request.set_version(target.version.value());
  link.request.set_model_identity(target.identity.data(), target.identity.size());
  link.request.set_incarnation(target.incarnation.value());
  link.request.set_row_stride(target.row_stride);
  link.request.set_slot_shift(target.slot_shift);
  link.request.set_slot_count(target.slot_count);
  link.request.set_host_identity(HostIdentity());
  link.request.set_tcp_segment(tcp_segment_);
  link.request.set_protocol(kDataProtocol);
  for (std::string& host : DataHosts()) link.request.add_data_hosts(std::move(host));
  ReaderSession& opened = *session;
  sessions_.emplace(id, std::move(session));
  if (target.row_stride == 0 || target.slot_shift >= 32) {
    EndLater(opened, Status(StatusCode::kInvalidArgument, "row_stride or slot_shift"));
    return id;
  }
  auto address = worker_->Address();
  if (!address.has_value()) {
    EndLater(opened, address.error());
    return id;
  }
  link.request.set_worker_address(*address);
  opened.control = ControlLink::Open(control_io_, inbox_, std::move(link));
  return id;
}

void UcxRowReader::OnControl(ControlEvent& event) {
  ReaderSession* const session = Find(event.session);
  if (session == nullptr) return;
  switch (event.kind) {
    case ControlEvent::Kind::kOpened:
      OnOpened(*session, event);
      return;
    case ControlEvent::Kind::kDirectory: {
      session->refreshing_directory = false;
      const Status status = TakeDirectory(*session, *event.directory);
      if (!status.ok()) EndLater(*session, status);
      // The node had listed nothing when the session opened.
      if (status.ok() && session->state == ReaderSession::State::kOpen && !session->tried &&
          session->trial == nullptr && options_.way == ReadWay::kAuto) {
        ChooseWay(*session);
      }
      return;
    }
    case ControlEvent::Kind::kClosed:
      EndLater(*session, event.why);
      return;
  }
}

void UcxRowReader::OnOpened(ReaderSession& session, ControlEvent& event) {
  const Status status = Connect(session, event);
  if (!status.ok()) {
    EndLater(session, status);
    return;
  }
  session.state = ReaderSession::State::kConfirming;
  SendLeaseRequest(session, std::chrono::steady_clock::now());
}

Status UcxRowReader::Connect(ReaderSession& session, const ControlEvent& event) {
  const proto::OpenSessionReply& opened = event.opened;
  const Incarnation wanted = session.target.incarnation;
  session.incarnation = Incarnation(opened.incarnation());
  if (wanted != Incarnation(0) && session.incarnation != wanted) {
    return {StatusCode::kWrongIncarnation, "the node restarted: fetch the shard map"};
  }
  if (opened.session() == 0 || opened.lease_ms() > kLeaseMsMax ||
      !by_number_.emplace(opened.session(), &session).second) {
    return {StatusCode::kMalformed, "the node's reply to session.Open is out of range"};
  }
  session.number = opened.session();
  session.protocol = std::clamp(opened.protocol(), kDataProtocolMin, kDataProtocol);
  session.lease_ms = opened.lease_ms();
  session.ways_off = opened.ways_off();
  ENGRAM_RETURN_IF_ERROR(Admit(session, opened));
  auto endpoint = UcxEndpoint::Create(*worker_, opened.worker_address());
  if (!endpoint.has_value()) return endpoint.error();
  session.endpoint = *std::move(endpoint);

  const bool by_itself = session.lease_ms > 0 && options_.way != ReadWay::kGather;
  if (by_itself && one_sided_worker_ != nullptr && !opened.one_sided_address().empty()) {
    auto one_sided = UcxEndpoint::Create(*one_sided_worker_, opened.one_sided_address());
    if (one_sided.has_value()) {
      session.one_sided_endpoint = *std::move(one_sided);
    } else {
      session.ways_off += "; one-sided: " + one_sided.error().message();
    }
  }
  const std::string here = HostIdentity();
  if (here.empty() || here != opened.host_identity()) {
    session.ways_off += "; mapped: the node is on another host";
    session.can_share_memory = false;
  }
  bounce_.resize(std::max(bounce_.size(), size_t{kBounceRows} * session.target.row_stride));
  if (event.directory.has_value()) return TakeDirectory(session, *event.directory);
  return {};
}

// UCX mostly answers over the connection that a request came over, but not always: where a port of
// a reader that has gone is another's now, the node connects.
Status UcxRowReader::Admit(ReaderSession& session, const proto::OpenSessionReply& opened) {
  if (opened.data_hosts_size() > kDataHostsMax) {
    return {StatusCode::kMalformed, "the node names too many hosts of its own"};
  }
  for (const std::string& host : opened.data_hosts()) {
    ENGRAM_RETURN_IF_ERROR(port_guard_.Admit(host));
    session.hosts.push_back(host);
  }
  return {};
}

Status UcxRowReader::TakeDirectory(ReaderSession& session,
                                   const proto::GetDirectoryReply& directory) {
  NodeMemory::Access access;
  access.endpoint = session.endpoint.get();
  access.one_sided_endpoint = session.one_sided_endpoint.get();
  access.map = session.can_share_memory &&
               (options_.way == ReadWay::kAuto || options_.way == ReadWay::kMapped);
  ENGRAM_RETURN_IF_ERROR(session.memory.Update(directory, access));
  for (const auto map : session.memory.new_maps()) WarmMap(control_io_, session.mapped, map);
  if (!session.memory.can_read_one_sided() || session.window != nullptr || session.has_no_window) {
    return {};
  }
  auto window =
      OneSidedWindow::Create(*one_sided_context_, options_.landing, session.target.row_stride);
  if (!window.has_value() && options_.landing != nullptr) {
    session.ways_off += "; rows do not land in the GPU's memory: " + window.error().message();
    window = OneSidedWindow::Create(*one_sided_context_, nullptr, session.target.row_stride);
  }
  if (window.has_value()) {
    session.window = *std::move(window);
  } else {
    session.has_no_window = true;
    session.ways_off += "; one-sided: " + window.error().message();
  }
  return {};
}

void UcxRowReader::SendLeaseRequest(ReaderSession& session, MonotonicTime now) {
  auto free = std::find_if(lease_sends_.begin(), lease_sends_.end(),
                           [](const auto& send) { return !send->pending; });
  if (free == lease_sends_.end()) {
    lease_sends_.push_back(std::make_unique<LeaseSend>());
    free = lease_sends_.end() - 1;
  }
  LeaseSend& send = **free;
  send.request = {};
  send.request.session = session.number;
  send.request.version = session.target.version.value();
  send.request.incarnation = session.incarnation.value();
  send.request.acknowledged_epoch = session.acknowledged.value();
  send.request.directory_generation =
      DirectoryInUse(session, session.lease_ms > 0 && options_.way != ReadWay::kGather);
  send.request.sequence = session.lease.StartRequest(now);
  const UcxStarted started =
      session.endpoint->Send(static_cast<uint32_t>(GatherMessageId::kLeaseRequest),
                             std::as_bytes(std::span(&send.request, 1)), {}, /*eager=*/true, &send);
  send.pending = started == UcxStarted::kPending;
  if (started == UcxStarted::kFailed) {
    EndLater(session, Status(StatusCode::kPeerLost, "the node does not take lease requests"));
  }
  std::chrono::milliseconds interval = options_.keep_alive / 3;
  if (session.lease_ms > 0) {
    interval = std::min(interval, std::chrono::milliseconds(session.lease_ms / 3));
  }
  session.next_lease = now + std::max(interval, std::chrono::milliseconds(1));
  next_timer_ = std::min(next_timer_, session.next_lease);
}

void UcxRowReader::OnGrant(const UcxMessage& message) {
  const auto decoded = DecodeLeaseGrant(message.header, message.body_bytes);
  const uint64_t number = SessionOfReply(message.header);
  for (LeavingSession& leaving : leaving_) {
    if (leaving.session->number == number) leaving.session->granted = true;
  }
  const auto found = by_number_.find(number);
  if (found == by_number_.end()) return;
  ReaderSession& session = *found->second;
  session.granted = true;
  const LeaseGrant& grant = decoded.header;
  if (decoded.status != StatusCode::kOk || grant.lease_ms > kLeaseMsMax) {
    EndLater(session, Status(StatusCode::kMalformed, std::string("a lease: ") + decoded.fault));
    return;
  }
  session.last_heard = std::chrono::steady_clock::now();
  if (const auto status = static_cast<StatusCode>(grant.status); status != StatusCode::kOk) {
    EndLater(session, Status(status, "the node ends the session: fetch the shard map"));
    return;
  }
  if (!session.lease.Accept(grant.sequence, std::chrono::milliseconds(grant.lease_ms))) return;
  TellEpoch(session, Epoch(grant.newest_epoch));
  const bool by_itself = session.lease_ms > 0 && options_.way != ReadWay::kGather;
  if (by_itself && grant.generation != session.memory.generation() &&
      !session.refreshing_directory) {
    session.refreshing_directory = true;
    session.control->RefreshDirectory(session.number);
  }
  if (session.state == ReaderSession::State::kConfirming) ChooseWay(session);
}

void UcxRowReader::TellEpoch(ReaderSession& session, Epoch newest) {
  if (newest <= session.acknowledged || newest <= session.told) return;
  // Before OnOpen nobody knows the session; the next grant tells again.
  if (session.state != ReaderSession::State::kOpen || session.end_with.has_value()) return;
  session.told = newest;
  events_->OnEpoch(session.id, newest);
}

void UcxRowReader::RunTimers(MonotonicTime now) {
  // A reader that slept heard nothing; that says nothing of its nodes.
  const Duration gap =
      last_timer_run_ == MonotonicTime::min() ? Duration::zero() : now - last_timer_run_;
  const bool slept = gap > options_.keep_alive / 2;
  last_timer_run_ = now;
  next_timer_ = now + options_.keep_alive / 8;
  for (const auto& [id, session] : sessions_) {
    if (slept) session->last_heard = std::min(now, session->last_heard + gap);
    if (!session->end_with.has_value()) RunSessionTimers(*session, now);
    next_timer_ = std::min(next_timer_, session->next_lease);
  }
}

void UcxRowReader::RunSessionTimers(ReaderSession& session, MonotonicTime now) {
  if (session.endpoint != nullptr && session.endpoint->failure() != UCS_OK) {
    EndLater(session,
             Status(StatusCode::kPeerLost, std::string("the data connection: ") +
                                               ucs_status_string(session.endpoint->failure())));
    return;
  }
  if (session.state != ReaderSession::State::kOpen && now >= session.open_deadline) {
    EndLater(session, Status(StatusCode::kDeadlineExceeded,
                             session.target.address + " did not open a session in " +
                                 std::to_string(options_.open_timeout.count()) + " ms"));
    return;
  }
  if (session.state == ReaderSession::State::kConnecting) return;
  if (now - session.last_heard > options_.keep_alive) {
    EndLater(session, Status(StatusCode::kPeerLost,
                             session.target.address + " answered nothing for " +
                                 std::to_string(options_.keep_alive.count()) + " ms"));
    return;
  }
  if (now >= session.next_lease) SendLeaseRequest(session, now);
}

void UcxRowReader::EndLater(ReaderSession& session, Status why) {
  if (session.end_with.has_value()) return;
  session.end_with = std::move(why);
  sessions_to_end_ = true;
}

void UcxRowReader::EndSessions() {
  while (sessions_to_end_) {
    sessions_to_end_ = false;
    std::vector<SessionId> ended;
    for (const auto& [id, session] : sessions_) {
      if (session->end_with.has_value()) ended.push_back(id);
    }
    for (const SessionId id : ended) EndSession(id);
  }
}

void UcxRowReader::EndSession(SessionId id) {
  const auto found = sessions_.find(id);
  std::unique_ptr<ReaderSession> session = std::move(found->second);
  sessions_.erase(found);
  by_number_.erase(session->number);
  session->trial = nullptr;
  const Status why = *session->end_with;
  while (!session->reads.empty()) {
    PendingRead& read = *session->reads.back();
    const uint64_t tag = read.tag;
    const bool trial = read.trial;
    Release(read);
    if (!trial) events_->OnReadDone(tag, why.code());
  }
  Leave(std::move(session));
  events_->OnClosed(id, why);
}

void UcxRowReader::Leave(std::unique_ptr<ReaderSession> session) {
  if (IsAnswered(*session)) {
    Part(*session);
    return;
  }
  const MonotonicTime give_up = std::chrono::steady_clock::now() + kLeaveMax;
  next_timer_ = std::min(next_timer_, give_up);
  leaving_.push_back({std::move(session), give_up});
}

void UcxRowReader::LeaveAnswered(MonotonicTime now) {
  std::erase_if(leaving_, [&](LeavingSession& leaving) {
    if (now < leaving.give_up && !IsAnswered(*leaving.session)) return false;
    Part(*leaving.session);
    return true;
  });
}

void UcxRowReader::Part(ReaderSession& session) {
  for (const std::string& host : session.hosts) port_guard_.Expel(host);
  if (session.control != nullptr) session.control->Close();
  if (session.window != nullptr) ended_windows_.push_back(std::move(session.window));
}

}  // namespace engram

// What operators ask for: each call is one event of the cluster's state, or one question to it.
#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "coordinator/coordinator_service.h"
#include "engram/rpc/parse_message.h"

namespace engram {

using boost::asio::awaitable;
using std::chrono::milliseconds;

namespace {

constexpr size_t kNotesMax = 10'000;
constexpr int kNotesPerReply = 1'000;

}  // namespace

bool CoordinatorService::IsAdminCall(std::string_view method) {
  constexpr std::array<std::string_view, 5> kChanges = {"admin.DrainNode", "admin.RemoveNode",
                                                        "admin.SwitchVersion", "admin.DropVersion",
                                                        "admin.GetPlan"};
  return std::find(kChanges.begin(), kChanges.end(), method) != kChanges.end();
}

std::string CoordinatorService::Describe(std::string_view method, const std::string& body) {
  const auto text = [&body]<typename Request>(Request request, auto of) {
    return request.ParseFromString(body) ? of(request) : std::string("(malformed)");
  };
  if (method == "admin.CreateVersion") {
    return text(proto::CreateVersionRequest(), [](const auto& r) { return r.checkpoint_path(); });
  }
  if (method == "admin.DrainNode") {
    return text(proto::DrainNodeRequest(),
                [](const auto& r) { return r.node_id() + (r.undo() ? " (undo)" : ""); });
  }
  if (method == "admin.RemoveNode") {
    return text(proto::RemoveNodeRequest(), [](const auto& r) { return r.node_id(); });
  }
  if (method == "admin.SwitchVersion") {
    return text(proto::SwitchVersionRequest(), [](const auto& r) {
      return r.version() == 0 ? std::string("back") : std::to_string(r.version());
    });
  }
  if (method == "admin.DropVersion") {
    return text(proto::DropVersionRequest(),
                [](const auto& r) { return std::to_string(r.version()); });
  }
  if (method == "node.Register") {
    return text(proto::RegisterNodeRequest(),
                [](const auto& r) { return r.node().id() + " at " + r.node().data_address(); });
  }
  return {};
}

Result<std::string> CoordinatorService::Change(const std::string& method, const std::string& body) {
  if (method == "admin.DrainNode") {
    ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::DrainNodeRequest>(body));
    ENGRAM_TRY(Apply(NodeDrained{request.node_id(), request.undo()}));
    return proto::DrainNodeReply().SerializeAsString();
  }
  if (method == "admin.RemoveNode") {
    ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::RemoveNodeRequest>(body));
    ENGRAM_TRY(Apply(NodeRemoved{request.node_id()}));
    token_keys_told_.erase(request.node_id());
    return proto::RemoveNodeReply().SerializeAsString();
  }
  if (method == "admin.SwitchVersion") {
    ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::SwitchVersionRequest>(body));
    ENGRAM_TRY(Apply(VersionSwitched{TableVersion(request.version())}));
    proto::SwitchVersionReply reply;
    reply.set_current_version(state_->current().value());
    reply.set_previous_version(state_->previous().value());
    return reply.SerializeAsString();
  }
  if (method == "admin.DropVersion") {
    ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::DropVersionRequest>(body));
    ENGRAM_TRY(Apply(VersionDropped{TableVersion(request.version())}));
    return proto::DropVersionReply().SerializeAsString();
  }
  if (method == "admin.GetPlan") {
    ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::GetPlanRequest>(body));
    ENGRAM_TRY(CheckLeads());
    ENGRAM_ASSIGN_OR_RETURN(const proto::GetPlanReply reply, state_->Preview(request));
    return reply.SerializeAsString();
  }
  return Error(StatusCode::kNotFound, "the coordinator has no " + method);
}

void CoordinatorService::KeepNotes(const std::vector<std::string>& notes) {
  const auto unix_time = std::chrono::system_clock::now().time_since_epoch();
  for (const std::string& text : notes) {
    proto::ClusterNote& note = notes_.emplace_back();
    note.set_sequence(++last_note_);
    note.set_unix_ms(
        static_cast<uint64_t>(std::chrono::duration_cast<milliseconds>(unix_time).count()));
    note.set_text(text);
  }
  while (notes_.size() > kNotesMax) notes_.pop_front();
}

// All that is kept of a call that waits.
struct CoordinatorService::EventsQuestion {
  uint64_t after = 0;
  MonotonicTime until;
};

Result<CoordinatorService::EventsQuestion> CoordinatorService::ReadEventsQuestion(
    std::string body) const {
  ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::GetEventsRequest>(body));
  return EventsQuestion{
      request.after(),
      SteadyClock().Now() + milliseconds(std::min(request.wait_ms(), options_.wait_ms_max))};
}

awaitable<Result<std::string>> CoordinatorService::GetEvents(const RpcPeer& peer,
                                                             std::string body) {
  const auto question = ReadEventsQuestion(std::move(body));
  if (!question.has_value()) co_return Error(question.error());
  std::unique_ptr<HeldCalls::Call> held;
  while (true) {
    if (Status status = CheckLeads(); !status.ok()) co_return Error(std::move(status));
    const auto first = std::partition_point(
        notes_.begin(), notes_.end(),
        [&](const proto::ClusterNote& note) { return note.sequence() <= question->after; });
    if (first != notes_.end() || IsOver(question->until)) {
      proto::GetEventsReply reply;
      reply.set_term(term_);
      for (auto note = first; note != notes_.end() && reply.events_size() < kNotesPerReply;
           ++note) {
        *reply.add_events() = *note;
      }
      co_return reply.SerializeAsString();
    }
    if (Status status = held_->Hold(peer, HeldCalls::By::kReader, &held); !status.ok()) {
      co_return Error(std::move(status));
    }
    co_await held->Wait(question->until);
  }
}

}  // namespace engram

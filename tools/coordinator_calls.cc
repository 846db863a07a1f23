#include "tools/coordinator_calls.h"

#include <algorithm>
#include <vector>

#include "engram/rpc/host_port.h"
#include "engram/rpc/rpc_client.h"

namespace engram {
namespace {

// For a question that may be asked again: of several coordinators, one that is silent for this long
// is left for the next.
constexpr std::chrono::milliseconds kPatience{2000};

template <typename Reply>
Result<Reply> Call(const CoordinatorOptions& coordinator, const std::vector<std::string>& addresses,
                   std::chrono::milliseconds timeout, std::string_view method,
                   const google::protobuf::MessageLite& request) {
  ENGRAM_ASSIGN_OR_RETURN(const ChannelSecurity security, OpenSecurity(coordinator.security));
  ENGRAM_ASSIGN_OR_RETURN(
      const std::string body,
      RpcCallOnce(addresses, method, request.SerializeAsString(), timeout, security));
  Reply reply;
  if (!reply.ParseFromString(body)) {
    return Error(StatusCode::kMalformed, "coordinator " + coordinator.address + ": the reply to " +
                                             std::string(method) + " is not a " +
                                             reply.GetTypeName());
  }
  return reply;
}

// Of the coordinator that leads.
template <typename Reply>
Result<Reply> Call(const CoordinatorOptions& coordinator, std::string_view method,
                   const google::protobuf::MessageLite& request) {
  ENGRAM_ASSIGN_OR_RETURN(const auto addresses, ParseAddresses(coordinator.address));
  return Call<Reply>(coordinator, addresses, coordinator.timeout(), method, request);
}

}  // namespace

Result<proto::GetStatusReply> CallGetStatus(const CoordinatorOptions& coordinator) {
  ENGRAM_ASSIGN_OR_RETURN(const auto addresses, ParseAddresses(coordinator.address));
  const auto timeout =
      addresses.size() == 1 ? coordinator.timeout() : std::min(coordinator.timeout(), kPatience);
  Result<proto::GetStatusReply> status = Error(StatusCode::kInternal, "nobody was asked");
  for (const std::string& address : addresses) {
    status = Call<proto::GetStatusReply>(coordinator, {address}, timeout, "admin.GetStatus",
                                         proto::GetStatusRequest());
    if (status.has_value()) break;
  }
  return status;
}

Result<proto::CreateVersionReply> CallCreateVersion(const CoordinatorOptions& coordinator,
                                                    const proto::CreateVersionRequest& request) {
  return Call<proto::CreateVersionReply>(coordinator, "admin.CreateVersion", request);
}

Result<proto::DrainNodeReply> CallDrainNode(const CoordinatorOptions& coordinator,
                                            const proto::DrainNodeRequest& request) {
  return Call<proto::DrainNodeReply>(coordinator, "admin.DrainNode", request);
}

Result<proto::RemoveNodeReply> CallRemoveNode(const CoordinatorOptions& coordinator,
                                              const proto::RemoveNodeRequest& request) {
  return Call<proto::RemoveNodeReply>(coordinator, "admin.RemoveNode", request);
}

Result<proto::SwitchVersionReply> CallSwitchVersion(const CoordinatorOptions& coordinator,
                                                    const proto::SwitchVersionRequest& request) {
  return Call<proto::SwitchVersionReply>(coordinator, "admin.SwitchVersion", request);
}

Result<proto::DropVersionReply> CallDropVersion(const CoordinatorOptions& coordinator,
                                                const proto::DropVersionRequest& request) {
  return Call<proto::DropVersionReply>(coordinator, "admin.DropVersion", request);
}

Result<proto::GetPlanReply> CallGetPlan(const CoordinatorOptions& coordinator,
                                        const proto::GetPlanRequest& request) {
  return Call<proto::GetPlanReply>(coordinator, "admin.GetPlan", request);
}

Result<proto::GetEventsReply> CallGetEvents(const CoordinatorOptions& coordinator,
                                            const proto::GetEventsRequest& request) {
  return Call<proto::GetEventsReply>(coordinator, "admin.GetEvents", request);
}

Result<proto::GetShardMapReply> CallGetShardMap(const CoordinatorOptions& coordinator,
                                                const proto::GetShardMapRequest& request) {
  return Call<proto::GetShardMapReply>(coordinator, "directory.GetShardMap", request);
}

}  // namespace engram

#include "tools/coordinator_calls.h"

#include "engram/rpc/host_port.h"
#include "engram/rpc/rpc_client.h"

namespace engram {
namespace {

template <typename Reply>
Result<Reply> Call(const CoordinatorOptions& coordinator, std::string_view method,
                   const google::protobuf::MessageLite& request) {
  ENGRAM_ASSIGN_OR_RETURN(const auto addresses, ParseAddresses(coordinator.address));
  ENGRAM_ASSIGN_OR_RETURN(
      const std::string body,
      RpcCallOnce(addresses, method, request.SerializeAsString(), coordinator.timeout()));
  Reply reply;
  if (!reply.ParseFromString(body)) {
    return Error(StatusCode::kMalformed, "coordinator " + coordinator.address + ": the reply to " +
                                             std::string(method) + " is not a " +
                                             reply.GetTypeName());
  }
  return reply;
}

}  // namespace

Result<proto::GetStatusReply> CallGetStatus(const CoordinatorOptions& coordinator) {
  return Call<proto::GetStatusReply>(coordinator, "admin.GetStatus", proto::GetStatusRequest());
}

Result<proto::CreateVersionReply> CallCreateVersion(const CoordinatorOptions& coordinator,
                                                    const proto::CreateVersionRequest& request) {
  return Call<proto::CreateVersionReply>(coordinator, "admin.CreateVersion", request);
}

}  // namespace engram

#include "tools/coordinator_calls.h"

#include "engram/rpc/rpc_client.h"

namespace engram {
namespace {

template <typename Reply>
Result<Reply> Call(const CoordinatorOptions& coordinator, std::string_view method,
                   const google::protobuf::MessageLite& request) {
  auto body =
      RpcCallOnce(coordinator.address, method, request.SerializeAsString(), coordinator.timeout());
  if (!body.has_value()) {
    return Error(body.error().WithContext("coordinator " + coordinator.address));
  }
  Reply reply;
  if (!reply.ParseFromString(*body)) {
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

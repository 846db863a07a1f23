#include "engram/transport/ucx/ucx_endpoint.h"

#include "engram/transport/ucx/ucx_remote_key.h"
#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {
// UCX takes addresses without their length: zeros behind a cut-off one keep its parser inside.
constexpr size_t kAddressPaddingBytes = 4096;
}  // namespace

Result<std::unique_ptr<UcxEndpoint>> UcxEndpoint::Create(UcxWorker& worker,
                                                         const std::string& peer_address) {
  if (peer_address.empty()) {
    return Error(StatusCode::kInvalidArgument, "the peer's UCX worker address is empty");
  }
  // Its first byte: the format, and what it has. UCX ends the process at a format that it does not
  // know (1.13.1, ucp_address_unpack).
  ENGRAM_ASSIGN_OR_RETURN(const std::string own_address, worker.Address());
  if (peer_address.front() != own_address.front()) {
    return Error(StatusCode::kInvalidArgument,
                 "the peer's UCX worker address is damaged, or of another UCX: run the same on "
                 "both sides");
  }
  const std::string padded = peer_address + std::string(kAddressPaddingBytes, '\0');
  std::unique_ptr<UcxEndpoint> endpoint(new UcxEndpoint(worker));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(padded.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxEndpoint::OnError;
  params.err_handler.arg = endpoint.get();
  const ucs_status_t status = ucp_ep_create(worker.handle(), &params, &endpoint->endpoint_);
  if (status != UCS_OK) {
    endpoint->endpoint_ = nullptr;
    std::string doing = "connecting to a peer's UCX worker";
    if (status == UCS_ERR_UNREACHABLE) {
      doing +=
          " (both need a transport in common: UCX_TLS, UCX_NET_DEVICES, and an interface with "
          "a link when they started)";
    }
    return Error(UcxStatus(status, doing));
  }
  return endpoint;
}

UcxEndpoint::~UcxEndpoint() {
  if (endpoint_ != nullptr) worker_.CloseEndpoint(endpoint_);
}

void UcxEndpoint::OnError(void* arg, ucp_ep_h /*endpoint*/, ucs_status_t status) {
  static_cast<UcxEndpoint*>(arg)->failure_ = status;
}

UcxStarted UcxEndpoint::Send(uint32_t id, std::span<const std::byte> header,
                             std::span<const std::byte> body, bool eager, UcxCompletion* done) {
  ucp_request_param_t param = UcxWorker::SendParam(done);
  if (eager) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_AM_SEND_FLAG_EAGER;
  }
  return UcxWorker::Started(ucp_am_send_nbx(endpoint_, id, header.data(), header.size(),
                                            body.data(), body.size(), &param));
}

UcxStarted UcxEndpoint::Flush(UcxCompletion* done) {
  const ucp_request_param_t param = UcxWorker::SendParam(done);
  return UcxWorker::Started(ucp_ep_flush_nbx(endpoint_, &param));
}

UcxStarted UcxEndpoint::Get(const UcxRemoteKey& key, uint64_t remote_address, std::byte* target,
                            uint64_t bytes, UcxCompletion* done) {
  const ucp_request_param_t param = UcxWorker::SendParam(done);
  return UcxWorker::Started(
      ucp_get_nbx(endpoint_, target, bytes, remote_address, key.handle(), &param));
}

}  // namespace engram

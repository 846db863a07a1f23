#include "engram/transport/ucx/ucx_worker.h"

#include <algorithm>

#include <spdlog/spdlog.h>

#include "engram/transport/ucx/send_guard.h"
#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {

void OnSent(void* request, ucs_status_t status, void* user_data) {
  ucp_request_free(request);
  static_cast<UcxCompletion*>(user_data)->OnComplete(status);
}

void OnReceived(void* request, ucs_status_t status, size_t /*length*/, void* user_data) {
  ucp_request_free(request);
  static_cast<UcxCompletion*>(user_data)->OnComplete(status);
}

}  // namespace

Result<std::unique_ptr<UcxWorker>> UcxWorker::Create(const UcxContext& context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h handle = nullptr;
  ucs_status_t status = ucp_worker_create(context.handle(), &params, &handle);
  if (status != UCS_OK) return Error(UcxStatus(status, "creating a UCX worker"));
  std::unique_ptr<UcxWorker> worker(new UcxWorker(handle));
  status = ucp_worker_get_efd(handle, &worker->event_fd_);
  if (status != UCS_OK) {
    worker->event_fd_ = -1;
    if (status != UCS_ERR_UNSUPPORTED && status != UCS_ERR_INVALID_PARAM) {
      return Error(UcxStatus(status, "getting a UCX worker's event descriptor"));
    }
  }
  return worker;
}

UcxWorker::~UcxWorker() {
  FinishClosing();
  ucp_worker_destroy(worker_);
}

Result<std::string> UcxWorker::Address() const {
  ucp_address_t* address = nullptr;
  size_t bytes = 0;
  const ucs_status_t status = ucp_worker_get_address(worker_, &address, &bytes);
  if (status != UCS_OK) return Error(UcxStatus(status, "getting a UCX worker's address"));
  std::string copy(reinterpret_cast<const char*>(address), bytes);
  ucp_worker_release_address(worker_, address);
  return copy;
}

// All ids that a message can have, the highest first: UCX 1.13.1 reads its table at the id that
// came before it looks whether the table goes that far, and where it has lengthened the table it
// leaves all new entries but the last to chance, and calls them (ucp_am_handler,
// ucp_worker_set_am_handler_common). Takes 1 ms and 1.5 MiB.
Status UcxWorker::Handle(UcxMessageHandler* handler) {
  constexpr uint32_t kIds = 1u << 16;
  for (uint32_t id = 0; id <= kOwnIds; ++id) registrations_[id] = {handler, id};
  for (uint32_t id = kIds; id-- > 0;) {
    ucp_am_handler_param_t params{};
    params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                        UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    params.id = id;
    params.flags = UCP_AM_FLAG_WHOLE_MSG;
    params.cb = &UcxWorker::OnAm;
    params.arg = &registrations_[std::min(id, kOwnIds)];
    const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &params);
    if (status != UCS_OK) return UcxStatus(status, "registering a message handler");
  }
  return {};
}

ucs_status_t UcxWorker::OnAm(void* arg, const void* header, size_t header_length, void* data,
                             size_t length, const ucp_am_recv_param_t* param) {
  const auto* const registration = static_cast<Registration*>(arg);
  UcxMessage message;
  message.header = {static_cast<const std::byte*>(header), header_length};
  message.data = data;
  message.body_bytes = length;
  message.rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  const bool received = registration->handler->OnMessage(registration->id, message);
  return received ? UCS_INPROGRESS : UCS_OK;
}

bool UcxWorker::Progress() {
  // Bounded: whoever drives this has other work too.
  constexpr int kRoundsMax = 16;
  const SendGuard guard;
  bool any = false;
  for (int i = 0; i < kRoundsMax && ucp_worker_progress(worker_) != 0; ++i) any = true;
  if (!closing_.empty()) CollectClosed();
  return any;
}

bool UcxWorker::Arm() {
  // A closing endpoint may give no event: its driver comes back until it is gone.
  return closing_.empty() && ucp_worker_arm(worker_) == UCS_OK;
}

UcxStarted UcxWorker::Receive(const UcxMessage& message, std::byte* buffer, UcxCompletion* done) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = &OnReceived;
  param.user_data = done;
  return Started(ucp_am_recv_data_nbx(worker_, message.data, buffer, message.body_bytes, &param));
}

UcxStarted UcxWorker::Started(ucs_status_ptr_t request) {
  if (request == nullptr) return UcxStarted::kDone;
  return UCS_PTR_IS_ERR(request) ? UcxStarted::kFailed : UcxStarted::kPending;
}

ucp_request_param_t UcxWorker::SendParam(UcxCompletion* done) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = &OnSent;
  param.user_data = done;
  return param;
}

void UcxWorker::CloseEndpoint(ucp_ep_h endpoint) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
  if (request == nullptr) return;
  if (UCS_PTR_IS_ERR(request)) {
    spdlog::warn("closing a UCX endpoint: {}", ucs_status_string(UCS_PTR_STATUS(request)));
    return;
  }
  closing_.push_back({request, std::chrono::steady_clock::now() + kCloseMax});
}

void UcxWorker::CollectClosed() {
  const MonotonicTime now = std::chrono::steady_clock::now();
  std::erase_if(closing_, [now](const Closing& closing) {
    if (ucp_request_check_status(closing.request) != UCS_INPROGRESS) {
      ucp_request_free(closing.request);
      return true;
    }
    if (now < closing.give_up) return false;
    spdlog::warn("a UCX endpoint did not close in {} ms: left to its worker's end",
                 kCloseMax.count());
    return true;
  });
}

void UcxWorker::FinishClosing() {
  while (!closing_.empty()) Progress();
}

}  // namespace engram

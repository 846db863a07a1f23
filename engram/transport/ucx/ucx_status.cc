#include "engram/transport/ucx/ucx_status.h"

#include <string>

namespace engram {

StatusCode FromUcx(ucs_status_t status) {
  switch (status) {
    case UCS_OK:
      return StatusCode::kOk;
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT:
      return StatusCode::kResourceExhausted;
    case UCS_ERR_CANCELED:
      return StatusCode::kCancelled;
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_ENDPOINT_TIMEOUT:
      return StatusCode::kDeadlineExceeded;
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return StatusCode::kInvalidArgument;
    case UCS_ERR_NO_DEVICE:
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_UNSUPPORTED:
    case UCS_ERR_NOT_IMPLEMENTED:
      return StatusCode::kUnavailable;
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_REJECTED:
      return StatusCode::kPeerLost;
    default:
      return StatusCode::kIo;
  }
}

Status UcxStatus(ucs_status_t status, std::string_view doing) {
  return {FromUcx(status), std::string(doing) + ": " + ucs_status_string(status)};
}

}  // namespace engram

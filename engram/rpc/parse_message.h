// The body of a call as the message that its method takes.
#pragma once

#include <string>

#include "engram/base/status.h"

namespace engram {

// `Message` is a Protobuf message. ERRORS: kMalformed.
template <typename Message>
[[nodiscard]] Result<Message> ParseMessage(const std::string& body) {
  Message message;
  if (!message.ParseFromString(body)) {
    return Error(StatusCode::kMalformed, "the body is not a " + message.GetTypeName());
  }
  return message;
}

}  // namespace engram

// The JSON of POST /v1/completions, in the OpenAI API's shape.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engram/base/status.h"
#include "model_worker/generation_request.h"

namespace engram {

struct CompletionRequest {
  std::string model;  // empty = not said
  std::variant<std::string, std::vector<TokenId>> prompt;
  uint32_t max_tokens = 16;
  SamplingParams sampling;  // temperature 1 where not said, as in the OpenAI API
  bool seed_given = false;
  std::vector<std::string> stop;  // at most kCompletionStopsMax
  bool stream = false;
  bool stream_usage = false;  // stream_options.include_usage
};
inline constexpr size_t kCompletionStopsMax = 16;
inline constexpr size_t kCompletionStopBytesMax = 256;

// ERRORS: kInvalidArgument naming the field, what was found and what is allowed; an unknown field
// or a feature we do not have (n > 1, logprobs, ...) is refused, not ignored.
[[nodiscard]] Result<CompletionRequest> ParseCompletionRequest(std::string_view body);

struct CompletionUsage {
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
};

// What all chunks of one completion share.
struct CompletionHead {
  std::string id;  // "cmpl-17"
  std::string model;
  int64_t created = 0;  // Unix seconds
};

// The whole answer. `finish_reason`: "stop" or "length".
[[nodiscard]] std::string CompletionJson(const CompletionHead& head, std::string_view text,
                                         std::string_view finish_reason,
                                         const CompletionUsage& usage);
// One chunk of a stream; an empty `finish_reason` is null.
[[nodiscard]] std::string CompletionChunkJson(const CompletionHead& head, std::string_view text,
                                              std::string_view finish_reason);
// The chunk after the last one where usage was asked for: no choices.
[[nodiscard]] std::string CompletionUsageChunkJson(const CompletionHead& head,
                                                   const CompletionUsage& usage);
// {"error": {"message", "type", "code"}}; `code` is our status code's name.
[[nodiscard]] std::string ErrorJson(const Status& status);
// The HTTP status that tells a client what to do: 400, 404, 429, 503, 500.
[[nodiscard]] int HttpStatusOf(StatusCode code);
// One server-sent event.
[[nodiscard]] std::string ServerSentEvent(std::string_view data);

}  // namespace engram

// What clients send to the model worker: a completion request, its stop strings, a prompts file.
#include <string>
#include <string_view>
#include <variant>

#include "engram/base/check.h"
#include "model_worker/completion_messages.h"
#include "model_worker/prompts.h"
#include "model_worker/stop_text.h"

using namespace engram;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto prompts = ParsePrompts(text, "input"); prompts.has_value()) {
    ENGRAM_CHECK(!prompts->empty());
    for (const std::string& prompt : *prompts) ENGRAM_CHECK(!prompt.empty());
  }
  const auto request = ParseCompletionRequest(text);
  if (!request.has_value()) {
    ENGRAM_CHECK(request.error().code() == StatusCode::kInvalidArgument);
    // The answer is valid JSON whatever bytes the message quotes.
    ENGRAM_CHECK(!ErrorJson(request.error()).empty());
    return 0;
  }
  ENGRAM_CHECK(ValidateSamplingParams(request->sampling).ok());
  ENGRAM_CHECK(request->max_tokens > 0);
  ENGRAM_CHECK(request->stop.size() <= kCompletionStopsMax);
  // The body itself as the generated text, in two pieces: what is shown is a prefix of it without a
  // stop string.
  StopText stop(request->stop);
  std::string shown = stop.Next(text.substr(0, size / 2));
  shown += stop.Next(text.substr(size / 2));
  shown += stop.Finish();
  ENGRAM_CHECK(text.starts_with(shown));
  for (const std::string& word : request->stop) {
    ENGRAM_CHECK(shown.find(word) == std::string::npos);
  }
  return 0;
}

#include "model_worker/completion_messages.h"

#include <limits>
#include <utility>

#include <nlohmann/json.hpp>

namespace engram {
namespace {

using Json = nlohmann::json;

constexpr int kJsonDepthMax = 8;

Status Refuse(std::string_view field, const Json& found, std::string_view allowed) {
  std::string shown = found.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
  return {StatusCode::kInvalidArgument,
          std::string(field) + " is " + shown + "; it must be " + std::string(allowed)};
}

Status ReadPrompt(const Json& value, CompletionRequest* request) {
  constexpr std::string_view kAllowed =
      "a string or an array of token ids, not empty (one prompt a request)";
  if (value.is_string()) {
    if (value.get_ref<const std::string&>().empty()) return Refuse("prompt", value, kAllowed);
    request->prompt = value.get<std::string>();
    return {};
  }
  if (!value.is_array() || value.empty()) return Refuse("prompt", value, kAllowed);
  if (value.size() == 1 && value[0].is_string()) return ReadPrompt(value[0], request);
  std::vector<TokenId> ids;
  for (const Json& id : value) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<TokenId>::max()) {
      return Refuse("prompt", value, kAllowed);
    }
    ids.push_back(id.get<TokenId>());
  }
  request->prompt = std::move(ids);
  return {};
}

Status ReadStop(const Json& value, CompletionRequest* request) {
  constexpr std::string_view kAllowed =
      "a string or an array of at most 16 strings, each of 1 to 256 bytes";
  const Json list = value.is_string() ? Json::array({value}) : value;
  if (!list.is_array() || list.size() > kCompletionStopsMax) return Refuse("stop", value, kAllowed);
  for (const Json& stop : list) {
    if (!stop.is_string()) return Refuse("stop", value, kAllowed);
    auto text = stop.get<std::string>();
    if (text.empty() || text.size() > kCompletionStopBytesMax) {
      return Refuse("stop", value, kAllowed);
    }
    request->stop.push_back(std::move(text));
  }
  return {};
}

Status ReadUnsigned(std::string_view field, const Json& value, uint32_t least, uint32_t* out) {
  if (!value.is_number_integer() || value < least || value > std::numeric_limits<int32_t>::max()) {
    return Refuse(field, value, "an integer of at least " + std::to_string(least));
  }
  *out = value.get<uint32_t>();
  return {};
}

Status ReadFloat(std::string_view field, const Json& value, float* out) {
  if (!value.is_number()) return Refuse(field, value, "a number");
  *out = value.get<float>();
  return {};
}

Status ReadBool(std::string_view field, const Json& value, bool* out) {
  if (!value.is_boolean()) return Refuse(field, value, "true or false");
  *out = value.get<bool>();
  return {};
}

Status ReadSeed(const Json& value, CompletionRequest* request) {
  if (!value.is_number_integer()) return Refuse("seed", value, "an integer of 64 bits");
  request->sampling.seed = value.is_number_unsigned() ? value.get<uint64_t>()
                                                      : static_cast<uint64_t>(value.get<int64_t>());
  request->seed_given = true;
  return {};
}

Status ReadStreamOptions(const Json& value, CompletionRequest* request) {
  if (!value.is_object()) return Refuse("stream_options", value, "an object");
  for (const auto& [key, option] : value.items()) {
    if (key != "include_usage") {
      return {StatusCode::kInvalidArgument, "stream_options." + key + " is not supported"};
    }
    ENGRAM_RETURN_IF_ERROR(
        ReadBool("stream_options.include_usage", option, &request->stream_usage));
  }
  return {};
}

// Fields of the API that we take only at the value that changes nothing.
Status ReadNeutral(std::string_view field, const Json& value) {
  static const Json neutral = {{"n", 1},
                               {"best_of", 1},
                               {"echo", false},
                               {"frequency_penalty", 0},
                               {"presence_penalty", 0},
                               {"logit_bias", Json::object()},
                               {"logprobs", 0},
                               {"suffix", ""}};
  const auto known = neutral.find(field);
  if (known == neutral.end()) {
    return {StatusCode::kInvalidArgument, "the field " + std::string(field) + " is not known"};
  }
  // logprobs 0 still asks for the drawn tokens' own.
  if (field == "logprobs" ? value.is_number() : value != *known) {
    return {StatusCode::kInvalidArgument,
            "the field " + std::string(field) + " is not supported: leave it out"};
  }
  return {};
}

Status ReadField(const std::string& field, const Json& value, CompletionRequest* request) {
  if (value.is_null() && field != "prompt") return {};
  if (field == "model") {
    if (!value.is_string()) return Refuse(field, value, "a string");
    request->model = value.get<std::string>();
    return {};
  }
  if (field == "prompt") return ReadPrompt(value, request);
  if (field == "max_tokens") return ReadUnsigned(field, value, 1, &request->max_tokens);
  if (field == "temperature") return ReadFloat(field, value, &request->sampling.temperature);
  if (field == "top_p") return ReadFloat(field, value, &request->sampling.top_p);
  if (field == "top_k") return ReadUnsigned(field, value, 0, &request->sampling.top_k);
  if (field == "seed") return ReadSeed(value, request);
  if (field == "stop") return ReadStop(value, request);
  if (field == "stream") return ReadBool(field, value, &request->stream);
  if (field == "stream_options") return ReadStreamOptions(value, request);
  if (field == "user") return {};
  return ReadNeutral(field, value);
}

Json Head(const CompletionHead& head) {
  return {{"id", head.id},
          {"object", "text_completion"},
          {"created", head.created},
          {"model", head.model}};
}

Json Choice(std::string_view text, std::string_view finish_reason) {
  Json choice = {{"index", 0}, {"text", text}, {"logprobs", nullptr}};
  choice["finish_reason"] = finish_reason.empty() ? Json(nullptr) : Json(finish_reason);
  return choice;
}

Json Usage(const CompletionUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Result<CompletionRequest> ParseCompletionRequest(std::string_view body) {
  // Printing a value back in a message recurses: no request needs much depth.
  bool too_deep = false;
  const auto shallow = [&too_deep](int depth, Json::parse_event_t, const Json&) {
    too_deep |= depth > kJsonDepthMax;
    return depth <= kJsonDepthMax;
  };
  const Json json = Json::parse(body, shallow, /*allow_exceptions=*/false);
  if (too_deep) {
    return Error(StatusCode::kInvalidArgument,
                 "the body nests deeper than " + std::to_string(kJsonDepthMax) + " levels");
  }
  if (json.is_discarded()) {
    return Error(StatusCode::kInvalidArgument, "the body is not valid JSON");
  }
  if (!json.is_object()) {
    return Error(StatusCode::kInvalidArgument, "the body must be a JSON object");
  }
  CompletionRequest request;
  request.sampling.temperature = 1.0f;
  if (!json.contains("prompt")) {
    return Error(StatusCode::kInvalidArgument, "the field prompt is missing");
  }
  for (const auto& [field, value] : json.items()) ENGRAM_TRY(ReadField(field, value, &request));
  ENGRAM_TRY(ValidateSamplingParams(request.sampling));
  return request;
}

std::string CompletionJson(const CompletionHead& head, std::string_view text,
                           std::string_view finish_reason, const CompletionUsage& usage) {
  Json json = Head(head);
  json["choices"] = Json::array({Choice(text, finish_reason)});
  json["usage"] = Usage(usage);
  return Dump(json);
}

std::string CompletionChunkJson(const CompletionHead& head, std::string_view text,
                                std::string_view finish_reason) {
  Json json = Head(head);
  json["choices"] = Json::array({Choice(text, finish_reason)});
  return Dump(json);
}

std::string CompletionUsageChunkJson(const CompletionHead& head, const CompletionUsage& usage) {
  Json json = Head(head);
  json["choices"] = Json::array();
  json["usage"] = Usage(usage);
  return Dump(json);
}

std::string ErrorJson(const Status& status) {
  const int http = HttpStatusOf(status.code());
  const char* type = http == 429  ? "rate_limit_error"
                     : http < 500 ? "invalid_request_error"
                                  : "server_error";
  return Dump(
      {{"error",
        {{"message", status.message()}, {"type", type}, {"code", StatusCodeName(status.code())}}}});
}

int HttpStatusOf(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
      return 400;
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kResourceExhausted:
      return 429;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kPeerLost:
    case StatusCode::kCorrupt:
    case StatusCode::kCancelled:
      return 503;
    default:
      return 500;
  }
}

std::string ServerSentEvent(std::string_view data) { return "data: " + std::string(data) + "\n\n"; }

}  // namespace engram

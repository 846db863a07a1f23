#include "coordinator/etcd_messages.h"

#include <array>
#include <charconv>
#include <utility>

#include <nlohmann/json.hpp>

namespace engram {
namespace {

using nlohmann::json;

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr size_t kErrorTextBytesMax = 300;
constexpr unsigned kServerErrors = 500;

constexpr std::array<int8_t, 256> kBase64Values = [] {
  std::array<int8_t, 256> values{};
  values.fill(-1);
  for (size_t i = 0; i < kBase64.size(); ++i) {
    values[static_cast<unsigned char>(kBase64[i])] = static_cast<int8_t>(i);
  }
  return values;
}();

tl::unexpected<Status> Bad(const std::string& what) {
  return Error(StatusCode::kMalformed, "etcd's reply " + what);
}

const json* Find(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

// A number, as text or as itself; 0 where it is left out. None when it is something else.
template <typename Number>
std::optional<Number> NumberOf(const json& object, const char* name) {
  const json* field = Find(object, name);
  if (field == nullptr) return Number{0};
  if (field->is_number_unsigned()) {
    const auto value = field->get<uint64_t>();
    return std::in_range<Number>(value) ? std::optional(static_cast<Number>(value)) : std::nullopt;
  }
  if (!field->is_string()) return std::nullopt;
  const auto& text = field->get_ref<const std::string&>();
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<bool> BoolOf(const json& object, const char* name) {
  const json* field = Find(object, name);
  if (field == nullptr) return false;
  return field->is_boolean() ? std::optional(field->get<bool>()) : std::nullopt;
}

std::optional<std::string> BytesOf(const json& object, const char* name) {
  const json* field = Find(object, name);
  if (field == nullptr) return std::string();
  if (!field->is_string()) return std::nullopt;
  return FromBase64(field->get_ref<const std::string&>());
}

Result<uint64_t> HeaderRevision(const json& reply) {
  const json* header = Find(reply, "header");
  const auto revision = header == nullptr ? std::nullopt : NumberOf<uint64_t>(*header, "revision");
  if (!revision.has_value() || !header->is_object()) return Bad("has no revision in its header");
  return *revision;
}

Result<EtcdKeyValue> ParseKeyValue(const json& object) {
  auto key = BytesOf(object, "key");
  auto value = BytesOf(object, "value");
  const auto created = NumberOf<uint64_t>(object, "create_revision");
  const auto modified = NumberOf<uint64_t>(object, "mod_revision");
  if (!object.is_object() || !key || !value || !created || !modified) {
    return Bad("has a key that cannot be read");
  }
  return EtcdKeyValue{*std::move(key), *std::move(value), *created, *modified};
}

Result<EtcdRangeReply> ParseRangeBody(const json& body) {
  EtcdRangeReply reply;
  const auto more = BoolOf(body, "more");
  if (!body.is_object() || !more) return Bad("is not a range");
  reply.more = *more;
  const json* keys = Find(body, "kvs");
  if (keys == nullptr) return reply;
  if (!keys->is_array()) return Bad("has keys that are no list");
  reply.keys.reserve(keys->size());
  for (const json& object : *keys) {
    ENGRAM_ASSIGN_OR_RETURN(EtcdKeyValue key_value, ParseKeyValue(object));
    reply.keys.push_back(std::move(key_value));
  }
  return reply;
}

json OpJson(const EtcdOp& op) {
  switch (op.kind) {
    case EtcdOp::Kind::kPut: {
      json put = {{"key", ToBase64(op.key)}, {"value", ToBase64(op.value)}};
      if (op.lease != 0) put["lease"] = std::to_string(op.lease);
      return {{"request_put", std::move(put)}};
    }
    case EtcdOp::Kind::kDelete: {
      json erase = {{"key", ToBase64(op.key)}};
      if (!op.range_end.empty()) erase["range_end"] = ToBase64(op.range_end);
      return {{"request_delete_range", std::move(erase)}};
    }
    case EtcdOp::Kind::kRange:
      break;
  }
  return {{"request_range", RangeRequest(op)}};
}

}  // namespace

EtcdOp EtcdOp::Put(std::string key, std::string value, uint64_t lease) {
  EtcdOp op;
  op.kind = Kind::kPut;
  op.key = std::move(key);
  op.value = std::move(value);
  op.lease = lease;
  return op;
}

EtcdOp EtcdOp::Delete(std::string key, std::string range_end) {
  EtcdOp op = Range(std::move(key), std::move(range_end));
  op.kind = Kind::kDelete;
  return op;
}

EtcdOp EtcdOp::Range(std::string key, std::string range_end) {
  EtcdOp op;
  op.key = std::move(key);
  op.range_end = std::move(range_end);
  return op;
}

std::string ToBase64(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) {
      group = group << 8 | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    }
    for (size_t i = 0; i < 4; ++i) {
      text.push_back(i <= count ? kBase64[group >> (18 - 6 * i) & 63] : '=');
    }
  }
  return text;
}

std::optional<std::string> FromBase64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t group = 0;
  for (size_t i = 0; i < text.size() - padding; ++i) {
    const int8_t value = kBase64Values[static_cast<unsigned char>(text[i])];
    if (value < 0) return std::nullopt;
    group = group << 6 | static_cast<uint32_t>(value);
    // A byte is whole after the second, third and fourth sign of each four.
    if (i % 4 != 0) bytes.push_back(static_cast<char>(group >> (6 - 2 * (i % 4)) & 0xff));
  }
  return bytes;
}

std::string EndOfPrefix(std::string prefix) {
  prefix.back() = static_cast<char>(prefix.back() + 1);
  return prefix;
}

json RangeRequest(const EtcdOp& range) {
  json request = {{"key", ToBase64(range.key)}};
  if (!range.range_end.empty()) request["range_end"] = ToBase64(range.range_end);
  if (range.keys_max != 0) request["limit"] = std::to_string(range.keys_max);
  if (range.revision != 0) request["revision"] = std::to_string(range.revision);
  return request;
}

json TxnRequest(const EtcdTxn& txn) {
  json request = {
      {"compare", json::array()}, {"success", json::array()}, {"failure", json::array()}};
  for (const EtcdCompare& compare : txn.compares) {
    const bool created = compare.target == EtcdCompare::Target::kCreateRevision;
    request["compare"].push_back(
        {{"key", ToBase64(compare.key)},
         {"result", "EQUAL"},
         {"target", created ? "CREATE" : "MOD"},
         {created ? "create_revision" : "mod_revision", std::to_string(compare.equals)}});
  }
  for (const EtcdOp& op : txn.success) request["success"].push_back(OpJson(op));
  for (const EtcdOp& op : txn.failure) request["failure"].push_back(OpJson(op));
  return request;
}

Result<json> ParseEtcdJson(std::string_view text) {
  json document = json::parse(text, nullptr, false);
  if (!document.is_object()) return Bad("is not a JSON object");
  return document;
}

Result<EtcdRangeReply> ParseRangeReply(const json& reply) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t revision, HeaderRevision(reply));
  ENGRAM_ASSIGN_OR_RETURN(EtcdRangeReply range, ParseRangeBody(reply));
  range.revision = revision;
  return range;
}

Result<EtcdTxnReply> ParseTxnReply(const json& reply) {
  EtcdTxnReply txn;
  ENGRAM_ASSIGN_OR_RETURN(txn.revision, HeaderRevision(reply));
  const auto succeeded = BoolOf(reply, "succeeded");
  if (!succeeded) return Bad("is not a transaction's");
  txn.succeeded = *succeeded;
  const json* responses = Find(reply, "responses");
  if (responses == nullptr) return txn;
  if (!responses->is_array()) return Bad("has responses that are no list");
  for (const json& response : *responses) {
    const json* range = Find(response, "response_range");
    if (range == nullptr) continue;
    ENGRAM_ASSIGN_OR_RETURN(EtcdRangeReply parsed, ParseRangeBody(*range));
    parsed.revision = txn.revision;
    txn.ranges.push_back(std::move(parsed));
  }
  return txn;
}

Result<EtcdLease> ParseLeaseReply(const json& reply) {
  // keepalive is a stream of one: its reply is wrapped.
  const json* wrapped = Find(reply, "result");
  const json& body = wrapped != nullptr ? *wrapped : reply;
  const auto id = NumberOf<uint64_t>(body, "ID");
  const auto ttl_s = NumberOf<int64_t>(body, "TTL");
  if (!body.is_object() || !id || !ttl_s || *id == 0) return Bad("is not a lease's");
  return EtcdLease{*id, *ttl_s};
}

Status EtcdFailure(unsigned http_status, std::string_view body) {
  // gRPC's codes, as the gateway tells them.
  enum GrpcCode : int {
    kDeadlineExceeded = 4,
    kPermissionDenied = 7,
    kResourceExhausted = 8,
    kOutOfRange = 11,
    kUnavailable = 14,
    kUnauthenticated = 16
  };
  const json reply = json::parse(body, nullptr, false);
  std::string text(body);
  if (const json* message = Find(reply, "error"); message != nullptr && message->is_string()) {
    text = message->get<std::string>();
  }
  if (text.size() > kErrorTextBytesMax) text.resize(kErrorTextBytesMax);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  text = "HTTP " + std::to_string(http_status) + ", " + text;
  switch (NumberOf<int>(reply, "code").value_or(0)) {
    case kDeadlineExceeded:
    case kUnavailable:
      return {StatusCode::kUnavailable,
              text + ": has its cluster a majority? (etcdctl endpoint status)"};
    case kOutOfRange:  // what is being read was compacted away meanwhile: read again
      return {StatusCode::kUnavailable, text};
    case kResourceExhausted:
      return {StatusCode::kResourceExhausted,
              text +
                  ": where its space is used up, compact and defragment it, then disarm the alarm "
                  "(etcdctl compact, defrag, alarm disarm)"};
    case kPermissionDenied:
    case kUnauthenticated:
      return {StatusCode::kIo, text + ": an etcd with authentication is not supported"};
    default:
      return {http_status >= kServerErrors ? StatusCode::kUnavailable : StatusCode::kIo, text};
  }
}

}  // namespace engram

#include "client/engram_client.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/connect.h"
#include "client/row_source.h"

struct engram_client {
  std::unique_ptr<engram::RowSource> rows;
};

namespace {

using engram::Status;
using engram::StatusCode;

static_assert(ENGRAM_INTERNAL == static_cast<int>(StatusCode::kInternal) &&
              engram::kStatusCodeCount == ENGRAM_PERMISSION_DENIED + 1);

thread_local std::string last_message;

engram_code Fail(const Status& status) {
  last_message = status.message();
  return static_cast<engram_code>(status.code());
}

// Nothing is thrown into C.
template <typename Body>
engram_code Guarded(Body body) noexcept {
  try {
    const Status status = body();
    return status.ok() ? ENGRAM_OK : Fail(status);
  } catch (const std::exception& e) {
    try {
      return Fail(Status(StatusCode::kInternal, e.what()));
    } catch (...) {
      return ENGRAM_INTERNAL;
    }
  } catch (...) {
    return ENGRAM_INTERNAL;
  }
}

Status Null(const char* name) {
  return Status(StatusCode::kInvalidArgument, std::string(name) + " is NULL");
}

// Copies `from` over the caller's struct, whose size may be an older or newer header's.
template <typename T>
Status CopySized(const T& from, T* to) {
  const size_t size = to->struct_size;
  if (size < sizeof(size_t) || size > 65536) {
    return Status(StatusCode::kInvalidArgument, "struct_size is not set");
  }
  std::memset(to, 0, size);
  std::memcpy(to, &from, std::min(size, sizeof(T)));
  to->struct_size = size;
  return {};
}

engram_options DefaultOptions() {
  engram_options options{};
  options.struct_size = sizeof(options);
  options.io_threads = 1;
  options.batch_tokens_max = 1024;
  options.staging_buffers = 4;
  options.ready_timeout_ms = 30000;
  options.way = "auto";
  options.tls = "auto";
  return options;
}

engram::Result<engram::ConnectOptions> ToConnectOptions(const engram_options& given) {
  engram::ConnectOptions options;
  options.version = engram::TableVersion(given.version);
  options.cache_bytes = given.cache_bytes;
  options.io_threads = given.io_threads;
  options.batch_tokens_max = given.batch_tokens_max;
  options.staging_buffers = given.staging_buffers;
  options.ready_timeout = std::chrono::milliseconds(given.ready_timeout_ms);
  if (given.tls != nullptr) options.tls = given.tls;
  if (given.zone != nullptr) options.zone = given.zone;
  options.spin = std::chrono::microseconds(given.spin_us);
  options.security.insecure = given.insecure != 0;
  if (given.certs != nullptr) {
    if (given.insecure != 0) {
      return engram::Error(StatusCode::kInvalidArgument, "certs and insecure exclude each other");
    }
    ENGRAM_ASSIGN_OR_RETURN(options.security.identity, engram::TlsIdentity::Load(given.certs));
  }
  if (given.way == nullptr) return options;
  for (const auto way : {engram::ReadWay::kAuto, engram::ReadWay::kGather, engram::ReadWay::kMapped,
                         engram::ReadWay::kOneSided}) {
    if (engram::ReadWayName(way) == given.way) {
      options.way = way;
      return options;
    }
  }
  return engram::Error(
      StatusCode::kInvalidArgument,
      std::string("way \"") + given.way + "\": it must be auto, gather, mapped or one-sided");
}

Status Open(const char* model_dir, const char* coordinators, const engram_options* given,
            engram_client** client) {
  if (client == nullptr) return Null("client");
  *client = nullptr;
  if (model_dir == nullptr) return Null("model_dir");
  if (coordinators == nullptr) return Null("coordinators");
  engram_options merged = DefaultOptions();
  if (given != nullptr) {
    if (given->struct_size < sizeof(size_t)) {
      return Status(StatusCode::kInvalidArgument,
                    "options->struct_size is not set: call engram_options_init first");
    }
    std::memcpy(&merged, given, std::min(given->struct_size, sizeof(merged)));
  }
  auto options = ToConnectOptions(merged);
  if (!options.has_value()) return options.error();
  options->model_dir = model_dir;
  const std::string list = coordinators;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin) options->coordinators.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  auto rows = engram::ConnectRemote(*options);
  if (!rows.has_value()) return rows.error();
  *client = new engram_client{*std::move(rows)};
  return {};
}

Status Prefetch(engram_client* client, const engram_token_run* runs, size_t run_count,
                uint32_t deadline_ms, engram_ticket* ticket) {
  if (client == nullptr) return Null("client");
  if (ticket == nullptr) return Null("ticket");
  *ticket = 0;
  if (runs == nullptr && run_count != 0) return Null("runs");
  thread_local std::vector<engram::TokenRun> converted;  // kept: no allocation per batch
  converted.clear();
  for (size_t i = 0; i < run_count; ++i) {
    const engram_token_run& run = runs[i];
    if ((run.tokens == nullptr && run.token_count != 0) ||
        (run.history == nullptr && run.history_count != 0)) {
      return Null("a run's tokens or history");
    }
    engram::TokenRun& out = converted.emplace_back();
    out.history = {run.history, run.history_count};
    out.tokens = {run.tokens, run.token_count};
    if (run.history_dead != nullptr) out.history_dead = {run.history_dead, run.history_count};
    if (run.tokens_dead != nullptr) out.tokens_dead = {run.tokens_dead, run.token_count};
  }
  const auto given =
      client->rows->Prefetch(converted, {.deadline = std::chrono::milliseconds(deadline_ms)});
  if (!given.has_value()) return given.error();
  *ticket = given->value();
  return {};
}

Status Await(engram_client* client, engram_ticket ticket, uint32_t layer_index, engram_rows* rows) {
  if (client == nullptr) return Null("client");
  if (rows == nullptr) return Null("rows");
  *rows = engram_rows{};
  const engram::TableLayout& layout = client->rows->layout();
  if (layer_index >= static_cast<uint32_t>(layout.layer_count())) {
    return Status(StatusCode::kInvalidArgument,
                  "layer index " + std::to_string(layer_index) + ": the model has " +
                      std::to_string(layout.layer_count()) + " Engram layers");
  }
  const auto got = client->rows->Await(engram::Ticket(ticket), static_cast<int32_t>(layer_index));
  if (!got.has_value()) return got.error();
  rows->rows = reinterpret_cast<const uint8_t*>(got->rows.data());
  rows->dead = got->dead.empty() ? nullptr : got->dead.data();
  rows->token_count = got->token_count;
  rows->column_count = static_cast<uint32_t>(layout.column_count());
  rows->row_bytes = layout.row_bytes();
  return {};
}

}  // namespace

extern "C" {

uint32_t engram_api_version(void) { return ENGRAM_API_VERSION; }

const char* engram_code_name(engram_code code) {
  return engram::StatusCodeName(static_cast<StatusCode>(code)).data();
}

const char* engram_error_message(void) { return last_message.c_str(); }

void engram_options_init(engram_options* options, size_t struct_size) {
  if (options == nullptr) return;
  const engram_options defaults = DefaultOptions();
  std::memset(options, 0, struct_size);
  std::memcpy(options, &defaults, std::min(struct_size, sizeof(defaults)));
  if (struct_size >= sizeof(size_t)) options->struct_size = struct_size;
}

engram_code engram_open(const char* model_dir, const char* coordinators,
                        const engram_options* options, engram_client** client) {
  return Guarded([&] { return Open(model_dir, coordinators, options, client); });
}

void engram_close(engram_client* client) { delete client; }

engram_code engram_get_shape(const engram_client* client, engram_shape* shape) {
  return Guarded([&]() -> Status {
    if (client == nullptr) return Null("client");
    if (shape == nullptr) return Null("shape");
    const engram::TableLayout& layout = client->rows->layout();
    engram_shape known{};
    known.layer_count = static_cast<uint32_t>(layout.layer_count());
    known.column_count = static_cast<uint32_t>(layout.column_count());
    known.row_bytes = layout.row_bytes();
    known.row_values = layout.spec().row_values;
    known.row_format = static_cast<uint32_t>(layout.spec().row_format);
    known.batch_tokens_max = client->rows->batch_tokens_max();
    return CopySized(known, shape);
  });
}

engram_code engram_get_layer_id(const engram_client* client, uint32_t layer_index,
                                int32_t* layer_id) {
  return Guarded([&]() -> Status {
    if (client == nullptr) return Null("client");
    if (layer_id == nullptr) return Null("layer_id");
    const std::vector<int32_t>& ids = client->rows->layout().spec().hash.layer_ids;
    if (layer_index >= ids.size()) {
      return Status(StatusCode::kInvalidArgument, "layer index " + std::to_string(layer_index) +
                                                      ": the model has " +
                                                      std::to_string(ids.size()));
    }
    *layer_id = ids[layer_index];
    return {};
  });
}

engram_code engram_prefetch(engram_client* client, const engram_token_run* runs, size_t run_count,
                            uint32_t deadline_ms, engram_ticket* ticket) {
  return Guarded([&] { return Prefetch(client, runs, run_count, deadline_ms, ticket); });
}

engram_code engram_await(engram_client* client, engram_ticket ticket, uint32_t layer_index,
                         engram_rows* rows) {
  return Guarded([&] { return Await(client, ticket, layer_index, rows); });
}

void engram_release(engram_client* client, engram_ticket ticket) {
  if (client != nullptr) client->rows->Release(engram::Ticket(ticket));
}

engram_code engram_get_stats(const engram_client* client, engram_stats* stats) {
  return Guarded([&]() -> Status {
    if (client == nullptr) return Null("client");
    if (stats == nullptr) return Null("stats");
    const engram::RowSourceStats known = client->rows->Counts();
    engram_stats out{};
    out.batches = known.batches;
    out.tokens = known.tokens;
    out.rows_asked = known.rows_asked;
    out.rows_unique = known.rows_unique;
    out.rows_from_cache = known.rows_from_cache;
    out.rows_read = known.rows_read;
    out.rows_verified = known.rows_verified;
    out.rows_wrong = known.rows_wrong;
    out.rows_failed = known.rows_failed;
    out.reads_retried = known.reads_retried;
    out.row_path_cpu_ns = known.row_path_cpu_ns;
    out.reads_hedged = known.reads_hedged;
    out.hedges_won = known.hedges_won;
    return CopySized(out, stats);
  });
}

}  // extern "C"

#include <csignal>
#include <filesystem>
#include <memory>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "engram/http/http_server.h"
#include "engram/http/service_pages.h"
#include "model_worker/commands.h"
#include "model_worker/completion_service.h"
#include "model_worker/engine_metrics.h"
#include "model_worker/loaded_model.h"
#include "model_worker/run_report.h"

namespace engram {
namespace {

namespace asio = boost::asio;

// How long answers in progress get to reach their clients after a signal.
constexpr std::chrono::milliseconds kFlushTime{500};
constexpr uint32_t kRequestBytesMax = 16u << 20;  // a prompt's text or token ids

// Runs `context` until SIGINT or SIGTERM; then stops the engine, which ends every request with an
// error, lets those answers out, and returns. A second signal ends the process at once.
//   ranks  SIGUSR1 does too: mpirun hands that on and waits, where a SIGTERM to it ends ranks soon
void RunUntilSignal(asio::io_context* context, bool ranks, Engine* engine, bool* stopping) {
  asio::signal_set signals(*context, SIGINT, SIGTERM);
  if (ranks) signals.add(SIGUSR1);
  asio::steady_timer flush(*context);
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("signal {}: stopping", signal);
    *stopping = true;
    signals.clear();
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGUSR1, SIG_IGN);
    engine->Stop();
    flush.expires_after(kFlushTime);
    flush.async_wait([context](const boost::system::error_code&) { context->stop(); });
  });
  context->run();
}

// `leader` null: one rank.
Status Serve(const ServeOptions& options, const LoadedModel& model, RowSource* rows,
             const RankLeader* leader, Engine* engine) {
  asio::io_context context(1);
  CompletionService::Options service_options;
  service_options.model_name = options.model_name.empty() ? model.name : options.model_name;
  service_options.stop_ids = model.config.eos_token_ids;
  service_options.seed = options.seed;
  CompletionService service(context.get_executor(), engine, model.tokenizer.get(), service_options);
  bool stopping = false;
  const auto readiness = [&stopping] {
    Readiness state;
    state.ready = !stopping;
    state.detail_json = stopping ? R"({"state":"stopping"})" : R"({"state":"serving"})";
    return state;
  };
  const auto completions = [&service](const HttpRequest& request,
                                      HttpResponder& responder) -> asio::awaitable<void> {
    if (CompletionService::Owns(request)) co_await service.Handle(request, responder);
  };
  auto metrics = std::make_shared<EngineMetrics>(engine, rows);
  if (leader != nullptr) metrics->SetRanks([leader] { return leader->Figures(); });
  HttpServer::Options http;
  http.listen_address = options.listen;
  http.body_bytes_max = kRequestBytesMax;
  auto security = OpenSecurity(options.worker.security);
  if (!security.has_value()) return security.error();
  http.security = *std::move(security);
  auto server = HttpServer::Create(context.get_executor(), http,
                                   ServicePages(metrics, readiness, completions));
  if (!server.has_value()) return server.error();
  engine->Start();
  spdlog::info("{} is served at {}://{}/v1/completions", service_options.model_name,
               http.security.identity == nullptr ? "http" : "https", (*server)->address());
  if (!options.announce_file.empty()) {
    const nlohmann::json announcement = {{"http", (*server)->address()}};
    ENGRAM_RETURN_IF_ERROR(WriteFile(options.announce_file, announcement.dump() + "\n"));
  }
  RunUntilSignal(&context, leader != nullptr, engine, &stopping);
  engine->Stop();
  return {};
}

}  // namespace

Status RunServe(const ServeOptions& options) {
  ENGRAM_RETURN_IF_ERROR(CheckWorkerOptions(options.worker));
  auto ranks = RankGroup::Join(options.worker);
  if (!ranks.has_value()) return ranks.error();
  auto model = LoadModel(options.worker, options.worker.rows != RowsFrom::kOff, *ranks);
  if (!model.has_value()) return model.error();
  auto rows = OpenRows(options.worker, *model, *ranks);
  if (!rows.has_value()) return rows.error();
  Backend* backend = model->backend.get();
  RowSource* source = rows->source.get();
  if (ranks->follows()) return ranks->Follow(options.worker, backend, {source});
  const auto leader = ranks->Lead(options.worker, backend, {source});
  if (leader != nullptr) {
    backend = leader->backend();
    source = leader->rows(0);
  }
  auto engine = Engine::Create(
      backend, source,
      EngineOptions(options.worker, model->vocabulary_size, options.queue_requests_max));
  if (!engine.has_value()) return engine.error();
  return Serve(options, *model, source, leader.get(), engine->get());
}

}  // namespace engram

#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
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

// How long the last bytes get to reach their clients.
constexpr std::chrono::milliseconds kFlushTime{500};
constexpr std::chrono::milliseconds kDrainCheck{50};
constexpr uint32_t kRequestBytesMax = 16u << 20;  // a prompt's text or token ids

// Runs the server until it is told to end. The first signal: new requests are refused, those that
// run or wait are answered, for `drain_timeout` at most. A second, or the timeout: the engine
// stops, which ends every request with an error. A signal after that ends the process at once.
//
// Of several ranks SIGUSR1 is the first signal: mpirun hands it on and waits. A SIGTERM to it
// kills all ranks a second later: what runs then is better told so than cut off.
class ServeUntilSignal {
 public:
  ServeUntilSignal(asio::io_context* context, Engine* engine, CompletionService* service,
                   std::chrono::seconds drain_timeout, bool ranks)
      : context_(context),
        engine_(engine),
        service_(service),
        drain_timeout_(drain_timeout),
        ranks_(ranks),
        signals_(*context, SIGINT, SIGTERM),
        timer_(*context) {
    if (ranks) signals_.add(SIGUSR1);
  }

  void Run() {
    AwaitSignal();
    context_->run();
  }

 private:
  void AwaitSignal() {
    signals_.async_wait([this](const boost::system::error_code& error, int signal) {
      if (error) return;
      if (service_->refuses() || (ranks_ && signal != SIGUSR1)) {
        Stop("signal " + std::to_string(signal));
        return;
      }
      spdlog::info("signal {}: no new requests; {} in progress get {} s; a second signal ends them",
                   signal, service_->answers_running(), drain_timeout_.count());
      service_->Refuse();
      deadline_ = std::chrono::steady_clock::now() + drain_timeout_;
      AwaitSignal();
      Drain();
    });
  }

  void Drain() {
    if (service_->answers_running() == 0) {
      Stop("all requests are answered");
    } else if (std::chrono::steady_clock::now() >= deadline_) {
      Stop("--drain-timeout-s is over");
    } else {
      timer_.expires_after(kDrainCheck);
      timer_.async_wait([this](const boost::system::error_code& error) {
        if (!error) Drain();
      });
    }
  }

  void Stop(const std::string& why) {
    spdlog::info("{}: stopping, {} requests end with an error", why, service_->answers_running());
    service_->Refuse();
    signals_.clear();
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGUSR1, SIG_IGN);
    engine_->Stop();
    timer_.expires_after(kFlushTime);  // cancels what waits to Drain
    timer_.async_wait([context = context_](const boost::system::error_code&) { context->stop(); });
  }

  asio::io_context* const context_;
  Engine* const engine_;
  CompletionService* const service_;
  const std::chrono::seconds drain_timeout_;
  const bool ranks_;
  asio::signal_set signals_;
  asio::steady_timer timer_;
  std::chrono::steady_clock::time_point deadline_;
};

// `leader` null: one rank.
Status Serve(const ServeOptions& options, const LoadedModel& model, RowSource* rows,
             const RankLeader* leader, Engine* engine) {
  asio::io_context context(1);
  CompletionService::Options service_options;
  service_options.model_name = options.model_name.empty() ? model.name : options.model_name;
  service_options.stop_ids = model.config.eos_token_ids;
  service_options.seed = options.seed;
  CompletionService service(context.get_executor(), engine, model.tokenizer.get(), service_options);
  const auto readiness = [&service] {
    Readiness state;
    state.ready = !service.refuses();
    state.detail_json = state.ready ? R"({"state":"serving"})" : R"({"state":"stopping"})";
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
  auto server = HttpServer::Create(
      context.get_executor(), http,
      ServicePages(metrics, readiness, completions, CertificatesOf(http.security)));
  if (!server.has_value()) return server.error();
  engine->Start();
  spdlog::info("{} is served at {}://{}/v1/completions", service_options.model_name,
               http.security.identity == nullptr ? "http" : "https", (*server)->address());
  if (!options.announce_file.empty()) {
    const nlohmann::json announcement = {{"http", (*server)->address()}};
    ENGRAM_RETURN_IF_ERROR(WriteFile(options.announce_file, announcement.dump() + "\n"));
  }
  ServeUntilSignal(&context, engine, &service, std::chrono::seconds(options.drain_timeout_s),
                   leader != nullptr)
      .Run();
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

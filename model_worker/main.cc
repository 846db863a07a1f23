// engram-model-worker: writes text with a model whose Engram rows are on memory nodes.
#include <cstdio>
#include <functional>

#include <CLI/CLI.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "engram/base/privileges.h"
#include "model_worker/commands.h"

namespace engram {
namespace {

using Command = std::function<Status()>;

void AddPromptFlags(CLI::App* app, std::string* prompts_file, uint32_t* tokens_max,
                    std::string* json_file) {
  app->add_option("--prompts", *prompts_file, "One prompt a line, or a JSON array of strings")
      ->required()
      ->check(CLI::ExistingFile);
  app->add_option("--max-tokens", *tokens_max, "Tokens to generate for each prompt")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1u << 20));
  app->add_option("--json", *json_file, "Write the report here as JSON");
}

void AddGenerate(CLI::App* app, GenerateOptions* options, Command* command) {
  CLI::App* sub = app->add_subcommand(
      "generate", "Generate text for the prompts of a file, then print the figures of the run");
  AddModelFlags(sub, &options->worker);
  AddRowFlags(sub, &options->worker, /*choice=*/true);
  AddRankFlags(sub, &options->worker);
  AddPromptFlags(sub, &options->prompts_file, &options->tokens_max, &options->json_file);
  AddSamplingFlags(sub, &options->sampling);
  sub->add_flag("--ignore-stop", options->ignore_stop,
                "Go on after the model's end-of-text token, to --max-tokens");
  sub->add_flag("--quiet", options->quiet, "Print the figures only, not the texts");
  sub->footer(
      "Example:\n"
      "  engram-model-worker generate --model build/demo/model-v41 --coordinator 127.0.0.1:7000 "
      "--prompts prompts.txt --max-tokens 32");
  sub->callback([=] { *command = [=] { return RunGenerate(*options); }; });
}

void AddCompare(CLI::App* app, CompareCommandOptions* options, Command* command) {
  // A cache would hold every row of the repeated prompts after one run.
  options->worker.cache_bytes = 0;
  // A late row costs its pair some speed; a step computed again would compare unlike work.
  options->worker.row_deadline_ms = 10000;
  options->worker.row_retries = 0;
  CLI::App* sub = app->add_subcommand(
      "compare",
      "Run the same prompts with rows from the memory nodes, from tables in this process and "
      "without Engram, in interleaved pairs in one process, and compare speed and tokens. No row "
      "cache unless --cache-bytes says so: the prompts repeat, so it would answer everything.");
  AddModelFlags(sub, &options->worker);
  AddRowFlags(sub, &options->worker, /*choice=*/false);
  AddRankFlags(sub, &options->worker);
  AddPromptFlags(sub, &options->prompts_file, &options->tokens_max, &options->json_file);
  AddSamplingFlags(sub, &options->sampling);
  sub->add_option("--pairs", options->pairs, "Pairs of a remote and an in-process run")
      ->capture_default_str()
      ->check(CLI::Range(1u, 10000u));
  sub->add_option("--off-runs", options->off_runs, "Runs without Engram, spread over the pairs")
      ->capture_default_str()
      ->check(CLI::Range(1u, 10000u));
  sub->add_flag("--gpu-tables", options->gpu_tables,
                "Also with the tables in the memory of the cuda backend's GPU, once in each pair; "
                "refused where they do not fit in what is free");
  sub->footer("tok/s is generated tokens per second of a whole run, prefill included.");
  sub->callback([=] { *command = [=] { return RunCompare(*options); }; });
}

void AddServe(CLI::App* app, ServeOptions* options, Command* command) {
  CLI::App* sub = app->add_subcommand(
      "serve", "Serve POST /v1/completions (OpenAI's shape, with streaming) over HTTP");
  AddModelFlags(sub, &options->worker);
  AddRowFlags(sub, &options->worker, /*choice=*/true);
  AddRankFlags(sub, &options->worker);
  sub->add_option("--listen", options->listen, "host:port of the API; port 0 = any free one")
      ->capture_default_str();
  sub->add_option("--queue", options->queue_requests_max,
                  "Requests that may wait for a slot; one more is answered 429")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1u << 20));
  sub->add_option("--drain-timeout-s", options->drain_timeout_s,
                  "After SIGTERM or SIGINT new requests get 503, and those that run or wait have "
                  "so long to end; a second signal ends them at once, with an error. Whoever kills "
                  "it in the end (systemd, a container's runtime) must wait longer")
      ->capture_default_str()
      ->check(CLI::Range(0u, 86400u));
  sub->add_option("--seed", options->seed, "Of requests that bring none")->capture_default_str();
  sub->add_option("--model-name", options->model_name,
                  "The model's name in the API; default: the folder's name");
  sub->add_option("--announce-file", options->announce_file,
                  "Write {\"http\": \"host:port\"} here once requests are served");
  sub->footer(
      "Example:\n"
      "  engram-model-worker serve --model build/demo/model-v41 --coordinator 127.0.0.1:7000\n"
      "  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"Once\", \"stream\": true}'\n"
      "Also: GET /v1/models, /healthz, /readyz, /metrics. SIGTERM ends it once what it has begun "
      "is "
      "answered.");
  sub->callback([=] { *command = [=] { return RunServe(*options); }; });
}

void AddMeasureFetch(CLI::App* app, MeasureFetchOptions* options, Command* command) {
  // New tokens every time: a cache would only hold some by chance.
  options->worker.cache_bytes = 0;
  options->worker.row_deadline_ms = 10000;
  CLI::App* sub = app->add_subcommand(
      "measure-fetch",
      "Under mpirun: measure from which batch size on ranks should read rows together on this "
      "machine (--fetch-rows), with batches of 1, 2, 4, ... --step-tokens random tokens");
  AddModelFlags(sub, &options->worker);
  AddRowFlags(sub, &options->worker, /*choice=*/true);
  AddRankFlags(sub, &options->worker);
  sub->add_option("--pairs", options->pairs, "Batches of each size, each way")
      ->capture_default_str()
      ->check(CLI::Range(1u, 100000u));
  sub->add_option("--json", options->json_file, "Write the report here as JSON");
  sub->footer(
      "Example:\n"
      "  mpirun -np 2 --bind-to none engram-model-worker measure-fetch --model DIR --coordinator "
      "127.0.0.1:7000");
  sub->callback([=] { *command = [=] { return RunMeasureFetch(*options); }; });
}

int Main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("model-worker"));
  CLI::App app(
      "Writes text with a Transformer of the Qwen3 family whose Engram tables are on memory "
      "nodes. The rows of each step are read ahead of the layer that needs them.");
  app.require_subcommand(1);
  app.footer(
      "Several processes share one model (tensor parallelism) where mpirun starts them; rank 0 "
      "listens, prints and reports:\n"
      "  mpirun -np 2 --bind-to none engram-model-worker serve --model DIR --coordinator "
      "HOST:PORT\n"
      "mpirun ends ranks a second after a SIGTERM; SIGUSR1 to it ends serving as SIGTERM ends one "
      "process: what has begun is answered.");
  Command command;
  GenerateOptions generate;
  CompareCommandOptions compare;
  ServeOptions serve;
  MeasureFetchOptions measure_fetch;
  AddGenerate(&app, &generate, &command);
  AddCompare(&app, &compare, &command);
  AddServe(&app, &serve, &command);
  AddMeasureFetch(&app, &measure_fetch, &command);
  CLI11_PARSE(app, argc, argv);
  Status status = DropPrivileges();
  if (const std::string root = RootWarning(); !root.empty()) spdlog::warn(root);
  if (status.ok()) status = command();
  if (status.ok()) return 0;
  std::fflush(stdout);
  // Of several ranks one has said it (RankGroup::Agree).
  if (!status.message().empty()) {
    std::fprintf(stderr, "engram-model-worker: %s\n", status.ToString().c_str());
  }
  return 1;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) { return engram::Main(argc, argv); }

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "model_worker/batch_run.h"
#include "model_worker/commands.h"
#include "model_worker/encoded_prompts.h"
#include "model_worker/loaded_model.h"
#include "model_worker/run_report.h"

namespace engram {
namespace {

nlohmann::json GenerateReport(const GenerateOptions& options, const LoadedModel& model,
                              const EncodedPrompts& prompts, const BatchRun& run) {
  nlohmann::json requests = nlohmann::json::array();
  for (size_t i = 0; i < run.results.size(); ++i) {
    const GenerationResult& result = run.results[i];
    nlohmann::json request = {{"prompt", prompts.texts[i]},
                              {"prompt_tokens", result.prompt_tokens},
                              {"text", model.tokenizer->Decode(result.tokens)},
                              {"token_ids", result.tokens},
                              {"finish_reason", FinishReasonName(result.reason)},
                              {"ttft_ms", 1e3 * run.times[i].ttft_s()},
                              {"tpot_ms", 1e3 * run.times[i].tpot_s()}};
    if (!result.status.ok()) request["error"] = result.status.ToString();
    requests.push_back(std::move(request));
  }
  return {{"model", model.name},
          {"parameters_non_embedding", model.backend->parameters_non_embedding()},
          {"backend", ComputeOnName(options.worker.backend)},
          {"hardware", model.backend->hardware()},
          {"threads", model.threads},
          {"io_threads", options.worker.io_threads},
          {"io_spin_us", options.worker.io_spin_us},
          {"concurrency", options.worker.concurrency},
          {"wall_s", run.wall_s},
          {"prompt_tokens", run.prompt_tokens},
          {"generated_tokens", run.generated_tokens},
          {"tok_s", run.tok_s()},
          {"tok_s_meaning", "generated tokens per second of the whole run, prefill included"},
          {"prefill_tok_s", run.prefill_tok_s()},
          {"decode_tok_s", run.decode_tok_s()},
          {"latency", LatencyReport({&run, 1})},
          {"requests", std::move(requests)}};
}

void PrintTexts(const LoadedModel& model, const EncodedPrompts& prompts, const BatchRun& run) {
  for (size_t i = 0; i < run.results.size(); ++i) {
    const GenerationResult& result = run.results[i];
    std::printf("--- %zu: %s\n%s\n", i + 1, prompts.texts[i].c_str(),
                model.tokenizer->Decode(result.tokens).c_str());
    if (!result.status.ok()) std::printf("(failed: %s)\n", result.status.ToString().c_str());
  }
}

}  // namespace

Status RunGenerate(const GenerateOptions& options) {
  ENGRAM_RETURN_IF_ERROR(CheckWorkerOptions(options.worker));
  ENGRAM_RETURN_IF_ERROR(ValidateSamplingParams(options.sampling));
  const bool rows_wanted = options.worker.rows != RowsFrom::kOff;
  auto ranks = RankGroup::Join(options.worker);
  if (!ranks.has_value()) return ranks.error();
  auto model = LoadModel(options.worker, rows_wanted, *ranks);
  if (!model.has_value()) return model.error();
  auto prompts = EncodePrompts(options.prompts_file, *model->tokenizer);
  ENGRAM_RETURN_IF_ERROR(ranks->Agree(prompts.has_value() ? Status() : prompts.error()));

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
  auto engine = Engine::Create(backend, source,
                               EngineOptions(options.worker, model->vocabulary_size,
                                             static_cast<uint32_t>(prompts->ids.size())));
  if (!engine.has_value()) return engine.error();

  BatchRunOptions batch;
  batch.tokens_max = options.tokens_max;
  batch.sampling = options.sampling;
  if (!options.ignore_stop) batch.stop_ids = model->config.eos_token_ids;
  spdlog::info("generating for {} prompts", prompts->ids.size());
  auto run = RunBatch(engine->get(), prompts->ids, batch);
  if (!run.has_value()) return run.error();

  if (!options.quiet) PrintTexts(*model, *prompts, *run);
  std::printf(
      "%llu prompt tokens (%.1f tok/s), %llu generated (%.1f tok/s of decode); "
      "%.1f tok/s generated over the whole run of %.2f s\n",
      static_cast<unsigned long long>(run->prompt_tokens), run->prefill_tok_s(),
      static_cast<unsigned long long>(run->generated_tokens), run->decode_tok_s(), run->tok_s(),
      run->wall_s);
  nlohmann::json report = GenerateReport(options, *model, *prompts, *run);
  report["way"] = rows->way;
  if (model->cuda != nullptr) report["row_copies"] = model->RowCopies();
  if (rows->source != nullptr) {
    const RowSourceStats stats = rows->source->Stats();
    std::printf("rows: %s\n%s", rows->way.c_str(),
                RowTable(stats, model->engram_layer_ids(), run->wall_s).c_str());
    report["rows"] = RowReport(stats, model->engram_layer_ids(), run->wall_s);
  }
  if (leader != nullptr) {
    const auto figures = leader->FreshFigures();
    std::printf("the rows above are rank 0's; of all ranks (fetch %s):\n%s",
                FetchWayName(options.worker.fetch.way), RankTable(figures).c_str());
    report["fetch"] = FetchWayName(options.worker.fetch.way);
    report["ranks"] = RankReport(figures);
  }
  if (!options.json_file.empty()) {
    ENGRAM_RETURN_IF_ERROR(
        WriteFile(options.json_file,
                  report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"));
  }
  return run->FirstFailure();
}

}  // namespace engram

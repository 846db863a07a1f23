#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "model_worker/commands.h"
#include "model_worker/compare.h"
#include "model_worker/encoded_prompts.h"
#include "model_worker/loaded_model.h"
#include "model_worker/run_report.h"

namespace engram {
namespace {

void AddSettings(const CompareCommandOptions& options, const LoadedModel& model,
                 const OpenedRows& remote, nlohmann::json* report) {
  (*report)["model"] = model.name;
  (*report)["parameters_non_embedding"] = model.backend->parameters_non_embedding();
  (*report)["nodes"] = remote.node_count;
  (*report)["way"] = remote.way;
  (*report)["transport"] = options.worker.transport;
  (*report)["backend"] = ComputeOnName(options.worker.backend);
  (*report)["hardware"] = model.backend->hardware();
  (*report)["threads"] = model.threads;
  (*report)["io_threads"] = options.worker.io_threads;
  (*report)["io_spin_us"] = options.worker.io_spin_us;
  (*report)["cache_bytes"] = options.worker.cache_bytes;
  (*report)["concurrency"] = options.worker.concurrency;
  (*report)["tokens_max"] = options.tokens_max;
  (*report)["seed"] = options.sampling.seed;
  (*report)["temperature"] = options.sampling.temperature;
}

}  // namespace

Status RunCompare(const CompareCommandOptions& options) {
  ENGRAM_RETURN_IF_ERROR(CheckWorkerOptions(options.worker));
  WorkerOptions in_process = options.worker;
  in_process.rows = RowsFrom::kLocal;
  in_process.gpu_direct = false;
  WorkerOptions on_gpu = in_process;
  on_gpu.rows = options.gpu_tables ? RowsFrom::kGpu : RowsFrom::kOff;
  ENGRAM_RETURN_IF_ERROR(CheckWorkerOptions(on_gpu));
  ENGRAM_RETURN_IF_ERROR(ValidateSamplingParams(options.sampling));
  auto ranks = RankGroup::Join(options.worker);
  if (!ranks.has_value()) return ranks.error();
  auto model = LoadModel(options.worker, /*rows_wanted=*/true, *ranks);
  if (!model.has_value()) return model.error();
  auto prompts = EncodePrompts(options.prompts_file, *model->tokenizer);
  ENGRAM_RETURN_IF_ERROR(ranks->Agree(prompts.has_value() ? Status() : prompts.error()));
  // First: tables that do not fit are refused before others are loaded.
  auto device = OpenRows(on_gpu, *model, *ranks);
  if (!device.has_value()) return device.error();
  auto remote = OpenRows(options.worker, *model, *ranks);
  if (!remote.has_value()) return remote.error();
  auto local = OpenRows(in_process, *model, *ranks);
  if (!local.has_value()) return local.error();

  const auto engine_options = EngineOptions(options.worker, model->vocabulary_size,
                                            static_cast<uint32_t>(prompts->ids.size()));
  Backend* backend = model->backend.get();
  RowSource* remote_rows = remote->source.get();
  RowSource* local_rows = local->source.get();
  if (ranks->follows()) return ranks->Follow(options.worker, backend, {remote_rows, local_rows});
  const auto leader = ranks->Lead(options.worker, backend, {remote_rows, local_rows});
  if (leader != nullptr) {
    backend = leader->backend();
    remote_rows = leader->rows(0);
    local_rows = leader->rows(1);
  }
  auto remote_engine = Engine::Create(backend, remote_rows, engine_options);
  if (!remote_engine.has_value()) return remote_engine.error();
  auto local_engine = Engine::Create(backend, local_rows, engine_options);
  if (!local_engine.has_value()) return local_engine.error();
  auto off_engine = Engine::Create(backend, nullptr, engine_options);
  if (!off_engine.has_value()) return off_engine.error();

  CompareOptions compare;
  compare.pairs = options.pairs;
  compare.off_runs = options.off_runs;
  compare.batch.tokens_max = options.tokens_max;
  compare.batch.sampling = options.sampling;
  CompareSides sides = {{remote_engine->get(), remote_rows},
                        {local_engine->get(), local_rows},
                        {off_engine->get(), nullptr},
                        std::nullopt};
  std::unique_ptr<Engine> device_engine;
  if (device->source != nullptr) {
    auto engine = Engine::Create(backend, device->source.get(), engine_options);
    if (!engine.has_value()) return engine.error();
    device_engine = *std::move(engine);
    sides.device = {device_engine.get(), device->source.get()};
  }
  const auto result = Compare(sides, prompts->ids, compare,
                              [](const std::string& line) { spdlog::info("{}", line); });
  if (!result.has_value()) return result.error();

  nlohmann::json report = CompareReport(*result, model->engram_layer_ids());
  AddSettings(options, *model, *remote, &report);
  if (model->cuda != nullptr) report["row_copies"] = model->RowCopies();
  report["ranks"] = ranks->part().count;
  report["fetch"] = FetchWayName(options.worker.fetch.way);
  std::printf("%zu memory nodes, rows read by %s over %s; computed on %s\n%s", remote->node_count,
              remote->way.c_str(), options.worker.transport.c_str(),
              model->backend->hardware().c_str(),
              CompareTable(*result, model->engram_layer_ids()).c_str());
  if (!options.json_file.empty()) {
    ENGRAM_RETURN_IF_ERROR(WriteFile(options.json_file, report.dump(2) + "\n"));
  }
  if (!result->identical_tokens()) {
    return {StatusCode::kInternal,
            "the sides with rows gave different tokens: rows are wrong, or the backend is not "
            "deterministic"};
  }
  return {};
}

}  // namespace engram

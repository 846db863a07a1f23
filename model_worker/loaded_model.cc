#include "model_worker/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <spdlog/spdlog.h>

#include "client/connect.h"
#include "client/local_rows.h"
#include "client/local_tables.h"
#include "engram/base/clock.h"
#include "model_worker/cpu/cpu_backend.h"
#include "model_worker/cuda/cuda_backend.h"
#include "model_worker/warm_up.h"
#include "model_worker/weights.h"

namespace engram {
namespace {

// What the row ids depend on, from config.json and tokenizer.json.
Status ReadTables(const WorkerOptions& options, LoadedModel* model) {
  // The tables' own tensors may be absent here: the memory nodes have them.
  auto tables = ReadModelTables(options.model_dir, /*tensors_wanted=*/true);
  if (!tables.has_value() && options.rows == RowsFrom::kRemote &&
      tables.error().code() == StatusCode::kNotFound) {
    spdlog::info("no table tensors in {}: the row format is taken from the variant ({})",
                 options.model_dir, tables.error().message());
    tables = ReadModelTables(options.model_dir, /*tensors_wanted=*/false);
  }
  if (!tables.has_value()) return tables.error();
  auto layout = TableLayout::Create(tables->spec);
  if (!layout.has_value()) return layout.error();
  auto hasher = NgramHasher::Create(tables->spec.hash, tables->compression);
  if (!hasher.has_value()) return hasher.error();
  model->layout = std::make_shared<const TableLayout>(*std::move(layout));
  model->hasher = std::make_shared<const NgramHasher>(*std::move(hasher));
  model->tables = std::make_unique<ModelTables>(*std::move(tables));
  return {};
}

std::vector<std::string> SplitAtCommas(const std::string& list) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin <= list.size()) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin) parts.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

Result<OpenedRows> OpenRemoteRows(const WorkerOptions& options, const LoadedModel& model) {
  spdlog::info("connecting to the coordinator at {}", options.coordinator);
  ConnectOptions connect;
  ENGRAM_ASSIGN_OR_RETURN(connect.security, OpenSecurity(options.security));
  connect.coordinators = SplitAtCommas(options.coordinator);
  connect.tables = model.tables.get();
  connect.way = options.way;
  connect.tls = options.transport;
  connect.zone = options.zone;
  connect.ready_timeout = std::chrono::seconds(options.tables_timeout_s);
  connect.io_threads = options.io_threads;
  connect.spin = std::chrono::microseconds(options.io_spin_us);
  connect.cache_bytes = options.cache_bytes;
  connect.batch_tokens_max = options.step_tokens;
  connect.staging_observer = model.backend->staging_observer();
  OpenedRows opened;
  opened.way = ReadWayName(options.way);
  ENGRAM_ASSIGN_OR_RETURN(opened.source, ConnectRemote(connect));

  ShardDirectoryOptions directory;
  directory.coordinators = connect.coordinators;
  directory.identity = &model.tables->identity;
  directory.security = connect.security;
  ENGRAM_ASSIGN_OR_RETURN(const auto maps, ShardDirectory::Connect(directory));
  opened.node_count = maps->Current()->nodes.size();
  spdlog::info("rows come from {} memory nodes", opened.node_count);
  return opened;
}

Result<OpenedRows> OpenLocalRows(const WorkerOptions& options, const LoadedModel& model) {
  spdlog::info("loading the tables of {} into this process ({:.2f} GiB)", options.model_dir,
               static_cast<double>(model.layout->total_bytes()) / static_cast<double>(1u << 30));
  int percent_said = 0;
  const auto progress = [&](uint64_t done, uint64_t total) {
    const int percent = total == 0 ? 100 : static_cast<int>(done * 100 / total);
    if (percent < percent_said + 25) return;
    percent_said = percent;
    spdlog::info("tables: {} %", percent);
  };
  ENGRAM_ASSIGN_OR_RETURN(auto tables,
                          LocalTables::Load(options.model_dir, model.layout, progress));
  LocalRowsOptions local;
  local.batch_tokens_max = options.step_tokens;
  local.io_threads = options.io_threads;
  local.spin = std::chrono::microseconds(options.io_spin_us);
  local.staging_observer = model.backend->staging_observer();
  OpenedRows opened;
  opened.way = "local";
  ENGRAM_ASSIGN_OR_RETURN(opened.source, CreateLocalRows(local, std::move(tables), model.hasher));
  return opened;
}

Result<std::unique_ptr<Backend>> MakeBackend(const WorkerOptions& options, ModelWeights weights,
                                             LoadedModel* model) {
  Backend::Limits limits;
  limits.sequences_max = options.concurrency;
  limits.sequence_tokens_max =
      std::min<uint32_t>(options.positions, static_cast<uint32_t>(model->config.positions_max));
  limits.step_tokens_max = options.step_tokens;
  if (options.backend == ComputeOn::kCuda) {
    CudaBackendOptions cuda;
    cuda.limits = limits;
    return CreateCudaBackend(model->config, std::move(weights), cuda);
  }
  CpuBackendOptions cpu;
  cpu.limits = limits;
  cpu.threads =
      options.threads != 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  model->threads = cpu.threads;
  return CreateCpuBackend(model->config, std::move(weights), cpu);
}

}  // namespace

std::vector<int32_t> LoadedModel::engram_layer_ids() const {
  return hasher == nullptr ? std::vector<int32_t>() : hasher->spec().layer_ids;
}

Result<LoadedModel> LoadModel(const WorkerOptions& options, bool rows_wanted) {
  LoadedModel model;
  model.name = std::filesystem::weakly_canonical(options.model_dir).filename().string();
  ENGRAM_ASSIGN_OR_RETURN(model.config, ReadModelConfig(options.model_dir));
  if (rows_wanted && !model.config.engram.has_value()) {
    return Error(StatusCode::kInvalidArgument,
                 options.model_dir + " is a model without Engram: run it with --rows off");
  }
  ENGRAM_ASSIGN_OR_RETURN(
      auto tokenizer, Tokenizer::Load(std::filesystem::path(options.model_dir) / "tokenizer.json"));
  model.tokenizer = std::make_unique<Tokenizer>(std::move(tokenizer));
  model.vocabulary_size =
      std::min(model.config.vocabulary_size, model.tokenizer->vocabulary_size());
  if (rows_wanted) ENGRAM_TRY(ReadTables(options, &model));

  spdlog::info("loading the weights of {}", options.model_dir);
  ENGRAM_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(options.model_dir, model.config));
  ENGRAM_ASSIGN_OR_RETURN(model.backend, MakeBackend(options, std::move(weights), &model));
  spdlog::info("{}: {:.1f} M parameters without embeddings, computed {}", model.name,
               static_cast<double>(model.backend->parameters_non_embedding()) * 1e-6,
               model.threads == 0 ? std::string("on the GPU")
                                  : "by " + std::to_string(model.threads) + " threads");
  if (options.backend == ComputeOn::kCuda) {
    std::optional<WarmUpRows> rows;
    if (rows_wanted) {
      rows = {static_cast<uint32_t>(model.layout->column_count()), model.layout->row_bytes()};
    }
    const MonotonicTime began = SteadyClock().Now();
    ENGRAM_TRY(WarmUp(model.backend.get(), rows));
    spdlog::info(
        "warmed up in {} ms",
        std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock().Now() - began).count());
  }
  return model;
}

Result<OpenedRows> OpenRows(const WorkerOptions& options, const LoadedModel& model) {
  switch (options.rows) {
    case RowsFrom::kRemote:
      return OpenRemoteRows(options, model);
    case RowsFrom::kLocal:
      return OpenLocalRows(options, model);
    case RowsFrom::kOff:
      break;
  }
  OpenedRows off;
  off.way = "off";
  return off;
}

}  // namespace engram

#include "model_worker/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "client/connect.h"
#include "client/local_rows.h"
#include "client/local_tables.h"
#include "engram/base/check.h"
#include "engram/base/clock.h"
#include "engram/checkpoint/checkpoint_rows.h"
#include "model_worker/cpu/cpu_backend.h"
#include "model_worker/cuda/cuda_backend.h"
#include "model_worker/ranks/step_outcome.h"
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

Result<OpenedRows> OpenRemoteRows(const WorkerOptions& options, const LoadedModel& model,
                                  const ColumnStripe& stripe) {
  spdlog::info("connecting to the coordinator at {}", options.coordinator);
  ConnectOptions connect;
  ENGRAM_ASSIGN_OR_RETURN(connect.security, OpenSecurity(options.security));
  connect.coordinators = SplitAtCommas(options.coordinator);
  connect.tables = model.tables.get();
  connect.way = options.way;
  connect.tls = options.transport;
  connect.one_sided = options.one_sided;
  if (options.gpu_direct) {
    if (stripe.count > 1) {
      return Error(StatusCode::kInvalidArgument,
                   "--gpu-direct is for one rank: several hand rows round in host memory");
    }
    ENGRAM_CHECK(model.cuda != nullptr);
    connect.landing = model.cuda->row_landing();
  }
  connect.zone = options.zone;
  connect.ready_timeout = std::chrono::seconds(options.tables_timeout_s);
  connect.io_threads = options.io_threads;
  connect.stripe = stripe;
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

// Says where tables are being loaded to, and then how far that is.
CheckpointRows::OnProgress SayProgress(const WorkerOptions& options, const LoadedModel& model,
                                       const char* where) {
  spdlog::info("loading the tables of {} into {} ({:.2f} GiB)", options.model_dir, where,
               static_cast<double>(model.layout->total_bytes()) / static_cast<double>(1u << 30));
  return [percent_said = 0](uint64_t done, uint64_t total) mutable {
    const int percent = total == 0 ? 100 : static_cast<int>(done * 100 / total);
    if (percent < percent_said + 25) return;
    percent_said = percent;
    spdlog::info("tables: {} %", percent);
  };
}

LocalRowsOptions LocalOptions(const WorkerOptions& options, const LoadedModel& model,
                              const ColumnStripe& stripe) {
  LocalRowsOptions local;
  local.batch_tokens_max = options.step_tokens;
  local.io_threads = options.io_threads;
  local.stripe = stripe;
  local.spin = std::chrono::microseconds(options.io_spin_us);
  local.staging_observer = model.backend->staging_observer();
  return local;
}

Result<OpenedRows> OpenLocalRows(const WorkerOptions& options, const LoadedModel& model,
                                 const ColumnStripe& stripe) {
  ENGRAM_ASSIGN_OR_RETURN(auto tables,
                          LocalTables::Load(options.model_dir, model.layout,
                                            SayProgress(options, model, "this process")));
  OpenedRows opened;
  opened.way = "local";
  ENGRAM_ASSIGN_OR_RETURN(opened.source, CreateLocalRows(LocalOptions(options, model, stripe),
                                                         std::move(tables), model.hasher));
  return opened;
}

Result<OpenedRows> OpenGpuRows(const WorkerOptions& options, const LoadedModel& model,
                               const ColumnStripe& stripe) {
  if (stripe.count > 1) {
    return Error(StatusCode::kFailedPrecondition,
                 "tables in GPU memory are for one rank: of several, each GPU would hold all of "
                 "them; use --rows remote or --rows local");
  }
  ENGRAM_CHECK(model.cuda != nullptr);
  ENGRAM_ASSIGN_OR_RETURN(CheckpointRows checkpoint,
                          CheckpointRows::Open(options.model_dir, model.layout));
  ENGRAM_TRY(model.cuda->LoadTables(&checkpoint, SayProgress(options, model, "the GPU's memory")));
  OpenedRows opened;
  opened.way = "gpu";
  ENGRAM_ASSIGN_OR_RETURN(opened.source, CreateRowIds(LocalOptions(options, model, stripe),
                                                      model.layout, model.hasher));
  return opened;
}

Result<std::unique_ptr<Backend>> MakeBackend(const WorkerOptions& options, ModelWeights weights,
                                             const RankGroup& ranks, LoadedModel* model) {
  Backend::Limits limits;
  limits.sequences_max = options.concurrency;
  limits.sequence_tokens_max =
      std::min<uint32_t>(options.positions, static_cast<uint32_t>(model->config.positions_max));
  limits.step_tokens_max = options.step_tokens;
  limits.kv_tokens_max = options.kv_tokens;
  if (options.backend == ComputeOn::kCuda) {
    CudaBackendOptions cuda;
    cuda.limits = limits;
    cuda.device = options.gpu;
    cuda.host_rank = ranks.host().rank;
    cuda.collective = ranks.collective();
    cuda.rank_patience = RankPatience(options);
    cuda.spin = std::chrono::microseconds(options.io_spin_us);
    auto made = CreateCudaBackend(model->config, std::move(weights), cuda);
    if (made.has_value()) model->cuda = made->get();
    return made;
  }
  CpuBackendOptions cpu;
  cpu.limits = limits;
  cpu.threads = options.threads != 0 ? options.threads : ranks.host().threads;
  cpu.collective = ranks.collective();
  model->threads = cpu.threads;
  return CreateCpuBackend(model->config, std::move(weights), cpu);
}

}  // namespace

std::vector<int32_t> LoadedModel::engram_layer_ids() const {
  return hasher == nullptr ? std::vector<int32_t>() : hasher->spec().layer_ids;
}

nlohmann::json LoadedModel::RowCopies() const {
  if (cuda == nullptr) return nullptr;
  const CudaBackendStats stats = cuda->stats();
  return {{"pinned", stats.row_copies_pinned},
          {"bounced", stats.row_copies_bounced},
          {"unpinned_bytes", stats.staging_bytes_unpinned}};
}

namespace {

// Everything that comes from files.
Result<LoadedModel> ReadModel(const WorkerOptions& options, bool rows_wanted,
                              const TensorPart& part, ModelWeights* weights) {
  LoadedModel model;
  model.name = std::filesystem::weakly_canonical(options.model_dir).filename().string();
  ENGRAM_ASSIGN_OR_RETURN(model.config, ReadModelConfig(options.model_dir));
  if (rows_wanted && !model.config.engram.has_value()) {
    return Error(StatusCode::kInvalidArgument,
                 options.model_dir + " is a model without Engram: run it with --rows off");
  }
  ENGRAM_TRY(CheckTensorPart(model.config, part));
  ENGRAM_ASSIGN_OR_RETURN(
      auto tokenizer, Tokenizer::Load(std::filesystem::path(options.model_dir) / "tokenizer.json"));
  model.tokenizer = std::make_unique<Tokenizer>(std::move(tokenizer));
  model.vocabulary_size =
      std::min(model.config.vocabulary_size, model.tokenizer->vocabulary_size());
  if (rows_wanted) ENGRAM_TRY(ReadTables(options, &model));
  spdlog::info("loading the weights of {}", options.model_dir);
  ENGRAM_ASSIGN_OR_RETURN(*weights, LoadWeights(options.model_dir, model.config, part));
  return model;
}

// What ranks must have alike, or their steps and rows would not fit each other.
std::string SettingsOf(const WorkerOptions& options, const LoadedModel& model) {
  const ModelConfig& config = model.config;
  std::string text;
  for (const double number :
       {double{config.rms_norm_eps}, config.rope_theta, static_cast<double>(config.hidden_size),
        static_cast<double>(config.intermediate_size), static_cast<double>(config.layer_count),
        static_cast<double>(config.head_count), static_cast<double>(config.kv_head_count),
        static_cast<double>(config.head_dim), static_cast<double>(config.vocabulary_size),
        static_cast<double>(options.concurrency), static_cast<double>(options.positions),
        static_cast<double>(options.kv_tokens), static_cast<double>(options.step_tokens),
        static_cast<double>(options.rows), static_cast<double>(options.backend)}) {
    text += std::to_string(number) + " ";
  }
  if (model.tables != nullptr) text += ModelIdentityHex(model.tables->identity);
  return text;
}

Status WarmUpGpu(const LoadedModel& model, bool rows_wanted, const RankGroup& ranks) {
  std::optional<WarmUpRows> rows;
  if (rows_wanted) {
    rows = {static_cast<uint32_t>(model.layout->column_count()), model.layout->row_bytes()};
  }
  const MonotonicTime began = SteadyClock().Now();
  const Status warm = WarmUp(model.backend.get(), rows);
  // As in any step: the others' GPUs may be waiting for this one's.
  if (ranks.collective() != nullptr) CheckStepOutcome(ranks.collective(), warm, Status());
  ENGRAM_RETURN_IF_ERROR(warm);
  spdlog::info(
      "warmed up in {} ms",
      std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock().Now() - began).count());
  return {};
}

}  // namespace

Result<LoadedModel> LoadModel(const WorkerOptions& options, bool rows_wanted,
                              const RankGroup& ranks) {
  ModelWeights weights;
  auto model = ReadModel(options, rows_wanted, ranks.part(), &weights);
  ENGRAM_TRY(ranks.Agree(model.has_value() ? Status() : model.error()));
  ENGRAM_TRY(ranks.AgreeOnSettings(SettingsOf(options, *model)));
  auto backend = MakeBackend(options, std::move(weights), ranks, &*model);
  ENGRAM_TRY(ranks.Agree(backend.has_value() ? Status() : backend.error()));
  model->backend = *std::move(backend);
  spdlog::info("{}: {:.1f} M parameters without embeddings, computed {}", model->name,
               static_cast<double>(model->backend->parameters_non_embedding()) * 1e-6,
               model->threads == 0 ? std::string("on the GPU")
                                   : "by " + std::to_string(model->threads) + " threads");
  if (options.backend == ComputeOn::kCuda) {
    ENGRAM_TRY(ranks.Agree(WarmUpGpu(*model, rows_wanted, ranks)));
  }
  return model;
}

Result<OpenedRows> OpenRows(const WorkerOptions& options, const LoadedModel& model,
                            const RankGroup& ranks) {
  const ColumnStripe stripe{ranks.part().rank, ranks.part().count};
  Result<OpenedRows> opened = OpenedRows{nullptr, 0, "off"};
  if (options.rows == RowsFrom::kRemote) opened = OpenRemoteRows(options, model, stripe);
  if (options.rows == RowsFrom::kLocal) opened = OpenLocalRows(options, model, stripe);
  if (options.rows == RowsFrom::kGpu) opened = OpenGpuRows(options, model, stripe);
  ENGRAM_TRY(ranks.Agree(opened.has_value() ? Status() : opened.error()));
  if (model.cuda == nullptr) return opened;
  const CudaBackendStats stats = model.cuda->stats();
  if (stats.staging_bytes_unpinned > 0) {
    spdlog::warn(
        "{} bytes of staging memory could not be pinned ({}): each of their rows is copied once "
        "more by the CPU on its way to the GPU; raise the limit of locked memory (ulimit -l), or "
        "of "
        "the container's memory",
        stats.staging_bytes_unpinned, stats.staging_unpinned_why);
  }
  return opened;
}

}  // namespace engram

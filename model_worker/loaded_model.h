// A model folder, loaded: tokenizer, weights in a backend, and what its rows are.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"
#include "engram/tokenizer/tokenizer.h"
#include "model_worker/backend.h"
#include "model_worker/cuda/cuda_backend.h"
#include "model_worker/model_config.h"
#include "model_worker/rank_group.h"
#include "model_worker/worker_options.h"

namespace engram {

struct LoadedModel {
  std::string name;  // the folder's
  ModelConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Backend> backend;
  CudaBackend* cuda = nullptr;  // the backend, where that is a GPU's
  uint32_t threads = 0;         // compute threads of the CPU backend; 0 = the GPU computes
  int32_t vocabulary_size = 0;  // ids that both the model and the tokenizer know
  // Null for a model without Engram.
  std::shared_ptr<const TableLayout> layout;
  std::shared_ptr<const NgramHasher> hasher;
  std::unique_ptr<ModelTables> tables;

  // The config's own layer numbers; empty without Engram.
  [[nodiscard]] std::vector<int32_t> engram_layer_ids() const;
  // How rows went to the GPU, for reports: {pinned, bounced} copies and unpinned_bytes of staging
  // memory; null without a GPU.
  [[nodiscard]] nlohmann::json RowCopies() const;
};

// ERRORS: those of the readers and of the backend; kInvalidArgument for rows wanted of a model that
// has no Engram.
// Of several ranks each loads its part; what one cannot do is an error of all.
[[nodiscard]] Result<LoadedModel> LoadModel(const WorkerOptions& options, bool rows_wanted,
                                            const RankGroup& ranks);

// An open row source.
struct OpenedRows {
  std::unique_ptr<RowSource> source;  // null: Engram off
  size_t node_count = 0;              // memory nodes
  std::string way;                    // as asked for: "auto", "gather", ...; "local", "gpu", "off"
};
// Rows from where options.rows says, for the model's backend, which must outlive them. ERRORS:
// those of ConnectRemote (kUnavailable: no coordinator answers, or not every slot is ready;
// kWrongModel), of LocalTables::Load and of CudaBackend::LoadTables; kFailedPrecondition (tables in
// GPU memory for several ranks). Tables go to the GPU once for a model.
// Of several ranks each opens them for itself; what one cannot do is an error of all.
[[nodiscard]] Result<OpenedRows> OpenRows(const WorkerOptions& options, const LoadedModel& model,
                                          const RankGroup& ranks);

}  // namespace engram

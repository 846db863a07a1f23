// Writes a planned model as a folder, all or nothing.
#pragma once

#include <filesystem>

#include "engram/base/status.h"
#include "tools/command.h"
#include "tools/model_plan.h"

namespace engram {

struct WriteModelOptions {
  std::filesystem::path out;
  std::filesystem::path tokenizer_json;  // copied
  uint64_t seed = 0;
  bool force = false;  // replace `out`, if it is a model folder
};

// Writes to `out`.partial and renames it at the end; an earlier .partial is removed first. Blocks.
// ERRORS: kAlreadyExists (`out` is there and force is not set, or is no model folder),
// kResourceExhausted (the disk has less room than the model needs, with both figures), kIo.
[[nodiscard]] Status WriteModel(const ModelPlan& plan, const WriteModelOptions& options,
                                ProgressLine& progress);

}  // namespace engram

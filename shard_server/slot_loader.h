// Loads slots from a checkpoint: sequential reads through a bounded bounce buffer into the slots'
// memory, weights and scales interleaved, each row sealed with its CRC and the slot's digest taken
// while the bytes are in the processor's cache. Nothing is mapped and no byte is touched twice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "engram/table/table_layout.h"
#include "shard_server/load_control.h"
#include "shard_server/slot_store.h"

namespace engram {

struct LoadJob {
  TableVersion version;
  ModelIdentity identity{};
  std::shared_ptr<const TableLayout> layout;
  std::filesystem::path checkpoint;  // a model folder
  std::vector<EmptySlot> slots;      // ascending
};

struct LoadOptions {
  uint64_t buffer_bytes = 4ull << 20;  // of one bounce buffer
  // One is filled while another is worked on; more, so that a busy machine's late wake-ups stop
  // neither thread.
  uint32_t buffer_count = 4;
  Duration log_interval = std::chrono::seconds(2);
};

// Opens the checkpoint, checks that it is the job's model, and loads the job's slots in table
// order. Blocks; runs one more thread, which reads ahead. Logs progress, rate and time left.
// ERRORS: the first thing that went wrong; slots told to `on_loaded` before stay good, the rows of
// the others are unspecified: kCorrupt (a digest differs from the recorded one), kWrongModel,
// kMalformed (truncated, or not the tensors of this layout), kNotFound, kIo, kCancelled.
[[nodiscard]] Status LoadSlots(const LoadJob& job, const LoadOptions& options, LoadControl* control,
                               const OnSlotLoaded& on_loaded);

// The two steps of LoadSlots. Opening reads config.json, tokenizer.json and the tensors' headers,
// no row; it takes up to seconds (the tokenizer). Gives [layers].
[[nodiscard]] Result<std::vector<TableTensors>> OpenTables(const std::filesystem::path& model_dir,
                                                           const ModelIdentity& identity,
                                                           const TableLayout& layout);
[[nodiscard]] Status LoadSlotsFrom(const std::vector<TableTensors>& tensors, const LoadJob& job,
                                   const LoadOptions& options, LoadControl* control,
                                   const OnSlotLoaded& on_loaded);

}  // namespace engram

// Where an I/O thread of a row source is: what a sampler counts to tell where a row's time goes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace engram {

enum class FillStage : uint8_t {
  kOther,    // commands, timers, a source that does not tell its stages
  kHash,     // row ids of a batch's tokens
  kPlan,     // dedupe; rows of the cache
  kPost,     // a node for each row; requests
  kWire,     // inside the transport: sending, receiving, looking for messages
  kTrack,    // which rows came, which are owed
  kVerify,   // CRC
  kScatter,  // to the staging buffer (and the cache)
  kAsleep,
};
inline constexpr std::array<std::string_view, 9> kFillStageNames = {
    "other", "hash", "plan", "post", "wire", "track", "verify", "scatter", "asleep"};
inline constexpr size_t kFillStageCount = kFillStageNames.size();

// [FillStage] threads that are there now.
using FillStages = std::array<uint32_t, kFillStageCount>;

}  // namespace engram

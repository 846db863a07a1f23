// What each rank read and how long it waited, gathered on rank 0.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"
#include "model_worker/ranks/rank_rows.h"

namespace engram {

// One rank's counters. Plain numbers: it travels as its bytes.
struct RankFigures {
  uint64_t rows_asked = 0;
  uint64_t rows_read = 0;
  uint64_t rows_from_cache = 0;
  uint64_t rows_wrong = 0;
  uint64_t rows_failed = 0;
  uint64_t bytes_read = 0;
  uint64_t stall_ns = 0;       // in Await of the rank's own read, all layers
  uint64_t gathered_rows = 0;  // that went round, of all ranks
  uint64_t gather_ns = 0;      // in which they did, or only how each rank fared
  uint64_t reduces = 0;
  uint64_t reduce_bytes = 0;
  uint64_t reduce_ns = 0;
};

// Of this rank, now.
[[nodiscard]] RankFigures FiguresOf(const Collective& collective, const RankRows& rows);

// Called by every rank; rank 0 has all ranks' in *all. ERRORS: the collective's.
[[nodiscard]] Status GatherFigures(Collective* collective, const RankFigures& mine,
                                   std::vector<RankFigures>* all);

// [ranks] of objects, and one line a rank for a person.
[[nodiscard]] nlohmann::json RankReport(std::span<const RankFigures> ranks);
[[nodiscard]] std::string RankTable(std::span<const RankFigures> ranks);

}  // namespace engram

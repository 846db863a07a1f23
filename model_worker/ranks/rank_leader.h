// Rank 0 of several: what the engine drives is told to all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "client/row_source.h"
#include "engram/base/clock.h"
#include "model_worker/backend.h"
#include "model_worker/collectives/collective.h"
#include "model_worker/ranks/rank_figures.h"
#include "model_worker/ranks/rank_rows.h"

namespace engram {

// How ranks get a batch's rows.
enum class FetchWay : uint8_t {
  kAuto,         // together where the batch is large enough
  kCooperative,  // each rank reads its stripe of columns, and they hand them round
  kAll,          // each rank reads all columns
};
[[nodiscard]] const char* FetchWayName(FetchWay way);  // "auto", "cooperative", "all"

struct FetchOptions {
  FetchWay way = FetchWay::kAuto;
  // kAuto: rows of a batch (tokens * columns * layers) from which on it is read together. Where the
  // two met when this was measured (docs/BENCHMARKS.md, "Ranks").
  uint64_t cooperative_rows_min = 3072;
};

// Gives an engine a backend and row sources that look like one rank's. Followers (ranks/follower.h)
// do what they are told; the destructor tells them to stop.
//
// THREADS: as Backend and RowSource say, but backend and sources are driven by one thread at a time
// together, as an engine does; Figures, Counts and Stats may be asked by any thread.
// ERRORS: a rank that fails alone, where its step cannot be undone on the others, ends all ranks
// (Collective::Abort).
class RankLeader {
 public:
  // OWNERSHIP: everything outlives this. A source may be null.
  RankLeader(Collective* collective, Backend* backend, std::vector<RowSource*> sources,
             const FetchOptions& fetch);
  ~RankLeader();
  RankLeader(const RankLeader&) = delete;
  RankLeader& operator=(const RankLeader&) = delete;

  [[nodiscard]] Backend* backend() { return backend_.get(); }
  // Null where the source is.
  [[nodiscard]] RowSource* rows(size_t source) { return rows_[source].get(); }

  // Of every rank, as they were at most a second of steps ago. Thread-safe.
  [[nodiscard]] std::vector<RankFigures> Figures() const;
  // As they are. By the thread that drives the backend.
  [[nodiscard]] std::vector<RankFigures> FreshFigures();

 private:
  class LedBackend;
  class LedRows;

  void Tell();  // message_ to the followers
  void Must(const Status& status);

  Collective* const collective_;
  const FetchOptions fetch_;
  RankRows together_;
  uint64_t tickets_ = 0;
  std::vector<std::byte> message_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<RowSource>> rows_;
  MonotonicTime figures_at_;
  mutable std::mutex figures_mutex_;
  std::vector<RankFigures> figures_;  // guarded by figures_mutex_
};

}  // namespace engram

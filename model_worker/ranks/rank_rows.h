// A rank's share of rows that several ranks read together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"

namespace engram {

// Every rank has one, and does the same to it in the same order. Await meets the other ranks: each
// says how its own read fared, so that a row that one of them could not have is an error of the
// layer on all, and none goes on alone; of a striped batch each hands its columns round. Reading
// starts with Prefetch, on every rank by itself.
// Thread-compatible. A rank that is lost ends this one (Collective::Abort).
class RankRows final : public AwaitableRows {
 public:
  // OWNERSHIP: everything outlives this. A source may be null (Engram off) and is not used then.
  // Precondition: the sources were opened with the rank's stripe.
  RankRows(Collective* collective, std::vector<RowSource*> sources);

  // `ticket`, which is not in use, is from now on what the source gives. An error (of the source)
  // is also told to the others, by Await.
  [[nodiscard]] Status Prefetch(Ticket ticket, uint32_t source, std::span<const TokenRun> runs,
                                const BatchOptions& options);
  // All columns' rows of a layer, or the error of the first rank that failed, with its number.
  [[nodiscard]] Result<LayerRows> Await(Ticket ticket, int32_t layer_index) override;
  void Release(Ticket ticket);

  [[nodiscard]] const std::vector<RowSource*>& sources() const { return sources_; }
  // Time in which rows went round, the wait for the slowest rank included.
  [[nodiscard]] uint64_t gather_ns() const { return gather_ns_; }
  [[nodiscard]] uint64_t gathered_rows() const { return gathered_rows_; }  // of all ranks
  // What Await failed with last; the same on every rank.
  [[nodiscard]] const Status& failure() const { return failure_; }
  void ForgetFailure() { failure_ = Status(); }

 private:
  struct Batch {
    RowSource* source = nullptr;
    Ticket own;      // the source's
    Status refused;  // Prefetch's
    uint32_t token_count = 0;
    bool striped = false;
    uint64_t layers_together = 0;  // bit l: layer l's rows have been handed round
  };
  [[nodiscard]] Status Exchange(const Batch& batch, const Status& mine, const LayerRows& rows);
  void PackOwn(const Batch& batch, const LayerRows& rows);
  void UnpackOthers(const Batch& batch, const LayerRows& rows);
  // Of a rank's block of a layer, less its head.
  [[nodiscard]] size_t BlockBytes(const Batch& batch, uint32_t rank) const;
  void Must(const Status& status);

  Collective* const collective_;
  const std::vector<RowSource*> sources_;
  std::unordered_map<uint64_t, Batch> batches_;  // by ticket
  // Scratch: [ranks] a head that says how the rank fared, then its rows, column by column of each
  // token.
  std::vector<std::vector<std::byte>> blocks_;
  uint64_t gather_ns_ = 0;
  uint64_t gathered_rows_ = 0;
  Status failure_;
};

}  // namespace engram

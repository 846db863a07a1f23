// The ranks that this program was started as, if it was.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/collectives/collective.h"
#include "model_worker/collectives/host_share.h"
#include "model_worker/ranks/rank_leader.h"
#include "model_worker/tensor_part.h"
#include "model_worker/worker_options.h"

namespace engram {

// Every rank does the same with it in the same order, up to Lead and Follow. Thread-compatible.
class RankGroup {
 public:
  // One rank where no launcher (mpirun) started several, or --tensor-parallel is 1: then MPI is not
  // initialised. On other ranks than 0 the log has warnings only, and their rank.
  // ERRORS: kFailedPrecondition (--tensor-parallel says another number, or this build has no MPI);
  // those of MPI.
  [[nodiscard]] static Result<RankGroup> Join(const WorkerOptions& options);

  // Null: one rank.
  [[nodiscard]] Collective* collective() const { return collective_.get(); }
  [[nodiscard]] TensorPart part() const;
  [[nodiscard]] const HostShare& host() const { return host_; }
  // Has no engine: it follows rank 0's.
  [[nodiscard]] bool follows() const { return part().rank != 0; }

  // The first rank's error, on all; ok where none has one. Of several ranks, rank 0 prints it here,
  // and what all get is without words: mpirun ends rank 0 as soon as another has exited with it.
  [[nodiscard]] Status Agree(const Status& mine) const;
  // kInvalidArgument where `settings` are not the same on all ranks.
  [[nodiscard]] Status AgreeOnSettings(std::string_view settings) const;

  // Start-up, where ranks may load for as long as they like, is over: from now on another rank's
  // silence is bounded (--rank-timeout-s). Lead and Follow do it too.
  void LimitWaits(const WorkerOptions& options) const;

  // Rank 0: null for one rank; then the backend and the sources are driven as they are.
  [[nodiscard]] std::unique_ptr<RankLeader> Lead(const WorkerOptions& options, Backend* backend,
                                                 const std::vector<RowSource*>& sources) const;
  // The others: until rank 0's leader is gone. Signals to stop are rank 0's: they are ignored here.
  [[nodiscard]] Status Follow(const WorkerOptions& options, Backend* backend,
                              const std::vector<RowSource*>& sources) const;

 private:
  RankGroup() = default;
  [[nodiscard]] Status Told(const Status& status) const;

  std::unique_ptr<Collective> collective_;
  HostShare host_;
};

}  // namespace engram

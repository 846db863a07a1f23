#include "model_worker/rank_group.h"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "model_worker/collectives/agreement.h"
#include "model_worker/collectives/mpi_ranks.h"
#include "model_worker/ranks/follower.h"

namespace engram {
namespace {

Status WrongCount(uint32_t wanted, uint32_t started) {
  const std::string count = std::to_string(wanted);
  return {StatusCode::kFailedPrecondition,
          "--tensor-parallel " + count + ", but " +
              (started == 1 ? std::string("no launcher started several ranks")
                            : "there are " + std::to_string(started) + " ranks") +
              ": start it as mpirun -np " + count + " engram-model-worker ..."};
}

}  // namespace

Result<RankGroup> RankGroup::Join(const WorkerOptions& options) {
  RankGroup group;
  const auto launched = FindLaunchedRanks();
  const uint32_t started = launched.has_value() ? launched->count : 1;
  const uint32_t wanted = options.tensor_parallel;
  // What a launcher's environment does not tell (srun with PMIx), the flag may.
  const bool several = wanted == 0 ? started > 1 : wanted > 1;
  if (several && launched.has_value() && wanted != 0 && wanted != started) {
    return Error(WrongCount(wanted, started));
  }
  if (several) {
    ENGRAM_ASSIGN_OR_RETURN(group.collective_, JoinMpiRanks());
    if (wanted != 0 && group.collective_->rank_count() != wanted) {
      return Error(WrongCount(wanted, group.collective_->rank_count()));
    }
    if (group.collective_->rank_count() == 1) group.collective_ = nullptr;
  }
  if (group.follows()) {
    spdlog::set_default_logger(
        spdlog::stderr_color_mt("model-worker rank " + std::to_string(group.part().rank)));
    spdlog::set_level(spdlog::level::warn);
  }
  ENGRAM_ASSIGN_OR_RETURN(group.host_, ShareHost(group.collective_.get()));
  if (group.collective_ == nullptr) return group;
  spdlog::info("{} ranks share the model, {} of them on this host", group.collective_->rank_count(),
               group.host_.rank_count);
  if (group.host_.bound_to_few && options.backend == ComputeOn::kCpu && options.threads == 0) {
    spdlog::warn(
        "mpirun has bound this rank to one core, of more that there are: give it --bind-to none, "
        "or cores for each rank (--map-by slot:pe=N)");
  }
  return group;
}

TensorPart RankGroup::part() const {
  if (collective_ == nullptr) return {};
  return {collective_->rank(), collective_->rank_count()};
}

Status RankGroup::Agree(const Status& mine) const { return Told(AgreeOn(collective_.get(), mine)); }

Status RankGroup::AgreeOnSettings(std::string_view settings) const {
  return Told(AgreeOnSame(collective_.get(), settings));
}

Status RankGroup::Told(const Status& status) const {
  if (collective_ == nullptr || status.ok()) return status;
  if (!follows()) {
    std::fprintf(stderr, "engram-model-worker: %s\n", status.ToString().c_str());
    std::fflush(stderr);
  }
  return {status.code(), ""};
}

void RankGroup::LimitWaits(const WorkerOptions& options) const {
  if (collective_ != nullptr) collective_->SetPatience(RankPatience(options));
}

std::unique_ptr<RankLeader> RankGroup::Lead(const WorkerOptions& options, Backend* backend,
                                            const std::vector<RowSource*>& sources) const {
  if (collective_ == nullptr) return nullptr;
  LimitWaits(options);
  return std::make_unique<RankLeader>(collective_.get(), backend, sources, options.fetch);
}

Status RankGroup::Follow(const WorkerOptions& options, Backend* backend,
                         const std::vector<RowSource*>& sources) const {
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGUSR1, SIG_IGN);
  LimitWaits(options);
  const Status status = FollowLeader(collective_.get(), backend, sources);
  // Rank 0 goes on without this one otherwise.
  if (!status.ok()) collective_->Abort(status);
  return status;
}

}  // namespace engram

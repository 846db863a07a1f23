#include "model_worker/ranks/follower.h"

#include "model_worker/ranks/rank_command.h"
#include "model_worker/ranks/rank_figures.h"
#include "model_worker/ranks/rank_rows.h"
#include "model_worker/ranks/step_outcome.h"
#include "model_worker/step_rows.h"

namespace engram {
namespace {

class Follower {
 public:
  Follower(Collective* collective, Backend* backend, const std::vector<RowSource*>& sources)
      : collective_(collective),
        backend_(backend),
        together_(collective, sources),
        step_rows_(&together_) {}

  [[nodiscard]] Status Run() {
    while (true) {
      if (const Status status = collective_->Receive(&message_); !status.ok()) {
        collective_->Abort(status);
      }
      ENGRAM_RETURN_IF_ERROR(DecodeRankCommand(message_, &command_));
      if (command_.kind == RankCommandKind::kStop) return {};
      ENGRAM_RETURN_IF_ERROR(Do());
    }
  }

 private:
  [[nodiscard]] Status Do() {
    switch (command_.kind) {
      case RankCommandKind::kPrefetch:
        if (command_.source >= together_.sources().size()) {
          return {StatusCode::kMalformed, "rank 0 reads from a row source that is not here"};
        }
        // An error is told when the layer is awaited.
        (void)together_.Prefetch(command_.ticket, command_.source, command_.runs, command_.batch);
        return {};
      case RankCommandKind::kRelease:
        together_.Release(command_.ticket);
        return {};
      case RankCommandKind::kResetSlot:
        backend_->ResetSlot(command_.slot);
        return {};
      case RankCommandKind::kForward:
        Forward();
        return {};
      case RankCommandKind::kTellFigures: {
        std::vector<RankFigures> figures;
        return GatherFigures(collective_, FiguresOf(*collective_, together_), &figures);
      }
      case RankCommandKind::kStop:
        break;
    }
    return {};
  }

  void Forward() {
    if (command_.engram_on) step_rows_.Begin(std::span<const RowPiece>(command_.pieces));
    together_.ForgetFailure();
    const Status status =
        backend_->Forward(command_.steps, command_.engram_on ? &step_rows_ : nullptr, &logits_);
    CheckStepOutcome(collective_, status, together_.failure());
  }

  Collective* const collective_;
  Backend* const backend_;
  RankRows together_;
  StepRows step_rows_;
  std::vector<std::byte> message_;
  RankCommand command_;
  std::vector<float> logits_;
};

}  // namespace

Status FollowLeader(Collective* collective, Backend* backend,
                    const std::vector<RowSource*>& sources) {
  return Follower(collective, backend, sources).Run();
}

}  // namespace engram

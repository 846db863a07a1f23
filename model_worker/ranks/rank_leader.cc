#include "model_worker/ranks/rank_leader.h"

#include <utility>

#include "engram/base/check.h"
#include "model_worker/ranks/rank_command.h"
#include "model_worker/ranks/step_outcome.h"

namespace engram {
namespace {

constexpr std::chrono::seconds kFiguresAge{1};

}  // namespace

const char* FetchWayName(FetchWay way) {
  switch (way) {
    case FetchWay::kAuto:
      return "auto";
    case FetchWay::kCooperative:
      return "cooperative";
    case FetchWay::kAll:
      return "all";
  }
  return "auto";
}

class RankLeader::LedRows final : public RowSource {
 public:
  LedRows(RankLeader* leader, uint32_t source, RowSource* own)
      : leader_(leader), source_(source), own_(own) {}

  [[nodiscard]] const TableLayout& layout() const override { return own_->layout(); }
  [[nodiscard]] const NgramHasher& hasher() const override { return own_->hasher(); }
  [[nodiscard]] uint32_t batch_tokens_max() const override { return own_->batch_tokens_max(); }

  [[nodiscard]] Result<Ticket> Prefetch(std::span<const TokenRun> runs,
                                        const BatchOptions& options) override {
    BatchOptions batch = options;
    batch.striped = ReadTogether(runs);
    const Ticket ticket(++leader_->tickets_);
    // The others begin while this rank does.
    EncodePrefetch(ticket, source_, batch, runs, &leader_->message_);
    leader_->Tell();
    const Status status = leader_->together_.Prefetch(ticket, source_, runs, batch);
    if (!status.ok()) {
      Release(ticket);
      return Error(status);
    }
    return ticket;
  }

  [[nodiscard]] Result<LayerRows> Await(Ticket ticket, int32_t layer_index) override {
    return leader_->together_.Await(ticket, layer_index);
  }

  void Release(Ticket ticket) override {
    EncodeRelease(ticket, &leader_->message_);
    leader_->Tell();
    leader_->together_.Release(ticket);
  }

  [[nodiscard]] RowSourceStats Stats() const override { return own_->Stats(); }
  [[nodiscard]] RowSourceStats Counts() const override { return own_->Counts(); }
  void ResetStats() override { own_->ResetStats(); }
  [[nodiscard]] FillStages Stages() const override { return own_->Stages(); }

 private:
  [[nodiscard]] bool ReadTogether(std::span<const TokenRun> runs) const {
    if (leader_->fetch_.way != FetchWay::kAuto) {
      return leader_->fetch_.way == FetchWay::kCooperative;
    }
    uint64_t rows = 0;
    for (const TokenRun& run : runs) rows += run.tokens.size();
    rows *= static_cast<uint64_t>(layout().column_count()) *
            static_cast<uint64_t>(layout().layer_count());
    return rows >= leader_->fetch_.cooperative_rows_min;
  }

  RankLeader* const leader_;
  const uint32_t source_;
  RowSource* const own_;
};

class RankLeader::LedBackend final : public Backend {
 public:
  LedBackend(RankLeader* leader, Backend* own) : leader_(leader), own_(own) {}

  [[nodiscard]] const Limits& limits() const override { return own_->limits(); }
  [[nodiscard]] int32_t vocabulary_size() const override { return own_->vocabulary_size(); }
  [[nodiscard]] uint64_t parameters_non_embedding() const override {
    return own_->parameters_non_embedding();
  }
  [[nodiscard]] std::string hardware() const override { return own_->hardware(); }
  [[nodiscard]] StagingMemoryObserver* staging_observer() override {
    return own_->staging_observer();
  }

  void ResetSlot(SequenceSlot slot) override {
    EncodeResetSlot(slot, &leader_->message_);
    leader_->Tell();
    own_->ResetSlot(slot);
  }

  [[nodiscard]] Status Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                               std::vector<float>* logits) override {
    return Lead(steps, engram, [&] { return own_->Forward(steps, engram, logits); });
  }
  [[nodiscard]] Status ForwardAndSample(std::span<const SequenceStep> steps, EngramRows* engram,
                                        const StepDraws& draws,
                                        std::vector<TokenId>* tokens) override {
    return Lead(steps, engram,
                [&] { return own_->ForwardAndSample(steps, engram, draws, tokens); });
  }

 private:
  // Tells the followers of the step, which this rank computes by `compute`.
  template <typename Compute>
  [[nodiscard]] Status Lead(std::span<const SequenceStep> steps, EngramRows* engram,
                            Compute compute) {
    const std::span<const RowPiece> pieces =
        engram == nullptr ? std::span<const RowPiece>() : engram->pieces();
    ENGRAM_CHECK(engram == nullptr || !pieces.empty());
    EncodeForward(steps, engram != nullptr, pieces, &leader_->message_);
    leader_->Tell();
    leader_->together_.ForgetFailure();
    const Status status = compute();
    CheckStepOutcome(leader_->collective_, status, leader_->together_.failure());
    if (SteadyClock().Now() - leader_->figures_at_ >= kFiguresAge) (void)leader_->FreshFigures();
    return status;
  }

  RankLeader* const leader_;
  Backend* const own_;
};

RankLeader::RankLeader(Collective* collective, Backend* backend, std::vector<RowSource*> sources,
                       const FetchOptions& fetch)
    : collective_(collective),
      fetch_(fetch),
      together_(collective, sources),
      backend_(std::make_unique<LedBackend>(this, backend)),
      figures_(collective->rank_count()) {
  ENGRAM_CHECK(collective->rank() == 0);
  for (uint32_t i = 0; i < sources.size(); ++i) {
    rows_.push_back(sources[i] == nullptr ? nullptr
                                          : std::make_unique<LedRows>(this, i, sources[i]));
  }
}

RankLeader::~RankLeader() {
  EncodePlain(RankCommandKind::kStop, &message_);
  Tell();
}

void RankLeader::Must(const Status& status) {
  if (!status.ok()) collective_->Abort(status);
}

void RankLeader::Tell() { Must(collective_->Send(message_)); }

std::vector<RankFigures> RankLeader::Figures() const {
  const std::lock_guard lock(figures_mutex_);
  return figures_;
}

std::vector<RankFigures> RankLeader::FreshFigures() {
  EncodePlain(RankCommandKind::kTellFigures, &message_);
  Tell();
  std::vector<RankFigures> figures;
  Must(GatherFigures(collective_, FiguresOf(*collective_, together_), &figures));
  figures_at_ = SteadyClock().Now();
  const std::lock_guard lock(figures_mutex_);
  figures_ = figures;
  return figures;
}

}  // namespace engram

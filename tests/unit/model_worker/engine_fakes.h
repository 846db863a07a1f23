// Test doubles for the engine's tests: a backend whose logits are a function of the tokens and rows
// it was given, and a row source with a bounded ring. Both check what the engine must hold to.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "client/row_source.h"
#include "engram/base/check.h"
#include "model_worker/backend.h"

namespace engram {

// The rows of token t at the end of `tokens`: a number that depends on the last kLookBack tokens.
inline constexpr size_t kFakeLookBack = 3;
inline uint32_t FakeRow(int32_t layer, std::span<const TokenId> tokens) {
  uint32_t row = 17u + static_cast<uint32_t>(layer);
  const size_t keep = std::min(tokens.size(), kFakeLookBack);
  for (const TokenId token : tokens.last(keep)) {
    row = row * 1000003u + static_cast<uint32_t>(token) + 1u;
  }
  return row;
}

class FakeRowSource final : public RowSource {
 public:
  FakeRowSource(int32_t layers, uint32_t batch_tokens_max, size_t ring)
      : layers_(layers), batch_tokens_max_(batch_tokens_max), ring_(ring) {}

  // Events in order: "prefetch 3", "await 3/0", "release 3".
  std::vector<std::string> log;
  size_t held_max = 0;
  uint64_t refused = 0;
  // Returns an error for an Await, or ok.
  std::function<Status(Ticket, int32_t layer)> await_status;
  bool forward_running = false;
  std::map<uint64_t, size_t> tokens_of_ticket;

  [[nodiscard]] const TableLayout& layout() const override { return layout_; }
  [[nodiscard]] const NgramHasher& hasher() const override {
    ENGRAM_CHECK(false);
    return *static_cast<const NgramHasher*>(nullptr);
  }
  [[nodiscard]] uint32_t batch_tokens_max() const override { return batch_tokens_max_; }
  [[nodiscard]] FillStages Stages() const override { return {}; }

  [[nodiscard]] Result<Ticket> Prefetch(std::span<const TokenRun> runs,
                                        const BatchOptions&) override {
    EXPECT_FALSE(forward_running) << "Prefetch inside Forward";
    if (held_.size() == ring_) {
      ++refused;
      return Error(StatusCode::kResourceExhausted, "every staging buffer is in use");
    }
    const Ticket ticket(next_++);
    auto& rows = held_[ticket];
    size_t count = 0;
    for (const TokenRun& run : runs) {
      std::vector<TokenId> all(run.history.begin(), run.history.end());
      for (const TokenId token : run.tokens) {
        all.push_back(token);
        for (int32_t layer = 0; layer < layers_; ++layer) {
          rows[layer].push_back(FakeRow(layer, all));
        }
        ++count;
      }
    }
    EXPECT_GT(count, 0u);
    EXPECT_LE(count, batch_tokens_max_);
    tokens_of_ticket[ticket.value()] = count;
    held_max = std::max(held_max, held_.size());
    log.push_back("prefetch " + std::to_string(ticket.value()));
    return ticket;
  }

  [[nodiscard]] Result<LayerRows> Await(Ticket ticket, int32_t layer) override {
    EXPECT_TRUE(forward_running) << "Await outside Forward";
    log.push_back("await " + std::to_string(ticket.value()) + "/" + std::to_string(layer));
    if (await_status) {
      if (Status status = await_status(ticket, layer); !status.ok()) return Error(status);
    }
    const auto& rows = held_.at(ticket).at(layer);
    LayerRows result;
    result.rows = std::as_bytes(std::span(rows));
    result.token_count = static_cast<uint32_t>(rows.size());
    return result;
  }

  void Release(Ticket ticket) override {
    EXPECT_FALSE(forward_running) << "Release inside Forward";
    EXPECT_EQ(held_.erase(ticket), 1u) << "released twice, or never prefetched";
    log.push_back("release " + std::to_string(ticket.value()));
  }

  [[nodiscard]] RowSourceStats Stats() const override { return {}; }
  [[nodiscard]] RowSourceStats Counts() const override { return {}; }
  void ResetStats() override {}
  [[nodiscard]] size_t held() const { return held_.size(); }

 private:
  const int32_t layers_;
  const uint32_t batch_tokens_max_;
  const size_t ring_;
  TableLayout layout_;
  uint64_t next_ = 1;
  std::map<Ticket, std::map<int32_t, std::vector<uint32_t>>> held_;
};

// The next token is a hash of every token before it, mixed with the rows where there are some.
class FakeBackend final : public Backend {
 public:
  FakeBackend(Limits limits, int32_t vocabulary, int32_t engram_layers)
      : limits_(limits), vocabulary_(vocabulary), engram_layers_(engram_layers) {}

  std::vector<FakeRowSource*> sources;                          // told when Forward runs
  std::function<Status(std::span<const SequenceStep>)> before;  // of each Forward
  std::vector<std::vector<size_t>> step_sizes;                  // tokens per sequence step
  std::set<uint32_t> slots_used;

  [[nodiscard]] const Limits& limits() const override { return limits_; }
  [[nodiscard]] int32_t vocabulary_size() const override { return vocabulary_; }
  [[nodiscard]] uint64_t parameters_non_embedding() const override { return 0; }
  [[nodiscard]] std::string hardware() const override { return "a fake"; }
  void ResetSlot(SequenceSlot slot) override { slots_[slot.value()] = {}; }

  [[nodiscard]] Status Forward(std::span<const SequenceStep> sequence_steps, EngramRows* engram,
                               std::vector<float>* logits) override {
    for (FakeRowSource* source : sources) source->forward_running = true;
    const Status status = Run(sequence_steps, engram, logits);
    for (FakeRowSource* source : sources) source->forward_running = false;
    return status;
  }

  // What one request must generate, alone.
  [[nodiscard]] std::vector<TokenId> Expected(std::vector<TokenId> tokens, uint32_t count,
                                              bool with_rows) const {
    Slot slot;
    std::vector<TokenId> result;
    for (size_t i = 0; i < tokens.size() || result.size() < count; ++i) {
      if (i == tokens.size()) {
        result.push_back(Draw(slot));
        tokens.push_back(result.back());
        if (result.size() == count) break;
      }
      std::vector<uint32_t> rows;
      for (int32_t layer = 0; with_rows && layer < engram_layers_; ++layer) {
        rows.push_back(FakeRow(layer, std::span(tokens).first(i + 1)));
      }
      Step(&slot, tokens[i], rows);
    }
    return result;
  }

 private:
  struct Slot {
    uint32_t position = 0;
    uint64_t state = 1;
  };

  static void Step(Slot* slot, TokenId token, std::span<const uint32_t> rows) {
    slot->state = slot->state * 6364136223846793005ull + static_cast<uint64_t>(token) + 1442695ull;
    for (const uint32_t row : rows) slot->state = (slot->state ^ row) * 0x9e3779b97f4a7c15ull;
    ++slot->position;
  }
  [[nodiscard]] TokenId Draw(const Slot& slot) const {
    return static_cast<TokenId>((slot.state >> 33) % static_cast<uint64_t>(vocabulary_));
  }

  // Of all slots, those too that nobody uses and nobody has reset.
  [[nodiscard]] uint64_t KvTokensAfter(std::span<const SequenceStep> sequence_steps) {
    std::map<uint32_t, uint64_t> tokens;
    for (const auto& [slot, held] : slots_) tokens[slot] = held.position;
    for (const SequenceStep& step : sequence_steps) {
      tokens[step.slot.value()] = step.position + step.tokens.size();
    }
    uint64_t sum = 0;
    const uint64_t page = limits_.kv_page_tokens;
    for (const auto& [slot, count] : tokens) sum += (count + page - 1) / page * page;
    return sum;
  }

  [[nodiscard]] Status Run(std::span<const SequenceStep> sequence_steps, EngramRows* engram,
                           std::vector<float>* logits) {
    if (before) {
      if (Status status = before(sequence_steps); !status.ok()) return status;
    }
    std::set<uint32_t> seen;
    size_t token_count = 0;
    step_sizes.emplace_back();
    for (const SequenceStep& step : sequence_steps) {
      EXPECT_TRUE(seen.insert(step.slot.value()).second) << "a sequence twice in one step";
      EXPECT_LT(step.slot.value(), limits_.sequences_max);
      EXPECT_FALSE(step.tokens.empty());
      EXPECT_EQ(slots_[step.slot.value()].position, step.position);
      slots_used.insert(step.slot.value());
      step_sizes.back().push_back(step.tokens.size());
      token_count += step.tokens.size();
    }
    EXPECT_LE(token_count, limits_.step_tokens_max);
    if (limits_.kv_tokens_max != 0 && KvTokensAfter(sequence_steps) > limits_.kv_tokens_max) {
      return {StatusCode::kResourceExhausted, "the KV cache is full"};
    }
    std::vector<std::vector<uint32_t>> rows(token_count);
    for (int32_t layer = 0; engram != nullptr && layer < engram_layers_; ++layer) {
      const auto pieces = engram->Rows(layer);
      if (!pieces.has_value()) return pieces.error();
      size_t token = 0;
      for (const LayerRows& piece : *pieces) {
        EXPECT_EQ(piece.rows.size(), piece.token_count * sizeof(uint32_t));
        for (size_t t = 0; t < piece.token_count; ++t) {
          uint32_t row = 0;
          std::memcpy(&row, piece.rows.data() + t * sizeof(row), sizeof(row));
          rows[token++].push_back(row);
        }
      }
      EXPECT_EQ(token, token_count);
    }
    logits->clear();
    size_t t = 0;
    for (const SequenceStep& step : sequence_steps) {
      Slot& slot = slots_[step.slot.value()];
      for (const TokenId token : step.tokens) Step(&slot, token, rows[t++]);
      if (!step.logits_wanted) continue;
      const size_t begin = logits->size();
      logits->resize(begin + static_cast<size_t>(vocabulary_), 0.0f);
      (*logits)[begin + static_cast<size_t>(Draw(slot))] = 1.0f;
    }
    return {};
  }

  const Limits limits_;
  const int32_t vocabulary_;
  const int32_t engram_layers_;
  std::map<uint32_t, Slot> slots_;
};

}  // namespace engram

// The plan against a naive one: hash every token by itself, name the row of every position.
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "client/read_plan.h"
#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

// rapidcheck calls a property many times: build these once.
struct Model {
  std::shared_ptr<const TableLayout> layout = test::SmallLayout(60);
  std::shared_ptr<const NgramHasher> hasher = test::SmallHasher(*layout);
};
const Model& TestModel() {
  static const Model model;
  return model;
}

struct Batch {
  std::vector<std::vector<TokenId>> tokens;  // of each run
  std::vector<std::vector<uint8_t>> dead;    // of each run; empty = none
  std::vector<uint8_t> all_dead;             // over the batch; empty = none
  std::vector<TokenRun> runs;
  uint32_t token_count = 0;
};

std::shared_ptr<Batch> ArbitraryBatch() {
  auto batch = std::make_shared<Batch>();
  const auto run_count = *rc::gen::inRange<size_t>(1, 5);
  const TokenId vocabulary = *rc::gen::element(3, 30, 1500);  // small: many repeats
  bool any_dead = false;
  for (size_t r = 0; r < run_count; ++r) {
    batch->tokens.push_back(*rc::gen::container<std::vector<TokenId>>(
        *rc::gen::inRange<size_t>(1, 40), rc::gen::inRange(0, vocabulary)));
    batch->dead.emplace_back();
    if (*rc::gen::inRange(0, 3) == 0) {
      any_dead = true;
      batch->dead.back() = *rc::gen::container<std::vector<uint8_t>>(
          batch->tokens.back().size(), rc::gen::element<uint8_t>(0, 1));
    }
    batch->token_count += static_cast<uint32_t>(batch->tokens.back().size());
  }
  for (size_t r = 0; r < run_count; ++r) {
    batch->runs.push_back({.tokens = batch->tokens[r], .tokens_dead = batch->dead[r]});
    if (!any_dead) continue;
    for (size_t t = 0; t < batch->tokens[r].size(); ++t) {
      batch->all_dead.push_back(batch->dead[r].empty() ? uint8_t{0} : batch->dead[r][t]);
    }
  }
  return batch;
}

// The address of every (layer, token, column) position, one token at a time.
RowAddress NaiveAddress(const Batch& batch, int32_t layer, size_t token, int32_t column) {
  const Model& model = TestModel();
  for (size_t r = 0; r < batch.runs.size(); ++r) {
    const TokenRun& run = batch.runs[r];
    if (token >= run.tokens.size()) {
      token -= run.tokens.size();
      continue;
    }
    TokenRun one;
    one.history = run.tokens.first(token);
    one.tokens = run.tokens.subspan(token, 1);
    if (!run.tokens_dead.empty()) {
      one.history_dead = run.tokens_dead.first(token);
      one.tokens_dead = run.tokens_dead.subspan(token, 1);
    }
    std::vector<uint32_t> buckets(static_cast<size_t>(model.layout->column_count()));
    model.hasher->Hash(layer, one, buckets.data(), 1);
    return model.layout->Address(layer, column, buckets[static_cast<size_t>(column)]);
  }
  return RowAddress(~uint64_t{0});
}

// Mixes of every (order, token) of the batch.
std::vector<uint64_t> Mixes(const Batch& batch, int32_t layer) {
  const Model& model = TestModel();
  const auto orders = static_cast<size_t>(model.layout->spec().hash.max_ngram_size - 1);
  std::vector<uint64_t> mixes(orders * batch.token_count);
  size_t first = 0;
  for (const TokenRun& run : batch.runs) {
    model.hasher->Mix(layer, run, mixes.data() + first, batch.token_count);
    first += run.tokens.size();
  }
  return mixes;
}

RC_GTEST_PROP(ReadPlanProperty, EveryLivePositionGetsExactlyTheRowThatTheNaiveComputationNames,
              ()) {
  const Model& model = TestModel();
  const auto batch = ArbitraryBatch();
  const auto part_count = *rc::gen::inRange<uint32_t>(1, 5);
  const auto layers = model.layout->layer_count();
  const auto columns = model.layout->column_count();

  std::map<std::tuple<int32_t, uint32_t, int32_t>, RowAddress> places;
  PlanScratch scratch(*model.layout, 200);
  for (uint32_t part = 0; part < part_count; ++part) {
    ReadPlan plan(model.hasher.get(), model.layout.get(), 200, part, part_count);
    plan.Start(batch->token_count);
    uint32_t first = 0;
    for (int32_t layer = 0; layer < layers; ++layer) {
      plan.Mix(layer, batch->runs, &scratch);
      const uint32_t found = plan.FindNgrams(layer, batch->all_dead, &scratch);
      plan.AddRows(layer, &scratch);
      RC_ASSERT(plan.first_row(layer) == first);
      RC_ASSERT(plan.row_count(layer) == found);
      const std::vector<uint64_t> mixes = Mixes(*batch, layer);
      std::set<std::pair<int32_t, uint64_t>> distinct;  // a column's rows are of distinct n-grams
      uint32_t token_before = 0;
      for (uint32_t i = 0; i < plan.row_count(layer); ++i) {
        const uint32_t row = first + i;
        const RowAddress address = plan.addresses()[row];
        const int32_t column = plan.targets(row).column;
        const uint32_t token = plan.targets(row).first_token;
        RC_ASSERT(token >= token_before);
        token_before = token;
        const uint32_t order = plan.targets(row).order;
        const uint64_t mix = mixes[size_t{order} * batch->token_count + token];
        RC_ASSERT(distinct.emplace(column, mix).second);
        RC_ASSERT(plan.targets(row).layer_index == layer);
        RC_ASSERT(static_cast<uint32_t>(column) % part_count == part);
        RC_ASSERT(plan.row_id(row) == model.layout->Place(address).row);
        plan.ForEachToken(row, [&](uint32_t wanting) {
          RC_ASSERT(places.emplace(std::tuple(layer, wanting, column), address).second);
        });
      }
      first += plan.row_count(layer);
    }
    RC_ASSERT(first <= plan.rows_max());
  }
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (uint32_t token = 0; token < batch->token_count; ++token) {
      const bool dead = !batch->all_dead.empty() && batch->all_dead[token] != 0;
      for (int32_t column = 0; column < columns; ++column) {
        const auto found = places.find({layer, token, column});
        RC_ASSERT((found == places.end()) == dead);
        if (!dead) RC_ASSERT(found->second == NaiveAddress(*batch, layer, token, column));
      }
    }
  }
}

RC_GTEST_PROP(ReadPlanProperty, NgramsTakenOutLeaveTheRowsOfOthersInOrder, ()) {
  const Model& model = TestModel();
  const auto batch = ArbitraryBatch();
  PlanScratch scratch(*model.layout, 200);
  ReadPlan plan(model.hasher.get(), model.layout.get(), 200);
  ReadPlan whole(model.hasher.get(), model.layout.get(), 200);
  plan.Start(batch->token_count);
  whole.Start(batch->token_count);
  const auto modulus = *rc::gen::inRange<uint64_t>(1, 5);
  std::vector<RowAddress> kept;
  for (int32_t layer = 0; layer < model.layout->layer_count(); ++layer) {
    whole.Mix(layer, batch->runs, &scratch);
    (void)whole.FindNgrams(layer, batch->all_dead, &scratch);
    whole.AddRows(layer, &scratch);
    const std::vector<uint64_t> mixes = Mixes(*batch, layer);
    for (uint32_t i = 0; i < whole.row_count(layer); ++i) {
      const uint32_t row = whole.first_row(layer) + i;
      const RowTargets& t = whole.targets(row);
      const uint64_t mix = mixes[size_t{t.order} * batch->token_count + t.first_token];
      if (mix % modulus != 0) kept.push_back(whole.addresses()[row]);
    }

    plan.Mix(layer, batch->runs, &scratch);
    uint32_t rows = plan.FindNgrams(layer, batch->all_dead, &scratch);
    for (uint32_t order = 0; order < plan.order_count(); ++order) {
      ReadPlan::RemoveNgrams(order, &scratch, [&](const PlannedNgram& ngram) {
        const bool taken = ngram.mix % modulus == 0;
        if (taken) rows -= static_cast<uint32_t>(plan.columns(order).size());
        return taken;
      });
    }
    plan.AddRows(layer, &scratch);
    RC_ASSERT(plan.row_count(layer) == rows);
    RC_ASSERT(plan.first_row(layer) + rows == kept.size());
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    RC_ASSERT(plan.addresses()[i] == kept[i]);
    RC_ASSERT(plan.row_id(static_cast<uint32_t>(i)) == model.layout->Place(kept[i]).row);
  }
}

RC_GTEST_PROP(DedupeTableProperty, GivesTheFirstValueOfEveryKey, ()) {
  DedupeTable table(64);
  for (int round = 0; round < 3; ++round) {
    const auto keys = *rc::gen::container<std::vector<uint64_t>>(
        *rc::gen::inRange<size_t>(1, 65),
        rc::gen::oneOf(rc::gen::inRange<uint64_t>(0, 20), rc::gen::arbitrary<uint64_t>()));
    table.Clear(static_cast<uint32_t>(keys.size()));
    std::map<uint64_t, uint32_t> model;
    for (uint32_t i = 0; i < keys.size(); ++i) {
      const uint32_t expected = model.emplace(keys[i], i).first->second;
      RC_ASSERT(table.FindOrInsert(keys[i], i) == expected);
    }
  }
}

}  // namespace
}  // namespace engram

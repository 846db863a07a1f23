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

RC_GTEST_PROP(ReadPlanProperty, EveryLivePositionGetsExactlyTheRowThatTheNaiveComputationNames,
              ()) {
  const Model& model = TestModel();
  const auto batch = ArbitraryBatch();
  const auto part_count = *rc::gen::inRange<uint32_t>(1, 5);
  const auto layers = model.layout->layer_count();
  const auto columns = model.layout->column_count();

  std::map<std::tuple<int32_t, uint32_t, int32_t>, RowAddress> places;
  DedupeTable table(200);
  for (uint32_t part = 0; part < part_count; ++part) {
    ReadPlan plan(model.hasher.get(), model.layout.get(), 200, part, part_count);
    plan.Start(batch->token_count);
    std::set<RowAddress> distinct;
    uint32_t first = 0;
    for (int32_t layer = 0; layer < layers; ++layer) {
      plan.HashLayer(layer, batch->runs);
      plan.FindUnique(layer, batch->all_dead, &table);
      RC_ASSERT(plan.first_row(layer) == first);
      for (uint32_t i = 0; i < plan.row_count(layer); ++i) {
        const uint32_t row = first + i;
        const RowAddress address = plan.addresses()[row];
        RC_ASSERT(distinct.insert(address).second);
        const int32_t column = plan.targets(row).column;
        RC_ASSERT(plan.targets(row).layer_index == layer);
        RC_ASSERT(static_cast<uint32_t>(column) % part_count == part);
        RC_ASSERT(plan.row_id(row) == model.layout->Place(address).row);
        plan.ForEachToken(row, [&](uint32_t token) {
          RC_ASSERT(places.emplace(std::tuple(layer, token, column), address).second);
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

RC_GTEST_PROP(ReadPlanProperty, RowsTakenOutLeaveTheOthersInOrder, ()) {
  const Model& model = TestModel();
  const auto batch = ArbitraryBatch();
  DedupeTable table(200);
  ReadPlan plan(model.hasher.get(), model.layout.get(), 200);
  ReadPlan whole(model.hasher.get(), model.layout.get(), 200);
  plan.Start(batch->token_count);
  whole.Start(batch->token_count);
  const auto modulus = *rc::gen::inRange<uint64_t>(1, 5);
  std::vector<RowAddress> kept;
  for (int32_t layer = 0; layer < model.layout->layer_count(); ++layer) {
    for (ReadPlan* p : {&plan, &whole}) {
      p->HashLayer(layer, batch->runs);
      p->FindUnique(layer, batch->all_dead, &table);
    }
    const auto taken = [&](RowAddress address) { return address.value() % modulus == 0; };
    plan.RemoveRows(layer, [&](uint32_t row) { return taken(plan.addresses()[row]); });
    for (uint32_t i = 0; i < whole.row_count(layer); ++i) {
      const RowAddress address = whole.addresses()[whole.first_row(layer) + i];
      if (!taken(address)) kept.push_back(address);
    }
    RC_ASSERT(plan.first_row(layer) + plan.row_count(layer) == kept.size());
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    RC_ASSERT(plan.addresses()[i] == kept[i]);
    RC_ASSERT(plan.row_id(static_cast<uint32_t>(i)) == model.layout->Place(kept[i]).row);
  }
}

RC_GTEST_PROP(DedupeTableProperty, GivesTheFirstValueOfEveryKey, ()) {
  DedupeTable table(64);
  for (int round = 0; round < 3; ++round) {
    const auto keys = *rc::gen::container<std::vector<uint32_t>>(
        *rc::gen::inRange<size_t>(1, 65),
        rc::gen::oneOf(rc::gen::inRange<uint32_t>(0, 20), rc::gen::arbitrary<uint32_t>()));
    table.Clear(static_cast<uint32_t>(keys.size()));
    std::map<uint32_t, uint32_t> model;
    for (uint32_t i = 0; i < keys.size(); ++i) {
      const uint32_t expected = model.emplace(keys[i], i).first->second;
      RC_ASSERT(table.FindOrInsert(keys[i], i) == expected);
    }
  }
}

}  // namespace
}  // namespace engram

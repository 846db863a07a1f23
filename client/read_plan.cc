#include "client/read_plan.h"

#include <algorithm>
#include <array>
#include <bit>

#include "engram/base/check.h"

namespace engram {

DedupeTable::DedupeTable(uint32_t keys_max)
    : entries_(std::bit_ceil(size_t{2} * (keys_max < 2 ? 2 : keys_max))) {}

void DedupeTable::Clear(uint32_t key_count) {
  const size_t wanted = std::bit_ceil(size_t{2} * (key_count < 2 ? 2 : key_count));
  ENGRAM_CHECK(wanted <= entries_.size());
  mask_ = wanted - 1;
  shift_ = 64u - static_cast<uint32_t>(std::countr_zero(wanted));
  if (++generation_ == 0) {  // after 2^32 orders: old stamps would look new
    for (Entry& entry : entries_) entry = Entry{};
    generation_ = 1;
  }
}

// Arrays are left unset: pages that small batches never reach stay untouched.
PlanScratch::PlanScratch(const TableLayout& layout, uint32_t tokens_max)
    : table_(tokens_max), orders_(static_cast<size_t>(layout.spec().hash.max_ngram_size - 1)) {
  mixes_ = std::make_unique_for_overwrite<uint64_t[]>(orders_.size() * tokens_max);
  buckets_ = std::make_unique_for_overwrite<uint32_t[]>(static_cast<size_t>(layout.column_count()) *
                                                        tokens_max);
  for (Order& order : orders_) {
    order.ngrams = std::make_unique_for_overwrite<PlannedNgram[]>(tokens_max);
  }
}

uint32_t ReadPlan::PartColumns(int32_t column_count, uint32_t part, uint32_t part_count) {
  const auto columns = static_cast<uint32_t>(column_count);
  return part >= columns ? 0 : (columns - part - 1) / part_count + 1;
}

ReadPlan::ReadPlan(const NgramHasher* hasher, const TableLayout* layout, uint32_t tokens_max,
                   uint32_t part, uint32_t part_count)
    : hasher_(hasher),
      layout_(layout),
      order_count_(static_cast<uint32_t>(layout->spec().hash.max_ngram_size - 1)),
      tokens_max_(tokens_max),
      layer_begin_(static_cast<size_t>(layout->layer_count()) + 1) {
  ENGRAM_CHECK(part < part_count);
  const auto heads = static_cast<uint32_t>(layout->spec().hash.head_count);
  order_begin_.push_back(0);
  for (uint32_t order = 0; order < order_count_; ++order) {
    for (uint32_t column = order * heads; column < (order + 1) * heads; ++column) {
      if (column % part_count == part) columns_.push_back(static_cast<uint16_t>(column));
    }
    order_begin_.push_back(static_cast<uint32_t>(columns_.size()));
  }
  const auto layers = static_cast<size_t>(layout->layer_count());
  const size_t rows = layers * columns_.size() * size_t{tokens_max};
  ENGRAM_CHECK(rows < kNoToken);
  rows_max_ = static_cast<uint32_t>(rows);
  // Left unset: pages that small batches never reach stay untouched.
  links_ = std::make_unique_for_overwrite<uint32_t[]>(layers * order_count_ * tokens_max);
  addresses_ = std::make_unique_for_overwrite<RowAddress[]>(rows);
  targets_ = std::make_unique_for_overwrite<RowTargets[]>(rows);
}

void ReadPlan::Start(uint32_t token_count) {
  ENGRAM_CHECK(token_count >= 1 && token_count <= tokens_max_);
  token_count_ = token_count;
  row_count_ = 0;
  for (uint32_t& begin : layer_begin_) begin = 0;
}

void ReadPlan::Mix(int32_t layer_index, std::span<const TokenRun> runs,
                   PlanScratch* scratch) const {
  size_t first_token = 0;
  for (const TokenRun& run : runs) {
    hasher_->Mix(layer_index, run, scratch->mixes_.get() + first_token, token_count_);
    first_token += run.tokens.size();
  }
  ENGRAM_CHECK(first_token == token_count_);
}

uint32_t ReadPlan::FindNgrams(int32_t layer_index, std::span<const uint8_t> dead,
                              PlanScratch* scratch) {
  const auto layer = static_cast<uint32_t>(layer_index);
  uint32_t rows = 0;
  for (uint32_t order = 0; order < order_count_; ++order) {
    PlanScratch::Order& found = scratch->orders_[order];
    found.count = 0;
    if (columns(order).empty()) continue;
    const uint64_t* const mixes = scratch->mixes_.get() + size_t{order} * token_count_;
    uint32_t* const next = links(layer, order);
    DedupeTable& table = scratch->table_;
    if (token_count_ > 1) table.Clear(token_count_);
    uint32_t count = 0;
    for (uint32_t token = 0; token < token_count_; ++token) {
      if (!dead.empty() && dead[token] != 0) continue;
      const uint64_t mix = mixes[token];
      const uint32_t ngram = token_count_ > 1 ? table.FindOrInsert(mix, count) : count;
      if (ngram == count) {
        found.ngrams[count++] = {mix, token};
        next[token] = kNoToken;
      } else {  // right after the first, which stays the first
        const uint32_t first = found.ngrams[ngram].first_token;
        next[token] = next[first];
        next[first] = token;
      }
    }
    found.count = count;
    rows += count * static_cast<uint32_t>(columns(order).size());
  }
  return rows;
}

void ReadPlan::AddRows(int32_t layer_index, PlanScratch* scratch) {
  const auto layer = static_cast<size_t>(layer_index);
  // What is read of a column for each of its rows.
  struct Source {
    const uint32_t* buckets;
    uint64_t first_address;
  };
  std::array<Source, kColumnCountMax> sources;
  std::array<uint32_t, kNgramSizeMax> taken{};  // n-grams of each order
  for (uint32_t order = 0; order < order_count_; ++order) {
    const std::span<const PlannedNgram> found = ngrams(*scratch, order);
    for (size_t i = 0; i < found.size(); ++i) scratch->mixes_[i] = found[i].mix;
    for (const uint16_t column : columns(order)) {
      uint32_t* const buckets = scratch->buckets_.get() + size_t{column} * tokens_max_;
      hasher_->Reduce(layer_index, column, {scratch->mixes_.get(), found.size()}, buckets);
      const TableLayout::Column& c = layout_->column(layer_index, column);
      sources[column] = {buckets, uint64_t{c.first_slot} << layout_->slot_shift()};
    }
  }
  layer_begin_[layer] = row_count_;
  uint32_t row = row_count_;
  for (uint32_t token = 0; token < token_count_; ++token) {
    for (uint32_t order = 0; order < order_count_; ++order) {
      const PlanScratch::Order& found = scratch->orders_[order];
      const uint32_t at = taken[order];
      if (at == found.count || found.ngrams[at].first_token != token) continue;
      ++taken[order];
      for (const uint16_t column : columns(order)) {
        const Source& source = sources[column];
        addresses_[row] = RowAddress(source.first_address + source.buckets[at]);
        targets_[row] = {token, column, static_cast<uint8_t>(layer_index),
                         static_cast<uint8_t>(order)};
        ++row;
      }
    }
  }
  row_count_ = row;
  layer_begin_[layer + 1] = row;
}

}  // namespace engram

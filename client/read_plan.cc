#include "client/read_plan.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "engram/base/check.h"

namespace engram {

DedupeTable::DedupeTable(uint32_t keys_max)
    : entries_(std::bit_ceil(size_t{2} * (keys_max < 2 ? 2 : keys_max))) {}

void DedupeTable::Clear(uint32_t key_count) {
  const size_t wanted = std::bit_ceil(size_t{2} * (key_count < 2 ? 2 : key_count));
  ENGRAM_CHECK(wanted <= entries_.size());
  mask_ = static_cast<uint32_t>(wanted - 1);
  shift_ = 32u - static_cast<uint32_t>(std::countr_zero(wanted));
  if (++generation_ == 0) {  // after 2^32 columns: old stamps would look new
    for (Entry& entry : entries_) entry = Entry{};
    generation_ = 1;
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
      column_count_(static_cast<uint32_t>(layout->column_count())),
      tokens_max_(tokens_max),
      part_(part),
      part_count_(part_count),
      layer_begin_(static_cast<size_t>(layout->layer_count()) + 1) {
  ENGRAM_CHECK(part < part_count);
  const auto layers = static_cast<size_t>(layout->layer_count());
  const size_t rows =
      layers * PartColumns(layout->column_count(), part, part_count) * size_t{tokens_max};
  ENGRAM_CHECK(rows < kNoToken);
  rows_max_ = static_cast<uint32_t>(rows);
  // Left unset: pages that small batches never reach stay untouched.
  links_ = std::make_unique_for_overwrite<uint32_t[]>(layers * column_count_ * tokens_max);
  addresses_ = std::make_unique_for_overwrite<RowAddress[]>(rows);
  targets_ = std::make_unique_for_overwrite<RowTargets[]>(rows);
  found_addresses_ = std::make_unique_for_overwrite<RowAddress[]>(rows / layers);
  found_targets_ = std::make_unique_for_overwrite<RowTargets[]>(rows / layers);
  token_rows_.resize(size_t{tokens_max} + 1);
}

void ReadPlan::Start(uint32_t token_count) {
  ENGRAM_CHECK(token_count >= 1 && token_count <= tokens_max_);
  token_count_ = token_count;
  row_count_ = 0;
  for (uint32_t& begin : layer_begin_) begin = 0;
}

void ReadPlan::HashLayer(int32_t layer_index, std::span<const TokenRun> runs) {
  uint32_t* buckets =
      links_.get() + static_cast<size_t>(layer_index) * column_count_ * token_count_;
  size_t first_token = 0;
  for (const TokenRun& run : runs) {
    hasher_->Hash(layer_index, run, buckets + first_token, token_count_);
    first_token += run.tokens.size();
  }
  ENGRAM_CHECK(first_token == token_count_);
}

void ReadPlan::FindUnique(int32_t layer_index, std::span<const uint8_t> dead, DedupeTable* table) {
  const auto layer = static_cast<uint32_t>(layer_index);
  layer_begin_[layer] = row_count_;
  uint32_t found = 0;
  for (uint32_t column = part_; column < column_count_; column += part_count_) {
    found = FindUniqueInColumn(layer, column, dead, table, found);
  }
  PutInOrder(found);
  layer_begin_[size_t{layer} + 1] = row_count_;
}

uint32_t ReadPlan::FindUniqueInColumn(uint32_t layer_index, uint32_t column,
                                      std::span<const uint8_t> dead, DedupeTable* table,
                                      uint32_t found) {
  uint32_t* links = links_.get() + (size_t{layer_index} * column_count_ + column) * token_count_;
  const TableLayout::Column& c =
      layout_->column(static_cast<int32_t>(layer_index), static_cast<int32_t>(column));
  const uint64_t first = uint64_t{c.first_slot} << layout_->slot_shift();
  if (token_count_ > 1) table->Clear(token_count_);
  for (uint32_t token = 0; token < token_count_; ++token) {
    if (!dead.empty() && dead[token] != 0) continue;
    const uint32_t bucket = links[token];
    const uint32_t row = token_count_ > 1 ? table->FindOrInsert(bucket, found) : found;
    if (row == found) {
      found_addresses_[row] = RowAddress(first + bucket);
      found_targets_[row] = {token, static_cast<uint16_t>(column),
                             static_cast<uint16_t>(layer_index)};
      links[token] = kNoToken;
      ++found;
    } else {
      links[token] = found_targets_[row].first_token;
      found_targets_[row].first_token = token;
    }
  }
  return found;
}

// A counting sort by first_token, columns in their order for each.
void ReadPlan::PutInOrder(uint32_t found) {
  const std::span<uint32_t> begins(token_rows_.data(), token_count_ + 1);
  std::fill(begins.begin(), begins.end(), 0);
  for (uint32_t row = 0; row < found; ++row) ++begins[found_targets_[row].first_token + 1];
  begins[0] = row_count_;
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  for (uint32_t row = 0; row < found; ++row) {
    const uint32_t place = begins[found_targets_[row].first_token]++;
    addresses_[place] = found_addresses_[row];
    targets_[place] = found_targets_[row];
  }
  row_count_ += found;
}

}  // namespace engram

// Token runs -> the distinct rows of each layer, each with every (token, column) that wants it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/base/strong_id.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"

namespace engram {

// Finds equal buckets of one column. Open addressing in memory that is allocated once; a generation
// stamp empties it in no time. One owner thread.
class DedupeTable {
 public:
  // For up to `keys_max` keys between two Clear calls.
  explicit DedupeTable(uint32_t keys_max);

  // Forgets every key. `key_count` keys follow at most: a smaller number touches less memory.
  void Clear(uint32_t key_count);

  // The value stored with `key`; stores `value` and gives it back when the key is new.
  uint32_t FindOrInsert(uint32_t key, uint32_t value) {
    uint32_t i = (key * 0x9e3779b1u) >> shift_;
    while (true) {
      Entry& entry = entries_[i];
      if (entry.generation != generation_) {
        entry = {generation_, key, value};
        return value;
      }
      if (entry.key == key) return entry.value;
      i = (i + 1) & mask_;
    }
  }

 private:
  struct Entry {
    uint32_t generation = 0;
    uint32_t key = 0;
    uint32_t value = 0;
  };
  std::vector<Entry> entries_;  // a power of two, at least twice keys_max
  uint32_t generation_ = 0;
  uint32_t mask_ = 0;
  uint32_t shift_ = 31;
};

// Where a planned row goes.
struct RowTargets {
  uint32_t first_token = 0;  // the others follow: ReadPlan::ForEachToken
  uint16_t column = 0;
  uint16_t layer_index = 0;
};

// The rows that one I/O thread reads for one batch. Columns never share rows, so the threads divide
// them: part p of n has every column c with c % n == p, of every layer. Layers are planned one by
// one in consumption order, so that the first layer's reads leave before the next layer is hashed.
// Dead tokens have no rows. One owner thread; memory is reused from batch to batch.
class ReadPlan {
 public:
  // `hasher` and `layout` must outlive the plan.
  ReadPlan(const NgramHasher* hasher, const TableLayout* layout, uint32_t tokens_max,
           uint32_t part = 0, uint32_t part_count = 1);

  // Columns of one layer that a part has.
  [[nodiscard]] static uint32_t PartColumns(int32_t column_count, uint32_t part,
                                            uint32_t part_count);

  // Begins a batch: forgets the last one. Precondition: 1 <= token_count <= tokens_max.
  void Start(uint32_t token_count);

  // Hashes one layer for all runs. Precondition: the runs passed NgramHasher::Validate and hold
  // token_count tokens together.
  void HashLayer(int32_t layer_index, std::span<const TokenRun> runs);

  // Finds the distinct rows of a hashed layer; they follow those of the layers before. In the order
  // of a token that wants them: rows that come one after another are put side by side.
  //   dead  [token_count] 1 = has no row; empty = none
  void FindUnique(int32_t layer_index, std::span<const uint8_t> dead, DedupeTable* table);

  // Takes out every row of the layer for which `taken(row)` is true (it was in the cache). Only for
  // the layer planned last.
  template <typename Predicate>
  void RemoveRows(int32_t layer_index, Predicate taken) {
    const uint32_t begin = first_row(layer_index);
    uint32_t kept = begin;
    for (uint32_t row = begin; row < row_count_; ++row) {
      if (taken(row)) continue;
      addresses_[kept] = addresses_[row];
      targets_[kept] = targets_[row];
      ++kept;
    }
    row_count_ = kept;
    layer_begin_[static_cast<size_t>(layer_index) + 1] = kept;
  }

  // Rows of one layer: [first_row(l), first_row(l) + row_count(l)) of addresses() and targets().
  [[nodiscard]] uint32_t first_row(int32_t layer_index) const {
    return layer_begin_[static_cast<size_t>(layer_index)];
  }
  [[nodiscard]] uint32_t row_count(int32_t layer_index) const {
    return layer_begin_[static_cast<size_t>(layer_index) + 1] - first_row(layer_index);
  }
  [[nodiscard]] const RowAddress* addresses() const { return addresses_.get(); }
  [[nodiscard]] const RowTargets& targets(uint32_t row) const { return targets_[row]; }
  [[nodiscard]] uint32_t rows_max() const { return rows_max_; }
  [[nodiscard]] uint32_t token_count() const { return token_count_; }

  // The row's number in its layer's table, which its CRC binds.
  [[nodiscard]] RowId row_id(uint32_t row) const {
    const RowTargets& t = targets_[row];
    const TableLayout::Column& column = layout_->column(t.layer_index, t.column);
    const uint64_t first = uint64_t{column.first_slot} << layout_->slot_shift();
    return RowId(column.row_offset + (addresses_[row].value() - first));
  }

  // Calls `use(token)` for every token whose `column` is this row.
  template <typename Use>
  void ForEachToken(uint32_t row, Use use) const {
    const RowTargets& t = targets_[row];
    const uint32_t* next = links(t.layer_index, t.column);
    for (uint32_t token = t.first_token; token != kNoToken; token = next[token]) use(token);
  }

  // The buckets of one column after HashLayer and before FindUnique: [token_count].
  [[nodiscard]] const uint32_t* buckets(int32_t layer_index, int32_t column) const {
    return links(static_cast<uint32_t>(layer_index), static_cast<uint32_t>(column));
  }

 private:
  static constexpr uint32_t kNoToken = 0xffffffffu;

  [[nodiscard]] const uint32_t* links(uint32_t layer_index, uint32_t column) const {
    return links_.get() + (size_t{layer_index} * column_count_ + column) * token_count_;
  }
  // Adds a column's rows to the `found` ones; returns how many there are then.
  [[nodiscard]] uint32_t FindUniqueInColumn(uint32_t layer_index, uint32_t column,
                                            std::span<const uint8_t> dead, DedupeTable* table,
                                            uint32_t found);
  void PutInOrder(uint32_t found);

  const NgramHasher* hasher_;
  const TableLayout* layout_;
  uint32_t column_count_;
  uint32_t tokens_max_;
  uint32_t part_;
  uint32_t part_count_;
  uint32_t rows_max_;
  uint32_t token_count_ = 0;
  uint32_t row_count_ = 0;
  // [layers][columns][token_count]: HashLayer writes buckets; FindUnique replaces each by the next
  // token with the same bucket.
  std::unique_ptr<uint32_t[]> links_;
  std::unique_ptr<RowAddress[]> addresses_;  // [rows_max]
  std::unique_ptr<RowTargets[]> targets_;    // [rows_max]
  // Of the layer at hand, column by column, before they are put in order.
  std::unique_ptr<RowAddress[]> found_addresses_;  // [rows of a layer]
  std::unique_ptr<RowTargets[]> found_targets_;    // [rows of a layer]
  std::vector<uint32_t> token_rows_;               // [tokens_max + 1]
  std::vector<uint32_t> layer_begin_;              // [layers + 1]
};

}  // namespace engram

// Token runs -> the rows of each layer's distinct n-grams, each with every token that wants them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/base/strong_id.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"

namespace engram {

// Finds equal mixes of one order. Open addressing in memory that is allocated once; a generation
// stamp empties it in no time. One owner thread.
class DedupeTable {
 public:
  // For up to `keys_max` keys between two Clear calls.
  explicit DedupeTable(uint32_t keys_max);

  // Forgets every key. `key_count` keys follow at most: a smaller number touches less memory.
  void Clear(uint32_t key_count);

  // The value stored with `key`; stores `value` and gives it back when the key is new.
  uint32_t FindOrInsert(uint64_t key, uint32_t value) {
    size_t i = (key * 0x9e3779b97f4a7c15u) >> shift_;
    while (true) {
      Entry& entry = entries_[i];
      if (entry.generation != generation_) {
        entry = {key, generation_, value};
        return value;
      }
      if (entry.key == key) return entry.value;
      i = (i + 1) & mask_;
    }
  }

 private:
  struct Entry {
    uint64_t key = 0;
    uint32_t generation = 0;
    uint32_t value = 0;
  };
  std::vector<Entry> entries_;  // a power of two, at least twice keys_max
  uint32_t generation_ = 0;
  size_t mask_ = 0;
  uint32_t shift_ = 63;
};

// A distinct n-gram of a layer at hand: its tokens have the same rows in all columns of its order.
struct PlannedNgram {
  uint64_t mix = 0;
  uint32_t first_token = 0;  // the others follow: ReadPlan::ForEachToken
};

// What planning one layer needs in between; plans of one owner thread share it.
class PlanScratch {
 public:
  PlanScratch(const TableLayout& layout, uint32_t tokens_max);

 private:
  friend class ReadPlan;
  struct Order {
    std::unique_ptr<PlannedNgram[]> ngrams;  // [tokens_max] by first_token
    uint32_t count = 0;
  };
  DedupeTable table_;
  std::unique_ptr<uint64_t[]> mixes_;    // [orders][tokens]; of one order, then [ngrams]
  std::unique_ptr<uint32_t[]> buckets_;  // [columns][tokens_max]
  std::vector<Order> orders_;
};

// Where a planned row goes.
struct RowTargets {
  uint32_t first_token = 0;
  uint16_t column = 0;
  uint8_t layer_index = 0;
  uint8_t order = 0;  // place of the column's order: 0 is n = 2
};

// The rows that one I/O thread reads for one batch. Columns never share rows, so the threads divide
// them: part p of n has every column c with c % n == p, of every layer. Layers are planned one by
// one in consumption order, so that the first layer's reads leave before the next layer is hashed.
// Each in steps: Mix, FindNgrams, perhaps RemoveNgrams, AddRows. An n-gram's rows are read once,
// for all of its tokens; two n-grams that share a bucket by chance read it twice. Dead tokens have
// no rows. One owner thread; memory is reused from batch to batch.
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

  // Hashes one layer's n-grams for all runs. Precondition: the runs passed NgramHasher::Validate
  // and hold token_count tokens together.
  void Mix(int32_t layer_index, std::span<const TokenRun> runs, PlanScratch* scratch) const;

  // Finds the distinct n-grams of a mixed layer; returns how many rows they have in this part.
  //   dead  [token_count] 1 = has no row; empty = none
  [[nodiscard]] uint32_t FindNgrams(int32_t layer_index, std::span<const uint8_t> dead,
                                    PlanScratch* scratch);

  // The n-grams of the layer at hand, by first_token. Empty where the part has none of the order's
  // columns.
  [[nodiscard]] static std::span<const PlannedNgram> ngrams(const PlanScratch& scratch,
                                                            uint32_t order) {
    return {scratch.orders_[order].ngrams.get(), scratch.orders_[order].count};
  }
  // Takes out every n-gram of one order for which `taken(ngram)` is true (its rows were in the
  // cache). `taken` is called for each once, in their order.
  template <typename Predicate>
  static void RemoveNgrams(uint32_t order, PlanScratch* scratch, Predicate taken) {
    PlanScratch::Order& of = scratch->orders_[order];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < of.count; ++i) {
      if (!taken(of.ngrams[i])) of.ngrams[kept++] = of.ngrams[i];
    }
    of.count = kept;
  }

  // Adds the rows of the n-grams found; they follow those of the layers before. In the order of the
  // first tokens that want them: rows that come one after another are put side by side.
  void AddRows(int32_t layer_index, PlanScratch* scratch);

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
  [[nodiscard]] uint32_t order_count() const { return order_count_; }
  // The part's columns of an order.
  [[nodiscard]] std::span<const uint16_t> columns(uint32_t order) const {
    return std::span(columns_).subspan(order_begin_[order],
                                       order_begin_[order + 1] - order_begin_[order]);
  }

  // The row's number in its layer's table, which its CRC binds.
  [[nodiscard]] RowId row_id(uint32_t row) const {
    const RowTargets& t = targets_[row];
    const TableLayout::Column& column = layout_->column(t.layer_index, t.column);
    const uint64_t first = uint64_t{column.first_slot} << layout_->slot_shift();
    return RowId(column.row_offset + (addresses_[row].value() - first));
  }

  // Calls `use(token)` for every token that wants the n-gram, or the row.
  template <typename Use>
  void ForEachToken(uint32_t layer_index, uint32_t order, uint32_t first_token, Use use) const {
    const uint32_t* next = links(layer_index, order);
    for (uint32_t token = first_token; token != kNoToken; token = next[token]) use(token);
  }
  template <typename Use>
  void ForEachToken(uint32_t row, Use use) const {
    const RowTargets& t = targets_[row];
    ForEachToken(t.layer_index, t.order, t.first_token, use);
  }

 private:
  static constexpr uint32_t kNoToken = 0xffffffffu;

  [[nodiscard]] uint32_t* links(uint32_t layer_index, uint32_t order) const {
    return links_.get() + (size_t{layer_index} * order_count_ + order) * token_count_;
  }

  const NgramHasher* hasher_;
  const TableLayout* layout_;
  uint32_t order_count_;
  uint32_t tokens_max_;
  uint32_t rows_max_;
  uint32_t token_count_ = 0;
  uint32_t row_count_ = 0;
  std::vector<uint16_t> columns_;      // the part's, ascending: order by order
  std::vector<uint32_t> order_begin_;  // [orders + 1] in columns_
  // [layers][orders][token_count] the next token with the same n-gram.
  std::unique_ptr<uint32_t[]> links_;
  std::unique_ptr<RowAddress[]> addresses_;  // [rows_max]
  std::unique_ptr<RowTargets[]> targets_;    // [rows_max]
  std::vector<uint32_t> layer_begin_;        // [layers + 1]
};

}  // namespace engram

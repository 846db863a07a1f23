#include "engram/tokenizer/bpe_model.h"

#include <algorithm>
#include <bit>

namespace engram {
namespace {

uint64_t PairKey(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

size_t Slot(uint64_t pair, size_t mask) {
  return static_cast<size_t>((pair * 0x9E3779B97F4A7C15U) >> 40) & mask;
}

// A max-heap by default: the smallest order must compare greatest.
bool Later(const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
  return a.order > b.order;
}

}  // namespace

BpeModel::BpeModel(const TokenizerDefinition& definition,
                   const std::vector<std::string>& token_bytes)
    : byte_ids_(definition.byte_ids) {
  merges_.assign(std::bit_ceil(2 * definition.merges.size() + 1), Merge{kNoPair, 0, 0});
  for (size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const MergeRule& rule = definition.merges[rank];
    Insert({PairKey(rule.left, rule.right), static_cast<uint32_t>(rank), rule.merged});
  }
  if (!definition.ignore_merges) return;
  for (size_t id = 0; id < token_bytes.size(); ++id) {
    if (!token_bytes[id].empty()) whole_pieces_.emplace(token_bytes[id], static_cast<TokenId>(id));
  }
  for (const AddedToken& added : definition.added_tokens) {
    if (!added.in_model) whole_pieces_.erase(token_bytes[static_cast<size_t>(added.id)]);
  }
}

// A pair listed twice has its later rank.
void BpeModel::Insert(const Merge& merge) {
  const size_t mask = merges_.size() - 1;
  size_t slot = Slot(merge.pair, mask);
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != merge.pair)
    slot = (slot + 1) & mask;
  merges_[slot] = merge;
}

const BpeModel::Merge* BpeModel::Find(TokenId left, TokenId right) const {
  const uint64_t pair = PairKey(left, right);
  const size_t mask = merges_.size() - 1;
  for (size_t slot = Slot(pair, mask);; slot = (slot + 1) & mask) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kNoPair) return nullptr;
  }
}

// Queues the merge of the symbol at `position` with its next one, if there is such a merge.
void BpeModel::Offer(BpeScratch& scratch, int32_t position) const {
  const BpeScratch::Symbol& left = scratch.symbols[static_cast<size_t>(position)];
  if (left.next < 0) return;
  const Merge* merge = Find(left.id, scratch.symbols[static_cast<size_t>(left.next)].id);
  if (merge == nullptr) return;
  const uint64_t order = (uint64_t{merge->rank} << 32) | static_cast<uint32_t>(position);
  scratch.heap.push_back({order, merge->merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), Later);
}

void BpeModel::Encode(std::string_view piece, BpeScratch& scratch,
                      std::vector<TokenId>& ids) const {
  if (!whole_pieces_.empty()) {
    const auto found = whole_pieces_.find(std::string(piece));
    if (found != whole_pieces_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  const auto size = static_cast<int32_t>(piece.size());
  for (int32_t i = 0; i < size; ++i) {
    const auto byte = static_cast<uint8_t>(piece[static_cast<size_t>(i)]);
    symbols.push_back({byte_ids_[byte], i - 1, i + 1 < size ? i + 1 : -1, false});
  }
  for (int32_t i = 0; i + 1 < size; ++i) Offer(scratch, i);

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later);
    const BpeScratch::Candidate candidate = heap.back();
    heap.pop_back();
    const auto position = static_cast<int32_t>(candidate.order & 0xFFFFFFFFU);
    BpeScratch::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.merged_away || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    // The pair may have changed since it was queued.
    const Merge* merge = Find(left.id, right.id);
    if (merge == nullptr || merge->merged != candidate.merged) continue;
    left.id = merge->merged;
    left.next = right.next;
    right.merged_away = true;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = position;
    if (left.previous >= 0) Offer(scratch, left.previous);
    Offer(scratch, position);
  }
  for (int32_t i = 0; i >= 0 && i < size; i = symbols[static_cast<size_t>(i)].next) {
    ids.push_back(symbols[static_cast<size_t>(i)].id);
  }
}

}  // namespace engram

// First-in first-out lists of rows that are threaded through one array: moving a row between lists
// allocates nothing.
#pragma once

#include <cstdint>

namespace engram {

inline constexpr uint32_t kNoRow = 0xffffffffu;

// `next` is the shared array of links, indexed by row; a row is in one list at most.
class RowQueue {
 public:
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] uint32_t count() const { return count_; }
  [[nodiscard]] uint32_t front() const { return head_; }

  void PushBack(uint32_t row, uint32_t* next) {
    next[row] = kNoRow;
    if (count_++ == 0) {
      head_ = row;
    } else {
      next[tail_] = row;
    }
    tail_ = row;
  }
  void PushFront(uint32_t row, uint32_t* next) {
    next[row] = head_;
    head_ = row;
    if (count_++ == 0) {
      next[row] = kNoRow;
      tail_ = row;
    }
  }
  // Precondition: !empty().
  uint32_t PopFront(const uint32_t* next) {
    const uint32_t row = head_;
    head_ = next[row];
    --count_;
    return row;
  }
  // Takes out the rows in [first, end). Walks the list.
  void RemoveRange(uint32_t first, uint32_t end, uint32_t* next) {
    RowQueue kept;
    while (!empty()) {
      const uint32_t row = PopFront(next);
      if (row < first || row >= end) kept.PushBack(row, next);
    }
    *this = kept;
  }

 private:
  uint32_t head_ = kNoRow;
  uint32_t tail_ = kNoRow;
  uint32_t count_ = 0;
};

}  // namespace engram

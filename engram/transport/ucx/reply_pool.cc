#include "engram/transport/ucx/reply_pool.h"

#include <bit>

namespace engram {

std::byte* ReplyBuffer::Reserve(size_t bytes) {
  if (bytes > capacity_) {
    capacity_ = std::bit_ceil(bytes);
    body_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
  }
  return body_.get();
}

void ReplyBuffer::OnComplete(ucs_status_t status) { pool_->GiveBack(this, status); }

ReplyBuffer* ReplyPool::Take() {
  if (free_.empty()) {
    if (all_.size() >= buffers_max_) return nullptr;
    all_.push_back(std::make_unique<ReplyBuffer>());
    all_.back()->pool_ = this;
    free_.reserve(all_.size());
    return all_.back().get();
  }
  ReplyBuffer* const buffer = free_.back();
  free_.pop_back();
  return buffer;
}

void ReplyPool::GiveBack(ReplyBuffer* buffer, ucs_status_t status) {
  owner_->OnReplySent(*buffer, status);
  free_.push_back(buffer);
}

}  // namespace engram

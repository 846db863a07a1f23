// Buffers that replies are built in: bounded, reused, last in first out so that the warm one is
// taken first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engram/transport/gather_message.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram {

class ReplyPool;
struct ServedClient;

// One reply on its way.
class ReplyBuffer final : public UcxCompletion {
 public:
  GatherReplyHeader header;
  ServedClient* client = nullptr;  // whose share of the buffers it is from
  StatusCode statuses[kReadRowsMax] = {};

  // At least `bytes`; what was there before may be lost.
  [[nodiscard]] std::byte* Reserve(size_t bytes);
  [[nodiscard]] std::byte* body() const { return body_.get(); }
  // The send has ended: back to the pool.
  void OnComplete(ucs_status_t status) override;

 private:
  friend class ReplyPool;
  ReplyPool* pool_ = nullptr;
  std::unique_ptr<std::byte[]> body_;
  size_t capacity_ = 0;
};

class ReplyOwner {
 public:
  // A reply has left or was dropped; its buffer is free again after this.
  virtual void OnReplySent(const ReplyBuffer& buffer, ucs_status_t status) = 0;

 protected:
  ~ReplyOwner() = default;
};

// Thread-compatible.
class ReplyPool {
 public:
  ReplyPool(uint32_t buffers_max, ReplyOwner* owner) : buffers_max_(buffers_max), owner_(owner) {}
  // Null when all are on their way.
  [[nodiscard]] ReplyBuffer* Take();
  void GiveBack(ReplyBuffer* buffer, ucs_status_t status);
  // Can be taken now.
  [[nodiscard]] size_t free_count() const { return buffers_max_ - (all_.size() - free_.size()); }

 private:
  const uint32_t buffers_max_;
  ReplyOwner* const owner_;
  std::vector<std::unique_ptr<ReplyBuffer>> all_;
  std::vector<ReplyBuffer*> free_;
};

}  // namespace engram

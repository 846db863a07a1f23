#include "engram/transport/ucx/one_sided_check.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_memory.h"
#include "engram/transport/ucx/ucx_remote_key.h"
#include "engram/transport/ucx/ucx_status.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram {
namespace {

constexpr uint32_t kReads = 64;
constexpr uint32_t kReadBytes = 268;
constexpr uint32_t kReadSpacing = 997;
constexpr size_t kTargetBytes = size_t{kReads} * kReadBytes;
constexpr size_t kCheckBytes = size_t{64} << 10;
constexpr std::chrono::seconds kWireUpMax{3};
constexpr std::chrono::milliseconds kReadsMax{500};

class CountedGets final : public UcxCompletion {
 public:
  void OnComplete(ucs_status_t status) override {
    --pending_;
    if (status != UCS_OK) failed_ = status;
  }
  void Count(UcxStarted started) {
    if (started == UcxStarted::kPending) ++pending_;
    if (started == UcxStarted::kFailed) failed_ = UCS_ERR_IO_ERROR;
  }
  [[nodiscard]] bool done() const { return pending_ == 0; }
  [[nodiscard]] ucs_status_t failed() const { return failed_; }

 private:
  uint32_t pending_ = 0;
  ucs_status_t failed_ = UCS_OK;
};

// Where the bytes go.
class Target {
 public:
  [[nodiscard]] static Result<Target> Create(const UcxContext& context, LandingMemory* landing) {
    Target target;
    if (landing == nullptr) {
      target.host_.resize(kTargetBytes);
      target.begin_ = target.host_.data();
      return target;
    }
    target.landing_ = landing;
    ENGRAM_ASSIGN_OR_RETURN(target.landed_, landing->Allocate(kTargetBytes));
    target.begin_ = target.landed_.get();
    ENGRAM_ASSIGN_OR_RETURN(target.memory_,
                            UcxMemory::Register(context, {target.begin_, kTargetBytes}));
    return target;
  }
  [[nodiscard]] std::byte* place(uint32_t read) const { return begin_ + size_t{read} * kReadBytes; }
  [[nodiscard]] Status CopyTo(std::span<std::byte> out) const {
    if (landing_ != nullptr) return landing_->CopyToHost(begin_, out);
    std::copy(host_.begin(), host_.end(), out.begin());
    return {};
  }

 private:
  std::vector<std::byte> host_;
  LandingMemory* landing_ = nullptr;
  LandingMemory::Block landed_;
  std::unique_ptr<UcxMemory> memory_;  // of landed_
  std::byte* begin_ = nullptr;
};

// Drives until the gets are done; the node only while `node` is not null.
Status Await(const CountedGets& gets, UcxWorker& reader, UcxWorker* node, Duration patience) {
  const MonotonicTime end = std::chrono::steady_clock::now() + patience;
  while (!gets.done()) {
    if (std::chrono::steady_clock::now() > end) {
      return {StatusCode::kUnavailable,
              node != nullptr ? "one-sided reads did not connect"
                              : "one-sided reads need the node's CPU here (emulated by UCX)"};
    }
    reader.Progress();
    if (node != nullptr) node->Progress();
  }
  return gets.failed() == UCS_OK ? Status() : UcxStatus(gets.failed(), "a one-sided read");
}

}  // namespace

Status CheckOneSidedReads(const UcxContext& node_context, const UcxContext& reader_context,
                          LandingMemory* landing) {
  auto memory = UcxMemory::Allocate(node_context, kCheckBytes);
  if (!memory.has_value()) return memory.error();
  const std::span<std::byte> bytes = (*memory)->bytes();
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 131 >> 3);
  auto target = Target::Create(reader_context, landing);
  if (!target.has_value()) return target.error();
  auto node = UcxWorker::Create(node_context);
  if (!node.has_value()) return node.error();
  CountedGets gets;
  auto reader = UcxWorker::Create(reader_context);
  if (!reader.has_value()) return reader.error();
  auto address = (*node)->Address();
  if (!address.has_value()) return address.error();
  auto endpoint = UcxEndpoint::Create(**reader, *address);
  if (!endpoint.has_value()) return endpoint.error();
  auto packed = (*memory)->PackKey();
  if (!packed.has_value()) return packed.error();
  auto key = UcxRemoteKey::Unpack(**endpoint, *packed);
  if (!key.has_value()) return key.error();

  const auto base = reinterpret_cast<uint64_t>(bytes.data());
  // The first read carries the connecting, in which the node takes part.
  gets.Count((*endpoint)->Get(**key, base, target->place(0), kReadBytes, &gets));
  Status status = Await(gets, **reader, node->get(), kWireUpMax);
  if (status.ok()) {
    for (uint32_t i = 0; i < kReads; ++i) {
      gets.Count((*endpoint)->Get(**key, base + uint64_t{i} * kReadSpacing, target->place(i),
                                  kReadBytes, &gets));
    }
    status = Await(gets, **reader, nullptr, kReadsMax);
  }
  std::vector<std::byte> read(kTargetBytes);
  if (status.ok()) status = target->CopyTo(read);
  for (uint32_t i = 0; status.ok() && i < kReads; ++i) {
    if (std::memcmp(&read[size_t{i} * kReadBytes], &bytes[size_t{i} * kReadSpacing], kReadBytes) !=
        0) {
      status = Status(StatusCode::kUnavailable, "a one-sided read gave other bytes than are there");
    }
  }
  key->reset();
  endpoint->reset();
  (*reader)->FinishClosing();
  return status;
}

}  // namespace engram

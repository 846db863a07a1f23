#include "engram/transport/ucx/one_sided_check.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_remote_key.h"
#include "engram/transport/ucx/ucx_status.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram {
namespace {

constexpr uint32_t kReads = 64;
constexpr uint32_t kReadBytes = 268;
constexpr uint32_t kReadSpacing = 997;
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

Status CheckOneSidedReads(const UcxContext& node_context, const UcxMemory& memory,
                          const std::string& tls) {
  auto context = UcxContext::Create({.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                                     .tls = tls,
                                     .name = "engram-one-sided-check"});
  if (!context.has_value()) return context.error();
  auto node = UcxWorker::Create(node_context);
  if (!node.has_value()) return node.error();
  CountedGets gets;
  std::vector<std::byte> target(size_t{kReads} * kReadBytes);
  auto reader = UcxWorker::Create(**context);
  if (!reader.has_value()) return reader.error();
  auto address = (*node)->Address();
  if (!address.has_value()) return address.error();
  auto endpoint = UcxEndpoint::Create(**reader, *address);
  if (!endpoint.has_value()) return endpoint.error();
  auto packed = memory.PackKey();
  if (!packed.has_value()) return packed.error();
  auto key = UcxRemoteKey::Unpack(**endpoint, *packed);
  if (!key.has_value()) return key.error();

  const auto base = reinterpret_cast<uint64_t>(memory.bytes().data());
  // The first read carries the connecting, in which the node takes part.
  gets.Count((*endpoint)->Get(**key, base, target.data(), kReadBytes, &gets));
  Status status = Await(gets, **reader, node->get(), kWireUpMax);
  if (status.ok()) {
    for (uint32_t i = 0; i < kReads; ++i) {
      gets.Count((*endpoint)->Get(**key, base + uint64_t{i} * kReadSpacing,
                                  target.data() + size_t{i} * kReadBytes, kReadBytes, &gets));
    }
    status = Await(gets, **reader, nullptr, kReadsMax);
  }
  for (uint32_t i = 0; status.ok() && i < kReads; ++i) {
    if (std::memcmp(target.data() + size_t{i} * kReadBytes,
                    memory.bytes().data() + size_t{i} * kReadSpacing, kReadBytes) != 0) {
      status = Status(StatusCode::kUnavailable, "a one-sided read gave other bytes than are there");
    }
  }
  key->reset();
  endpoint->reset();
  (*reader)->FinishClosing();
  return status;
}

}  // namespace engram

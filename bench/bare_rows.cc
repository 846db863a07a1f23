#include "bench/bare_rows.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include <sys/mman.h>

#include "engram/base/clock.h"
#include "engram/transport/row_copy.h"
#include "engram/transport/ucx/event_wait.h"
#include "engram/transport/ucx/ucx_context.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram::bench {
namespace {

enum MessageId : uint32_t { kHello = 1, kRequest = 2, kReply = 3 };

struct RequestHeader {
  uint32_t first = 0;  // row of the batch
  uint32_t count = 0;
  uint32_t batch = 0;
  uint32_t eager = 0;
};

Result<std::unique_ptr<UcxContext>> CreateContext(const std::string& tls) {
  return UcxContext::Create(
      {.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, .tls = tls, .name = "engram-bare"});
}

class BareServerImpl final : public BareServer, private UcxMessageHandler {
 public:
  BareServerImpl(std::span<const std::byte> memory, uint32_t row_bytes)
      : memory_(memory), row_bytes_(row_bytes) {}
  ~BareServerImpl() override {
    stop_ = true;
    if (wait_ != nullptr) wait_->Notify();
    if (thread_.joinable()) thread_.join();
  }

  Status Start(const std::string& tls) {
    auto context = CreateContext(tls);
    if (!context.has_value()) return context.error();
    context_ = *std::move(context);
    std::promise<Status> prepared;
    std::future<Status> outcome = prepared.get_future();
    // The worker is made, driven and destroyed by its thread.
    thread_ = std::thread([this, &prepared] {
      Status status = Prepare();
      const bool ok = status.ok();
      prepared.set_value(std::move(status));
      if (ok) Loop();
      readers_.clear();
      worker_.reset();
    });
    return outcome.get();
  }
  [[nodiscard]] const std::string& worker_address() const override { return address_; }

 private:
  struct Reply final : UcxCompletion {
    BareServerImpl* server = nullptr;
    RequestHeader header;
    std::vector<std::byte> rows;
    void OnComplete(ucs_status_t /*status*/) override { server->free_.push_back(this); }
  };

  Status Prepare() {
    auto worker = UcxWorker::Create(*context_);
    if (!worker.has_value()) return worker.error();
    worker_ = *std::move(worker);
    auto wait = EventWait::Create();
    if (!wait.has_value()) return wait.error();
    wait_ = *std::move(wait);
    ENGRAM_RETURN_IF_ERROR(wait_->Watch(worker_->event_fd()));
    auto address = worker_->Address();
    if (!address.has_value()) return address.error();
    address_ = *std::move(address);
    return worker_->Handle(this);
  }

  void Loop() {
    // Spins through any batch, and leaves the core to others soon after the last.
    constexpr std::chrono::milliseconds kSpin{2};
    MonotonicTime last_work = std::chrono::steady_clock::now();
    while (!stop_) {
      if (worker_->Progress()) {
        last_work = std::chrono::steady_clock::now();
        continue;
      }
      const MonotonicTime now = std::chrono::steady_clock::now();
      if (now - last_work < kSpin || !worker_->Arm()) continue;
      wait_->Sleep(now + std::chrono::seconds(1));
      last_work = std::chrono::steady_clock::now();
    }
  }

  bool OnMessage(uint32_t id, const UcxMessage& message) override {
    const auto* const body = static_cast<const char*>(message.data);
    if (id == kHello) {
      auto endpoint = UcxEndpoint::Create(*worker_, std::string(body, message.body_bytes));
      if (endpoint.has_value()) readers_.push_back(*std::move(endpoint));
      return false;
    }
    if (readers_.empty() || message.rendezvous) return false;
    if (free_.empty()) {
      replies_.push_back(std::make_unique<Reply>());
      replies_.back()->server = this;
      free_.push_back(replies_.back().get());
    }
    Reply* const reply = free_.back();
    free_.pop_back();
    std::memcpy(&reply->header, message.header.data(), sizeof(reply->header));
    const size_t bytes = size_t{reply->header.count} * row_bytes_;
    if (reply->rows.size() < bytes) reply->rows.resize(bytes);
    // UCX leaves a body where it came, which need not be aligned.
    wanted_.resize(reply->header.count);
    std::memcpy(wanted_.data(), body, wanted_.size() * sizeof(uint64_t));
    CopyBare(memory_.data(), wanted_, row_bytes_, reply->rows.data());
    const UcxStarted started =
        readers_.back()->Send(kReply, std::as_bytes(std::span(&reply->header, 1)),
                              std::span(reply->rows).first(bytes), reply->header.eager != 0, reply);
    if (started != UcxStarted::kPending) free_.push_back(reply);
    return false;
  }

  const std::span<const std::byte> memory_;
  const uint32_t row_bytes_;
  std::unique_ptr<UcxContext> context_;
  std::string address_;
  std::atomic<bool> stop_{false};
  std::unique_ptr<EventWait> wait_;
  // The thread's own.
  std::vector<uint64_t> wanted_;  // of the request at hand
  std::unique_ptr<UcxWorker> worker_;
  std::vector<std::unique_ptr<UcxEndpoint>> readers_;  // the last one is answered
  std::vector<std::unique_ptr<Reply>> replies_;
  std::vector<Reply*> free_;
  std::thread thread_;
};

class BareGatherImpl final : public BareGather, private UcxMessageHandler {
 public:
  explicit BareGatherImpl(uint32_t row_bytes) : row_bytes_(row_bytes) {}
  ~BareGatherImpl() override {
    endpoint_.reset();
    worker_.reset();
  }

  Status Connect(const std::string& tls, const std::string& worker_address) {
    auto context = CreateContext(tls);
    if (!context.has_value()) return context.error();
    context_ = *std::move(context);
    auto worker = UcxWorker::Create(*context_);
    if (!worker.has_value()) return worker.error();
    worker_ = *std::move(worker);
    ENGRAM_RETURN_IF_ERROR(worker_->Handle(this));
    auto endpoint = UcxEndpoint::Create(*worker_, worker_address);
    if (!endpoint.has_value()) return endpoint.error();
    endpoint_ = *std::move(endpoint);
    auto own = worker_->Address();
    if (!own.has_value()) return own.error();
    own_address_ = *std::move(own);
    return Send(kHello, {}, std::as_bytes(std::span(own_address_)));
  }

  Status Read(RowOffsets rows, const BareMessages& messages) override {
    ++batch_;
    const size_t message_count = (rows.size() + messages.rows_max - 1) / messages.rows_max;
    if (requests_.size() < message_count) {
      requests_.resize(message_count);
      parts_.resize(message_count);
    }
    part_rows_ = messages.rows_max;
    parts_left_ = message_count;
    for (size_t i = 0; i < message_count; ++i) {
      const auto first = static_cast<uint32_t>(i * messages.rows_max);
      const RowOffsets part =
          rows.subspan(first, std::min<size_t>(messages.rows_max, rows.size() - first));
      requests_[i] = {first, static_cast<uint32_t>(part.size()), batch_, messages.eager ? 1u : 0u};
      ENGRAM_RETURN_IF_ERROR(
          Send(kRequest, std::as_bytes(std::span(&requests_[i], 1)), std::as_bytes(part)));
    }
    const MonotonicTime give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (parts_left_ > 0 || sends_pending_ > 0) {
      if (worker_->Progress()) continue;
      if (endpoint_->failure() != UCS_OK) {
        return {StatusCode::kUnavailable, "the bare server is gone"};
      }
      if (std::chrono::steady_clock::now() > give_up) {
        return {StatusCode::kDeadlineExceeded, "the bare server did not answer in 10 s"};
      }
    }
    return {};
  }

  void SeeRows(See see, void* state) override {
    see_ = see;
    see_state_ = state;
  }

 private:
  struct Sent final : UcxCompletion {
    BareGatherImpl* gather = nullptr;
    void OnComplete(ucs_status_t /*status*/) override { --gather->sends_pending_; }
  };
  // One message's rows, where UCX does not give them in a buffer of its own.
  struct Part final : UcxCompletion {
    BareGatherImpl* gather = nullptr;
    RequestHeader header;
    std::vector<std::byte> rows;
    void OnComplete(ucs_status_t status) override {
      if (status == UCS_OK) gather->OnRows(header, rows.data());
    }
  };

  Status Send(uint32_t id, std::span<const std::byte> header, std::span<const std::byte> body) {
    sent_.gather = this;
    const UcxStarted started = endpoint_->Send(id, header, body, /*eager=*/true, &sent_);
    if (started == UcxStarted::kPending) ++sends_pending_;
    if (started != UcxStarted::kFailed) return {};
    return {StatusCode::kUnavailable, "the bare server takes no messages"};
  }

  bool OnMessage(uint32_t /*id*/, const UcxMessage& message) override {
    RequestHeader header;
    std::memcpy(&header, message.header.data(), sizeof(header));
    if (header.batch != batch_) return false;
    if (!message.rendezvous) {
      OnRows(header, static_cast<const std::byte*>(message.data));
      return false;
    }
    auto& part = parts_[header.first / part_rows_];
    if (part == nullptr) part = std::make_unique<Part>();
    part->gather = this;
    part->header = header;
    if (part->rows.size() < message.body_bytes) part->rows.resize(message.body_bytes);
    if (worker_->Receive(message, part->rows.data(), part.get()) == UcxStarted::kDone) {
      OnRows(header, part->rows.data());
    }
    return true;
  }

  void OnRows(const RequestHeader& header, const std::byte* rows) {
    --parts_left_;
    if (see_ == nullptr) return;
    for (uint32_t i = 0; i < header.count; ++i) {
      see_(see_state_, header.first + i, rows + size_t{i} * row_bytes_);
    }
  }

  const uint32_t row_bytes_;
  std::unique_ptr<UcxContext> context_;
  std::unique_ptr<UcxWorker> worker_;
  std::unique_ptr<UcxEndpoint> endpoint_;
  std::string own_address_;
  Sent sent_;
  size_t sends_pending_ = 0;
  uint32_t batch_ = 0;
  uint32_t part_rows_ = 1;
  size_t parts_left_ = 0;
  std::vector<RequestHeader> requests_;  // [messages] of the batch in flight
  std::vector<std::unique_ptr<Part>> parts_;
  See see_ = nullptr;
  void* see_state_ = nullptr;
};

}  // namespace

void CopyBare(const std::byte* memory, RowOffsets rows, uint32_t row_bytes, std::byte* out) {
  const auto ask = [&](size_t i) {
    const std::byte* const row = memory + rows[i];
    for (uint32_t line = 0; line < row_bytes; line += 64) __builtin_prefetch(row + line);
  };
  for (size_t i = 0; i < std::min<size_t>(kCopyAheadRows, rows.size()); ++i) ask(i);
  for (size_t i = 0; i < rows.size(); ++i, out += row_bytes) {
    std::memcpy(out, memory + rows[i], row_bytes);
    if (i + kCopyAheadRows < rows.size()) ask(i + kCopyAheadRows);
  }
}

Result<SharedMemory> SharedMemory::Create(uint64_t bytes, bool huge_pages) {
  constexpr uint64_t kHugePage = 2u << 20;
  const uint64_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = MAP_FAILED;
  if (huge_pages) {
    memory = ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  }
  if (memory == MAP_FAILED) {
    memory = ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  }
  if (memory == MAP_FAILED) {
    return Error(StatusCode::kResourceExhausted,
                 "no " + std::to_string(rounded) + " bytes of shared memory: " +
                     std::strerror(errno) + "; ask for smaller tables with --bytes");
  }
  return SharedMemory({static_cast<std::byte*>(memory), rounded});
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})) {}

SharedMemory::~SharedMemory() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

void SharedMemory::Populate() const {
#ifdef MADV_POPULATE_READ
  if (::madvise(bytes_.data(), bytes_.size(), MADV_POPULATE_READ) == 0) return;
#endif
  [[maybe_unused]] volatile std::byte sink{};
  for (size_t at = 0; at < bytes_.size(); at += 4096) {
    sink = bytes_[at];
  }
}

Result<std::unique_ptr<BareServer>> BareServer::Start(const std::string& tls,
                                                      std::span<const std::byte> memory,
                                                      uint32_t row_bytes) {
  auto server = std::make_unique<BareServerImpl>(memory, row_bytes);
  if (Status status = server->Start(tls); !status.ok()) return Error(std::move(status));
  return server;
}

Result<std::unique_ptr<BareGather>> BareGather::Create(const std::string& tls,
                                                       const std::string& worker_address,
                                                       uint32_t row_bytes) {
  auto gather = std::make_unique<BareGatherImpl>(row_bytes);
  if (Status status = gather->Connect(tls, worker_address); !status.ok()) {
    return Error(std::move(status));
  }
  return gather;
}

std::vector<BareMessages> BareMessageChoices(uint32_t batch_rows) {
  std::vector<BareMessages> choices;
  for (const uint32_t rows : {512u, 1024u, 4096u}) {
    for (const bool eager : {true, false}) choices.push_back({rows, eager});
    if (rows >= batch_rows) break;  // one message either way
  }
  return choices;
}

}  // namespace engram::bench

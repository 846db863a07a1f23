// Nothing is allocated per batch after warm-up, on any thread: operator new counts in this program.
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#include <gtest/gtest.h>

#include "tests/unit/client/loopback_cluster.h"

namespace {
std::atomic<uint64_t> allocations{0};

void* Allocate(size_t size, size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = alignment > alignof(std::max_align_t)
                     ? std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment)
                     : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

void* operator new(size_t size) { return Allocate(size, 0); }
void* operator new[](size_t size) { return Allocate(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
// Not inlined: GCC would see free() of what new gave, and take it for a mistake.
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace engram {
namespace {

// Every row of the table, sealed, by address.
struct StoredTable {
  explicit StoredTable(const TableLayout& table_layout) : layout(table_layout) {
    rows.resize(size_t{layout.slot_count()} << layout.slot_shift());
    for (uint32_t s = 0; s < layout.slot_count(); ++s) {
      for (uint32_t r = 0; r < layout.slot(SlotIndex(s)).row_count; ++r) {
        const uint64_t address = (uint64_t{s} << layout.slot_shift()) + r;
        rows[address] = test::StoredRow(layout, test::kTestVersion, RowAddress(address));
      }
    }
  }
  const TableLayout& layout;
  std::vector<std::vector<std::byte>> rows;
};

// Answers every read with right rows from memory, and allocates nothing after its construction.
class MemoryReader final : public RowReader {
 public:
  MemoryReader(const StoredTable* table, ReaderEvents* events)
      : table_(table), events_(events), buffer_(kReadRowsMax * table->layout.row_stride()) {
    for (Read& read : reads_) read.rows.reserve(kReadRowsMax);
  }

  SessionId Open(const NodeTarget& /*target*/) override {
    to_open_[to_open_count_++] = ++last_session_;
    return SessionId(last_session_);
  }
  void Close(SessionId /*session*/) override { std::abort(); }
  StatusCode Post(SessionId /*session*/, uint64_t tag, std::span<const RowAddress> rows,
                  MonotonicTime /*wanted_by*/) override {
    for (Read& read : reads_) {
      if (!read.rows.empty()) continue;
      read.tag = tag;
      read.rows.assign(rows.begin(), rows.end());
      return StatusCode::kOk;
    }
    return StatusCode::kResourceExhausted;
  }
  void AcknowledgeEpoch(SessionId /*session*/, Epoch /*epoch*/) override {}
  bool Progress() override {
    bool worked = false;
    while (to_open_count_ != 0) {
      events_->OnOpen(SessionId(to_open_[--to_open_count_]), opened_);
      worked = true;
    }
    const size_t stride = table_->layout.row_stride();
    for (Read& read : reads_) {
      if (read.rows.empty()) continue;
      for (size_t i = 0; i < read.rows.size(); ++i) {
        const auto& row = table_->rows[read.rows[i].value()];
        std::copy(row.begin(), row.end(),
                  buffer_.begin() + static_cast<std::ptrdiff_t>(i * stride));
      }
      RowChunk chunk;
      chunk.count = static_cast<uint32_t>(read.rows.size());
      chunk.rows = buffer_.data();
      events_->OnRows(read.tag, chunk);
      read.rows.clear();
      events_->OnReadDone(read.tag, StatusCode::kOk);
      worked = true;
    }
    return worked;
  }
  void Wait(MonotonicTime until, std::unique_lock<std::mutex>* driving) override {
    driving->unlock();
    std::unique_lock lock(mutex_);
    const auto limit = SteadyClock().Now() + std::chrono::seconds(1);
    wakened_.wait_until(lock, std::min(until, limit),
                        [this] { return wake_ || to_open_count_ != 0; });
    wake_ = false;
    lock.unlock();
    driving->lock();
  }
  void Borrow() override {}
  [[nodiscard]] bool GiveBack(MonotonicTime /*until*/) override { return to_open_count_ == 0; }
  void Wake() override {
    const std::lock_guard lock(mutex_);
    wake_ = true;
    wakened_.notify_all();
  }

 private:
  struct Read {
    uint64_t tag = 0;
    std::vector<RowAddress> rows;
  };
  const StoredTable* table_;
  ReaderEvents* events_;
  std::vector<std::byte> buffer_;
  std::array<Read, 64> reads_;
  const SessionInfo opened_;
  uint64_t last_session_ = 0;
  std::array<uint64_t, 8> to_open_{};
  std::atomic<size_t> to_open_count_{0};
  std::mutex mutex_;
  std::condition_variable wakened_;
  bool wake_ = false;
};

class MemoryTransport final : public Transport {
 public:
  explicit MemoryTransport(const StoredTable* table) : table_(table) {}
  Result<std::unique_ptr<RowReader>> CreateReader(ReaderEvents* events) override {
    return std::make_unique<MemoryReader>(table_, events);
  }

 private:
  const StoredTable* table_;
};

// Prefetch, Await and Release of many batches; returns how often operator new was called.
uint64_t AllocationsOf(RowSource& source, std::span<const std::vector<TokenId>> batches) {
  const uint64_t before = allocations.load();
  for (const std::vector<TokenId>& tokens : batches) {
    const TokenRun runs[] = {{.tokens = std::span(tokens).first(tokens.size() / 2)},
                             {.tokens = std::span(tokens).subspan(tokens.size() / 2)}};
    const auto ticket = source.Prefetch(runs, {.deadline = std::chrono::seconds(60)});
    if (!ticket.has_value()) std::abort();
    for (int32_t layer = 0; layer < 2; ++layer) {
      if (!source.Await(*ticket, layer).has_value()) std::abort();
    }
    source.Release(*ticket);
  }
  return allocations.load() - before;
}

TEST(AllocationTest, NothingIsAllocatedPerBatchAfterWarmUp) {
  const auto layout = test::SmallLayout();
  const auto hasher = test::SmallHasher(*layout);
  const StoredTable table(*layout);
  constexpr std::pair<uint32_t, uint32_t> kThreadsAndReplicas[] = {{1, 1}, {2, 1}, {1, 2}, {2, 3}};
  for (const auto& [threads, replicas] : kThreadsAndReplicas) {
    ShardMap map;
    map.version = test::kTestVersion;
    map.epoch = Epoch(1);
    map.replica_count = replicas;
    for (uint32_t n = 0; n < replicas; ++n) {
      map.nodes.push_back({"m" + std::to_string(n), "z", "h:1", Incarnation(n + 1)});
    }
    for (uint32_t i = 0; i < layout->slot_count() * replicas; ++i) {
      map.owners.emplace_back(i % replicas);
    }
    RemoteRowsOptions options;
    options.version = test::kTestVersion;
    options.identity = test::SmallIdentity();
    options.batch_tokens_max = 256;
    options.read_rows_max = 200;
    options.cache_bytes = 200'000;
    options.io_threads = threads;
    const auto source = *CreateRemoteRows(options, std::make_shared<MemoryTransport>(&table),
                                          hasher, layout, std::make_shared<FixedShardMap>(map));
    std::vector<std::vector<TokenId>> batches;
    for (uint64_t i = 0; i < 50; ++i) batches.push_back(test::SomeTokens(1 + i * 5, i));
    EXPECT_GT(AllocationsOf(*source, batches), 0u) << "the counter does not count";
    // On a busy machine the first hedge, and with it the most reads in flight so far, may come
    // after the first pass: they must cease.
    uint64_t allocated = AllocationsOf(*source, batches);
    for (int pass = 0; pass < 10 && allocated != 0; ++pass) {
      allocated = AllocationsOf(*source, batches);
    }
    EXPECT_EQ(allocated, 0u) << threads << " threads, " << replicas;
    EXPECT_GT(source->Stats().rows_verified, 0u);
  }
}

}  // namespace
}  // namespace engram

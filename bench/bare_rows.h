// The floor under every way to read rows: the same rows, moved with nothing added. No check, no
// dedupe, no scatter, no sharding, no sessions; every thread spins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/base/status.h"

namespace engram::bench {

// Where rows lie in the memory that is read: bytes from its start.
using RowOffsets = std::span<const uint64_t>;

// Copies `rows` of `row_bytes` each to `out` [rows][row_bytes], their memory asked for ahead: a
// gather by one thread, and all that a server's gather or a reader of mapped memory does.
void CopyBare(const std::byte* memory, RowOffsets rows, uint32_t row_bytes, std::byte* out);

// Memory that a child made by fork shares with its parent: huge pages where they can be had.
// Unmapped with it.
class SharedMemory {
 public:
  // ERRORS: kResourceExhausted.
  [[nodiscard]] static Result<SharedMemory> Create(uint64_t bytes, bool huge_pages);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();
  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  // Enters every page into this process's page table.
  void Populate() const;

 private:
  explicit SharedMemory(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

// Answers BareGather from `memory`, which outlives it, on a thread of its own that spins while it
// is asked and sleeps soon after.
class BareServer {
 public:
  // `tls`: as UcxContext::Options. ERRORS: those of UCX.
  [[nodiscard]] static Result<std::unique_ptr<BareServer>> Start(const std::string& tls,
                                                                 std::span<const std::byte> memory,
                                                                 uint32_t row_bytes);
  virtual ~BareServer() = default;
  // What a BareGather is created from.
  [[nodiscard]] virtual const std::string& worker_address() const = 0;
};

// How rows are asked for in messages.
struct BareMessages {
  uint32_t rows_max = 4096;  // of one message; a batch's messages are all in flight at once
  bool eager = true;         // else UCX chooses between eager and its rendezvous
};

// Reads rows from a BareServer by active messages. One thread, which spins.
class BareGather {
 public:
  static constexpr uint32_t kBatchRowsMax = 1u << 20;

  [[nodiscard]] static Result<std::unique_ptr<BareGather>> Create(const std::string& tls,
                                                                  const std::string& worker_address,
                                                                  uint32_t row_bytes);
  virtual ~BareGather() = default;
  // Returns when every row is here. ERRORS: kUnavailable (the server is gone), kDeadlineExceeded.
  [[nodiscard]] virtual Status Read(RowOffsets rows, const BareMessages& messages) = 0;
  // Calls see(index, row bytes) for every row while it is here: to check contents, untimed.
  using See = void (*)(void* state, uint32_t index, const std::byte* row);
  virtual void SeeRows(See see, void* state) = 0;
};

// The settings worth a try, of which a floor takes the fastest.
[[nodiscard]] std::vector<BareMessages> BareMessageChoices(uint32_t batch_rows);

}  // namespace engram::bench

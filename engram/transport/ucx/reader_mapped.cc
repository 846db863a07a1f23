// Mapped: rows are copied from the node's memory into a small buffer that stays in cache, and used
// only if the lease is valid after the copy. Whatever is not sure is gathered instead.
#include <algorithm>
#include <cstring>

#include "engram/transport/row_copy.h"
#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {
// Rows copied in one Progress: a long queue must not keep the caller from its other work.
constexpr uint32_t kRowsPerProgress = 2048;
}  // namespace

bool UcxRowReader::RunMapped() {
  uint32_t rows_left = kRowsPerProgress;
  while (!mapped_queue_.empty() && rows_left > 0) {
    PendingRead& read = *mapped_queue_.front();
    if (read.session != nullptr && !read.session->end_with.has_value() &&
        !RunMappedRead(read, &rows_left)) {
      break;  // more of it next time
    }
    mapped_queue_.pop_front();
    DropHold(read);
  }
  return true;
}

// True when the queue is done with the read.
bool UcxRowReader::RunMappedRead(PendingRead& read, uint32_t* rows_left) {
  const ReaderSession& session = *read.session;
  const uint32_t stride = session.target.row_stride;
  const auto row_count = static_cast<uint32_t>(read.rows.size());
  const uint32_t end = read.next + std::min(row_count - read.next, *rows_left);
  const auto may_use = [&] {
    return session.memory.can_map() && session.lease.ValidAt(std::chrono::steady_clock::now());
  };
  const auto gather = [&] {
    [[maybe_unused]] const bool sent = SendGather(read, read.next);  // else the session ends
    return true;
  };
  if (!may_use()) return gather();
  const auto find = [&](RowAddress row) { return session.memory.FindMapped(row); };
  const auto load = [&, first = read.next](uint32_t i) { return read.rows[first + i]; };
  // A chunk is taken before more is asked for.
  RowsAhead<kBounceRows, decltype(find), decltype(load)> ahead(find, load, end - read.next, stride);
  while (read.next < end) {
    const uint32_t count = std::min(kBounceRows, end - read.next);
    bool found = true;
    for (uint32_t i = 0; i < count; ++i) {
      const FoundRow row = ahead.Take();
      found = found && row.status == StatusCode::kOk;
      if (found) std::memcpy(bounce_.data() + size_t{i} * stride, row.bytes, stride);
    }
    if (!found || !may_use()) return gather();
    ahead.Ask(count);
    RowChunk chunk;
    chunk.first = read.next;
    chunk.count = count;
    chunk.rows = bounce_.data();
    read.next += count;
    *rows_left -= count;
    Deliver(read, chunk);
    if (session.end_with.has_value()) return true;  // closed by the caller meanwhile
  }
  if (end < row_count) return false;
  FinishRead(read, StatusCode::kOk);
  return true;
}

}  // namespace engram

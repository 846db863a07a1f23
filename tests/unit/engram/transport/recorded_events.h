// Reader events, written down, and a loop that drives a reader until something has happened.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "engram/transport/row_reader.h"

namespace engram::test {

struct RecordedRead {
  std::vector<std::vector<std::byte>> rows;  // [posted]; empty = did not come
  std::vector<StatusCode> statuses;
  std::optional<StatusCode> done;
  uint32_t delivered = 0;
  uint32_t delivered_twice = 0;
};

class RecordedEvents final : public ReaderEvents {
 public:
  explicit RecordedEvents(uint32_t row_stride) : row_stride_(row_stride) {}

  std::map<SessionId, SessionInfo> opened;
  std::map<SessionId, Status> closed;
  std::map<uint64_t, RecordedRead> reads;
  std::map<SessionId, Epoch> epochs;
  std::map<SessionId, Duration> busy;
  uint32_t events_after_closed = 0;
  uint64_t rows_landed = 0;

  void Expect(uint64_t tag, size_t rows) {
    RecordedRead& read = reads[tag];
    read = {};
    read.rows.resize(rows);
    read.statuses.resize(rows, StatusCode::kInternal);
  }

  void OnOpen(SessionId session, const SessionInfo& info) override { opened[session] = info; }
  void OnClosed(SessionId session, const Status& why) override {
    if (closed.contains(session)) ++events_after_closed;
    closed[session] = why;
  }
  void OnRows(uint64_t tag, const RowChunk& chunk) override {
    RecordedRead& read = reads.at(tag);
    if (chunk.landed) rows_landed += chunk.count;
    EXPECT_FALSE(read.done.has_value());
    ASSERT_LE(chunk.first + chunk.count, read.rows.size());
    for (uint32_t i = 0; i < chunk.count; ++i) {
      const StatusCode status = chunk.statuses == nullptr ? StatusCode::kOk : chunk.statuses[i];
      const uint32_t place = chunk.first + i;
      if (read.statuses[place] != StatusCode::kInternal) ++read.delivered_twice;
      read.statuses[place] = status;
      ++read.delivered;
      if (status != StatusCode::kOk) continue;
      const std::byte* const row = chunk.rows + size_t{i} * row_stride_;
      read.rows[place].assign(row, row + row_stride_);
    }
  }
  void OnReadDone(uint64_t tag, StatusCode status) override {
    EXPECT_FALSE(reads.at(tag).done.has_value());
    reads.at(tag).done = status;
  }
  void OnEpoch(SessionId session, Epoch newest) override { epochs[session] = newest; }
  void OnBusy(SessionId session, Duration retry_after) override { busy[session] = retry_after; }

 private:
  const uint32_t row_stride_;
};

// Drives `reader` until `done()`; false after `patience`.
template <typename Done>
bool DriveUntil(RowReader& reader, Done done,
                std::chrono::milliseconds patience = std::chrono::seconds(20)) {
  const MonotonicTime end = std::chrono::steady_clock::now() + patience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    if (!reader.Progress()) {
      reader.Wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(20), nullptr);
    }
  }
  return true;
}

}  // namespace engram::test

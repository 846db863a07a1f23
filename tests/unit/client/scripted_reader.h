// A RowReader without a network: the test decides what happens to every session and read.
#pragma once

#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "client/read_scheduler.h"
#include "engram/transport/row_reader.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram::test {

struct ScriptedReader final : RowReader {
  struct PostedRead {
    SessionId session;
    std::vector<RowAddress> rows;
    Epoch map_epoch;
  };
  struct ScriptedSession {
    NodeTarget target;
    bool open = false;
    bool closing = false;
    Epoch acknowledged;
  };

  SessionId Open(const NodeTarget& target) override {
    const SessionId id(++last_session);
    sessions[id].target = target;
    return id;
  }
  void Close(SessionId session) override {
    EXPECT_TRUE(sessions.contains(session));
    EXPECT_FALSE(sessions[session].closing) << "closed twice";
    sessions[session].closing = true;
  }
  StatusCode Post(SessionId session, uint64_t tag, std::span<const RowAddress> rows,
                  MonotonicTime /*wanted_by*/) override {
    EXPECT_TRUE(sessions.contains(session) && sessions[session].open);
    EXPECT_FALSE(reads.contains(tag));
    EXPECT_TRUE(!rows.empty() && rows.size() <= kReadRowsMax);
    if (post_code != StatusCode::kOk) return post_code;
    ++reads_posted;
    reads[tag] = {session, {rows.begin(), rows.end()}, map_epoch};
    return StatusCode::kOk;
  }
  void AcknowledgeEpoch(SessionId session, Epoch epoch) override {
    EXPECT_TRUE(sessions.contains(session));
    EXPECT_GT(epoch, sessions[session].acknowledged);
    for (const auto& [tag, read] : reads) {
      EXPECT_TRUE(read.session != session || read.map_epoch >= epoch)
          << "acknowledged with a read under an older map in flight";
    }
    sessions[session].acknowledged = epoch;
  }
  bool Progress() override { return false; }
  void Wait(MonotonicTime /*until*/, std::unique_lock<std::mutex>* /*driving*/) override {}
  void Borrow() override {}
  [[nodiscard]] bool GiveBack(MonotonicTime /*until*/) override { return true; }
  void Wake() override {}

  uint64_t last_session = 0;
  std::map<SessionId, ScriptedSession> sessions;  // until their OnClosed
  std::map<uint64_t, PostedRead> reads;           // by tag, until their OnReadDone
  uint64_t reads_posted = 0;
  StatusCode post_code = StatusCode::kOk;
  Epoch map_epoch;  // of the newest map given to the scheduler; the test sets it
};

// Keeps count of what the scheduler delivers, and fails the test when a row comes twice, for
// another ticket, or after its ticket's end.
struct RecordedRows final : ScheduledRows {
  struct TicketRecord {
    bool active = false;
    std::vector<int> times_taken;       // [rows]
    std::vector<RowAddress> addresses;  // [rows]
    std::map<int32_t, Status> layers_done;
    uint64_t rows_failed = 0;
  };
  explicit RecordedRows(std::shared_ptr<const TableLayout> table_layout, uint32_t slot_count,
                        int32_t layers)
      : layout(std::move(table_layout)), tickets(slot_count), layer_count(layers) {}

  void TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                uint8_t* taken) override {
    TicketRecord& ticket = tickets[slot];
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] == kNoRow) continue;
      ASSERT_TRUE(ticket.active) << "a row came after its ticket's end";
      ASSERT_LT(rows[i], ticket.addresses.size());
      const std::byte* row = stored + i * layout->row_stride();
      const RowPlace place = layout->Place(ticket.addresses[rows[i]]);
      const int32_t layer_id =
          layout->spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
      taken[i] = VerifyRow(TableVersion(7), layer_id, place.row, row, layout->row_bytes()) ? 1 : 0;
      if (taken[i] == 0) continue;
      EXPECT_EQ(++ticket.times_taken[rows[i]], 1) << "row " << rows[i] << " came twice";
    }
  }
  void OnLayerDone(uint32_t slot, int32_t layer_index, const Status& status,
                   uint64_t rows_failed) override {
    TicketRecord& ticket = tickets[slot];
    EXPECT_TRUE(ticket.active);
    EXPECT_TRUE(ticket.layers_done.emplace(layer_index, status).second) << "done twice";
    EXPECT_EQ(status.ok(), rows_failed == 0);
    ticket.rows_failed += rows_failed;
    if (static_cast<int32_t>(ticket.layers_done.size()) == layer_count) ticket.active = false;
  }
  void OnRowWrong(SlotIndex table_slot, const ShardMapNode& node) override {
    wrong_rows.emplace_back(table_slot, node.id);
  }
  void OnReadRetried() override { ++reads_retried; }
  void OnReadHedged() override { ++reads_hedged; }
  void OnHedgeWon() override { ++hedges_won; }
  void OnMapWanted() override { ++maps_wanted; }

  std::shared_ptr<const TableLayout> layout;
  std::vector<TicketRecord> tickets;
  int32_t layer_count;
  std::vector<std::pair<SlotIndex, std::string>> wrong_rows;
  uint64_t reads_retried = 0;
  uint64_t reads_hedged = 0;
  uint64_t hedges_won = 0;
  uint64_t maps_wanted = 0;
};

}  // namespace engram::test

// A ReadScheduler with a scripted reader and a clock that the test moves.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/scripted_reader.h"

namespace engram::test {

class SchedulerFixture : public ::testing::Test {
 protected:
  static constexpr uint32_t kSlots = 2;

  void SetUp() override {
    options_.sessions.target = TargetOf("", TableVersion(7), *layout_);
    options_.slot_count = kSlots;
    options_.rows_max = 5000;
    options_.layer_count = 2;
    options_.read_rows_max = 100;
    options_.layer_rows_min = 10;
  }
  void Make() {
    scheduler_ = std::make_unique<ReadScheduler>(options_, layout_.get(), &reader_, &rows_);
  }
  // Slot s is on node s % nodes, and on the next for R = 2.
  ShardMap Map(uint64_t epoch, uint32_t nodes, uint32_t replicas = 1) {
    ShardMap map;
    map.version = TableVersion(7);
    map.epoch = Epoch(epoch);
    map.replica_count = replicas;
    for (uint32_t n = 0; n < nodes; ++n) {
      map.nodes.push_back(
          {"m" + std::to_string(n), "z", "h" + std::to_string(n) + ":1", Incarnation(n + 1)});
    }
    for (uint32_t s = 0; s < layout_->slot_count(); ++s) {
      for (uint32_t r = 0; r < replicas; ++r) map.owners.emplace_back((s + r) % nodes);
    }
    return map;
  }
  void SetMap(const ShardMap& map) {
    reader_.map_epoch = std::max(reader_.map_epoch, map.epoch);
    scheduler_->SetMap(std::make_shared<const ShardMap>(map), now_);
  }
  void OpenAll() {
    for (auto& [id, session] : reader_.sessions) {
      if (session.open || session.closing) continue;
      session.open = true;
      SessionInfo info{.incarnation = session.target.incarnation};
      if (mapped_.contains(session.target.address)) info.way = ReadWay::kMapped;
      scheduler_->OnOpen(id, info, now_);
    }
  }
  // The session of the node at this address; fails the test when there is none.
  SessionId SessionOf(const std::string& address) {
    for (const auto& [id, session] : reader_.sessions) {
      if (session.target.address == address && !session.closing) return id;
    }
    ADD_FAILURE() << "no session with " << address;
    return SessionId();
  }
  void Close(SessionId session, StatusCode why) {
    std::vector<uint64_t> tags;
    for (const auto& [tag, read] : reader_.reads) {
      if (read.session == session) tags.push_back(tag);
    }
    for (const uint64_t tag : tags) {
      reader_.reads.erase(tag);
      scheduler_->OnReadDone(tag, why, now_);
    }
    reader_.sessions.erase(session);
    scheduler_->OnClosed(session, Status(why, "test"), now_);
  }
  // `layers` numbers of rows per layer; the addresses are spread over all slots.
  void Begin(uint32_t slot, std::vector<uint32_t> layers,
             std::chrono::milliseconds deadline = std::chrono::milliseconds(1000),
             uint64_t seed = 1) {
    RecordedRows::TicketRecord& ticket = rows_.tickets[slot];
    ticket = RecordedRows::TicketRecord();
    ticket.active = true;
    uint32_t count = 0;
    for (const uint32_t rows : layers) count += rows;
    ticket.addresses = SomeRows(*layout_, count, seed);
    ticket.times_taken.assign(count, 0);
    scheduler_->Begin(slot, now_, now_ + deadline);
    uint32_t first = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      scheduler_->AddRows(slot, static_cast<int32_t>(i), ticket.addresses.data(), first,
                          first + layers[i]);
      first += layers[i];
    }
    scheduler_->Pump(now_);
  }
  // Answers one read with right rows but for those in `statuses`.
  void Answer(uint64_t tag, std::map<size_t, StatusCode> statuses = {}, bool corrupt = false) {
    const auto read = reader_.reads.at(tag);
    std::vector<std::byte> bytes;
    std::vector<StatusCode> codes(read.rows.size(), StatusCode::kOk);
    for (size_t i = 0; i < read.rows.size(); ++i) {
      auto row = StoredRow(*layout_, TableVersion(7), read.rows[i]);
      if (corrupt) row[3] ^= std::byte{1};
      bytes.insert(bytes.end(), row.begin(), row.end());
      if (statuses.contains(i)) codes[i] = statuses[i];
    }
    RowChunk chunk;
    chunk.count = static_cast<uint32_t>(read.rows.size());
    chunk.rows = bytes.data();
    chunk.statuses = statuses.empty() ? nullptr : codes.data();
    scheduler_->OnRows(tag, chunk, now_);
    reader_.reads.erase(tag);
    scheduler_->OnReadDone(tag, StatusCode::kOk, now_);
  }
  void AnswerAll() {
    scheduler_->Pump(now_);
    while (!reader_.reads.empty()) {
      Answer(reader_.reads.begin()->first);
      scheduler_->Pump(now_);
    }
  }
  void ExpectAllTaken(uint32_t slot) {
    EXPECT_FALSE(rows_.tickets[slot].active);
    for (const auto& [layer, status] : rows_.tickets[slot].layers_done) {
      EXPECT_TRUE(status.ok()) << status.ToString();
    }
    EXPECT_THAT(rows_.tickets[slot].times_taken, ::testing::Each(1));
  }
  void Advance(std::chrono::milliseconds by) {
    now_ += by;
    scheduler_->Tick(now_);
  }

  // Moves the time on in steps of a millisecond, as a thread that is awake does; before each step
  // `each` may answer reads.
  template <typename Each>
  void Live(std::chrono::milliseconds time, Each each) {
    for (std::chrono::milliseconds passed(0); passed < time; ++passed) {
      each();
      Advance(std::chrono::milliseconds(1));
    }
  }
  void Live(std::chrono::milliseconds time) {
    Live(time, [] {});
  }
  // Tags of the reads in flight at the node with this address.
  std::vector<uint64_t> ReadsAt(const std::string& address) {
    std::vector<uint64_t> tags;
    for (const auto& [tag, read] : reader_.reads) {
      if (reader_.sessions.at(read.session).target.address == address) tags.push_back(tag);
    }
    return tags;
  }
  size_t RowsAt(const std::string& address) {
    size_t rows = 0;
    for (const uint64_t tag : ReadsAt(address)) rows += reader_.reads.at(tag).rows.size();
    return rows;
  }
  void AnswerAllAt(const std::string& address) {
    for (const uint64_t tag : ReadsAt(address)) Answer(tag);
    scheduler_->Pump(now_);
  }

  const std::shared_ptr<const TableLayout> layout_ = SmallLayout();
  SchedulerOptions options_;
  std::set<std::string> mapped_;  // addresses of nodes on the client's host
  ScriptedReader reader_;
  RecordedRows rows_{layout_, kSlots, 2};
  std::unique_ptr<ReadScheduler> scheduler_;
  MonotonicTime now_{std::chrono::seconds(1)};
};

}  // namespace engram::test

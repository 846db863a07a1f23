#include "client/following_rows.h"

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

class ScriptedCurrent final : public CurrentVersionSource {
 public:
  [[nodiscard]] TableVersion CurrentVersion() const override { return current_.load(); }
  [[nodiscard]] uint64_t SubscribeCurrent(std::function<void()> on_change) override {
    const std::lock_guard lock(mutex_);
    subscribers_[++last_] = std::move(on_change);
    return last_;
  }
  void UnsubscribeCurrent(uint64_t subscription) override {
    const std::lock_guard lock(mutex_);
    subscribers_.erase(subscription);
  }
  void Set(uint64_t version) {
    current_.store(TableVersion(version));
    const std::lock_guard lock(mutex_);
    for (const auto& [id, on_change] : subscribers_) on_change();
  }
  [[nodiscard]] size_t subscribers() const {
    const std::lock_guard lock(mutex_);
    return subscribers_.size();
  }

 private:
  std::atomic<TableVersion> current_{TableVersion(1)};
  mutable std::mutex mutex_;
  std::map<uint64_t, std::function<void()>> subscribers_;
  uint64_t last_ = 0;
};

// Gives tickets, and its version as the first byte of every row.
class ScriptedRows final : public RowSource {
 public:
  ScriptedRows(uint64_t version, std::shared_ptr<const TableLayout> layout, std::atomic<int>* alive)
      : layout_(std::move(layout)),
        hasher_(test::SmallHasher(*layout_)),
        row_(1, static_cast<std::byte>(version)),
        alive_(alive) {
    ++*alive_;
    stats_.held.versions = {{TableVersion(version), Epoch(1)}};
    stats_.held.staging_bytes = 100;
    stats_.layers.resize(1);
  }
  ~ScriptedRows() override {
    EXPECT_TRUE(open_.empty()) << "closed while tickets are in use";
    --*alive_;
  }
  [[nodiscard]] const TableLayout& layout() const override { return *layout_; }
  [[nodiscard]] const NgramHasher& hasher() const override { return *hasher_; }
  [[nodiscard]] uint32_t batch_tokens_max() const override { return 64; }
  [[nodiscard]] Result<Ticket> Prefetch(std::span<const TokenRun> /*runs*/,
                                        const BatchOptions& /*options*/) override {
    const std::lock_guard lock(mutex_);
    if (open_.size() == 3) return Error(StatusCode::kResourceExhausted, "three are in use");
    ++stats_.batches;
    stats_.layers[0].prefetch_times.Add(1000);
    return *open_.insert(Ticket(++last_)).first;
  }
  [[nodiscard]] Result<LayerRows> Await(Ticket ticket, int32_t /*layer_index*/) override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(open_.contains(ticket));
    return LayerRows{row_, {}, 1};
  }
  void Release(Ticket ticket) override {
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(open_.erase(ticket), 1u);
  }
  [[nodiscard]] RowSourceStats Stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  [[nodiscard]] RowSourceStats Counts() const override { return Stats(); }
  void ResetStats() override {
    const std::lock_guard lock(mutex_);
    stats_ = {};
  }
  [[nodiscard]] FillStages Stages() const override {
    FillStages stages{};
    stages[static_cast<size_t>(FillStage::kAsleep)] = 1;
    return stages;
  }

 private:
  const std::shared_ptr<const TableLayout> layout_;
  const std::shared_ptr<const NgramHasher> hasher_;
  const std::vector<std::byte> row_;
  std::atomic<int>* const alive_;
  mutable std::mutex mutex_;
  std::set<Ticket> open_;
  uint64_t last_ = 0;
  RowSourceStats stats_;
};

class FollowingRowsTest : public testing::Test {
 protected:
  void SetUp() override {
    FollowingRowsOptions options;
    options.batches_max = 4;
    options.retry_min = milliseconds(5);
    options.retry_max = milliseconds(20);
    rows_ = CreateFollowingRows(options, layout_, test::SmallHasher(*layout_), Make(1).value(),
                                [this](TableVersion version) { return Make(version.value()); });
  }
  Result<OpenedVersion> Make(uint64_t version) {
    if (back_while_opening_.exchange(false)) current_->Set(1);
    ++opens_;
    if (refuse_.load()) return Error(StatusCode::kUnavailable, "not ready");
    const auto layout = other_shape_.load() ? test::SmallLayout(3000) : layout_;
    return OpenedVersion{TableVersion(version), current_,
                         std::make_unique<ScriptedRows>(version, layout, &alive_)};
  }
  Ticket Prefetch() { return rows_->Prefetch({}, {}).value(); }
  uint64_t VersionOf(Ticket ticket) {
    return static_cast<uint64_t>(rows_->Await(ticket, 0).value().rows[0]);
  }
  uint64_t VersionNow() {
    const Ticket ticket = Prefetch();
    const uint64_t version = VersionOf(ticket);
    rows_->Release(ticket);
    return version;
  }
  static bool Until(const std::function<bool()>& holds) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!holds()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }

  const std::shared_ptr<const TableLayout> layout_ = test::SmallLayout();
  const std::shared_ptr<ScriptedCurrent> current_ = std::make_shared<ScriptedCurrent>();
  std::atomic<int> alive_{0};
  std::atomic<int> opens_{0};
  std::atomic<bool> refuse_{false};
  std::atomic<bool> other_shape_{false};
  std::atomic<bool> back_while_opening_{false};
  std::unique_ptr<RowSource> rows_;
};

TEST_F(FollowingRowsTest, ABatchKeepsItsVersionAndTheNextOneHasTheNew) {
  const Ticket before = Prefetch();
  EXPECT_EQ(VersionOf(before), 1u);
  current_->Set(2);
  EXPECT_TRUE(Until([&] { return VersionNow() == 2; }));
  EXPECT_EQ(VersionOf(before), 1u);
  EXPECT_EQ(alive_, 2);
  rows_->Release(before);
  EXPECT_TRUE(Until([&] { return alive_ == 1; })) << "the old version was not closed";
  current_->Set(1);  // a rollback
  EXPECT_TRUE(Until([&] { return VersionNow() == 1; }));
  EXPECT_TRUE(Until([&] { return alive_ == 1; }));
  EXPECT_EQ(current_->subscribers(), 1u);
}

TEST_F(FollowingRowsTest, CountsOfAClosedVersionStayAndWhatItHeldDoesNot) {
  rows_->Release(Prefetch());
  current_->Set(2);
  EXPECT_TRUE(Until([&] { return VersionNow() == 2; }));
  EXPECT_TRUE(Until([&] { return alive_ == 1; }));
  EXPECT_TRUE(Until([&] { return rows_->Counts().held.versions.size() == 1; }));
  const RowSourceStats stats = rows_->Counts();
  EXPECT_GE(stats.batches, 2u);
  EXPECT_EQ(stats.layers.at(0).prefetch_times.count(), stats.batches);
  EXPECT_EQ(stats.held.versions[0].version, TableVersion(2));
  EXPECT_EQ(stats.held.staging_bytes, 100u);
}

TEST_F(FollowingRowsTest, StagesAreThoseOfEveryOpenVersion) {
  const auto asleep = static_cast<size_t>(FillStage::kAsleep);
  EXPECT_EQ(rows_->Stages()[asleep], 1u);
  const Ticket ticket = Prefetch();
  current_->Set(2);
  EXPECT_TRUE(Until([&] { return VersionNow() == 2; }));
  EXPECT_EQ(rows_->Stages()[asleep], 2u);
  rows_->Release(ticket);
  EXPECT_TRUE(Until([&] { return rows_->Stages()[asleep] == 1; }));
}

TEST_F(FollowingRowsTest, WhatCannotBeOpenedChangesNothingAndIsTriedAgain) {
  refuse_ = true;
  current_->Set(2);
  EXPECT_TRUE(Until([&] { return opens_ >= 4; }));
  EXPECT_EQ(VersionNow(), 1u);
  refuse_ = false;
  EXPECT_TRUE(Until([&] { return VersionNow() == 2; }));
  other_shape_ = true;
  const int opens = opens_;
  current_->Set(3);
  EXPECT_TRUE(Until([&] { return opens_ >= opens + 3; }));
  EXPECT_EQ(VersionNow(), 2u);
  current_->Set(2);  // and back: nothing to open any more
  EXPECT_EQ(VersionNow(), 2u);
}

TEST_F(FollowingRowsTest, WhatIsSwitchedBackWhileItIsOpenedIsNotRead) {
  back_while_opening_ = true;
  current_->Set(2);
  EXPECT_TRUE(Until([&] { return opens_ == 2; }));
  current_->Set(3);
  EXPECT_TRUE(Until([&] { return VersionNow() == 3; }));
  EXPECT_EQ(opens_, 3);  // had 2 been read, 1 would have been opened again
  EXPECT_TRUE(Until([&] { return alive_ == 1; }));
}

TEST_F(FollowingRowsTest, TicketsAreBoundedAndNotReused) {
  std::vector<Ticket> tickets = {Prefetch(), Prefetch(), Prefetch()};
  EXPECT_EQ(rows_->Prefetch({}, {}).error().code(), StatusCode::kResourceExhausted);  // the source
  current_->Set(2);
  EXPECT_TRUE(Until([&] { return rows_->Prefetch({}, {}).has_value(); }));  // of the new version
  const auto more = rows_->Prefetch({}, {});
  ASSERT_FALSE(more.has_value());
  EXPECT_THAT(more.error().message(), testing::HasSubstr("4 batches are in flight"));
  EXPECT_EQ(rows_->Await(Ticket(99 << 16), 0).error().code(), StatusCode::kInvalidArgument);
  const Ticket released = tickets.back();
  tickets.pop_back();
  rows_->Release(released);
  rows_->Release(released);  // no effect
  EXPECT_EQ(rows_->Await(released, 0).error().code(), StatusCode::kInvalidArgument);
  const Ticket next = Prefetch();
  EXPECT_NE(next, released);
  EXPECT_EQ(VersionOf(next), 2u);
  rows_->Release(next);
  for (const Ticket ticket : tickets) rows_->Release(ticket);
  EXPECT_EQ(rows_->Stats().batches, 5u) << "of both versions together";
  rows_->ResetStats();
  EXPECT_EQ(rows_->Stats().batches, 0u);
  // The ticket that the search above took, the last one left.
  for (uint64_t sequence = 1; sequence < 10; ++sequence) {
    for (uint64_t place = 0; place < 4; ++place) rows_->Release(Ticket(sequence << 16 | place));
  }
}

TEST_F(FollowingRowsTest, ManyThreadsReadWhileVersionsChange) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        const auto ticket = rows_->Prefetch({}, {});
        if (!ticket.has_value()) continue;
        const uint64_t version = VersionOf(*ticket);
        std::this_thread::yield();
        EXPECT_EQ(VersionOf(*ticket), version);
        rows_->Release(*ticket);
      }
    });
  }
  for (uint64_t version = 2; version < 12; ++version) {
    current_->Set(version);
    EXPECT_TRUE(Until([&] {
      const auto ticket = rows_->Prefetch({}, {});
      if (!ticket.has_value()) return false;
      const bool there = VersionOf(*ticket) == version;
      rows_->Release(*ticket);
      return there;
    }));
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_TRUE(Until([&] { return alive_ == 1; }));
}

}  // namespace
}  // namespace engram

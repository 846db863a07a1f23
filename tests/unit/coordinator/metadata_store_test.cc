// What every MetadataStore promises: the same tests for a SQLite file and for a real etcd.
#include "coordinator/metadata_store.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coordinator/etcd_store.h"
#include "coordinator/sqlite_store.h"
#include "tests/support/child_process.h"
#include "tests/support/etcd_process.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Where a store lies, so that it can be opened again.
class StorePlace {
 public:
  virtual ~StorePlace() = default;
  // Null, with a failure, when it cannot be opened.
  virtual std::unique_ptr<MetadataStore> Open() = 0;
};

class SqlitePlace final : public StorePlace {
 public:
  std::unique_ptr<MetadataStore> Open() override {
    auto store = SqliteStore::Open(scratch_.path() / "state");
    if (!store.has_value()) {
      ADD_FAILURE() << store.error().ToString();
      return nullptr;
    }
    return *std::move(store);
  }

 private:
  const test::ScratchDir scratch_;
};

// One etcd for all tests; each test has a prefix of its own.
class EtcdPlace final : public StorePlace {
 public:
  static test::EtcdProcess* Etcd() {
    static const auto etcd = test::EtcdProcess::Start();
    EXPECT_TRUE(etcd.has_value()) << etcd.error().ToString();
    return etcd.has_value() ? etcd->get() : nullptr;
  }
  std::unique_ptr<MetadataStore> Open() override {
    if (Etcd() == nullptr) return nullptr;
    EtcdStore::Options options;
    options.address = {Etcd()->endpoints(), prefix_};
    options.lease = seconds(10);  // a machine that is busy loses none by it
    options.poll = milliseconds(20);
    options.try_timeout = milliseconds(5000);  // a busy machine fails none
    return std::make_unique<EtcdStore>(options);
  }

 private:
  const std::string prefix_ =
      std::string("test/") + testing::UnitTest::GetInstance()->current_test_info()->name();
};

using MakePlace = std::unique_ptr<StorePlace> (*)();
struct StoreKind {
  const char* name;
  MakePlace make;
};
void PrintTo(const StoreKind& kind, std::ostream* out) { *out << kind.name; }

class MetadataStoreTest : public testing::TestWithParam<StoreKind> {
 protected:
  void SetUp() override {
    if (GetParam().name == std::string("Etcd") && test::EtcdProcess::Program().empty()) {
      GTEST_SKIP() << "etcd is not installed: run deploy/install-deps";
    }
    place_ = GetParam().make();
  }

  // Waits until `store` leads a term above `after`. 0, with a failure, when it does not.
  static uint64_t AwaitTerm(MetadataStore& store, uint64_t after = 0) {
    const auto until = SteadyClock().Now() + seconds(20);
    while (SteadyClock().Now() < until) {
      if (const uint64_t term = store.leadership().term; term > after) return term;
      std::this_thread::sleep_for(milliseconds(2));
    }
    ADD_FAILURE() << "not elected";
    return 0;
  }
  static uint64_t Lead(MetadataStore& store) {
    const Status status = store.Campaign("here:1", [] {});
    EXPECT_TRUE(status.ok()) << status.ToString();
    return AwaitTerm(store);
  }
  static std::vector<MetadataRecord> All(MetadataStore& store) {
    auto records = store.ReadAll();
    EXPECT_TRUE(records.has_value()) << records.error().ToString();
    return records.value_or(std::vector<MetadataRecord>());
  }

  std::unique_ptr<StorePlace> place_;
};

TEST_P(MetadataStoreTest, RecordsComeBackInOrderAfterReopening) {
  uint64_t first = 0;
  {
    auto store = place_->Open();
    ASSERT_NE(store, nullptr);
    first = Lead(*store);
    EXPECT_GE(first, 1u);
    EXPECT_EQ(store->leadership().leader, "here:1");
    EXPECT_EQ(
        store->Commit(first, {{"b", "2"}, {"a", std::string("\0x", 2)}, {"c", ""}, {"d", ""}}),
        Status());
    EXPECT_EQ(store->Commit(first, {{"b", "3"}, {"c", std::nullopt}}), Status());
  }
  auto store = place_->Open();
  ASSERT_NE(store, nullptr);
  EXPECT_GT(Lead(*store), first);
  const std::vector<MetadataRecord> expected = {
      {"a", std::string("\0x", 2)}, {"b", "3"}, {"d", ""}};
  EXPECT_EQ(All(*store), expected);
}

TEST_P(MetadataStoreTest, AnEarlierTermMayWriteNothing) {
  auto store = place_->Open();
  ASSERT_NE(store, nullptr);
  const uint64_t first = Lead(*store);
  EXPECT_EQ(store->Commit(first, {{"a", "1"}}), Status());
  store->Resign(first);
  EXPECT_NE(store->leadership().term, first);
  const uint64_t second = AwaitTerm(*store, first);
  EXPECT_EQ(store->Commit(first, {{"a", "2"}}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store->Commit(second + 1, {{"a", "2"}}).code(), StatusCode::kFailedPrecondition);
  const std::vector<MetadataRecord> expected = {{"a", "1"}};
  EXPECT_EQ(All(*store), expected);
  EXPECT_EQ(store->Commit(second, {{"a", "3"}}), Status());
}

TEST_P(MetadataStoreTest, ChangesOfTheTermAreTold) {
  auto store = place_->Open();
  ASSERT_NE(store, nullptr);
  std::atomic<int> told{0};
  ASSERT_EQ(store->Campaign("here:1", [&] { ++told; }), Status());
  // What changed may be seen a moment before it is told.
  const auto await_told = [&](int times) {
    const auto until = SteadyClock().Now() + seconds(20);
    while (told.load() < times && SteadyClock().Now() < until) {
      std::this_thread::sleep_for(milliseconds(2));
    }
    return told.load() >= times;
  };
  const uint64_t first = AwaitTerm(*store);
  EXPECT_TRUE(await_told(1));
  const int before = told.load();
  store->Resign(first);
  (void)AwaitTerm(*store, first);
  EXPECT_TRUE(await_told(before + 1));
  store = nullptr;  // before what it calls
}

TEST_P(MetadataStoreTest, OfAKeyThatComesTwiceTheLastCounts) {
  auto store = place_->Open();
  ASSERT_NE(store, nullptr);
  const uint64_t term = Lead(*store);
  EXPECT_EQ(store->Commit(term, {{"a", "1"}, {"b", "1"}, {"a", "2"}, {"b", std::nullopt}}),
            Status());
  const std::vector<MetadataRecord> expected = {{"a", "2"}};
  EXPECT_EQ(All(*store), expected);
}

TEST_P(MetadataStoreTest, AnEventOfManyRecordsAndLongValuesComesBack) {
  auto store = place_->Open();
  ASSERT_NE(store, nullptr);
  const uint64_t term = Lead(*store);
  std::vector<MetadataRecord> records;
  for (int i = 100; i < 400; ++i) records.push_back({"many/" + std::to_string(i), "x"});
  records.push_back({"long", std::string(3'000'001, 'l')});
  records.push_back({"parts", std::string(1u << 20, 'p')});  // a whole number of parts
  EXPECT_EQ(store->Commit(term, records), Status());
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return a.key < b.key; });
  EXPECT_EQ(All(*store), records);
  // Shorter again: nothing of the long value stays.
  EXPECT_EQ(store->Commit(term, {{"long", "short"}, {"parts", std::nullopt}}), Status());
  records[0].value = "short";
  records.pop_back();
  EXPECT_EQ(All(*store), records);
}

// A child commits 1, 2, 3, ... and tells each through a pipe once it is durable; every third is too
// large for one transaction of etcd. It is killed at an arbitrary moment. What is there is whole,
// and nothing that was told is missing.
TEST_P(MetadataStoreTest, NothingAcknowledgedIsLostToKillNine) {
  if (place_->Open() == nullptr) GTEST_FAIL();  // etcd runs before the first fork
  uint64_t last_told = 0;
  for (int round = 0; round < 8; ++round) {
    int channel[2];
    ASSERT_EQ(pipe(channel), 0);
    const pid_t child = fork();
    if (child == 0) {
      const auto store = place_->Open();
      if (store == nullptr) _exit(1);
      const uint64_t term = Lead(*store);
      for (uint64_t i = last_told + 1;; ++i) {
        const std::string number = std::to_string(i);
        std::vector<MetadataRecord> records = {{"x", number}, {"y", number}};
        if (i % 3 == 0) records.push_back({"z", number + std::string(1'500'000, 'z')});
        if (!store->Commit(term, records).ok()) _exit(1);
        if (write(channel[1], &i, sizeof(i)) != sizeof(i)) _exit(1);
      }
    }
    close(channel[1]);
    // From its first word on: an election takes its time.
    uint64_t told = 0;
    ASSERT_EQ(read(channel[0], &told, sizeof(told)), static_cast<ssize_t>(sizeof(told)));
    last_told = told;
    std::this_thread::sleep_for(milliseconds(20 + 13 * round));
    kill(child, SIGKILL);
    while (read(channel[0], &told, sizeof(told)) == sizeof(told)) last_told = told;
    close(channel[0]);
    waitpid(child, nullptr, 0);

    const auto store = place_->Open();
    ASSERT_NE(store, nullptr);
    const auto records = All(*store);
    ASSERT_GE(records.size(), 2u);
    EXPECT_EQ(*records[0].value, *records[1].value);  // one transaction, whole
    const uint64_t found = std::stoull(*records[0].value);
    EXPECT_GE(found, last_told);
    if (found >= 3) {
      ASSERT_EQ(records.size(), 3u);
      EXPECT_EQ(std::stoull(*records[2].value), found / 3 * 3);
      EXPECT_GT(records[2].value->size(), 1'500'000u);
    }
    last_told = found;
  }
}

template <typename Place>
std::unique_ptr<StorePlace> Make() {
  return std::make_unique<Place>();
}

INSTANTIATE_TEST_SUITE_P(Stores, MetadataStoreTest,
                         testing::Values(StoreKind{"Sqlite", Make<SqlitePlace>},
                                         StoreKind{"Etcd", Make<EtcdPlace>}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace engram

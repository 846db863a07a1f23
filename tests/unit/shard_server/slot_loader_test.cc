#include "shard_server/slot_loader.h"

#include <cstring>
#include <map>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "engram/table/stored_row.h"
#include "tests/support/child_process.h"
#include "tests/unit/shard_server/small_checkpoint.h"

namespace engram {
namespace {

using test::SmallCheckpoint;
using testing::HasSubstr;

constexpr TableVersion kVersion{9};

// Memory for some slots of a checkpoint, and what was told of them.
class Loading {
 public:
  Loading(const SmallCheckpoint& checkpoint, const std::vector<uint32_t>& slots) {
    job_.version = kVersion;
    job_.identity = checkpoint.identity();
    job_.layout = checkpoint.layout();
    job_.checkpoint = checkpoint.dir();
    for (const uint32_t slot : slots) {
      memory_.emplace_back(job_.layout->slot_bytes(SlotIndex(slot)));
      job_.slots.push_back({SlotIndex(slot), memory_.back().data(), 0});
    }
  }

  Status Run(uint64_t buffer_bytes = 4 << 20) {
    LoadOptions options;
    options.buffer_bytes = buffer_bytes;
    return LoadSlots(job_, options, &control_, [this](const EmptySlot& slot, SlotDigest digest) {
      digests_[slot.slot.value()] = digest;
    });
  }

  // Every row of every slot is the checkpoint's, sealed.
  void ExpectRowsOf(const SmallCheckpoint& checkpoint) const {
    const TableLayout& layout = *job_.layout;
    for (size_t i = 0; i < job_.slots.size(); ++i) {
      const SlotRange& slot = layout.slot(job_.slots[i].slot);
      for (uint32_t r = 0; r < slot.row_count; ++r) {
        const std::byte* stored = memory_[i].data() + size_t{r} * layout.row_stride();
        const auto row = checkpoint.Row(slot.layer_index, slot.first_row.value() + r);
        ASSERT_EQ(std::memcmp(stored, row.data(), row.size()), 0)
            << "slot " << job_.slots[i].slot.value() << " row " << r;
        const int32_t layer_id =
            layout.spec().hash.layer_ids[static_cast<size_t>(slot.layer_index)];
        ASSERT_TRUE(VerifyRow(kVersion, layer_id, RowId(slot.first_row.value() + r), stored,
                              layout.row_bytes()));
      }
    }
  }

  LoadJob job_;
  LoadControl control_;
  std::vector<std::vector<std::byte>> memory_;
  std::map<uint32_t, SlotDigest> digests_;
};

class SlotLoaderTest : public testing::Test {
 protected:
  SmallCheckpoint Checkpoint(Variant variant = Variant::kV41,
                             RowFormat format = RowFormat::kF8E4M3ScaleE8M0) {
    return SmallCheckpoint(scratch_.path() / "model", variant, format);
  }
  static std::vector<uint32_t> AllSlots(const SmallCheckpoint& checkpoint) {
    std::vector<uint32_t> slots(checkpoint.layout()->slot_count());
    for (uint32_t i = 0; i < slots.size(); ++i) slots[i] = i;
    return slots;
  }

  test::ScratchDir scratch_;
};

TEST_F(SlotLoaderTest, EveryRowOfAV41TableIsLoadedAndSealed) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading loading(checkpoint, AllSlots(checkpoint));
  const Status status = loading.Run();
  ASSERT_TRUE(status.ok()) << status.ToString();
  loading.ExpectRowsOf(checkpoint);
  EXPECT_EQ(loading.digests_.size(), checkpoint.layout()->slot_count());
  EXPECT_EQ(loading.control_.bytes_done(), checkpoint.layout()->total_bytes());
}

TEST_F(SlotLoaderTest, EveryRowOfADemoTableIsLoadedInEachDtype) {
  for (const RowFormat format : {RowFormat::kBf16, RowFormat::kF16, RowFormat::kF32}) {
    const SmallCheckpoint checkpoint = Checkpoint(Variant::kDemo, format);
    ASSERT_EQ(checkpoint.layout()->row_bytes(), format == RowFormat::kF32 ? 160u : 80u);
    Loading loading(checkpoint, AllSlots(checkpoint));
    const Status status = loading.Run();
    ASSERT_TRUE(status.ok()) << status.ToString();
    loading.ExpectRowsOf(checkpoint);
  }
}

TEST_F(SlotLoaderTest, DigestIsXxh3OfTheStoredRowsWhateverTheBufferSize) {
  const SmallCheckpoint checkpoint = Checkpoint();
  for (const uint64_t buffer_bytes : {1u, 1000u, 5000u, 4u << 20}) {
    Loading loading(checkpoint, {0, 1, 5, 200, 255});
    const Status status = loading.Run(buffer_bytes);
    ASSERT_TRUE(status.ok()) << status.ToString();
    loading.ExpectRowsOf(checkpoint);
    for (size_t i = 0; i < loading.job_.slots.size(); ++i) {
      EXPECT_EQ(loading.digests_.at(loading.job_.slots[i].slot.value()),
                XXH3_64bits(loading.memory_[i].data(), loading.memory_[i].size()));
    }
  }
}

TEST(SlotDigestTest, CheckValueOfItsPage) {
  constexpr size_t kStride = 268;
  std::vector<std::byte> rows(2 * kStride);
  for (size_t row = 0; row < 2; ++row) {
    for (size_t i = 0; i < 256; ++i) rows[row * kStride + i] = static_cast<std::byte>(i);
    SealRow(TableVersion(7), 14, RowId(384016680 + row), rows.data() + row * kStride, 264);
  }
  EXPECT_EQ(XXH3_64bits(rows.data(), rows.size()), 0x8d9d2cd7ecb5c91au);
}

TEST_F(SlotLoaderTest, RecordedDigestThatMatchesIsAccepted) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading first(checkpoint, {3});
  ASSERT_TRUE(first.Run().ok());
  Loading second(checkpoint, {3});
  second.job_.slots[0].digest = first.digests_.at(3);
  EXPECT_TRUE(second.Run().ok());
}

TEST_F(SlotLoaderTest, RecordedDigestThatDiffersIsCorruptAndNamesTheSlot) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading loading(checkpoint, {2, 3, 4});
  loading.job_.slots[1].digest = 0x1234;
  const Status status = loading.Run();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_THAT(status.message(), HasSubstr("slot 3 (layer 1, rows from"));
  EXPECT_THAT(status.message(), HasSubstr("recorded is 0000000000001234"));
  EXPECT_TRUE(loading.digests_.contains(2));
  EXPECT_FALSE(loading.digests_.contains(3));
  EXPECT_FALSE(loading.digests_.contains(4));
}

TEST_F(SlotLoaderTest, OtherModelIdentityIsRefusedBeforeARowIsRead) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading loading(checkpoint, {0});
  loading.job_.identity[5] ^= 1;
  const Status status = loading.Run();
  EXPECT_EQ(status.code(), StatusCode::kWrongModel);
  EXPECT_THAT(status.message(), HasSubstr("model identity"));
  EXPECT_EQ(loading.control_.bytes_done(), 0u);
}

TEST_F(SlotLoaderTest, FileTruncatedBeforeTheLoadIsMalformed) {
  const SmallCheckpoint checkpoint = Checkpoint();
  std::filesystem::resize_file(checkpoint.tensor_file(),
                               std::filesystem::file_size(checkpoint.tensor_file()) - 1);
  Loading loading(checkpoint, {0});
  const Status status = loading.Run();
  EXPECT_EQ(status.code(), StatusCode::kMalformed);
  EXPECT_THAT(status.message(), HasSubstr("model.safetensors"));
  EXPECT_TRUE(loading.digests_.empty());
}

TEST_F(SlotLoaderTest, FileTruncatedAfterItWasOpenedIsMalformedAndEarlierSlotsStayGood) {
  const SmallCheckpoint checkpoint = Checkpoint();
  const TableLayout& layout = *checkpoint.layout();
  Loading loading(checkpoint, {0, layout.slot_count() - 1});
  const auto tensors = OpenTables(checkpoint.dir(), checkpoint.identity(), layout).value();
  std::filesystem::resize_file(checkpoint.tensor_file(),
                               std::filesystem::file_size(checkpoint.tensor_file()) - 1);
  LoadOptions options;
  options.buffer_bytes = layout.slot_bytes(SlotIndex(0));
  const Status status = LoadSlotsFrom(tensors, loading.job_, options, &loading.control_,
                                      [&](const EmptySlot& slot, SlotDigest digest) {
                                        loading.digests_[slot.slot.value()] = digest;
                                      });
  EXPECT_EQ(status.code(), StatusCode::kMalformed);
  EXPECT_THAT(status.message(), HasSubstr("truncated since it was opened"));
  EXPECT_TRUE(loading.digests_.contains(0));
  EXPECT_EQ(loading.digests_.size(), 1u);
}

TEST_F(SlotLoaderTest, FolderThatIsNotThereIsNamed) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading loading(checkpoint, {0});
  loading.job_.checkpoint = scratch_.path() / "elsewhere";
  const Status status = loading.Run();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("elsewhere"));
}

#ifdef MADV_POPULATE_WRITE
TEST_F(SlotLoaderTest, MemoryThatTheSystemCannotGiveIsAnErrorAndNotASignal) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading loading(checkpoint, {0});
  // A file of no bytes, mapped: every page of it would be a SIGBUS, as in a full /dev/shm.
  const int file = ::memfd_create("empty", 0);
  ASSERT_GE(file, 0);
  void* const pages = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ASSERT_NE(pages, MAP_FAILED);
  loading.job_.slots[0].rows = static_cast<std::byte*>(pages);
  const Status status = loading.Run();
  ::munmap(pages, 1 << 20);
  ::close(file);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("no memory left for slot 0"));
}
#endif

TEST_F(SlotLoaderTest, PausedLoadWorksOnNothingAndCancelEndsIt) {
  const SmallCheckpoint checkpoint = Checkpoint();
  Loading loading(checkpoint, {0, 1});
  loading.control_.SetPaused(true);
  Status status;
  std::thread thread([&] { status = loading.Run(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(loading.control_.bytes_done(), 0u);
  loading.control_.Cancel();
  thread.join();
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_TRUE(loading.digests_.empty());
}

}  // namespace
}  // namespace engram

#include "client/local_rows.h"

#include <cstring>

#include <gtest/gtest.h>

#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/safetensors.h"
#include "tests/support/child_process.h"
#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using test::LoopbackCluster;
using test::SomeTokens;

// Writes the rows that LoopbackCluster's nodes hold as a checkpoint's tensors.
void WriteTables(const TableLayout& layout, const std::filesystem::path& dir) {
  std::vector<TensorToWrite> tensors;
  const auto& ids = layout.spec().hash.layer_ids;
  const int64_t values = layout.spec().row_values;
  for (int32_t l = 0; l < layout.layer_count(); ++l) {
    const auto rows = static_cast<int64_t>(layout.row_count(l));
    const int32_t id = ids[static_cast<size_t>(l)];
    tensors.push_back({TableWeightName(Variant::kV41, id), Dtype::kF8E4M3, {rows, values}});
    tensors.push_back({TableScaleName(id), Dtype::kF8E8M0, {rows, values / 32}});
  }
  auto writer = SafetensorsWriter::Create(dir / "model.safetensors", tensors);
  ASSERT_TRUE(writer.has_value()) << writer.error().ToString();
  for (int32_t l = 0; l < layout.layer_count(); ++l) {
    for (const bool scales : {false, true}) {
      for (uint64_t r = 0; r < layout.row_count(l); ++r) {
        const auto stored =
            test::StoredRow(layout, test::kTestVersion, layout.AddressOf(l, RowId(r)).value());
        const auto first = static_cast<size_t>(scales ? values : 0);
        const auto count = static_cast<size_t>(scales ? values / 32 : values);
        ASSERT_TRUE(writer->Append({stored.data() + first, count}).ok());
      }
    }
  }
  ASSERT_TRUE(writer->Finish().ok());
}

class LocalRowsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTables(*layout_, dir_.path());
    auto tables = LocalTables::Load(dir_.path(), layout_, [this](uint64_t done, uint64_t total) {
      EXPECT_GT(done, done_);
      done_ = done;
      total_ = total;
    });
    ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
    tables_ = *tables;
  }
  std::unique_ptr<RowSource> Create(uint32_t threads) {
    LocalRowsOptions options;
    options.batch_tokens_max = 256;
    options.io_threads = threads;
    return *CreateLocalRows(options, tables_, hasher_);
  }

  const test::ScratchDir dir_;
  const std::shared_ptr<const TableLayout> layout_ = test::SmallLayout(500);
  const std::shared_ptr<const NgramHasher> hasher_ = test::SmallHasher(*layout_);
  std::shared_ptr<const LocalTables> tables_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
};

TEST_F(LocalRowsTest, TablesHoldWeightsAndScalesInterleaved) {
  EXPECT_EQ(done_, total_);
  EXPECT_EQ(total_, (layout_->row_count(0) + layout_->row_count(1)) * 264);
  for (int32_t l = 0; l < 2; ++l) {
    for (uint64_t r = 0; r < layout_->row_count(l); r += 7) {
      const auto stored =
          test::StoredRow(*layout_, test::kTestVersion, layout_->AddressOf(l, RowId(r)).value());
      ASSERT_EQ(std::memcmp(tables_->rows(l) + r * 264, stored.data(), 264), 0);
    }
  }
}

TEST_F(LocalRowsTest, EveryTokenGetsItsRowsWithAnyNumberOfThreads) {
  for (const uint32_t threads : {1u, 2u, 9u}) {
    const auto source = Create(threads);
    for (const size_t count : {1u, 30u, 256u}) {
      const auto a = SomeTokens(count / 2 + 1, count);
      const auto b = SomeTokens(count / 2, count + 1);
      const TokenRun runs[] = {{.history = b, .tokens = a}, {.tokens = b}};
      if (a.size() + b.size() > 256) continue;
      const auto ticket = source->Prefetch(runs, {});
      ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
      for (int32_t layer = 0; layer < 2; ++layer) {
        const auto rows = source->Await(*ticket, layer);
        ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
        test::ExpectRightRows(*source, layer, runs, *rows);
      }
      source->Release(*ticket);
    }
  }
}

TEST_F(LocalRowsTest, AStripedBatchHasTheStripesColumns) {
  const auto tokens = SomeTokens(100, 6);
  const TokenRun run{.tokens = tokens};
  const auto whole = Create(1);
  const auto columns = static_cast<size_t>(layout_->column_count());
  for (const uint32_t threads : {1u, 2u}) {
    for (const uint32_t index : {0u, 2u}) {
      LocalRowsOptions options;
      options.batch_tokens_max = 256;
      options.io_threads = threads;
      options.stripe = {index, 3};
      const auto source = *CreateLocalRows(options, tables_, hasher_);
      BatchOptions batch;
      batch.striped = true;
      const auto ticket = source->Prefetch({&run, 1}, batch);
      const auto whole_ticket = whole->Prefetch({&run, 1}, {});
      ASSERT_TRUE(ticket.has_value() && whole_ticket.has_value());
      size_t in_stripe = 0;
      for (size_t c = index; c < columns; c += 3) ++in_stripe;
      for (int32_t layer = 0; layer < 2; ++layer) {
        const auto rows = source->Await(*ticket, layer);
        const auto all = whole->Await(*whole_ticket, layer);
        ASSERT_TRUE(rows.has_value() && all.has_value());
        for (size_t t = 0; t < tokens.size(); ++t) {
          for (size_t c = index; c < columns; c += 3) {
            const size_t at = (t * columns + c) * layout_->row_bytes();
            ASSERT_EQ(
                std::memcmp(rows->rows.data() + at, all->rows.data() + at, layout_->row_bytes()),
                0);
          }
        }
      }
      EXPECT_EQ(source->Stats().rows_asked, tokens.size() * in_stripe * 2);
      EXPECT_EQ(source->Stats().rows_read, source->Stats().rows_asked);
      source->Release(*ticket);
      whole->Release(*whole_ticket);
    }
  }
}

TEST_F(LocalRowsTest, GivesTheSameBytesAsRemoteRows) {
  LoopbackCluster cluster(3, 500);
  const auto remote = cluster.Connect(cluster.Options());
  const auto local = Create(1);
  const auto tokens = SomeTokens(200, 5);
  const TokenRun run{.tokens = tokens};
  const auto remote_ticket = remote->Prefetch({&run, 1}, {.deadline = std::chrono::seconds(60)});
  const auto local_ticket = local->Prefetch({&run, 1}, {});
  ASSERT_TRUE(remote_ticket.has_value() && local_ticket.has_value());
  for (int32_t layer = 0; layer < 2; ++layer) {
    const auto a = remote->Await(*remote_ticket, layer);
    const auto b = local->Await(*local_ticket, layer);
    ASSERT_TRUE(a.has_value() && b.has_value());
    ASSERT_EQ(a->rows.size(), b->rows.size());
    EXPECT_EQ(std::memcmp(a->rows.data(), b->rows.data(), a->rows.size()), 0);
  }
  remote->Release(*remote_ticket);
  local->Release(*local_ticket);
}

// Looks every id up, as a backend that has the tables does.
TEST_F(LocalRowsTest, RowIdsNameTheRowsThatLocalRowsGive) {
  for (const uint32_t threads : {1u, 2u, 9u}) {
    LocalRowsOptions options;
    options.batch_tokens_max = 256;
    options.io_threads = threads;
    const auto ids = *CreateRowIds(options, layout_, hasher_);
    const auto rows = Create(threads);
    const auto a = SomeTokens(90, 3);
    const auto b = SomeTokens(40, 4);
    std::vector<uint8_t> dead(b.size(), 0);
    dead[0] = dead[17] = dead[39] = 1;
    const TokenRun runs[] = {{.history = b, .tokens = a}, {.tokens = b, .tokens_dead = dead}};
    const auto ids_ticket = ids->Prefetch(runs, {});
    const auto rows_ticket = rows->Prefetch(runs, {});
    ASSERT_TRUE(ids_ticket.has_value() && rows_ticket.has_value());
    const auto columns = static_cast<size_t>(layout_->column_count());
    for (int32_t layer = 0; layer < 2; ++layer) {
      const auto got = ids->Await(*ids_ticket, layer);
      const auto wanted = rows->Await(*rows_ticket, layer);
      ASSERT_TRUE(got.has_value() && wanted.has_value());
      EXPECT_TRUE(got->only_ids);
      EXPECT_FALSE(wanted->only_ids);
      ASSERT_EQ(got->token_count, 130u);
      ASSERT_EQ(got->rows.size(), 130 * columns * kRowIdBytes);
      ASSERT_TRUE(
          std::equal(got->dead.begin(), got->dead.end(), wanted->dead.begin(), wanted->dead.end()));
      for (size_t cell = 0; cell < 130 * columns; ++cell) {
        if (got->dead[cell / columns] != 0) continue;
        uint32_t id = 0;
        std::memcpy(&id, got->rows.data() + cell * kRowIdBytes, kRowIdBytes);
        ASSERT_LT(id, layout_->row_count(layer));
        ASSERT_EQ(std::memcmp(tables_->rows(layer) + size_t{id} * 264,
                              wanted->rows.data() + cell * 264, 264),
                  0);
      }
    }
    EXPECT_EQ(ids->Stats().rows_asked, 127 * columns * 2);
    EXPECT_EQ(ids->Stats().rows_read, ids->Stats().rows_asked);
    ids->Release(*ids_ticket);
    rows->Release(*rows_ticket);
  }
}

TEST_F(LocalRowsTest, RowIdsHaveTheBoundsOfLocalRows) {
  LocalRowsOptions options;
  options.io_threads = 33;
  EXPECT_EQ(CreateRowIds(options, layout_, hasher_).error().code(), StatusCode::kInvalidArgument);
  options.io_threads = 1;
  options.batch_tokens_max = 8;
  const auto source = *CreateRowIds(options, layout_, hasher_);
  EXPECT_EQ(source->batch_tokens_max(), 8u);
  const auto tokens = SomeTokens(9, 1);
  const TokenRun run{.tokens = tokens};
  EXPECT_EQ(source->Prefetch({&run, 1}, {}).error().code(), StatusCode::kInvalidArgument);
}

TEST_F(LocalRowsTest, DeadTokensAreMarkedAndNotGathered) {
  const auto source = Create(1);
  const std::vector<TokenId> tokens = {1, 2, 3};
  const std::vector<uint8_t> dead = {0, 1, 0};
  const TokenRun run{.tokens = tokens, .tokens_dead = dead};
  const auto ticket = source->Prefetch({&run, 1}, {});
  ASSERT_TRUE(ticket.has_value());
  const auto rows = source->Await(*ticket, 1);
  ASSERT_TRUE(rows.has_value());
  test::ExpectRightRows(*source, 1, {&run, 1}, *rows);
  EXPECT_EQ(source->Stats().rows_asked, 2u * 8);
  EXPECT_EQ(source->Stats().rows_read, 2u * 8);
  source->Release(*ticket);
}

TEST_F(LocalRowsTest, AFolderWithoutTablesIsRefused) {
  const test::ScratchDir empty;
  EXPECT_FALSE(LocalTables::Load(empty.path(), layout_).has_value());
}

}  // namespace
}  // namespace engram

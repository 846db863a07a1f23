// From a coordinator to rows over UCX and TCP, all inside this process; and the C API on top.
#include "client/connect.h"

#include <cstring>
#include <fstream>

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/engram_client.h"
#include "engram/table/stored_row.h"
#include "engram/tokenizer/tokenizer.h"
#include "engram/transport/ucx/ucx_row_server.h"
#include "proto/directory.pb.h"
#include "tests/support/child_process.h"
#include "tests/unit/client/scripted_coordinator.h"

namespace engram {
namespace {

constexpr TableVersion kVersion(7);

// A model folder without tensors: config.json and tokenizer.json alone.
void WriteModel(const std::filesystem::path& dir) {
  const auto tokenizer_file = std::filesystem::path(ENGRAM_TEST_DATA) / "tiny_tokenizer.json";
  std::filesystem::copy_file(tokenizer_file, dir / "tokenizer.json");
  const auto compression = CompressVocabulary(*Tokenizer::Load(tokenizer_file));
  ASSERT_TRUE(compression.has_value());
  std::ofstream(dir / "config.json")
      << R"({"engram_layer_ids": [1, 14], "engram_max_ngram_size": 3, "engram_vocab_size": 500,
             "engram_n_heads": 2, "engram_head_dim": 256, "engram_pad_token_id": 2,
             "engram_compressed_vocab_size": )"
      << compression->compressed_vocab_size << "}";
}

class ConnectTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteModel(dir_.path());
    auto tables = ReadModelTables(dir_.path(), false);
    ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
    tables_ = *std::move(tables);
    layout_ = std::make_shared<const TableLayout>(*TableLayout::Create(tables_.spec));
    StartNode();
    coordinator_ =
        std::make_unique<test::ScriptedCoordinator>("127.0.0.1:0", layout_, tables_.identity);
    ShardMap map = coordinator_->map();
    map.epoch = Epoch(2);
    map.nodes[0].address = server_->address();
    coordinator_->SetMap(map);
    options_.coordinators = {coordinator_->address()};
    options_.model_dir = dir_.path();
    options_.tls = "tcp";
    options_.ready_timeout = std::chrono::milliseconds(60000);
  }
  void StartNode() {
    UcxRowServerOptions options;
    options.listen_address = "127.0.0.1:0";
    options.incarnation = Incarnation(5);
    options.tls = "tcp";
    auto server = UcxRowServer::Create(options);
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = *std::move(server);
    const Region region = server_->AllocateRegion(layout_->total_bytes()).value();
    auto slots = std::make_shared<ServedSlots>(kVersion, tables_.identity, layout_);
    uint64_t offset = 0;
    for (uint32_t s = 0; s < layout_->slot_count(); ++s) {
      std::byte* const rows = region.bytes.data() + offset;
      for (uint32_t r = 0; r < layout_->slot(SlotIndex(s)).row_count; ++r) {
        const auto row = test::StoredRow(*layout_, kVersion,
                                         RowAddress((uint64_t{s} << layout_->slot_shift()) + r));
        std::copy(row.begin(), row.end(), rows + size_t{r} * layout_->row_stride());
      }
      slots->Publish(SlotIndex(s), rows, {region.number, offset});
      offset += layout_->slot_bytes(SlotIndex(s));
    }
    server_->Serve(slots);
  }
  // [tokens][columns][row_bytes]
  std::vector<std::byte> Expected(int32_t layer, std::span<const TokenId> tokens) {
    const auto hasher = *NgramHasher::Create(tables_.spec.hash, tables_.compression);
    const auto columns = static_cast<size_t>(layout_->column_count());
    std::vector<uint32_t> buckets(columns * tokens.size());
    const TokenRun run{.tokens = tokens};
    hasher.Hash(layer, run, buckets.data(), tokens.size());
    std::vector<std::byte> out;
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (size_t c = 0; c < columns; ++c) {
        const auto row = test::StoredRow(
            *layout_, kVersion,
            layout_->Address(layer, static_cast<int32_t>(c), buckets[c * tokens.size() + t]));
        out.insert(out.end(), row.begin(), row.begin() + layout_->row_bytes());
      }
    }
    return out;
  }

  const test::ScratchDir dir_;
  ModelTables tables_;
  std::shared_ptr<const TableLayout> layout_;
  std::unique_ptr<UcxRowServer> server_;
  std::unique_ptr<test::ScriptedCoordinator> coordinator_;
  ConnectOptions options_;
};

TEST_F(ConnectTest, RowsComeFromTheClusterThatTheCoordinatorNames) {
  auto source = ConnectRemote(options_);
  ASSERT_TRUE(source.has_value()) << source.error().ToString();
  const std::vector<TokenId> tokens = {1, 2, 3, 500, 3, 2, 1};
  const TokenRun run{.tokens = tokens};
  for (int batch = 0; batch < 20; ++batch) {
    const auto ticket = (*source)->Prefetch({&run, 1}, {.deadline = std::chrono::seconds(60)});
    ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
    for (int32_t layer = 0; layer < 2; ++layer) {
      const auto rows = (*source)->Await(*ticket, layer);
      ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
      EXPECT_TRUE(std::ranges::equal(rows->rows, Expected(layer, tokens)));
    }
    (*source)->Release(*ticket);
  }
  EXPECT_EQ((*source)->Stats().rows_wrong, 0u);
}

TEST_F(ConnectTest, TablesReadBeforeMayBeGivenInsteadOfTheFolder) {
  options_.model_dir = "no/such/folder";
  options_.tables = &tables_;
  EXPECT_TRUE(ConnectRemote(options_).has_value());
}

TEST_F(ConnectTest, ModelThatHashesDifferentlyIsRefused) {
  ModelTables other = tables_;
  std::swap(other.compression[10], other.compression[20]);
  other.identity = ComputeModelIdentity(other.spec, other.compression);
  options_.tables = &other;
  const auto refused = ConnectRemote(options_);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kWrongModel);

  // The same found from a folder without tensors, whose row format nobody knows.
  std::string config = test::ReadFile(dir_.path() / "config.json");
  config.replace(config.find("500"), 3, "501");
  std::ofstream(dir_.path() / "config.json") << config;
  options_.tables = nullptr;
  const auto refused_folder = ConnectRemote(options_);
  ASSERT_FALSE(refused_folder.has_value());
  EXPECT_EQ(refused_folder.error().code(), StatusCode::kWrongModel);
  EXPECT_THAT(refused_folder.error().message(), ::testing::HasSubstr("configuration differs"));
}

TEST_F(ConnectTest, LookupNeedsNoModel) {
  options_.model_dir.clear();
  const auto connection = ConnectLookup(options_);
  ASSERT_TRUE(connection.has_value()) << connection.error().ToString();
  const auto rows = test::SomeRows(*connection->directory->layout(), 100);
  std::vector<std::byte> bytes(100 * 264);
  std::vector<StatusCode> statuses(100);
  const Status status = connection->rows->ReadRows(rows, bytes, statuses);
  ASSERT_TRUE(status.ok()) << status.ToString();
  const auto expected = test::StoredRow(*layout_, kVersion, rows[99]);
  EXPECT_EQ(std::memcmp(bytes.data() + 99 * 264, expected.data(), 264), 0);
}

// An engine may link parts of this project itself: this test does.
TEST(SharedLibraryTest, LoadsIntoAProcessThatHasTheProjectsMessagesAlready) {
  proto::GetShardMapRequest linked_here;
  linked_here.set_version(1);
  EXPECT_FALSE(linked_here.SerializeAsString().empty());
  void* const library = ::dlopen(ENGRAM_SHARED_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << ::dlerror();
  using Version = uint32_t (*)();
  const auto version = reinterpret_cast<Version>(::dlsym(library, "engram_api_version"));
  ASSERT_NE(version, nullptr);
  EXPECT_EQ(version(), ENGRAM_API_VERSION);
}

TEST_F(ConnectTest, CProgramReadsTheSameRowsThroughTheSharedLibrary) {
  const auto rows_file = dir_.path() / "rows";
  const test::CommandOutput output = test::RunCommand(
      {ENGRAM_C_TEST, dir_.path(), coordinator_->address(), rows_file}, std::chrono::seconds(60));
  ASSERT_EQ(output.exit_status, 0) << output.err;
  const std::vector<TokenId> tokens = {3, 1, 4, 1, 5};
  const auto expected = Expected(0, tokens);
  const std::string rows = test::ReadFile(rows_file);
  ASSERT_EQ(rows.size(), expected.size());
  EXPECT_EQ(std::memcmp(rows.data(), expected.data(), rows.size()), 0);
}

}  // namespace
}  // namespace engram

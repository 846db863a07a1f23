// Rows that land on the GPU: checked and kept by the kernel, read by the backend.
#include "model_worker/cuda/device_landing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <random>

#include <gmock/gmock.h>

#include "client/remote_rows.h"
#include "engram/base/crc32c.h"
#include "tests/gpu/backend_pair.h"
#include "tests/gpu/gpu_test.h"
#include "tests/reference/sequence_run.h"
#include "tests/support/child_process.h"
#include "tests/unit/client/loopback_cluster.h"

namespace engram::gpu {
namespace {

using test::Logits;
using test::LoopbackCluster;
using test::Prompt;
using test::RandomPrompt;
using test::RunSequences;
using test::Schedule;
using test::ScratchDir;
using test::TinyModel;
using test::TinyModelShape;
using test::TinyRows;

constexpr std::byte kUntouched{0xee};

// Random rows as a node stores them, each of another place.
struct StoredRows {
  StoredRows(uint32_t count, uint32_t row_bytes, uint32_t seed) : bytes_of_row(row_bytes) {
    std::mt19937 random(seed);
    stored.resize(size_t{count} * stride());
    for (std::byte& byte : stored) byte = static_cast<std::byte>(random());
    for (uint32_t i = 0; i < count; ++i) {
      crcs_of_place.push_back(static_cast<uint32_t>(random()));
      Seal(i);
    }
  }
  void Seal(uint32_t row) {
    const uint32_t crc = Crc32c(crcs_of_place[row], at(row), bytes_of_row);
    std::memcpy(at(row) + bytes_of_row, &crc, sizeof(crc));
  }
  [[nodiscard]] size_t stride() const { return bytes_of_row + kRowCrcBytes; }
  [[nodiscard]] std::byte* at(uint32_t row) { return stored.data() + row * stride(); }

  uint32_t bytes_of_row;
  std::vector<std::byte> stored;
  std::vector<uint32_t> crcs_of_place;
};

std::vector<std::byte> ReadTable(DeviceLanding& landing, const LandedTable& table,
                                 uint32_t row_bytes) {
  std::vector<std::byte> bytes(table.row_count * row_bytes);
  EXPECT_TRUE(landing.CopyToHost(table.rows, bytes).ok());
  return bytes;
}

class DeviceLandingTest : public GpuTest {
 protected:
  [[nodiscard]] std::unique_ptr<LandedRows> Make(uint32_t places, uint32_t row_bytes) {
    auto rows = landing_.MakeRows({places, row_bytes, 1});
    EXPECT_TRUE(rows.has_value()) << rows.error().ToString();
    std::vector<std::byte> untouched(size_t{places} * row_bytes, kUntouched);
    ExpectCuda(cudaMemcpy(const_cast<std::byte*>((*rows)->table().rows), untouched.data(),
                          untouched.size(), cudaMemcpyHostToDevice));
    return *std::move(rows);
  }

  DeviceLanding landing_{0};
};

TEST_F(DeviceLandingTest, RightRowsAreKeptInTheirPlacesAndWrongOnesNowhere) {
  constexpr uint32_t kCount = 1500;  // more than one launch takes
  for (const uint32_t row_bytes : {264u, 40u, 5u, 1u, 1023u}) {
    StoredRows rows(kCount, row_bytes, row_bytes);
    std::vector<LandedRows::Row> asked;
    std::vector<uint8_t> wanted;
    for (uint32_t i = 0; i < kCount; ++i) {
      // From behind, with gaps, in places of another order.
      const uint32_t from = kCount - 1 - i;
      if (from % 7 == 3) continue;
      asked.push_back({rows.crcs_of_place[from], from, (from * 11) % kCount});
      bool right = true;
      if (from % 5 == 1) {  // a bit of the row, the last byte's among them
        rows.at(from)[from % 2 == 0 ? from % row_bytes : row_bytes - 1] ^= std::byte{0x10};
        right = false;
      } else if (from % 5 == 2) {  // a bit of its CRC
        rows.at(from)[row_bytes + from % 4] ^= std::byte{1};
        right = false;
      } else if (from % 5 == 4) {  // another place's row
        asked.back().crc_of_place ^= 1;
        right = false;
      }
      wanted.push_back(right ? 1 : 0);
    }
    for (const bool landed : {true, false}) {
      const auto kept = Make(kCount, row_bytes);
      auto block = landing_.Allocate(rows.stored.size());
      ASSERT_TRUE(block.has_value());
      const std::byte* stored = rows.stored.data();
      if (landed) {
        ExpectCuda(cudaMemcpy(block->get(), stored, rows.stored.size(), cudaMemcpyHostToDevice));
        stored = block->get();
      }
      std::vector<uint8_t> right(asked.size(), 7);
      const Status status = kept->Keep(0, stored, landed, asked, right.data());
      ASSERT_TRUE(status.ok()) << status.ToString();
      EXPECT_EQ(right, wanted) << row_bytes << " " << landed;

      std::vector<std::byte> expected(size_t{kCount} * row_bytes, kUntouched);
      for (size_t i = 0; i < asked.size(); ++i) {
        if (wanted[i] == 0) continue;
        std::memcpy(&expected[size_t{asked[i].place} * row_bytes], rows.at(asked[i].from),
                    row_bytes);
      }
      EXPECT_EQ(ReadTable(landing_, kept->table(), row_bytes), expected) << row_bytes;
    }
  }
}

TEST_F(DeviceLandingTest, MoreThanTheGpuHasIsRefusedWithTheBytes) {
  const auto rows = landing_.MakeRows({UINT32_MAX, 1u << 20, 1});
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(rows.error().message(), testing::HasSubstr("landed Engram rows"));
}

// The whole way but for the wire: I/O threads, places, the kernel.
TEST_F(DeviceLandingTest, RowsOfMemoryNodesLandWhereTheirTokensLookForThem) {
  LoopbackCluster cluster(3);
  RemoteRowsOptions options = cluster.Options();
  options.landing = &landing_;
  options.io_threads = 2;
  const auto source = cluster.Connect(options);
  ASSERT_NE(source, nullptr);
  cluster.network.CorruptRows(LoopbackCluster::Address(0), 5);
  const uint32_t row_bytes = cluster.layout->row_bytes();
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const auto tokens = test::SomeTokens(60, seed, 40);
    const TokenRun run{.tokens = tokens};
    const auto ticket = source->Prefetch({&run, 1}, {.deadline = std::chrono::seconds(60)});
    ASSERT_TRUE(ticket.has_value());
    for (int32_t layer = 0; layer < 2; ++layer) {
      const auto rows = source->Await(*ticket, layer);
      ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
      ASSERT_TRUE(rows->only_ids);
      const auto table = ReadTable(landing_, rows->landed, row_bytes);
      const auto expected = test::ExpectedRows(*cluster.layout, *cluster.hasher, layer, {&run, 1});
      ASSERT_EQ(rows->rows.size() / kRowIdBytes, expected.size() / row_bytes);
      for (size_t i = 0; i < expected.size() / row_bytes; ++i) {
        uint32_t id = 0;
        std::memcpy(&id, rows->rows.data() + i * kRowIdBytes, kRowIdBytes);
        ASSERT_LT(id, rows->landed.row_count);
        ASSERT_EQ(std::memcmp(&table[size_t{id} * row_bytes], &expected[i * row_bytes], row_bytes),
                  0);
      }
    }
    source->Release(*ticket);
  }
  EXPECT_EQ(source->Stats().rows_wrong, 5u);
}

// A step's rows, landed: the first half of its tokens in one source's places, the rest in
// another's. The places are used again in the next step.
class LandedStep final : public EngramRows {
 public:
  LandedStep(const TinyModel& model, RowLanding* landing, uint32_t tokens_max)
      : columns_(static_cast<uint32_t>(model.layout()->column_count())),
        row_bytes_(model.layout()->row_bytes()),
        layer_places_(tokens_max * columns_) {
    const auto layers = static_cast<uint32_t>(model.layout()->layer_count());
    for (auto& rows : landed_) {
      rows = landing->MakeRows({layer_places_ * layers, row_bytes_, 1}).value();
    }
  }
  EngramRows* Through(EngramRows* rows) {
    inner_ = rows;
    ids_.clear();
    return this;
  }
  Result<std::span<const LayerRows>> Rows(int32_t layer_index) override {
    ENGRAM_ASSIGN_OR_RETURN(const auto pieces, inner_->Rows(layer_index));
    const LayerRows& all = pieces.front();
    pieces_.clear();
    const uint32_t half = all.token_count / 2;
    if (half > 0) pieces_.push_back(Land(0, all, layer_index, 0, half));
    pieces_.push_back(Land(1, all, layer_index, half, all.token_count - half));
    return std::span<const LayerRows>(pieces_);
  }
  // Every place gets other bytes.
  void Overwrite() {
    for (const auto& landed : landed_) {
      const LandedTable table = landed->table();
      StoredRows rows(static_cast<uint32_t>(table.row_count), row_bytes_, 99);
      std::vector<LandedRows::Row> asked;
      for (uint32_t i = 0; i < table.row_count; ++i) asked.push_back({rows.crcs_of_place[i], i, i});
      std::vector<uint8_t> right(asked.size());
      ASSERT_TRUE(landed->Keep(0, rows.stored.data(), false, asked, right.data()).ok());
      ASSERT_EQ(std::count(right.begin(), right.end(), 1), std::ssize(right));
    }
  }

 private:
  LayerRows Land(size_t which, const LayerRows& all, int32_t layer_index, uint32_t first,
                 uint32_t tokens) {
    StoredRows rows(tokens * columns_, row_bytes_, first);
    std::vector<LandedRows::Row> asked;
    std::vector<uint32_t>& ids = ids_.emplace_back();
    for (uint32_t i = 0; i < tokens * columns_; ++i) {
      std::memcpy(rows.at(i), all.rows.data() + (size_t{first} * columns_ + i) * row_bytes_,
                  row_bytes_);
      rows.Seal(i);
      ids.push_back(static_cast<uint32_t>(layer_index) * layer_places_ + i);
      asked.push_back({rows.crcs_of_place[i], i, ids.back()});
    }
    std::vector<uint8_t> right(asked.size());
    EXPECT_TRUE(landed_[which]->Keep(0, rows.stored.data(), false, asked, right.data()).ok());
    EXPECT_EQ(std::count(right.begin(), right.end(), 1), std::ssize(right));
    LayerRows piece{.rows = std::as_bytes(std::span(ids)), .token_count = tokens};
    piece.only_ids = true;
    piece.landed = landed_[which]->table();
    if (!all.dead.empty()) piece.dead = all.dead.subspan(first, tokens);
    return piece;
  }

  const uint32_t columns_;
  const uint32_t row_bytes_;
  const uint32_t layer_places_;
  std::array<std::unique_ptr<LandedRows>, 2> landed_;
  EngramRows* inner_ = nullptr;
  std::deque<std::vector<uint32_t>> ids_;
  std::vector<LayerRows> pieces_;
};

constexpr Backend::Limits kLimits{8, 400, 300};

TEST_F(DeviceLandingTest, TheBackendComputesTheBitsOfStagedRows) {
  const ScratchDir scratch;
  TinyModelShape v41;
  v41.engram_layers = {0, 2};
  TinyModelShape demo;
  demo.variant = Variant::kDemo;
  demo.row_values = 20;
  for (const TinyModelShape& shape : {v41, demo}) {
    const bool dead = shape.variant == Variant::kV41;
    const TinyModel model = TinyModel::Write(shape, scratch.path() / (dead ? "v41" : "demo"));
    const auto backend = OpenCuda(model, kLimits);
    ASSERT_NE(backend, nullptr);
    std::vector<Prompt> prompts;
    for (const uint32_t tokens : {40u, 3u, 129u}) {
      prompts.push_back(RandomPrompt(shape, tokens, dead, tokens));
    }
    LandedStep landed(model, backend->row_landing(), kLimits.step_tokens_max);
    for (Schedule schedule : {Schedule{1, true}, Schedule{64, false}}) {
      const Logits staged = RunSequences(backend.get(), model, prompts, schedule);
      schedule.through = [&](EngramRows* rows) { return landed.Through(rows); };
      const Logits looked_up = RunSequences(backend.get(), model, prompts, schedule);
      ASSERT_FALSE(HasFatalFailure());
      EXPECT_EQ(staged, looked_up);
    }
  }
}

// A step that wants no logits returns while the GPU computes; its rows are the caller's again.
TEST_F(DeviceLandingTest, PlacesMayBeUsedAgainWhenTheStepHasReturned) {
  const ScratchDir scratch;
  TinyModelShape shape;
  shape.engram_layers = {0, 2};
  const TinyModel model = TinyModel::Write(shape, scratch.path() / "model");
  const auto backend = OpenCuda(model, kLimits);
  ASSERT_NE(backend, nullptr);
  const Prompt prompt = RandomPrompt(shape, 200, false, 1);
  const std::span<const TokenId> ids(prompt.ids);
  LandedStep landed(model, backend->row_landing(), kLimits.step_tokens_max);
  std::vector<std::vector<float>> logits(2);
  for (const bool land : {false, true}) {
    backend->ResetSlot(SequenceSlot(0));
    for (const bool last : {false, true}) {
      const uint32_t begin = last ? 199 : 0;
      TokenRun run;
      run.history = ids.first(begin);
      run.tokens = last ? ids.subspan(199) : ids.first(199);
      const SequenceStep step{SequenceSlot(0), begin, run.tokens, last};
      TinyRows rows(model, {&run, 1});
      EngramRows* const coming = land ? landed.Through(&rows) : &rows;
      const Status status = backend->Forward({&step, 1}, coming, &logits[land ? 1 : 0]);
      ASSERT_TRUE(status.ok()) << status.ToString();
      if (land) landed.Overwrite();
    }
  }
  EXPECT_EQ(logits[0], logits[1]);
}

}  // namespace
}  // namespace engram::gpu

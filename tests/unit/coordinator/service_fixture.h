// The shell around ClusterState, with a real state file and a real (tiny) checkpoint.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "coordinator/coordinator_service.h"
#include "coordinator/sqlite_store.h"
#include "engram/checkpoint/model_files.h"
#include "engram/tokenizer/tokenizer.h"
#include "proto/admin.pb.h"
#include "proto/directory.pb.h"
#include "proto/node.pb.h"
#include "tests/support/child_process.h"

namespace engram {

// Longer than a test may run: a held call that is answered was woken.
inline constexpr uint32_t kForeverMs = 3'600'000;

// A store on a disk that is full from some moment on.
class FillingStore final : public MetadataStore {
 public:
  FillingStore(std::unique_ptr<MetadataStore> store, const bool* full)
      : store_(std::move(store)), full_(full) {}
  Status Campaign(std::string address, std::function<void()> on_change) override {
    return store_->Campaign(std::move(address), std::move(on_change));
  }
  Leadership leadership() const override { return store_->leadership(); }
  void Resign(uint64_t term) override { store_->Resign(term); }
  bool shared() const override { return false; }
  Result<std::vector<MetadataRecord>> ReadAll() override { return store_->ReadAll(); }
  Status Commit(uint64_t term, const std::vector<MetadataRecord>& records) override {
    if (*full_) return Status(StatusCode::kIo, "the disk is full");
    return store_->Commit(term, records);
  }

 private:
  const std::unique_ptr<MetadataStore> store_;
  const bool* full_;
};

class CoordinatorServiceTest : public ::testing::Test {
 protected:
  using Reply = std::shared_ptr<std::optional<Result<std::string>>>;

  CoordinatorServiceTest() {
    options_.cluster.heartbeat_interval = std::chrono::milliseconds(kForeverMs);
    options_.cluster.down_after = std::chrono::milliseconds(3 * kForeverMs);
    options_.wait_ms_max = kForeverMs;
  }
  void SetUp() override {
    WriteCheckpoint();
    Start();
  }
  void TearDown() override { End(); }

  void Start() {
    auto store = SqliteStore::Open(scratch_.path() / "state.db");
    ASSERT_TRUE(store.has_value()) << store.error().ToString();
    service_ = std::make_unique<CoordinatorService>(
        io_.get_executor(), std::make_unique<FillingStore>(*std::move(store), &disk_full_),
        options_, [this](const Status& status) { fatal_ = status; });
    const Status started = service_->Start("127.0.0.1:7000");
    ASSERT_TRUE(started.ok()) << started.ToString();
  }
  void End() {
    if (service_ == nullptr) return;
    service_->Stop();
    io_.restart();
    io_.poll();
    service_.reset();
  }

  // One layer of 2 columns of about 100 rows of 32 values.
  void WriteCheckpoint() {
    std::filesystem::create_directory(model_dir());
    std::filesystem::copy_file(std::filesystem::path(ENGRAM_TEST_DATA) / "tiny_tokenizer.json",
                               model_dir() / "tokenizer.json");
    const auto tokenizer = Tokenizer::Load(model_dir() / "tokenizer.json");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().ToString();
    nlohmann::json config = {
        {"vocab_size", 600},
        {"engram_layer_ids", {1}},
        {"engram_max_ngram_size", 2},
        {"engram_vocab_size", 100},
        {"engram_n_heads", 2},
        {"engram_head_dim", 32},
        {"engram_pad_token_id", 2},
        {"engram_compressed_vocab_size", CompressVocabulary(*tokenizer)->compressed_vocab_size}};
    std::ofstream(model_dir() / "config.json") << config.dump();
    const auto tables = ReadModelTables(model_dir(), false);
    ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
    const auto rows = static_cast<int64_t>(TableLayout::Create(tables->spec)->row_count(0));
    config["engram_num_embeddings"] = {rows};
    std::ofstream(model_dir() / "config.json") << config.dump();
    auto writer =
        SafetensorsWriter::Create(model_dir() / "model.safetensors",
                                  {{"layers.1.engram.embed.weight", Dtype::kF8E4M3, {rows, 32}},
                                   {"layers.1.engram.embed.scale", Dtype::kF8E8M0, {rows, 1}}});
    ASSERT_TRUE(writer.has_value()) << writer.error().ToString();
    ASSERT_EQ(writer->Append(std::vector<std::byte>(static_cast<size_t>(rows) * 32)), Status());
    ASSERT_EQ(writer->Append(std::vector<std::byte>(static_cast<size_t>(rows))), Status());
    ASSERT_EQ(writer->Finish(), Status());
  }
  [[nodiscard]] std::filesystem::path model_dir() const { return scratch_.path() / "model"; }

  // `method` must be a literal, and `peer` stay: the call may be held back.
  Reply BeginCall(std::string_view method, std::string body) {
    return BeginCallOf(peer_, method, std::move(body));
  }
  Reply BeginCallOf(const RpcPeer& peer, std::string_view method, std::string body) {
    auto reply = std::make_shared<std::optional<Result<std::string>>>();
    boost::asio::co_spawn(io_, service_->Handle(peer, method, std::move(body)),
                          [reply](std::exception_ptr failure, Result<std::string> result) {
                            ASSERT_EQ(failure, nullptr);
                            *reply = std::move(result);
                          });
    io_.restart();
    io_.poll();
    return reply;
  }
  Result<std::string> Await(const Reply& reply) {
    io_.restart();
    while (!reply->has_value()) io_.run_one();
    return **reply;
  }
  Result<std::string> Call(std::string_view method, std::string body) {
    return Await(BeginCall(method, std::move(body)));
  }
  template <typename ReplyMessage>
  ReplyMessage Parse(const Result<std::string>& body) {
    ReplyMessage reply;
    EXPECT_TRUE(body.has_value()) << (body.has_value() ? "" : body.error().ToString());
    EXPECT_TRUE(reply.ParseFromString(body.value_or("\xff")));
    return reply;
  }

  Result<std::string> Register(const std::string& id, uint64_t incarnation) {
    proto::RegisterNodeRequest request;
    request.mutable_node()->set_id(id);
    request.mutable_node()->set_incarnation(incarnation);
    request.mutable_node()->set_data_address("127.0.0.1:7100");
    request.mutable_node()->set_capacity_bytes(1ull << 30);
    return Call("node.Register", request.SerializeAsString());
  }
  [[nodiscard]] std::string CreateVersionBody() const {
    proto::CreateVersionRequest request;
    request.set_checkpoint_path(model_dir().string());
    request.set_make_current(true);
    return request.SerializeAsString();
  }
  uint64_t CreateVersion() {
    return Parse<proto::CreateVersionReply>(Call("admin.CreateVersion", CreateVersionBody()))
        .version();
  }
  static std::string HeartbeatBody(const std::string& id, uint64_t incarnation, uint32_t wait_ms) {
    proto::HeartbeatRequest request;
    request.set_id(id);
    request.set_incarnation(incarnation);
    request.set_wait_ms(wait_ms);
    return request.SerializeAsString();
  }
  static std::string MapBody(uint64_t version, uint64_t known_epoch, uint32_t wait_ms,
                             const std::string& identity = {}) {
    proto::GetShardMapRequest request;
    request.set_version(version);
    request.set_known_epoch(known_epoch);
    request.set_wait_ms(wait_ms);
    request.set_model_identity(identity);
    return request.SerializeAsString();
  }
  proto::GetShardMapReply Map(uint64_t version) {
    return Parse<proto::GetShardMapReply>(Call("directory.GetShardMap", MapBody(version, 0, 0)));
  }

  test::ScratchDir scratch_;
  boost::asio::io_context io_;
  CoordinatorService::Options options_;
  RpcPeer peer_{1, "127.0.0.1:9"};
  bool disk_full_ = false;
  Status fatal_;
  std::unique_ptr<CoordinatorService> service_;
};

}  // namespace engram

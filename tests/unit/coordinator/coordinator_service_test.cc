// The shell around ClusterState, with a real state file and a real (tiny) checkpoint.
#include "coordinator/coordinator_service.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "coordinator/sqlite_store.h"
#include "engram/checkpoint/model_files.h"
#include "engram/table/table_proto.h"
#include "engram/tokenizer/tokenizer.h"
#include "proto/admin.pb.h"
#include "proto/directory.pb.h"
#include "proto/node.pb.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Longer than a test may run: a held call that is answered was woken.
constexpr uint32_t kForeverMs = 3'600'000;

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

  void SetUp() override {
    WriteCheckpoint();
    Start();
  }
  void TearDown() override { End(); }

  void Start() {
    auto store = SqliteStore::Open(scratch_.path() / "state.db");
    ASSERT_TRUE(store.has_value()) << store.error().ToString();
    CoordinatorService::Options options;
    options.cluster.heartbeat_interval = std::chrono::milliseconds(kForeverMs);
    options.cluster.down_after = std::chrono::milliseconds(3 * kForeverMs);
    options.wait_ms_max = kForeverMs;
    service_ = std::make_unique<CoordinatorService>(
        io_.get_executor(), std::make_unique<FillingStore>(*std::move(store), &disk_full_), options,
        [this](const Status& status) { fatal_ = status; });
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
    fs::create_directory(model_dir());
    fs::copy_file(fs::path(ENGRAM_TEST_DATA) / "tiny_tokenizer.json",
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
  [[nodiscard]] fs::path model_dir() const { return scratch_.path() / "model"; }

  // `method` must be a literal: the call may be held back.
  Reply BeginCall(std::string_view method, std::string body) {
    auto reply = std::make_shared<std::optional<Result<std::string>>>();
    boost::asio::co_spawn(io_, service_->Handle(peer_, method, std::move(body)),
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
  const RpcPeer peer_{1, "127.0.0.1:9"};
  bool disk_full_ = false;
  Status fatal_;
  std::unique_ptr<CoordinatorService> service_;
};

TEST_F(CoordinatorServiceTest, AMethodThatItDoesNotHaveIsNamed) {
  const auto reply = Call("admin.Reboot", "");
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(reply.error().message(), HasSubstr("admin.Reboot"));
}

TEST_F(CoordinatorServiceTest, ABodyThatIsNotTheMethodsMessageIsMalformed) {
  for (const char* method : {"node.Register", "node.Heartbeat", "directory.GetShardMap",
                             "directory.ReportSlot", "admin.CreateVersion", "admin.GetStatus"}) {
    const auto reply = Call(method, "\xff\xff\xff");
    ASSERT_FALSE(reply.has_value()) << method;
    EXPECT_EQ(reply.error().code(), StatusCode::kMalformed) << method;
  }
}

TEST_F(CoordinatorServiceTest, AMapOfNoVersionIsNotFound) {
  const auto current = Call("directory.GetShardMap", MapBody(0, 0, 0));
  ASSERT_FALSE(current.has_value());
  EXPECT_EQ(current.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(current.error().message(), HasSubstr("create-version"));
  // A number that no version has is answered at once, however long the caller would wait.
  const auto numbered = Call("directory.GetShardMap", MapBody(9, 0, kForeverMs));
  ASSERT_FALSE(numbered.has_value());
  EXPECT_EQ(numbered.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(numbered.error().message(), HasSubstr("9"));
}

TEST_F(CoordinatorServiceTest, ACheckpointThatIsNotThereIsNamed) {
  proto::CreateVersionRequest request;
  request.set_checkpoint_path((scratch_.path() / "nowhere").string());
  const auto reply = Call("admin.CreateVersion", request.SerializeAsString());
  ASSERT_FALSE(reply.has_value());
  EXPECT_THAT(reply.error().message(), HasSubstr("nowhere"));
}

TEST_F(CoordinatorServiceTest, AVersionNeedsANode) {
  const auto reply = Call("admin.CreateVersion", CreateVersionBody());
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorServiceTest, AClientOfAnotherModelIsRefused) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const auto refused =
      Call("directory.GetShardMap", MapBody(version, 0, kForeverMs, std::string(32, 'x')));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kWrongModel);
  const auto tables = ReadModelTables(model_dir(), true);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_THAT(refused.error().message(), HasSubstr(ModelIdentityHex(tables->identity)));
  const std::string own = ModelIdentityToBytes(tables->identity);
  const auto reply =
      Parse<proto::GetShardMapReply>(Call("directory.GetShardMap", MapBody(version, 0, 0, own)));
  EXPECT_EQ(reply.model_identity(), own);
  EXPECT_EQ(reply.map().version(), version);
}

TEST_F(CoordinatorServiceTest, AHeldHeartbeatIsAnsweredWhenAVersionIsCreated) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply held = BeginCall("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs));
  EXPECT_FALSE(held->has_value());
  const uint64_t version = CreateVersion();
  const auto reply = Parse<proto::HeartbeatReply>(Await(held));
  ASSERT_EQ(reply.changed_size(), 1);
  EXPECT_EQ(reply.changed(0).version(), version);
  EXPECT_EQ(reply.changed(0).checkpoint_path(), model_dir().string());
  EXPECT_EQ(reply.changed(0).slots_size(), Map(version).map().owners_size());
}

TEST_F(CoordinatorServiceTest, AHeldMapRequestIsAnsweredWhenTheMapChanges) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply early = BeginCall("directory.GetShardMap", MapBody(0, 0, kForeverMs));
  EXPECT_FALSE(early->has_value());  // no version yet: clients may come first
  const uint64_t version = CreateVersion();
  const uint64_t epoch = Parse<proto::GetShardMapReply>(Await(early)).map().epoch();
  const Reply held = BeginCall("directory.GetShardMap", MapBody(version, epoch, kForeverMs));
  EXPECT_FALSE(held->has_value());
  ASSERT_TRUE(Register("a", 12).has_value());  // the node's process started again
  const auto reply = Parse<proto::GetShardMapReply>(Await(held));
  EXPECT_GT(reply.map().epoch(), epoch);
  ASSERT_EQ(reply.map().nodes_size(), 1);
  EXPECT_EQ(reply.map().nodes(0).incarnation(), 12u);
}

TEST_F(CoordinatorServiceTest, AReaderOfADroppedVersionIsToldWhatIsCurrent) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  proto::DropVersionRequest drop;
  drop.set_version(version);
  ASSERT_TRUE(Call("admin.DropVersion", drop.SerializeAsString()).has_value());
  proto::GetShardMapRequest request;
  request.set_version(version);
  request.set_known_epoch(1);
  request.set_wait_ms(kForeverMs);
  request.set_known_current(version);
  const auto reply =
      Parse<proto::GetShardMapReply>(Call("directory.GetShardMap", request.SerializeAsString()));
  EXPECT_FALSE(reply.has_map());
  EXPECT_FALSE(reply.ready());
  EXPECT_NE(reply.current_version(), version);
  // Once it knows, there is nothing to tell.
  request.set_known_current(reply.current_version());
  EXPECT_EQ(Call("directory.GetShardMap", request.SerializeAsString()).error().code(),
            StatusCode::kNotFound);
}

TEST_F(CoordinatorServiceTest, StopAnswersHeldCalls) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply heartbeat = BeginCall("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs));
  const Reply map = BeginCall("directory.GetShardMap", MapBody(0, 0, kForeverMs));
  EXPECT_FALSE(heartbeat->has_value());
  EXPECT_FALSE(map->has_value());
  service_->Stop();
  EXPECT_TRUE(Await(heartbeat).has_value());
  EXPECT_EQ(Await(map).error().code(), StatusCode::kNotFound);
}

TEST_F(CoordinatorServiceTest, ARestartWithTheSameFileKeepsTheVersion) {
  const auto term = Parse<proto::RegisterNodeReply>(Register("a", 11)).term();
  const uint64_t version = CreateVersion();
  const auto before = Map(version);
  End();
  Start();
  const auto after = Map(0);
  EXPECT_EQ(after.map().version(), version);
  EXPECT_GT(after.map().epoch(), before.map().epoch());
  EXPECT_TRUE(std::equal(before.map().owners().begin(), before.map().owners().end(),
                         after.map().owners().begin(), after.map().owners().end()));
  EXPECT_EQ(after.model_identity(), before.model_identity());
  // The node is known still: it need not register again.
  const auto reply =
      Parse<proto::HeartbeatReply>(Call("node.Heartbeat", HeartbeatBody("a", 11, 0)));
  EXPECT_GT(reply.term(), term);
  EXPECT_EQ(reply.changed_size(), 1);
  EXPECT_EQ(CreateVersion(), version + 1);
}

TEST_F(CoordinatorServiceTest, WhatIsNotDurableIsNotAnsweredAndEndsTheCoordinator) {
  ASSERT_TRUE(Register("a", 11).has_value());
  disk_full_ = true;
  const auto reply = Call("admin.CreateVersion", CreateVersionBody());
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kIo);
  EXPECT_EQ(fatal_.code(), StatusCode::kIo);
  disk_full_ = false;
  End();
  Start();
  EXPECT_EQ(CreateVersion(), 1u);  // nobody ever saw the first one
}

// A store that several processes share, as the test says who leads.
class SharedStore final : public MetadataStore {
 public:
  struct World {
    Leadership leadership;
    std::function<void()> on_change;
    std::vector<MetadataRecord> records;
    Status commit;
    uint64_t resigned = 0;
  };
  explicit SharedStore(World* world) : world_(world) {}
  Status Campaign(std::string /*address*/, std::function<void()> on_change) override {
    world_->on_change = std::move(on_change);
    return Status();
  }
  Leadership leadership() const override { return world_->leadership; }
  void Resign(uint64_t term) override {
    world_->resigned = term;
    if (world_->leadership.term == term) world_->leadership.term = 0;
  }
  bool shared() const override { return true; }
  Result<std::vector<MetadataRecord>> ReadAll() override { return world_->records; }
  Status Commit(uint64_t term, const std::vector<MetadataRecord>& records) override {
    if (!world_->commit.ok()) return world_->commit;
    if (term != world_->leadership.term) return Status(StatusCode::kFailedPrecondition, "deposed");
    std::map<std::string, MetadataRecord> all;
    for (const MetadataRecord& record : world_->records) all[record.key] = record;
    for (const MetadataRecord& record : records) all[record.key] = record;
    world_->records.clear();
    for (const auto& [key, record] : all) world_->records.push_back(record);
    return Status();
  }

 private:
  World* const world_;
};

class FollowingServiceTest : public CoordinatorServiceTest {
 protected:
  void SetUp() override {
    WriteCheckpoint();
    CoordinatorService::Options options;
    options.cluster.heartbeat_interval = std::chrono::milliseconds(kForeverMs);
    options.cluster.down_after = std::chrono::milliseconds(3 * kForeverMs);
    options.wait_ms_max = kForeverMs;
    service_ = std::make_unique<CoordinatorService>(
        io_.get_executor(), std::make_unique<SharedStore>(&world_), options,
        [this](const Status& status) { fatal_ = status; });
    ASSERT_TRUE(service_->Start("here:1").ok());
  }
  void BecomeLeader(uint64_t term) {
    world_.leadership = {term, "here:1", nullptr, {}};
    Changed();
  }
  void BecomeFollower(const std::string& leader) {
    world_.leadership = {0, leader,
                         std::make_shared<const std::vector<MetadataRecord>>(world_.records),
                         SteadyClock().Now()};
    Changed();
  }
  void Changed() {
    world_.on_change();
    io_.restart();
    io_.poll();
  }
  SharedStore::World world_;
};

TEST_F(FollowingServiceTest, WhatItHasNotReadItDoesNotInvent) {
  EXPECT_EQ(Call("directory.GetShardMap", MapBody(0, 0, 0)).error().code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(Call("admin.GetStatus", "").error().code(), StatusCode::kUnavailable);
}

TEST_F(FollowingServiceTest, AFollowerAnswersReadsAndRefusesTheRestNamingTheLeader) {
  BecomeLeader(5);
  EXPECT_EQ(service_->leader(), "");
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const auto published = Map(version);
  EXPECT_FALSE(published.ready());

  BecomeFollower("there:1");
  EXPECT_EQ(service_->leader(), "there:1");
  const auto followed = Map(version);
  EXPECT_EQ(followed.SerializeAsString(), published.SerializeAsString());
  const auto status = Parse<proto::GetStatusReply>(Call("admin.GetStatus", ""));
  EXPECT_TRUE(status.follower());
  EXPECT_EQ(status.leader(), "there:1");
  EXPECT_EQ(status.nodes_size(), 1);
  const auto records = world_.records;
  for (const auto& reply :
       {Register("b", 22), Call("node.Heartbeat", HeartbeatBody("a", 11, 0)),
        Call("directory.ReportSlot", ""), Call("admin.CreateVersion", CreateVersionBody())}) {
    ASSERT_FALSE(reply.has_value());
    EXPECT_EQ(reply.error().code(), StatusCode::kUnavailable) << reply.error().ToString();
    EXPECT_THAT(reply.error().message(), HasSubstr("there:1"));
  }
  EXPECT_EQ(world_.records, records);
  // The leader may know it.
  EXPECT_EQ(Call("directory.GetShardMap", MapBody(9, 0, 0)).error().code(),
            StatusCode::kUnavailable);
}

TEST_F(FollowingServiceTest, AHeldMapRequestIsAnsweredWhenTheLeadersMapIsRead) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const auto records = world_.records;
  const uint64_t epoch = Map(version).map().epoch();
  ASSERT_TRUE(Register("a", 12).has_value());
  auto newer = std::exchange(world_.records, records);
  BecomeFollower("there:1");  // it has not read the newest yet
  const Reply held = BeginCall("directory.GetShardMap", MapBody(version, epoch, kForeverMs));
  EXPECT_FALSE(held->has_value());
  world_.records = std::move(newer);
  BecomeFollower("there:1");
  EXPECT_EQ(Parse<proto::GetShardMapReply>(Await(held)).map().nodes(0).incarnation(), 12u);
}

TEST_F(FollowingServiceTest, ClientsWithAMapAreSentAwayFromAFollowerThatIsCutOff) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  BecomeFollower("there:1");
  world_.leadership.followed_at -= std::chrono::seconds(60);
  EXPECT_EQ(Call("directory.GetShardMap", MapBody(version, 1, kForeverMs)).error().code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(Map(version).map().version(), version);  // a newcomer has nothing better
}

TEST_F(FollowingServiceTest, ALeaderThatCannotWriteStepsDownAndForgetsWhatItHad) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply held = BeginCall("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs));
  world_.commit = Status(StatusCode::kUnavailable, "etcd is away");
  // It may have been written: whoever asked must not simply ask again.
  EXPECT_EQ(Call("admin.CreateVersion", CreateVersionBody()).error().code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(world_.resigned, 5u);
  EXPECT_EQ(fatal_, Status());
  EXPECT_EQ(Await(held).error().code(), StatusCode::kUnavailable);
  world_.commit = Status();
  BecomeLeader(6);
  const auto status = Parse<proto::GetStatusReply>(Call("admin.GetStatus", ""));
  EXPECT_EQ(status.term(), 6u);
  EXPECT_EQ(status.versions_size(), 0);
  EXPECT_EQ(CreateVersion(), 1u);  // nobody ever saw the first one
}

TEST_F(FollowingServiceTest, ATermThatEndedUnseenIsNoticedBeforeAnythingIsDone) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const auto records = world_.records;
  world_.leadership = {0, "", nullptr, {}};  // the process was stopped past its lease
  EXPECT_EQ(Register("b", 22).error().code(), StatusCode::kUnavailable);
  EXPECT_EQ(world_.records, records);
}

TEST_F(FollowingServiceTest, DamagedRecordsEndALeader) {
  world_.records = {{"version/1", "rubbish"}};
  BecomeLeader(5);
  EXPECT_EQ(fatal_.code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace engram

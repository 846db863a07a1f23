// The program itself: exit codes, help, output for programs.
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/checkpoint/model_files.h"
#include "engram/tokenizer/tokenizer.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

test::CommandOutput Ctl(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), std::string(ENGRAM_BIN_DIR) + "/engramctl");
  return test::RunCommand(arguments, std::chrono::seconds(60));
}

// One model for all tests of this file.
class EngramctlTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = std::make_unique<test::ScratchDir>();
    const auto made =
        Ctl({"make-model", "--out", model().string(), "--tokenizer",
             std::string(ENGRAM_TEST_DATA) + "/tiny_tokenizer.json", "--base-rows", "60",
             "--layers-engram", "1,3", "--tables-only", "--seed", "3", "--json"});
    ASSERT_EQ(made.exit_status, 0) << made.err;
    made_ = json::parse(made.out);
  }
  static void TearDownTestSuite() { scratch_.reset(); }
  static fs::path model() { return scratch_->path() / "model"; }
  static fs::path Text(const std::string& name, const std::string& text) {
    std::ofstream(scratch_->path() / name, std::ios::binary) << text;
    return scratch_->path() / name;
  }

  static std::unique_ptr<test::ScratchDir> scratch_;
  static json made_;
};
std::unique_ptr<test::ScratchDir> EngramctlTest::scratch_;
json EngramctlTest::made_;

TEST_F(EngramctlTest, MakeModelTellsTheModelsIdentity) {
  const auto tables = ReadModelTables(model(), true);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_EQ(made_["model_identity"], ModelIdentityHex(tables->identity));
  EXPECT_EQ(made_["compressed_vocab_size"], tables->spec.hash.compressed_vocab_size);
}

TEST_F(EngramctlTest, ScaleInWithoutACoordinatorTellsTheUpgradeThatMendsIt) {
  const auto away = Ctl({"scale-in", "--of", "m-", "--keep", "m-=3", "--wait", "--wait-timeout-s",
                         "0.001", "--coordinator", "127.0.0.1:1"});
  EXPECT_EQ(away.exit_status, 1);
  EXPECT_THAT(away.err, HasSubstr("Nothing was drained or forgotten"));
  EXPECT_THAT(away.err, HasSubstr("set memoryNodes.scaleIn.enabled=false for this upgrade"));
}

TEST_F(EngramctlTest, RollOutsideAPodTellsWhatIsMissing) {
  const auto bare = Ctl({"roll", "--statefulset", "m", "--coordinator", "127.0.0.1:1", "--api-host",
                         "127.0.0.1", "--account", (scratch_->path() / "none").string()});
  EXPECT_EQ(bare.exit_status, 1);
  EXPECT_THAT(bare.err, HasSubstr("none/namespace: is it mounted"));
}

TEST_F(EngramctlTest, HelpTeachesAndExitsWithZero) {
  const auto help = Ctl({"--help"});
  EXPECT_EQ(help.exit_status, 0);
  for (const char* command : {"make-model", "hash", "status", "create-version"}) {
    EXPECT_THAT(help.out, HasSubstr(command));
    EXPECT_EQ(Ctl({command, "--help"}).exit_status, 0);
  }
}

TEST_F(EngramctlTest, WrongUsageExitsWithTwo) {
  EXPECT_EQ(Ctl({}).exit_status, 2);
  EXPECT_EQ(Ctl({"dance"}).exit_status, 2);
  EXPECT_EQ(Ctl({"hash"}).exit_status, 2);
  EXPECT_EQ(Ctl({"hash", "--model", "x"}).exit_status, 2);
  EXPECT_EQ(Ctl({"hash", "--model", "x", "--text-file", "a", "--ids-file", "b"}).exit_status, 2);
  EXPECT_EQ(Ctl({"make-model", "--out", "x", "--tokenizer", "y", "--variant", "v42"}).exit_status,
            2);
  EXPECT_EQ(Ctl({"create-version", "--coordinator", "a:1", "--model", "x", "--replicas", "4"})
                .exit_status,
            2);
}

TEST_F(EngramctlTest, FailureExitsWithOneAndNamesTheCode) {
  const auto failed = Ctl({"hash", "--model", "/nonexistent", "--text-file", "a", "--json"});
  EXPECT_EQ(failed.exit_status, 1);
  EXPECT_THAT(failed.err, HasSubstr("engramctl: NOT_FOUND: "));
  EXPECT_EQ(json::parse(failed.out)["error"]["code"], "NOT_FOUND");
  const auto again = Ctl({"make-model", "--out", model().string(), "--tokenizer",
                          (model() / "tokenizer.json").string(), "--tables-only"});
  EXPECT_EQ(again.exit_status, 1);
  EXPECT_THAT(again.err, HasSubstr("ALREADY_EXISTS"));
}

TEST_F(EngramctlTest, CoordinatorThatIsNotThereIsUnavailable) {
  // Port 1 is reserved and nobody listens there.
  const auto failed = Ctl({"status", "--coordinator", "127.0.0.1:1"});
  EXPECT_EQ(failed.exit_status, 1);
  EXPECT_THAT(failed.err, HasSubstr("UNAVAILABLE"));
  EXPECT_THAT(failed.err, HasSubstr("127.0.0.1:1"));
}

TEST_F(EngramctlTest, HashPrintsTheHashersBucketsAndRowIds) {
  const auto tables = ReadModelTables(model(), false);
  ASSERT_TRUE(tables.has_value());
  const auto hasher = NgramHasher::Create(tables->spec.hash, tables->compression);
  ASSERT_TRUE(hasher.has_value());
  const auto layout = TableLayout::Create(tables->spec);
  ASSERT_TRUE(layout.has_value());
  const std::vector<TokenId> ids = {5, 6, 7, 300, 5, 6};
  const auto out = Ctl({"hash", "--model", model().string(), "--ids-file",
                        Text("ids.json", json(ids).dump()).string(), "--format", "json"});
  ASSERT_EQ(out.exit_status, 0) << out.err;
  const json document = json::parse(out.out);
  EXPECT_EQ(document["compressed_vocab_size"], tables->spec.hash.compressed_vocab_size);
  EXPECT_EQ(document["ids"], ids);
  ASSERT_EQ(document["layers"].size(), 2u);
  for (int32_t l = 0; l < 2; ++l) {
    const json& layer =
        document["layers"][std::to_string(tables->spec.hash.layer_ids[static_cast<size_t>(l)])];
    std::vector<uint32_t> buckets(24 * ids.size());
    TokenRun run;
    run.tokens = ids;
    hasher->Hash(l, run, buckets.data(), ids.size());
    ASSERT_EQ(layer["buckets"].size(), ids.size());
    ASSERT_EQ(layer["row_ids"].size(), ids.size());
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int32_t c = 0; c < 24; ++c) {
        const auto column = static_cast<size_t>(c);
        const uint32_t bucket = buckets[column * ids.size() + t];
        EXPECT_EQ(layer["buckets"][t][column], bucket);
        EXPECT_EQ(layer["row_ids"][t][column], layout->column(l, c).row_offset + bucket);
      }
    }
  }
}

TEST_F(EngramctlTest, HashOfATextHasTheTokenizersIdsWithoutBos) {
  const auto tokenizer = Tokenizer::Load(model() / "tokenizer.json");
  ASSERT_TRUE(tokenizer.has_value());
  const std::string text = "The quick brown fox";
  const auto out =
      Ctl({"hash", "--model", model().string(), "--text-file", Text("text.txt", text).string()});
  ASSERT_EQ(out.exit_status, 0) << out.err;
  EXPECT_EQ(json::parse(out.out)["ids"], tokenizer->Encode(text));
}

TEST_F(EngramctlTest, HashOfNothingIsEmptyLists) {
  const auto out =
      Ctl({"hash", "--model", model().string(), "--ids-file", Text("none.json", "[]").string()});
  ASSERT_EQ(out.exit_status, 0) << out.err;
  EXPECT_EQ(json::parse(out.out)["layers"]["1"]["row_ids"], json::array());
}

TEST_F(EngramctlTest, HashRefusesIdsOutsideTheVocabularyAndOtherJson) {
  for (const char* text : {"[5, 999999]", "[1.5]", "{}", "[1", "[99999999999999999999]"}) {
    const auto out =
        Ctl({"hash", "--model", model().string(), "--ids-file", Text("bad.json", text).string()});
    EXPECT_EQ(out.exit_status, 1) << text;
    EXPECT_EQ(out.out, "") << text;
  }
}

}  // namespace
}  // namespace engram

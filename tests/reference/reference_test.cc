// The CPU backend against reference_model.py: the same logits, however a sequence is cut.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/reference/sequence_run.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram::test {
namespace {

constexpr const char* kPython = "/usr/bin/python3";
constexpr double kErrorMax = 1e-4;  // of the logits' range
constexpr Backend::Limits kLimits{8, 256, 256};

struct Case {
  const char* name;
  TinyModelShape shape;
  bool dead = false;
  bool engram_off = false;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  cases.push_back({"V41", {}, true});
  cases.push_back({"V41EngramOff", {}, false, true});
  TinyModelShape bf16;
  bf16.tied = false;
  bf16.dtype = Dtype::kBf16;
  bf16.name_prefix = "model.";
  bf16.max_ngram_size = 4;
  bf16.head_dim = 32;
  bf16.hidden_size = 96;
  bf16.engram_layers = {0, 2};
  bf16.kv_head_count = 1;
  cases.push_back({"V41Bf16Untied", bf16, true});
  TinyModelShape demo;
  demo.variant = Variant::kDemo;
  demo.row_values = 20;
  cases.push_back({"Demo", demo});
  demo.demo_table_dtype = Dtype::kBf16;
  demo.dtype = Dtype::kF16;
  demo.kv_head_count = 4;
  demo.head_dim = 16;
  cases.push_back({"DemoBf16Table", demo});
  TinyModelShape plain;
  plain.variant = std::nullopt;
  plain.head_count = 6;
  cases.push_back({"PlainQwen3", plain});
  return cases;
}

// What reference_model.py exits with where PyTorch is not installed.
constexpr int kNoTorch = 77;

// [prompt][position][vocabulary]; nothing, with a test failure, when the reference failed, and
// nothing, with *no_torch, without PyTorch.
Logits ReferenceLogits(const TinyModel& model, const std::vector<Prompt>& prompts, bool engram_off,
                       bool* no_torch) {
  nlohmann::json list = nlohmann::json::array();
  for (const Prompt& prompt : prompts) {
    list.push_back({{"ids", prompt.ids}});
    if (!prompt.dead.empty()) list.back()["dead"] = prompt.dead;
  }
  const auto prompts_file = model.dir() / "prompts.json";
  const auto out_file = model.dir() / "logits.bin";
  std::ofstream(prompts_file) << list.dump();
  std::vector<std::string> command = {
      kPython,         ENGRAM_SOURCE_DIR "/tests/reference/reference_model.py",
      "--model",       model.dir().string(),
      "--compression", (model.dir() / "compression.json").string(),
      "--prompts",     prompts_file.string(),
      "--out",         out_file.string()};
  if (engram_off) command.push_back("--engram-off");
  const CommandOutput run = RunCommand(command, std::chrono::seconds(100));
  *no_torch = run.exit_status == kNoTorch;
  if (*no_torch) return {};
  EXPECT_EQ(run.exit_status, 0) << run.err;
  const std::string bytes = ReadFile(out_file);
  const auto vocabulary = static_cast<size_t>(model.shape().vocabulary_size);
  Logits logits;
  size_t at = 0;
  for (const Prompt& prompt : prompts) {
    logits.emplace_back();
    for (size_t t = 0; t < prompt.ids.size(); ++t) {
      std::vector<float> row(vocabulary);
      if (at + vocabulary * 4 > bytes.size()) {
        ADD_FAILURE() << "the reference wrote " << bytes.size() << " bytes";
        return {};
      }
      std::memcpy(row.data(), bytes.data() + at, vocabulary * 4);
      at += vocabulary * 4;
      logits.back().push_back(std::move(row));
    }
  }
  return logits;
}

// The largest difference where `ours` has logits, relative to the reference's range there.
double WorstError(const Logits& ours, const Logits& reference) {
  double worst = 0;
  for (size_t p = 0; p < ours.size(); ++p) {
    for (size_t t = 0; t < ours[p].size(); ++t) {
      if (ours[p][t].empty()) continue;
      const std::vector<float>& expected = reference[p][t];
      const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
      for (size_t i = 0; i < expected.size(); ++i) {
        const double error = std::abs(double{ours[p][t][i]} - double{expected[i]});
        // Written so that NaN counts as wrong.
        if (!(error / (*high - *low) <= worst)) worst = error / (*high - *low);
      }
    }
  }
  return worst;
}

class ReferenceTest : public testing::TestWithParam<Case> {};

TEST_P(ReferenceTest, LogitsAgreeInPrefillInChunksAndTokenByToken) {
  const Case& c = GetParam();
  const ScratchDir scratch;
  const TinyModel model = TinyModel::Write(c.shape, scratch.path() / "model");
  std::vector<Prompt> prompts;
  for (const uint32_t tokens : {37u, 1u, 5u, 90u}) {
    prompts.push_back(RandomPrompt(c.shape, tokens, c.dead, tokens));
  }
  bool no_torch = false;
  const Logits reference = ReferenceLogits(model, prompts, c.engram_off, &no_torch);
  if (no_torch) GTEST_SKIP() << kPython << " has no torch: install the package python3-torch";
  ASSERT_FALSE(HasFailure());
  const auto backend = OpenBackend(model, 2, kLimits);
  ASSERT_NE(backend, nullptr);
  for (const uint32_t chunk : {256u, 7u, 1u}) {
    for (const bool together : {false, true}) {
      if (together && chunk == 256) continue;
      const Logits ours =
          RunSequences(backend.get(), model, prompts, {chunk, together, !c.engram_off});
      ASSERT_FALSE(HasFatalFailure());
      const double error = WorstError(ours, reference);
      EXPECT_LT(error, kErrorMax) << "chunks of " << chunk << (together ? ", together" : "");
      if (chunk == 1 && together) {
        RecordProperty("worst_error", std::to_string(error));
        printf("worst error: %.2e of the logits' range\n", error);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ReferenceTest, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace engram::test

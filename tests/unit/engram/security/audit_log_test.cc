#include "engram/security/audit_log.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/child_process.h"

namespace engram {
namespace {

using nlohmann::json;

std::vector<json> Entries(const std::filesystem::path& file) {
  std::vector<json> entries;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) entries.push_back(json::parse(line));
  return entries;
}

TEST(AuditLogTest, AnEntryHasWhoWhatWhenWhereAndTheOutcome) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const PeerIdentity ann{Role::kOperator, "ann"};
  {
    const auto log = AuditLog::Open({.file = file}).value();
    log->Write({&ann, "10.0.0.7:51022", "admin.DrainNode", "m0", Status()});
  }
  // Appended to after a restart.
  const auto log = AuditLog::Open({.file = file}).value();
  log->Write(
      {nullptr, "10.0.0.8:1", "connect", {}, {StatusCode::kPermissionDenied, "not of our CA"}});
  auto entries = Entries(file);
  ASSERT_EQ(entries.size(), 1u);
  entries.push_back(Entries(scratch.path() / "audit.refused.log").at(0));
  EXPECT_EQ(entries[0].at("who"), "ann");
  EXPECT_EQ(entries[0].at("role"), "operator");
  EXPECT_EQ(entries[0].at("from"), "10.0.0.7:51022");
  EXPECT_EQ(entries[0].at("what"), "admin.DrainNode");
  EXPECT_EQ(entries[0].at("about"), "m0");
  EXPECT_EQ(entries[0].at("outcome"), "OK");
  EXPECT_THAT(entries[0].at("time").get<std::string>(),
              testing::MatchesRegex("20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:"
                                    "[0-9][0-9][.][0-9][0-9][0-9]Z"));
  EXPECT_EQ(entries[1].at("who"), "");
  EXPECT_EQ(entries[1].at("outcome"), "PERMISSION_DENIED");
  EXPECT_EQ(entries[1].at("message"), "not of our CA");
}

TEST(AuditLogTest, AHostileNameIsOneLineAndNoMore) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file}).value();
  const PeerIdentity eve{Role::kReader, "eve\n{\"who\":\"ann\"}\r\x1b[2J\xff\xfe\""};
  const std::string what("admin.\0\n%v%s{}", 14);
  log->Write({&eve, "x", what, "a\tb", Status()});
  const auto entries = Entries(file);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_THAT(entries[0].at("who").get<std::string>(),
              testing::StartsWith("eve\n{\"who\":\"ann\"}"));
  EXPECT_EQ(entries[0].at("what"), what);
  EXPECT_EQ(test::ReadFile(file).find('\x1b'), std::string::npos);
}

TEST(AuditLogTest, AFullFileIsKeptUnderAnotherNameAndTheOldestGoes) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file, .bytes_max = 2000, .files_max = 2}).value();
  for (int i = 0; i < 100; ++i) {
    log->Write({nullptr, "x", "node.Register", std::to_string(i), Status()});
  }
  size_t files = 0;
  int highest = -1;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
    ++files;
    EXPECT_LE(entry.file_size(), 2000u);
    for (const json& line : Entries(entry.path())) {
      highest = std::max(highest, std::stoi(line.at("about").get<std::string>()));
    }
  }
  EXPECT_EQ(files, 4u);  // and one of refusals, which is empty
  EXPECT_EQ(highest, 99);
}

TEST(AuditLogTest, AFloodOfRefusalsLeavesEveryChangeInPlace) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file, .bytes_max = 4000, .files_max = 1}).value();
  const PeerIdentity ann{Role::kOperator, "ann"};
  constexpr StatusCode kRefusals[] = {StatusCode::kPermissionDenied,   StatusCode::kMalformed,
                                      StatusCode::kInvalidArgument,    StatusCode::kNotFound,
                                      StatusCode::kFailedPrecondition, StatusCode::kUnavailable,
                                      StatusCode::kResourceExhausted};
  for (int i = 0; i < 10; ++i) {
    log->Write({&ann, "x", "admin.DrainNode", "m" + std::to_string(i), Status()});
    for (int j = 0; j < 200; ++j) {
      log->Write({nullptr, "x", "node.Register", "eve", {kRefusals[j % std::size(kRefusals)], ""}});
    }
  }
  // What may have been done is a change too.
  log->Write({&ann, "x", "admin.DropVersion", "7", {StatusCode::kDeadlineExceeded, "no answer"}});
  const auto changes = Entries(file);
  ASSERT_EQ(changes.size(), 11u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(changes[i].at("about"), "m" + std::to_string(i));
  EXPECT_EQ(changes[10].at("about"), "7");
  uint64_t refused_bytes = 0;
  for (const char* const name : {"audit.refused.log", "audit.refused.1.log"}) {
    const auto refusals = Entries(scratch.path() / name);
    EXPECT_FALSE(refusals.empty()) << name;
    for (const json& entry : refusals) EXPECT_EQ(entry.at("about"), "eve");
    refused_bytes += std::filesystem::file_size(scratch.path() / name);
  }
  EXPECT_LE(refused_bytes, 8000u);
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "audit.refused.2.log"));
}

TEST(AuditLogTest, RefusalsAreBesideTheChangesWhateverTheFileIsCalled) {
  EXPECT_EQ(RefusalsBeside("/var/log/audit.log"), "/var/log/audit.refused.log");
  EXPECT_EQ(RefusalsBeside("c0"), "c0.refused");
  EXPECT_EQ(RefusalsBeside("logs.d/c0"), "logs.d/c0.refused");
}

TEST(AuditLogTest, LinesOfManyThreadsStayWhole) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file}).value();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 250; ++i) {
        log->Write({nullptr, std::to_string(t), "connect", std::string(200, 'x'), Status()});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Entries(file).size(), 1000u);
}

TEST(AuditLogTest, ALineIsBoundedWhateverWasAskedFor) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file}).value();
  const std::string hostile(10u << 20, '\x01');
  const PeerIdentity eve{Role::kOperator, hostile};
  log->Write({&eve, "x", hostile, hostile, Status(StatusCode::kInternal, hostile)});
  EXPECT_EQ(Entries(file).size(), 1u);
  EXPECT_LT(std::filesystem::file_size(file), 16u << 10);
}

// A limit of this process, until the end of its life.
class Limit {
 public:
  Limit(__rlimit_resource resource, rlim_t limit) : resource_(resource) {
    EXPECT_EQ(::getrlimit(resource_, &before_), 0);
    const rlimit now{limit, before_.rlim_max};
    EXPECT_EQ(::setrlimit(resource_, &now), 0);
  }
  ~Limit() { EXPECT_EQ(::setrlimit(resource_, &before_), 0); }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  const __rlimit_resource resource_;
  rlimit before_{};
};

// Writes numbered changes, short and long, and reads them all again.
class Numbered {
 public:
  explicit Numbered(std::filesystem::path file)
      : file_(std::move(file)),
        log_(AuditLog::Open({.file = file_, .bytes_max = 2000, .files_max = 3}).value()) {}
  void Write(int count) {
    for (int i = 0; i < count; ++i) {
      const std::string padding(i % 2 == 0 ? 400 : 0, 'x');
      log_->Write({nullptr, "x", padding, std::to_string(written_++), Status()});
    }
  }
  // Until the file has given way to another, so that it is small again.
  void WriteUntilRotated() {
    const auto small = [&] {
      std::error_code none;
      return std::filesystem::file_size(file_, none) < 1000;
    };
    for (int i = 0; i < 1000; ++i) {
      Write(1);
      if (std::filesystem::is_regular_file(OlderName(1)) && small()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "never rotated";
  }
  // Writes 40, in a folder where no file can be moved.
  void FailToRotate() {
    // Folders are not renamed over, and by nobody: root would not mind a folder's permissions.
    for (int i = 1; i <= 3; ++i) std::filesystem::create_directories(OlderName(i) / "x");
    Write(40);
    for (int i = 1; i <= 3; ++i) EXPECT_TRUE(std::filesystem::is_directory(OlderName(i)));
    for (int i = 1; i <= 3; ++i) std::filesystem::remove_all(OlderName(i));
  }
  // Of the newest `count`, how many are in the files.
  [[nodiscard]] int Found(int count) const {
    std::vector<bool> found(static_cast<size_t>(written_));
    for (const auto& name : {file_, OlderName(1), OlderName(2), OlderName(3)}) {
      for (const json& entry : Entries(name)) {
        found[static_cast<size_t>(std::stoi(entry.at("about").get<std::string>()))] = true;
      }
    }
    return static_cast<int>(std::count(found.end() - count, found.end(), true));
  }
  [[nodiscard]] std::filesystem::path OlderName(int number) const {
    return file_.parent_path() / ("audit." + std::to_string(number) + ".log");
  }

 private:
  const std::filesystem::path file_;
  const std::shared_ptr<AuditLog> log_;
  int written_ = 0;
};

TEST(AuditLogTest, WithoutADescriptorForTheNextFileItIsWrittenOn) {
  const test::ScratchDir scratch;
  Numbered log(scratch.path() / "audit.log");
  // UBSan looks at the type of an object once, and needs a descriptor for that: a rotation that
  // fails for another reason goes first.
  log.FailToRotate();
  log.WriteUntilRotated();
  {
    const int lowest = ::dup(0);
    ASSERT_GE(lowest, 0);
    ::close(lowest);
    const Limit none(RLIMIT_NOFILE, static_cast<rlim_t>(lowest));
    log.Write(39);
  }
  EXPECT_EQ(log.Found(40), 40);
  log.WriteUntilRotated();
}

TEST(AuditLogTest, WhereItCannotBeRenamedNothingIsLost) {
  const test::ScratchDir scratch;
  Numbered log(scratch.path() / "audit.log");
  log.FailToRotate();
  EXPECT_EQ(log.Found(40), 40);
  log.WriteUntilRotated();
  EXPECT_EQ(log.Found(40), 40);
}

TEST(AuditLogTest, ALineThatWasCutShortSpoilsNoOther) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file}).value();
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  log->Write({nullptr, "x", "node.Register", "whole", Status()});
  {
    const Limit full(RLIMIT_FSIZE, static_cast<rlim_t>(std::filesystem::file_size(file) + 20));
    log->Write({nullptr, "x", "node.Register", "cut", Status()});
    log->Write({nullptr, "x", "node.Register", "none", Status()});
  }
  log->Write({nullptr, "x", "node.Register", "after", Status()});
  (void)std::signal(SIGXFSZ, before);
  std::vector<std::string> whole;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const json entry = json::parse(line, nullptr, false);
    if (entry.is_object()) whole.push_back(entry.at("about"));
  }
  EXPECT_THAT(whole, testing::ElementsAre("whole", "after"));
}

TEST(AuditLogTest, AFileThatCannotBeOpenedIsNamedAndAFullDiskEndsNothing) {
  EXPECT_THAT(AuditLog::Open({.file = "/proc/no/audit.log"}).error().message(),
              testing::HasSubstr("/proc/no/audit.log"));
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  std::filesystem::create_symlink("/dev/full", file);
  std::filesystem::create_symlink("/dev/full", RefusalsBeside(file));
  const auto full = AuditLog::Open({.file = file});
  ASSERT_TRUE(full.has_value());
  for (int i = 0; i < 3; ++i) {
    (*full)->Write({nullptr, "x", "node.Register", {}, Status()});
    (*full)->Write({nullptr, "x", "connect", {}, Status(StatusCode::kPermissionDenied, "no")});
  }
}

}  // namespace
}  // namespace engram

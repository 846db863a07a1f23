// What integration tests rely on: a sanitizer's report in a child process fails the test.
#include "tests/support/child_process.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <signal.h>

namespace engram::test {
namespace {

using std::chrono::seconds;

std::vector<std::string> Shell(const std::string& script) { return {"/bin/sh", "-c", script}; }

TEST(ChildProcessTest, ASanitizerReportOfACommandFailsTheTest) {
  EXPECT_NONFATAL_FAILURE(
      (void)RunCommand(Shell("echo 'WARNING: ThreadSanitizer: data race (pid=1)' >&2"),
                       seconds(60)),
      "ThreadSanitizer: data race");
  EXPECT_NONFATAL_FAILURE(
      (void)RunCommand(Shell("echo 'a.cc:1:2: runtime error: overflow' >&2"), seconds(60)),
      "runtime error: overflow");
}

TEST(ChildProcessTest, ASanitizerReportOfAKilledProcessFailsTheTest) {
  const ScratchDir scratch;
  const auto log = scratch.path() / "log";
  auto child =
      ChildProcess::Start(Shell("echo '==1==ERROR: AddressSanitizer: use' >&2; sleep 60"), log);
  ASSERT_TRUE(child.has_value()) << child.error().ToString();
  while (ReadFile(log).empty()) ASSERT_EQ(child->Wait(std::chrono::milliseconds(5)), -1);
  EXPECT_NONFATAL_FAILURE(child->Stop(SIGKILL), "AddressSanitizer: use");
}

TEST(ChildProcessTest, WhatAQuietProcessSaysFailsNothing) {
  const CommandOutput output = RunCommand(Shell("echo out; echo err >&2; exit 3"), seconds(60));
  EXPECT_EQ(output.exit_status, 3);
  EXPECT_EQ(output.out, "out\n");
  EXPECT_EQ(output.err, "err\n");
}

}  // namespace
}  // namespace engram::test

#include "bench/started_program.h"

#include <optional>
#include <utility>

#include <gtest/gtest.h>
#include <signal.h>

namespace engram::bench {
namespace {

TEST(StartedProgramTest, IsKilledAndReapedWithItsObject) {
  auto started = StartedProgram::Start({"sleep", "600"});
  ASSERT_TRUE(started.has_value()) << started.error().ToString();
  std::optional<StartedProgram> process(*std::move(started));
  const pid_t pid = process->pid();
  EXPECT_EQ(kill(pid, 0), 0);
  process.reset();
  EXPECT_EQ(kill(pid, 0), -1);  // a zombie would still be found
  EXPECT_EQ(errno, ESRCH);
}

TEST(StartedProgramTest, OneThatEndsWhileItStartsIsToldWithWhatItSaid) {
  const auto port = FreePort();
  ASSERT_TRUE(port.has_value());
  auto process = StartedProgram::Start({"sh", "-c", "echo no room on the disk >&2; exit 3"});
  ASSERT_TRUE(process.has_value()) << process.error().ToString();
  const Status status = process->AwaitListening(*port);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("no room on the disk"), std::string::npos) << status.message();
}

TEST(StartedProgramTest, EndIsAwaitedAndAFailureIsToldWithWhatItSaid) {
  auto good = StartedProgram::Start({"sh", "-c", "echo done"});
  ASSERT_TRUE(good.has_value()) << good.error().ToString();
  EXPECT_TRUE(good->AwaitEnd().ok());
  auto bad = StartedProgram::Start({"sh", "-c", "echo no such host; exit 3"});
  ASSERT_TRUE(bad.has_value()) << bad.error().ToString();
  const Status status = bad->AwaitEnd();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("no such host"), std::string::npos) << status.message();
}

TEST(StartedProgramTest, ProgramThatIsNotThereIsNotFound) {
  EXPECT_EQ(FindProgram("engram-no-such-program").error().code(), StatusCode::kNotFound);
  EXPECT_EQ(FindProgram("/no/such/program").error().code(), StatusCode::kNotFound);
  EXPECT_EQ(StartedProgram::Start({"engram-no-such-program"}).error().code(),
            StatusCode::kNotFound);
  EXPECT_TRUE(FindProgram("sh").has_value());
}

}  // namespace
}  // namespace engram::bench

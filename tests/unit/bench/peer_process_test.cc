#include "bench/peer_process.h"

#include <optional>
#include <utility>

#include <gtest/gtest.h>
#include <signal.h>

namespace engram::bench {
namespace {

TEST(PeerProcessTest, IsKilledAndReapedWithItsObject) {
  auto started = PeerProcess::Start({"sleep", "600"});
  ASSERT_TRUE(started.has_value()) << started.error().ToString();
  std::optional<PeerProcess> process(*std::move(started));
  const pid_t pid = process->pid();
  EXPECT_EQ(kill(pid, 0), 0);
  process.reset();
  EXPECT_EQ(kill(pid, 0), -1);  // a zombie would still be found
  EXPECT_EQ(errno, ESRCH);
}

TEST(PeerProcessTest, OneThatEndsWhileItStartsIsToldWithWhatItSaid) {
  const auto port = FreePort();
  ASSERT_TRUE(port.has_value());
  auto process = PeerProcess::Start({"sh", "-c", "echo no room on the disk >&2; exit 3"});
  ASSERT_TRUE(process.has_value()) << process.error().ToString();
  const Status status = process->AwaitListening(*port);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("no room on the disk"), std::string::npos) << status.message();
}

TEST(PeerProcessTest, ProgramThatIsNotThereIsNotFound) {
  EXPECT_EQ(FindProgram("engram-no-such-program").error().code(), StatusCode::kNotFound);
  EXPECT_EQ(FindProgram("/no/such/program").error().code(), StatusCode::kNotFound);
  EXPECT_EQ(PeerProcess::Start({"engram-no-such-program"}).error().code(), StatusCode::kNotFound);
  EXPECT_TRUE(FindProgram("sh").has_value());
}

}  // namespace
}  // namespace engram::bench

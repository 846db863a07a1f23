// Nodes and readers as processes of their own that are killed, stopped and spoken to rudely.
#include <csignal>
#include <filesystem>
#include <ostream>
#include <thread>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engram/transport/ucx/ucx_transport.h"
#include "tests/support/child_process.h"
#include "tests/unit/engram/transport/recorded_events.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram {
namespace {

constexpr TableVersion kVersion(7);

struct Setting {
  const char* name;
  const char* tls;
  const char* one_sided;
  ReadWay way;

  // CTest takes the printed parameter into the test's name.
  friend std::ostream& operator<<(std::ostream& out, const Setting& setting) {
    return out << setting.name;
  }
};

class NodeProcessTest : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    layout_ = test::SmallLayout();
    StartNode();
    UcxTransportOptions options;
    options.tls = GetParam().tls;
    options.one_sided = GetParam().one_sided;
    options.way = GetParam().way;
    options.keep_alive = std::chrono::milliseconds(3000);
    options.open_timeout = std::chrono::seconds(30);
    transport_ = UcxTransport::Create(options).value();
    events_.emplace(layout_->row_stride());
    reader_ = transport_->CreateReader(&*events_).value();
  }
  static std::string Program(const char* name) {
    return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / name).string();
  }
  void StartNode() {
    const auto address_file = scratch_.path() / "address";
    std::filesystem::remove(address_file);
    node_ = test::ChildProcess::Start(
                {Program("test-row-node"), "--address-file", address_file.string(), "--tls",
                 GetParam().tls, "--one-sided", GetParam().one_sided},
                scratch_.path() / "node.log")
                .value();
    for (int i = 0; i < 1200 && !std::filesystem::exists(address_file); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ASSERT_TRUE(std::filesystem::exists(address_file))
        << test::ReadFile(scratch_.path() / "node.log");
    address_ = test::ReadFile(address_file);
  }
  template <typename Done>
  bool Drive(Done done) {
    return test::DriveUntil(*reader_, done, std::chrono::seconds(60));
  }
  SessionId OpenSession() {
    const SessionId session = reader_->Open(test::TargetOf(address_, kVersion, *layout_));
    EXPECT_TRUE(Drive(
        [&] { return events_->opened.contains(session) || events_->closed.contains(session); }));
    EXPECT_TRUE(events_->opened.contains(session));
    return session;
  }
  void ExpectReadsRight(SessionId session, uint64_t tag) {
    const auto rows = test::SomeRows(*layout_, 1000, tag);
    events_->Expect(tag, rows.size());
    ASSERT_EQ(reader_->Post(session, tag, rows, MonotonicTime::max()), StatusCode::kOk);
    ASSERT_TRUE(Drive([&] { return events_->reads.at(tag).done.has_value(); }));
    ASSERT_EQ(events_->reads.at(tag).done, StatusCode::kOk);
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(events_->reads.at(tag).rows[i], test::StoredRow(*layout_, kVersion, rows[i]));
    }
  }
  // Posts reads, then ends the node so; each read must end, and none with a wrong row.
  void PostManyThen(SessionId session, int signal) {
    const auto rows = test::SomeRows(*layout_, 2000);
    for (uint64_t tag = 100; tag < 132; ++tag) {
      events_->Expect(tag, rows.size());
      ASSERT_EQ(reader_->Post(session, tag, rows, MonotonicTime::max()), StatusCode::kOk);
    }
    node_.Signal(signal);
    ASSERT_TRUE(Drive([&] { return events_->closed.contains(session); }));
    EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kPeerLost)
        << events_->closed.at(session).ToString();
    for (uint64_t tag = 100; tag < 132; ++tag) {
      const test::RecordedRead& read = events_->reads.at(tag);
      ASSERT_TRUE(read.done.has_value());
      for (size_t i = 0; i < rows.size(); ++i) {
        if (read.rows[i].empty()) continue;
        ASSERT_EQ(read.rows[i], test::StoredRow(*layout_, kVersion, rows[i]));
      }
    }
  }

  test::ScratchDir scratch_;
  std::shared_ptr<const TableLayout> layout_;
  test::ChildProcess node_;
  std::string address_;
  std::unique_ptr<Transport> transport_;
  std::optional<test::RecordedEvents> events_;
  std::unique_ptr<RowReader> reader_;
};

INSTANTIATE_TEST_SUITE_P(Ways, NodeProcessTest,
                         ::testing::Values(Setting{"TcpGather", "tcp", "off", ReadWay::kGather},
                                           Setting{"AutoGather", "auto", "off", ReadWay::kGather},
                                           Setting{"ShmGather", "shm", "off", ReadWay::kGather},
                                           Setting{"Mapped", "auto", "off", ReadWay::kMapped},
                                           Setting{"OneSided", "auto", "shm", ReadWay::kOneSided}),
                         [](const auto& test) { return test.param.name; });

TEST_P(NodeProcessTest, RowsOfAnotherProcessAreTheStoredOnes) {
  const SessionId session = OpenSession();
  EXPECT_EQ(events_->opened.at(session).way, GetParam().way);
  for (uint64_t tag = 1; tag < 20; ++tag) ExpectReadsRight(session, tag);
}

TEST_P(NodeProcessTest, KilledNodeIsLostAndItsSuccessorIsRead) {
  const SessionId session = OpenSession();
  ExpectReadsRight(session, 1);
  PostManyThen(session, SIGKILL);
  node_.Stop(SIGKILL);
  StartNode();
  ExpectReadsRight(OpenSession(), 2);
}

TEST_P(NodeProcessTest, StoppedNodeIsLostAndReadAgainWhenItGoesOn) {
  const SessionId session = OpenSession();
  ExpectReadsRight(session, 1);
  PostManyThen(session, SIGSTOP);
  node_.Signal(SIGCONT);
  ExpectReadsRight(OpenSession(), 2);
}

TEST_P(NodeProcessTest, KilledReaderLeavesTheNodeServing) {
  const SessionId session = OpenSession();
  auto other =
      test::ChildProcess::Start({Program("test-read-rate"), "--address", address_, "--tls",
                                 GetParam().tls, "--one-sided", GetParam().one_sided, "--way",
                                 std::string(ReadWayName(GetParam().way)), "--batches", "1000000"},
                                scratch_.path() / "reader.log")
          .value();
  // Buffered output comes late: the time that it needs to be in the middle of its reads.
  for (uint64_t tag = 1; tag < 30; ++tag) {
    ExpectReadsRight(session, tag);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(other.running()) << test::ReadFile(scratch_.path() / "reader.log");
  other.Stop(SIGKILL);
  for (uint64_t tag = 30; tag < 60; ++tag) ExpectReadsRight(session, tag);
}

TEST_P(NodeProcessTest, RubbishAndHalfConnectionsOnTheControlPortDisturbNobody) {
  const uint16_t port = static_cast<uint16_t>(std::stoi(address_.substr(address_.rfind(':') + 1)));
  std::vector<int> sockets;
  for (int i = 0; i < 20; ++i) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(port);
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&where), sizeof(where)), 0);
    const std::string rubbish(static_cast<size_t>(i) * 50, static_cast<char>(i * 13));
    (void)::send(fd, rubbish.data(), rubbish.size(), MSG_NOSIGNAL);
    sockets.push_back(fd);
  }
  const SessionId session = OpenSession();
  ExpectReadsRight(session, 1);
  for (const int fd : sockets) ::close(fd);
  ExpectReadsRight(session, 2);
}

}  // namespace
}  // namespace engram

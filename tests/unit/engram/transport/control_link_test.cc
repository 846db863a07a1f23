#include "engram/transport/ucx/control_link.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/rpc/rpc_server.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;

// Opens a session with a node that answers `reply`; server and link share one thread.
proto::OpenSessionReply Opened(const proto::OpenSessionReply& reply) {
  boost::asio::io_context io;
  RpcServer::Options options;
  options.listen_address = "127.0.0.1:0";
  auto server = RpcServer::Create(
      io.get_executor(), options,
      [&reply](const RpcPeer&, std::string_view, const std::string&)
          -> awaitable<Result<std::string>> { co_return reply.SerializeAsString(); },
      [](const RpcPeer&) {});
  EXPECT_TRUE(server.has_value()) << server.error().ToString();
  auto inbox = std::make_shared<ControlInbox>(EventWait::Create().value());
  ControlLink::Options link;
  link.address = (*server)->address();
  link.timeout = seconds(5);
  const auto control = ControlLink::Open(io, inbox, std::move(link));
  const MonotonicTime until = SteadyClock().Now() + seconds(10);
  std::vector<ControlEvent> events;
  while (!inbox->TakeAll(events) && SteadyClock().Now() < until) io.run_for(milliseconds(5));
  control->Close();
  io.run_for(milliseconds(20));
  EXPECT_EQ(events.size(), 1u);
  if (events.empty()) return {};
  EXPECT_EQ(events[0].kind, ControlEvent::Kind::kOpened) << events[0].why.ToString();
  return events[0].opened;
}

TEST(ControlLinkTest, ANodeThatNamesItsHostsIsTakenAtItsWord) {
  proto::OpenSessionReply reply;
  reply.set_session(7);
  reply.add_data_hosts("10.0.0.1");
  reply.add_data_hosts("10.0.0.2");
  EXPECT_THAT(Opened(reply).data_hosts(), ElementsAre("10.0.0.1", "10.0.0.2"));
}

// It is of an earlier version and connects to its readers: their ports must let it in, or an
// upgrade that begins with the readers ends all reads.
TEST(ControlLinkTest, ANodeThatNamesNoHostIsTheOneThatTheLinkReached) {
  proto::OpenSessionReply reply;
  reply.set_session(7);
  EXPECT_THAT(Opened(reply).data_hosts(), ElementsAre("127.0.0.1"));
}

}  // namespace
}  // namespace engram

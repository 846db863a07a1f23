// What becomes of a connection of UCX's that is closed or lost at a bad moment: two workers over
// TCP, both driven here, so that the moment is the same each time.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engram/transport/ucx/ucx_context.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_worker.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kPatience{10000};
constexpr uint32_t kMessage = 3;

// Of this process: descriptors that listen, and their ports.
std::map<int, uint16_t> ListeningSockets() {
  std::map<int, uint16_t> found;
  for (int fd = 0; fd < 1024; ++fd) {
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) continue;
    sockaddr_in address{};
    size = sizeof(address);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;
    found[fd] = ntohs(address.sin_port);
  }
  return found;
}

// A worker, and an endpoint to the other one.
class Side final : public UcxMessageHandler {
 public:
  Side() {
    const std::map<int, uint16_t> before = ListeningSockets();
    context_ = UcxContext::Create(
                   {.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, .tls = "tcp", .name = "side"})
                   .value();
    worker_ = UcxWorker::Create(*context_).value();
    EXPECT_TRUE(worker_->Handle(this).ok());
    for (const auto& [fd, port] : ListeningSockets()) {
      if (!before.contains(fd)) port_ = port;
    }
  }
  ~Side() {
    endpoint_.reset();
    worker_.reset();
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;
  bool OnMessage(uint32_t /*id*/, const UcxMessage& /*message*/) override {
    ++came_;
    return false;
  }

  [[nodiscard]] std::string address() const { return worker_->Address().value(); }
  [[nodiscard]] uint16_t port() const { return port_; }  // that UCX listens on
  void Connect(const std::string& address) {
    endpoint_ = UcxEndpoint::Create(*worker_, address).value();
  }
  void Close() { endpoint_.reset(); }
  [[nodiscard]] bool is_lost() const { return endpoint_->failure() != UCS_OK; }
  void Send(size_t bytes) {
    Sent& sent = sent_.emplace_back();
    sent.body.resize(bytes);
    sent.over = endpoint_->Send(kMessage, std::as_bytes(std::span(sent.header)), sent.body,
                                /*eager=*/true, &sent) != UcxStarted::kPending;
  }
  // Everything was handed to the kernel.
  [[nodiscard]] bool has_sent() const {
    return std::all_of(sent_.begin(), sent_.end(), [](const Sent& sent) { return sent.over; });
  }
  bool Progress() { return worker_->Progress(); }
  // Until nothing has happened for a while. False: something happens all the time, or the worker
  // says that there is something to do, and does nothing.
  bool GetsQuiet() {
    constexpr milliseconds kQuiet{200};
    const auto end = std::chrono::steady_clock::now() + kPatience;
    auto busy = std::chrono::steady_clock::now();
    for (auto now = busy; now < end; now = std::chrono::steady_clock::now()) {
      pollfd event{worker_->event_fd(), POLLIN, 0};
      if (Progress() || !worker_->Arm() || ::poll(&event, 1, 1) != 0) busy = now;
      if (now - busy > kQuiet) return true;
    }
    return false;
  }
  [[nodiscard]] uint64_t came() const { return came_; }

 private:
  struct Sent final : UcxCompletion {
    std::array<uint32_t, 4> header{};
    std::vector<std::byte> body;
    bool over = false;
    void OnComplete(ucs_status_t) override { over = true; }
  };

  std::deque<Sent> sent_;  // kept: UCX may have it
  std::unique_ptr<UcxContext> context_;
  std::unique_ptr<UcxWorker> worker_;
  std::unique_ptr<UcxEndpoint> endpoint_;
  uint16_t port_ = 0;
  uint64_t came_ = 0;
};

template <typename Done>
bool DriveBoth(Side& one, Side& other, Done done) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!done() && std::chrono::steady_clock::now() < end) {
    one.Progress();
    other.Progress();
  }
  return done();
}

// Sockets that hold little, over one interface. For this process: of contexts that are made later.
class Settings {
 public:
  Settings() {
    for (const auto& [name, value] : kSet) EXPECT_EQ(::setenv(name, value, /*overwrite=*/1), 0);
  }
  ~Settings() {
    for (const auto& [name, value] : kSet) EXPECT_EQ(::unsetenv(name), 0);
  }
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

 private:
  static constexpr std::array<std::array<const char*, 2>, 3> kSet = {
      {{"UCX_NET_DEVICES", "lo"}, {"UCX_TCP_SNDBUF", "64k"}, {"UCX_TCP_RCVBUF", "64k"}}};
};

class UcxConnectionTest : public ::testing::Test {
 protected:
  // The reader has asked; the node answers with more than it takes, and the kernel has a part.
  void FillSocketOfNode() {
    reader_.Connect(node_.address());
    reader_.Send(100);
    ASSERT_TRUE(DriveBoth(node_, reader_, [&] { return node_.came() == 1; }));
    node_.Connect(reader_.address());
    node_.Send(100);
    ASSERT_TRUE(DriveBoth(node_, reader_, [&] { return reader_.came() == 1; }));
    ASSERT_TRUE(node_.GetsQuiet());
    ASSERT_TRUE(reader_.GetsQuiet());
    while (node_.has_sent()) {
      node_.Send(200'000);
      ASSERT_TRUE(node_.GetsQuiet());
    }
  }

  const Settings settings_;
  Side node_;
  Side reader_;
};

TEST_F(UcxConnectionTest, ANodeThatEndsASessionInTheMidstOfAnAnswerGetsQuiet) {
  FillSocketOfNode();
  node_.Close();
  ASSERT_TRUE(node_.GetsQuiet());
  // Now there is room; the reader does not go.
  ASSERT_TRUE(reader_.GetsQuiet());
  EXPECT_TRUE(node_.GetsQuiet());
  // Nothing more can come.
  EXPECT_TRUE(DriveBoth(node_, reader_, [&] { return reader_.is_lost(); }));
}

// The reader's last word and room for the answer come together, where the node has closed.
void EndOfReaderWithRoom(Side& node, Side& reader) {
  node.Close();
  ASSERT_TRUE(node.GetsQuiet());
  reader.Close();
  ASSERT_TRUE(reader.GetsQuiet());
  EXPECT_TRUE(node.GetsQuiet());
  // Others are served.
  reader.Connect(node.address());
  reader.Send(100);
  EXPECT_TRUE(DriveBoth(node, reader, [&] { return node.came() == 2; }));
}

TEST_F(UcxConnectionTest, ANodeOutlivesAReaderThatEndsWhereThereIsRoom) {
  FillSocketOfNode();
  EndOfReaderWithRoom(node_, reader_);
}

class Scenario : public UcxConnectionTest {
 public:
  void TestBody() override {
    FillSocketOfNode();
    EndOfReaderWithRoom(node_, reader_);
  }
};

void RunScenario() {
  for (int i = 0; i < 5; ++i) Scenario().TestBody();
  std::_Exit(testing::Test::HasFailure() ? 1 : 0);
}

// The same where memory that is freed does not keep what was in it (glibc's malloc).
TEST(UcxConnectionDeathTest, NothingOfAConnectionIsUsedAfterItsEnd) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ASSERT_EQ(::setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165", 1),
            0);
  EXPECT_EXIT(RunScenario(), testing::ExitedWithCode(0), "");
  ASSERT_EQ(::unsetenv("GLIBC_TUNABLES"), 0);
}

// Listens instead of a node, and speaks UCX's first words.
class Listener {
 public:
  Listener() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(where);
    auto* const address = reinterpret_cast<sockaddr*>(&where);
    EXPECT_EQ(::bind(fd_, address, size), 0);
    EXPECT_EQ(::listen(fd_, 8), 0);
    EXPECT_EQ(::getsockname(fd_, address, &size), 0);
    port_ = ntohs(where.sin_port);
  }
  ~Listener() { close(fd_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // The worker's address with this port in it.
  [[nodiscard]] std::string InsteadOf(const Side& side) const {
    std::string address = side.address();
    // From the end: it begins with what is drawn at random.
    const size_t at = address.rfind(AsItTravels(side.port()));
    EXPECT_NE(at, std::string::npos);
    return address.replace(at, sizeof(port_), AsItTravels(port_));
  }
  // Takes a connection, its request, acknowledges that, and resets it.
  void AcknowledgeAndReset(Side& caller) const {
    const int connection = ::accept(fd_, nullptr, nullptr);
    ASSERT_GE(connection, 0);
    std::array<char, 1000> request;
    ssize_t size = 0;
    for (int i = 0; i < 1000 && size < 42; ++i) {  // magic, header, request, address
      caller.Progress();
      const ssize_t more =
          ::recv(connection, request.data() + size, request.size() - size, MSG_DONTWAIT);
      size += std::max<ssize_t>(more, 0);
      if (more < 0) std::this_thread::sleep_for(milliseconds(1));
    }
    ASSERT_EQ(size, 42);
    ASSERT_EQ(::send(connection, "\x20\x04\0\0\0\x02\0\0\0", 9, 0), 9);
    const linger at_once{1, 0};
    ASSERT_EQ(::setsockopt(connection, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    close(connection);
  }

 private:
  static std::string AsItTravels(uint16_t port) {
    return {static_cast<char>(port >> 8), static_cast<char>(port & 0xff)};
  }

  const int fd_;
  uint16_t port_ = 0;
};

TEST_F(UcxConnectionTest, AReaderOutlivesAConnectionThatIsResetWhenItIsMade) {
  const Listener listener;
  reader_.Connect(listener.InsteadOf(node_));
  reader_.Send(100);
  listener.AcknowledgeAndReset(reader_);
  EXPECT_TRUE(DriveBoth(node_, reader_, [&] { return reader_.is_lost(); }));
  reader_.Close();
  ASSERT_TRUE(reader_.GetsQuiet());
  // It may have others.
  reader_.Connect(node_.address());
  reader_.Send(100);
  EXPECT_TRUE(DriveBoth(node_, reader_, [&] { return node_.came() == 1; }));
}

}  // namespace
}  // namespace engram

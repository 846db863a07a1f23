// A UCX row server and a reader in this process.
#pragma once

#include <fstream>
#include <memory>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include "engram/transport/ucx/gather_thread.h"
#include "engram/transport/ucx/ucx_row_server.h"
#include "engram/transport/ucx/ucx_transport.h"
#include "tests/unit/engram/transport/recorded_events.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram::test {

inline constexpr TableVersion kVersion(7);
inline constexpr Incarnation kIncarnation(0x1234);

// What a test runs over.
struct UcxSetting {
  const char* name;
  const char* tls;        // both sides
  const char* one_sided;  // both sides
  ReadWay way;

  // CTest takes the printed parameter into the test's name.
  friend std::ostream& operator<<(std::ostream& out, const UcxSetting& setting) {
    return out << setting.name;
  }
};

// Every port on which something listens.
inline std::vector<uint16_t> ListeningPorts() {
  std::vector<uint16_t> ports;
  for (const char* const table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::string entry, local, remote, state;
      words >> entry >> local >> remote >> state;
      if (state != "0A") continue;
      ports.push_back(
          static_cast<uint16_t>(std::stoul(local.substr(local.rfind(':') + 1), nullptr, 16)));
    }
  }
  return ports;
}

class UcxFixture {
 public:
  explicit UcxFixture(const UcxSetting& setting) : setting_(setting), layout_(SmallLayout()) {
    // Made before any thread that logs, as programs do: ThreadSanitizer does not see how Debian's
    // library hands it from the first thread that logs to others.
    (void)spdlog::default_logger();
  }

  [[nodiscard]] UcxRowServerOptions ServerOptions() {
    UcxRowServerOptions options;
    options.listen_address = "127.0.0.1:0";
    options.incarnation = kIncarnation;
    options.tls = setting_.tls;
    options.one_sided = setting_.one_sided;
    options.test_hooks = &hooks_;
    return options;
  }
  [[nodiscard]] UcxTransportOptions ReaderOptions() const {
    UcxTransportOptions options;
    options.way = setting_.way;
    options.tls = setting_.tls;
    options.one_sided = setting_.one_sided;
    // Sanitizers on a busy machine are slow.
    options.keep_alive = std::chrono::seconds(20);
    options.open_timeout = std::chrono::seconds(30);
    return options;
  }

  // Serves the even slots.
  void StartServer(const UcxRowServerOptions& options) {
    server_ = UcxRowServer::Create(options).value();
    slots_ = FillSlots(*server_, kVersion, layout_, [](uint32_t s) { return s % 2 == 0; });
    server_->Serve(slots_);
  }
  void StartReader(const UcxTransportOptions& options) {
    transport_ = UcxTransport::Create(options).value();
    events_.emplace(layout_->row_stride());
    reader_ = transport_->CreateReader(&*events_).value();
  }
  void Start() {
    StartServer(ServerOptions());
    StartReader(ReaderOptions());
  }

  [[nodiscard]] NodeTarget Target() const {
    return TargetOf(server_->address(), kVersion, *layout_);
  }
  SessionId OpenSession() {
    const SessionId session = reader_->Open(Target());
    EXPECT_TRUE(Drive(
        [&] { return events_->opened.contains(session) || events_->closed.contains(session); }));
    EXPECT_TRUE(events_->opened.contains(session))
        << (events_->closed.contains(session) ? events_->closed.at(session).ToString() : "");
    return session;
  }
  // Opens against `target` and gives why it was refused.
  Status Refusal(const NodeTarget& target) {
    const SessionId session = reader_->Open(target);
    EXPECT_TRUE(Drive(
        [&] { return events_->opened.contains(session) || events_->closed.contains(session); }));
    return events_->closed.contains(session) ? events_->closed.at(session) : Status();
  }
  template <typename Done>
  bool Drive(Done done) {
    return DriveUntil(*reader_, done, std::chrono::seconds(60));
  }
  const RecordedRead& Read(SessionId session, uint64_t tag, const std::vector<RowAddress>& rows) {
    events_->Expect(tag, rows.size());
    EXPECT_EQ(reader_->Post(session, tag, rows, MonotonicTime::max()), StatusCode::kOk);
    EXPECT_TRUE(Drive([&] { return events_->reads.at(tag).done.has_value(); }));
    return events_->reads.at(tag);
  }
  void ExpectStored(const RecordedRead& read, const std::vector<RowAddress>& rows) {
    ASSERT_EQ(read.done, StatusCode::kOk);
    ASSERT_EQ(read.delivered, rows.size());
    ASSERT_EQ(read.delivered_twice, 0u);
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(read.statuses[i], StatusCode::kOk) << i;
      ASSERT_EQ(read.rows[i], StoredRow(*layout_, kVersion, rows[i])) << i;
    }
  }
  // Rows of slots that are served.
  [[nodiscard]] std::vector<RowAddress> OwnedRows(size_t count, uint64_t seed = 1) const {
    std::vector<RowAddress> rows;
    for (const RowAddress row : SomeRows(*layout_, count * 4, seed)) {
      if (layout_->SlotOf(row).value() % 2 == 0 && rows.size() < count) rows.push_back(row);
    }
    return rows;
  }

  const UcxSetting setting_;
  const std::shared_ptr<const TableLayout> layout_;
  // Returns when the node's one gather thread answers nothing any more.
  void PauseServer() {
    hooks_.paused = true;
    while (hooks_.standing_still.load() == 0) std::this_thread::yield();
  }

  RowServerTestHooks hooks_;
  std::unique_ptr<UcxRowServer> server_;
  std::shared_ptr<ServedSlots> slots_;
  std::optional<RecordedEvents> events_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<RowReader> reader_;
};

}  // namespace engram::test

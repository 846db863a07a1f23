#include "bench/raw_clients.h"

#include <algorithm>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/transport/ucx/ucx_transport.h"

namespace engram::bench {
namespace {
constexpr std::chrono::seconds kOpenPatience{60};
// After a run, for what is in flight.
constexpr std::chrono::seconds kDrainPatience{30};
constexpr size_t kRowLists = 1000;
}  // namespace

std::string LoadOutcome::ToText() const {
  return nlohmann::json{{"seconds", seconds}, {"rows", rows},     {"reads", reads},
                        {"refused", refused}, {"held", held},     {"expired", expired},
                        {"unsent", unsent},   {"silent", silent}, {"took", took.ToJson()}}
      .dump();
}

Result<LoadOutcome> LoadOutcome::FromText(const std::string& text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    LoadOutcome outcome;
    outcome.seconds = json.at("seconds");
    outcome.rows = json.at("rows");
    outcome.reads = json.at("reads");
    outcome.refused = json.at("refused");
    outcome.expired = json.at("expired");
    outcome.held = json.at("held");
    outcome.unsent = json.at("unsent");
    outcome.silent = json.at("silent");
    ENGRAM_ASSIGN_OR_RETURN(outcome.took, LatencyHistogram::FromJson(json.at("took")));
    return outcome;
  } catch (const nlohmann::json::exception& error) {
    return Error(StatusCode::kMalformed, std::string("what a load process said: ") + error.what());
  }
}

class RawClients::Client final : public ReaderEvents {
 public:
  Status Start(const NodeContact& node, const TableLayout& layout) {
    UcxTransportOptions options;
    options.tls = "tcp";
    options.way = ReadWay::kGather;
    options.spin_max = std::chrono::microseconds(0);
    options.open_timeout = kOpenPatience;
    options.keep_alive = std::chrono::seconds(20);
    auto transport = UcxTransport::Create(options);
    if (!transport.has_value()) return transport.error();
    transport_ = *std::move(transport);
    auto reader = transport_->CreateReader(this);
    if (!reader.has_value()) return reader.error();
    reader_ = *std::move(reader);
    NodeTarget target;
    target.address = node.address;
    target.version = kBenchVersion;
    target.identity = kBenchIdentity;
    target.row_stride = layout.row_stride();
    target.slot_shift = layout.slot_shift();
    target.slot_count = layout.slot_count();
    target.incarnation = node.incarnation();
    session_ = reader_->Open(target);
    return {};
  }
  void Begin(LoadOutcome* outcome) { outcome_ = outcome; }
  [[nodiscard]] StatusCode Post(std::span<const RowAddress> rows, MonotonicTime now,
                                MonotonicTime wanted_by) {
    if (free_.empty()) {
      posted_at_.emplace_back();
      free_.push_back(posted_at_.size() - 1);
    }
    const uint64_t tag = free_.back();
    const StatusCode code = reader_->Post(session_, tag, rows, wanted_by);
    if (code != StatusCode::kOk) return code;
    free_.pop_back();
    posted_at_[tag] = {now, 0};
    ++in_flight_;
    return code;
  }
  [[nodiscard]] bool Progress() { return reader_->Progress(); }
  [[nodiscard]] uint32_t in_flight() const { return in_flight_; }
  [[nodiscard]] MonotonicTime busy_until() const { return busy_until_; }
  [[nodiscard]] bool opened() const { return opened_; }
  [[nodiscard]] const Status& closed() const { return closed_; }

  void OnOpen(SessionId /*session*/, const SessionInfo& /*info*/) override { opened_ = true; }
  void OnClosed(SessionId /*session*/, const Status& why) override { closed_ = why; }
  void OnRows(uint64_t tag, const RowChunk& chunk) override { posted_at_[tag].rows += chunk.count; }
  void OnReadDone(uint64_t tag, StatusCode status) override {
    free_.push_back(tag);
    --in_flight_;
    if (outcome_ == nullptr) return;
    switch (status) {
      case StatusCode::kOk:
        ++outcome_->reads;
        outcome_->rows += posted_at_[tag].rows;
        outcome_->took.Add(std::chrono::steady_clock::now() - posted_at_[tag].at);
        return;
      case StatusCode::kResourceExhausted:
        ++outcome_->refused;
        return;
      case StatusCode::kDeadlineExceeded:
        ++outcome_->expired;
        return;
      default:
        ++outcome_->silent;
    }
  }
  void OnEpoch(SessionId /*session*/, Epoch /*newest*/) override {}
  void OnBusy(SessionId /*session*/, Duration retry_after) override {
    busy_until_ = std::chrono::steady_clock::now() + retry_after;
  }

 private:
  struct Posted {
    MonotonicTime at;
    uint32_t rows = 0;
  };
  std::vector<Posted> posted_at_;  // by tag
  std::vector<uint64_t> free_;     // tags
  uint32_t in_flight_ = 0;
  MonotonicTime busy_until_;
  bool opened_ = false;
  Status closed_;
  SessionId session_;
  LoadOutcome* outcome_ = nullptr;  // null: not counted
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<RowReader> reader_;
};

RawClients::RawClients(std::shared_ptr<const TableLayout> layout) : layout_(std::move(layout)) {}
RawClients::~RawClients() = default;

Result<std::unique_ptr<RawClients>> RawClients::Connect(const NodeContact& node,
                                                        std::shared_ptr<const TableLayout> layout,
                                                        uint32_t count) {
  std::unique_ptr<RawClients> made(new RawClients(std::move(layout)));
  for (uint32_t i = 0; i < count; ++i) {
    made->clients_.push_back(std::make_unique<Client>());
    Client& client = *made->clients_.back();
    ENGRAM_TRY(client.Start(node, *made->layout_));
    const MonotonicTime end = std::chrono::steady_clock::now() + kOpenPatience;
    while (!client.opened()) {
      if (!client.closed().ok()) return Error(client.closed());
      if (std::chrono::steady_clock::now() > end) {
        return Error(StatusCode::kUnavailable, node.address + " opens no session");
      }
      if (!client.Progress()) std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    if (i % 64 == 0) made->KeepUp();
  }
  return made;
}

bool RawClients::ProgressAll() {
  bool any = false;
  for (const auto& client : clients_) any |= client->Progress();
  return any;
}

RowAddress RawClients::DrawRow() {
  random_ = random_ * 6364136223846793005u + 1442695040888963407u;
  const auto slot = static_cast<uint32_t>((random_ >> 33) % layout_->slot_count());
  const uint32_t count = layout_->slot(SlotIndex(slot)).row_count;
  return RowAddress((uint64_t{slot} << layout_->slot_shift()) + (random_ >> 40) % count);
}

LoadOutcome RawClients::Run(const LoadPlan& plan) {
  LoadOutcome outcome;
  for (const auto& client : clients_) client->Begin(&outcome);
  // Drawn before the clock runs: a load that draws its rows is no load.
  std::vector<std::vector<RowAddress>> lists(kRowLists);
  for (std::vector<RowAddress>& rows : lists) {
    for (uint32_t i = 0; i < plan.rows; ++i) rows.push_back(DrawRow());
  }
  size_t list = 0;
  const auto post = [&](Client& client, MonotonicTime now) {
    const MonotonicTime wanted_by =
        plan.wanted_within == Duration::max() ? MonotonicTime::max() : now + plan.wanted_within;
    return client.Post(lists[list++ % kRowLists], now, wanted_by);
  };
  const MonotonicTime start = std::chrono::steady_clock::now();
  const MonotonicTime end =
      start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(plan.seconds));
  const auto period = std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(plan.reads_s > 0 ? 1 / plan.reads_s : 0));
  MonotonicTime due = start;
  size_t next = 0;
  MonotonicTime now = start;
  for (; now < end; now = std::chrono::steady_clock::now()) {
    for (int i = 0; plan.reads_s > 0 && due <= now && i < 256; ++i, due += period) {
      if (plan.backs_off && clients_[next]->busy_until() > now) {
        ++outcome.held;
      } else if (post(*clients_[next], now) != StatusCode::kOk) {
        ++outcome.unsent;
      }
      next = (next + 1) % clients_.size();
    }
    for (const auto& client : clients_) {
      while (plan.reads_s == 0 && client->in_flight() < plan.window) {
        if (post(*client, now) != StatusCode::kOk) break;
      }
    }
    if (!ProgressAll() && plan.pause.count() > 0) std::this_thread::sleep_for(plan.pause);
  }
  outcome.seconds = std::chrono::duration<double>(now - start).count();
  const auto busy = [this] {
    return std::any_of(clients_.begin(), clients_.end(),
                       [](const auto& client) { return client->in_flight() > 0; });
  };
  // What comes now was asked for in time, and is no part of the rate.
  const uint64_t rows_in_time = outcome.rows;
  const MonotonicTime drained = std::chrono::steady_clock::now() + kDrainPatience;
  while (busy() && std::chrono::steady_clock::now() < drained) (void)ProgressAll();
  outcome.rows = rows_in_time;
  for (const auto& client : clients_) {
    outcome.silent += client->in_flight();
    client->Begin(nullptr);
  }
  return outcome;
}

}  // namespace engram::bench

// How do rows from a memory node compare with the same rows from what users have already?
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/batch_rows.h"
#include "bench/command.h"
#include "bench/made_up_rows.h"
#include "bench/peer.h"
#include "bench/read_loop.h"
#include "bench/read_node.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/table_text.h"
#include "bench/v41_shape.h"

namespace engram::bench {
namespace {

struct PeersOptions {
  std::vector<std::string> peers = {std::begin(kPeerNames), std::end(kPeerNames)};
  std::vector<uint32_t> rows = {48, 12288};
  uint64_t bytes = 264ull << 20;
  double seconds = 0.5;
  double try_seconds = 0.1;
  int repetitions = 7;
  uint64_t seed = 1;
  std::string json_file;
};

constexpr uint32_t kBatchRowsMax = 1u << 16;
constexpr const char* kOurSetting = "gather over TCP, 1 I/O thread, 1 gather thread, no cache";

struct NamedPeer {
  std::string name;
  std::unique_ptr<Peer> peer;
};

// What is measured, all of it made once.
struct Subjects {
  std::shared_ptr<const TableLayout> layout;
  std::unique_ptr<ReadNode> node;
  std::vector<NamedPeer> peers;
  std::unique_ptr<RowSource> rows;
  TokenSource our_tokens;
  TokenSource peer_tokens;  // the same ones
  std::unique_ptr<NgramHasher> hasher;
};

Result<Subjects> Prepare(const PeersOptions& options) {
  const std::vector<int32_t> compression = IdentityCompression(kV41CompressedIds);
  ENGRAM_ASSIGN_OR_RETURN(TableLayout made, TableLayout::Create(V41Spec(
                                                options.bytes, kV41CompressedIds, kV41RowValues)));
  auto layout = std::make_shared<const TableLayout>(std::move(made));
  // Processes first, while this one has a single thread.
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<ReadNode> node, ReadNode::Start({}, layout));
  // The last slot of a column is short; peers hold the addresses behind its end too (below 2 %).
  const PeerTable table{.rows = uint64_t{layout->slot_count()} << layout->slot_shift(),
                        .row_bytes = layout->row_bytes()};
  std::vector<NamedPeer> peers;
  for (const std::string& name : options.peers) {
    std::fprintf(stderr, "loading %llu rows of %u bytes into %s\n",
                 static_cast<unsigned long long>(table.rows), table.row_bytes, name.c_str());
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Peer> peer, StartPeer(name, table));
    peers.push_back({name, std::move(peer)});
  }
  const uint32_t rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const ReaderOptions reader{.batch_tokens_max = rows_max / kV41RowsPerToken};
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<RowSource> rows,
                          ConnectTo({node->contact()}, reader, layout, compression));
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(layout->spec().hash, compression));
  return Subjects{.layout = std::move(layout),
                  .node = std::move(node),
                  .peers = std::move(peers),
                  .rows = std::move(rows),
                  .our_tokens = TokenSource::Random(kV41CompressedIds, options.seed),
                  .peer_tokens = TokenSource::Random(kV41CompressedIds, options.seed),
                  .hasher = std::make_unique<NgramHasher>(std::move(hasher))};
}

// What other programs do meanwhile makes a setting slower, never faster: of several tries of each,
// in turns, the best counts.
constexpr int kTries = 3;
struct Tried {
  PeerSetting setting;
  double rows_s = 0;
};

// One subject's repetitions at one batch size.
struct Samples {
  std::vector<double> rows_s;
  std::vector<double> p50_us;
  LatencyHistogram took;  // of all

  void Add(double rate, const LatencyHistogram& once) {
    rows_s.push_back(rate);
    p50_us.push_back(once.PercentileUs(0.5));
    took.Merge(once);
  }
};

// Reads batches of one size from one peer. Thread-compatible.
class PeerLoop {
 public:
  // Nothing is owned.
  PeerLoop(const Subjects& subjects, TokenSource* tokens, Peer* peer, uint32_t row_count)
      : peer_(peer),
        batches_(subjects.layout.get(), subjects.hasher.get(), tokens),
        row_bytes_(subjects.layout->row_bytes()),
        tokens_(row_count / kV41RowsPerToken),
        out_(size_t{row_count} * row_bytes_) {}

  // Tries every setting, contents checked, and keeps the fastest. ERRORS: kCorrupt; those of Peer.
  Status ChooseSetting(double seconds) {
    for (const PeerSetting& setting : peer_->Settings(tokens_ * kV41RowsPerToken)) {
      ENGRAM_RETURN_IF_ERROR(peer_->Use(setting));
      ENGRAM_RETURN_IF_ERROR(CheckContents());
      tried_.push_back({.setting = setting});
    }
    for (int i = 0; i < kTries; ++i) {
      for (Tried& tried : tried_) {
        ENGRAM_RETURN_IF_ERROR(peer_->Use(tried.setting));
        const auto times = Run(seconds);
        if (!times.has_value()) return times.error();
        tried.rows_s = std::max(tried.rows_s, times->rows_s);
      }
    }
    return peer_->Use(best().setting);
  }
  Result<BatchTimes> Run(double seconds) {
    return TimeBatches(
        seconds,
        [&] {
          ids_ = batches_.Next(tokens_);
          return ids_.size();
        },
        [&] { return peer_->Read(ids_, out_.data()); });
  }

  const std::vector<Tried>& tried() const { return tried_; }
  const Tried& best() const {
    return *std::max_element(tried_.begin(), tried_.end(),
                             [](const Tried& a, const Tried& b) { return a.rows_s < b.rows_s; });
  }
  uint64_t rows_checked() const { return rows_checked_; }

 private:
  Status CheckContents() {
    ids_ = batches_.Next(tokens_);
    std::fill(out_.begin(), out_.end(), std::byte{0});
    ENGRAM_RETURN_IF_ERROR(peer_->Read(ids_, out_.data()));
    std::vector<std::byte> wanted(row_bytes_);
    const std::byte* got = out_.data();
    for (const uint64_t id : ids_) {
      MakeUpRow(RowAddress(id), wanted);
      if (!std::equal(wanted.begin(), wanted.end(), got)) {
        return {StatusCode::kCorrupt, "another row came than row " + std::to_string(id)};
      }
      got += row_bytes_;
      ++rows_checked_;
    }
    return {};
  }

  Peer* peer_;
  BatchRows batches_;
  uint32_t row_bytes_;
  uint32_t tokens_;
  std::vector<std::byte> out_;
  std::span<const uint64_t> ids_;
  std::vector<Tried> tried_;
  uint64_t rows_checked_ = 0;
};

struct PeerPoint {
  std::string name;
  std::string version;
  std::string setting;
  std::vector<std::pair<std::string, double>> tried;  // setting, rows a second
  uint64_t rows_checked = 0;
  Samples series;
};

struct Comparison {
  uint32_t rows = 0;
  Samples ours;
  std::vector<PeerPoint> peers;
};

// All subjects in turns, so that what the machine does meanwhile meets each.
Result<Comparison> Measure(const PeersOptions& options, uint32_t row_count, Subjects& subjects) {
  const uint32_t tokens = row_count / kV41RowsPerToken;
  Comparison point{.rows = row_count, .ours = {}, .peers = {}};
  std::vector<std::unique_ptr<PeerLoop>> loops;
  for (const NamedPeer& named : subjects.peers) {
    auto loop =
        std::make_unique<PeerLoop>(subjects, &subjects.peer_tokens, named.peer.get(), row_count);
    if (Status status = loop->ChooseSetting(options.try_seconds); !status.ok()) {
      return Error(status.WithContext(named.name));
    }
    PeerPoint peer{.name = named.name,
                   .version = named.peer->version(),
                   .setting = named.peer->Describe(loop->best().setting),
                   .tried = {},
                   .rows_checked = loop->rows_checked(),
                   .series = {}};
    for (const Tried& tried : loop->tried()) {
      peer.tried.emplace_back(named.peer->Describe(tried.setting), tried.rows_s);
    }
    point.peers.push_back(std::move(peer));
    loops.push_back(std::move(loop));
  }
  ReadLoop our_loop(subjects.rows.get(), {subjects.node->contact()}, &subjects.our_tokens);
  ENGRAM_TRY(our_loop.CheckContents(tokens));
  if (const auto warm = our_loop.Run(tokens, options.try_seconds); !warm.has_value()) {
    return Error(warm.error());
  }

  const size_t turns = loops.size() + 1;
  for (int i = 0; i < options.repetitions; ++i) {
    for (size_t turn = 0; turn < turns; ++turn) {
      const size_t who = (static_cast<size_t>(i) + turn) % turns;
      if (who == loops.size()) {
        ENGRAM_ASSIGN_OR_RETURN(const Measured once, our_loop.Run(tokens, options.seconds));
        point.ours.Add(once.rows_s, once.took);
      } else {
        ENGRAM_ASSIGN_OR_RETURN(const BatchTimes once, loops[who]->Run(options.seconds));
        point.peers[who].series.Add(once.rows_s, once.took);
      }
    }
  }
  return point;
}

// Ours over theirs, repetition by repetition.
Spread RatioOf(const std::vector<double>& ours, const std::vector<double>& theirs) {
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(ours[i] / theirs[i]);
  return SpreadOf(std::move(ratios));
}

nlohmann::json ToJson(const Samples& series) {
  return {{"rows_s", SpreadOf(series.rows_s).median},
          {"rows_s_spread", ToJson(SpreadOf(series.rows_s))},
          {"p50_us", series.took.PercentileUs(0.5)},
          {"p99_us", series.took.PercentileUs(0.99)},
          {"latency_bins", series.took.ToJson()}};
}

nlohmann::json ToJson(const PeerPoint& peer, const Samples& ours) {
  nlohmann::json json = ToJson(peer.series);
  const Spread rows = RatioOf(ours.rows_s, peer.series.rows_s);
  const Spread p50 = RatioOf(ours.p50_us, peer.series.p50_us);
  json["ratio_rows"] = rows.median;
  json["ratio_rows_spread"] = ToJson(rows);
  json["ratio_p50"] = p50.median;
  json["ratio_p50_spread"] = ToJson(p50);
  json["setting"] = peer.setting;
  json["version"] = peer.version;
  json["rows_checked"] = peer.rows_checked;
  json["tried"] = nlohmann::json::array();
  for (const auto& [setting, rows_s] : peer.tried) {
    json["tried"].push_back({{"setting", setting}, {"rows_s", rows_s}});
  }
  return json;
}

nlohmann::json ToJson(const Comparison& point) {
  nlohmann::json json = {
      {"rows", point.rows}, {"ours", ToJson(point.ours)}, {"peers", nlohmann::json::object()}};
  json["ours"]["setting"] = kOurSetting;
  for (const PeerPoint& peer : point.peers) json["peers"][peer.name] = ToJson(peer, point.ours);
  return json;
}

std::vector<Cell> RowOf(uint32_t rows, const std::string& who, const Samples& samples) {
  return {rows, who, SpreadOf(samples.rows_s).median, 1e-6 * samples.took.PercentileUs(0.5),
          1e-6 * samples.took.PercentileUs(0.99)};
}

Table RateTable(const std::vector<Comparison>& comparisons) {
  Table table{
      .title = "The same rows from a memory node and from others (ratios: ours over theirs)",
      .columns = {{"rows of a batch", ""},
                  {"from", ""},
                  {"rows", "rows/s"},
                  {"p50", "s"},
                  {"p99", "s"},
                  {"rows ratio", ""},
                  {"p50 ratio", ""},
                  {"setting", ""}},
      .rows = {}};
  for (const Comparison& at : comparisons) {
    table.rows.push_back(RowOf(at.rows, "ours", at.ours));
    table.rows.back().insert(table.rows.back().end(), {"", "", kOurSetting});
    for (const PeerPoint& peer : at.peers) {
      table.rows.push_back(RowOf(at.rows, peer.name, peer.series));
      table.rows.back().insert(table.rows.back().end(),
                               {RatioOf(at.ours.rows_s, peer.series.rows_s).median,
                                RatioOf(at.ours.p50_us, peer.series.p50_us).median, peer.setting});
    }
  }
  return table;
}

Plot RatePlot(const Comparison& at) {
  Plot plot{.title = "Batches of " + std::to_string(at.rows) + " rows",
            .kind = PlotKind::kBar,
            .x = {"read from", "", Scale::kLinear, {"ours"}},
            .y = {"rows", "rows/s", Scale::kLinear, {}},
            .series = {},
            .limits = {}};
  Series bars{.name = "rows", .points = {}, .low_high = {}};
  bars.Add(0, SpreadOf(at.ours.rows_s));
  for (const PeerPoint& peer : at.peers) {
    bars.Add(static_cast<double>(plot.x.categories.size()), SpreadOf(peer.series.rows_s));
    plot.x.categories.push_back(peer.name);
  }
  plot.series.push_back(std::move(bars));
  return plot;
}

Status Run(const PeersOptions& options) {
  for (const uint32_t rows : options.rows) {
    ENGRAM_RETURN_IF_ERROR(CheckBatchRows(rows, kBatchRowsMax));
  }
  Report report("peers", options.seed, "How do rows from a memory node compare with what I have?");
  report.AddSetting("table_bytes", options.bytes);
  report.AddSetting("ids", "uniform");
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);
  report.AddSetting("seconds_tried", options.try_seconds);
  auto subjects = Prepare(options);
  if (!subjects.has_value()) return subjects.error();
  report.AddSetting("row_bytes", subjects->layout->row_bytes());
  std::fprintf(stderr, "measuring\n");

  nlohmann::json batches = nlohmann::json::array();
  std::vector<Comparison> comparisons;
  for (const uint32_t rows : options.rows) {
    const auto point = Measure(options, rows, *subjects);
    if (!point.has_value()) return point.error();
    batches.push_back(ToJson(*point));
    comparisons.push_back(*point);
  }
  const Table table = RateTable(comparisons);
  PrintTable(table);
  report.AddTable(table);
  for (const Comparison& at : comparisons) report.AddPlot(RatePlot(at));
  report.AddResult("ours", batches.back().at("ours"));
  report.AddResult("peers", batches.back().at("peers"));
  report.AddResult("batches", std::move(batches));
  return report.Write(options.json_file);
}

}  // namespace

void AddPeersCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<PeersOptions>();
  CLI::App* sub = app.add_subcommand(
      "peers",
      "How does it compare with what users have already? The same rows (264 bytes, V4.1 shape)\n"
      "from Redis, memcached and a plain gRPC service, and from a memory node, in turns on this\n"
      "machine over TCP loopback, each asked by one thread, a batch at a time. Servers are "
      "started\n"
      "on free ports with nothing kept on disk, and killed at the end. Several settings of each\n"
      "are tried for a moment, and the fastest is measured. Ours also hashes, dedupes and "
      "verifies\n"
      "every row; the others are given ids. The clients are built where their libraries are\n"
      "(deploy/install-deps --bench).");
  sub->add_option("--peers", options->peers, "Which of them")
      ->delimiter(',')
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kPeerNames), std::end(kPeerNames))))
      ->capture_default_str();
  sub->add_option("--rows", options->rows, "Rows of a batch, 48 a token; one measurement each")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--bytes", options->bytes,
                  "Bytes of the rows; all servers together take about eight times as much memory")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--seconds", options->seconds, "Time of one repetition of each")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  sub->add_option("--try-seconds", options->try_seconds,
                  "Time of one of the three tries of each setting")
      ->check(CLI::Range(0.01, 60.0))
      ->capture_default_str();
  sub->add_option("--repetitions", options->repetitions, "The medians of these are shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_option("--seed", options->seed, "Of the tokens")->capture_default_str();
  sub->add_option("--json", options->json_file, "Write the report here");
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench

// How fast a memory node loads slots from a checkpoint, and how much memory they take.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "bench/command.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/table_text.h"
#include "bench/v41_shape.h"
#include "engram/checkpoint/model_files.h"
#include "engram/table/stored_row.h"
#include "engram/transport/ucx/ucx_row_server.h"
#include "shard_server/slot_loader.h"
#include "shard_server/slot_store.h"

namespace engram::bench {
namespace {

constexpr TableVersion kVersion{1};

struct LoadOptionsGiven {
  uint64_t bytes = 2ull << 30;
  int repetitions = 3;
  uint64_t buffer_bytes = LoadOptions{}.buffer_bytes;
  std::string dir;
  std::string transport = "auto";
  uint64_t seed = 1;
  std::string json_file;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Resident bytes of this process, reserved huge pages (which RSS does not count) included.
uint64_t ResidentBytes() {
  std::ifstream status("/proc/self/status");
  uint64_t bytes = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:") || line.starts_with("HugetlbPages:")) {
      bytes += std::stoull(line.substr(line.find(':') + 1)) * 1024;
    }
  }
  return bytes;
}

// A model folder with nothing but table tensors of the V4.1 shape; removed at the end.
class SyntheticTables {
 public:
  static Result<SyntheticTables> Create(const LoadOptionsGiven& options) {
    const TableSpec spec = V41Spec(options.bytes, kV41CompressedIds, kV41RowValues);
    ENGRAM_ASSIGN_OR_RETURN(TableLayout layout, TableLayout::Create(spec));
    SyntheticTables tables;
    tables.layout_ = std::make_shared<const TableLayout>(std::move(layout));
    const std::filesystem::path parent = options.dir.empty()
                                             ? std::filesystem::temp_directory_path()
                                             : std::filesystem::path(options.dir);
    tables.dir_ =
        std::make_unique<Dir>(parent / ("engram-bench-load-" + std::to_string(::getpid())));
    ENGRAM_TRY(tables.Write(options.seed));
    ENGRAM_ASSIGN_OR_RETURN(const TensorIndex index, TensorIndex::Open(tables.dir_->path));
    ENGRAM_ASSIGN_OR_RETURN(tables.tensors_, FindTableTensors(index, *tables.layout_));
    return tables;
  }

  [[nodiscard]] const std::shared_ptr<const TableLayout>& layout() const { return layout_; }
  [[nodiscard]] const std::vector<TableTensors>& tensors() const { return tensors_; }
  [[nodiscard]] uint64_t row_bytes() const {
    return layout_->total_bytes() / layout_->row_stride() * layout_->row_bytes();
  }

 private:
  struct Dir {
    explicit Dir(std::filesystem::path made) : path(std::move(made)) {}
    ~Dir() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    std::filesystem::path path;
  };

  Status Write(uint64_t seed) const {
    std::error_code error;
    std::filesystem::create_directories(dir_->path, error);
    if (error) return {StatusCode::kIo, dir_->path.string() + ": " + error.message()};
    std::vector<TensorToWrite> names;
    uint64_t bytes = 0;
    for (int32_t i = 0; i < layout_->layer_count(); ++i) {
      const int32_t layer_id = layout_->spec().hash.layer_ids[static_cast<size_t>(i)];
      const auto rows = static_cast<int64_t>(layout_->row_count(i));
      names.push_back({TableWeightName(Variant::kV41, layer_id), Dtype::kF8E4M3, {rows, 256}});
      names.push_back({TableScaleName(layer_id), Dtype::kF8E8M0, {rows, 8}});
      bytes += layout_->row_count(i) * layout_->row_bytes();
    }
    auto writer = SafetensorsWriter::Create(dir_->path / "model.safetensors", names);
    if (!writer.has_value()) return writer.error();
    std::mt19937_64 random(seed);
    std::vector<uint64_t> block(1u << 17);
    for (uint64_t& word : block) word = random();
    for (uint64_t done = 0; done < bytes;) {
      block[random() % block.size()] = random();  // no two blocks are alike
      const auto part = std::as_bytes(std::span(block));
      const uint64_t count = std::min<uint64_t>(part.size(), bytes - done);
      ENGRAM_RETURN_IF_ERROR(writer->Append(part.first(count)));
      done += count;
    }
    return writer->Finish();
  }

  std::unique_ptr<Dir> dir_;
  std::shared_ptr<const TableLayout> layout_;
  std::vector<TableTensors> tensors_;
};

// The floor, on one thread: fresh memory of the same kind touched, the same bytes read into it, a
// CRC-32C over each row's bytes.
struct Floor {
  double touch_seconds = 0;
  double read_seconds = 0;
  double crc_seconds = 0;
  [[nodiscard]] double seconds() const { return touch_seconds + read_seconds + crc_seconds; }
};

// Touches, reads and checks one tensor, block after block. `target` [tensor's bytes].
Status MeasureTensor(const TensorInfo& tensor, int32_t layer_id, uint64_t block_bytes,
                     std::span<std::byte> target, Floor* floor) {
  using Time = std::chrono::steady_clock;
  auto reader = TensorReader::Open(tensor);
  if (!reader.has_value()) return reader.error();
  const auto row_bytes = static_cast<uint32_t>(tensor.shape[1]);
  const uint64_t step = block_bytes / row_bytes * row_bytes;
  uint32_t sum = 0;
  for (uint64_t offset = 0; offset < tensor.byte_count; offset += step) {
    const auto block = target.subspan(offset, std::min(step, tensor.byte_count - offset));
    const auto start = Time::now();
    for (uint64_t i = 0; i < block.size(); i += 4096) block[i] = std::byte{1};
    const auto touched = Time::now();
    ENGRAM_RETURN_IF_ERROR(reader->Read(offset, block));
    const auto read = Time::now();
    for (uint64_t row = 0; row < block.size() / row_bytes; ++row) {
      sum ^= RowCrc(kVersion, layer_id, RowId(row), block.data() + row * row_bytes, row_bytes);
    }
    floor->touch_seconds += std::chrono::duration<double>(touched - start).count();
    floor->read_seconds += std::chrono::duration<double>(read - touched).count();
    floor->crc_seconds += SecondsSince(read);
  }
  asm volatile("" : : "r"(sum));
  return {};
}

Result<std::unique_ptr<UcxRowServer>> MakeServer(const LoadOptionsGiven& options) {
  UcxRowServerOptions server_options;
  server_options.listen_address = "127.0.0.1:0";
  server_options.incarnation = Incarnation(1);
  server_options.tls = options.transport;
  return UcxRowServer::Create(server_options);
}

Result<Floor> MeasureFloor(const SyntheticTables& tables, const LoadOptionsGiven& options) {
  ENGRAM_ASSIGN_OR_RETURN(const auto server, MakeServer(options));
  ENGRAM_ASSIGN_OR_RETURN(const Region region, server->AllocateRegion(tables.row_bytes()));
  Floor floor;
  uint64_t offset = 0;
  for (const TableTensors& layer : tables.tensors()) {
    for (const TensorInfo* tensor : {&layer.weight, &*layer.scale}) {
      ENGRAM_TRY(MeasureTensor(*tensor, layer.layer_id, options.buffer_bytes,
                               region.bytes.subspan(offset, tensor->byte_count), &floor));
      offset += tensor->byte_count;
    }
  }
  return floor;
}

struct Loaded {
  double allocate_seconds = 0;
  double load_seconds = 0;
  double resident_over_row_bytes = 0;
  double allocated_over_row_bytes = 0;
  uint32_t regions = 0;
  uint32_t huge_regions = 0;
};

// Loads every slot into a node's registered memory. `digests` [slots]: empty at first, then each
// load is checked against the first.
Result<Loaded> MeasureLoad(const SyntheticTables& tables, const LoadOptionsGiven& options,
                           std::vector<SlotDigest>* digests) {
  ENGRAM_ASSIGN_OR_RETURN(const auto server, MakeServer(options));
  SlotStore::Options store_options;
  store_options.memory_bytes_max = tables.layout()->total_bytes() + (64u << 20);
  SlotStore store(server.get(), &SteadyClock(), store_options);

  const uint64_t resident_before = ResidentBytes();
  const auto allocate_start = std::chrono::steady_clock::now();
  ENGRAM_TRY(store.AddVersion(kVersion, {}, tables.layout()));
  std::vector<AssignedSlot> slots;
  for (uint32_t slot = 0; slot < tables.layout()->slot_count(); ++slot) {
    slots.push_back({SlotIndex(slot), digests->empty() ? 0 : (*digests)[slot]});
  }
  ENGRAM_TRY(store.SetSlots(kVersion, slots));
  Loaded loaded;
  loaded.allocate_seconds = SecondsSince(allocate_start);

  LoadJob job;
  job.version = kVersion;
  job.layout = tables.layout();
  job.checkpoint = "synthetic tables";
  job.slots = store.IdleSlots(kVersion);
  LoadOptions load_options;
  load_options.buffer_bytes = options.buffer_bytes;
  LoadControl control;
  std::vector<SlotDigest> found(slots.size());
  const auto load_start = std::chrono::steady_clock::now();
  ENGRAM_TRY(LoadSlotsFrom(
      tables.tensors(), job, load_options, &control,
      [&](const EmptySlot& slot, SlotDigest digest) { found[slot.slot.value()] = digest; }));
  loaded.load_seconds = SecondsSince(load_start);
  for (const EmptySlot& slot : job.slots) {
    ENGRAM_TRY(store.Publish(kVersion, slot.slot, slot.rows, found[slot.slot.value()]));
  }
  *digests = std::move(found);
  const auto row_bytes = static_cast<double>(tables.row_bytes());
  loaded.resident_over_row_bytes =
      static_cast<double>(ResidentBytes() - resident_before) / row_bytes;
  loaded.allocated_over_row_bytes = static_cast<double>(store.figures().region_bytes) / row_bytes;
  loaded.regions = store.figures().regions;
  loaded.huge_regions = store.figures().huge_regions;
  return loaded;
}

struct LoadSeries {
  std::vector<double> load, floor, touch, read, crc, ratio, allocate_seconds, resident;
};

// Prints what was measured and adds it to the report.
void Tell(const LoadSeries& series, const Loaded& last, Report* report) {
  Table rates{.title = "Loading row bytes from page cache",
              .columns = {{""}, {"median", "B/s"}, {"least", "B/s"}, {"most", "B/s"}},
              .rows = {}};
  Plot plot{.title = "Loading row bytes from page cache",
            .kind = PlotKind::kBar,
            .x = {},
            .y = {"row bytes", "B/s", Scale::kLinear, {}},
            .series = {{.name = "loading"}},
            .limits = {}};
  const auto add = [&](const char* label, const char* category,
                       const std::vector<double>& bytes_s) {
    const Spread spread = SpreadOf(bytes_s);
    rates.rows.push_back({label, spread.median, spread.least, spread.most});
    plot.series[0].Add(static_cast<double>(plot.x.categories.size()), spread);
    plot.x.categories.emplace_back(category);
  };
  add("load: read, interleave, seal, digest", "load", series.load);
  add("floor: touch, read, CRC, one thread", "floor, one thread", series.floor);
  add("  of it: touching fresh memory alone", "of it: touching", series.touch);
  add("  of it: read alone", "of it: reading", series.read);
  add("  of it: CRC alone", "of it: CRC", series.crc);
  const Table memory{.title = "Memory that the slots take",
                     .columns = {{"load / floor"},
                                 {"allocated / row bytes"},
                                 {"resident / row bytes"},
                                 {"regions"},
                                 {"of them on huge pages"},
                                 {"allocated in", "s"}},
                     .rows = {{SpreadOf(series.ratio).median, last.allocated_over_row_bytes,
                               SpreadOf(series.resident).median, last.regions, last.huge_regions,
                               SpreadOf(series.allocate_seconds).median}}};
  PrintTable(rates);
  PrintTable(memory);
  report->AddPlot(plot);
  report->AddTable(rates);
  report->AddTable(memory);
}

Status RunLoad(const LoadOptionsGiven& options) {
  Report report("load", options.seed, "How fast does a memory node load its slots?");
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("buffer_bytes", options.buffer_bytes);
  report.AddSetting("transport", options.transport);
  std::fprintf(stderr, "engram-bench: writing %.2f GiB of synthetic tables\n",
               static_cast<double>(options.bytes) / (1u << 30));
  auto tables = SyntheticTables::Create(options);
  if (!tables.has_value()) return tables.error();
  const auto row_bytes = static_cast<double>(tables->row_bytes());
  LoadSeries series;
  Loaded last;
  std::vector<SlotDigest> digests;
  // Interleaved: what is compared was measured side by side. The first floor warms the page cache.
  if (auto warm = MeasureFloor(*tables, options); !warm.has_value()) {
    return warm.error();
  }
  for (int i = 0; i < options.repetitions; ++i) {
    const auto floor = MeasureFloor(*tables, options);
    if (!floor.has_value()) return floor.error();
    const auto loaded = MeasureLoad(*tables, options, &digests);
    if (!loaded.has_value()) return loaded.error();
    last = *loaded;
    series.load.push_back(row_bytes / loaded->load_seconds);
    series.floor.push_back(row_bytes / floor->seconds());
    series.touch.push_back(row_bytes / floor->touch_seconds);
    series.read.push_back(row_bytes / floor->read_seconds);
    series.crc.push_back(row_bytes / floor->crc_seconds);
    series.ratio.push_back(floor->seconds() / loaded->load_seconds);
    series.allocate_seconds.push_back(loaded->allocate_seconds);
    series.resident.push_back(loaded->resident_over_row_bytes);
  }
  Tell(series, last, &report);
  report.AddResult("row_bytes", tables->row_bytes());
  report.AddResult("slots", tables->layout()->slot_count());
  report.AddResult("load_bytes_s", ToJson(SpreadOf(series.load)));
  report.AddResult("floor_bytes_s", ToJson(SpreadOf(series.floor)));
  report.AddResult("touch_bytes_s", ToJson(SpreadOf(series.touch)));
  report.AddResult("read_bytes_s", ToJson(SpreadOf(series.read)));
  report.AddResult("crc_bytes_s", ToJson(SpreadOf(series.crc)));
  report.AddResult("ratio", SpreadOf(series.ratio).median);
  report.AddResult("allocate_seconds", ToJson(SpreadOf(series.allocate_seconds)));
  report.AddResult("allocated_over_row_bytes", last.allocated_over_row_bytes);
  report.AddResult("resident_over_row_bytes", ToJson(SpreadOf(series.resident)));
  report.AddResult("regions", last.regions);
  report.AddResult("huge_regions", last.huge_regions);
  return report.Write(options.json_file);
}

}  // namespace

void AddLoadCommand(CLI::App& app, Status& outcome) {
  auto options = std::make_shared<LoadOptionsGiven>();
  CLI::App* command = app.add_subcommand(
      "load", "How fast a memory node loads slots from a checkpoint, and what memory they take");
  command->footer(
      "Writes tables of the V4.1 shape to a scratch folder (removed at the end), so that they are\n"
      "in the page cache, and loads them all into memory registered with UCX, as a memory node\n"
      "does. The floor, on one thread, touches as much fresh memory of the same kind, reads the\n"
      "same bytes into it and takes CRCs of them, and does nothing else. Needs twice --bytes of\n"
      "free memory, and --bytes of disk.");
  command->add_option("--bytes", options->bytes, "Row bytes to load, such as 2GiB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1} << 20, uint64_t{1} << 42))
      ->capture_default_str();
  command->add_option("--repetitions", options->repetitions, "Repetitions; the median is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--buffer-bytes", options->buffer_bytes,
                   "Size of one bounce buffer (there are four), such as 4MiB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1} << 12, uint64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--dir", options->dir,
                      "Where to put the scratch folder. Default: the system's temporary folder");
  command
      ->add_option("--transport", options->transport,
                   "Of the node whose memory is loaded into: auto, tcp, shm or a UCX_TLS list")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Seed of the tables' bytes")->capture_default_str();
  command->add_option("--json", options->json_file, "Also write the report to this file");
  command->callback([options, &outcome] { outcome = RunLoad(*options); });
}

}  // namespace engram::bench

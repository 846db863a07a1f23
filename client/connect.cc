#include "client/connect.h"

#include <utility>

#include <spdlog/spdlog.h>

#include "client/following_rows.h"
#include "client/remote_rows.h"
#include "engram/transport/ucx/ucx_transport.h"

namespace engram {
namespace {

// A node that has not answered by then is read from as soon as it does.
constexpr Duration kSessionsWait = std::chrono::seconds(1);

// A model as this side knows it. Without its tensors the row format is a guess.
struct OwnModel {
  ModelTables tables;
  bool row_format_known = false;
};

Result<OwnModel> ReadOwnModel(const ConnectOptions& options) {
  if (options.tables != nullptr) return OwnModel{*options.tables, true};
  auto whole = ReadModelTables(options.model_dir, true);
  if (whole.has_value()) return OwnModel{*std::move(whole), true};
  if (whole.error().code() != StatusCode::kNotFound) return Error(std::move(whole).error());
  // A folder without tensors is enough: only config.json and tokenizer.json fix the row ids.
  ENGRAM_ASSIGN_OR_RETURN(ModelTables tables, ReadModelTables(options.model_dir, false));
  return OwnModel{std::move(tables), false};
}

// Refuses tables that this model would hash differently.
Status CheckSameModel(const OwnModel& model, const ShardDirectory& directory) {
  TableSpec spec = model.tables.spec;
  const TableSpec& served = directory.layout()->spec();
  if (!model.row_format_known) {
    spec.row_format = served.row_format;
    spec.row_values = served.row_values;
  }
  if (ComputeModelIdentity(spec, model.tables.compression) == directory.identity()) return {};
  return Status(
      StatusCode::kWrongModel,
      "the cluster's tables (version " + std::to_string(directory.version().value()) +
          ") are of another model: " +
          (served.hash.compressed_vocab_size != spec.hash.compressed_vocab_size
               ? "their compressed vocabulary has " +
                     std::to_string(served.hash.compressed_vocab_size) + " ids, this model's has " +
                     std::to_string(spec.hash.compressed_vocab_size)
           : served.hash == spec.hash ? std::string("the tokenizer or row format differs")
                                      : std::string("the Engram configuration differs")) +
          "; use the model folder that the tables were loaded from");
}

Result<std::shared_ptr<ShardDirectory>> ConnectDirectory(const ConnectOptions& options,
                                                         const ModelIdentity* identity,
                                                         std::shared_ptr<TokenBook> tokens) {
  ShardDirectoryOptions directory;
  directory.coordinators = options.coordinators;
  directory.version = options.version;
  directory.identity = identity;
  directory.security = options.security;
  directory.tokens = std::move(tokens);
  directory.ready_timeout = options.ready_timeout;
  return ShardDirectory::Connect(directory);
}

// What all versions share.
struct Wires {
  std::shared_ptr<Transport> transport;
  std::shared_ptr<TokenBook> tokens;  // null in development mode
  RowLanding* landing = nullptr;      // null: rows are staged
};

Result<Wires> MakeWires(const ConnectOptions& options) {
  Wires wires;
  if (options.security.identity != nullptr) wires.tokens = std::make_shared<TokenBook>();
  UcxTransportOptions transport;
  transport.way = options.way;
  transport.tls = options.tls;
  // Whoever forces the way means a card, unless told otherwise.
  const bool by_card = options.way == ReadWay::kOneSided && options.one_sided == "off";
  transport.one_sided = by_card ? "rdma" : options.one_sided;
  transport.security = options.security;
  if (wires.tokens != nullptr) {
    transport.token_of = [tokens = wires.tokens](TableVersion version, const std::string& address) {
      return tokens->Get(version, address);
    };
  }
  if (options.landing != nullptr) {
    transport.landing = options.landing;
    const Status lands = UcxTransport::CheckLanding(transport);
    if (lands.ok()) {
      wires.landing = options.landing;
      spdlog::info("network cards put rows into the GPU's memory, where nodes let them");
    } else {
      transport.landing = nullptr;
      spdlog::warn("rows come to the GPU through this host's memory: {}", lands.message());
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(auto made, UcxTransport::Create(transport));
  wires.transport = std::move(made);
  return wires;
}

struct VersionRows {
  OpenedVersion opened;
  std::shared_ptr<const TableLayout> layout;
  std::shared_ptr<const NgramHasher> hasher;
};

// `version` 0 = the current one.
Result<VersionRows> OpenRows(const ConnectOptions& options, const OwnModel& model,
                             TableVersion version, const Wires& wires) {
  ConnectOptions of_version = options;
  of_version.version = version;
  ENGRAM_ASSIGN_OR_RETURN(
      auto directory,
      ConnectDirectory(of_version, model.row_format_known ? &model.tables.identity : nullptr,
                       wires.tokens));
  ENGRAM_TRY(CheckSameModel(model, *directory));
  ENGRAM_ASSIGN_OR_RETURN(
      auto hasher, NgramHasher::Create(directory->layout()->spec().hash, model.tables.compression));
  RemoteRowsOptions rows;
  rows.version = directory->version();
  rows.identity = directory->identity();
  rows.batch_tokens_max = options.batch_tokens_max;
  rows.staging_buffers = options.staging_buffers;
  rows.staging_observer = options.staging_observer;
  rows.io_threads = options.io_threads;
  rows.stripe = options.stripe;
  rows.spin = options.spin;
  rows.cache_bytes = options.cache_bytes;
  rows.landing = wires.landing;
  rows.zone = options.zone;
  rows.sessions_wait = kSessionsWait;
  const auto map = directory->Current();
  spdlog::info("rows of table version {} at epoch {} from {} memory nodes, {} I/O thread(s)",
               rows.version.value(), map->epoch.value(), map->nodes.size(), rows.io_threads);
  VersionRows opened;
  opened.layout = directory->layout();
  opened.hasher = std::make_shared<const NgramHasher>(std::move(hasher));
  opened.opened.version = rows.version;
  opened.opened.current = directory;
  ENGRAM_ASSIGN_OR_RETURN(
      opened.opened.rows,
      CreateRemoteRows(rows, wires.transport, opened.hasher, opened.layout, std::move(directory)));
  return opened;
}

}  // namespace

Result<std::unique_ptr<RowSource>> ConnectRemote(const ConnectOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(OwnModel own, ReadOwnModel(options));
  const auto model = std::make_shared<const OwnModel>(std::move(own));
  ENGRAM_ASSIGN_OR_RETURN(const Wires wires, MakeWires(options));
  ConnectOptions kept = options;
  kept.tables = nullptr;  // the caller's; `model` has what is needed of it
  const MonotonicTime until = SteadyClock().Now() + options.ready_timeout;
  auto opened = OpenRows(kept, *model, options.version, wires);
  // The version that was current may be dropped while it is opened: then another is.
  while (!opened.has_value() && opened.error().code() == StatusCode::kWrongVersion &&
         options.version == TableVersion() && SteadyClock().Now() < until) {
    opened = OpenRows(kept, *model, options.version, wires);
  }
  if (!opened.has_value()) return Error(std::move(opened).error());
  VersionRows first = *std::move(opened);
  if (options.version != TableVersion()) return std::move(first.opened.rows);
  FollowingRowsOptions following;
  following.batches_max = 2 * options.staging_buffers;  // of two versions at most, usually
  auto open = [kept = std::move(kept), model,
               wires](TableVersion version) -> Result<OpenedVersion> {
    ENGRAM_ASSIGN_OR_RETURN(VersionRows rows, OpenRows(kept, *model, version, wires));
    return std::move(rows.opened);
  };
  return CreateFollowingRows(following, std::move(first.layout), std::move(first.hasher),
                             std::move(first.opened), std::move(open));
}

Result<LookupConnection> ConnectLookup(const ConnectOptions& options) {
  const bool has_model = options.tables != nullptr || !options.model_dir.empty();
  OwnModel model;
  if (has_model) {
    ENGRAM_ASSIGN_OR_RETURN(model, ReadOwnModel(options));
  }
  ENGRAM_ASSIGN_OR_RETURN(Wires wires, MakeWires(options));
  LookupConnection connection;
  ENGRAM_ASSIGN_OR_RETURN(
      connection.directory,
      ConnectDirectory(options, model.row_format_known ? &model.tables.identity : nullptr,
                       wires.tokens));
  if (has_model) ENGRAM_TRY(CheckSameModel(model, *connection.directory));
  ENGRAM_ASSIGN_OR_RETURN(
      connection.rows,
      RowLookup::Create({.version = connection.directory->version(),
                         .identity = connection.directory->identity(),
                         .zone = options.zone},
                        wires.transport, connection.directory->layout(), connection.directory));
  return connection;
}

}  // namespace engram

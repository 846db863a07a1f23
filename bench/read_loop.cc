#include "bench/read_loop.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "client/fixed_shard_map.h"
#include "client/remote_rows.h"
#include "engram/transport/ucx/ucx_transport.h"

namespace engram::bench {
namespace {
constexpr const char* kNear = "near";  // the zone of the reader and of the first node

Result<std::unique_ptr<RowSource>> Connect(const ReaderOptions& options, RemoteRowsOptions rows,
                                           const std::shared_ptr<const TableLayout>& layout,
                                           std::shared_ptr<ShardMapSource> maps,
                                           const std::vector<int32_t>& compression) {
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(layout->spec().hash, compression));
  UcxTransportOptions transport_options;
  transport_options.tls = options.transport;
  transport_options.one_sided = options.one_sided;
  transport_options.security = options.security;
  if (options.session_tokens != nullptr) {
    transport_options.token_of = [tokens = options.session_tokens](TableVersion version,
                                                                   const std::string& address) {
      return tokens->Get(version, address);
    };
  }
  ENGRAM_ASSIGN_OR_RETURN(transport_options.way, ParseReadWay(options.way));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport,
                          UcxTransport::Create(transport_options));
  rows.io_threads = options.io_threads;
  rows.spin = std::chrono::microseconds(options.io_spin_us);
  rows.cache_bytes = options.cache_bytes;
  rows.batch_tokens_max = options.batch_tokens_max;
  return CreateRemoteRows(rows, std::move(transport),
                          std::make_shared<const NgramHasher>(std::move(hasher)), layout,
                          std::move(maps));
}
}  // namespace

Result<std::unique_ptr<RowSource>> ConnectTo(const std::vector<NodeContact>& nodes,
                                             const ReaderOptions& options,
                                             const std::shared_ptr<const TableLayout>& layout,
                                             const std::vector<int32_t>& compression) {
  ShardMap map;
  map.version = kBenchVersion;
  map.epoch = Epoch(1);
  for (size_t i = 0; i < nodes.size(); ++i) {
    map.nodes.push_back({"m" + std::to_string(i), i == 0 ? kNear : "far", nodes[i].address,
                         nodes[i].incarnation()});
  }
  map.replica_count = options.replicas;
  for (uint32_t slot = 0; slot < layout->slot_count(); ++slot) {
    for (uint32_t replica = 0; replica < options.replicas; ++replica) {
      map.owners.push_back(NodeIndex(static_cast<uint32_t>((slot + replica) % nodes.size())));
    }
  }

  RemoteRowsOptions rows;
  rows.version = kBenchVersion;
  rows.identity = kBenchIdentity;
  rows.zone = kNear;
  return Connect(options, rows, layout, std::make_shared<FixedShardMap>(std::move(map)),
                 compression);
}

Result<std::shared_ptr<ShardDirectory>> FindCluster(const std::vector<std::string>& coordinators,
                                                    ReaderOptions& reader) {
  if (reader.security.identity != nullptr) reader.session_tokens = std::make_shared<TokenBook>();
  ShardDirectoryOptions options;
  options.coordinators = coordinators;
  options.security = reader.security;
  options.tokens = reader.session_tokens;
  return ShardDirectory::Connect(options);
}

Result<std::unique_ptr<RowSource>> ConnectToCluster(
    const std::shared_ptr<ShardDirectory>& directory, const ReaderOptions& options,
    const std::vector<int32_t>& compression) {
  RemoteRowsOptions rows;
  rows.version = directory->version();
  rows.identity = directory->identity();
  rows.zone = options.zone;
  return Connect(options, rows, directory->layout(), directory, compression);
}

Result<Measured> ReadLoop::Run(uint32_t tokens, double seconds) {
  rows_->ResetStats();
  Measured measured;
  const double node_cpu = NodeCpuSeconds();
  const MonotonicTime start = std::chrono::steady_clock::now();
  while (measured.seconds < seconds) {
    const TokenRun run = tokens_->Next(tokens);
    const MonotonicTime begin = std::chrono::steady_clock::now();
    if (Status status = ReadBatch(run); !status.ok()) return Error(std::move(status));
    const MonotonicTime end = std::chrono::steady_clock::now();
    measured.took.Add(end - begin);
    measured.seconds = std::chrono::duration<double>(end - start).count();
  }
  measured.stats = rows_->Stats();
  if (measured.stats.rows_wrong + measured.stats.rows_failed > 0) {
    return Error(StatusCode::kCorrupt, "rows were wrong or failed");
  }
  measured.rows_s = static_cast<double>(measured.stats.rows_asked) / measured.seconds;
  measured.node_cpu_seconds = NodeCpuSeconds() - node_cpu;
  return measured;
}

Status ReadLoop::CheckContents(uint32_t tokens) {
  const TokenRun run = tokens_->Next(tokens);
  const TableLayout& layout = rows_->layout();
  const auto columns = static_cast<uint32_t>(layout.column_count());
  std::vector<uint32_t> buckets(size_t{columns} * tokens);
  const Result<Ticket> ticket = rows_->Prefetch({&run, 1}, {});
  if (!ticket.has_value()) return ticket.error();
  Status status;
  for (int32_t layer = 0; status.ok() && layer < layout.layer_count(); ++layer) {
    rows_->hasher().Hash(layer, run, buckets.data(), tokens);
    const Result<LayerRows> got = rows_->Await(*ticket, layer);
    if (!got.has_value()) {
      status = got.error();
      break;
    }
    for (uint32_t i = 0; i < tokens * columns; ++i) {
      const uint32_t column = i % columns;
      const RowAddress address = layout.Address(layer, static_cast<int32_t>(column),
                                                buckets[column * tokens + i / columns]);
      uint64_t word = 0;
      std::memcpy(&word, got->rows.data() + size_t{i} * layout.row_bytes(), sizeof(word));
      if (word != MadeUpWord(address, 0)) status = Status(StatusCode::kCorrupt, "another row came");
    }
  }
  rows_->Release(*ticket);
  return status;
}

Status ReadLoop::ReadBatch(const TokenRun& run) {
  const Result<Ticket> ticket = rows_->Prefetch({&run, 1}, {});
  if (!ticket.has_value()) return ticket.error();
  Status status;
  for (int32_t layer = 0; status.ok() && layer < rows_->layout().layer_count(); ++layer) {
    const Result<LayerRows> got = rows_->Await(*ticket, layer);
    if (!got.has_value()) status = got.error();
  }
  rows_->Release(*ticket);
  return status;
}

double ReadLoop::NodeCpuSeconds() const {
  double seconds = 0;
  for (const NodeContact& node : nodes_) seconds += node.CpuSeconds();
  return seconds;
}

}  // namespace engram::bench

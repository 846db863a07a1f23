#include "tests/integration/reading_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "client/connect.h"
#include "client/local_rows.h"
#include "engram/rpc/host_port.h"

namespace engram::test {

Result<std::unique_ptr<ReadingClient>> ReadingClient::Create(const TestCluster& cluster,
                                                             const Options& options) {
  std::unique_ptr<ReadingClient> client(new ReadingClient(options));
  ENGRAM_ASSIGN_OR_RETURN(const ModelTables tables, ReadModelTables(cluster.model_dir(), true));
  client->vocabulary_size_ = static_cast<int32_t>(tables.compression.size());

  ConnectOptions connect;
  connect.coordinators = SplitAddresses(cluster.coordinator_address());
  connect.tables = &tables;
  connect.tls = options.transport;
  connect.one_sided = options.one_sided;
  if (options.way == "gather") connect.way = ReadWay::kGather;
  if (options.way == "mapped") connect.way = ReadWay::kMapped;
  if (options.way == "one-sided") connect.way = ReadWay::kOneSided;
  ENGRAM_ASSIGN_OR_RETURN(client->remote_, ConnectRemote(connect));

  ENGRAM_ASSIGN_OR_RETURN(TableLayout layout, TableLayout::Create(tables.spec));
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(tables.spec.hash, tables.compression));
  ENGRAM_ASSIGN_OR_RETURN(
      auto local, LocalTables::Load(cluster.model_dir(),
                                    std::make_shared<const TableLayout>(std::move(layout))));
  ENGRAM_ASSIGN_OR_RETURN(client->local_,
                          CreateLocalRows({}, std::move(local),
                                          std::make_shared<const NgramHasher>(std::move(hasher))));

  return client;
}

Status ReadingClient::ReadBatch(ReadTally* tally) {
  std::vector<TokenId> tokens(options_.tokens_per_batch);
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(random_() % static_cast<uint64_t>(vocabulary_size_));
  }
  TokenRun run;
  run.tokens = tokens;
  const BatchOptions batch{std::chrono::milliseconds(options_.deadline_ms)};
  auto remote = remote_->Prefetch({&run, 1}, batch);
  if (!remote.has_value()) return remote.error();
  auto local = local_->Prefetch({&run, 1}, batch);
  Status status = local.has_value() ? Status() : local.error();
  for (int32_t layer = 0; status.ok() && layer < remote_->layout().layer_count(); ++layer) {
    auto got = remote_->Await(*remote, layer);
    if (!got.has_value()) {
      status = got.error();
      break;
    }
    auto wanted = local_->Await(*local, layer);
    if (!wanted.has_value()) {
      status = wanted.error();
      break;
    }
    const uint32_t row_bytes = remote_->layout().row_bytes();
    for (size_t at = 0; at < wanted->rows.size(); at += row_bytes) {
      if (std::memcmp(got->rows.data() + at, wanted->rows.data() + at, row_bytes) != 0) {
        ++tally->rows_wrong;
      }
    }
  }
  remote_->Release(*remote);
  if (local.has_value()) local_->Release(*local);
  return status;
}

void ReadingClient::Read(int batches, ReadTally* tally) {
  for (int i = 0; i < batches; ++i) {
    Status status = ReadBatch(tally);
    if (status.ok()) {
      ++tally->batches_ok;
    } else {
      ++tally->batches_failed;
      if (tally->failures.size() < 100) tally->failures.push_back(std::move(status));
    }
  }
}

}  // namespace engram::test

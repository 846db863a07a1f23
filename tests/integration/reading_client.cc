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
  const auto shared_layout = std::make_shared<const TableLayout>(std::move(layout));
  const auto shared_hasher = std::make_shared<const NgramHasher>(std::move(hasher));
  std::vector<std::filesystem::path> models = {cluster.model_dir()};
  models.insert(models.end(), options.other_models.begin(), options.other_models.end());
  for (const std::filesystem::path& model : models) {
    ENGRAM_ASSIGN_OR_RETURN(auto local, LocalTables::Load(model, shared_layout));
    ENGRAM_ASSIGN_OR_RETURN(auto rows, CreateLocalRows({}, std::move(local), shared_hasher));
    client->locals_.push_back(std::move(rows));
  }
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
  std::vector<Ticket> locals;
  for (const auto& local : locals_) locals.push_back(local->Prefetch({&run, 1}, batch).value());
  std::vector<uint64_t> wrong(locals_.size());  // rows, by checkpoint
  Status status;
  const uint32_t row_bytes = remote_->layout().row_bytes();
  for (int32_t layer = 0; status.ok() && layer < remote_->layout().layer_count(); ++layer) {
    const auto got = remote_->Await(*remote, layer);
    if (!got.has_value()) status = got.error();
    for (size_t i = 0; status.ok() && i < locals_.size(); ++i) {
      const LayerRows wanted = locals_[i]->Await(locals[i], layer).value();
      for (size_t at = 0; at < wanted.rows.size(); at += row_bytes) {
        if (std::memcmp(got->rows.data() + at, wanted.rows.data() + at, row_bytes) != 0) ++wrong[i];
      }
    }
  }
  remote_->Release(*remote);
  for (size_t i = 0; i < locals_.size(); ++i) locals_[i]->Release(locals[i]);
  if (!status.ok()) return status;
  const auto best = std::min_element(wrong.begin(), wrong.end());
  tally->rows_wrong += *best;
  tally->batches_of.resize(locals_.size());
  ++tally->batches_of[static_cast<size_t>(best - wrong.begin())];
  return status;
}

void ReadingClient::Read(int batches, ReadTally* tally) {
  for (int i = 0; i < batches; ++i) {
    const auto began = std::chrono::steady_clock::now();
    Status status = ReadBatch(tally);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
    tally->longest_batch_ms = std::max(tally->longest_batch_ms, took.count());
    if (status.ok()) {
      ++tally->batches_ok;
    } else {
      ++tally->batches_failed;
      if (tally->failures.size() < 100) tally->failures.push_back(std::move(status));
    }
  }
}

}  // namespace engram::test

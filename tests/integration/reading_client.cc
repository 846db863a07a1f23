#include "tests/integration/reading_client.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "client/connect.h"
#include "client/local_rows.h"
#include "engram/rpc/host_port.h"

namespace engram::test {

Result<std::unique_ptr<ReadingClient>> ReadingClient::Create(const std::string& coordinators,
                                                             const std::filesystem::path& model,
                                                             const Options& options) {
  std::unique_ptr<ReadingClient> client(new ReadingClient(options));
  ENGRAM_ASSIGN_OR_RETURN(const ModelTables tables, ReadModelTables(model, true));
  client->vocabulary_size_ = static_cast<int32_t>(tables.compression.size());

  ConnectOptions connect;
  connect.coordinators = SplitAddresses(coordinators);
  connect.tables = &tables;
  connect.tls = options.transport;
  connect.one_sided = options.one_sided;
  connect.zone = options.zone;
  connect.landing = options.landing;
  ENGRAM_ASSIGN_OR_RETURN(connect.security, OpenSecurity(options.security));
  if (options.way == "gather") connect.way = ReadWay::kGather;
  if (options.way == "mapped") connect.way = ReadWay::kMapped;
  if (options.way == "one-sided") connect.way = ReadWay::kOneSided;
  ENGRAM_ASSIGN_OR_RETURN(client->remote_, ConnectRemote(connect));

  ENGRAM_ASSIGN_OR_RETURN(TableLayout layout, TableLayout::Create(tables.spec));
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(tables.spec.hash, tables.compression));
  const auto shared_layout = std::make_shared<const TableLayout>(std::move(layout));
  const auto shared_hasher = std::make_shared<const NgramHasher>(std::move(hasher));
  std::vector<std::filesystem::path> models = {model};
  models.insert(models.end(), options.other_models.begin(), options.other_models.end());
  for (const std::filesystem::path& each : models) {
    ENGRAM_ASSIGN_OR_RETURN(auto local, LocalTables::Load(each, shared_layout));
    ENGRAM_ASSIGN_OR_RETURN(auto rows, CreateLocalRows({}, std::move(local), shared_hasher));
    client->locals_.push_back(std::move(rows));
  }
  return client;
}

ReadingClient::Compared ReadingClient::Compare(const std::vector<LayerRows>& got, RowSource& local,
                                               const TokenRun& run) {
  const Ticket ticket = local.Prefetch({&run, 1}, {std::chrono::seconds(60)}).value();
  const size_t row_bytes = local.layout().row_bytes();
  Compared compared;
  for (size_t layer = 0; layer < got.size(); ++layer) {
    const LayerRows wanted = local.Await(ticket, static_cast<int32_t>(layer)).value();
    const size_t token_bytes = wanted.rows.size() / run.tokens.size();
    for (size_t token = 0; token < run.tokens.size(); ++token) {
      if (!wanted.dead.empty() && wanted.dead[token] != 0) continue;
      for (size_t at = token * token_bytes; at < (token + 1) * token_bytes; at += row_bytes) {
        const bool same =
            std::memcmp(got[layer].rows.data() + at, wanted.rows.data() + at, row_bytes) == 0;
        ++(same ? compared.right : compared.wrong);
      }
    }
  }
  local.Release(ticket);
  return compared;
}

Status ReadingClient::ReadBatch(ReadTally* tally) {
  std::vector<TokenId> tokens(options_.tokens_per_batch);
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(random_() % static_cast<uint64_t>(vocabulary_size_));
  }
  TokenRun run;
  run.tokens = tokens;
  const auto began = std::chrono::steady_clock::now();
  auto remote =
      remote_->Prefetch({&run, 1}, BatchOptions{std::chrono::milliseconds(options_.deadline_ms)});
  std::vector<LayerRows> got;
  std::deque<std::vector<std::byte>> landed;
  Status status = remote.has_value() ? Status() : remote.error();
  for (int32_t layer = 0; status.ok() && layer < remote_->layout().layer_count(); ++layer) {
    const auto rows = remote_->Await(*remote, layer);
    if (rows.has_value()) {
      got.push_back(*rows);
      if (rows->landed.rows != nullptr) {
        got.back().rows =
            landed.emplace_back(HostLanding::LookUp(*rows, remote_->layout().row_bytes()));
      }
    } else {
      status = rows.error();
    }
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  tally->last_batch_ms = took.count();
  tally->longest_batch_ms = std::max(tally->longest_batch_ms, took.count());
  if (status.ok()) {
    // Most batches are of the checkpoint that the last one was of.
    Compared best = Compare(got, *locals_[last_of_], run);
    for (size_t i = 0; best.wrong > 0 && i < locals_.size(); ++i) {
      const Compared compared = Compare(got, *locals_[i], run);
      if (compared.wrong >= best.wrong) continue;
      best = compared;
      last_of_ = i;
    }
    tally->rows_right += best.right;
    tally->rows_wrong += best.wrong;
    tally->batches_of.resize(locals_.size());
    ++tally->batches_of[last_of_];
  }
  if (remote.has_value()) remote_->Release(*remote);
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

ReadTally ReadingClient::ReadUntilAllCome(int batches, std::chrono::seconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  uint64_t rows_wrong = 0;
  ReadTally tally;
  do {
    tally = {};
    Read(batches, &tally);
    rows_wrong += tally.rows_wrong;
  } while (tally.batches_failed > 0 && std::chrono::steady_clock::now() < until);
  tally.rows_wrong = rows_wrong;
  return tally;
}

}  // namespace engram::test

// A few memory nodes in this process, with the rows of a small table, for the client's tests.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "client/fixed_shard_map.h"
#include "client/remote_rows.h"
#include "client/row_source.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/transport/loopback/loopback_network.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram::test {

inline constexpr TableVersion kTestVersion(7);

// Token id t has the compressed id t % V; [1500] token ids.
inline std::shared_ptr<const NgramHasher> SmallHasher(const TableLayout& layout) {
  std::vector<int32_t> compression(1500);
  for (size_t i = 0; i < compression.size(); ++i) {
    compression[i] =
        static_cast<int32_t>(i) % static_cast<int32_t>(layout.spec().hash.compressed_vocab_size);
  }
  return std::make_shared<const NgramHasher>(
      NgramHasher::Create(layout.spec().hash, compression).value());
}

// Slot s is on node s % node_count, and on the next ones where there are several replicas.
class LoopbackCluster {
 public:
  explicit LoopbackCluster(uint32_t node_count, int64_t column_rows = 2000,
                           uint32_t replica_count = 1,
                           const std::vector<int32_t>& layer_ids = {1, 14})
      : layout(SmallLayout(column_rows, layer_ids)),
        hasher(SmallHasher(*layout)),
        replica_count_(replica_count) {
    servers.resize(node_count);
    for (uint32_t n = 0; n < node_count; ++n) StartNode(n);
    maps = std::make_shared<FixedShardMap>(Map(1));
  }

  // (Re)starts a node with its slots, as a new incarnation.
  void StartNode(uint32_t node) {
    const auto count = static_cast<uint32_t>(servers.size());
    servers[node] = network.CreateServer(Address(node), Incarnation(100 * ++starts_ + node + 1));
    incarnations_.resize(servers.size());
    incarnations_[node] = Incarnation(100 * starts_ + node + 1);
    servers[node]->Serve(FillSlots(*servers[node], kTestVersion, layout, [&](uint32_t slot) {
      return (node + count - slot % count) % count < replica_count_;
    }));
  }
  [[nodiscard]] static std::string Address(uint32_t node) {
    return "host" + std::to_string(node) + ":1";
  }
  [[nodiscard]] ShardMap Map(uint64_t epoch) const {
    ShardMap map;
    map.version = kTestVersion;
    map.epoch = Epoch(epoch);
    map.replica_count = replica_count_;
    for (uint32_t n = 0; n < servers.size(); ++n) {
      map.nodes.push_back({"m" + std::to_string(n), "zone", Address(n), incarnations_[n]});
    }
    for (uint32_t s = 0; s < layout->slot_count(); ++s) {
      for (uint32_t r = 0; r < replica_count_; ++r) {
        map.owners.emplace_back((s + r) % static_cast<uint32_t>(servers.size()));
      }
    }
    return map;
  }

  [[nodiscard]] RemoteRowsOptions Options() const {
    RemoteRowsOptions options;
    options.version = kTestVersion;
    options.identity = SmallIdentity();
    options.batch_tokens_max = 256;
    options.staging_buffers = 2;
    return options;
  }
  [[nodiscard]] std::unique_ptr<RowSource> Connect(const RemoteRowsOptions& options) {
    auto rows = CreateRemoteRows(options, network.CreateTransport(), hasher, layout, maps);
    if (!rows.has_value()) {
      ADD_FAILURE() << rows.error().ToString();
      return nullptr;
    }
    return *std::move(rows);
  }

  std::shared_ptr<const TableLayout> layout;
  std::shared_ptr<const NgramHasher> hasher;
  LoopbackNetwork network;
  std::vector<std::unique_ptr<RowServer>> servers;
  std::shared_ptr<FixedShardMap> maps;

 private:
  const uint32_t replica_count_;
  uint64_t starts_ = 0;
  std::vector<Incarnation> incarnations_;
};

// What Await should give for one layer: the naive computation, row by row.
inline std::vector<std::byte> ExpectedRows(const TableLayout& layout, const NgramHasher& hasher,
                                           int32_t layer_index, std::span<const TokenRun> runs) {
  const auto columns = static_cast<size_t>(layout.column_count());
  std::vector<std::byte> out;
  for (const TokenRun& run : runs) {
    const size_t tokens = run.tokens.size();
    if (tokens == 0) continue;
    std::vector<uint32_t> buckets(columns * tokens);
    hasher.Hash(layer_index, run, buckets.data(), tokens);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t c = 0; c < columns; ++c) {
        const RowAddress address =
            layout.Address(layer_index, static_cast<int32_t>(c), buckets[c * tokens + t]);
        const auto stored = StoredRow(layout, kTestVersion, address);
        out.insert(out.end(), stored.begin(), stored.begin() + layout.row_bytes());
      }
    }
  }
  return out;
}

// Every live token has exactly its rows.
inline void ExpectRightRows(const RowSource& source, int32_t layer_index,
                            std::span<const TokenRun> runs, const LayerRows& rows) {
  const auto expected = ExpectedRows(source.layout(), source.hasher(), layer_index, runs);
  ASSERT_EQ(rows.rows.size(), expected.size());
  const size_t token_bytes =
      static_cast<size_t>(source.layout().column_count()) * source.layout().row_bytes();
  ASSERT_EQ(rows.rows.size(), rows.token_count * token_bytes);
  for (size_t t = 0; t < rows.token_count; ++t) {
    if (!rows.dead.empty() && rows.dead[t] != 0) continue;
    ASSERT_TRUE(std::equal(rows.rows.begin() + static_cast<std::ptrdiff_t>(t * token_bytes),
                           rows.rows.begin() + static_cast<std::ptrdiff_t>((t + 1) * token_bytes),
                           expected.begin() + static_cast<std::ptrdiff_t>(t * token_bytes)))
        << "token " << t << " of layer index " << layer_index;
  }
}

inline std::vector<TokenId> SomeTokens(size_t count, uint64_t seed, TokenId below = 1500) {
  std::vector<TokenId> tokens(count);
  uint64_t x = seed;
  for (TokenId& token : tokens) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    token = static_cast<TokenId>((x >> 33) % static_cast<uint64_t>(below));
  }
  return tokens;
}

}  // namespace engram::test

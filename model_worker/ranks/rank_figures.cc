#include "model_worker/ranks/rank_figures.h"

#include <cstdio>
#include <type_traits>

#include <nlohmann/json.hpp>

namespace engram {
namespace {

static_assert(std::is_trivially_copyable_v<RankFigures>);

double Milliseconds(uint64_t ns) { return static_cast<double>(ns) * 1e-6; }

}  // namespace

RankFigures FiguresOf(const Collective& collective, const RankRows& rows) {
  RankFigures figures;
  for (const RowSource* const source : rows.sources()) {
    if (source == nullptr) continue;
    const RowSourceStats stats = source->Counts();
    figures.rows_asked += stats.rows_asked;
    figures.rows_read += stats.rows_read;
    figures.rows_from_cache += stats.rows_from_cache;
    figures.rows_wrong += stats.rows_wrong;
    figures.rows_failed += stats.rows_failed;
    figures.bytes_read += stats.bytes_read;
    for (const RowSourceStats::Layer& layer : stats.layers) figures.stall_ns += layer.stall_ns;
  }
  figures.gathered_rows = rows.gathered_rows();
  figures.gather_ns = rows.gather_ns();
  const CollectiveStats stats = collective.stats();
  figures.reduces = stats.reduces;
  figures.reduce_bytes = stats.reduce_bytes;
  figures.reduce_ns = stats.reduce_ns;
  return figures;
}

Status GatherFigures(Collective* collective, const RankFigures& mine,
                     std::vector<RankFigures>* all) {
  all->resize(collective->rank_count());
  (*all)[collective->rank()] = mine;
  std::vector<std::span<std::byte>> blocks;
  for (RankFigures& figures : *all) {
    blocks.push_back(std::as_writable_bytes(std::span(&figures, 1)));
  }
  return collective->Gather(blocks);
}

nlohmann::json RankReport(std::span<const RankFigures> ranks) {
  nlohmann::json report = nlohmann::json::array();
  for (const RankFigures& rank : ranks) {
    report.push_back({{"rows_asked", rank.rows_asked},
                      {"rows_read", rank.rows_read},
                      {"rows_from_cache", rank.rows_from_cache},
                      {"rows_wrong", rank.rows_wrong},
                      {"rows_failed", rank.rows_failed},
                      {"bytes_read", rank.bytes_read},
                      {"stall_ms", Milliseconds(rank.stall_ns)},
                      {"gathered_rows", rank.gathered_rows},
                      {"gather_ms", Milliseconds(rank.gather_ns)},
                      {"reduces", rank.reduces},
                      {"reduce_bytes", rank.reduce_bytes},
                      {"reduce_ms", Milliseconds(rank.reduce_ns)}});
  }
  return report;
}

std::string RankTable(std::span<const RankFigures> ranks) {
  std::string table = "rank    rows read   MiB read  stall ms  gather ms  reduce ms\n";
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const RankFigures& figures = ranks[rank];
    char line[128];
    (void)std::snprintf(line, sizeof(line), "%4zu %12llu %10.2f %9.1f %10.1f %10.1f\n", rank,
                        static_cast<unsigned long long>(figures.rows_read),
                        static_cast<double>(figures.bytes_read) / (1 << 20),
                        Milliseconds(figures.stall_ns), Milliseconds(figures.gather_ns),
                        Milliseconds(figures.reduce_ns));
    table += line;
  }
  return table;
}

}  // namespace engram

#include "client/row_metrics.h"

#include <algorithm>
#include <string>

#include "engram/metrics/family_writer.h"

namespace engram {
namespace {

void WriteRows(const RowSourceStats& stats, FamilyWriter* out) {
  out->Counter("engram_client_batches_total", "Batches prefetched.", stats.batches);
  out->Counter("engram_client_tokens_total", "Tokens of those batches.", stats.tokens);
  out->Counter("engram_client_rows_asked_total",
               "Rows that the batches need: tokens x columns x layers, less dead positions.",
               stats.rows_asked);
  out->Counter("engram_client_rows_unique_total", "Rows left after dedupe within a batch.",
               stats.rows_unique);
  out->Counter("engram_client_rows_from_cache_total", "Of these, found in the row cache.",
               stats.rows_from_cache);
  out->Counter("engram_client_rows_read_total",
               "Rows that came from memory nodes (or from memory of this process).",
               stats.rows_read);
  out->Counter("engram_client_rows_landed_total",
               "Of these, put into a GPU's memory by a network card.", stats.rows_landed);
  out->Counter("engram_client_rows_verified_total", "Rows read, with the right CRC.",
               stats.rows_verified);
  out->Counter("engram_client_rows_corrupt_total",
               "Rows read, with a wrong CRC: rejected, reported, read again.", stats.rows_wrong);
  out->Counter("engram_client_rows_failed_total",
               "Rows that could not be had within their batch's deadline.", stats.rows_failed);
  out->Counter("engram_client_read_bytes_total", "Bytes of the rows read, with their CRC.",
               stats.bytes_read);
}

void WriteReads(const RowSourceStats& stats, FamilyWriter* out) {
  out->Counter("engram_client_reads_total", "Reads asked of memory nodes, each of many rows.",
               stats.reads);
  out->Counter("engram_client_reads_retried_total", "Reads of which rows were tried again.",
               stats.reads_retried);
  out->Counter("engram_client_reads_hedged_total",
               "Late reads whose rows were asked of another replica too.", stats.reads_hedged);
  out->Counter("engram_client_hedges_won_total",
               "Of these, how often the other replica answered first.", stats.hedges_won);
  out->TimeCounter("engram_client_row_path_cpu_seconds_total",
                   "CPU time of hashing and of the I/O threads.", stats.row_path_cpu_ns);
}

void WriteLayers(const RowSourceStats& stats, const std::vector<int32_t>& layer_ids,
                 FamilyWriter* out) {
  // A family at a time, since its samples stand together.
  const auto each = [&](auto write) {
    for (size_t i = 0; i < std::min(stats.layers.size(), layer_ids.size()); ++i) {
      write(stats.layers[i], FamilyWriter::Labels{{"layer", std::to_string(layer_ids[i])}});
    }
  };
  using Layer = RowSourceStats::Layer;
  each([&](const Layer& layer, const FamilyWriter::Labels& labels) {
    out->Counter("engram_client_tickets_total", "Tickets that a layer awaited.", layer.batches,
                 labels);
  });
  each([&](const Layer& layer, const FamilyWriter::Labels& labels) {
    out->Counter("engram_client_tickets_late_total",
                 "Of these, whose rows were not there yet when the layer asked.",
                 layer.batches - layer.batches_in_time, labels);
  });
  each([&](const Layer& layer, const FamilyWriter::Labels& labels) {
    out->TimeCounter("engram_client_stall_seconds_total", "Time that layers waited for rows.",
                     layer.stall_ns, labels);
  });
  each([&](const Layer& layer, const FamilyWriter::Labels& labels) {
    out->Histogram("engram_client_prefetch_seconds",
                   "From a ticket's row ids known to the rows of a layer ready.",
                   layer.prefetch_times, labels);
  });
  each([&](const Layer& layer, const FamilyWriter::Labels& labels) {
    out->Histogram("engram_client_window_seconds",
                   "From a ticket's prefetch to the layer that asks: what hides the reading.",
                   layer.window_times, labels);
  });
}

void WriteHeld(const RowSourceStats::Held& held, FamilyWriter* out) {
  for (const RowSourceStats::Held::Version& version : held.versions) {
    out->Gauge("engram_client_shard_map_epoch", "Epoch of the shard map that is read by.",
               version.epoch.value(), {{"version", std::to_string(version.version.value())}});
  }
  for (const ReadWay way : {ReadWay::kGather, ReadWay::kMapped, ReadWay::kOneSided}) {
    out->Gauge("engram_client_sessions", "Open sessions with memory nodes, of all I/O threads.",
               held.sessions[static_cast<size_t>(way)], {{"way", std::string(ReadWayName(way))}});
  }
  out->Gauge("engram_client_staging_bytes", "Memory of the staging buffers.", held.staging_bytes);
  out->Gauge("engram_client_cache_bytes", "Memory of the row caches.", held.cache_bytes);
  out->Gauge("engram_client_cache_rows", "Rows in the row caches.", held.cache_rows);
  out->Gauge("engram_client_cache_rows_limit", "Rows that the row caches have room for.",
             held.cache_rows_max);
}

}  // namespace

std::vector<prometheus::MetricFamily> RowMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  FamilyWriter out(&families);
  const RowSourceStats stats = rows_->Counts();
  WriteRows(stats, &out);
  WriteReads(stats, &out);
  WriteLayers(stats, rows_->hasher().spec().layer_ids, &out);
  WriteHeld(stats.held, &out);
  return families;
}

}  // namespace engram

#include "model_worker/engine_metrics.h"

#include <iterator>
#include <string>
#include <utility>

#include "client/row_metrics.h"
#include "engram/metrics/family_writer.h"

namespace engram {
namespace {

void WriteEngine(const EngineStats& stats, FamilyWriter* out) {
  out->Counter("engram_worker_steps_total", "Steps of the engine.", stats.steps);
  const std::string tokens = "engram_worker_tokens_total";
  const std::string tokens_help = "Tokens computed.";
  out->Counter(tokens, tokens_help, stats.prefill_tokens, {{"phase", "prefill"}});
  out->Counter(tokens, tokens_help, stats.decode_tokens, {{"phase", "decode"}});
  const std::string time = "engram_worker_step_seconds_total";
  const std::string time_help = "Wall time of steps: of those with prefill, and of the others.";
  out->TimeCounter(time, time_help, stats.prefill_step_ns, {{"phase", "prefill"}});
  out->TimeCounter(time, time_help, stats.decode_step_ns, {{"phase", "decode"}});
  const auto requests = [&](const char* result, uint64_t count) {
    out->Counter("engram_worker_requests_total", "Requests, by how they ended.", count,
                 {{"result", result}});
  };
  requests("finished", stats.requests_finished);
  requests("failed", stats.requests_failed);
  requests("cancelled", stats.requests_cancelled);
  requests("refused", stats.requests_refused);
  out->Counter("engram_worker_steps_without_rows_total",
               "Steps lost because rows could not be had.", stats.steps_without_rows);
  out->Gauge("engram_worker_requests_queued",
             "Requests that wait for a slot or for room in the KV cache.", stats.queued);
  out->Gauge("engram_worker_requests_running", "Requests that hold a slot.", stats.running);
  out->Gauge("engram_worker_kv_tokens",
             "Tokens of the KV cache set apart for requests that hold a slot.", stats.kv_tokens);
}

void WriteRanks(const std::vector<RankFigures>& ranks, FamilyWriter* out) {
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const RankFigures& figures = ranks[rank];
    const std::string number = std::to_string(rank);
    out->Counter("engram_worker_rank_rows_read_total", "Rows that a rank read itself.",
                 figures.rows_read, {{"rank", number}});
    out->Counter("engram_worker_rank_bytes_read_total", "Bytes of those rows.", figures.bytes_read,
                 {{"rank", number}});
    out->Counter("engram_worker_rank_rows_failed_total",
                 "Rows that a rank could not have within the deadline.", figures.rows_failed,
                 {{"rank", number}});
    out->TimeCounter("engram_worker_rank_stall_seconds_total",
                     "Time in which a rank waited for rows that it read itself.", figures.stall_ns,
                     {{"rank", number}});
    out->TimeCounter("engram_worker_rank_gather_seconds_total",
                     "Time in which ranks handed rows round, waiting for each other included.",
                     figures.gather_ns, {{"rank", number}});
    out->TimeCounter("engram_worker_rank_reduce_seconds_total",
                     "Time in which ranks added their sums, waiting for each other included.",
                     figures.reduce_ns, {{"rank", number}});
  }
}

}  // namespace

std::vector<prometheus::MetricFamily> EngineMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  FamilyWriter out(&families);
  WriteEngine(engine_->Stats(), &out);
  if (ranks_) WriteRanks(ranks_(), &out);
  if (rows_ == nullptr) return families;
  std::vector<prometheus::MetricFamily> of_rows = RowMetrics(rows_).Collect();
  std::move(of_rows.begin(), of_rows.end(), std::back_inserter(families));
  return families;
}

}  // namespace engram

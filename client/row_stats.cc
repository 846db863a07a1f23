#include "client/row_stats.h"

#include <ctime>

namespace engram {

void RowStats::Samples::Add(double value) {
  if (values.size() < kLatencySamplesMax) {
    values.push_back(value);
    return;
  }
  values[next] = value;
  next = (next + 1) % kLatencySamplesMax;
}

RowStats::RowStats(size_t layer_count) : layers_(layer_count) {
  for (Layer& layer : layers_) {
    layer.prefetch_us.values.reserve(kLatencySamplesMax);
    layer.window_us.values.reserve(kLatencySamplesMax);
  }
}

void RowStats::AddBatch(uint32_t token_count, uint64_t rows_asked, uint64_t cpu_ns) {
  const std::lock_guard lock(mutex_);
  ++batches_;
  tokens_ += token_count;
  rows_asked_ += rows_asked;
  cpu_ns_ += cpu_ns;
}

void RowStats::AddAwait(size_t layer_index, const AwaitSample& sample) {
  const std::lock_guard lock(mutex_);
  Layer& layer = layers_[layer_index];
  ++layer.batches;
  if (sample.in_time) ++layer.batches_in_time;
  layer.window_us.Add(sample.window_us);
  if (sample.ok) layer.prefetch_us.Add(sample.prefetch_us);
}

void RowStats::AddStall(size_t layer_index, uint64_t stall_ns, uint64_t cpu_ns) {
  const std::lock_guard lock(mutex_);
  layers_[layer_index].stall_ns += stall_ns;
  cpu_ns_ += cpu_ns;
}

RowSourceStats RowStats::Snapshot() const {
  RowSourceStats stats;
  const std::lock_guard lock(mutex_);
  for (const Layer& layer : layers_) {
    RowSourceStats::Layer& out = stats.layers.emplace_back();
    out.batches = layer.batches;
    out.batches_in_time = layer.batches_in_time;
    out.stall_ns = layer.stall_ns;
    out.prefetch_us = layer.prefetch_us.values;
    out.window_us = layer.window_us.values;
  }
  stats.batches = batches_;
  stats.tokens = tokens_;
  stats.rows_asked = rows_asked_;
  stats.row_path_cpu_ns = cpu_ns_;
  return stats;
}

void RowStats::Reset() {
  const std::lock_guard lock(mutex_);
  for (Layer& layer : layers_) {
    layer.batches = 0;
    layer.batches_in_time = 0;
    layer.stall_ns = 0;
    layer.prefetch_us.values.clear();
    layer.prefetch_us.next = 0;
    layer.window_us.values.clear();
    layer.window_us.next = 0;
  }
  batches_ = 0;
  tokens_ = 0;
  rows_asked_ = 0;
  cpu_ns_ = 0;
}

void AddStats(const RowSourceStats& from, RowSourceStats* to) {
  if (to->layers.size() < from.layers.size()) to->layers.resize(from.layers.size());
  const auto append = [](const std::vector<double>& more, std::vector<double>* samples) {
    samples->insert(samples->end(), more.begin(), more.end());
    if (samples->size() <= kLatencySamplesMax) return;
    samples->erase(samples->begin(),
                   samples->end() - static_cast<std::ptrdiff_t>(kLatencySamplesMax));
  };
  for (size_t i = 0; i < from.layers.size(); ++i) {
    RowSourceStats::Layer& layer = to->layers[i];
    layer.batches += from.layers[i].batches;
    layer.batches_in_time += from.layers[i].batches_in_time;
    layer.stall_ns += from.layers[i].stall_ns;
    append(from.layers[i].prefetch_us, &layer.prefetch_us);
    append(from.layers[i].window_us, &layer.window_us);
  }
  to->batches += from.batches;
  to->tokens += from.tokens;
  to->rows_asked += from.rows_asked;
  to->rows_unique += from.rows_unique;
  to->rows_from_cache += from.rows_from_cache;
  to->rows_read += from.rows_read;
  to->rows_verified += from.rows_verified;
  to->rows_wrong += from.rows_wrong;
  to->rows_failed += from.rows_failed;
  to->reads_retried += from.reads_retried;
  to->reads_hedged += from.reads_hedged;
  to->hedges_won += from.hedges_won;
  to->row_path_cpu_ns += from.row_path_cpu_ns;
}

uint64_t ThreadCpuNanoseconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace engram

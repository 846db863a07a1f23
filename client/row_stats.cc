#include "client/row_stats.h"

#include <ctime>

namespace engram {

void RowStats::Samples::Add(uint64_t ns) {
  const double value = static_cast<double>(ns) / 1000.0;
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
  layer.window_times.Add(sample.window_ns);
  layer.window_us.Add(sample.window_ns);
  if (!sample.ok) return;
  layer.prefetch_times.Add(sample.prefetch_ns);
  layer.prefetch_us.Add(sample.prefetch_ns);
}

void RowStats::AddStall(size_t layer_index, uint64_t stall_ns, uint64_t cpu_ns) {
  const std::lock_guard lock(mutex_);
  layers_[layer_index].stall_ns += stall_ns;
  cpu_ns_ += cpu_ns;
}

RowSourceStats RowStats::Snapshot(bool with_samples) const {
  RowSourceStats stats;
  stats.layers.resize(layers_.size());
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    RowSourceStats::Layer& out = stats.layers[i];
    out.batches = layer.batches;
    out.batches_in_time = layer.batches_in_time;
    out.stall_ns = layer.stall_ns;
    out.prefetch_times = layer.prefetch_times;
    out.window_times = layer.window_times;
    if (!with_samples) continue;
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
    layer.prefetch_times = {};
    layer.window_times = {};
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
    layer.prefetch_times.Add(from.layers[i].prefetch_times);
    layer.window_times.Add(from.layers[i].window_times);
    append(from.layers[i].prefetch_us, &layer.prefetch_us);
    append(from.layers[i].window_us, &layer.window_us);
  }
  to->batches += from.batches;
  to->tokens += from.tokens;
  to->rows_asked += from.rows_asked;
  to->row_path_cpu_ns += from.row_path_cpu_ns;
  for (const FillCount& count : kFillCounts) to->*count.told += from.*count.told;
  RowSourceStats::Held& held = to->held;
  held.versions.insert(held.versions.end(), from.held.versions.begin(), from.held.versions.end());
  for (size_t way = 0; way < held.sessions.size(); ++way) {
    held.sessions[way] += from.held.sessions[way];
  }
  held.staging_bytes += from.held.staging_bytes;
  held.cache_bytes += from.held.cache_bytes;
  held.cache_rows += from.held.cache_rows;
  held.cache_rows_max += from.held.cache_rows_max;
}

uint64_t ThreadCpuNanoseconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace engram

#include "client/ticketed_rows.h"

#include <algorithm>
#include <ctime>
#include <string>
#include <utility>

#include <pthread.h>

#include "engram/base/check.h"
#include "engram/base/thread_role.h"

namespace engram {
namespace {

// Long enough to catch rows that are just arriving, short enough not to take a core from the model.
constexpr std::chrono::microseconds kAwaitSpin{5};
// A batch of more rows would keep the caller of Prefetch from its own work.
constexpr uint64_t kPrefetchRowsMax = 128;
// Larger ones keep the thread awake from their start, and memory nodes busy for longer than a
// caller should spin.
constexpr uint64_t kAwaitRowsMax = 2048;
// Most replies come within this. A caller that waits longer sleeps, and the thread is woken.
constexpr std::chrono::microseconds kHelpSpin{50};

// Never negative.
uint64_t Nanoseconds(Duration d) { return static_cast<uint64_t>(std::max(Duration(0), d).count()); }

uint64_t ClockNanoseconds(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace

TicketedRows::TicketedRows(Parts parts)
    : parts_(std::move(parts)), stats_(static_cast<size_t>(parts_.layout->layer_count())) {
  ENGRAM_CHECK(parts_.ring->options().part_count == parts_.fillers.size());
  ENGRAM_CHECK(parts_.stripe.index < parts_.stripe.count);
  const size_t buffers = parts_.ring->options().buffer_count;
  for (const auto& filler : parts_.fillers) {
    auto thread = std::make_unique<FillThread>();
    thread->filler = filler.get();
    // A buffer has at most a begin, its abandon, and the abandon of the ticket before in the queue.
    thread->commands.reserve(buffers * 4);
    thread->taken.reserve(buffers * 4);
    thread->active.resize(buffers);
    threads_.push_back(std::move(thread));
  }
  for (auto& thread : threads_) {
    thread->thread = std::thread([this, t = thread.get()] { Run(*t); });
    const int error = pthread_getcpuclockid(thread->thread.native_handle(), &thread->cpu_clock);
    ENGRAM_CHECK(error == 0);
  }
  baseline_.layers.clear();
}

TicketedRows::~TicketedRows() {
  stopping_.store(true, std::memory_order_seq_cst);
  for (auto& thread : threads_) thread->filler->Wake();
  for (auto& thread : threads_) thread->thread.join();
  parts_.fillers.clear();
}

Result<Ticket> TicketedRows::Prefetch(std::span<const TokenRun> runs, const BatchOptions& options) {
  const uint64_t cpu_begin = ThreadCpuNanoseconds();
  for (const TokenRun& run : runs) ENGRAM_TRY(parts_.hasher->Validate(run));
  const MonotonicTime begin = SteadyClock().Now();
  ENGRAM_ASSIGN_OR_RETURN(StagingBuffer * buffer,
                          parts_.ring->Acquire(runs, begin + options.deadline, options.striped));
  const uint64_t ticket = buffer->ticket.load(std::memory_order_relaxed);
  const uint32_t tokens = buffer->token_count;
  const auto dead =
      static_cast<uint64_t>(std::count(buffer->dead.begin(), buffer->dead.end(), uint8_t{1}));
  const uint64_t rows = RowsOf(tokens - dead, options.striped);
  const Command command{.abandon = false, .buffer = buffer->index, .ticket = ticket};
  if (rows > kPrefetchRowsMax || !BeginHere(command)) SendAll(command);
  stats_.AddBatch(tokens, rows, ThreadCpuNanoseconds() - cpu_begin);
  buffer->prefetched_at = SteadyClock().Now();  // nobody else has the ticket yet
  return Ticket(ticket);
}

Result<LayerRows> TicketedRows::Await(Ticket ticket, int32_t layer_index) {
  if (layer_index < 0 || layer_index >= layout().layer_count()) {
    return Error(StatusCode::kInvalidArgument,
                 "layer index " + std::to_string(layer_index) + ": the model has " +
                     std::to_string(layout().layer_count()) + " Engram layers");
  }
  StagingBuffer* buffer = parts_.ring->Find(ticket);
  if (buffer == nullptr) {
    return Error(StatusCode::kInvalidArgument, "ticket " + std::to_string(ticket.value()) +
                                                   " is not in flight: it was released, or never "
                                                   "given");
  }
  const auto layer_place = static_cast<size_t>(layer_index);
  StagingBuffer::Layer& layer = buffer->layers[layer_place];
  const MonotonicTime begin = SteadyClock().Now();
  const bool in_time = StagingRing::Ready(*buffer, layer_index);
  if (!in_time) {
    if (RowsOf(buffer->token_count, buffer->striped) <= kAwaitRowsMax)
      HelpUntilReady(*buffer, layer_index);
    MonotonicTime now = SteadyClock().Now();
    const Duration spin = std::max<Duration>(kAwaitSpin, parts_.spin);
    while (!StagingRing::Ready(*buffer, layer_index) && now - begin < spin) {
      now = SteadyClock().Now();
    }
    const Duration spun = now - begin;
    StagingRing::WaitReady(*buffer, layer_index);
    stats_.AddStall(layer_place, Nanoseconds(SteadyClock().Now() - begin), Nanoseconds(spun));
  }
  Status status = StagingRing::LayerStatus(*buffer, layer_index);
  if (!layer.awaited) {
    layer.awaited = true;
    const int64_t ids_known = layer.ids_known_ns.load(std::memory_order_relaxed);
    const int64_t ready = layer.ready_ns.load(std::memory_order_relaxed);
    stats_.AddAwait(layer_place,
                    {.in_time = in_time,
                     .ok = status.ok(),
                     .prefetch_ns = Nanoseconds(std::chrono::nanoseconds(ready - ids_known)),
                     .window_ns = Nanoseconds(begin - buffer->prefetched_at)});
  }
  if (!status.ok()) return Error(std::move(status));
  const size_t bytes = size_t{buffer->token_count} * static_cast<size_t>(layout().column_count()) *
                       parts_.ring->options().row_bytes;
  const std::span rows(buffer->rows(layer_index), bytes);
  return LayerRows{.rows = rows,
                   .dead = buffer->dead,
                   .token_count = buffer->token_count,
                   .others = buffer->striped ? rows : std::span<std::byte>(),
                   .only_ids = parts_.only_ids,
                   .landed = parts_.landed};
}

void TicketedRows::Release(Ticket ticket) {
  StagingBuffer* buffer = parts_.ring->Find(ticket);
  if (buffer == nullptr) return;
  const uint32_t index = buffer->index;
  if (parts_.ring->Release(*buffer)) {
    SendAll({.abandon = true, .buffer = index, .ticket = ticket.value()});
  }
}

template <typename Work>
bool TicketedRows::DriveHere(Work work) {
  if (threads_.size() != 1) return false;
  FillThread& thread = *threads_[0];
  const std::unique_lock driving(thread.driving, std::try_to_lock);
  if (!driving.owns_lock()) return false;
  thread.filler->Borrow();
  work(thread);
  if (!thread.filler->GiveBack()) thread.filler->Wake();
  return true;
}

bool TicketedRows::BeginHere(const Command& command) {
  return DriveHere([&](FillThread& thread) {
    (void)TakeCommands(thread);
    Run(thread, command);
    // Sends what Begin left to be sent; of mapped memory, reads it.
    constexpr int kProgressMax = 64;
    for (int i = 0; i < kProgressMax && thread.filler->Progress(); ++i) {
    }
  });
}

void TicketedRows::HelpUntilReady(StagingBuffer& buffer, int32_t layer_index) {
  (void)DriveHere([&](FillThread& thread) {
    MonotonicTime idle_since = SteadyClock().Now();
    while (!StagingRing::Ready(buffer, layer_index)) {
      bool worked = TakeCommands(thread);
      worked = thread.filler->Progress() || worked;
      const MonotonicTime now = SteadyClock().Now();
      if (worked) {
        idle_since = now;
      } else if (now - idle_since > kHelpSpin) {
        return;
      } else {
        __builtin_ia32_pause();
      }
    }
  });
}

void TicketedRows::Send(FillThread& thread, const Command& command) {
  {
    const std::lock_guard lock(thread.mutex);
    thread.commands.push_back(command);
  }
  thread.has_commands.store(true, std::memory_order_seq_cst);
  // The thread says that it may sleep before it looks at has_commands for the last time, so either
  // it sees the command or this sees the thread.
  if (thread.may_sleep.load(std::memory_order_seq_cst)) thread.filler->Wake();
}

void TicketedRows::SendAll(const Command& command) {
  for (auto& thread : threads_) Send(*thread, command);
}

bool TicketedRows::TakeCommands(FillThread& thread) {
  if (!thread.has_commands.load(std::memory_order_acquire)) return false;
  {
    const std::lock_guard lock(thread.mutex);
    thread.has_commands.store(false, std::memory_order_relaxed);
    thread.taken.swap(thread.commands);
  }
  for (const Command& command : thread.taken) Run(thread, command);
  thread.taken.clear();
  return true;
}

void TicketedRows::Run(FillThread& thread, const Command& command) {
  StagingBuffer& buffer = parts_.ring->buffer(command.buffer);
  if (!command.abandon) {
    thread.active[command.buffer] = command.ticket;
    thread.filler->Begin(buffer);
  } else if (thread.active[command.buffer] == command.ticket) {
    thread.filler->Abandon(buffer);
  }
}

void TicketedRows::Run(FillThread& thread) {
  BecomeIoThread("engram-rows", kReaderSlice);
  std::unique_lock driving(thread.driving);
  bool idle = false;
  MonotonicTime spin_until;
  while (!stopping_.load(std::memory_order_seq_cst)) {
    bool worked = TakeCommands(thread);
    worked = thread.filler->Progress() || worked;
    if (worked) {
      idle = false;
      continue;
    }
    if (parts_.spin > Duration{}) {
      const MonotonicTime now = SteadyClock().Now();
      if (!std::exchange(idle, true)) spin_until = now + parts_.spin;
      if (now < spin_until) {
        __builtin_ia32_pause();
        continue;
      }
    }
    thread.may_sleep.store(true, std::memory_order_seq_cst);
    if (!thread.has_commands.load(std::memory_order_seq_cst) &&
        !stopping_.load(std::memory_order_seq_cst)) {
      thread.filler->Wait(driving);
    }
    thread.may_sleep.store(false, std::memory_order_seq_cst);
  }
}

RowSourceStats TicketedRows::Totals() const {
  RowSourceStats totals;
  for (const auto& thread : threads_) {
    const FillCounters& counters = thread->filler->counters();
    for (const FillCount& count : kFillCounts) {
      totals.*count.told += (counters.*count.counted).load(std::memory_order_relaxed);
    }
    totals.row_path_cpu_ns += ClockNanoseconds(thread->cpu_clock);
  }
  return totals;
}

RowSourceStats::Held TicketedRows::Held() const {
  RowSourceStats::Held held;
  held.staging_bytes = parts_.ring->memory_bytes();
  for (const auto& thread : threads_) {
    const FillGauges& gauges = thread->filler->gauges();
    const auto read = [](const std::atomic<uint64_t>& gauge) {
      return gauge.load(std::memory_order_relaxed);
    };
    for (size_t way = 0; way < held.sessions.size(); ++way) {
      held.sessions[way] += read(gauges.sessions[way]);
    }
    held.cache_bytes += read(gauges.cache_bytes);
    held.cache_rows += read(gauges.cache_rows);
    held.cache_rows_max += read(gauges.cache_rows_max);
    const TableVersion version(read(gauges.version));
    if (version == TableVersion()) continue;
    const Epoch epoch(read(gauges.epoch));
    if (held.versions.empty()) held.versions.push_back({version, epoch});
    held.versions[0].epoch = std::min(held.versions[0].epoch, epoch);
  }
  return held;
}

RowSourceStats TicketedRows::StatsOf(bool with_samples) const {
  RowSourceStats stats = stats_.Snapshot(with_samples);
  const RowSourceStats totals = Totals();
  stats.held = Held();
  const std::lock_guard lock(baseline_mutex_);
  for (const FillCount& count : kFillCounts) {
    stats.*count.told = totals.*count.told - baseline_.*count.told;
  }
  stats.row_path_cpu_ns += totals.row_path_cpu_ns - baseline_.row_path_cpu_ns;
  return stats;
}

FillStages TicketedRows::Stages() const {
  FillStages stages{};
  for (const auto& thread : threads_) {
    ++stages[static_cast<size_t>(thread->filler->gauges().stage.load(std::memory_order_relaxed))];
  }
  return stages;
}

void TicketedRows::ResetStats() {
  stats_.Reset();
  const RowSourceStats totals = Totals();
  const std::lock_guard lock(baseline_mutex_);
  baseline_ = totals;
}

}  // namespace engram

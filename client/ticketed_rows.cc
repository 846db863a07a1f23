#include "client/ticketed_rows.h"

#include <algorithm>
#include <ctime>
#include <string>

#include <pthread.h>

#include "engram/base/check.h"
#include "engram/base/thread_role.h"

namespace engram {
namespace {

// Long enough to catch rows that are just arriving, short enough not to take a core from the model.
constexpr std::chrono::microseconds kAwaitSpin{5};

double Microseconds(Duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

uint64_t ClockNanoseconds(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace

TicketedRows::TicketedRows(Parts parts)
    : parts_(std::move(parts)), stats_(static_cast<size_t>(parts_.layout->layer_count())) {
  ENGRAM_CHECK(parts_.ring->options().part_count == parts_.fillers.size());
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
                          parts_.ring->Acquire(runs, begin + options.deadline));
  const uint64_t ticket = buffer->ticket.load(std::memory_order_relaxed);
  const uint32_t tokens = buffer->token_count;
  const auto dead =
      static_cast<uint64_t>(std::count(buffer->dead.begin(), buffer->dead.end(), uint8_t{1}));
  SendAll({.abandon = false, .buffer = buffer->index, .ticket = ticket});
  const uint64_t rows = (tokens - dead) * static_cast<uint64_t>(layout().column_count()) *
                        static_cast<uint64_t>(layout().layer_count());
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
    MonotonicTime now = begin;
    while (!StagingRing::Ready(*buffer, layer_index) && now - begin < kAwaitSpin) {
      now = SteadyClock().Now();
    }
    const Duration spun = now - begin;
    StagingRing::WaitReady(*buffer, layer_index);
    const auto stalled = std::chrono::nanoseconds(SteadyClock().Now() - begin);
    stats_.AddStall(layer_place, static_cast<uint64_t>(stalled.count()),
                    static_cast<uint64_t>(std::chrono::nanoseconds(spun).count()));
  }
  Status status = StagingRing::LayerStatus(*buffer, layer_index);
  if (!layer.awaited) {
    layer.awaited = true;
    const int64_t ids_known = layer.ids_known_ns.load(std::memory_order_relaxed);
    const int64_t ready = layer.ready_ns.load(std::memory_order_relaxed);
    stats_.AddAwait(layer_place,
                    {.in_time = in_time,
                     .ok = status.ok(),
                     .prefetch_us = static_cast<double>(ready - ids_known) / 1000.0,
                     .window_us = std::max(0.0, Microseconds(begin - buffer->prefetched_at))});
  }
  if (!status.ok()) return Error(std::move(status));
  const size_t bytes = size_t{buffer->token_count} * static_cast<size_t>(layout().column_count()) *
                       layout().row_bytes();
  return LayerRows{.rows = {buffer->rows(layer_index), bytes},
                   .dead = buffer->dead,
                   .token_count = buffer->token_count};
}

void TicketedRows::Release(Ticket ticket) {
  StagingBuffer* buffer = parts_.ring->Find(ticket);
  if (buffer == nullptr) return;
  const uint32_t index = buffer->index;
  if (parts_.ring->Release(*buffer)) {
    SendAll({.abandon = true, .buffer = index, .ticket = ticket.value()});
  }
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
  for (const Command& command : thread.taken) {
    StagingBuffer& buffer = parts_.ring->buffer(command.buffer);
    if (!command.abandon) {
      thread.active[command.buffer] = command.ticket;
      thread.filler->Begin(buffer);
    } else if (thread.active[command.buffer] == command.ticket) {
      thread.filler->Abandon(buffer);
    }
  }
  thread.taken.clear();
  return true;
}

void TicketedRows::Run(FillThread& thread) {
  BecomeIoThread("engram-rows", kReaderSlice);
  while (!stopping_.load(std::memory_order_seq_cst)) {
    bool worked = TakeCommands(thread);
    worked = thread.filler->Progress() || worked;
    if (worked) continue;
    thread.may_sleep.store(true, std::memory_order_seq_cst);
    if (!thread.has_commands.load(std::memory_order_seq_cst) &&
        !stopping_.load(std::memory_order_seq_cst)) {
      thread.filler->Wait();
    }
    thread.may_sleep.store(false, std::memory_order_seq_cst);
  }
}

RowSourceStats TicketedRows::Totals() const {
  RowSourceStats totals;
  for (const auto& thread : threads_) {
    const FillCounters& c = thread->filler->counters();
    totals.rows_unique += c.rows_unique.load(std::memory_order_relaxed);
    totals.rows_from_cache += c.rows_from_cache.load(std::memory_order_relaxed);
    totals.rows_read += c.rows_read.load(std::memory_order_relaxed);
    totals.rows_verified += c.rows_verified.load(std::memory_order_relaxed);
    totals.rows_wrong += c.rows_wrong.load(std::memory_order_relaxed);
    totals.rows_failed += c.rows_failed.load(std::memory_order_relaxed);
    totals.reads_retried += c.reads_retried.load(std::memory_order_relaxed);
    totals.reads_hedged += c.reads_hedged.load(std::memory_order_relaxed);
    totals.hedges_won += c.hedges_won.load(std::memory_order_relaxed);
    totals.row_path_cpu_ns += ClockNanoseconds(thread->cpu_clock);
  }
  return totals;
}

RowSourceStats TicketedRows::Stats() const {
  RowSourceStats stats = stats_.Snapshot();
  const RowSourceStats totals = Totals();
  const std::lock_guard lock(baseline_mutex_);
  stats.rows_unique = totals.rows_unique - baseline_.rows_unique;
  stats.rows_from_cache = totals.rows_from_cache - baseline_.rows_from_cache;
  stats.rows_read = totals.rows_read - baseline_.rows_read;
  stats.rows_verified = totals.rows_verified - baseline_.rows_verified;
  stats.rows_wrong = totals.rows_wrong - baseline_.rows_wrong;
  stats.rows_failed = totals.rows_failed - baseline_.rows_failed;
  stats.reads_retried = totals.reads_retried - baseline_.reads_retried;
  stats.reads_hedged = totals.reads_hedged - baseline_.reads_hedged;
  stats.hedges_won = totals.hedges_won - baseline_.hedges_won;
  stats.row_path_cpu_ns += totals.row_path_cpu_ns - baseline_.row_path_cpu_ns;
  return stats;
}

void TicketedRows::ResetStats() {
  stats_.Reset();
  const RowSourceStats totals = Totals();
  const std::lock_guard lock(baseline_mutex_);
  baseline_ = totals;
}

}  // namespace engram

#include "model_worker/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

#include "engram/base/check.h"
#include "engram/base/clock.h"

namespace engram {
namespace {

uint64_t Nanoseconds(Duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

Status OutOfBound(const char* option, uint64_t value, const std::string& bound) {
  return {StatusCode::kInvalidArgument,
          std::string(option) + " is " + std::to_string(value) + "; it must be " + bound};
}

Scheduler::Options SchedulerOptions(const Engine::Options& options, const Backend::Limits& limits) {
  Scheduler::Options result;
  result.sequences_max = options.sequences_max;
  result.step_tokens_max = options.step_tokens_max;
  result.prefill_tokens_max = options.prefill_chunk_tokens;
  result.kv_tokens_max = limits.kv_tokens_max;
  result.kv_page_tokens = limits.kv_page_tokens;
  return result;
}

// Fills in what was left 0, then checks.
Status Complete(const Backend& backend, const RowSource* rows, Engine::Options* options) {
  const Backend::Limits& limits = backend.limits();
  uint32_t step_tokens = limits.step_tokens_max;
  if (rows != nullptr) step_tokens = std::min(step_tokens, rows->batch_tokens_max());
  if (options->step_tokens_max == 0) options->step_tokens_max = step_tokens;
  if (options->step_tokens_max > step_tokens) {
    return OutOfBound("step_tokens_max", options->step_tokens_max,
                      "at most " + std::to_string(step_tokens) +
                          ", the limit of the backend and of the row source's staging buffers");
  }
  if (options->sequences_max == 0) {
    options->sequences_max = std::min(limits.sequences_max, options->step_tokens_max);
  }
  if (options->sequences_max > limits.sequences_max ||
      options->sequences_max > options->step_tokens_max) {
    return OutOfBound("sequences_max", options->sequences_max,
                      "at most " + std::to_string(limits.sequences_max) +
                          " (the backend's sequence slots) and at most step_tokens_max, " +
                          std::to_string(options->step_tokens_max));
  }
  if (options->vocabulary_size == 0) options->vocabulary_size = backend.vocabulary_size();
  if (options->vocabulary_size < 0 || options->vocabulary_size > backend.vocabulary_size()) {
    return OutOfBound("vocabulary_size", static_cast<uint64_t>(options->vocabulary_size),
                      "at most the model's " + std::to_string(backend.vocabulary_size()));
  }
  if (options->queue_requests_max == 0) return OutOfBound("queue_requests_max", 0, "at least 1");
  if (options->prefill_chunk_tokens == 0) {
    return OutOfBound("prefill_chunk_tokens", 0, "at least 1");
  }
  if (options->tickets_max < 2) {
    return OutOfBound("tickets_max", options->tickets_max,
                      "at least 2: a step's prefill and decode tokens may need one each");
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Create(Backend* backend, RowSource* rows,
                                               const Options& options) {
  ENGRAM_CHECK(backend != nullptr);
  Options complete = options;
  ENGRAM_TRY(Complete(*backend, rows, &complete));
  return std::unique_ptr<Engine>(new Engine(backend, rows, complete));
}

Engine::Engine(Backend* backend, RowSource* rows, const Options& options)
    : backend_(backend),
      rows_(rows),
      options_(options),
      scheduler_(SchedulerOptions(options, backend->limits())),
      step_rows_(rows) {}

Engine::~Engine() { Stop(); }

Status Engine::CheckRequest(const GenerationRequest& request) const {
  if (request.prompt.empty()) {
    return {StatusCode::kInvalidArgument, "the prompt is empty: give at least one token"};
  }
  if (request.tokens_max == 0) return OutOfBound("max_tokens", 0, "at least 1");
  const uint64_t positions = backend_->limits().sequence_tokens_max;
  if (request.prompt.size() + request.tokens_max > positions) {
    return {StatusCode::kInvalidArgument,
            "the prompt's " + std::to_string(request.prompt.size()) + " tokens and max_tokens " +
                std::to_string(request.tokens_max) + " do not fit the " +
                std::to_string(positions) + " positions of a sequence"};
  }
  const uint64_t kv_tokens = scheduler_.KvTokensOf(request.prompt.size(), request.tokens_max);
  const uint64_t kv_tokens_max = backend_->limits().kv_tokens_max;
  if (kv_tokens_max != 0 && kv_tokens > kv_tokens_max) {
    return {StatusCode::kInvalidArgument,
            "the prompt's " + std::to_string(request.prompt.size()) + " tokens and max_tokens " +
                std::to_string(request.tokens_max) + " do not fit the KV cache of " +
                std::to_string(kv_tokens_max) + " tokens"};
  }
  for (const TokenId id : request.prompt) {
    if (id < 0 || id >= options_.vocabulary_size) {
      return {StatusCode::kInvalidArgument, "token id " + std::to_string(id) +
                                                " of the prompt is outside the vocabulary of " +
                                                std::to_string(options_.vocabulary_size)};
    }
  }
  return ValidateSamplingParams(request.sampling);
}

Result<RequestId> Engine::Submit(GenerationRequest request) {
  ENGRAM_TRY(CheckRequest(request));
  auto sequence = std::make_unique<Sequence>();
  sequence->prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  sequence->tokens = std::move(request.prompt);
  // Spans into the tokens stay valid while the sequence grows.
  sequence->tokens.reserve(sequence->tokens.size() + request.tokens_max);
  sequence->request = std::move(request);
  RequestId id;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return Error(StatusCode::kCancelled, "the engine is stopping");
    if (queue_.size() >= options_.queue_requests_max) {
      ++stats_.requests_refused;
      return Error(StatusCode::kResourceExhausted, "the queue is full: queue_requests_max is " +
                                                       std::to_string(options_.queue_requests_max) +
                                                       "; try again later");
    }
    id = RequestId(next_id_++);
    sequence->id = id;
    ++stats_.requests_accepted;
    queue_.push_back(std::move(sequence));
    stats_.queued = static_cast<uint32_t>(queue_.size());
  }
  work_.notify_one();
  return id;
}

void Engine::Cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  work_.notify_one();
}

EngineStats Engine::Stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Engine::RunUntilIdle() {
  while (RunStep()) {
  }
}

void Engine::Start() {
  ENGRAM_CHECK(!thread_.joinable());
  thread_ = std::thread([this] { RunThread(); });
}

void Engine::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
  CancelAll();
}

void Engine::RunThread() {
  bool busy = true;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [&] { return stopping_ || busy || !queue_.empty() || !cancelled_.empty(); });
      if (stopping_) return;
    }
    busy = RunStep();
  }
}

void Engine::CancelAll() {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& sequence : queue_) cancelled_.push_back(sequence->id);
    for (const auto& sequence : scheduler_.sequences()) cancelled_.push_back(sequence->id);
  }
  TakeCancelled();
  ReleaseStepTickets();
  if (ahead_ticket_ != Ticket()) rows_->Release(std::exchange(ahead_ticket_, Ticket()));
  HandOutEvents();
}

bool Engine::RunStep() {
  const MonotonicTime start = SteadyClock().Now();
  TakeCancelled();
  if (step_.empty()) PrepareStep();
  const bool any_events = !events_.empty();
  HandOutEvents();
  if (step_.empty()) return any_events;
  PrefetchAhead();
  uint64_t decode_tokens = 0;
  uint64_t prefill_tokens = 0;
  for (const Chunk& chunk : step_) (chunk.decode ? decode_tokens : prefill_tokens) += chunk.count;
  const Status status = ForwardStep();
  if (status.ok()) {
    scheduler_.Complete(step_);
    TakeTokens();
  } else {
    FailStep(status, rows_ != nullptr && !step_rows_.error().ok());
  }
  step_.clear();
  ReleaseStepTickets();
  PrepareStep();
  HandOutEvents();
  const uint64_t step_ns = Nanoseconds(SteadyClock().Now() - start);
  const std::lock_guard lock(mutex_);
  ++stats_.steps;
  stats_.prefill_tokens += prefill_tokens;
  stats_.decode_tokens += decode_tokens;
  if (prefill_tokens > 0) {
    stats_.prefill_step_ns += step_ns;
  } else {
    stats_.decode_step_ns += step_ns;
    stats_.decode_step_tokens += decode_tokens;
  }
  return true;
}

void Engine::TakeCancelled() {
  std::vector<std::unique_ptr<Sequence>> ended;
  {
    const std::lock_guard lock(mutex_);
    for (const RequestId id : std::exchange(cancelled_, {})) {
      const auto queued = std::find_if(queue_.begin(), queue_.end(),
                                       [id](const auto& sequence) { return sequence->id == id; });
      if (queued != queue_.end()) {
        ended.push_back(std::move(*queued));
        queue_.erase(queued);
      } else if (auto running = TakeOut(id); running != nullptr) {
        std::erase_if(step_, [&](const Chunk& c) { return c.sequence == running.get(); });
        ended.push_back(std::move(running));
      }
    }
    stats_.queued = static_cast<uint32_t>(queue_.size());
  }
  for (auto& sequence : ended) {
    End(std::move(sequence), {StatusCode::kCancelled, "the request was cancelled"},
        FinishReason::kError);
  }
  if (step_.empty()) ReleaseStepTickets();
}

void Engine::TakeQueued() {
  const std::lock_guard lock(mutex_);
  while (!queue_.empty() && scheduler_.Fits(*queue_.front())) {
    const Sequence& admitted = scheduler_.Admit(std::move(queue_.front()));
    queue_.pop_front();
    backend_->ResetSlot(admitted.slot);
  }
  stats_.queued = static_cast<uint32_t>(queue_.size());
  stats_.running = static_cast<uint32_t>(scheduler_.sequence_count());
  stats_.kv_tokens = scheduler_.kv_tokens();
}

std::unique_ptr<Sequence> Engine::TakeOut(RequestId id) {
  std::unique_ptr<Sequence> sequence = scheduler_.Remove(id);
  // The scheduler counts its part of the KV cache as free from now on.
  if (sequence != nullptr) backend_->ResetSlot(sequence->slot);
  return sequence;
}

void Engine::PrepareStep() {
  TakeCancelled();
  TakeQueued();
  step_ = scheduler_.PlanStep();
  if (rows_ == nullptr) return;
  if (ahead_ticket_ != Ticket()) {
    const Ticket ticket = std::exchange(ahead_ticket_, Ticket());
    const bool used = std::any_of(step_.begin(), step_.end(),
                                  [&](const Chunk& chunk) { return chunk.ticket == ticket; });
    if (used) {
      step_tickets_.push_back(ticket);
    } else {
      rows_->Release(ticket);  // everything it was for was cancelled
    }
  }
  PrefetchStep();
}

void Engine::PrefetchStep() {
  chunks_wanted_.clear();
  for (Chunk& chunk : step_) {
    if (chunk.ticket == Ticket()) chunks_wanted_.push_back(&chunk);
  }
  if (chunks_wanted_.empty()) return;
  auto ticket = Prefetch(chunks_wanted_);
  if (ticket.has_value()) {
    step_tickets_.push_back(*ticket);
    return;
  }
  FailStep(ticket.error().WithContext("cannot ask for the step's Engram rows"),
           ticket.error().code() != StatusCode::kInvalidArgument);
  step_.clear();
  ReleaseStepTickets();
}

void Engine::PrefetchAhead() {
  const std::span<Chunk> ahead = scheduler_.PlanAhead(step_);
  if (rows_ == nullptr || ahead.empty() || step_tickets_.size() >= options_.tickets_max) return;
  chunks_wanted_.clear();
  for (Chunk& chunk : ahead) chunks_wanted_.push_back(&chunk);
  auto ticket = Prefetch(chunks_wanted_);
  // Not an error yet: the step itself asks again, with no ticket of ours in its way.
  if (ticket.has_value()) ahead_ticket_ = *ticket;
}

Result<Ticket> Engine::Prefetch(std::span<Chunk*> chunks) {
  runs_.clear();
  uint32_t token_count = 0;
  for (Chunk* chunk : chunks) {
    const std::span<const TokenId> tokens(chunk->sequence->tokens);
    const size_t history = std::min<size_t>(chunk->begin, kNgramSizeMax - 1);
    TokenRun run;
    run.history = tokens.subspan(chunk->begin - history, history);
    run.tokens = chunk->tokens();
    runs_.push_back(run);
    chunk->ticket_token = token_count;
    token_count += chunk->count;
  }
  BatchOptions batch;
  batch.deadline = options_.row_deadline;
  auto ticket = rows_->Prefetch(runs_, batch);
  if (ticket.has_value()) {
    for (Chunk* chunk : chunks) chunk->ticket = *ticket;
  }
  return ticket;
}

Status Engine::ForwardStep() {
  backend_steps_.clear();
  draws_.clear();
  for (const Chunk& chunk : step_) {
    SequenceStep step;
    step.slot = chunk.sequence->slot;
    step.position = chunk.begin;
    step.tokens = chunk.tokens();
    step.logits_wanted = chunk.logits_wanted;
    backend_steps_.push_back(step);
    if (!chunk.logits_wanted) continue;
    draws_.push_back({chunk.sequence->request.sampling, chunk.sequence->generated()});
  }
  const StepDraws draws{draws_, options_.vocabulary_size};
  if (rows_ == nullptr) return backend_->ForwardAndSample(backend_steps_, nullptr, draws, &tokens_);
  step_rows_.Begin(step_);
  return backend_->ForwardAndSample(backend_steps_, &step_rows_, draws, &tokens_);
}

void Engine::TakeTokens() {
  size_t next = 0;
  uint64_t drawn = 0;
  for (const Chunk& chunk : step_) {
    if (!chunk.logits_wanted) continue;
    Sequence& sequence = *chunk.sequence;
    const TokenId token = tokens_[next++];
    if (token == kNoToken) {
      End(TakeOut(sequence.id),
          {StatusCode::kInternal,
           "the backend gave no finite logit: the weights or the computation are damaged"},
          FinishReason::kError);
      continue;
    }
    ++drawn;
    const auto& stop_ids = sequence.request.stop_ids;
    if (std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end()) {
      End(TakeOut(sequence.id), Status(), FinishReason::kStop);
      continue;
    }
    sequence.tokens.push_back(token);
    Event event;
    event.sequence = &sequence;
    event.token = token;
    events_.push_back(std::move(event));
    if (sequence.generated() == sequence.request.tokens_max) {
      End(TakeOut(sequence.id), Status(), FinishReason::kLength);
    }
  }
  const std::lock_guard lock(mutex_);
  stats_.generated_tokens += drawn;
}

// The whole step is lost, whichever row was missing: the backend computes its sequences together.
void Engine::FailStep(const Status& status, bool rows_missing) {
  spdlog::warn("a step of {} sequences failed: {}", step_.size(), status.ToString());
  for (const Chunk& chunk : step_) {
    Sequence& sequence = *chunk.sequence;
    if (rows_missing && sequence.retries < options_.row_retries_max) {
      ++sequence.retries;
      backend_->ResetSlot(sequence.slot);
      scheduler_.Restart(sequence);
    } else {
      End(TakeOut(sequence.id), status, FinishReason::kError);
    }
  }
  const std::lock_guard lock(mutex_);
  if (rows_missing) ++stats_.steps_without_rows;
}

void Engine::End(std::unique_ptr<Sequence> sequence, Status status, FinishReason reason) {
  ENGRAM_CHECK(sequence != nullptr);
  Event event;
  event.ended = std::move(sequence);
  event.status = std::move(status);
  event.reason = reason;
  events_.push_back(std::move(event));
}

void Engine::ReleaseStepTickets() {
  for (const Ticket ticket : step_tickets_) rows_->Release(ticket);
  step_tickets_.clear();
}

void Engine::HandOutEvents() {
  uint64_t finished = 0;
  uint64_t failed = 0;
  uint64_t cancelled = 0;
  std::vector<Event> events = std::exchange(events_, {});
  for (Event& event : events) {
    if (event.ended == nullptr) {
      const auto& on_token = event.sequence->request.on_token;
      if (on_token) on_token(event.sequence->id, event.token);
      continue;
    }
    const Sequence& sequence = *event.ended;
    ++(event.status.ok()                               ? finished
       : event.status.code() == StatusCode::kCancelled ? cancelled
                                                       : failed);
    GenerationResult result;
    result.id = sequence.id;
    result.status = std::move(event.status);
    result.reason = event.reason;
    result.prompt_tokens = sequence.prompt_tokens;
    result.tokens.assign(sequence.tokens.begin() + sequence.prompt_tokens, sequence.tokens.end());
    if (sequence.request.on_finished) sequence.request.on_finished(std::move(result));
  }
  if (events.empty()) return;
  const std::lock_guard lock(mutex_);
  stats_.requests_finished += finished;
  stats_.requests_failed += failed;
  stats_.requests_cancelled += cancelled;
  stats_.running = static_cast<uint32_t>(scheduler_.sequence_count());
  stats_.kv_tokens = scheduler_.kv_tokens();
}

}  // namespace engram

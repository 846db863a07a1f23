// The engine: many requests at once through one backend, with Engram rows read ahead.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/generation_request.h"
#include "model_worker/sampling.h"
#include "model_worker/scheduler.h"
#include "model_worker/step_rows.h"

namespace engram {

// Monotonic counters since Create, and what is going on now.
struct EngineStats {
  uint64_t steps = 0;
  uint64_t prefill_tokens = 0;      // prompt tokens computed (again, after a retry)
  uint64_t decode_tokens = 0;       // generated tokens computed
  uint64_t generated_tokens = 0;    // drawn, stop ids included
  uint64_t prefill_step_ns = 0;     // wall time of steps with at least one prefill token
  uint64_t decode_step_ns = 0;      // wall time of the other steps
  uint64_t decode_step_tokens = 0;  // decode tokens of those other steps
  uint64_t requests_accepted = 0;
  uint64_t requests_refused = 0;   // the queue was full
  uint64_t requests_finished = 0;  // with tokens
  uint64_t requests_failed = 0;
  uint64_t requests_cancelled = 0;
  uint64_t steps_without_rows = 0;  // steps lost because rows could not be had
  uint32_t queued = 0;
  uint32_t running = 0;
  uint64_t kv_tokens = 0;  // of the KV cache, set apart for those that run
};

// Continuous batching. The order of a step, which keeps the read hidden behind compute:
//   take the last step's tokens -> plan this step -> Prefetch its rows that are not yet on the way
//   -> hand out the sampled tokens -> plan the next step's prefill and Prefetch its rows ->
//   Forward, which awaits each layer's rows when it reaches that layer, and draws.
//
// THREADS: Submit, Cancel and Stats are thread-safe. One thread drives the engine: the caller's, by
// RunStep and RunUntilIdle, or the engine's own between Start and Stop.
class Engine {
 public:
  struct Options {
    uint32_t queue_requests_max = 64;     // waiting for a slot; one more is kResourceExhausted
    uint32_t sequences_max = 0;           // at once; 0 = all slots of the backend
    uint32_t step_tokens_max = 0;         // 0 = the backend's and the row source's limit
    uint32_t prefill_chunk_tokens = 256;  // prefill tokens in one step, over all sequences
    // Tickets held at once: the step's own (up to two: its prefill was asked for one step earlier,
    // its decode tokens just now) and the next step's prefill. With fewer, prefill is read less
    // early. The row source needs as many staging buffers, or refuses, which is borne.
    uint32_t tickets_max = 3;
    // How often a sequence is computed again from its first token after rows could not be had.
    uint32_t row_retries_max = 0;
    std::chrono::milliseconds row_deadline{2000};
    int32_t vocabulary_size = 0;  // ids below it are sampled and accepted; 0 = the backend's
  };

  // `rows` may be null: Engram off.
  // OWNERSHIP: both outlive the engine.
  // ERRORS: kInvalidArgument naming the option, its value and the bound it breaks.
  [[nodiscard]] static Result<std::unique_ptr<Engine>> Create(Backend* backend, RowSource* rows,
                                                              const Options& options);
  // Stops the thread and finishes what is left with kCancelled, on the caller's thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // ERRORS: kInvalidArgument (no prompt, a token id outside the vocabulary, prompt + tokens_max
  // above a slot's positions or the whole KV cache, sampling), kResourceExhausted (the queue is
  // full), kCancelled (the engine is stopping). After an error on_finished is not called.
  [[nodiscard]] Result<RequestId> Submit(GenerationRequest request);
  // The request finishes with kCancelled, unless it has finished already. Returns at once.
  void Cancel(RequestId id);

  // One step. False when there was nothing to do.
  bool RunStep();
  void RunUntilIdle();

  // Starts the engine's own thread; it sleeps when there is nothing to do.
  void Start();
  // Ends the thread after the step in progress; every request left finishes with kCancelled and new
  // ones are refused.
  void Stop();

  [[nodiscard]] EngineStats Stats() const;
  [[nodiscard]] const Options& options() const { return options_; }

 private:
  // A token or an end, found in a step and handed out after the next step's rows are on the way.
  struct Event {
    Sequence* sequence = nullptr;  // of a token; alive until its ending event
    TokenId token = -1;
    std::unique_ptr<Sequence> ended;  // of an end
    Status status;
    FinishReason reason = FinishReason::kError;
  };

  Engine(Backend* backend, RowSource* rows, const Options& options);
  [[nodiscard]] Status CheckRequest(const GenerationRequest& request) const;
  void RunThread();
  void TakeCancelled();
  void TakeQueued();
  // A running sequence leaves; null: there is none of that id.
  [[nodiscard]] std::unique_ptr<Sequence> TakeOut(RequestId id);
  void PrepareStep();
  void PrefetchStep();
  void PrefetchAhead();
  [[nodiscard]] Result<Ticket> Prefetch(std::span<Chunk*> chunks);
  [[nodiscard]] Status ForwardStep();
  void TakeTokens();
  void FailStep(const Status& status, bool rows_missing);
  void End(std::unique_ptr<Sequence> sequence, Status status, FinishReason reason);
  void ReleaseStepTickets();
  void HandOutEvents();
  void CancelAll();

  Backend* const backend_;
  RowSource* const rows_;  // null = off
  const Options options_;

  // The driving thread's.
  Scheduler scheduler_;
  StepRows step_rows_;
  std::vector<Chunk> step_;           // prepared or in progress
  std::vector<Ticket> step_tickets_;  // held for step_
  Ticket ahead_ticket_;               // held for scheduler_.ahead()
  std::vector<Event> events_;
  std::vector<TokenId> tokens_;              // drawn after step_
  std::vector<Chunk*> chunks_wanted_;        // scratch
  std::vector<TokenRun> runs_;               // scratch
  std::vector<SequenceStep> backend_steps_;  // scratch
  std::vector<TokenDraw> draws_;             // scratch

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::unique_ptr<Sequence>> queue_;  // guarded by mutex_
  std::vector<RequestId> cancelled_;             // guarded by mutex_
  bool stopping_ = false;                        // guarded by mutex_
  uint64_t next_id_ = 1;                         // guarded by mutex_
  EngineStats stats_;                            // guarded by mutex_
  std::thread thread_;
};

}  // namespace engram

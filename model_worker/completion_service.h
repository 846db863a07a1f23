// The model worker's HTTP pages: completions over an engine.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include "engram/http/http_server.h"
#include "engram/tokenizer/tokenizer.h"
#include "model_worker/completion_messages.h"
#include "model_worker/engine.h"

namespace engram {

// POST /v1/completions (whole or streamed), GET /v1/models. A full queue answers 429 with
// Retry-After; a client that goes away has its request cancelled, checked every kPeerCheck. Once
// told to Refuse, new completions get 503 with Retry-After, and those in progress go on.
//
// THREADS: Handle runs on `executor` only, a strand or a single-threaded io_context; the engine's
// thread hands its tokens over to it.
class CompletionService {
 public:
  static constexpr std::chrono::milliseconds kPeerCheck{100};

  struct Options {
    std::string model_name;         // answered, and compared with a request's `model`
    std::vector<TokenId> stop_ids;  // of the model: end of text
    uint32_t retry_after_s = 1;
    uint64_t seed = 0;  // of requests without one; each gets its own
  };
  // OWNERSHIP: `engine` and `tokenizer` outlive the service. The engine must be stopped before the
  // executor's context is destroyed; then what it hands over is dropped.
  CompletionService(boost::asio::any_io_executor executor, Engine* engine,
                    const Tokenizer* tokenizer, const Options& options);

  // Whether a request's path is one of the above.
  [[nodiscard]] static bool Owns(const HttpRequest& request);
  // Precondition: Owns(request).
  [[nodiscard]] boost::asio::awaitable<void> Handle(const HttpRequest& request,
                                                    HttpResponder& responder);

  // No new completions from now on. On `executor`.
  void Refuse() { refuses_ = true; }
  [[nodiscard]] bool refuses() const { return refuses_; }
  // Completions taken whose last byte is not written yet. On `executor`.
  [[nodiscard]] uint32_t answers_running() const { return *answers_running_; }

 private:
  struct Feed;
  struct Answer;
  [[nodiscard]] boost::asio::awaitable<void> Complete(const HttpRequest& request,
                                                      HttpResponder& responder);
  [[nodiscard]] Result<RequestId> Submit(const CompletionRequest& wanted,
                                         const std::shared_ptr<Feed>& feed,
                                         uint32_t* prompt_tokens);
  [[nodiscard]] static bool Drain(Answer& answer);
  [[nodiscard]] boost::asio::awaitable<void> Run(Answer& answer, HttpResponder& responder);
  [[nodiscard]] boost::asio::awaitable<void> FinishAnswer(Answer& answer, HttpResponder& responder);
  [[nodiscard]] boost::asio::awaitable<void> RespondError(HttpResponder& responder,
                                                          const Status& status);

  boost::asio::any_io_executor executor_;
  Engine* const engine_;
  const Tokenizer* const tokenizer_;
  const Options options_;
  uint64_t next_answer_ = 1;
  bool refuses_ = false;
  // Shared with the coroutines, which may be destroyed after the service.
  const std::shared_ptr<uint32_t> answers_running_ = std::make_shared<uint32_t>(0);
};

}  // namespace engram

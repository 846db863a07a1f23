#include "model_worker/completion_service.h"

#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <nlohmann/json.hpp>

#include "model_worker/stop_text.h"

namespace engram {

namespace asio = boost::asio;

namespace {

std::string ModelsJson(const std::string& name) {
  const nlohmann::json model = {{"id", name}, {"object", "model"}, {"owned_by", "engram-pool"}};
  const nlohmann::json models = {{"object", "list"}, {"data", nlohmann::json::array({model})}};
  return models.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Counts one answer while it is there.
class CountedAnswer {
 public:
  explicit CountedAnswer(std::shared_ptr<uint32_t> count) : count_(std::move(count)) { ++*count_; }
  ~CountedAnswer() { --*count_; }
  CountedAnswer(const CountedAnswer&) = delete;
  CountedAnswer& operator=(const CountedAnswer&) = delete;

 private:
  const std::shared_ptr<uint32_t> count_;
};

}  // namespace

// What the engine has handed over for one request. Touched on the executor only.
struct CompletionService::Feed {
  explicit Feed(const asio::any_io_executor& executor) : wake(executor) {}
  std::deque<TokenId> tokens;
  std::optional<GenerationResult> result;
  asio::steady_timer wake;
};

// One answer in the making.
struct CompletionService::Answer {
  Answer(const Tokenizer* tokenizer, std::vector<std::string> stops)
      : decoder(tokenizer), stop(std::move(stops)) {}
  CompletionHead head;
  CompletionUsage usage;
  bool stream = false;
  bool stream_usage = false;
  RequestId id;
  std::shared_ptr<Feed> feed;
  StreamDecoder decoder;
  StopText stop;
  std::string unsent;  // streamed: not written yet; whole: all the text so far
};

CompletionService::CompletionService(asio::any_io_executor executor, Engine* engine,
                                     const Tokenizer* tokenizer, const Options& options)
    : executor_(std::move(executor)), engine_(engine), tokenizer_(tokenizer), options_(options) {}

bool CompletionService::Owns(const HttpRequest& request) {
  return request.path == "/v1/completions" || request.path == "/v1/models";
}

asio::awaitable<void> CompletionService::Handle(const HttpRequest& request,
                                                HttpResponder& responder) {
  if (request.path == "/v1/models" && request.method == "GET") {
    (void)co_await responder.Respond(200, "application/json", ModelsJson(options_.model_name));
  } else if (request.path == "/v1/completions" && request.method == "POST") {
    co_await Complete(request, responder);
  } else {
    responder.AddHeader("Allow", request.path == "/v1/models" ? "GET" : "POST");
    const Status status(StatusCode::kInvalidArgument,
                        request.method + " is not allowed at " + request.path);
    (void)co_await responder.Respond(405, "application/json", ErrorJson(status));
  }
}

asio::awaitable<void> CompletionService::RespondError(HttpResponder& responder,
                                                      const Status& status) {
  const int http = HttpStatusOf(status.code());
  if (http == 429 || http == 503) {
    responder.AddHeader("Retry-After", std::to_string(options_.retry_after_s));
  }
  (void)co_await responder.Respond(http, "application/json", ErrorJson(status));
}

Result<RequestId> CompletionService::Submit(const CompletionRequest& wanted,
                                            const std::shared_ptr<Feed>& feed,
                                            uint32_t* prompt_tokens) {
  if (!wanted.model.empty() && wanted.model != options_.model_name) {
    return Error(StatusCode::kNotFound, "the model " + wanted.model + " is not served here; " +
                                            options_.model_name + " is");
  }
  GenerationRequest request;
  if (const auto* text = std::get_if<std::string>(&wanted.prompt)) {
    request.prompt = tokenizer_->Encode(*text);
  } else {
    request.prompt = std::get<std::vector<TokenId>>(wanted.prompt);
  }
  *prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  request.tokens_max = wanted.max_tokens;
  request.sampling = wanted.sampling;
  if (!wanted.seed_given) request.sampling.seed = options_.seed + next_answer_;
  request.stop_ids = options_.stop_ids;
  request.on_token = [feed, executor = executor_](RequestId, TokenId token) {
    asio::post(executor, [feed, token] {
      feed->tokens.push_back(token);
      feed->wake.cancel();
    });
  };
  request.on_finished = [feed, executor = executor_](GenerationResult result) {
    asio::post(executor, [feed, result = std::move(result)]() mutable {
      feed->result = std::move(result);
      feed->wake.cancel();
    });
  };
  return engine_->Submit(std::move(request));
}

asio::awaitable<void> CompletionService::Complete(const HttpRequest& request,
                                                  HttpResponder& responder) {
  if (refuses_) {
    // The next request of this client must find another worker, not this connection.
    responder.AddHeader("Connection", "close");
    const Status ending(StatusCode::kUnavailable,
                        "this worker ends: it finishes what it has begun and takes no new "
                        "requests; try again, another worker or its successor answers");
    co_await RespondError(responder, ending);
    co_return;
  }
  const CountedAnswer counted(answers_running_);
  auto wanted = ParseCompletionRequest(request.body);
  if (!wanted.has_value()) {
    co_await RespondError(responder, wanted.error());
    co_return;
  }
  auto feed = std::make_shared<Feed>(executor_);
  uint32_t prompt_tokens = 0;
  const auto id = Submit(*wanted, feed, &prompt_tokens);
  if (!id.has_value()) {
    co_await RespondError(responder, id.error());
    co_return;
  }
  Answer answer(tokenizer_, std::move(wanted->stop));
  answer.head.id = "cmpl-" + std::to_string(next_answer_++);
  answer.head.model = options_.model_name;
  answer.head.created = std::chrono::duration_cast<std::chrono::seconds>(
                            std::chrono::system_clock::now().time_since_epoch())
                            .count();
  answer.usage.prompt_tokens = prompt_tokens;
  answer.stream = wanted->stream;
  answer.stream_usage = wanted->stream_usage;
  answer.id = *id;
  answer.feed = std::move(feed);
  co_await Run(answer, responder);
  // Finished requests ignore it; the others have lost their client or met a stop string.
  engine_->Cancel(*id);
}

// Takes what the engine has handed over so far. True once nothing more will come.
bool CompletionService::Drain(Answer& answer) {
  Feed& feed = *answer.feed;
  while (!feed.tokens.empty() && !answer.stop.stopped()) {
    answer.unsent += answer.stop.Next(answer.decoder.Next(feed.tokens.front()));
    feed.tokens.pop_front();
    ++answer.usage.completion_tokens;
  }
  return answer.stop.stopped() || feed.result.has_value();
}

asio::awaitable<void> CompletionService::Run(Answer& answer, HttpResponder& responder) {
  Feed& feed = *answer.feed;
  bool stream_open = false;
  while (!Drain(answer)) {
    if (answer.stream && !answer.unsent.empty()) {
      // The status line waits for the first text, so that an early failure still is an HTTP error.
      if (!stream_open) {
        const Status started = co_await responder.StartStream(200, "text/event-stream");
        if (!started.ok()) co_return;
        stream_open = true;
      }
      std::string chunk =
          ServerSentEvent(CompletionChunkJson(answer.head, std::exchange(answer.unsent, {}), ""));
      const Status written = co_await responder.Write(std::move(chunk));
      if (!written.ok()) co_return;
      continue;  // more may have come meanwhile
    }
    feed.wake.expires_after(kPeerCheck);
    boost::system::error_code ignored;
    co_await feed.wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    if (responder.PeerGone()) co_return;
  }
  if (!answer.stop.stopped() && !feed.result->status.ok() && !stream_open) {
    co_await RespondError(responder, feed.result->status);
    co_return;
  }
  if (answer.stream && !stream_open) {
    const Status started = co_await responder.StartStream(200, "text/event-stream");
    if (!started.ok()) co_return;
  }
  co_await FinishAnswer(answer, responder);
}

asio::awaitable<void> CompletionService::FinishAnswer(Answer& answer, HttpResponder& responder) {
  const Feed& feed = *answer.feed;
  if (!answer.stop.stopped()) {
    answer.unsent += answer.stop.Next(answer.decoder.Finish());
    answer.unsent += answer.stop.Finish();
  }
  const bool failed = !answer.stop.stopped() && !feed.result->status.ok();
  const std::string reason(answer.stop.stopped() ? "stop" : FinishReasonName(feed.result->reason));
  if (!answer.stream) {
    std::string whole = CompletionJson(answer.head, answer.unsent, reason, answer.usage);
    (void)co_await responder.Respond(200, "application/json", std::move(whole));
    co_return;
  }
  std::string last =
      ServerSentEvent(failed ? ErrorJson(feed.result->status)
                             : CompletionChunkJson(answer.head, answer.unsent, reason));
  if (answer.stream_usage) {
    last += ServerSentEvent(CompletionUsageChunkJson(answer.head, answer.usage));
  }
  last += ServerSentEvent("[DONE]");
  const Status written = co_await responder.Write(std::move(last));
  if (written.ok()) (void)co_await responder.EndStream();
}

}  // namespace engram

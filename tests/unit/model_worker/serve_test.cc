// The model worker's HTTP API over real sockets, on the fake backend.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/http/http_server.h"
#include "engram/http/service_pages.h"
#include "engram/tokenizer/tokenizer.h"
#include "model_worker/completion_service.h"
#include "model_worker/engine_metrics.h"
#include "tests/unit/model_worker/engine_fakes.h"

namespace engram {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Json = nlohmann::json;

const Tokenizer& TinyTokenizer() {
  static const Tokenizer tokenizer = [] {
    auto loaded = Tokenizer::Load(ENGRAM_TEST_DATA "/tiny_tokenizer.json");
    ENGRAM_CHECK(loaded.has_value());
    return *std::move(loaded);
  }();
  return tokenizer;
}

struct Reply {
  int status = 0;
  std::string head;
  std::string body;  // chunks put together
  [[nodiscard]] Json json() const { return Json::parse(body, nullptr, false); }
};

Reply ParseReply(const std::string& text) {
  Reply reply;
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos) return reply;
  reply.head = text.substr(0, end + 2);
  reply.status = std::stoi(reply.head.substr(9, 3));
  std::string body = text.substr(end + 4);
  if (reply.head.find("chunked") == std::string::npos) {
    reply.body = body;
    return reply;
  }
  while (!body.empty()) {
    const size_t line = body.find("\r\n");
    if (line == std::string::npos) break;
    const size_t size = std::stoul(body.substr(0, line), nullptr, 16);
    if (size == 0) break;
    reply.body += body.substr(line + 2, size);
    body.erase(0, std::min(body.size(), line + 2 + size + 2));
  }
  return reply;
}

// The data of every server-sent event.
std::vector<std::string> Events(const std::string& body) {
  std::vector<std::string> events;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    EXPECT_NE(end, std::string::npos) << "an event without its end";
    if (end == std::string::npos) break;
    EXPECT_EQ(body.compare(at, 6, "data: "), 0);
    events.push_back(body.substr(at + 6, end - at - 6));
    at = end + 2;
  }
  return events;
}

class ServeTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(nullptr, 8); }
  void TearDown() override { Stop(); }

  void Start(FakeRowSource* rows, uint32_t queue) {
    Stop();
    Engine::Options options;
    options.queue_requests_max = queue;
    backend_.before = [this](std::span<const SequenceStep>) {
      while (steps_allowed_ <= 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --steps_allowed_;
      return Status();
    };
    backend_.sources.clear();
    if (rows != nullptr) backend_.sources = {rows};
    engine_ = *Engine::Create(&backend_, rows, options);
    context_ = std::make_unique<asio::io_context>(1);
    CompletionService::Options service;
    service.model_name = "tiny";
    service.seed = 1;
    service_ = std::make_unique<CompletionService>(context_->get_executor(), engine_.get(),
                                                   &TinyTokenizer(), service);
    const auto completions = [this](const HttpRequest& request,
                                    HttpResponder& responder) -> asio::awaitable<void> {
      if (CompletionService::Owns(request)) co_await service_->Handle(request, responder);
    };
    HttpServer::Options http;
    http.listen_address = "127.0.0.1:0";
    http.body_bytes_max = 16u << 20;
    auto server = HttpServer::Create(context_->get_executor(), http,
                                     ServicePages(
                                         std::make_shared<EngineMetrics>(engine_.get(), nullptr),
                                         [] {
                                           return Readiness{true, "{}"};
                                         },
                                         completions));
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = *std::move(server);
    address_ = server_->address();
    engine_->Start();
    thread_ = std::thread([this] { context_->run(); });
  }

  void Stop() {
    steps_allowed_ = kFree;
    if (engine_ != nullptr) engine_->Stop();
    if (context_ != nullptr) context_->stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
    context_.reset();
    service_.reset();
    engine_.reset();
  }

  tcp::socket Connect() {
    tcp::socket socket(client_);
    const size_t colon = address_.rfind(':');
    socket.connect({asio::ip::make_address(address_.substr(0, colon)),
                    static_cast<uint16_t>(std::stoi(address_.substr(colon + 1)))});
    return socket;
  }
  static std::string RequestText(const std::string& method, const std::string& path,
                                 const std::string& body) {
    return method + " " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  Reply Call(const std::string& method, const std::string& path, const std::string& body = "") {
    tcp::socket socket = Connect();
    asio::write(socket, asio::buffer(RequestText(method, path, body)));
    std::string text;
    boost::system::error_code error;
    asio::read(socket, asio::dynamic_buffer(text), error);
    return ParseReply(text);
  }
  Reply Complete(const Json& request) { return Call("POST", "/v1/completions", request.dump()); }
  // Lets the engine go on only once the first text has come.
  std::string Stream(const Json& request) {
    tcp::socket socket = Connect();
    asio::write(socket, asio::buffer(RequestText("POST", "/v1/completions", request.dump())));
    std::string text;
    while (text.find("data: ") == std::string::npos) {
      char buffer[4096];
      text.append(buffer, socket.read_some(asio::buffer(buffer)));
    }
    EXPECT_LE(engine_->Stats().steps, 10u);
    steps_allowed_ = kFree;
    boost::system::error_code error;
    asio::read(socket, asio::dynamic_buffer(text), error);
    return text;
  }
  // What the fake backend writes after `prompt`.
  std::string ExpectedText(const std::string& prompt, uint32_t tokens) {
    return TinyTokenizer().Decode(ExpectedIds(prompt, tokens));
  }
  std::vector<TokenId> ExpectedIds(const std::string& prompt, uint32_t tokens) {
    return backend_.Expected(TinyTokenizer().Encode(prompt), tokens, false);
  }
  template <typename Condition>
  void AwaitStats(Condition condition) {
    while (!condition(engine_->Stats())) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

  FakeBackend backend_{{2, 512, 64}, TinyTokenizer().vocabulary_size(), 2};
  // The engine computes only so many steps more.
  static constexpr int kFree = 1 << 30;
  std::atomic<int> steps_allowed_{kFree};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<asio::io_context> context_;
  std::unique_ptr<CompletionService> service_;
  std::unique_ptr<HttpServer> server_;
  std::string address_;
  std::thread thread_;
  asio::io_context client_;
};

TEST_F(ServeTest, AWholeAnswerHasTextReasonAndUsage) {
  const Reply reply = Complete(
      {{"prompt", "The quick"}, {"max_tokens", 20}, {"temperature", 0}, {"model", "tiny"}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json json = reply.json();
  EXPECT_EQ(json["choices"][0]["text"], ExpectedText("The quick", 20));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["prompt_tokens"], TinyTokenizer().Encode("The quick").size());
  EXPECT_EQ(json["usage"]["completion_tokens"], 20);
  EXPECT_EQ(json["model"], "tiny");
}

TEST_F(ServeTest, APromptMayBeTokenIds) {
  const auto ids = TinyTokenizer().Encode("The quick");
  const Reply reply = Complete({{"prompt", ids}, {"max_tokens", 9}, {"temperature", 0}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.json()["choices"][0]["text"], ExpectedText("The quick", 9));
}

TEST_F(ServeTest, AStreamCarriesTheSameTextPieceByPieceAndEndsWithDone) {
  const Reply reply = Complete({{"prompt", "The quick"},
                                {"max_tokens", 40},
                                {"temperature", 0},
                                {"stream", true},
                                {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_NE(reply.head.find("text/event-stream"), std::string::npos);
  const auto events = Events(reply.body);
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events.back(), "[DONE]");
  const Json usage = Json::parse(events[events.size() - 2]);
  EXPECT_EQ(usage["usage"]["completion_tokens"], 40);
  EXPECT_TRUE(usage["choices"].empty());
  std::string text;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json choice = Json::parse(events[i])["choices"][0];
    text += choice["text"].get<std::string>();
    if (i + 3 < events.size()) {
      EXPECT_TRUE(choice["finish_reason"].is_null());
    } else {
      EXPECT_EQ(choice["finish_reason"], "length");
    }
  }
  EXPECT_EQ(text, ExpectedText("The quick", 40));
}

TEST_F(ServeTest, TheFirstPieceOfAStreamComesBeforeTheLastTokenIsComputed) {
  steps_allowed_ = 10;
  const std::string reply = Stream({{"prompt", "Once"}, {"max_tokens", 60}, {"stream", true}});
  EXPECT_NE(reply.find("[DONE]"), std::string::npos);
}

TEST_F(ServeTest, AStopStringEndsTheTextBeforeIt) {
  const std::string whole = ExpectedText("The quick", 60);
  // A stop string from the middle that does not occur before.
  size_t at = whole.size() / 2;
  while (at + 2 < whole.size() && (static_cast<unsigned char>(whole[at]) >= 0x80 ||
                                   static_cast<unsigned char>(whole[at + 1]) >= 0x80 ||
                                   whole.find(whole.substr(at, 2)) < at)) {
    ++at;
  }
  ASSERT_LT(at + 2, whole.size());
  for (const bool stream : {false, true}) {
    const Reply reply = Complete({{"prompt", "The quick"},
                                  {"max_tokens", 60},
                                  {"temperature", 0},
                                  {"stop", whole.substr(at, 2)},
                                  {"stream", stream}});
    ASSERT_EQ(reply.status, 200) << reply.body;
    std::string text;
    std::string reason;
    if (stream) {
      auto events = Events(reply.body);
      events.pop_back();
      for (const std::string& event : events) {
        text += Json::parse(event)["choices"][0]["text"].get<std::string>();
      }
      reason = Json::parse(events.back())["choices"][0]["finish_reason"];
    } else {
      text = reply.json()["choices"][0]["text"];
      reason = reply.json()["choices"][0]["finish_reason"];
    }
    EXPECT_EQ(text, whole.substr(0, at));
    EXPECT_EQ(reason, "stop");
  }
}

TEST_F(ServeTest, EqualSeedsGiveEqualTextsAndOthersDiffer) {
  const auto text = [&](uint64_t seed) {
    return Complete({{"prompt", "Once"}, {"max_tokens", 24}, {"temperature", 2}, {"seed", seed}})
        .json()["choices"][0]["text"]
        .get<std::string>();
  };
  const std::string first = text(7);
  EXPECT_EQ(text(7), first);
  EXPECT_NE(text(8), first);
}

TEST_F(ServeTest, BadRequestsAreAnsweredWithTheirFault) {
  Reply reply = Call("POST", "/v1/completions", "{not json");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.json()["error"]["type"], "invalid_request_error");
  reply = Complete({{"prompt", "a"}, {"max_tokens", -3}});
  EXPECT_EQ(reply.status, 400);
  EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find("max_tokens"),
            std::string::npos);
  reply = Complete({{"prompt", "a"}, {"max_tokens", 100000}});
  EXPECT_EQ(reply.status, 400);
  EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find("512"), std::string::npos);
  EXPECT_EQ(Complete({{"prompt", {1, 999999}}}).status, 400);
  reply = Complete({{"prompt", "a"}, {"model", "other"}});
  EXPECT_EQ(reply.status, 404);
  EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find("tiny"), std::string::npos);
  EXPECT_EQ(Call("GET", "/v1/completions").status, 405);
  EXPECT_EQ(Call("GET", "/v1/nothing").status, 404);
  EXPECT_EQ(engine_->Stats().requests_accepted, 0u);
}

TEST_F(ServeTest, AFullQueueAnswers429WithRetryAfter) {
  Start(nullptr, /*queue=*/1);
  steps_allowed_ = 0;
  // Two slots, of which the held step fills one or two, and one place in the queue.
  std::vector<std::future<Reply>> running;
  const Json request = {{"prompt", "Once"}, {"max_tokens", 4}, {"temperature", 0}};
  Reply refused;
  for (int i = 0; i < 4 && refused.status == 0; ++i) {
    running.push_back(std::async(std::launch::async, [&] { return Complete(request); }));
    AwaitStats([&](const EngineStats& stats) {
      return stats.requests_accepted + stats.requests_refused == running.size();
    });
    if (engine_->Stats().requests_refused > 0) {
      refused = running.back().get();
      running.pop_back();
    }
    // The first request starts the step that is held; the next one waits in the queue.
    if (i == 0) AwaitStats([](const EngineStats& stats) { return stats.queued == 0; });
  }
  EXPECT_EQ(refused.status, 429) << refused.body;
  EXPECT_NE(refused.head.find("Retry-After: 1"), std::string::npos) << refused.head;
  EXPECT_NE(refused.json()["error"]["message"].get<std::string>().find("queue"), std::string::npos);
  steps_allowed_ = kFree;
  for (auto& reply : running) EXPECT_EQ(reply.get().status, 200);
}

TEST_F(ServeTest, AClientThatGoesAwayHasItsRequestCancelled) {
  for (const bool stream : {true, false}) {
    const uint64_t cancelled = engine_->Stats().requests_cancelled;
    steps_allowed_ = 0;
    {
      tcp::socket socket = Connect();
      asio::write(socket,
                  asio::buffer(RequestText(
                      "POST", "/v1/completions",
                      Json({{"prompt", "Once"}, {"max_tokens", 500}, {"stream", stream}}).dump())));
      AwaitStats([](const EngineStats& stats) { return stats.running == 1; });
    }  // closes
    // One step now and then, until the service has seen it.
    while (engine_->Stats().requests_cancelled == cancelled) {
      ++steps_allowed_;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ASSERT_EQ(engine_->Stats().requests_finished, 0u) << "generated to its end";
    }
    steps_allowed_ = kFree;
    AwaitStats([](const EngineStats& stats) { return stats.running == 0; });
  }
}

TEST_F(ServeTest, MissingRowsAreAnErrorByNameAndTheServiceGoesOn) {
  FakeRowSource rows(2, 64, 3);
  std::atomic<bool> missing = true;
  rows.await_status = [&](Ticket, int32_t) {
    return missing ? Status(StatusCode::kUnavailable, "node m1 is gone") : Status();
  };
  Start(&rows, 8);
  for (const bool stream : {false, true}) {
    const Reply reply = Complete({{"prompt", "Once"}, {"max_tokens", 4}, {"stream", stream}});
    EXPECT_EQ(reply.status, 503);
    EXPECT_EQ(reply.json()["error"]["code"], "UNAVAILABLE");
    EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find("node m1 is gone"),
              std::string::npos);
  }
  missing = false;
  EXPECT_EQ(Complete({{"prompt", "Once"}, {"max_tokens", 4}}).status, 200);
  Stop();
}

TEST_F(ServeTest, RowsThatGoMissingWithinAStreamEndItWithAnErrorEvent) {
  FakeRowSource rows(2, 64, 3);
  rows.await_status = [](Ticket ticket, int32_t) {
    return ticket.value() > 30 ? Status(StatusCode::kUnavailable, "node m1 is gone") : Status();
  };
  Start(&rows, 8);
  steps_allowed_ = 10;
  const Json request = {
      {"prompt", "Once"}, {"max_tokens", 100}, {"temperature", 0}, {"stream", true}};
  const Reply reply = ParseReply(Stream(request));
  EXPECT_EQ(reply.status, 200);
  const auto events = Events(reply.body);
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(Json::parse(events[events.size() - 2])["error"]["code"], "UNAVAILABLE");
  Stop();
}

TEST_F(ServeTest, ManyClientsAtOnceEachGetTheirOwnText) {
  Start(nullptr, 100);
  std::vector<std::future<std::string>> texts;
  const auto prompt = [](int i) { return "Number " + std::to_string(i * 37); };
  for (int i = 0; i < 16; ++i) {
    texts.push_back(std::async(std::launch::async, [&, i] {
      return Complete({{"prompt", prompt(i)}, {"max_tokens", 10 + i}, {"temperature", 0}})
          .json()["choices"][0]["text"]
          .get<std::string>();
    }));
  }
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(texts[static_cast<size_t>(i)].get(),
              ExpectedText(prompt(i), static_cast<uint32_t>(10 + i)));
  }
}

TEST_F(ServeTest, StoppingTheEngineAnswersRunningRequests) {
  steps_allowed_ = 0;
  auto running = std::async(std::launch::async, [&] {
    return Complete({{"prompt", "Once"}, {"max_tokens", 500}});
  });
  AwaitStats([](const EngineStats& stats) { return stats.running == 1; });
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    steps_allowed_ = kFree;
  });
  engine_->Stop();
  release.join();
  const Reply reply = running.get();
  // It may have come to its end before the stop.
  EXPECT_TRUE(reply.status == 503 || reply.status == 200) << reply.status;
  EXPECT_EQ(Complete({{"prompt", "Once"}}).status, 503);
}

TEST_F(ServeTest, AServiceThatRefusesAnswersWhatRunsAndNothingNew) {
  const auto on_executor = [&](auto call) {
    std::promise<decltype(call())> result;
    asio::post(*context_, [&] { result.set_value(call()); });
    return result.get_future().get();
  };
  const auto answers_running = [&] {
    return on_executor([&] { return service_->answers_running(); });
  };
  EXPECT_EQ(answers_running(), 0u);
  steps_allowed_ = 0;
  std::vector<std::future<Reply>> running;
  for (const bool stream : {false, true}) {
    running.push_back(std::async(std::launch::async, [&, stream] {
      return Complete(
          {{"prompt", "Once"}, {"max_tokens", 300}, {"temperature", 0}, {"stream", stream}});
    }));
  }
  AwaitStats([](const EngineStats& stats) { return stats.requests_accepted == 2; });
  EXPECT_EQ(answers_running(), 2u);
  on_executor([&] {
    service_->Refuse();
    return true;
  });
  const Reply refused = Complete({{"prompt", "Once"}, {"max_tokens", 4}});
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.head.find("Retry-After: 1"), std::string::npos) << refused.head;
  EXPECT_NE(refused.head.find("Connection: close"), std::string::npos) << refused.head;
  EXPECT_EQ(refused.json()["error"]["code"], "UNAVAILABLE");
  EXPECT_EQ(answers_running(), 2u);
  steps_allowed_ = kFree;
  const Reply whole = running[0].get();
  ASSERT_EQ(whole.status, 200);
  EXPECT_EQ(whole.json()["choices"][0]["text"], ExpectedText("Once", 300));
  EXPECT_EQ(Events(running[1].get().body).back(), "[DONE]");
  // Counted until its last byte is written, which its client may have read already.
  while (answers_running() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_F(ServeTest, ModelsHealthAndMetricsAreThere) {
  ASSERT_EQ(Complete({{"prompt", "Once"}, {"max_tokens", 4}}).status, 200);
  EXPECT_EQ(Call("GET", "/v1/models").json()["data"][0]["id"], "tiny");
  EXPECT_EQ(Call("GET", "/healthz").status, 200);
  EXPECT_EQ(Call("GET", "/readyz").status, 200);
  const Reply metrics = Call("GET", "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_NE(metrics.body.find("engram_worker_requests_total{result=\"finished\"} 1"),
            std::string::npos)
      << metrics.body;
  EXPECT_NE(metrics.body.find("engram_worker_tokens_total{phase=\"decode\"} 3"), std::string::npos);
}

}  // namespace
}  // namespace engram

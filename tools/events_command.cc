// What happened to the cluster.
#include <array>
#include <ctime>
#include <memory>
#include <thread>

#include "tools/command.h"
#include "tools/coordinator_calls.h"

namespace engram {
namespace {

constexpr uint32_t kFollowWaitMs = 5000;
constexpr auto kRetryPause = std::chrono::milliseconds(500);

struct Options {
  CoordinatorOptions coordinator;
  bool follow = false;
};

std::string TimeText(uint64_t unix_ms) {
  const auto seconds = static_cast<time_t>(unix_ms / 1000);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

Status Show(const proto::ClusterNote& event, bool json) {
  if (!json) return Print(TimeText(event.unix_ms()) + "  " + event.text() + "\n");
  // One document a line: whoever follows reads line by line.
  const nlohmann::ordered_json document = {
      {"sequence", event.sequence()}, {"unix_ms", event.unix_ms()}, {"text", event.text()}};
  return Print(document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
               "\n");
}

Status Run(const Options& options, CommandLine& line) {
  line.json_done = line.json;
  proto::GetEventsRequest request;
  uint64_t term = 0;
  while (true) {
    const auto reply = CallGetEvents(options.coordinator, request);
    if (!reply.has_value()) {
      if (!options.follow) return reply.error();
      std::this_thread::sleep_for(kRetryPause);  // another one leads soon
      continue;
    }
    if (term != 0 && reply->term() != term) {
      request.set_after(0);  // another coordinator counts anew
      term = reply->term();
      continue;
    }
    term = reply->term();
    for (const auto& event : reply->events()) {
      ENGRAM_RETURN_IF_ERROR(Show(event, line.json));
      request.set_after(event.sequence());
    }
    if (!options.follow) return Status();
    request.set_wait_ms(kFollowWaitMs);
  }
}

}  // namespace

void AddEventsCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "events", "Show what happened, as far back as the coordinator remembers (this term)");
  command->footer("With --json each event is one JSON document on a line of its own.");
  AddCoordinatorOptions(*command, options->coordinator);
  command->add_flag("--follow", options->follow, "Go on with what happens, until interrupted");
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line); }; });
}

}  // namespace engram

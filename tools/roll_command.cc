// A Helm release's memory pods, one at a time, each when the cluster is whole again.
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tools/command.h"
#include "tools/coordinator_calls.h"
#include "tools/kubernetes_api.h"
#include "tools/roll.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::milliseconds(500);
constexpr auto kSayAgain = std::chrono::minutes(10);

struct Options {
  CoordinatorOptions coordinator;
  KubernetesApi api;
  std::vector<std::string> sets;
  std::string space;  // namespace
  double settle_s = 15;
  double wait_timeout_s = 604800;
};

// No answer just now, and one may come.
bool IsAway(const Status& status) {
  return status.code() == StatusCode::kUnavailable ||
         status.code() == StatusCode::kDeadlineExceeded;
}

Status Refused(const std::string& what, const KubernetesReply& reply) {
  // An overloaded or starting API server is asked again.
  const bool later = reply.status == 429 || reply.status >= 500;
  const bool denied = reply.status == 401 || reply.status == 403;
  std::string text =
      what + ": the API server answers " + std::to_string(reply.status) + " " + reply.Message();
  if (denied) {
    text +=
        ": the service account may get the StatefulSets and their pods, and create "
        "pods/eviction (the chart's Role NAME-roll)";
  }
  return {later    ? StatusCode::kUnavailable
          : denied ? StatusCode::kPermissionDenied
                   : StatusCode::kFailedPrecondition,
          std::move(text)};
}

Result<RollSet> ReadSet(const Options& options, const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(
      const KubernetesReply reply,
      CallKubernetes(options.api, "GET",
                     "/apis/apps/v1/namespaces/" + options.space + "/statefulsets/" + name));
  if (reply.status != 200) return Error(Refused("StatefulSet " + name, reply));
  ENGRAM_ASSIGN_OR_RETURN(RollSet set, ParseRollSet(reply.body));
  for (uint32_t i = 0; i < set.replicas; ++i) {
    const std::string pod = name + "-" + std::to_string(i);
    ENGRAM_ASSIGN_OR_RETURN(
        const KubernetesReply found,
        CallKubernetes(options.api, "GET", "/api/v1/namespaces/" + options.space + "/pods/" + pod));
    if (found.status == 404) {
      set.pods.push_back(RollPod{pod, "", "", false, false});
      continue;
    }
    if (found.status != 200) return Error(Refused("pod " + pod, found));
    ENGRAM_ASSIGN_OR_RETURN(RollPod parsed, ParseRollPod(found.body));
    set.pods.push_back(std::move(parsed));
  }
  return set;
}

Result<RollStep> Look(const Options& options, std::optional<RollReplaced>* last,
                      proto::GetStatusReply* status) {
  std::vector<RollSet> sets;
  for (const std::string& name : options.sets) {
    ENGRAM_ASSIGN_OR_RETURN(RollSet set, ReadSet(options, name));
    sets.push_back(std::move(set));
  }
  // Where nothing is to be replaced nobody need ask a coordinator: after an install none may run.
  RollStep step = NextRollStep(sets, {}, std::nullopt);
  if (step.done) return step;
  ENGRAM_ASSIGN_OR_RETURN(*status, CallGetStatus(options.coordinator));
  return NextRollStep(sets, *status, *last);
}

// An eviction, not a deletion: the disruption budget binds it. "" when it is under way, else why
// not just now.
Result<std::string> Evict(const Options& options, const RollPod& pod) {
  const nlohmann::json body = {{"apiVersion", "policy/v1"},
                               {"kind", "Eviction"},
                               {"metadata", {{"name", pod.name}, {"namespace", options.space}}},
                               {"deleteOptions", {{"preconditions", {{"uid", pod.uid}}}}}};
  ENGRAM_ASSIGN_OR_RETURN(
      const KubernetesReply reply,
      CallKubernetes(options.api, "POST",
                     "/api/v1/namespaces/" + options.space + "/pods/" + pod.name + "/eviction",
                     body));
  if (reply.status / 100 == 2) return std::string();
  // Gone or another one already.
  if (reply.status == 404 || reply.status == 409) return std::string("pod " + pod.name + " anew");
  if (reply.status == 429) return "the disruption budget: " + reply.Message();
  return Error(Refused("pod " + pod.name + " is not evicted", reply));
}

// Says what it waits for when that changes, and now and then.
class WaitLine {
 public:
  void Show(const std::string& text) {
    const auto now = Clock::now();
    if (text == text_ && now - said_ < kSayAgain) return;
    text_ = text;
    said_ = now;
    line_.Show("waits for " + text, true);
  }

 private:
  std::string text_;
  Clock::time_point said_{};
  ProgressLine line_;
};

Status Roll(const Options& options, std::vector<std::string>* replaced) {
  const auto end =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.wait_timeout_s * 1000));
  const auto settle = std::chrono::milliseconds(static_cast<int64_t>(options.settle_s * 1000));
  std::optional<RollReplaced> last;
  std::string steady;  // what has been so since
  auto since = Clock::now();
  WaitLine line;
  while (true) {
    proto::GetStatusReply status;
    const auto step = Look(options, &last, &status);
    if (!step.has_value() && !IsAway(step.error())) return step.error();
    std::string waits_for = step.has_value() ? step->waits_for : step.error().message();
    const auto now = Clock::now();
    const std::string seen = !waits_for.empty() ? "" : step->done ? "done" : step->replace->uid;
    if (seen != steady) since = now;
    steady = seen;
    // So long it must stay: a node that just came up may be told to copy, and a StatefulSet that
    // just changed may not be known here.
    if (!seen.empty() && now - since >= settle) {
      if (step->done) return {};
      const auto evicted = Evict(options, *step->replace);
      if (!evicted.has_value() && !IsAway(evicted.error())) return evicted.error();
      waits_for = evicted.has_value() ? *evicted : evicted.error().message();
      if (waits_for.empty()) {
        const std::string& name = step->replace->name;
        last.reset();
        for (const auto& node : status.nodes()) {
          if (node.id() == name && node.up()) last = RollReplaced{name, node.incarnation()};
        }
        replaced->push_back(name);
        ProgressLine().Show("pod " + name + " is replaced", true);
        steady.clear();
      }
    }
    if (!waits_for.empty()) line.Show(waits_for);
    if (now >= end) {
      return {StatusCode::kDeadlineExceeded, "after --wait-timeout-s it waits for " + waits_for +
                                                 "; nothing is undone: run this again"};
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

Status Run(Options options, bool json) {
  if (options.space.empty()) {
    const auto space = NamespaceOf(options.api);
    if (!space.has_value()) return space.error();
    options.space = *space;
  }
  std::vector<std::string> replaced;
  ENGRAM_RETURN_IF_ERROR(Roll(options, &replaced));
  if (json) return PrintJson({{"replaced", replaced}});
  return Print(replaced.empty() ? "every memory pod is of the newest template: none was replaced\n"
                                : std::to_string(replaced.size()) +
                                      " memory pods were replaced, one at a time\n");
}

}  // namespace

void AddRollCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* const command = app.add_subcommand(
      "roll", "On Kubernetes: replace the memory pods of an old template, one at a time");
  command->footer(
      "Each when every other pod is ready and the cluster is whole: no node down, every slot\n"
      "loaded, no replica missing. For StatefulSets whose updateStrategy is OnDelete; the Helm\n"
      "chart runs it after each change of its memory nodes. Run again, it goes on.\n"
      "  engramctl roll --statefulset pool-engram-pool-memory");
  AddCoordinatorOptions(*command, options->coordinator);
  command->add_option("--statefulset", options->sets, "Of memory nodes; once for each zone")
      ->type_name("NAME")
      ->required();
  command->add_option("--namespace", options->space, "Where they are; else the account's own");
  command->add_option("--api-host", options->api.host, "The Kubernetes API server")
      ->envname("KUBERNETES_SERVICE_HOST")
      ->required();
  command->add_option("--api-port", options->api.port, "Its port")
      ->envname("KUBERNETES_SERVICE_PORT")
      ->capture_default_str();
  options->api.account = "/var/run/secrets/kubernetes.io/serviceaccount";
  command->add_option("--account", options->api.account, "A folder with token, ca.crt, namespace")
      ->type_name("DIR")
      ->capture_default_str();
  command
      ->add_option("--settle-s", options->settle_s,
                   "The cluster must have been whole for so long before the next pod")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->add_option("--wait-timeout-s", options->wait_timeout_s, "Stop waiting after this")
      ->check(CLI::Range(0.001, 1e7))
      ->capture_default_str();
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram

#include "tools/roll.h"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace engram {
namespace {

using nlohmann::json;

const proto::NodeStatus* FindNode(const proto::GetStatusReply& status, const std::string& id) {
  for (const auto& node : status.nodes()) {
    if (node.id() == id) return &node;
  }
  return nullptr;
}

// Those that are not ready, then set after set, the highest number first.
std::vector<RollPod> Outdated(const std::vector<RollSet>& sets) {
  std::vector<RollPod> found;
  for (const RollSet& set : sets) {
    for (auto pod = set.pods.rbegin(); pod != set.pods.rend(); ++pod) {
      // One that is not there is made from the newest.
      if (!pod->uid.empty() && pod->revision != set.revision) found.push_back(*pod);
    }
  }
  std::stable_partition(found.begin(), found.end(), [](const RollPod& pod) { return !pod.ready; });
  return found;
}

std::string OtherPodNotReady(const std::vector<RollSet>& sets, const RollPod& next) {
  for (const RollSet& set : sets) {
    for (const RollPod& pod : set.pods) {
      if (pod.name == next.name || (pod.ready && !pod.ending)) continue;
      if (pod.uid.empty()) return "pod " + pod.name + " to be made";
      if (pod.ending || pod.revision == set.revision) return "pod " + pod.name + " to be ready";
      return "pod " + pod.name + " to be ready, which " + next.name +
             " is not either; kubectl delete pod " + pod.name + " gives it the newest template";
    }
  }
  return "";
}

std::string OtherNodeNotWhole(const std::vector<RollSet>& sets, const proto::GetStatusReply& status,
                              const RollPod& next) {
  for (const RollSet& set : sets) {
    for (const RollPod& pod : set.pods) {
      const auto* node = FindNode(status, pod.name);
      if (pod.name == next.name) continue;
      if (node == nullptr) return "node " + pod.name + " to register";
      if (!node->up()) return "node " + pod.name + " to be up";
    }
  }
  // Nodes that are no pods too.
  for (const auto& node : status.nodes()) {
    if (node.id() == next.name) continue;
    if (!node.up() && node.assigned_slots() > 0) {
      return "node " + node.id() + " to be up: " + std::to_string(node.assigned_slots()) +
             " slots are its";
    }
    if (node.up() && (node.ready_slots() < node.assigned_slots() || node.incoming_slots() > 0)) {
      return "node " + node.id() + " to have all its slots: " + std::to_string(node.ready_slots()) +
             " of " + std::to_string(node.assigned_slots()) + " are ready, " +
             std::to_string(node.incoming_slots()) + " are to be copied there" +
             (node.error().empty() ? "" : "; it says: " + node.error());
    }
  }
  return "";
}

std::string VersionNotWhole(const proto::GetStatusReply& status) {
  for (const auto& version : status.versions()) {
    const std::string name = "version " + std::to_string(version.version());
    if (version.replica_count() == 1 || version.replicas_wanted() == 1) {
      return name +
             " to have a second replica of each slot, without which a restart costs reads: "
             "engramctl create-version --replicas 2 and drop-version " +
             std::to_string(version.version()) +
             "; or, for each pod, engramctl drain NODE --wait, kubectl delete pod NODE, engramctl "
             "undrain NODE";
    }
    if (version.replicas_missing() > 0 || version.moves_pending() > 0) {
      return name + " to be whole: " + std::to_string(version.replicas_missing()) +
             " replicas are missing, " + std::to_string(version.moves_pending()) + " are to move" +
             (version.plan_problem().empty() ? "" : "; " + version.plan_problem());
    }
  }
  return "";
}

tl::unexpected<Status> Malformed(const std::string& what, const json::exception& error) {
  return Error(StatusCode::kMalformed,
               "the API server's " + what + " is not as expected: " + error.what());
}

}  // namespace

Result<RollSet> ParseRollSet(const json& stateful_set) {
  try {
    const json& status = stateful_set.at("status");
    RollSet set;
    set.name = stateful_set.at("metadata").at("name").get<std::string>();
    set.replicas = stateful_set.at("spec").at("replicas").get<uint32_t>();
    set.revision = status.value("updateRevision", "");
    set.observed =
        !set.revision.empty() && status.value("observedGeneration", int64_t{0}) >=
                                     stateful_set.at("metadata").at("generation").get<int64_t>();
    return set;
  } catch (const json::exception& error) {
    return Malformed("StatefulSet", error);
  }
}

Result<RollPod> ParseRollPod(const json& pod) {
  try {
    const json& metadata = pod.at("metadata");
    RollPod parsed;
    parsed.name = metadata.at("name").get<std::string>();
    parsed.uid = metadata.at("uid").get<std::string>();
    parsed.revision = metadata.at("labels").at("controller-revision-hash").get<std::string>();
    parsed.ending = metadata.contains("deletionTimestamp");
    const json status = pod.value("status", json::object());
    for (const json& condition : status.value("conditions", json::array())) {
      if (condition.at("type") == "Ready") parsed.ready = condition.at("status") == "True";
    }
    return parsed;
  } catch (const json::exception& error) {
    return Malformed("pod", error);
  }
}

RollStep NextRollStep(const std::vector<RollSet>& sets, const proto::GetStatusReply& status,
                      const std::optional<RollReplaced>& last) {
  const auto wait = [](std::string text) { return RollStep{false, std::nullopt, std::move(text)}; };
  for (const RollSet& set : sets) {
    if (!set.observed) return wait("StatefulSet " + set.name + " to be seen by its controller");
  }
  const std::vector<RollPod> outdated = Outdated(sets);
  if (outdated.empty()) return RollStep{true, std::nullopt, ""};
  const RollPod& next = outdated.front();
  if (next.ending) return wait("pod " + next.name + " to end");
  if (std::string why = OtherPodNotReady(sets, next); !why.empty()) return wait(std::move(why));
  if (status.follower()) return wait("a coordinator to lead");
  if (last.has_value()) {
    const auto* node = FindNode(status, last->name);
    if (node != nullptr && node->incarnation() == last->incarnation) {
      return wait("node " + last->name + " to be known anew");
    }
  }
  const auto* node = FindNode(status, next.name);
  const bool gone = !next.ready && (node == nullptr || !node->up());
  std::string why = gone ? "" : OtherNodeNotWhole(sets, status, next);
  if (why.empty() && !gone) why = VersionNotWhole(status);
  if (!why.empty()) return wait(std::move(why));
  return RollStep{false, next, ""};
}

}  // namespace engram

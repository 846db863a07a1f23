#include "tools/scale_in.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

namespace engram {
namespace {

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool BeginsWithOneOf(std::string_view id, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [id](const std::string& prefix) { return id.starts_with(prefix); });
}

// All of `text`, which has no sign and no leading zero.
std::optional<uint64_t> ParseNumber(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (text.size() > 1 && text[0] == '0') return std::nullopt;
  return value;
}

std::optional<uint64_t> NumberOf(std::string_view id, std::string_view prefix) {
  if (!id.starts_with(prefix)) return std::nullopt;
  return ParseNumber(id.substr(prefix.size()));
}

// Each version is planned as if the others stayed where they are: each may fit, and not all.
Status CheckVersionsTogether(const proto::GetStatusReply& status, const ScaleIn& scale_in,
                             const proto::GetPlanReply& plan) {
  std::map<std::string, uint64_t> bytes_after;
  for (const auto& version : plan.versions()) {
    for (const auto& node : version.nodes()) bytes_after[node.id()] += node.bytes_after();
  }
  for (const auto& node : status.nodes()) {
    if (Contains(scale_in.leaving, node.id())) continue;
    const uint64_t bytes = bytes_after[node.id()];
    if (bytes <= node.capacity_bytes()) continue;
    return {StatusCode::kFailedPrecondition,
            "without these nodes " + node.id() + " would hold " + std::to_string(bytes) +
                " bytes of all versions together and has memory for " +
                std::to_string(node.capacity_bytes()) +
                ": keep more nodes, give them more memory, or drop a version first"};
  }
  return {};
}

}  // namespace

Result<KeptNodes> ParseKeptNodes(std::string_view text) {
  const size_t equals = text.rfind('=');
  const auto count =
      equals == std::string_view::npos ? std::nullopt : ParseNumber(text.substr(equals + 1));
  if (!count.has_value() || equals == 0) {
    return Error(StatusCode::kInvalidArgument, "--keep " + std::string(text) +
                                                   ": give PREFIX=COUNT, such as "
                                                   "engram-memory-=3");
  }
  return KeptNodes{std::string(text.substr(0, equals)), *count};
}

ScaleIn PlanScaleIn(const proto::GetStatusReply& status, const std::vector<KeptNodes>& kept,
                    const std::vector<std::string>& of,
                    const std::vector<std::string>& keep_drained) {
  ScaleIn result;
  for (const auto& node : status.nodes()) {
    bool kept_set = false;
    for (const KeptNodes& nodes : kept) {
      const auto number = NumberOf(node.id(), nodes.prefix);
      if (!number.has_value()) continue;
      if (*number >= nodes.count) {
        result.leaving.push_back(node.id());
      } else if (node.draining() && !Contains(keep_drained, node.id())) {
        result.undrained.push_back(node.id());
      }
      kept_set = true;
      break;
    }
    if (!kept_set && BeginsWithOneOf(node.id(), of)) result.leaving.push_back(node.id());
  }
  return result;
}

Status CheckScaleIn(const proto::GetStatusReply& status, const ScaleIn& scale_in,
                    const proto::GetPlanReply& plan) {
  if (scale_in.leaving.empty()) return {};
  const auto stays = std::count_if(status.nodes().begin(), status.nodes().end(), [&](auto& node) {
    const bool drained = node.draining() && !Contains(scale_in.undrained, node.id());
    return node.up() && !drained && !Contains(scale_in.leaving, node.id());
  });
  if (stays == 0 && !status.versions().empty()) {
    return {StatusCode::kFailedPrecondition,
            "no node that takes slots would be left, and new ones come only after these have gone: "
            "keep some of these nodes, or make a second cluster and move readers there"};
  }
  for (const auto& version : status.versions()) {
    if (stays >= version.replica_count()) continue;
    return {StatusCode::kFailedPrecondition,
            "version " + std::to_string(version.version()) + " has " +
                std::to_string(version.replica_count()) +
                " replicas of each slot, each on a node of its own, and " + std::to_string(stays) +
                " nodes that take slots would be left: keep more nodes, or make a version with "
                "fewer replicas first"};
  }
  for (const auto& version : plan.versions()) {
    if (version.problem().empty()) continue;
    return {StatusCode::kFailedPrecondition,
            "without these nodes version " + std::to_string(version.version()) +
                " has no place: " + version.problem() +
                ". Keep more nodes, give them more memory, or drop a version first"};
  }
  return CheckVersionsTogether(status, scale_in, plan);
}

}  // namespace engram

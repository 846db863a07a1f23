// How a memory node finds damaged rows in the slots that it serves, and has them replaced.
#include <algorithm>
#include <string>
#include <utility>

#include <boost/asio/post.hpp>
#include <spdlog/spdlog.h>

#include "shard_server/memory_node.h"

namespace engram {
namespace {

// "3, 17 and 2 more"
std::string RowsText(const ScrubResult& result) {
  std::string text;
  for (const uint32_t row : result.first_damaged) {
    text += (text.empty() ? "" : ", ") + std::to_string(row);
  }
  const size_t more = result.rows_damaged - result.first_damaged.size();
  return more == 0 ? text : text + " and " + std::to_string(more) + " more";
}

}  // namespace

void MemoryNode::TakeReports(Version* version) {
  for (const SlotIndex slot : version->assignment.damaged) {
    const auto known = version->damage.find(slot);
    if (known != version->damage.end()) {
      known->second.named = true;
    } else {
      version->reported.insert(slot);
    }
  }
}

void MemoryNode::StartCheck() {
  for (auto& [number, version] : versions_) {
    while (!version.reported.empty()) {
      if (check_.has_value()) {
        scrubber_.Hurry();
        return;
      }
      const SlotIndex slot = *version.reported.begin();
      version.reported.erase(version.reported.begin());
      if (!version.damage.contains(slot) && StartCheckOf(number, slot, true)) return;
    }
  }
  if (!check_.has_value() && options_.scrub_bytes_per_s_max > 0) StartNextOfPass();
}

void MemoryNode::StartNextOfPass() {
  const MonotonicTime now = SteadyClock().Now();
  if (now < pass_.started_at) {
    ArmScrub();
    return;
  }
  if (pass_.slots_checked == 0) pass_.started_at = now;
  for (auto at = versions_.lower_bound(pass_.version); at != versions_.end(); ++at) {
    SlotIndex from = at->first == pass_.version ? pass_.slot : SlotIndex(0);
    while (const auto slot = store_.NextReady(at->first, from)) {
      from = SlotIndex(slot->value() + 1);
      if (at->second.damage.contains(*slot) || !StartCheckOf(at->first, *slot, false)) continue;
      pass_.version = at->first;
      pass_.slot = from;
      ++pass_.slots_checked;
      return;
    }
  }
  if (pass_.slots_checked > 0) {
    ++scrub_passes_;
    scrub_last_pass_ = now - pass_.started_at;
    ArmSnapshot();
  }
  pass_ = {{}, {}, pass_.started_at + options_.scrub_pass_min, 0};
  ArmScrub();
}

void MemoryNode::ArmScrub() {
  scrub_timer_.expires_at(pass_.started_at);
  scrub_timer_.async_wait([this, alive = std::weak_ptr<int>(alive_)](boost::system::error_code ec) {
    if (!ec && !alive.expired()) StartCheck();
  });
}

// False when the slot is not ready: nothing is checked.
bool MemoryNode::StartCheckOf(TableVersion version, SlotIndex slot, bool reported) {
  const std::byte* const rows = store_.ReadyRows(version, slot);
  if (rows == nullptr) return false;
  store_.PinRows(rows);
  check_ = Check{version, slot, rows, reported, false};
  scrubber_.Start(
      {version, store_.layout(version), slot, rows}, !reported,
      [this, executor = executor_, alive = std::weak_ptr<int>(alive_)](const ScrubResult& result) {
        boost::asio::post(executor, [this, alive, result] {
          if (!alive.expired()) OnChecked(result);
        });
      });
  return true;
}

void MemoryNode::OnChecked(const ScrubResult& result) {
  const Check ended = *std::exchange(check_, std::nullopt);
  store_.UnpinRows(ended.rows);
  if (!ended.dropped) TakeDamage(ended, result);
  ArmSnapshot();
  StartCheck();
}

void MemoryNode::TakeDamage(const Check& check, const ScrubResult& result) {
  const auto found = versions_.find(check.version);
  if (found == versions_.end()) return;
  Version& version = found->second;
  if (store_.ReadyRows(check.version, check.slot) != check.rows) return;  // it left meanwhile
  if (result.rows_damaged == 0) {
    if (!check.reported) return;
    ++reports_unconfirmed_;
    spdlog::warn(
        "version {}: a reader reported damaged rows in slot {}, and all of them are whole here: "
        "nothing is changed. It was repaired meanwhile, or the reader's machine is at fault",
        check.version.value(), check.slot.value());
    return;
  }
  corrupt_rows_found_ += result.rows_damaged;
  // A report that came while scrub was at the slot has named it too.
  const bool named = version.reported.erase(check.slot) > 0 || check.reported;
  version.damage[check.slot] = {result.rows_damaged, SteadyClock().Now(), named};
  version.failed_sources.erase(check.slot);
  spdlog::error(
      "version {}: slot {} has {} damaged rows ({} in the slot), {}. It is replaced from a replica "
      "or the checkpoint. More than now and then: test this machine's memory",
      check.version.value(), check.slot.value(), result.rows_damaged, RowsText(result),
      check.reported ? "as a reader reported" : "found by scrub");
  Repair(&version);
  Changed(&version);
  StartWork();
  ArmTick();
}

void MemoryNode::Repair(Version* version) {
  const TableVersion number = version->assignment.version;
  Status failed;
  for (auto at = version->damage.begin(); at != version->damage.end();) {
    const Status status = store_.StartReplacing(number, at->first);
    const bool gone = status.code() == StatusCode::kNotFound;
    if (!status.ok() && !gone && failed.ok()) {
      failed = status.WithContext(
          "slot " + std::to_string(at->first.value()) + " of version " +
          std::to_string(number.value()) +
          " has damaged rows, and there is no memory to load it beside itself; its other rows are "
          "served. Raise --memory by " +
          std::to_string(store_.layout(number)->slot_bytes(at->first) + kPieceAlignBytes) +
          " bytes, or add memory nodes");
    }
    at = gone ? version->damage.erase(at) : std::next(at);
  }
  if (!failed.ok()) {
    FailRepair(version, std::move(failed));
  } else if (!version->repair_error.ok()) {
    version->repair_error = {};
    Changed(version);
  }
}

void MemoryNode::FailRepair(Version* version, Status error) {
  if (error != version->repair_error) spdlog::error("{}", error.ToString());
  version->repair_error = std::move(error);
  version->repair_at = SteadyClock().Now() + options_.retry_min;
  Changed(version);
  ArmRetry();
}

void MemoryNode::OnReplaced(Version* version, SlotIndex slot) {
  const auto found = version->damage.find(slot);
  if (found == version->damage.end()) return;
  rows_repaired_ += found->second.rows;
  spdlog::info("version {}: slot {} is replaced: {} damaged rows are repaired",
               version->assignment.version.value(), slot.value(), found->second.rows);
  version->damage.erase(found);
  version->failed_sources.erase(slot);
  ArmTick();  // the old memory is reused once no reader may be in it
}

bool MemoryNode::AwaitsSource(const Version& version, SlotIndex slot) const {
  const auto found = version.damage.find(slot);
  return found != version.damage.end() && !found->second.named &&
         SteadyClock().Now() - found->second.found_at < options_.source_wait;
}

bool MemoryNode::AnyAwaitsSource() const {
  return std::any_of(versions_.begin(), versions_.end(), [this](const auto& entry) {
    return std::any_of(
        entry.second.damage.begin(), entry.second.damage.end(),
        [&](const auto& damage) { return AwaitsSource(entry.second, damage.first); });
  });
}

}  // namespace engram

#include "coordinator/restored_state.h"

#include <string>

#include "proto/state.pb.h"

namespace engram {
namespace {

Status Unreadable(const std::string& key) {
  return {StatusCode::kCorrupt,
          "record " + key + " of the restored state cannot be read: take another copy"};
}

bool IsVersion(const std::string& key) {
  constexpr std::string_view kPrefix = "version/";
  return key.starts_with(kPrefix) && key.find('/', kPrefix.size()) == std::string::npos;
}

}  // namespace

Result<std::vector<MetadataRecord>> SkipGivenNumbers(const std::vector<MetadataRecord>& records) {
  std::vector<MetadataRecord> changed;
  for (const MetadataRecord& record : records) {
    if (record.key == "cluster") {
      proto::ClusterRecord cluster;
      if (!cluster.ParseFromString(record.value.value_or(""))) {
        return Error(Unreadable(record.key));
      }
      cluster.set_next_version(cluster.next_version() + kRestoredVersionsSkipped);
      changed.push_back({record.key, cluster.SerializeAsString()});
    } else if (IsVersion(record.key)) {
      proto::VersionRecord version;
      if (!version.ParseFromString(record.value.value_or(""))) {
        return Error(Unreadable(record.key));
      }
      version.set_epoch(version.epoch() + kRestoredEpochsSkipped);
      changed.push_back({record.key, version.SerializeAsString()});
    }
  }
  return changed;
}

}  // namespace engram

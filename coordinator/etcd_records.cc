#include "coordinator/etcd_records.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <map>
#include <optional>
#include <utility>

#include "engram/base/crc32c.h"
#include "proto/state.pb.h"

namespace engram {
namespace {

// Beside its key and value, an operation costs its envelope.
constexpr size_t kOpBytes = 64;

std::string PartText(size_t part) {
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "%04zu", part);
  return text.data();
}

// Part 0 has the record's key, so that etcdctl shows it as it is; the others come right after it in
// the order of keys, since no key has a zero byte.
std::string PartKey(const std::string& key, size_t part) {
  return part == 0 ? key : key + '\0' + PartText(part);
}

Status Damaged(std::string_view key, const std::string& what) {
  return Status(StatusCode::kCorrupt,
                "etcd's key '" + std::string(key) + "' " + what + ": restore etcd from a snapshot");
}

}  // namespace

std::string EncodeRestored(const EtcdRestored& restored) {
  return std::to_string(restored.revisions_skipped) + " " + restored.name;
}

Result<EtcdRestored> RestoredOf(const EtcdKeys& names, const std::vector<EtcdKeyValue>& keys) {
  EtcdRestored restored;
  if (keys.empty()) return restored;
  const std::string& value = keys[0].value;
  const char* end = value.data() + value.size();
  const auto read = std::from_chars(value.data(), end, restored.revisions_skipped);
  if (read.ec != std::errc() || read.ptr == end || *read.ptr != ' ') {
    return Error(Damaged(names.restored, "is not a number and a name"));
  }
  restored.name.assign(read.ptr + 1, end);
  return restored;
}

std::vector<MetadataRecord> LastOfEachKey(const std::vector<MetadataRecord>& records) {
  std::map<std::string_view, const MetadataRecord*> last;
  for (const MetadataRecord& record : records) last.insert_or_assign(record.key, &record);
  std::vector<MetadataRecord> unique;
  unique.reserve(last.size());
  for (const auto& [key, record] : last) unique.push_back(*record);
  return unique;
}

Result<std::vector<std::vector<EtcdOp>>> RecordOps(const EtcdKeys& names,
                                                   const std::vector<MetadataRecord>& records) {
  std::vector<std::vector<EtcdOp>> groups(1);
  size_t group_bytes = 0;
  const auto add = [&](EtcdOp op) {
    const size_t bytes = op.key.size() + op.range_end.size() + op.value.size() + kOpBytes;
    if (groups.back().size() >= kEtcdTxnOpsMax || group_bytes + bytes > kEtcdTxnBytesMax) {
      groups.emplace_back();
      group_bytes = 0;
    }
    group_bytes += bytes;
    groups.back().push_back(std::move(op));
  };
  for (const MetadataRecord& record : records) {
    const std::string key = names.records + record.key;
    const size_t bytes = record.value.has_value() ? record.value->size() : 0;
    if (record.key.empty() || record.key.find('\0') != std::string::npos ||
        bytes > kEtcdPartsMax * kEtcdPartBytesMax) {
      return Error(StatusCode::kInvalidArgument, "no record may have the key '" + record.key +
                                                     "' with " + std::to_string(bytes) + " bytes");
    }
    size_t parts = 0;
    if (record.value.has_value()) {
      do {
        add(EtcdOp::Put(PartKey(key, parts),
                        record.value->substr(parts * kEtcdPartBytesMax, kEtcdPartBytesMax)));
        ++parts;
      } while (parts * kEtcdPartBytesMax < bytes);
    } else {
      add(EtcdOp::Delete(key));
    }
    // What a longer value had beyond.
    add(EtcdOp::Delete(PartKey(key, std::max<size_t>(parts, 1)), key + '\1'));
  }
  return groups;
}

EtcdEvent EncodeEvent(const EtcdKeys& names, const std::vector<MetadataRecord>& records) {
  proto::EtcdEvent message;
  for (const MetadataRecord& record : records) {
    proto::EtcdEventRecord* added = message.add_records();
    added->set_key(record.key);
    added->set_value(record.value.value_or(std::string()));
    added->set_erased(!record.value.has_value());
  }
  const std::string bytes = message.SerializeAsString();
  EtcdEvent event;
  for (size_t at = 0; at < bytes.size(); at += kEtcdPartBytesMax) {
    event.parts.push_back(EtcdOp::Put(names.event + PartText(event.parts.size()),
                                      bytes.substr(at, kEtcdPartBytesMax)));
  }
  proto::EtcdPendingEvent pending;
  pending.set_part_count(static_cast<uint32_t>(event.parts.size()));
  pending.set_byte_count(bytes.size());
  pending.set_crc32c(Crc32c(0, bytes.data(), bytes.size()));
  event.pending = pending.SerializeAsString();
  return event;
}

Result<std::vector<MetadataRecord>> RecordsOf(const EtcdKeys& names,
                                              std::vector<EtcdKeyValue> keys) {
  std::vector<MetadataRecord> records;
  size_t parts = 0;  // of the last record
  for (EtcdKeyValue& found : keys) {
    if (!found.key.starts_with(names.records))
      return Error(Damaged(found.key, "was not asked for"));
    std::string key = found.key.substr(names.records.size());
    const size_t zero = key.find('\0');
    if (zero == std::string::npos) {
      records.push_back({std::move(key), std::move(found.value)});
      parts = 1;
      continue;
    }
    if (records.empty() || records.back().key != std::string_view(key).substr(0, zero) ||
        std::string_view(key).substr(zero + 1) != PartText(parts)) {
      return Error(Damaged(found.key, "is a part without the one before it"));
    }
    records.back().value->append(found.value);
    ++parts;
  }
  return records;
}

Result<std::vector<MetadataRecord>> EventOf(const EtcdKeys& names, std::string_view pending,
                                            const std::vector<EtcdKeyValue>& parts) {
  proto::EtcdPendingEvent wanted;
  if (!wanted.ParseFromArray(pending.data(), static_cast<int>(pending.size()))) {
    return Error(Damaged(names.pending, "cannot be read"));
  }
  std::string bytes;
  for (size_t i = 0; i < parts.size(); ++i) {
    // Parts beyond are left over from a longer event that was never committed.
    if (i >= wanted.part_count()) break;
    if (parts[i].key != names.event + PartText(i)) break;
    bytes += parts[i].value;
  }
  proto::EtcdEvent message;
  if (bytes.size() != wanted.byte_count() ||
      Crc32c(0, bytes.data(), bytes.size()) != wanted.crc32c() || !message.ParseFromString(bytes)) {
    return Error(Damaged(names.pending, "does not fit the parts of its event"));
  }
  std::vector<MetadataRecord> records;
  records.reserve(static_cast<size_t>(message.records_size()));
  for (const proto::EtcdEventRecord& record : message.records()) {
    records.push_back(
        {record.key(), record.erased() ? std::nullopt : std::optional(record.value())});
  }
  return records;
}

std::vector<MetadataRecord> Overlay(std::vector<MetadataRecord> records,
                                    std::vector<MetadataRecord> event) {
  std::map<std::string, std::string> merged;
  for (MetadataRecord& record : records) {
    merged.insert_or_assign(std::move(record.key), std::move(record.value).value_or(""));
  }
  for (MetadataRecord& record : event) {
    if (record.value.has_value()) {
      merged.insert_or_assign(std::move(record.key), *std::move(record.value));
    } else {
      merged.erase(record.key);
    }
  }
  std::vector<MetadataRecord> all;
  all.reserve(merged.size());
  for (auto& [key, value] : merged) all.push_back({key, std::move(value)});
  return all;
}

}  // namespace engram

// Where the coordinator keeps what must outlive it: records by key, written in transactions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engram/base/status.h"

namespace engram {

struct MetadataRecord {
  std::string key;
  std::optional<std::string> value;  // none = delete

  friend bool operator==(const MetadataRecord&, const MetadataRecord&) = default;
};

// Thread-compatible: the coordinator's one thread uses it.
class MetadataStore {
 public:
  virtual ~MetadataStore() = default;

  // Begins a new term, higher than any before. Writes of earlier terms are refused from then on.
  // ERRORS: kIo.
  [[nodiscard]] virtual Result<uint64_t> BeginTerm() = 0;
  // Every record, in the order of their keys. ERRORS: kIo, kCorrupt.
  [[nodiscard]] virtual Result<std::vector<MetadataRecord>> ReadAll() = 0;
  // All of `records` or none; durable when it returns ok.
  // ERRORS: kFailedPrecondition (a later term has begun: this coordinator is deposed), kIo (for
  // instance a full disk; nothing was written).
  [[nodiscard]] virtual Status Commit(uint64_t term,
                                      const std::vector<MetadataRecord>& records) = 0;
};

}  // namespace engram

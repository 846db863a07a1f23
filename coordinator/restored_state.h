// A coordinator's state that was put back from a copy: what was given out since the copy is
// unknown.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/metadata_store.h"
#include "engram/base/status.h"

namespace engram {

// So far the numbers are moved on: more than are given out between two copies.
constexpr uint64_t kRestoredTermsSkipped = 1u << 20;
// Terms in etcd are its revisions, of which every write takes one.
constexpr uint64_t kRestoredRevisionsSkipped = 1ull << 40;
constexpr uint64_t kRestoredVersionsSkipped = 1'000'000;
constexpr uint64_t kRestoredEpochsSkipped = 1u << 30;

// The records that must change so that no version number and no epoch that may have been given
// since the copy is given again: a client that kept rows or a map from then would take others for
// them. ERRORS: kCorrupt (a record cannot be read), naming it.
[[nodiscard]] Result<std::vector<MetadataRecord>> SkipGivenNumbers(
    const std::vector<MetadataRecord>& records);

}  // namespace engram

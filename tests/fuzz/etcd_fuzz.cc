// What etcd answers, and what lies in it: damaged replies, records and events.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "coordinator/etcd_messages.h"
#include "coordinator/etcd_records.h"
#include "engram/base/check.h"

using namespace engram;

namespace {

void CheckReply(std::string_view text) {
  const auto json = ParseEtcdJson(text);
  if (!json.has_value()) return;
  const auto lease = ParseLeaseReply(*json);
  if (lease.has_value()) ENGRAM_CHECK(lease->id != 0);
  (void)ParseRangeReply(*json);
  const EtcdKeys names("p");
  const auto txn = ParseTxnReply(*json);
  if (!txn.has_value()) return;
  for (const EtcdRangeReply& range : txn->ranges) {
    size_t bytes = 0;
    for (const EtcdKeyValue& key : range.keys) bytes += key.value.size();
    ENGRAM_CHECK(bytes <= text.size());
    const auto records = RecordsOf(names, range.keys);
    if (records.has_value()) {
      ENGRAM_CHECK(records->size() <= range.keys.size());
      // What was read can be written again.
      const auto groups = RecordOps(names, LastOfEachKey(*records));
      if (groups.has_value()) ENGRAM_CHECK(!groups->empty());
    }
    if (!range.keys.empty()) (void)EventOf(names, range.keys[0].value, range.keys);
  }
}

}  // namespace

// The first byte picks what the rest is.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      CheckReply(text);
      break;
    case 1: {
      const auto bytes = FromBase64(text);
      if (bytes.has_value()) ENGRAM_CHECK(bytes->size() <= text.size());
      ENGRAM_CHECK(FromBase64(ToBase64(text)) == text);
      const Status failure = EtcdFailure(500, text);
      ENGRAM_CHECK(!failure.ok() && failure.message().size() < 1000);
      break;
    }
    default: {
      // An event of one part, and `pending` cut anywhere.
      const EtcdKeys names("p");
      const size_t cut = std::min<size_t>(text.size(), 16);
      (void)EventOf(names, text.substr(0, cut),
                    {{names.event + "0000", std::string(text.substr(cut)), 1, 1}});
    }
  }
  return 0;
}

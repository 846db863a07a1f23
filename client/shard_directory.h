// The coordinator's shard maps, kept up to date in the background.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "client/following_rows.h"
#include "client/shard_map_source.h"
#include "client/token_book.h"
#include "engram/base/status.h"
#include "engram/security/tls_identity.h"
#include "engram/table/table_layout.h"

namespace engram {

struct ShardDirectoryOptions {
  // "host:port" each; asked in turn, the next one when one does not answer. Followers answer too; a
  // leader that one names is asked at once where the follower cannot answer.
  std::vector<std::string> coordinators;
  TableVersion version;                     // 0 = whichever is current when the first map comes
  const ModelIdentity* identity = nullptr;  // null = any (tools)
  // Until the first map, and, where wait_ready, until every slot has a ready replica.
  std::chrono::milliseconds ready_timeout{30000};
  bool wait_ready = true;
  std::chrono::milliseconds reconnect_delay_min{20};  // doubles, with jitter
  std::chrono::milliseconds reconnect_delay_max{2000};
  std::chrono::milliseconds call_timeout{5000};
  ChannelSecurity security;
  // Gets the session tokens for the maps' nodes, before anybody sees a map, and new ones long
  // before they lapse. Null: nobody wants any.
  std::shared_ptr<TokenBook> tokens;
  std::chrono::milliseconds poll_wait{20000};  // how long the coordinator may hold a poll back
};

inline constexpr size_t kSlotReportsMax =
    1024;  // remembered, so that none is sent twice in a while

// Owns one control thread with a connection to one coordinator. While no coordinator answers the
// last map stays: reads go on. Maps of one version only. Thread-safe.
class ShardDirectory : public ShardMapSource, public CurrentVersionSource {
 public:
  // Blocks until the first map (and readiness) is there.
  // ERRORS: kInvalidArgument (no or a bad address), kWrongModel naming both identities, kNotFound
  // (no such version), kUnavailable / kDeadlineExceeded with each coordinator's last answer.
  [[nodiscard]] static Result<std::shared_ptr<ShardDirectory>> Connect(
      const ShardDirectoryOptions& options);

  // Of the version that the maps are of.
  [[nodiscard]] virtual TableVersion version() const = 0;
  [[nodiscard]] virtual const std::shared_ptr<const TableLayout>& layout() const = 0;
  [[nodiscard]] virtual const ModelIdentity& identity() const = 0;
  // As the coordinator said last: every slot has a ready replica.
  [[nodiscard]] virtual bool ready() const = 0;
  // ok while a coordinator answers; else why the last one did not.
  [[nodiscard]] virtual Status Health() const = 0;
};

}  // namespace engram

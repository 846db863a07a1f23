// What a client knows of the shard maps of one version, and what it asks a coordinator next.
#pragma once

#include <memory>
#include <optional>

#include "engram/base/status.h"
#include "engram/table/shard_map.h"
#include "engram/table/table_layout.h"
#include "proto/directory.pb.h"

namespace engram {

// Pure: no I/O, no clock, no thread, so that the simulator runs it. Thread-compatible.
class DirectoryState {
 public:
  struct Options {
    TableVersion version;                   // 0 = whichever is current when the first map comes
    std::optional<ModelIdentity> identity;  // none = any (tools)
  };
  explicit DirectoryState(const Options& options)
      : identity_wanted_(options.identity), version_(options.version) {}

  // Without wait_ms: whether to have the reply held back is for the caller.
  [[nodiscard]] proto::GetShardMapRequest NextRequest() const;
  // Takes a reply. True: map() is another now; older maps than the one known change nothing.
  // ERRORS: kMalformed, kInvalidArgument (a spec that no table can have), kWrongModel naming both
  // identities, kWrongVersion. After an error all is as before.
  [[nodiscard]] Result<bool> Take(const proto::GetShardMapReply& reply);

  // Null before the first.
  [[nodiscard]] const std::shared_ptr<const ShardMap>& map() const { return map_; }
  // Of all maps. Change only with the first map.
  [[nodiscard]] TableVersion version() const { return version_; }
  [[nodiscard]] const std::shared_ptr<const TableLayout>& layout() const { return layout_; }
  [[nodiscard]] const ModelIdentity& identity() const { return identity_; }
  // As the coordinator said last: every slot has a ready replica.
  [[nodiscard]] bool ready() const { return ready_; }
  // What clients that name no version read, as the coordinator said last; 0 = it has not yet.
  [[nodiscard]] TableVersion current_version() const { return current_version_; }

 private:
  struct Model {
    std::shared_ptr<const TableLayout> layout;
    ModelIdentity identity{};
  };
  // What the version is, as a reply says.
  [[nodiscard]] Result<Model> ModelOf(const proto::GetShardMapReply& reply) const;

  const std::optional<ModelIdentity> identity_wanted_;
  TableVersion version_;
  std::shared_ptr<const TableLayout> layout_;
  ModelIdentity identity_{};
  std::shared_ptr<const ShardMap> map_;
  bool ready_ = false;
  TableVersion current_version_;
};

}  // namespace engram

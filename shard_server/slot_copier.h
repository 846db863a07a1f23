// Copies slots from other memory nodes over the ordinary data path: gathers of few rows, so that a
// source's readers are not held up, every row's CRC verified as it comes, then the slot's digest.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_reader.h"
#include "shard_server/byte_rate.h"
#include "shard_server/load_control.h"
#include "shard_server/slot_store.h"

namespace engram {

struct CopySource {
  std::string id;       // for messages
  std::string address;  // "host:port" of its data service
  Incarnation incarnation;
  friend bool operator==(const CopySource&, const CopySource&) = default;
};

struct CopySlot {
  EmptySlot slot;
  uint32_t source = 0;  // in CopyJob::sources
};

struct CopyJob {
  TableVersion version;
  ModelIdentity identity{};
  std::shared_ptr<const TableLayout> layout;
  std::vector<CopySource> sources;
  std::vector<CopySlot> slots;  // in the order wanted
};

// A slot did not come, and why; its rows are unspecified. On the copying thread.
using OnCopyFailed = std::function<void(const EmptySlot& slot, const Status& why)>;

// Thread-compatible: one Copy at a time; SetRateMax and bytes_per_s are thread-safe.
class SlotCopier {
 public:
  // Readers that gather: makes the transport, when the first slot is copied, on the copying thread.
  using MakeTransport = std::function<Result<std::unique_ptr<Transport>>()>;
  struct Options {
    uint32_t rows_per_read = 512;      // what a source's reader may have to wait for
    uint32_t reads_in_flight_max = 4;  // on one source
    uint32_t slots_in_flight_max = 4;  // all sources together
    // A source that leaves a read unanswered this long is given up.
    Duration stall_max = std::chrono::seconds(10);
  };
  SlotCopier(MakeTransport make_transport, const Options& options)
      : make_transport_(std::move(make_transport)), options_(options) {}

  // Bytes of rows a second, from all sources together; 0 = no bound.
  void SetRateMax(uint64_t bytes_per_s) { rate_.SetMax(bytes_per_s, SteadyClock().Now()); }
  [[nodiscard]] uint64_t rate_max() const { return rate_.bytes_per_s_max(); }
  // At which rows arrive now.
  [[nodiscard]] uint64_t bytes_per_s() { return meter_.PerSecond(SteadyClock().Now()); }

  // Copies the job's slots, in its order. Blocks. Each slot is told once, to `on_loaded` (every row
  // verified, and the digest is the one recorded, if one is) or to `on_failed` (the source was
  // lost, has not the rows: kNotOwned, or gave wrong ones: kCorrupt), unless `control` dropped it.
  // ERRORS: kCancelled; then slots that were told nothing have unspecified rows.
  [[nodiscard]] Status Copy(const CopyJob& job, LoadControl* control, const OnSlotLoaded& on_loaded,
                            const OnCopyFailed& on_failed);

 private:
  const MakeTransport make_transport_;
  const Options options_;
  ByteRate rate_;
  ByteMeter meter_;
  std::unique_ptr<Transport> transport_;  // the copying thread's
};

}  // namespace engram

// A memory node whose slots come from another one over the loopback network, or from a scripted
// checkpoint.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include "engram/table/stored_row.h"
#include "engram/transport/loopback/loopback_network.h"
#include "shard_server/memory_node.h"
#include "shard_server/slot_memory.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram::test {

using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr TableVersion kCopiedVersion{3};
inline constexpr Incarnation kSourceIncarnation{11};

// The node on this thread's io_context; loads from checkpoints are scripted by `load_`.
class CopyingNodeTest : public testing::Test {
 protected:
  CopyingNodeTest() {
    source_ = network_.CreateServer("source:1", kSourceIncarnation);
    Fill();
    Make(Options());
  }
  MemoryNode::Options Options() {
    MemoryNode::Options options;
    options.store.memory_bytes_max = 64 << 20;
    options.retry_min = milliseconds(20);
    options.retry_max = milliseconds(40);
    options.copy.stall_max = milliseconds(500);
    options.copy_slots_max = 8;
    options.load_function = [this](const LoadJob& job, const LoadOptions&, LoadControl* control,
                                   const OnSlotLoaded& on_loaded) {
      return load_(job, control, on_loaded);
    };
    options.make_transport = [this]() -> Result<std::unique_ptr<Transport>> {
      return network_.CreateTransport();
    };
    return options;
  }
  void Make(const MemoryNode::Options& options) {
    node_ = std::make_unique<MemoryNode>(io_.get_executor(), &server_, options);
  }

  // Every row of the source: sealed, and each different.
  void Fill() {
    const Region region = source_->AllocateRegion(layout_->total_bytes()).value();
    source_slots_ = std::make_shared<ServedSlots>(kCopiedVersion, test::SmallIdentity(), layout_);
    uint64_t offset = 0;
    for (uint32_t s = 0; s < layout_->slot_count(); ++s) {
      const SlotRange& slot = layout_->slot(SlotIndex(s));
      std::byte* const rows = region.bytes.data() + offset;
      for (uint32_t r = 0; r < slot.row_count; ++r) {
        std::byte* const row = rows + size_t{r} * layout_->row_stride();
        std::fill(row, row + layout_->row_bytes(), static_cast<std::byte>(s * 31 + r));
        SealRow(kCopiedVersion,
                layout_->spec().hash.layer_ids[static_cast<size_t>(slot.layer_index)],
                RowId(slot.first_row.value() + r), row, layout_->row_bytes());
      }
      source_rows_.push_back(rows);
      source_slots_->Publish(SlotIndex(s), rows, {region.number, offset});
      offset += layout_->slot_bytes(SlotIndex(s));
    }
    source_->Serve(source_slots_);
  }

  SlotAssignment Assignment(uint64_t revision, std::vector<AssignedSlot> slots,
                            SlotOrigin origin) const {
    SlotAssignment assignment;
    assignment.version = kCopiedVersion;
    assignment.revision = revision;
    assignment.newest_epoch = Epoch(revision);
    assignment.spec = test::SmallSpec();
    assignment.identity = test::SmallIdentity();
    assignment.checkpoint = "scripted";
    assignment.slots = std::move(slots);
    assignment.sources = {{"m1", "source:1", kSourceIncarnation}};
    assignment.origins.assign(assignment.slots.size(), origin);
    return assignment;
  }
  Status LoadAll(const LoadJob& job, LoadControl*, const OnSlotLoaded& on_loaded) {
    for (const EmptySlot& slot : job.slots) {
      ++loaded_;
      on_loaded(slot, 100 + slot.slot.value());
    }
    return {};
  }
  // The same rows as the source's, with their digest.
  Status LoadSourceRows(const LoadJob& job, LoadControl*, const OnSlotLoaded& on_loaded) {
    for (const EmptySlot& slot : job.slots) {
      ++loaded_;
      const uint64_t bytes = layout_->slot_bytes(slot.slot);
      std::copy_n(source_rows_[slot.slot.value()], bytes, slot.rows);
      on_loaded(slot, DigestOfRows({slot.rows, bytes}));
    }
    return {};
  }
  static Status WaitForCancel(const LoadJob&, LoadControl* control, const OnSlotLoaded&) {
    while (!control->cancelled()) std::this_thread::sleep_for(milliseconds(1));
    return {StatusCode::kCancelled, "cancelled"};
  }
  bool RunUntil(const std::function<bool()>& done) {
    const auto until = std::chrono::steady_clock::now() + seconds(20);
    while (!done()) {
      if (std::chrono::steady_clock::now() > until) return false;
      io_.restart();
      io_.run_for(milliseconds(2));
    }
    return true;
  }
  bool RunUntilComplete(uint64_t revision) {
    return RunUntil([&] {
      const auto snapshot = node_->snapshot();
      return snapshot->versions.size() == 1 && snapshot->versions[0].revision == revision &&
             snapshot->versions[0].complete() && !snapshot->loading;
    });
  }
  bool RunUntilError(StatusCode code) {
    return RunUntil([&] {
      const auto snapshot = node_->snapshot();
      return snapshot->versions.size() == 1 && snapshot->versions[0].error.code() == code;
    });
  }
  bool HasSourceRows(uint32_t slot) {
    const std::byte* const rows = server_.Served(3)->Rows(SlotIndex(slot));
    return rows != nullptr &&
           std::equal(rows, rows + layout_->slot_bytes(SlotIndex(slot)), source_rows_[slot]);
  }

  LoopbackNetwork network_;
  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout();
  std::unique_ptr<RowServer> source_;
  std::shared_ptr<ServedSlots> source_slots_;
  std::vector<const std::byte*> source_rows_;  // [slots]
  test::RecordingRowServer server_;
  boost::asio::io_context io_{1};
  std::atomic<int> loaded_{0};  // from the "checkpoint"
  std::function<Status(const LoadJob&, LoadControl*, const OnSlotLoaded&)> load_ =
      [this](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
        return LoadAll(job, control, on_loaded);
      };
  std::unique_ptr<MemoryNode> node_;
};

}  // namespace engram::test

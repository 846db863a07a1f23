#include "tests/sim/sim_client.h"

#include <algorithm>

#include "engram/table/stored_row.h"
#include "tests/sim/sim_tables.h"

namespace engram::sim {
namespace {
using std::chrono::milliseconds;
constexpr Duration kPoll = milliseconds(100);
constexpr Duration kCallTimeout = milliseconds(500);
constexpr Duration kBatchDeadline = milliseconds(2000);

SchedulerOptions OptionsFor(TableVersion version) {
  SchedulerOptions options;
  options.sessions.target.version = version;
  options.sessions.target.identity = SimIdentity();
  options.sessions.target.row_stride = SimLayout()->row_stride();
  options.sessions.target.slot_shift = SimLayout()->slot_shift();
  options.sessions.target.slot_count = SimLayout()->slot_count();
  options.slot_count = 2;
  options.rows_max = 16;
  options.layer_count = SimLayout()->layer_count();
  options.read_rows_max = 8;
  options.layer_rows_min = 4;
  options.read_silence_max = milliseconds(700);
  return options;
}

DirectoryState::Options DirectoryOptions() {
  DirectoryState::Options options;
  options.identity = SimIdentity();
  return options;
}

}  // namespace

SimClient::SimClient(const Surroundings& around, const std::string& name)
    : around_(around),
      world_(around.world),
      process_(around.world, name),
      reader_({around.world, around.network, around.bug, &process_, around.listener,
               around.same_host, around.stall_max},
              this),
      directory_(DirectoryOptions()),
      choice_(around.coordinators) {}

void SimClient::Start() {
  process_.Start();
  Poll();
}

// ---- the directory

void SimClient::Poll() {
  SimCoordinator* const coordinator = around_.coordinator(choice_.current());
  const uint64_t call = ++calls_;
  const auto end = [this, call](const Result<proto::GetShardMapReply>& reply,
                                const std::string& leader) {
    if (call != calls_) return;  // timed out before
    ++calls_;
    if (!reply.has_value()) return PollFailed(leader);
    const auto newer = directory_.Take(*reply);
    if (!newer.has_value()) {
      world_->Violated("a map is refused: " + newer.error().ToString());
      return;
    }
    choice_.Answered();
    if (*newer) {
      if (scheduler_ == nullptr) StartScheduler();
      scheduler_->SetMap(directory_.map(), world_->Now());
      ArmTick();
    }
    process_.After(kPoll, [this] { Poll(); });
  };
  around_.network->Send(
      process_.name(), coordinator->process(), &link_.there,
      [this, coordinator, life = process_.life(), request = directory_.NextRequest(), end] {
        coordinator->GetShardMap(request, [this, coordinator, life,
                                           end](Result<proto::GetShardMapReply> reply) {
          const std::string leader = coordinator->leader();
          around_.network->SendTo(coordinator->process()->name(), &process_, life, &link_.back,
                                  [end, leader, reply = std::move(reply)] { end(reply, leader); });
        });
      });
  process_.After(kCallTimeout, [end] {
    end(Error(Status(StatusCode::kDeadlineExceeded, "no answer")), std::string());
  });
}

void SimClient::PollFailed(const std::string& leader) {
  if (choice_.Failed(leader)) return Poll();
  process_.After(world_->random().Between(milliseconds(20), milliseconds(200)), [this] { Poll(); });
}

// ---- reading

void SimClient::StartScheduler() {
  scheduler_ = std::make_unique<ReadScheduler>(OptionsFor(directory_.version()), SimLayout().get(),
                                               &reader_, this);
  for (uint32_t slot = 0; slot < kTickets; ++slot) {
    process_.After(milliseconds(1 + slot), [this, slot] { NextBatch(slot); });
  }
}

void SimClient::NextBatch(uint32_t slot) {
  // As a client does that waits until the tables are there.
  if (!directory_.ready()) {
    process_.After(milliseconds(50), [this, slot] { NextBatch(slot); });
    return;
  }
  Random& random = world_->random();
  const auto count = static_cast<uint32_t>(1 + random.Below(kRowsMax));
  std::vector<RowAddress>& addresses = addresses_[slot];
  addresses.clear();
  const TableLayout& layout = *SimLayout();
  for (uint32_t i = 0; i < count; ++i) {
    const TableLayout::Column& column = layout.column(0, 0);
    addresses.push_back(
        layout.Address(0, 0, static_cast<uint32_t>(random.Below(column.row_count))));
  }
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  ++figures_.batches;
  began_[slot] = world_->Now();
  scheduler_->Begin(slot, world_->Now(), world_->Now() + kBatchDeadline);
  scheduler_->AddRows(slot, 0, addresses.data(), 0, static_cast<uint32_t>(addresses.size()));
  scheduler_->Pump(world_->Now());
  ArmTick();
}

void SimClient::TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                         uint8_t* taken) {
  const TableLayout& layout = *SimLayout();
  for (size_t i = 0; i < rows.size(); ++i) {
    taken[i] = 0;
    if (rows[i] == 0xffffffffu) continue;  // kNoRow
    const RowAddress address = addresses_[slot][rows[i]];
    const RowPlace place = layout.Place(address);
    const int32_t layer_id = layout.spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
    const std::byte* row = stored + i * layout.row_stride();
    const bool verified =
        VerifyRow(directory_.version(), layer_id, place.row, row, layout.row_bytes());
    if (!verified && !reader_.flipped()) {
      world_->Violated(process_.name() + " was given a row of slot " +
                       std::to_string(layout.SlotOf(address).value()) +
                       " that only its CRC gives away as wrong");
    }
    if (verified && !IsRight(directory_.version(), address, row)) {
      world_->Violated(process_.name() + " took a wrong row");
    }
    taken[i] = verified ? 1 : 0;
    if (verified) ++figures_.rows;
  }
}

void SimClient::OnLayerDone(uint32_t slot, int32_t /*layer_index*/, const Status& status,
                            uint64_t /*rows_failed*/) {
  if (!status.ok()) {
    ++figures_.batches_failed;
    if (world_->Now() - began_[slot] < kBatchDeadline + milliseconds(5) &&
        around_.reads_must_succeed()) {
      world_->Violated(process_.name() + ": a batch failed: " + status.ToString());
    }
  }
  process_.After(world_->random().Between(milliseconds(5), milliseconds(60)),
                 [this, slot] { NextBatch(slot); });
}

void SimClient::OnRowWrong(SlotIndex /*table_slot*/, const ShardMapNode& /*node*/) {}

void SimClient::ArmTick() {
  const MonotonicTime next = scheduler_->NextTick();
  if (next == MonotonicTime::max() || next >= tick_at_) return;
  tick_at_ = next;
  process_.After(std::max(next - world_->Now(), Duration()), [this, next] {
    if (tick_at_ != next) return;
    tick_at_ = MonotonicTime::max();
    scheduler_->Tick(world_->Now());
    ArmTick();
  });
}

void SimClient::OnOpen(SessionId session, const SessionInfo& info) {
  world_->Note(process_.name() + ": session " + std::to_string(session.value()) + " opens");
  scheduler_->OnOpen(session, info, world_->Now());
  ArmTick();
}
void SimClient::OnClosed(SessionId session, const Status& why) {
  world_->Note(process_.name() + ": session " + std::to_string(session.value()) +
               " ends: " + why.ToString());
  scheduler_->OnClosed(session, why, world_->Now());
  ArmTick();
}
void SimClient::OnRows(uint64_t tag, const RowChunk& chunk) {
  scheduler_->OnRows(tag, chunk, world_->Now());
}
void SimClient::OnReadDone(uint64_t tag, StatusCode status) {
  scheduler_->OnReadDone(tag, status, world_->Now());
  scheduler_->Pump(world_->Now());
  ArmTick();
}
void SimClient::OnEpoch(SessionId /*session*/, Epoch newest) { scheduler_->OnEpoch(newest); }
void SimClient::OnBusy(SessionId session, Duration retry_after) {
  scheduler_->OnBusy(session, retry_after, world_->Now());
  ArmTick();
}

Figures SimClient::figures() const {
  Figures figures = figures_;
  figures.rows_mapped = reader_.mapped_rows();
  return figures;
}

}  // namespace engram::sim

#include "bench/read_floor.h"

#include <cstring>
#include <utility>

namespace engram::bench {

size_t ReadFloor::NextRows(uint32_t tokens) {
  addresses_ = &rows_.Next(tokens);
  offsets_.clear();
  for (const uint64_t address : *addresses_) {
    offsets_.push_back(places_.OffsetOf(RowAddress(address)));
  }
  return offsets_.size();
}

Status ReadFloor::PrepareGather(const ReadNode& node, const std::string& transport,
                                uint32_t tokens) {
  if (gather_ == nullptr) {
    auto gather = BareGather::Create(transport, node.bare_address(), layout_->row_bytes());
    if (!gather.has_value()) return gather.error().WithContext("the floor");
    gather_ = *std::move(gather);
  }
  double best = 0;
  BareMessages fastest;
  for (const BareMessages& choice : BareMessageChoices(
           tokens * static_cast<uint32_t>(layout_->column_count() * layout_->layer_count()))) {
    messages_ = choice;
    ENGRAM_RETURN_IF_ERROR(CheckGather(tokens));
    const auto tried = RunGather(tokens, 0.15);
    if (!tried.has_value()) return tried.error();
    if (tried->rows_s > best) {
      best = tried->rows_s;
      fastest = choice;
    }
  }
  messages_ = fastest;
  return {};
}

Result<FloorMeasured> ReadFloor::RunGather(uint32_t tokens, double seconds) {
  auto measured = TimeBatches(
      seconds, [&] { return NextRows(tokens); },
      [&] { return gather_->Read(offsets_, messages_); });
  if (!measured.has_value()) return Error(measured.error().WithContext("the floor"));
  return measured;
}

FloorMeasured ReadFloor::RunCopy(const SharedMemory& memory, uint32_t tokens, double seconds) {
  const uint32_t row_bytes = layout_->row_bytes();
  return *TimeBatches(
      seconds, [&] { return NextRows(tokens); },
      [&] {
        out_.resize(offsets_.size() * row_bytes);
        CopyBare(memory.bytes().data(), offsets_, row_bytes, out_.data());
        return Status();
      });
}

Status ReadFloor::CheckGather(uint32_t tokens) {
  struct Check {
    const std::vector<uint64_t>* addresses;
    uint64_t seen = 0;
    uint64_t wrong = 0;
  };
  NextRows(tokens);
  Check check{.addresses = addresses_};
  gather_->SeeRows(
      [](void* state, uint32_t index, const std::byte* row) {
        auto* const c = static_cast<Check*>(state);
        uint64_t word = 0;
        std::memcpy(&word, row, sizeof(word));
        ++c->seen;
        if (word != MadeUpWord(RowAddress((*c->addresses)[index]), 0)) ++c->wrong;
      },
      &check);
  Status status = gather_->Read(offsets_, messages_);
  gather_->SeeRows(nullptr, nullptr);
  if (!status.ok()) return status;
  if (check.wrong > 0 || check.seen != offsets_.size()) {
    return {StatusCode::kCorrupt, "the floor read other rows: a bug of this benchmark"};
  }
  return {};
}

}  // namespace engram::bench

#include "bench/read_floor.h"

#include <cstring>
#include <utility>

namespace engram::bench {

void ReadFloor::NextRows(uint32_t tokens) {
  const TokenRun run = tokens_->Next(tokens);
  offsets_.clear();
  addresses_.clear();
  buckets_.resize(size_t{tokens} * static_cast<uint32_t>(layout_->column_count()));
  for (int32_t layer = 0; layer < layout_->layer_count(); ++layer) {
    hasher_->Hash(layer, run, buckets_.data(), tokens);
    for (uint32_t token = 0; token < tokens; ++token) {
      for (int32_t column = 0; column < layout_->column_count(); ++column) {
        const uint32_t bucket = buckets_[static_cast<size_t>(column) * tokens + token];
        const RowAddress address = layout_->Address(layer, column, bucket);
        addresses_.push_back(address.value());
        offsets_.push_back(places_.OffsetOf(address));
      }
    }
  }
}

template <typename Read>
Status ReadFloor::Loop(uint32_t tokens, double seconds, FloorMeasured* measured, const Read& read) {
  Duration busy{};
  uint64_t rows = 0;
  while (std::chrono::duration<double>(busy).count() < seconds) {
    NextRows(tokens);
    const MonotonicTime begin = std::chrono::steady_clock::now();
    ENGRAM_RETURN_IF_ERROR(read());
    const Duration took = std::chrono::steady_clock::now() - begin;
    measured->took.Add(took);
    busy += took;
    rows += offsets_.size();
  }
  measured->rows_s = static_cast<double>(rows) / std::chrono::duration<double>(busy).count();
  return {};
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
  FloorMeasured measured;
  const Status status =
      Loop(tokens, seconds, &measured, [&] { return gather_->Read(offsets_, messages_); });
  if (!status.ok()) return Error(status.WithContext("the floor"));
  return measured;
}

FloorMeasured ReadFloor::RunCopy(const SharedMemory& memory, uint32_t tokens, double seconds) {
  FloorMeasured measured;
  const uint32_t row_bytes = layout_->row_bytes();
  (void)Loop(tokens, seconds, &measured, [&] {
    out_.resize(offsets_.size() * row_bytes);
    CopyBare(memory.bytes().data(), offsets_, row_bytes, out_.data());
    return Status();
  });
  return measured;
}

Status ReadFloor::CheckGather(uint32_t tokens) {
  struct Check {
    const std::vector<uint64_t>* addresses;
    uint64_t seen = 0;
    uint64_t wrong = 0;
  };
  NextRows(tokens);
  Check check{.addresses = &addresses_};
  gather_->SeeRows(
      [](void* state, uint32_t index, const std::byte* row) {
        auto* const c = static_cast<Check*>(state);
        uint64_t word = 0;
        std::memcpy(&word, row, sizeof(word));
        ++c->seen;
        if (word != MadeUpWord(RowAddress((*c->addresses)[index]), 0)) ++c->wrong;
      },
      &check);
  const Status status = gather_->Read(offsets_, messages_);
  gather_->SeeRows(nullptr, nullptr);
  if (!status.ok()) return status;
  if (check.wrong > 0 || check.seen != offsets_.size()) {
    return {StatusCode::kCorrupt, "the floor read other rows: a bug of this benchmark"};
  }
  return {};
}

}  // namespace engram::bench

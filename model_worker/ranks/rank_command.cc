#include "model_worker/ranks/rank_command.h"

#include <cstring>
#include <type_traits>

namespace engram {
namespace {

// Numbers stand as they are in memory: the ranks are processes of one program on one kind of
// machine.
class Writer {
 public:
  explicit Writer(std::vector<std::byte>* out) : out_(out) { out_->clear(); }
  template <typename T>
  void Put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out_->insert(out_->end(), bytes.begin(), bytes.end());
  }
  template <typename T>
  void PutAll(std::span<const T> values) {
    Put(static_cast<uint32_t>(values.size()));
    const auto bytes = std::as_bytes(values);
    out_->insert(out_->end(), bytes.begin(), bytes.end());
  }

 private:
  std::vector<std::byte>* out_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  T Get() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    Take(sizeof(T), &value);
    return value;
  }
  // A bool is one of two bytes.
  bool GetBool() {
    const auto byte = Get<uint8_t>();
    ok_ = ok_ && byte <= 1;
    return byte == 1;
  }
  // How many things follow, each of at least `bytes_each`.
  uint32_t GetCount(size_t bytes_each) {
    const auto count = Get<uint32_t>();
    if (!ok_ || count > bytes_.size() / bytes_each) {
      ok_ = false;
      return 0;
    }
    return count;
  }
  // Appends to *out.
  template <typename T>
  uint32_t GetAll(std::vector<T>* out) {
    const uint32_t count = GetCount(sizeof(T));
    const size_t begin = out->size();
    out->resize(begin + count);
    Take(count * sizeof(T), out->data() + begin);
    return count;
  }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool at_end() const { return ok_ && bytes_.empty(); }

 private:
  void Take(size_t count, void* out) {
    if (!ok_ || count > bytes_.size()) {
      ok_ = false;
      return;
    }
    if (count != 0) std::memcpy(out, bytes_.data(), count);
    bytes_ = bytes_.subspan(count);
  }

  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

// Lengths of what `runs` and `steps` are, until all of `tokens` and `dead` are there to point into.
struct RunLengths {
  uint32_t history = 0, tokens = 0, history_dead = 0, tokens_dead = 0;
};

void DecodeRuns(Reader* reader, RankCommand* out) {
  std::vector<RunLengths> lengths;
  const uint32_t count = reader->GetCount(4 * sizeof(uint32_t));
  for (uint32_t i = 0; i < count && reader->ok(); ++i) {
    RunLengths& run = lengths.emplace_back();
    run.history = reader->GetAll(&out->tokens);
    run.tokens = reader->GetAll(&out->tokens);
    run.history_dead = reader->GetAll(&out->dead);
    run.tokens_dead = reader->GetAll(&out->dead);
  }
  std::span<const TokenId> tokens(out->tokens);
  std::span<const uint8_t> dead(out->dead);
  const auto take = [](auto* from, uint32_t n) {
    const auto taken = from->first(n);
    *from = from->subspan(n);
    return taken;
  };
  for (const RunLengths& length : lengths) {
    TokenRun& run = out->runs.emplace_back();
    run.history = take(&tokens, length.history);
    run.tokens = take(&tokens, length.tokens);
    run.history_dead = take(&dead, length.history_dead);
    run.tokens_dead = take(&dead, length.tokens_dead);
  }
}

void DecodeSteps(Reader* reader, RankCommand* out) {
  std::vector<uint32_t> lengths;
  const uint32_t count = reader->GetCount(2 * sizeof(uint32_t) + 1 + sizeof(uint32_t));
  for (uint32_t i = 0; i < count && reader->ok(); ++i) {
    SequenceStep& step = out->steps.emplace_back();
    step.slot = SequenceSlot(reader->Get<uint32_t>());
    step.position = reader->Get<uint32_t>();
    step.logits_wanted = reader->GetBool();
    lengths.push_back(reader->GetAll(&out->tokens));
  }
  size_t at = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    out->steps[i].tokens = std::span<const TokenId>(out->tokens).subspan(at, lengths[i]);
    at += lengths[i];
  }
}

void DecodePieces(Reader* reader, RankCommand* out) {
  const uint32_t count = reader->GetCount(sizeof(uint64_t) + 2 * sizeof(uint32_t));
  for (uint32_t i = 0; i < count && reader->ok(); ++i) {
    RowPiece& piece = out->pieces.emplace_back();
    piece.ticket = Ticket(reader->Get<uint64_t>());
    piece.first_token = reader->Get<uint32_t>();
    piece.token_count = reader->Get<uint32_t>();
  }
}

}  // namespace

void EncodePrefetch(Ticket ticket, uint32_t source, const BatchOptions& batch,
                    std::span<const TokenRun> runs, std::vector<std::byte>* out) {
  Writer writer(out);
  writer.Put(RankCommandKind::kPrefetch);
  writer.Put(ticket.value());
  writer.Put(source);
  writer.Put(static_cast<int64_t>(batch.deadline.count()));
  writer.Put(static_cast<uint8_t>(batch.striped ? 1 : 0));
  writer.Put(static_cast<uint32_t>(runs.size()));
  for (const TokenRun& run : runs) {
    writer.PutAll(run.history);
    writer.PutAll(run.tokens);
    writer.PutAll(run.history_dead);
    writer.PutAll(run.tokens_dead);
  }
}

void EncodeRelease(Ticket ticket, std::vector<std::byte>* out) {
  Writer writer(out);
  writer.Put(RankCommandKind::kRelease);
  writer.Put(ticket.value());
}

void EncodeResetSlot(SequenceSlot slot, std::vector<std::byte>* out) {
  Writer writer(out);
  writer.Put(RankCommandKind::kResetSlot);
  writer.Put(slot.value());
}

void EncodeForward(std::span<const SequenceStep> steps, bool engram_on,
                   std::span<const RowPiece> pieces, std::vector<std::byte>* out) {
  Writer writer(out);
  writer.Put(RankCommandKind::kForward);
  writer.Put(static_cast<uint8_t>(engram_on ? 1 : 0));
  writer.Put(static_cast<uint32_t>(steps.size()));
  for (const SequenceStep& step : steps) {
    writer.Put(step.slot.value());
    writer.Put(step.position);
    writer.Put(static_cast<uint8_t>(step.logits_wanted ? 1 : 0));
    writer.PutAll(step.tokens);
  }
  writer.Put(static_cast<uint32_t>(pieces.size()));
  for (const RowPiece& piece : pieces) {
    writer.Put(piece.ticket.value());
    writer.Put(piece.first_token);
    writer.Put(piece.token_count);
  }
}

void EncodePlain(RankCommandKind kind, std::vector<std::byte>* out) { Writer(out).Put(kind); }

Status DecodeRankCommand(std::span<const std::byte> message, RankCommand* out) {
  out->runs.clear();
  out->steps.clear();
  out->pieces.clear();
  out->tokens.clear();
  out->dead.clear();
  Reader reader(message);
  const auto kind = reader.Get<uint8_t>();
  if (reader.ok() && kind <= static_cast<uint8_t>(RankCommandKind::kStop)) {
    out->kind = static_cast<RankCommandKind>(kind);
    switch (out->kind) {
      case RankCommandKind::kPrefetch:
        out->ticket = Ticket(reader.Get<uint64_t>());
        out->source = reader.Get<uint32_t>();
        out->batch.deadline = std::chrono::milliseconds(reader.Get<int64_t>());
        out->batch.striped = reader.GetBool();
        DecodeRuns(&reader, out);
        break;
      case RankCommandKind::kRelease:
        out->ticket = Ticket(reader.Get<uint64_t>());
        break;
      case RankCommandKind::kResetSlot:
        out->slot = SequenceSlot(reader.Get<uint32_t>());
        break;
      case RankCommandKind::kForward:
        out->engram_on = reader.GetBool();
        DecodeSteps(&reader, out);
        DecodePieces(&reader, out);
        break;
      case RankCommandKind::kTellFigures:
      case RankCommandKind::kStop:
        break;
    }
    if (reader.at_end()) return {};
  }
  return {StatusCode::kMalformed,
          "a message of " + std::to_string(message.size()) +
              " bytes from rank 0 is no command: all ranks must run the same build"};
}

}  // namespace engram

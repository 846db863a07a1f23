// One-sided: the device reads the node's memory into registered slots, a window of rows at a time.
// As with mapped reads, the lease is checked after the rows came.
#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {

// Cards hand shorter answers to the processor, which cannot put them into a GPU's memory (UCX's
// min_zcopy of reads, 65 bytes with UCX_RC_TX_INLINE_RESP=64).
constexpr uint32_t kLandedStrideMin = 128;

}  // namespace

Result<std::unique_ptr<OneSidedWindow>> OneSidedWindow::Create(const UcxContext& context,
                                                               LandingMemory* landing,
                                                               uint32_t row_stride) {
  auto window = std::make_unique<OneSidedWindow>();
  if (landing != nullptr && row_stride < kLandedStrideMin) {
    return Error(StatusCode::kFailedPrecondition,
                 "rows of " + std::to_string(row_stride) +
                     " bytes are so short that the card would leave them to the processor");
  }
  const size_t block_bytes = size_t{kBlockRows} * row_stride;
  const size_t bytes = block_bytes * kBlocks;
  std::byte* rows = nullptr;
  if (landing != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(window->landed, landing->Allocate(bytes));
    rows = window->landed.get();
  } else {
    window->bytes = std::make_unique<std::byte[]>(bytes);
    rows = window->bytes.get();
  }
  ENGRAM_ASSIGN_OR_RETURN(window->memory, UcxMemory::Register(context, {rows, bytes}));
  for (size_t i = 0; i < window->blocks.size(); ++i) {
    window->blocks[i].rows = rows + i * block_bytes;
  }
  return window;
}

bool UcxRowReader::RunOneSided() {
  bool any = false;
  for (auto at = sessions_.begin(); at != sessions_.end(); ++at) {
    ReaderSession& session = *at->second;
    if (session.window == nullptr || session.end_with.has_value()) continue;
    any |= EndBlocks(session);
    any |= StartBlocks(session);
  }
  std::erase_if(ended_windows_, [this](const std::unique_ptr<OneSidedWindow>& window) {
    if (!window->idle()) return false;
    for (OneSidedWindow::Block& block : window->blocks) {
      if (block.read != nullptr) DropHold(*block.read);
    }
    for (PendingRead* const read : window->queue) DropHold(*read);
    return true;
  });
  return any;
}

bool UcxRowReader::OneSidedHasWork() const {
  for (const auto& [id, session] : sessions_) {
    if (session->window == nullptr || session->end_with.has_value()) continue;
    const OneSidedWindow& window = *session->window;
    const OneSidedWindow::Block& oldest = window.blocks[window.oldest];
    if (oldest.read != nullptr && oldest.outstanding == 0) return true;
    if (window.queue.empty()) continue;
    for (const OneSidedWindow::Block& block : window.blocks) {
      if (block.read == nullptr) return true;
    }
  }
  return false;
}

// Delivers the blocks that are complete, oldest first.
bool UcxRowReader::EndBlocks(ReaderSession& session) {
  OneSidedWindow& window = *session.window;
  bool any = false;
  while (true) {
    OneSidedWindow::Block& block = window.blocks[window.oldest];
    if (block.read == nullptr || block.outstanding > 0) return any;
    any = true;
    PendingRead& read = *block.read;
    block.read = nullptr;
    window.oldest = (window.oldest + 1) % OneSidedWindow::kBlocks;
    // A read that has ended or fell back to gather takes no more from here.
    if (read.session != nullptr && !read.awaits_reply && block.first < read.next) {
      if (block.failed || !session.lease.ValidAt(std::chrono::steady_clock::now())) {
        [[maybe_unused]] const bool sent = SendGather(read, block.first);  // else the session ends
      } else {
        const bool last = block.first + block.count == read.rows.size();
        Deliver(read, {block.first, block.count, block.rows, nullptr, window.landed != nullptr});
        if (last && read.session != nullptr) FinishRead(read, StatusCode::kOk);
      }
    }
    DropHold(read);
    if (session.end_with.has_value()) return any;
  }
}

bool UcxRowReader::StartBlocks(ReaderSession& session) {
  OneSidedWindow& window = *session.window;
  bool any = false;
  for (uint32_t i = 0; i < OneSidedWindow::kBlocks && !window.queue.empty(); ++i) {
    OneSidedWindow::Block& block = window.blocks[(window.oldest + i) % OneSidedWindow::kBlocks];
    if (block.read != nullptr) continue;
    PendingRead& read = *window.queue.front();
    const bool wanted = read.session != nullptr && !read.awaits_reply;
    const bool more = wanted && StartBlock(session, read, block);
    any = true;
    if (!more) {
      window.queue.erase(window.queue.begin());
      DropHold(read);
    }
    if (session.end_with.has_value()) return any;
  }
  return any;
}

// Asks for the read's next rows. True while it has more.
bool UcxRowReader::StartBlock(ReaderSession& session, PendingRead& read,
                              OneSidedWindow::Block& block) {
  const uint32_t stride = session.target.row_stride;
  const auto row_count = static_cast<uint32_t>(read.rows.size());
  const uint32_t count = std::min(OneSidedWindow::kBlockRows, row_count - read.next);
  bool possible = session.memory.can_read_one_sided() &&
                  session.lease.ValidAt(std::chrono::steady_clock::now());
  for (uint32_t i = 0; i < count && possible; ++i) {
    possible = session.memory.FindRemote(read.rows[read.next + i]).key != nullptr;
  }
  if (!possible) {
    // What earlier blocks still bring comes from them: gather the rest only after them.
    for (const OneSidedWindow::Block& other : session.window->blocks) {
      if (other.read == &read) return true;
    }
    [[maybe_unused]] const bool sent = SendGather(read, read.next);  // else the session ends
    return false;
  }
  block.read = &read;
  block.first = read.next;
  block.count = count;
  block.failed = false;
  block.directory = session.memory.generation();
  ++read.holds;
  for (uint32_t i = 0; i < count; ++i) {
    const RemoteRow row = session.memory.FindRemote(read.rows[read.next + i]);
    const UcxStarted started = session.one_sided_endpoint->Get(
        *row.key, row.address, block.rows + uint64_t{i} * stride, stride, &block);
    if (started == UcxStarted::kPending) ++block.outstanding;
    if (started == UcxStarted::kFailed) block.failed = true;
  }
  read.next += count;
  return read.next < row_count;
}

}  // namespace engram

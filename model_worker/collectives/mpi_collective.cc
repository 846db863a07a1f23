#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include <mpi.h>
#include <sched.h>

#include "engram/base/check.h"
#include "engram/base/clock.h"
#include "model_worker/collectives/mpi_ranks.h"

namespace engram {
namespace {

// MPI counts in int.
constexpr size_t kPieceBytes = size_t{256} << 20;
// Values that are added before the next ones travel: they stay in the cache.
constexpr size_t kReduceFloats = size_t{1} << 20;
constexpr int kTagReduce = 1;
constexpr int kTagGather = 2;
constexpr int kTagMessage = 3;

// What a wait does after each look. Threads that compute may have no core to spare: with more ranks
// than cores the one that is waited for needs this one's.
class Backoff {
 public:
  explicit Backoff(std::chrono::microseconds sleep_max) : sleep_max_(sleep_max) {}
  void Pause() {
    constexpr int kSpins = 200;
    constexpr int kYields = 200;
    ++looks_;
    if (looks_ <= kSpins) return;
    if (looks_ <= kSpins + kYields) {
      (void)sched_yield();
      return;
    }
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min(2 * sleep_, sleep_max_);
  }

 private:
  const std::chrono::microseconds sleep_max_;
  std::chrono::microseconds sleep_{20};
  int looks_ = 0;
};

constexpr std::chrono::microseconds kSleepInStep{100};
constexpr std::chrono::microseconds kSleepIdle{1000};

Status FromMpi(int error, const char* what) {
  if (error == MPI_SUCCESS) return {};
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  (void)MPI_Error_string(error, text, &length);
  return {StatusCode::kInternal, std::string("MPI, ") + what + ": " + text};
}

#define ENGRAM_MPI_TRY(expr, what) ENGRAM_RETURN_IF_ERROR(FromMpi((expr), (what)))

class MpiCollective final : public Collective {
 public:
  explicit MpiCollective(MPI_Comm ranks) : ranks_(ranks) {
    (void)MPI_Comm_rank(ranks_, &rank_);
    (void)MPI_Comm_size(ranks_, &count_);
  }
  ~MpiCollective() override {
    (void)MPI_Comm_free(&ranks_);
    (void)MPI_Finalize();
  }

  [[nodiscard]] uint32_t rank() const override { return static_cast<uint32_t>(rank_); }
  [[nodiscard]] uint32_t rank_count() const override { return static_cast<uint32_t>(count_); }

  [[nodiscard]] Status AllReduce(std::span<float> values) override {
    const MonotonicTime began = SteadyClock().Now();
    for (size_t at = 0; at < values.size(); at += kReduceFloats) {
      ENGRAM_RETURN_IF_ERROR(
          ReducePiece(values.subspan(at, std::min(kReduceFloats, values.size() - at))));
    }
    ++stats_.reduces;
    stats_.reduce_bytes += values.size_bytes();
    stats_.reduce_ns += Since(began);
    return {};
  }

  [[nodiscard]] Status AllGather(std::span<const std::span<std::byte>> blocks) override {
    ENGRAM_CHECK(blocks.size() == rank_count());
    const MonotonicTime began = SteadyClock().Now();
    for (int other = 0; other < count_; ++other) {
      if (other == rank_) continue;
      ENGRAM_RETURN_IF_ERROR(Expect(blocks[static_cast<size_t>(other)], other, kTagGather));
    }
    for (int step = 1; step < count_; ++step) {
      // Not all to the same rank at once.
      ENGRAM_RETURN_IF_ERROR(Post(blocks[rank()], (rank_ + step) % count_, kTagGather));
    }
    ENGRAM_RETURN_IF_ERROR(Finish("an all-gather"));
    CountGather(blocks, began);
    return {};
  }

  [[nodiscard]] Status Gather(std::span<const std::span<std::byte>> blocks) override {
    ENGRAM_CHECK(blocks.size() == rank_count());
    const MonotonicTime began = SteadyClock().Now();
    if (rank_ == 0) {
      for (int other = 1; other < count_; ++other) {
        ENGRAM_RETURN_IF_ERROR(Expect(blocks[static_cast<size_t>(other)], other, kTagGather));
      }
    } else {
      ENGRAM_RETURN_IF_ERROR(Post(blocks[rank()], 0, kTagGather));
    }
    ENGRAM_RETURN_IF_ERROR(Finish("a gather"));
    CountGather(blocks, began);
    return {};
  }

  [[nodiscard]] Status Send(std::span<const std::byte> message) override {
    ENGRAM_CHECK(rank_ == 0 && message.size() <= kMessageBytesMax);
    for (int other = 1; other < count_; ++other) {
      ENGRAM_RETURN_IF_ERROR(PostPiece(message, other, kTagMessage));
    }
    return Finish("a message to the other ranks");
  }

  [[nodiscard]] Status Receive(std::vector<std::byte>* message) override {
    ENGRAM_CHECK(rank_ != 0);
    MPI_Message found = MPI_MESSAGE_NULL;
    MPI_Status envelope;
    Backoff backoff(kSleepIdle);
    for (int ready = 0; ready == 0;) {
      ENGRAM_MPI_TRY(MPI_Improbe(0, kTagMessage, ranks_, &ready, &found, &envelope),
                     "waiting for rank 0");
      if (ready == 0) backoff.Pause();
    }
    int bytes = 0;
    ENGRAM_MPI_TRY(MPI_Get_count(&envelope, MPI_BYTE, &bytes), "a message's size");
    message->resize(static_cast<size_t>(bytes));
    requests_.emplace_back();
    ENGRAM_MPI_TRY(MPI_Imrecv(message->data(), bytes, MPI_BYTE, &found, &requests_.back()),
                   "receiving a message");
    return Finish("a message of rank 0");
  }

  void SetPatience(std::chrono::milliseconds patience) override { patience_ = patience; }
  [[nodiscard]] CollectiveStats stats() const override { return stats_; }

  [[noreturn]] void Abort(const Status& why) override {
    std::fflush(stdout);
    std::fprintf(stderr, "engram-model-worker: rank %d of %d ends all ranks: %s\n", rank_, count_,
                 why.ToString().c_str());
    std::fflush(stderr);
    (void)MPI_Abort(ranks_, 1);
    std::_Exit(1);
  }

 private:
  static uint64_t Since(MonotonicTime began) {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock().Now() - began).count());
  }
  void CountGather(std::span<const std::span<std::byte>> blocks, MonotonicTime began) {
    ++stats_.gathers;
    for (const std::span<std::byte> block : blocks) stats_.gather_bytes += block.size();
    stats_.gather_ns += Since(began);
  }

  // Recursive doubling: ranks whose numbers differ in one bit exchange their sums, the lowest bit
  // first. MPI_Allreduce would be free to add in another order for another size or number of ranks.
  [[nodiscard]] Status ReducePiece(std::span<float> values) {
    if (received_.size() < values.size()) received_.resize(values.size());
    const std::span<float> received = std::span(received_).first(values.size());
    for (int bit = 1; bit < count_; bit *= 2) {
      const int partner = rank_ ^ bit;
      ENGRAM_RETURN_IF_ERROR(Expect(std::as_writable_bytes(received), partner, kTagReduce));
      ENGRAM_RETURN_IF_ERROR(Post(std::as_bytes(values), partner, kTagReduce));
      ENGRAM_RETURN_IF_ERROR(Finish("an all-reduce"));
      // a + b is b + a to the bit: both partners get the same.
      for (size_t i = 0; i < values.size(); ++i) values[i] += received[i];
    }
    return {};
  }

  [[nodiscard]] Status Post(std::span<const std::byte> bytes, int to, int tag) {
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
      ENGRAM_RETURN_IF_ERROR(
          PostPiece(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at)), to, tag));
    }
    return {};
  }
  [[nodiscard]] Status PostPiece(std::span<const std::byte> bytes, int to, int tag) {
    requests_.emplace_back();
    return FromMpi(MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, to, tag,
                             ranks_, &requests_.back()),
                   "sending");
  }
  [[nodiscard]] Status Expect(std::span<std::byte> bytes, int from, int tag) {
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
      const auto piece = bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at));
      requests_.emplace_back();
      ENGRAM_MPI_TRY(MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, from, tag,
                               ranks_, &requests_.back()),
                     "receiving");
    }
    return {};
  }

  // Waits for everything that was posted.
  [[nodiscard]] Status Finish(const char* what) {
    Backoff backoff(kSleepInStep);
    const MonotonicTime began = SteadyClock().Now();
    for (int done = 0; done == 0;) {
      ENGRAM_MPI_TRY(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done,
                                 MPI_STATUSES_IGNORE),
                     what);
      if (done != 0) break;
      backoff.Pause();
      if (patience_ != std::chrono::milliseconds{} && SteadyClock().Now() - began > patience_) {
        return {StatusCode::kDeadlineExceeded,
                "waited " + std::to_string(patience_.count()) + " ms for the other ranks in " +
                    what + ": one of them is lost, stopped or far too slow (--rank-timeout-s)"};
      }
    }
    requests_.clear();
    return {};
  }

  MPI_Comm ranks_;
  int rank_ = 0;
  int count_ = 1;
  std::chrono::milliseconds patience_{};
  std::vector<MPI_Request> requests_;  // in flight
  std::vector<float> received_;
  CollectiveStats stats_;
};

}  // namespace

Result<std::unique_ptr<Collective>> JoinMpiRanks() {
  int level = MPI_THREAD_SINGLE;
  ENGRAM_TRY(FromMpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level), "starting"));
  if (level < MPI_THREAD_SERIALIZED) {
    return Error(StatusCode::kInternal,
                 "this MPI takes calls from one thread only; MPI_THREAD_SERIALIZED is needed");
  }
  // Of our own, so that errors come back and other users of MPI in the process do not meet us.
  MPI_Comm ranks = MPI_COMM_NULL;
  ENGRAM_TRY(FromMpi(MPI_Comm_dup(MPI_COMM_WORLD, &ranks), "making a communicator"));
  ENGRAM_TRY(FromMpi(MPI_Comm_set_errhandler(ranks, MPI_ERRORS_RETURN), "setting up"));
  return std::make_unique<MpiCollective>(ranks);
}

}  // namespace engram

// What the ranks of one model say to each other while they compute a step together.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engram/base/status.h"

namespace engram {

// Monotonic counters of one rank.
struct CollectiveStats {
  uint64_t reduces = 0;       // AllReduce
  uint64_t reduce_bytes = 0;  // of the values, once each
  uint64_t reduce_ns = 0;     // inside AllReduce, waiting for the other ranks included
  uint64_t gathers = 0;       // AllGather and Gather
  uint64_t gather_bytes = 0;  // of all ranks' blocks
  uint64_t gather_ns = 0;
};

// The ranks of one model. Every rank calls the same methods in the same order with the same sizes,
// or they wait for each other in vain: until their patience ends.
//
// THREADS: one thread at a time calls; it may be another one each time.
// ERRORS: of every method kPeerLost and kDeadlineExceeded (another rank is lost, or silent for
// longer than SetPatience said), kInternal (the library's words). After an error nothing is known
// of where the others are: Abort.
class Collective {
 public:
  // Of one Send.
  static constexpr size_t kMessageBytesMax = size_t{64} << 20;

  virtual ~Collective() = default;

  [[nodiscard]] virtual uint32_t rank() const = 0;
  [[nodiscard]] virtual uint32_t rank_count() const = 0;

  // Adds the values of all ranks, place by place, in place. The order of the sum is fixed: first
  // ranks 2i and 2i + 1, then those sums in pairs, and so on, so that every rank has the same bits,
  // and one rank that adds the same parts in this order has them too. Precondition: rank_count() is
  // a power of two.
  [[nodiscard]] virtual Status AllReduce(std::span<float> values) = 0;

  // blocks[r] is rank r's: the caller's own is read, the others' are written. Lengths may differ
  // and be 0; every rank gives the same ones.
  [[nodiscard]] virtual Status AllGather(std::span<const std::span<std::byte>> blocks) = 0;
  // The same, but only rank 0's blocks of others are written; elsewhere only their own is looked
  // at.
  [[nodiscard]] virtual Status Gather(std::span<const std::span<std::byte>> blocks) = 0;

  // Rank 0: to every other rank, which takes messages in their order. Returns when `message` may
  // change.
  [[nodiscard]] virtual Status Send(std::span<const std::byte> message) = 0;
  // The others: waits for rank 0's next message, for ever if need be, without keeping a core busy.
  [[nodiscard]] virtual Status Receive(std::vector<std::byte>* message) = 0;

  // How long a method may wait for other ranks, but Receive. 0 = for ever.
  virtual void SetPatience(std::chrono::milliseconds patience) = 0;

  [[nodiscard]] virtual CollectiveStats stats() const = 0;

  // Ends every rank's process with a message that names this rank and says why.
  [[noreturn]] virtual void Abort(const Status& why) = 0;
};

}  // namespace engram

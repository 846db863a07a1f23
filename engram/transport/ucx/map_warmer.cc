#include "engram/transport/ucx/map_warmer.h"

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>
#include <sys/mman.h>

namespace engram {
namespace {
// A few milliseconds: other work of the thread goes between.
constexpr size_t kPieceBytes = 16u << 20;
}  // namespace

void WarmMap(boost::asio::io_context& io, std::shared_ptr<std::atomic<bool>> mapped,
             std::span<const std::byte> map) {
  boost::asio::post(io, [&io, mapped = std::move(mapped), map] {
    if (map.empty() || !*mapped) return;
    const size_t bytes = std::min(kPieceBytes, map.size());
#ifdef MADV_POPULATE_READ
    // A map starts on a page, and so does each piece.
    void* const first = const_cast<std::byte*>(map.data());
    if (::madvise(first, bytes, MADV_POPULATE_READ) != 0) return;  // an older kernel, or gone
    WarmMap(io, mapped, map.subspan(bytes));
#endif
  });
}

}  // namespace engram

// One control connection: frames in, frames out, both bounded in time and bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engram/base/status.h"
#include "engram/rpc/byte_stream.h"
#include "engram/rpc/frame.h"

namespace engram {

struct FrameLimits {
  uint32_t frame_bytes_max = 64u << 20;       // of one that comes
  uint32_t sent_frame_bytes_max = 64u << 20;  // of one that is sent
  // Queued and not yet taken by the system: where it is more, no further frame is.
  uint64_t write_queue_bytes_max = 128u << 20;
  // While more than this is queued nothing is read: who takes no replies asks no more either. Not
  // for both sides of a connection, which might wait for each other. 0 = read on.
  uint64_t pause_reading_bytes = 0;
  // A frame must be whole this long after its first byte; the first frame after connecting too.
  std::chrono::milliseconds frame_timeout{30'000};
  // The peer must take some bytes of a write within this time.
  std::chrono::milliseconds write_timeout{30'000};
  bool expect_first_frame = false;  // the side that is called: a silent peer is closed
  // Called when a frame that is coming has needed more memory (coming_bytes). May close any
  // connection. Null = nobody asks.
  std::function<void()> on_growth = nullptr;
};

// Everything runs on the socket's executor (a strand or a single-threaded io_context). Owned by
// shared_ptr: its coroutines keep it until Close.
class FrameConnection : public std::enable_shared_from_this<FrameConnection> {
 public:
  // Its handshake is done.
  FrameConnection(ByteStream stream, const FrameLimits& limits);

  // The next frame. One caller at a time.
  // ERRORS: the reason why the connection ended; it is closed then.
  [[nodiscard]] boost::asio::awaitable<Result<proto::Frame>> Receive();

  // Queues one frame. ERRORS: kResourceExhausted (too long, or the queue is full), kPeerLost
  // (closed). Nothing was queued then.
  [[nodiscard]] Status Send(const proto::Frame& frame);

  // Those of ByteStream.
  [[nodiscard]] Status CheckPeer() { return stream_.CheckPeer(); }
  // That of FrameDecoder.
  [[nodiscard]] size_t coming_bytes() const { return decoder_.coming_bytes(); }

  // Ends both directions; the first reason is kept.
  void Close(Status reason);
  [[nodiscard]] bool closed() const { return closed_; }
  [[nodiscard]] const Status& close_reason() const { return close_reason_; }
  [[nodiscard]] const std::string& peer_address() const { return peer_address_; }

 private:
  boost::asio::awaitable<void> WriteQueued();
  void StartDeadline(boost::asio::steady_timer& timer, std::chrono::milliseconds after,
                     const char* reason);
  void UpdateReadDeadline();

  ByteStream stream_;
  FrameLimits limits_;
  FrameDecoder decoder_;
  std::string peer_address_;
  boost::asio::steady_timer read_deadline_;
  boost::asio::steady_timer write_deadline_;
  boost::asio::steady_timer resume_reading_;  // cancelled = look again
  bool read_deadline_running_ = false;
  bool first_frame_came_ = false;
  std::string queued_;
  std::string writing_;
  bool writer_running_ = false;
  bool closed_ = false;
  Status close_reason_;
};

}  // namespace engram

#include "engram/rpc/frame_connection.h"

#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "engram/rpc/host_port.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::system::error_code;

Status ReadError(const error_code& error, bool mid_frame) {
  if (error == boost::asio::error::eof) {
    return Status(StatusCode::kPeerLost, mid_frame ? "the peer closed the connection within a frame"
                                                   : "the peer closed the connection");
  }
  // A client's handshake is over before the server has looked at its certificate.
  if (error.category() == boost::asio::error::get_ssl_category()) return TlsFailure(error);
  return Status(StatusCode::kPeerLost, "the connection broke: " + error.message());
}

}  // namespace

FrameConnection::FrameConnection(ByteStream stream, const FrameLimits& limits)
    : stream_(std::move(stream)),
      limits_(limits),
      decoder_(limits.frame_bytes_max),
      read_deadline_(stream_.socket().get_executor()),
      write_deadline_(stream_.socket().get_executor()),
      resume_reading_(stream_.socket().get_executor(),
                      boost::asio::steady_timer::time_point::max()) {
  SetConnectionOptions(stream_.socket());
  error_code error;
  const auto endpoint = stream_.socket().remote_endpoint(error);
  peer_address_ = error ? std::string("unknown") : EndpointText(endpoint);
}

void FrameConnection::StartDeadline(boost::asio::steady_timer& timer,
                                    std::chrono::milliseconds after, const char* reason) {
  timer.expires_after(after);
  timer.async_wait([weak = weak_from_this(), reason, after](const error_code& error) {
    if (error) return;
    if (const auto self = weak.lock()) {
      self->Close(Status(StatusCode::kDeadlineExceeded,
                         std::string(reason) + " within " + std::to_string(after.count()) + " ms"));
    }
  });
}

void FrameConnection::UpdateReadDeadline() {
  const bool wanted = decoder_.mid_frame() || (limits_.expect_first_frame && !first_frame_came_);
  if (wanted && !read_deadline_running_) {
    StartDeadline(read_deadline_, limits_.frame_timeout, "the peer did not send a whole frame");
  } else if (!wanted && read_deadline_running_) {
    read_deadline_.cancel();
  }
  read_deadline_running_ = wanted;
}

awaitable<Result<proto::Frame>> FrameConnection::Receive() {
  const auto self = shared_from_this();
  while (!closed_ && limits_.pause_reading_bytes > 0 &&
         queued_.size() + writing_.size() > limits_.pause_reading_bytes) {
    error_code ignored;
    co_await resume_reading_.async_wait(
        boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
  }
  while (!closed_) {
    auto next = decoder_.Next();
    if (!next.has_value()) {
      Close(next.error());
      break;
    }
    if (next->has_value()) {
      first_frame_came_ = true;
      // Whatever follows is another frame, with its own time.
      if (std::exchange(read_deadline_running_, false)) read_deadline_.cancel();
      co_return std::move(**next);
    }
    UpdateReadDeadline();
    const size_t before = decoder_.coming_bytes();
    const std::span<char> room = decoder_.Prepare();
    if (limits_.on_growth && decoder_.coming_bytes() > before) limits_.on_growth();
    if (closed_) break;
    error_code error;
    const size_t count =
        co_await stream_.ReadSome(boost::asio::buffer(room.data(), room.size()), &error);
    if (error) {
      Close(ReadError(error, decoder_.mid_frame()));
      break;
    }
    decoder_.Commit(count);
  }
  co_return Error(close_reason_);
}

Status FrameConnection::Send(const proto::Frame& frame) {
  if (closed_) return Status(StatusCode::kPeerLost, close_reason_.message());
  const uint64_t waiting = queued_.size() + writing_.size();
  if (waiting > limits_.write_queue_bytes_max) {
    return Status(StatusCode::kResourceExhausted,
                  std::to_string(waiting) + " bytes wait for " + peer_address_ +
                      " to read them; the bound is " +
                      std::to_string(limits_.write_queue_bytes_max) + " (write_queue_bytes_max)");
  }
  ENGRAM_RETURN_IF_ERROR(AppendFrame(frame, limits_.sent_frame_bytes_max, &queued_));
  if (!writer_running_) {
    writer_running_ = true;
    boost::asio::co_spawn(
        stream_.socket().get_executor(),
        [self = shared_from_this()]() -> awaitable<void> { co_await self->WriteQueued(); },
        boost::asio::detached);
  }
  return Status();
}

awaitable<void> FrameConnection::WriteQueued() {
  while (!closed_ && !queued_.empty()) {
    writing_.swap(queued_);
    queued_.clear();
    size_t written = 0;
    while (!closed_ && written < writing_.size()) {
      StartDeadline(write_deadline_, limits_.write_timeout, "the peer did not read");
      error_code error;
      written += co_await stream_.WriteSome(
          boost::asio::buffer(writing_.data() + written, writing_.size() - written), &error);
      write_deadline_.cancel();
      if (error) {
        Close(Status(StatusCode::kPeerLost, "the connection broke: " + error.message()));
      }
    }
    writing_.clear();
    resume_reading_.cancel();
  }
  writer_running_ = false;
}

void FrameConnection::Close(Status reason) {
  if (closed_) return;
  closed_ = true;
  close_reason_ = std::move(reason);
  read_deadline_.cancel();
  write_deadline_.cancel();
  resume_reading_.cancel();
  stream_.Close();
  queued_.clear();
}

}  // namespace engram

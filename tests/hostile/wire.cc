#include "tests/hostile/wire.h"

#include <algorithm>
#include <cstring>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engram/rpc/host_port.h"

namespace engram::test {

std::unique_ptr<Wire> Wire::Connect(const std::string& address) { return Connect(address, {}); }

std::unique_ptr<Wire> Wire::Connect(const std::string& address, const Options& options) {
  const auto host_port = ParseHostPort(address);
  if (!host_port.has_value()) return nullptr;
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(host_port->port);
  if (::inet_pton(AF_INET, host_port->host.c_str(), &where.sin_addr) != 1) return nullptr;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return nullptr;
  std::unique_ptr<Wire> wire(new Wire(fd));
  wire->SetPatience(options.patience);
  wire->reset_ = options.reset;
  const int at_once = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof(at_once));
  if (options.receive_buffer_bytes > 0) {
    (void)::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &options.receive_buffer_bytes,
                       sizeof(options.receive_buffer_bytes));
  }
  if (!options.source.empty()) {
    sockaddr_in from{};
    from.sin_family = AF_INET;
    if (::inet_pton(AF_INET, options.source.c_str(), &from.sin_addr) != 1) return nullptr;
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof(from)) != 0) return nullptr;
  }
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&where), sizeof(where)) != 0) return nullptr;
  if (options.tls && !wire->StartTls(options)) return nullptr;
  return wire;
}

bool Wire::StartTls(const Options& options) {
  SSL_CTX* context = nullptr;
  if (options.identity != nullptr) {
    const auto shared = options.identity->Context();
    context = shared->native_handle();
    context_ = shared;
  } else {
    context = SSL_CTX_new(TLS_client_method());
    context_ =
        std::shared_ptr<void>(context, [](void* c) { SSL_CTX_free(static_cast<SSL_CTX*>(c)); });
  }
  ssl_ = SSL_new(context);
  if (options.identity == nullptr) SSL_set_verify(ssl_, SSL_VERIFY_NONE, nullptr);
  if (options.tls_version_max != 0) {
    (void)SSL_set_min_proto_version(ssl_, 0);
    (void)SSL_set_max_proto_version(ssl_, options.tls_version_max);
  }
  (void)SSL_set_fd(ssl_, fd_);
  return SSL_connect(ssl_) == 1;
}

Wire::~Wire() {
  SSL_free(ssl_);
  if (reset_) {
    const linger at_once{1, 0};
    (void)::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  }
  ::close(fd_);
}

void Wire::SetPatience(std::chrono::milliseconds patience) const {
  const timeval time{static_cast<time_t>(patience.count() / 1000),
                     static_cast<suseconds_t>(patience.count() % 1000 * 1000)};
  (void)::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  (void)::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

bool Wire::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ssl_ != nullptr
                             ? SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                             : ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

std::string Wire::Receive() {
  std::string bytes(64 << 10, '\0');
  const ssize_t came = ssl_ != nullptr
                           ? SSL_read(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                           : ::recv(fd_, bytes.data(), bytes.size(), 0);
  bytes.resize(came <= 0 ? 0 : static_cast<size_t>(came));
  return bytes;
}

bool Wire::ClosedWithin(std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd poll{fd_, POLLIN, 0};
    if (::poll(&poll, 1, static_cast<int>(std::max<int64_t>(0, left.count()))) <= 0) return false;
    char bytes[4096];
    if (::recv(fd_, bytes, sizeof(bytes), 0) <= 0) return true;
  }
}

std::string FrameBytes(uint32_t length, std::string_view bytes) {
  std::string frame;
  for (int shift = 0; shift < 32; shift += 8) {
    frame.push_back(static_cast<char>(length >> shift & 0xff));
  }
  return frame.append(bytes);
}

bool Wire::SendFrame(const proto::Frame& frame) {
  const std::string bytes = frame.SerializeAsString();
  return Send(FrameBytes(static_cast<uint32_t>(bytes.size()), bytes));
}

std::optional<proto::Frame> Wire::ReceiveFrame() {
  while (true) {
    uint32_t length = 0;
    if (frames_.size() >= sizeof(length)) {
      std::memcpy(&length, frames_.data(), sizeof(length));
      if (frames_.size() - sizeof(length) >= length) {
        proto::Frame frame;
        const bool good =
            frame.ParseFromArray(frames_.data() + sizeof(length), static_cast<int>(length));
        frames_.erase(0, sizeof(length) + length);
        if (!good) return std::nullopt;
        return frame;
      }
    }
    const std::string more = Receive();
    if (more.empty()) return std::nullopt;
    frames_ += more;
  }
}

}  // namespace engram::test

// A reader's control connection to one node: opens the session, fetches the slot directory, notices
// the node's end. Lives on the transport's control thread; what happens reaches the reader through
// its inbox.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include "engram/rpc/rpc_client.h"
#include "engram/transport/row_reader.h"
#include "engram/transport/ucx/event_wait.h"
#include "proto/session.pb.h"

namespace engram {

// Something that a reader should know. For one session: kOpened at most once, kDirectory any number
// of times, kClosed once and last.
struct ControlEvent {
  enum class Kind : uint8_t { kOpened, kDirectory, kClosed };
  Kind kind = Kind::kClosed;
  SessionId session;
  proto::OpenSessionReply opened;                     // kOpened
  std::optional<proto::GetDirectoryReply> directory;  // kDirectory; kOpened where one was fetched
  Status why;                                         // kClosed
};

// From control connections to one reader. Thread-safe.
class ControlInbox {
 public:
  explicit ControlInbox(std::shared_ptr<EventWait> wait) : wait_(std::move(wait)) {}
  void Put(ControlEvent event);
  // Empties the inbox into `events`, which was empty. False, at little cost, if nothing came.
  [[nodiscard]] bool TakeAll(std::vector<ControlEvent>& events);
  [[nodiscard]] bool empty() const { return !filled_.load(std::memory_order_acquire); }

 private:
  const std::shared_ptr<EventWait> wait_;
  std::atomic<bool> filled_{false};
  std::mutex mutex_;
  std::vector<ControlEvent> events_;  // guarded by mutex_
};

// Thread-safe. Ends by Close, or with the connection.
class ControlLink : public std::enable_shared_from_this<ControlLink> {
 public:
  struct Options {
    SessionId session;
    std::string address;
    proto::OpenSessionRequest request;
    bool want_directory = false;
    std::chrono::milliseconds timeout{};  // of each step
    ChannelSecurity security;
    // UcxTransportOptions::token_of for this node and version; null = no token.
    std::function<std::string()> token_of = nullptr;
  };
  [[nodiscard]] static std::shared_ptr<ControlLink> Open(boost::asio::io_context& io,
                                                         std::shared_ptr<ControlInbox> inbox,
                                                         Options options);
  // A kDirectory event follows, unless the connection ends first.
  void RefreshDirectory(uint64_t node_session);
  void Close();

 private:
  ControlLink(boost::asio::io_context& io, std::shared_ptr<ControlInbox> inbox, Options options)
      : io_(io), inbox_(std::move(inbox)), options_(std::move(options)) {}
  boost::asio::awaitable<void> Run();
  boost::asio::awaitable<Status> OpenSession();
  boost::asio::awaitable<Result<proto::GetDirectoryReply>> FetchDirectory(uint64_t node_session);
  // Shows newer tokens until the link is closed.
  boost::asio::awaitable<void> KeepRenewed(uint64_t node_session, std::chrono::milliseconds left,
                                           std::string shown);

  boost::asio::io_context& io_;
  const std::shared_ptr<ControlInbox> inbox_;
  const Options options_;
  // On the control thread only.
  std::shared_ptr<RpcClient> client_;
  bool closed_ = false;
};

}  // namespace engram

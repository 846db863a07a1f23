#include "engram/transport/ucx/control_link.h"

#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

// GCC 12 takes Asio's coroutine frames for memory of another allocator once they are inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace engram {

void ControlInbox::Put(ControlEvent event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    filled_.store(true, std::memory_order_release);
  }
  wait_->Notify();
}

bool ControlInbox::TakeAll(std::vector<ControlEvent>& events) {
  if (empty()) return false;
  const std::lock_guard lock(mutex_);
  events.swap(events_);
  filled_.store(false, std::memory_order_release);
  return true;
}

std::shared_ptr<ControlLink> ControlLink::Open(boost::asio::io_context& io,
                                               std::shared_ptr<ControlInbox> inbox,
                                               Options options) {
  std::shared_ptr<ControlLink> link(new ControlLink(io, std::move(inbox), std::move(options)));
  boost::asio::co_spawn(
      io, [link]() -> boost::asio::awaitable<void> { return link->Run(); },
      [](const std::exception_ptr&) {});
  return link;
}

boost::asio::awaitable<void> ControlLink::Run() {
  ControlEvent end;
  end.session = options_.session;
  try {
    end.why = co_await OpenSession();
    if (end.why.ok()) end.why = co_await client_->Closed();
  } catch (const std::exception& e) {
    end.why = Status(StatusCode::kInternal, std::string("control connection: ") + e.what());
  }
  if (end.why.ok()) end.why = Status(StatusCode::kPeerLost, "the control connection ended");
  if (client_ != nullptr) client_->Close();
  client_ = nullptr;
  closed_ = true;
  inbox_->Put(std::move(end));
}

boost::asio::awaitable<Status> ControlLink::OpenSession() {
  auto client = co_await RpcClient::Connect(io_.get_executor(), options_.address, options_.timeout,
                                            options_.security, Role::kNode);
  if (!client.has_value()) co_return client.error();
  client_ = *std::move(client);
  if (closed_) co_return Status(StatusCode::kCancelled, "closed by the reader");
  auto opened = co_await client_->Call<proto::OpenSessionReply>("session.Open", options_.request,
                                                                options_.timeout);
  if (!opened.has_value()) co_return opened.error();
  ControlEvent event;
  event.kind = ControlEvent::Kind::kOpened;
  event.session = options_.session;
  if (options_.want_directory && opened->lease_ms() > 0) {
    auto directory = co_await FetchDirectory(opened->session());
    if (!directory.has_value()) co_return directory.error();
    event.directory = *std::move(directory);
  }
  event.opened = *std::move(opened);
  inbox_->Put(std::move(event));
  co_return Status();
}

boost::asio::awaitable<Result<proto::GetDirectoryReply>> ControlLink::FetchDirectory(
    uint64_t node_session) {
  proto::GetDirectoryRequest request;
  request.set_session(node_session);
  co_return co_await client_->Call<proto::GetDirectoryReply>("session.GetDirectory", request,
                                                             options_.timeout);
}

void ControlLink::RefreshDirectory(uint64_t node_session) {
  boost::asio::co_spawn(
      io_,
      [link = shared_from_this(), node_session]() -> boost::asio::awaitable<void> {
        if (link->closed_ || link->client_ == nullptr) co_return;
        auto directory = co_await link->FetchDirectory(node_session);
        if (!directory.has_value() || link->closed_) co_return;
        ControlEvent event;
        event.kind = ControlEvent::Kind::kDirectory;
        event.session = link->options_.session;
        event.directory = *std::move(directory);
        link->inbox_->Put(std::move(event));
      },
      [](const std::exception_ptr&) {});
}

void ControlLink::Close() {
  boost::asio::post(io_, [link = shared_from_this()] {
    link->closed_ = true;
    if (link->client_ != nullptr) link->client_->Close();
  });
}

}  // namespace engram

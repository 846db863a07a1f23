#include "engram/transport/ucx/control_link.h"

#include <algorithm>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "engram/base/clock.h"
#include "engram/rpc/host_port.h"

namespace engram {
namespace {
// Between two tries to renew a session.
constexpr std::chrono::milliseconds kRenewPauseMin{100};
}  // namespace

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
  proto::OpenSessionRequest request = options_.request;
  if (options_.token_of) request.set_token(options_.token_of());
  auto opened =
      co_await client_->Call<proto::OpenSessionReply>("session.Open", request, options_.timeout);
  if (!opened.has_value()) co_return opened.error();
  if (opened->lapses_in_ms() > 0 && options_.token_of) {
    boost::asio::co_spawn(
        io_,
        [link = shared_from_this(), session = opened->session(),
         left = std::chrono::milliseconds(opened->lapses_in_ms()),
         shown = request.token()] { return link->KeepRenewed(session, left, shown); },
        [](const std::exception_ptr&) {});
  }
  ControlEvent event;
  event.kind = ControlEvent::Kind::kOpened;
  event.session = options_.session;
  if (options_.want_directory && opened->lease_ms() > 0) {
    auto directory = co_await FetchDirectory(opened->session());
    if (!directory.has_value()) co_return directory.error();
    event.directory = *std::move(directory);
  }
  // A node of before data_hosts connects to its readers, from the address that they reached it at.
  const auto node = ParseHostPort(client_->peer_address());
  if (opened->data_hosts().empty() && node.has_value()) opened->add_data_hosts(node->host);
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

boost::asio::awaitable<void> ControlLink::KeepRenewed(uint64_t node_session,
                                                      std::chrono::milliseconds left,
                                                      std::string shown) {
  const auto self = shared_from_this();
  boost::asio::steady_timer timer(io_);
  MonotonicTime lapses = SteadyClock().Now() + left;
  while (!closed_ && client_ != nullptr) {
    // Half of what is left; again and again where no newer token has come.
    const auto now = SteadyClock().Now();
    timer.expires_after(std::max<Duration>((lapses - now) / 2, kRenewPauseMin));
    boost::system::error_code ignored;
    co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
    if (closed_ || client_ == nullptr) co_return;
    std::string token = options_.token_of();
    if (token == shown) continue;
    const std::shared_ptr<RpcClient> client = client_;
    proto::RenewSessionRequest request;
    request.set_session(node_session);
    request.set_token(token);
    const auto renewed =
        co_await client->Call<proto::RenewSessionReply>("session.Renew", request, options_.timeout);
    if (!renewed.has_value()) continue;  // as long as the old one is good there is time
    shown = std::move(token);
    lapses = SteadyClock().Now() + std::chrono::milliseconds(renewed->lapses_in_ms());
  }
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

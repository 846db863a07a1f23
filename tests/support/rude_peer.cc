#include "tests/support/rude_peer.h"

#include <utility>

#include <boost/asio/post.hpp>

#include "engram/transport/ucx/ucx_context.h"

namespace engram::test {

proto::OpenSessionRequest OpenRequest(const NodeTarget& target, const std::string& worker_address,
                                      const std::string& token) {
  proto::OpenSessionRequest request;
  request.set_version(target.version.value());
  request.set_model_identity(target.identity.data(), target.identity.size());
  request.set_row_stride(target.row_stride);
  request.set_slot_shift(target.slot_shift);
  request.set_slot_count(target.slot_count);
  request.set_tcp_segment(UcxTcpSegment());
  request.set_worker_address(worker_address);
  request.set_token(token);
  return request;
}

Result<std::unique_ptr<RudePeer>> RudePeer::Create(const NodeTarget& target,
                                                   const Options& options) {
  std::unique_ptr<RudePeer> peer(new RudePeer);
  ENGRAM_TRY(peer->Open(target, options));
  return peer;
}

Status RudePeer::Open(const NodeTarget& target, const Options& options) {
  version_ = target.version;
  row_stride_ = target.row_stride;
  auto context = UcxContext::Create(
      {.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, .tls = options.tls, .name = "rude"});
  if (!context.has_value()) return context.error();
  context_ = *std::move(context);
  auto worker = UcxWorker::Create(*context_);
  if (!worker.has_value()) return worker.error();
  worker_ = *std::move(worker);
  ENGRAM_RETURN_IF_ERROR(worker_->Handle(this));
  std::string own = own_address();
  if (options.addressed != nullptr) own = options.addressed(std::move(own));
  auto client = Await(RpcClient::Connect(io_.get_executor(), target.address, kPatience,
                                         options.security, Role::kNode));
  if (!client.has_value()) return client.error();
  client_ = *std::move(client);
  proto::OpenSessionRequest request = OpenRequest(target, own, options.token);
  request.set_client_id(options.client_id);
  for (const std::string& host : options.data_hosts) request.add_data_hosts(host);
  auto reply = Await(client_->Call<proto::OpenSessionReply>("session.Open", request, kPatience));
  if (!reply.has_value()) return reply.error();
  reply_ = *std::move(reply);
  node_worker_ = reply_.worker_address();
  if (options.sends_to != nullptr) node_worker_ = options.sends_to(std::move(node_worker_));
  auto endpoint = UcxEndpoint::Create(*worker_, node_worker_);
  if (!endpoint.has_value()) return endpoint.error();
  endpoints_.push_back(*std::move(endpoint));
  return {};
}

RudePeer::~RudePeer() {
  endpoints_.clear();
  if (worker_ != nullptr) worker_->FinishClosing();
  if (client_ != nullptr) {
    boost::asio::post(io_, [client = std::move(client_)] { client->Close(); });
  }
  work_.reset();
  io_.stop();
  thread_.join();
  worker_.reset();  // completes what was never sent
}

bool RudePeer::OnMessage(uint32_t id, const UcxMessage& message) {
  if (id == static_cast<uint32_t>(GatherMessageId::kReply)) {
    const auto decoded = DecodeGatherReply(message.header, message.body_bytes, row_stride_);
    statuses.push_back(decoded.status == StatusCode::kOk
                           ? static_cast<StatusCode>(decoded.header.status)
                           : decoded.status);
    if (on_reply != nullptr) {
      on_reply(decoded.header, {static_cast<const std::byte*>(message.data),
                                message.rendezvous ? 0 : static_cast<size_t>(message.body_bytes)});
    }
  } else {
    grants.push_back(DecodeLeaseGrant(message.header, message.body_bytes).header);
  }
  return false;
}

void RudePeer::Sent::OnComplete(ucs_status_t /*status*/) {
  over = true;
  --peer->unsent_;
}

void RudePeer::Send(GatherMessageId id, std::vector<std::byte> header, size_t body_bytes,
                    bool eager) {
  Send(id, std::move(header), std::vector<std::byte>(body_bytes, std::byte{0xff}), eager);
}

void RudePeer::Send(GatherMessageId id, std::vector<std::byte> header, std::vector<std::byte> body,
                    bool eager) {
  Sent& sent = sent_.emplace_back();
  sent.peer = this;
  sent.header = std::move(header);
  sent.body = std::move(body);
  const UcxStarted started =
      endpoints_.back()->Send(static_cast<uint32_t>(id), sent.header, sent.body, eager, &sent);
  sent.over = started != UcxStarted::kPending;
  if (!sent.over) ++unsent_;
}

bool RudePeer::AddEndpoint() {
  auto endpoint = UcxEndpoint::Create(*worker_, node_worker_);
  if (!endpoint.has_value()) return false;
  endpoints_.push_back(*std::move(endpoint));
  return true;
}

void RudePeer::CloseControl() {
  boost::asio::post(io_, boost::asio::use_future([this] { client_->Close(); })).get();
}

void RudePeer::Forget() {
  while (!sent_.empty() && sent_.front().over) sent_.pop_front();
}

GatherRequestHeader RudePeer::GoodHeader() const {
  GatherRequestHeader header;
  header.row_count = 1;
  header.session = reply_.session();
  header.version = version_.value();
  header.incarnation = reply_.incarnation();
  return header;
}

LeaseRequest RudePeer::GoodLease(uint64_t sequence) const {
  LeaseRequest request;
  request.session = reply_.session();
  request.version = version_.value();
  request.incarnation = reply_.incarnation();
  request.sequence = sequence;
  return request;
}

}  // namespace engram::test

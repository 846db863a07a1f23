// The coordinator's side of directory.proto, told what to answer by the test.
#pragma once

#include <algorithm>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gtest/gtest.h>

#include "engram/rpc/rpc_server.h"
#include "engram/table/table_proto.h"
#include "proto/directory.pb.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram::test {

// Version 7 of a small table, on one node until told otherwise. Thread-safe.
class ScriptedCoordinator {
 public:
  explicit ScriptedCoordinator(const std::string& address = "127.0.0.1:0",
                               std::shared_ptr<const TableLayout> layout = SmallLayout(),
                               const ModelIdentity& identity = SmallIdentity())
      : layout_(std::move(layout)), identity_(identity) {
    map_.version = TableVersion(7);
    map_.epoch = Epoch(1);
    map_.nodes.push_back({"m0", "zone", "127.0.0.1:2", Incarnation(5)});
    map_.owners.assign(layout_->slot_count(), NodeIndex(0));
    RpcServer::Options options;
    options.listen_address = address;
    options.leader = [this] {
      const std::lock_guard lock(mutex_);
      return leader_;
    };
    auto server =
        RpcServer::Create(io_.get_executor(), options,
                          [this](const RpcPeer&, std::string_view method, std::string body) {
                            return Handle(std::string(method), std::move(body));
                          });
    if (!server.has_value()) {
      ADD_FAILURE() << server.error().ToString();
      return;
    }
    server_ = *std::move(server);
    address_ = server_->address();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~ScriptedCoordinator() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
  }

  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] const std::shared_ptr<const TableLayout>& layout() const { return layout_; }
  [[nodiscard]] ShardMap map() const {
    const std::lock_guard lock(mutex_);
    return map_;
  }
  void SetMap(const ShardMap& map) {
    const std::lock_guard lock(mutex_);
    map_ = map;
  }
  void SetEpoch(uint64_t epoch) {
    const std::lock_guard lock(mutex_);
    map_.epoch = Epoch(epoch);
  }
  void SetReady(bool ready) {
    const std::lock_guard lock(mutex_);
    ready_ = ready;
  }
  void SetMapDamaged(bool damaged) {
    const std::lock_guard lock(mutex_);
    damaged_ = damaged;
  }
  // It follows: it takes no reports, and gives no maps either where `refuse_maps`.
  void SetLeader(const std::string& leader, bool refuse_maps) {
    const std::lock_guard lock(mutex_);
    leader_ = leader;
    refuse_maps_ = refuse_maps;
  }
  // What it gives for each node, and for which the node does not know the key yet.
  void SetTokens(const std::string& token, const std::vector<uint32_t>& untold) {
    const std::lock_guard lock(mutex_);
    token_ = token;
    tokens_.set_lifetime_ms(3'600'000);
    tokens_.clear_untold();
    for (const uint32_t index : untold) tokens_.add_untold(index);
  }
  [[nodiscard]] std::vector<uint32_t> reports() const {
    const std::lock_guard lock(mutex_);
    return reports_;
  }

 private:
  boost::asio::awaitable<Result<std::string>> Handle(std::string method, std::string body) {
    {
      const std::lock_guard lock(mutex_);
      if (!leader_.empty() && (refuse_maps_ || method == "directory.ReportSlot")) {
        co_return Error(StatusCode::kUnavailable, "this coordinator follows");
      }
    }
    if (method == "directory.ReportSlot") {
      proto::ReportSlotRequest request;
      EXPECT_TRUE(request.ParseFromString(body));
      const std::lock_guard lock(mutex_);
      reports_.push_back(request.slot());
      co_return std::string();
    }
    if (method == "directory.GetTokens") {
      proto::GetTokensRequest request;
      EXPECT_TRUE(request.ParseFromString(body));
      const std::lock_guard lock(mutex_);
      proto::GetTokensReply reply = tokens_;
      for (const std::string& address : request.addresses()) {
        reply.add_tokens(token_ + " for " + address);
      }
      co_return reply.SerializeAsString();
    }
    if (method != "directory.GetShardMap") {
      co_return Error(StatusCode::kNotFound, "no method " + method);
    }
    proto::GetShardMapRequest request;
    EXPECT_TRUE(request.ParseFromString(body));
    boost::asio::steady_timer timer(io_);
    const auto step = std::chrono::milliseconds(5);
    for (auto waited = std::chrono::milliseconds(0);; waited += step) {
      {
        const std::lock_guard lock(mutex_);
        if (!request.model_identity().empty() &&
            request.model_identity() != ModelIdentityToBytes(identity_)) {
          co_return Error(StatusCode::kWrongModel, "the tables are of another model");
        }
        const bool newer = map_.epoch.value() > request.known_epoch();
        if (newer || waited.count() >= request.wait_ms()) co_return Reply(newer);
      }
      timer.expires_after(step);
      co_await timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
    }
  }
  std::string Reply(bool with_map) const {
    proto::GetShardMapReply reply;
    reply.set_ready(ready_);
    if (with_map) {
      *reply.mutable_map() = ShardMapToProto(map_);
      if (damaged_) reply.mutable_map()->set_owners(0, 77);
      *reply.mutable_spec() = TableSpecToProto(layout_->spec());
      reply.set_model_identity(ModelIdentityToBytes(identity_));
    }
    return reply.SerializeAsString();
  }

  const std::shared_ptr<const TableLayout> layout_;
  const ModelIdentity identity_;
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      io_.get_executor()};
  std::unique_ptr<RpcServer> server_;
  std::string address_;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::string token_;              // guarded by mutex_, as the others
  proto::GetTokensReply tokens_;   // but for the tokens
  ShardMap map_;                   // guarded by mutex_
  bool ready_ = true;              // guarded by mutex_
  bool damaged_ = false;           // guarded by mutex_
  std::vector<uint32_t> reports_;  // guarded by mutex_
  std::string leader_;             // guarded by mutex_; empty = it leads
  bool refuse_maps_ = false;       // guarded by mutex_
};

}  // namespace engram::test

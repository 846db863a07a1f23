// Rows from a plain gRPC service, "ids -> bytes": unary calls, all of a batch's in flight at once.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "bench/grpc_rows.grpc.pb.h"
#include "bench/made_up_rows.h"
#include "bench/peer.h"
#include "bench/started_program.h"

namespace engram::bench {
namespace {

constexpr uint32_t kWholeBatch = UINT32_MAX;

std::shared_ptr<grpc::Channel> Connect(uint16_t port) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Else channels to one address share a connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                   grpc::InsecureChannelCredentials(), arguments);
}

struct Call {
  grpc::ClientContext context;
  proto::RowIds request;
  proto::RowBytes reply;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<proto::RowBytes>> reader;
  std::byte* out = nullptr;
};

class GrpcPeer final : public Peer {
 public:
  GrpcPeer(const PeerTable& table, uint16_t port, StartedProgram server)
      : table_(table), port_(port), server_(std::move(server)) {}
  ~GrpcPeer() override {
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  std::string version() const override { return grpc::Version(); }

  std::vector<PeerSetting> Settings(uint32_t rows) const override {
    static constexpr PeerSetting kServers[] = {{.threads = 0, .connections = 1},
                                               {.threads = 0, .connections = 2}};
    static constexpr uint32_t kSizes[] = {256, 1024, kWholeBatch};
    return PeerSettings(kServers, kSizes, rows);
  }

  std::string Describe(const PeerSetting& setting) const override {
    return ConnectionsOf(setting) + ", calls of " + std::to_string(setting.rows_max);
  }

  Status Use(const PeerSetting& setting) override {
    setting_ = setting;
    stubs_.clear();
    for (uint32_t i = 0; i < setting.connections; ++i) {
      const auto channel = Connect(port_);
      if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
        return {StatusCode::kUnavailable, "no connection to its server"};
      }
      stubs_.push_back(proto::GrpcRows::NewStub(channel));
    }
    return {};
  }

  Status Read(std::span<const uint64_t> ids, std::byte* out) override {
    std::vector<std::unique_ptr<Call>> calls;
    for (size_t first = 0; first < ids.size(); first += setting_.rows_max) {
      const auto part = ids.subspan(first, std::min<size_t>(setting_.rows_max, ids.size() - first));
      auto call = std::make_unique<Call>();
      call->request.mutable_ids()->Add(part.begin(), part.end());
      call->out = out + first * table_.row_bytes;
      call->reader =
          stubs_[calls.size() % stubs_.size()]->AsyncRead(&call->context, call->request, &queue_);
      call->reader->Finish(&call->reply, &call->status, call.get());
      calls.push_back(std::move(call));
    }
    Status status;
    for (size_t ended = 0; ended < calls.size(); ++ended) {
      void* tag = nullptr;
      bool ok = false;
      queue_.Next(&tag, &ok);
      if (Status taken = Take(*static_cast<const Call*>(tag)); !taken.ok()) status = taken;
    }
    return status;
  }

 private:
  Status Take(const Call& call) const {
    if (!call.status.ok()) {
      return {StatusCode::kPeerLost, "grpc: " + call.status.error_message()};
    }
    const std::string& rows = call.reply.rows();
    if (rows.size() != static_cast<size_t>(call.request.ids_size()) * table_.row_bytes) {
      return {StatusCode::kNotFound, "the gRPC service lacks a row"};
    }
    std::memcpy(call.out, rows.data(), rows.size());
    return {};
  }

  PeerTable table_;
  uint16_t port_;
  StartedProgram server_;
  PeerSetting setting_;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<proto::GrpcRows::Stub>> stubs_;
};

}  // namespace

Result<std::unique_ptr<Peer>> StartGrpcRows(const PeerTable& table) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  ENGRAM_ASSIGN_OR_RETURN(const uint16_t port, FreePort());
  ENGRAM_ASSIGN_OR_RETURN(
      StartedProgram server,
      StartedProgram::Start({(self.parent_path() / "engram-bench-grpc-rows").string(), "--rows",
                             std::to_string(table.rows), "--row-bytes",
                             std::to_string(table.row_bytes), "--port", std::to_string(port)}));
  ENGRAM_TRY(server.AwaitListening(port));
  return std::make_unique<GrpcPeer>(table, port, std::move(server));
}

}  // namespace engram::bench

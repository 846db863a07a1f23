// Made-up rows in memory behind a plain gRPC service: the server that engram-bench peers starts.
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <grpcpp/grpcpp.h>

#include "bench/grpc_rows.grpc.pb.h"
#include "bench/made_up_rows.h"

namespace engram::bench {
namespace {

class RowsService final : public proto::GrpcRows::CallbackService {
 public:
  RowsService(uint64_t rows, uint32_t row_bytes)
      : rows_(rows), row_bytes_(row_bytes), memory_(rows * row_bytes) {
    for (uint64_t id = 0; id < rows; ++id) {
      MakeUpRow(RowAddress(id), {memory_.data() + id * row_bytes, row_bytes});
    }
  }

  grpc::ServerUnaryReactor* Read(grpc::CallbackServerContext* context, const proto::RowIds* request,
                                 proto::RowBytes* reply) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(Gather(*request, *reply->mutable_rows()));
    return reactor;
  }

 private:
  grpc::Status Gather(const proto::RowIds& request, std::string& out) const {
    constexpr int kAhead = 16;
    out.reserve(static_cast<size_t>(request.ids_size()) * row_bytes_);
    for (int i = 0; i < request.ids_size(); ++i) {
      if (request.ids(i) >= rows_) return {grpc::StatusCode::NOT_FOUND, "no such row"};
      if (i + kAhead < request.ids_size()) {
        __builtin_prefetch(memory_.data() + request.ids(i + kAhead) % rows_ * row_bytes_);
      }
      out.append(reinterpret_cast<const char*>(memory_.data() + request.ids(i) * row_bytes_),
                 row_bytes_);
    }
    return grpc::Status::OK;
  }

  uint64_t rows_;
  uint32_t row_bytes_;
  std::vector<std::byte> memory_;  // [rows_, row_bytes_]
};

int Serve(uint64_t rows, uint32_t row_bytes, uint16_t port) {
  RowsService service(rows, row_bytes);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(-1);
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::fprintf(stderr, "engram-bench-grpc-rows: port %u is taken\n", unsigned{port});
    return 1;
  }
  server->Wait();
  return 0;
}

}  // namespace
}  // namespace engram::bench

int main(int argc, char** argv) {
  uint64_t rows = 0;
  uint32_t row_bytes = 0;
  uint16_t port = 0;
  CLI::App app("Serves made-up rows over gRPC on 127.0.0.1, for engram-bench peers, until killed.");
  app.add_option("--rows", rows, "How many")->required();
  app.add_option("--row-bytes", row_bytes, "Of one")->required();
  app.add_option("--port", port, "To listen at")->required();
  CLI11_PARSE(app, argc, argv);
  return engram::bench::Serve(rows, row_bytes, port);
}

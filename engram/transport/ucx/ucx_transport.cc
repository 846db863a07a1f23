#include "engram/transport/ucx/ucx_transport.h"

#include <random>
#include <thread>
#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "engram/base/check.h"
#include "engram/transport/ucx/ucx_memory.h"
#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {

UcxTransportOptions WithClientId(UcxTransportOptions options) {
  std::random_device device;
  while (options.client_id == 0) options.client_id = (uint64_t{device()} << 32) | device();
  return options;
}

Result<std::unique_ptr<UcxContext>> OpenOneSided(const UcxTransportOptions& options) {
  return UcxContext::Create(
      {.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
       .tls = options.one_sided,
       .name = "engram-reader-one-sided",
       .gpu_memory = options.landing != nullptr && options.landing->of_gpu()});
}

class UcxTransportImpl final : public Transport {
 public:
  explicit UcxTransportImpl(const UcxTransportOptions& options)
      : options_(WithClientId(options)), work_(boost::asio::make_work_guard(io_)) {}
  ~UcxTransportImpl() override {
    io_.stop();
    if (control_thread_.joinable()) control_thread_.join();
  }

  Status Start();
  [[nodiscard]] Result<std::unique_ptr<RowReader>> CreateReader(ReaderEvents* events) override {
    auto reader = UcxRowReader::Create(options_, *context_, one_sided_.get(), io_, events);
    if (!reader.has_value()) return Error(std::move(reader).error());
    return std::unique_ptr<RowReader>(*std::move(reader));
  }

 private:
  const UcxTransportOptions options_;
  std::unique_ptr<UcxContext> context_;
  std::unique_ptr<UcxContext> one_sided_;  // null: off
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::thread control_thread_;
};

Status UcxTransportImpl::Start() {
  if (options_.one_sided != "off" && options_.one_sided != "rdma" && options_.one_sided != "shm") {
    return {StatusCode::kInvalidArgument,
            "one-sided reads are off, rdma or shm, not '" + options_.one_sided + "'"};
  }
  if (options_.way == ReadWay::kOneSided && options_.one_sided == "off") {
    return {StatusCode::kInvalidArgument, "one-sided reads are forced and off"};
  }
  if (options_.keep_alive < std::chrono::milliseconds(10) ||
      options_.open_timeout < std::chrono::milliseconds(10)) {
    return {StatusCode::kInvalidArgument, "keep_alive and open_timeout are 10 ms at least"};
  }
  auto context = UcxContext::Create({.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
                                     .tls = options_.tls,
                                     .name = "engram-reader"});
  if (!context.has_value()) return context.error();
  context_ = *std::move(context);
  if (options_.one_sided != "off") {
    auto one_sided = OpenOneSided(options_);
    if (one_sided.has_value()) {
      one_sided_ = *std::move(one_sided);
    } else if (options_.way == ReadWay::kOneSided) {
      return one_sided.error();
    }
  }
  control_thread_ = std::thread([this] { io_.run(); });
  return {};
}

}  // namespace

Result<std::unique_ptr<Transport>> UcxTransport::Create(const UcxTransportOptions& options) {
  auto transport = std::make_unique<UcxTransportImpl>(options);
  ENGRAM_TRY(transport->Start());
  return transport;
}

Status UcxTransport::CheckLanding(const UcxTransportOptions& options) {
  ENGRAM_CHECK(options.landing != nullptr);
  const auto missing = [](const Status& why) {
    return Status(StatusCode::kFailedPrecondition, why.message());
  };
  if (options.one_sided == "off") {
    return missing({StatusCode::kInvalidArgument, "one-sided reads are off"});
  }
  auto context = OpenOneSided(options);
  if (!context.has_value()) return missing(context.error());
  constexpr size_t kBytes = size_t{64} << 10;
  auto block = options.landing->Allocate(kBytes);
  if (!block.has_value()) return missing(block.error());
  auto memory = UcxMemory::Register(**context, {block->get(), kBytes}, options.landing->of_gpu());
  if (memory.has_value()) return {};
  return missing(memory.error().WithContext(
      "the network card cannot be given the GPU's memory: it needs nvidia-peermem, or a kernel and "
      "a UCX with dma-buf"));
}

}  // namespace engram

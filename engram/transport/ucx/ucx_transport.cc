#include "engram/transport/ucx/ucx_transport.h"

#include <random>
#include <thread>
#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "engram/base/check.h"
#include "engram/transport/ucx/one_sided_check.h"
#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {

UcxTransportOptions WithClientId(UcxTransportOptions options) {
  std::random_device device;
  while (options.client_id == 0) options.client_id = (uint64_t{device()} << 32) | device();
  return options;
}

Result<std::unique_ptr<UcxContext>> OpenOneSided(const UcxTransportOptions& options) {
  return UcxContext::Create({.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                             .tls = options.one_sided,
                             .name = "engram-reader-one-sided",
                             .into_gpu = options.landing != nullptr && options.landing->of_gpu()});
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
  const auto missing = [](const std::string& what) {
    return Status(StatusCode::kFailedPrecondition, what);
  };
  if (options.one_sided == "off") return missing("one-sided reads are off");
  if (options.landing->of_gpu() && options.one_sided != "rdma") {
    return missing("a processor copies rows over shared memory, and cannot write to a GPU's");
  }
  auto node = UcxContext::Create({.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                                  .tls = options.one_sided,
                                  .name = "engram-landing-check"});
  if (!node.has_value()) return missing(node.error().message());
  auto reader = OpenOneSided(options);
  if (!reader.has_value()) return missing(reader.error().message());
  const Status reads = CheckOneSidedReads(**node, **reader, options.landing);
  if (reads.ok()) return {};
  return missing(reads.message() +
                 " (a card of this host was to read into the GPU's memory: it needs the kernel "
                 "module nvidia-peermem, and room there)");
}

}  // namespace engram

#include "engram/transport/ucx/ucx_context.h"

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <system_error>

#include <spdlog/spdlog.h>
#include <ucs/config/global_opts.h>

#include "engram/base/tcp_congestion.h"
#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {

// Frees a configuration on every path.
class UcxConfig {
 public:
  UcxConfig() { status_ = ucp_config_read(nullptr, nullptr, &config_); }
  ~UcxConfig() {
    if (status_ == UCS_OK) ucp_config_release(config_);
  }
  UcxConfig(const UcxConfig&) = delete;
  UcxConfig& operator=(const UcxConfig&) = delete;
  [[nodiscard]] ucs_status_t status() const { return status_; }
  [[nodiscard]] ucp_config_t* handle() const { return config_; }

 private:
  ucp_config_t* config_ = nullptr;
  ucs_status_t status_ = UCS_OK;
};

constexpr const char* kTcpSegment = "UCX_TCP_RX_SEG_SIZE";

// UCX's list of transports; null: leave it to UCX and the user.
const char* TransportList(const std::string& tls, bool into_gpu) {
  if (tls == "tcp") return "tcp";
  if (tls == "shm") return "posix,sysv,self";
  // What UCX has to emulate, as reads over UD, a processor writes.
  if (tls == "rdma") return into_gpu ? "rc" : "ib";
  if (tls == "auto") {
    // Cross-memory attach needs ptrace rights that containers lack, and finds out too late.
    return std::getenv("UCX_TLS") == nullptr ? "^cma" : nullptr;
  }
  return tls.c_str();
}

// Every row straight into its place: UCX would have short ones read into a buffer of its own, and
// copied by the processor. PROTO_ENABLE: with what it stands for, 1.13.1 asserts where a connection
// ends with reads that wait to be sent (ucs_empty_function_do_assert_void).
ucs_status_t ReadWithoutCopies(ucp_config_t* config) {
  const ucs_status_t status = ucp_config_modify(config, "PROTO_ENABLE", "n");
  return status == UCS_OK ? ucp_config_modify(config, "ZCOPY_THRESH", "0") : status;
}

void WarnOfTcpPacing(const std::string& tls) {
  if (tls != "tcp" && tls != "auto") return;
  static std::once_flag once;
  std::call_once(once, [] {
    const std::string warning = TcpPacingWarning(TcpCongestionControl());
    if (!warning.empty()) spdlog::warn("{}", warning);
  });
}

// UCX 1.13 does not say which devices a context has.
bool HasNetworkCards(const std::string& tls) {
  if (tls == "tcp" || tls == "shm") return false;
  std::error_code none;
  return !std::filesystem::is_empty("/sys/class/infiniband", none) && !none;
}

}  // namespace

void SetUcxDefaults() {
  static std::once_flag once;
  std::call_once(once, [] {
    constexpr const char* kDefaults[][2] = {
        {"UCX_POSIX_ERROR_HANDLING", "y"},
        {"UCX_SYSV_ERROR_HANDLING", "y"},
        {"UCX_MM_ERROR_HANDLING", "y"},
        {"UCX_POSIX_HUGETLB_MODE", "try"},
        {"UCX_SYSV_HUGETLB_MODE", "try"},
        {"UCX_KEEPALIVE_INTERVAL", "5s"},
        {"UCX_TCP_KEEPIDLE", "5s"},
        // 15 % more rows a second in long replies than with UCX's 64k (docs/BENCHMARKS.md).
        {kTcpSegment, "256k"},
        // Room for the longest request (kReadRowsMax rows, 32.9 kB), which goes from a copy then
        // where the socket takes a part: with the rest still in our memory UCX 1.13.1 frees what it
        // has, or cuts the stream, where the connection is closed before it is sent
        // (docs/decisions/0045-requests-are-copied.md).
        {"UCX_TCP_TX_SEG_SIZE", "40k"},
        // Else UCX waits in connect(2), on the thread that serves or reads, for minutes where the
        // peer's host is cut off; and asserts where it ends within the call (1.13.1).
        {"UCX_TCP_CONN_NB", "y"},
        // UCX takes so many sockets with news at once, and asserts where the news of one closes
        // another of them (1.13.1, uct_tcp_iface_handle_events): one at a time.
        {"UCX_TCP_MAX_POLL", "1"},
    };
    for (const auto& [name, value] : kDefaults) ::setenv(name, value, /*overwrite=*/0);
    // UCX reads this one when it is loaded, before any code of ours.
    constexpr const char* kWarn = "UCX_WARN_UNUSED_ENV_VARS";
    if (std::getenv(kWarn) == nullptr) ucs_global_opts_set_value("WARN_UNUSED_ENV_VARS", "n");
  });
}

std::string UcxTcpSegment() {
  SetUcxDefaults();
  const char* const segment = std::getenv(kTcpSegment);
  return segment == nullptr ? "" : segment;
}

Result<std::unique_ptr<UcxContext>> UcxContext::Create(const Options& options) {
  SetUcxDefaults();
  WarnOfTcpPacing(options.tls);
  const UcxConfig config;
  if (config.status() != UCS_OK) {
    return Error(UcxStatus(config.status(), "reading UCX's settings (UCX_* variables)"));
  }
  if (const char* const list = TransportList(options.tls, options.into_gpu); list != nullptr) {
    const ucs_status_t status = ucp_config_modify(config.handle(), "TLS", list);
    if (status != UCS_OK) {
      return Error(UcxStatus(status, "choosing transports '" + options.tls + "'"));
    }
  }
  if (options.into_gpu) {
    const ucs_status_t status = ReadWithoutCopies(config.handle());
    if (status != UCS_OK) {
      return Error(UcxStatus(status, "having UCX read into a GPU's memory without copies"));
    }
  }
  ucp_params_t params{};
  params.field_mask =
      UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME;
  params.features = options.features;
  params.mt_workers_shared = 1;
  params.name = options.name.c_str();
  ucp_context_h context = nullptr;
  const ucs_status_t status = ucp_init(&params, config.handle(), &context);
  if (status != UCS_OK) {
    return Error(UcxStatus(status, "opening UCX with transports '" + options.tls + "'"));
  }
  return std::unique_ptr<UcxContext>(new UcxContext(context, HasNetworkCards(options.tls)));
}

UcxContext::~UcxContext() { ucp_cleanup(context_); }

}  // namespace engram

#include "engram/security/tls_identity.h"

#include <array>
#include <chrono>
#include <ctime>
#include <mutex>
#include <utility>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include "engram/security/certificate_folder.h"

namespace engram {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

constexpr std::chrono::seconds kLookInterval{1};
constexpr int64_t kWarnSecondsLeft = int64_t{7} * 86400;

// Changes when a file is replaced, also through the links that Kubernetes swaps.
struct FileStamp {
  uint64_t inode = 0;
  int64_t size = 0;
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};
using FolderStamp = std::array<FileStamp, 3>;

FolderStamp StampOf(const std::filesystem::path& folder) {
  FolderStamp stamp{};
  const std::array names = {kCaFile, kCertificateFile, kKeyFile};
  for (size_t i = 0; i < names.size(); ++i) {
    struct stat about {};
    if (::stat((folder / names[i]).c_str(), &about) != 0) continue;
    stamp[i] = {about.st_ino, about.st_size, about.st_mtim.tv_sec, about.st_mtim.tv_nsec};
  }
  return stamp;
}

Result<Certificate> Shared(X509* certificate, const std::string& source) {
  X509_up_ref(certificate);
  return Certificate::FromX509(certificate, source);
}

Result<PeerIdentity> IdentityOf(const CertificateInfo& info) {
  if (!info.role.has_value()) {
    return Error(StatusCode::kPermissionDenied,
                 "the certificate has no role: its subject needs exactly one organisation (O) out "
                 "of engram:reader, engram:node, engram:coordinator and engram:operator");
  }
  if (info.name.empty()) {
    return Error(StatusCode::kPermissionDenied,
                 "the certificate's subject has no common name (CN)");
  }
  return PeerIdentity{*info.role, info.name};
}

enum class RoleNeed : uint8_t { kOne, kNone };

struct Loaded {
  std::shared_ptr<ssl::context> context;
  PeerIdentity own;
  int64_t not_after = 0;  // unix seconds
};

Result<Loaded> LoadFolder(const std::filesystem::path& folder, RoleNeed need) {
  Loaded loaded;
  loaded.context = std::make_shared<ssl::context>(ssl::context::tls);
  SSL_CTX* const raw = loaded.context->native_handle();
  SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION);
  // Every connection shows its certificate again: none outlives a rotation in a ticket.
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(raw, 0);
  loaded.context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert);
  const auto fail = [&](const char* file, const error_code& error) {
    const std::filesystem::path path = folder / file;
    std::error_code missing;
    if (!std::filesystem::exists(path, missing)) {
      return Error(StatusCode::kIo, path.string() +
                                        " is not there: make one with engramctl certs issue, or "
                                        "mount the secret of cert-manager");
    }
    return Error(StatusCode::kInvalidArgument, path.string() + ": " + error.message() +
                                                   ": make it again with engramctl certs rotate");
  };
  // A key with a password would be asked for on the terminal.
  (void)loaded.context->set_password_callback(
      [](size_t, ssl::context::password_purpose) { return std::string(); });
  error_code error;
  (void)loaded.context->load_verify_file((folder / kCaFile).string(), error);
  if (error) return fail(kCaFile, error);
  (void)loaded.context->use_certificate_chain_file((folder / kCertificateFile).string(), error);
  if (error) return fail(kCertificateFile, error);
  (void)loaded.context->use_private_key_file((folder / kKeyFile).string(), ssl::context::pem,
                                             error);
  if (ERR_GET_REASON(static_cast<unsigned>(error.value())) == X509_R_KEY_VALUES_MISMATCH) {
    return Error(StatusCode::kInvalidArgument, (folder / kKeyFile).string() +
                                                   " is not the key of " + kCertificateFile +
                                                   ": put the pair that was made together");
  }
  if (error) return fail(kKeyFile, error);
  const std::string source = (folder / kCertificateFile).string();
  ENGRAM_ASSIGN_OR_RETURN(const Certificate own, Shared(SSL_CTX_get0_certificate(raw), source));
  if (need == RoleNeed::kOne) {
    auto identity = IdentityOf(own.info());
    if (!identity.has_value()) {
      return Error(StatusCode::kInvalidArgument, source + ": " + identity.error().message());
    }
    loaded.own = *std::move(identity);
  }
  loaded.not_after = own.info().not_after.time_since_epoch().count();
  return loaded;
}

class FolderIdentity final : public TlsIdentity {
 public:
  FolderIdentity(std::filesystem::path folder, RoleNeed need, Loaded loaded,
                 const FolderStamp& stamp)
      : folder_(std::move(folder)),
        need_(need),
        loaded_(std::move(loaded)),
        stamp_(stamp),
        looked_at_(std::chrono::steady_clock::now()) {}

  std::shared_ptr<ssl::context> Context() override {
    const std::lock_guard lock(mutex_);
    LookAgain();
    return loaded_.context;
  }
  [[nodiscard]] PeerIdentity own() const override {
    const std::lock_guard lock(mutex_);
    return loaded_.own;
  }
  [[nodiscard]] int64_t ExpiresAt() override {
    const std::lock_guard lock(mutex_);
    LookAgain();
    return loaded_.not_after;
  }
  [[nodiscard]] int64_t SecondsLeft() const override {
    const std::lock_guard lock(mutex_);
    return loaded_.not_after - std::time(nullptr);
  }

 private:
  void LookAgain() {
    const auto now = std::chrono::steady_clock::now();
    if (now - looked_at_ < kLookInterval) return;
    looked_at_ = now;
    const FolderStamp stamp = StampOf(folder_);
    if (stamp == stamp_) return;
    auto loaded = LoadFolder(folder_, need_);
    if (!loaded.has_value()) {
      // Perhaps half of the files are there yet: looked at again until they can be taken.
      if (stamp != failed_stamp_) {
        spdlog::warn(
            "the certificates in {} have changed and cannot be used, the old ones stay: {}",
            folder_.string(), loaded.error().message());
      }
      failed_stamp_ = stamp;
      return;
    }
    if (loaded->own != loaded_.own) {
      spdlog::warn("the certificate in {} is now of {} '{}', it was of {} '{}'", folder_.string(),
                   RoleName(loaded->own.role), loaded->own.name, RoleName(loaded_.own.role),
                   loaded_.own.name);
    }
    spdlog::info("took new certificates from {}", folder_.string());
    loaded_ = *std::move(loaded);
    stamp_ = stamp;
  }

  const std::filesystem::path folder_;
  const RoleNeed need_;
  mutable std::mutex mutex_;
  Loaded loaded_;      // guarded by mutex_, as all that follows
  FolderStamp stamp_;  // of loaded_
  FolderStamp failed_stamp_{};
  std::chrono::steady_clock::time_point looked_at_;
};

Result<std::shared_ptr<TlsIdentity>> LoadIdentity(std::filesystem::path folder, RoleNeed need) {
  // Before the files are read: a change meanwhile is seen later.
  const FolderStamp stamp = StampOf(folder);
  ENGRAM_ASSIGN_OR_RETURN(Loaded loaded, LoadFolder(folder, need));
  const int64_t left = loaded.not_after - std::time(nullptr);
  if (left <= 0) {
    return Error(StatusCode::kInvalidArgument,
                 (folder / kCertificateFile).string() +
                     " has expired: make a new one with engramctl certs rotate");
  }
  if (left < kWarnSecondsLeft) {
    spdlog::warn("the certificate in {} expires in {} hours: engramctl certs rotate",
                 folder.string(), left / 3600);
  }
  return std::make_shared<FolderIdentity>(std::move(folder), need, std::move(loaded), stamp);
}

}  // namespace

Result<std::shared_ptr<TlsIdentity>> TlsIdentity::Load(std::filesystem::path folder) {
  return LoadIdentity(std::move(folder), RoleNeed::kOne);
}

Result<std::shared_ptr<TlsIdentity>> TlsIdentity::LoadWithoutRole(std::filesystem::path folder) {
  return LoadIdentity(std::move(folder), RoleNeed::kNone);
}

Result<PeerIdentity> PeerOf(SSL* ssl) {
  X509* const shown = SSL_get0_peer_certificate(ssl);
  if (shown == nullptr) {
    return Error(StatusCode::kPermissionDenied, "the peer showed no certificate");
  }
  ENGRAM_ASSIGN_OR_RETURN(const Certificate certificate, Shared(shown, "the peer's certificate"));
  return IdentityOf(certificate.info());
}

Status ChannelSecurity::CheckAddress(bool is_loopback, const std::string& address) const {
  if (identity != nullptr || insecure || is_loopback) return {};
  return {StatusCode::kInvalidArgument,
          address +
              " is not on loopback, and without certificates anybody there could read and change: "
              "give --certs FOLDER (engramctl certs makes one), or --insecure to do without on a "
              "network that you trust"};
}

}  // namespace engram

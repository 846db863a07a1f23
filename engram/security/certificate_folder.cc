#include "engram/security/certificate_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace engram {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kKeyMode = 0600;
constexpr mode_t kCertificateMode = 0644;
constexpr size_t kFileBytesMax = size_t{1} << 20;

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { (void)Close(); }
  [[nodiscard]] int get() const { return value_; }
  // 0, or -1 with errno.
  int Close() { return value_ < 0 ? 0 : ::close(std::exchange(value_, -1)); }

 private:
  int value_;
};

Status ErrnoFailed(const std::string& what, const fs::path& path) {
  const int error = errno;
  const auto code = error == ENOENT ? StatusCode::kNotFound : StatusCode::kIo;
  return Status(code, "cannot " + what + " " + path.string() + ": " + std::strerror(error));
}

// What cannot be looked at counts as there: reading it tells why.
bool Exists(const fs::path& path) {
  struct stat about {};
  return ::lstat(path.c_str(), &about) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

Result<std::string> ReadFile(const fs::path& file) {
  // Not blocking, should it be a pipe.
  const Descriptor in(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (in.get() < 0) return Error(ErrnoFailed("read", file));
  std::string text(kFileBytesMax + 1, '\0');
  size_t bytes = 0;
  while (bytes < text.size()) {
    const ssize_t got = ::read(in.get(), text.data() + bytes, text.size() - bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error(ErrnoFailed("read", file));
    if (got == 0) break;
    bytes += static_cast<size_t>(got);
  }
  if (bytes > kFileBytesMax) {
    return Error(StatusCode::kMalformed,
                 file.string() + " is larger than 1 MiB: no file of certificates or keys");
  }
  text.resize(bytes);
  return text;
}

Status WriteAll(int descriptor, std::string_view text, const fs::path& file) {
  while (!text.empty()) {
    const ssize_t put = ::write(descriptor, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoFailed("write", file);
    text.remove_prefix(static_cast<size_t>(put));
  }
  return Status();
}

// A process that runs as another user must be able to read the new file as it could the old one.
Status KeepAccess(int descriptor, const fs::path& file, mode_t mode) {
  struct stat old {};
  if (::lstat(file.c_str(), &old) != 0 || !S_ISREG(old.st_mode)) {
    return ::fchmod(descriptor, mode) == 0 ? Status() : ErrnoFailed("set the mode of", file);
  }
  struct stat own {};
  if (::fstat(descriptor, &own) != 0) return ErrnoFailed("look at", file);
  if ((own.st_uid != old.st_uid || own.st_gid != old.st_gid) &&
      ::fchown(descriptor, old.st_uid, old.st_gid) != 0) {
    return Status(StatusCode::kIo,
                  file.string() + " belongs to another user, who could not read a new one of " +
                      "yours: run this as that user or as root (" + std::strerror(errno) + ")");
  }
  // A group may have been let in, nobody else: whatever the old mode is.
  const mode_t kept = mode == kKeyMode ? (old.st_mode & 0640) | kKeyMode : mode;
  return ::fchmod(descriptor, kept) == 0 ? Status() : ErrnoFailed("set the mode of", file);
}

// As a whole or not at all, also when the machine stops.
Status WriteFile(const fs::path& file, std::string_view text, mode_t mode) {
  const fs::path partial = file.parent_path() / ("." + file.filename().string() + ".partial");
  // Left by a process that was killed: the folder's lock says that no other one writes it.
  (void)::unlink(partial.c_str());
  const auto write = [&] {
    Descriptor out(::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kKeyMode));
    if (out.get() < 0) return ErrnoFailed("create", partial);
    ENGRAM_RETURN_IF_ERROR(WriteAll(out.get(), text, partial));
    ENGRAM_RETURN_IF_ERROR(KeepAccess(out.get(), file, mode));
    if (::fsync(out.get()) != 0 || out.Close() != 0) return ErrnoFailed("write", partial);
    if (::rename(partial.c_str(), file.c_str()) != 0) return ErrnoFailed("replace", file);
    return Status();
  };
  if (Status status = write(); !status.ok()) {
    (void)::unlink(partial.c_str());
    return status;
  }
  const Descriptor dir(::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot do this for folders; the file itself is safe.
  if (dir.get() >= 0) (void)::fsync(dir.get());
  return Status();
}

Result<std::string> BundlePem(const std::vector<Certificate>& bundle) {
  std::string text;
  for (const Certificate& ca : bundle) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string pem, ca.Pem());
    text += pem;
  }
  return text;
}

// The certificate of a name's folder; a file may have others behind it, of intermediate CAs.
Result<Certificate> ReadOwnCertificate(const fs::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(auto certificates, ReadCertificates(file));
  return std::move(certificates.front());
}

// Only one that this folder's CA made is made again: a user who may write a name's folder could
// otherwise have a certificate with more rights signed.
Status CheckReissue(const Certificate& present, const std::string& name, const fs::path& file,
                    const std::vector<Certificate>& bundle) {
  const CertificateInfo& info = present.info();
  const auto refuse = [&](const std::string& why) {
    return Status(StatusCode::kFailedPrecondition,
                  file.string() + " " + why + ": remove its folder and make a new one with " +
                      "engramctl certs issue");
  };
  if (info.name != name) return refuse("is of '" + info.name + "', not of '" + name + "'");
  if (info.is_ca) return refuse("is a CA's certificate");
  if (!info.role.has_value()) return refuse("has not exactly one role");
  const bool known = std::any_of(bundle.begin(), bundle.end(),
                                 [&](const Certificate& ca) { return present.IsSignedBy(ca); });
  return known ? Status() : refuse("is not signed by a CA of " + std::string(kCaFile));
}

}  // namespace

Result<std::vector<Certificate>> ReadCertificates(const fs::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string pem, ReadFile(file));
  return Certificate::FromPem(pem, file.string());
}

Result<PrivateKey> ReadPrivateKey(const fs::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string pem, ReadFile(file));
  return PrivateKey::FromPem(pem, file.string());
}

Result<std::vector<std::string>> CertificateNames(const fs::path& dir) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator entry(dir, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (Exists(entry->path() / kCertificateFile)) {
      names.push_back(entry->path().filename().string());
    }
  }
  if (error) {
    const bool missing = error == std::errc::no_such_file_or_directory;
    return Error(missing ? StatusCode::kNotFound : StatusCode::kIo,
                 "cannot list " + dir.string() + ": " + error.message());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void CertificateFolder::Unlock::operator()(const int* descriptor) const {
  ::close(*descriptor);
  delete descriptor;
}

Result<CertificateFolder::Lock> CertificateFolder::LockFolder(const fs::path& dir) {
  Lock lock(new int(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  if (*lock < 0) return Error(ErrnoFailed("open", dir));
  // Where a file system has no locks, people must take turns themselves.
  while (::flock(*lock, LOCK_EX) != 0 && errno == EINTR) {
  }
  return lock;
}

Result<CertificateFolder> CertificateFolder::Create(const fs::path& dir, int days, UnixTime now) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) {
    return Error(StatusCode::kIo, "cannot create " + dir.string() + ": " + error.message());
  }
  ENGRAM_ASSIGN_OR_RETURN(Lock lock, LockFolder(dir));
  const bool has_certificate = Exists(dir / kCaFile);
  const bool has_key = Exists(dir / kCaKeyFile);
  if (has_certificate && has_key) {
    return Error(StatusCode::kAlreadyExists,
                 dir.string() + " has a CA: go on with engramctl certs issue, or replace the CA " +
                     "with engramctl certs rotate --ca");
  }
  if (has_certificate || has_key) {
    return Error(StatusCode::kAlreadyExists,
                 (dir / (has_key ? kCaKeyFile : kCaFile)).string() + " is there without " +
                     (has_key ? kCaFile : kCaKeyFile) +
                     ": bring the other one back, or choose another --dir");
  }
  ENGRAM_ASSIGN_OR_RETURN(PrivateKey key, PrivateKey::Generate());
  ENGRAM_ASSIGN_OR_RETURN(Certificate ca, MakeCaCertificate(key, days, now));
  ENGRAM_ASSIGN_OR_RETURN(const std::string key_pem, key.Pem());
  ENGRAM_ASSIGN_OR_RETURN(const std::string ca_pem, ca.Pem());
  ENGRAM_TRY(WriteFile(dir / kCaKeyFile, key_pem, kKeyMode));
  ENGRAM_TRY(WriteFile(dir / kCaFile, ca_pem, kCertificateMode));
  CertificateFolder folder(dir, std::move(lock), std::move(key));
  folder.bundle_.push_back(std::move(ca));
  return folder;
}

Result<CertificateFolder> CertificateFolder::Open(const fs::path& dir) {
  if (!Exists(dir) || (!Exists(dir / kCaFile) && !Exists(dir / kCaKeyFile))) {
    return Error(StatusCode::kNotFound,
                 dir.string() + " has no CA: make one with engramctl certs init, or name the " +
                     "folder where that was done with --dir");
  }
  ENGRAM_ASSIGN_OR_RETURN(Lock lock, LockFolder(dir));
  if (!Exists(dir / kCaKeyFile)) {
    return Error(StatusCode::kNotFound,
                 (dir / kCaKeyFile).string() +
                     " is not there: this needs the CA's key, run it where engramctl certs init "
                     "was run");
  }
  ENGRAM_ASSIGN_OR_RETURN(PrivateKey key, ReadPrivateKey(dir / kCaKeyFile));
  ENGRAM_ASSIGN_OR_RETURN(auto bundle, ReadCertificates(dir / kCaFile));
  const auto signer = std::find_if(bundle.begin(), bundle.end(), [&](const Certificate& ca) {
    return ca.info().is_ca && ca.HasKey(key);
  });
  if (signer == bundle.end()) {
    return Error(StatusCode::kFailedPrecondition,
                 (dir / kCaKeyFile).string() + " is the key of no CA in " +
                     (dir / kCaFile).string() + ": put the pair that was made together");
  }
  CertificateFolder folder(dir, std::move(lock), std::move(key));
  folder.signer_ = static_cast<size_t>(signer - bundle.begin());
  folder.bundle_ = std::move(bundle);
  return folder;
}

Result<Certificate> CertificateFolder::MakeAndWrite(const CertificateRequest& request,
                                                    UnixTime now) const {
  ENGRAM_ASSIGN_OR_RETURN(const PrivateKey key, PrivateKey::Generate());
  ENGRAM_ASSIGN_OR_RETURN(Certificate made, MakeCertificate(ca(), ca_key_, key, request, now));
  ENGRAM_ASSIGN_OR_RETURN(const std::string key_pem, key.Pem());
  ENGRAM_ASSIGN_OR_RETURN(const std::string pem, made.Pem());
  ENGRAM_ASSIGN_OR_RETURN(const std::string bundle_pem, BundlePem(bundle_));
  const fs::path own = dir_ / request.name;
  std::error_code error;
  fs::create_directory(own, error);
  if (error) {
    return Error(StatusCode::kIo, "cannot create " + own.string() + ": " + error.message());
  }
  ENGRAM_TRY(WriteFile(own / kCaFile, bundle_pem, kCertificateMode));
  ENGRAM_TRY(WriteFile(own / kKeyFile, key_pem, kKeyMode));
  ENGRAM_TRY(WriteFile(own / kCertificateFile, pem, kCertificateMode));
  return made;
}

Result<Certificate> CertificateFolder::Issue(const CertificateRequest& request, UnixTime now) {
  ENGRAM_TRY(CheckCertificateName(request.name));
  const fs::path own = dir_ / request.name;
  if (Exists(own / kCertificateFile)) {
    return Error(StatusCode::kAlreadyExists, (own / kCertificateFile).string() +
                                                 " exists: replace it with engramctl certs "
                                                 "rotate --name " +
                                                 request.name);
  }
  if (Exists(own / kKeyFile)) {
    return Error(StatusCode::kAlreadyExists,
                 (own / kKeyFile).string() +
                     " exists without its certificate: remove it, or choose another name");
  }
  return MakeAndWrite(request, now);
}

Result<Certificate> CertificateFolder::Reissue(const std::string& name, int days, UnixTime now) {
  ENGRAM_TRY(CheckCertificateName(name));
  const fs::path file = dir_ / name / kCertificateFile;
  if (!Exists(file)) {
    return Error(StatusCode::kNotFound,
                 file.string() +
                     " is not there: engramctl certs show lists the certificates, "
                     "certs issue makes one");
  }
  ENGRAM_ASSIGN_OR_RETURN(const Certificate present, ReadOwnCertificate(file));
  ENGRAM_TRY(CheckReissue(present, name, file, bundle_));
  const CertificateInfo& info = present.info();
  auto made = MakeAndWrite({*info.role, name, info.hosts, days}, now);
  if (!made.has_value()) return Error(made.error().WithContext(file.string()));
  return made;
}

Status CertificateFolder::WriteBundles(const std::string& bundle_pem) const {
  const auto names = CertificateNames(dir_);
  if (!names.has_value()) return names.error();
  ENGRAM_RETURN_IF_ERROR(WriteFile(dir_ / kCaFile, bundle_pem, kCertificateMode));
  for (const std::string& name : *names) {
    ENGRAM_RETURN_IF_ERROR(WriteFile(dir_ / name / kCaFile, bundle_pem, kCertificateMode));
  }
  return Status();
}

Status CertificateFolder::RotateCa(int days, UnixTime now) {
  auto key = PrivateKey::Generate();
  if (!key.has_value()) return key.error();
  auto made = MakeCaCertificate(*key, days, now);
  if (!made.has_value()) return made.error();
  const auto key_pem = key->Pem();
  if (!key_pem.has_value()) return key_pem.error();
  auto pem = made->Pem();
  if (!pem.has_value()) return pem.error();
  // CAs that have expired stay too, until DropOldCas: they are trusted by nobody, and tell that a
  // certificate to be made again is one of this folder.
  const auto old_pem = BundlePem(bundle_);
  if (!old_pem.has_value()) return old_pem.error();
  ENGRAM_RETURN_IF_ERROR(WriteBundles(*pem + *old_pem));
  // Last: nothing is signed with it before all bundles have it.
  ENGRAM_RETURN_IF_ERROR(WriteFile(dir_ / kCaKeyFile, *key_pem, kKeyMode));
  bundle_.insert(bundle_.begin(), *std::move(made));
  signer_ = 0;
  ca_key_ = *std::move(key);
  return Status();
}

Result<std::vector<Certificate>> CertificateFolder::DropOldCas() {
  ENGRAM_ASSIGN_OR_RETURN(const auto names, CertificateNames(dir_));
  for (const std::string& name : names) {
    const fs::path file = dir_ / name / kCertificateFile;
    ENGRAM_ASSIGN_OR_RETURN(const Certificate certificate, ReadOwnCertificate(file));
    if (certificate.IsSignedBy(ca())) continue;
    return Error(StatusCode::kFailedPrecondition,
                 file.string() + " is still signed by " + certificate.info().issuer +
                     ", and would be refused: replace it first with engramctl certs rotate "
                     "--name " +
                     name + ", or all with --within-days 100000");
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string ca_pem, ca().Pem());
  ENGRAM_TRY(WriteBundles(ca_pem));
  std::swap(bundle_.front(), bundle_[signer_]);
  signer_ = 0;
  std::vector<Certificate> dropped(std::make_move_iterator(bundle_.begin() + 1),
                                   std::make_move_iterator(bundle_.end()));
  bundle_.erase(bundle_.begin() + 1, bundle_.end());
  return dropped;
}

}  // namespace engram

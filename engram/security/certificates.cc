#include "engram/security/certificates.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <climits>
#include <ctime>
#include <utility>

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

namespace engram {
namespace {

// The clocks of a cluster differ: what is made now is valid everywhere at once.
constexpr std::chrono::minutes kClockSkew{5};
constexpr int kSerialBits = 128;
constexpr size_t kHostBytesMax = 253;  // of DNS
constexpr size_t kLabelBytesMax = 63;

template <auto kFree>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, FreeWith<BIO_free_all>>;
using BigNumber = std::unique_ptr<BIGNUM, FreeWith<BN_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, FreeWith<X509_EXTENSION_free>>;
using GeneralNames = std::unique_ptr<GENERAL_NAMES, FreeWith<GENERAL_NAMES_free>>;
using GeneralName = std::unique_ptr<GENERAL_NAME, FreeWith<GENERAL_NAME_free>>;
using X509Pointer = std::unique_ptr<X509, FreeWith<X509_free>>;

// What OpenSSL complained about last; its queue of errors is empty then.
std::string OpenSslReason() {
  const unsigned long code = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  ERR_clear_error();
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "unknown error" : reason;
}

Status OpenSslFailed(const std::string& what) {
  return Status(StatusCode::kInternal, "cannot make " + what + ": " + OpenSslReason());
}

std::string Printable(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  return text;
}

std::string BioText(BIO* bio) {
  char* bytes = nullptr;
  const auto count = BIO_get_mem_data(bio, &bytes);
  return count > 0 ? std::string(bytes, static_cast<size_t>(count)) : std::string();
}

Bio BioOf(std::string_view text) {
  const size_t bytes = std::min<size_t>(text.size(), INT_MAX);
  return Bio(BIO_new_mem_buf(bytes == 0 ? "" : text.data(), static_cast<int>(bytes)));
}

bool IsAddress(std::string_view host) {
  std::array<unsigned char, sizeof(in6_addr)> bytes{};
  const std::string text(host);
  if (text.find('\0') != std::string::npos) return false;
  return inet_pton(AF_INET, text.c_str(), bytes.data()) == 1 ||
         inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1;
}

bool IsLetterOrDigit(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

bool IsHostName(std::string_view host) {
  if (host.starts_with("*.")) host.remove_prefix(2);
  if (host.empty() || host.size() > kHostBytesMax) return false;
  std::string_view label;
  while (true) {
    const size_t dot = host.find('.');
    label = host.substr(0, dot);
    if (label.empty() || label.size() > kLabelBytesMax || label.front() == '-' ||
        label.back() == '-') {
      return false;
    }
    // DNS forbids '_', container networks have it in names.
    if (!std::all_of(label.begin(), label.end(),
                     [](char c) { return IsLetterOrDigit(c) || c == '-' || c == '_'; })) {
      return false;
    }
    if (dot == std::string_view::npos) break;
    host.remove_prefix(dot + 1);
  }
  // The last label is no number, or "10.0.0.256" would pass for a name.
  return !std::all_of(label.begin(), label.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Status CheckDays(int days) {
  if (days >= 1 && days <= kCertificateDaysMax) return Status();
  return Status(StatusCode::kInvalidArgument, "a certificate is valid for 1 to " +
                                                  std::to_string(kCertificateDaysMax) +
                                                  " days, not " + std::to_string(days));
}

// ---- Reading ----

std::string EntryText(const X509_NAME* name, int at) {
  unsigned char* bytes = nullptr;
  const int count =
      ASN1_STRING_to_UTF8(&bytes, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
  if (count < 0) return {};
  std::string text(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
  OPENSSL_free(bytes);
  return text;
}

std::string CommonName(X509_NAME* name) {
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  return at < 0 ? std::string() : Printable(EntryText(name, at));
}

std::optional<Role> RoleOf(X509_NAME* subject) {
  std::optional<Role> role;
  for (int at = X509_NAME_get_index_by_NID(subject, NID_organizationName, -1); at >= 0;
       at = X509_NAME_get_index_by_NID(subject, NID_organizationName, at)) {
    const std::string organization = EntryText(subject, at);
    if (!organization.starts_with(kRoleOrganizationPrefix)) continue;
    if (role.has_value()) return std::nullopt;
    role = ParseRole(std::string_view(organization).substr(kRoleOrganizationPrefix.size()));
    if (!role.has_value()) return std::nullopt;
  }
  return role;
}

std::optional<UnixTime> TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return std::nullopt;
  return UnixTime(std::chrono::seconds(::timegm(&parts)));
}

std::string HostText(GENERAL_NAME* name) {
  int kind = 0;
  const auto* const value = static_cast<const ASN1_STRING*>(GENERAL_NAME_get0_value(name, &kind));
  if (kind == GEN_DNS) {
    return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                       static_cast<size_t>(ASN1_STRING_length(value)));
  }
  if (kind == GEN_IPADD) {
    const int bytes = ASN1_STRING_length(value);
    std::array<char, INET6_ADDRSTRLEN> text{};
    if ((bytes == 4 || bytes == 16) &&
        inet_ntop(bytes == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(value), text.data(),
                  text.size()) != nullptr) {
      return text.data();
    }
  }
  const Bio bio(BIO_new(BIO_s_mem()));
  return GENERAL_NAME_print(bio.get(), name) == 1 ? BioText(bio.get()) : "unknown";
}

std::vector<std::string> HostsOf(const X509* certificate) {
  const GeneralNames names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> hosts;
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    hosts.push_back(Printable(HostText(sk_GENERAL_NAME_value(names.get(), i))));
  }
  return hosts;
}

std::string SerialText(X509* certificate) {
  const BigNumber number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  char* const text = number == nullptr ? nullptr : BN_bn2hex(number.get());
  if (text == nullptr) return {};
  std::string serial = text;
  OPENSSL_free(text);
  return serial;
}

std::string FingerprintText(const X509* certificate) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int bytes = 0;
  if (X509_digest(certificate, EVP_sha256(), digest.data(), &bytes) != 1) return {};
  static constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) {
    if (i > 0) text += ':';
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

// ---- Making ----

struct Subject {
  std::string organization;  // empty: none
  std::string common_name;
};

bool AddEntry(X509_NAME* name, const char* field, const std::string& text) {
  return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(text.data()),
                                    static_cast<int>(text.size()), -1, 0) == 1;
}

bool SetRandomSerial(X509* certificate) {
  const BigNumber number(BN_new());
  return number != nullptr &&
         BN_rand(number.get(), kSerialBits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
         BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool SetTime(ASN1_TIME* field, UnixTime time) {
  return ASN1_TIME_set(field, time.time_since_epoch().count()) != nullptr;
}

// All but issuer, extensions and signature.
X509Pointer Draft(const Subject& subject, const PrivateKey& key, UnixTime now, UnixTime end) {
  X509Pointer draft(X509_new());
  if (draft == nullptr) return nullptr;
  X509* const x = draft.get();
  X509_NAME* const name = X509_get_subject_name(x);
  const bool made = X509_set_version(x, X509_VERSION_3) == 1 && SetRandomSerial(x) &&
                    SetTime(X509_getm_notBefore(x), now - kClockSkew) &&
                    SetTime(X509_getm_notAfter(x), end) &&
                    (subject.organization.empty() || AddEntry(name, "O", subject.organization)) &&
                    AddEntry(name, "CN", subject.common_name) && X509_set_pubkey(x, key.get()) == 1;
  return made ? std::move(draft) : nullptr;
}

// `value` as in OpenSSL's configuration files: never text from outside.
bool AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

GeneralName MakeGeneralName(const std::string& host) {
  GeneralName name(GENERAL_NAME_new());
  if (name == nullptr) return nullptr;
  if (IsAddress(host)) {
    ASN1_OCTET_STRING* const address = a2i_IPADDRESS(host.c_str());
    if (address == nullptr) return nullptr;
    GENERAL_NAME_set0_value(name.get(), GEN_IPADD, address);
    return name;
  }
  ASN1_IA5STRING* const text = ASN1_IA5STRING_new();
  if (text == nullptr) return nullptr;
  GENERAL_NAME_set0_value(name.get(), GEN_DNS, text);
  if (ASN1_STRING_set(text, host.data(), static_cast<int>(host.size())) != 1) return nullptr;
  return name;
}

bool AddHosts(X509* certificate, const std::vector<std::string>& hosts) {
  if (hosts.empty()) return true;
  const GeneralNames names(sk_GENERAL_NAME_new_null());
  if (names == nullptr) return false;
  for (const std::string& host : hosts) {
    GeneralName name = MakeGeneralName(host);
    if (name == nullptr || sk_GENERAL_NAME_push(names.get(), name.get()) == 0) return false;
    (void)name.release();
  }
  return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, 0) == 1;
}

std::string RandomDigits() {
  std::array<unsigned char, 4> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) return {};
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Status CheckRequest(const CertificateRequest& request) {
  ENGRAM_RETURN_IF_ERROR(CheckCertificateName(request.name));
  if (request.name.ends_with('*') && request.role != Role::kNode) {
    return Status(StatusCode::kInvalidArgument,
                  "'" + request.name + "' is a prefix, which only memory nodes have (role node)");
  }
  ENGRAM_RETURN_IF_ERROR(CheckDays(request.days));
  if (request.hosts.size() > kCertificateHostsMax) {
    return Status(StatusCode::kInvalidArgument, "a certificate has at most " +
                                                    std::to_string(kCertificateHostsMax) +
                                                    " hosts: make one for each process");
  }
  for (const std::string& host : request.hosts) ENGRAM_RETURN_IF_ERROR(CheckCertificateHost(host));
  return Status();
}

Status CheckIssuer(const Certificate& ca, const PrivateKey& ca_key, UnixTime now) {
  const CertificateInfo& info = ca.info();
  if (!info.is_ca || !ca.HasKey(ca_key)) {
    return Status(StatusCode::kFailedPrecondition,
                  "the key is not that of a CA named " + info.name);
  }
  if (now >= info.not_after || now < info.not_before) {
    return Status(StatusCode::kFailedPrecondition,
                  "the CA " + info.name +
                      " is not valid now: if the clock is right, make a new one with engramctl "
                      "certs rotate --ca");
  }
  return Status();
}

}  // namespace

Status CheckCertificateName(std::string_view name) {
  const std::string_view letters = name.substr(0, name.size() - (name.ends_with('*') ? 1 : 0));
  const bool allowed = std::all_of(letters.begin(), letters.end(), [](char c) {
    return IsLetterOrDigit(c) || c == '.' || c == '-' || c == '_';
  });
  if (allowed && !letters.empty() && name.size() <= kCertificateNameBytesMax && name[0] != '.' &&
      name[0] != '-' && name != "ca.crt" && name != "ca.key") {
    return Status();
  }
  return Status(StatusCode::kInvalidArgument,
                "'" + Printable(std::string(name)) + "' cannot be a certificate's name: 1 to " +
                    std::to_string(kCertificateNameBytesMax) +
                    " letters, digits, '.', '-' and '_', the first no '.' or '-', and not ca.crt "
                    "or ca.key; '*' only at the end, of memory nodes with one prefix");
}

Status CheckCertificateHost(std::string_view host) {
  if (IsAddress(host) || IsHostName(host)) return Status();
  return Status(StatusCode::kInvalidArgument,
                "'" + Printable(std::string(host)) +
                    "' is no host name and no IP address (without brackets, without a port)");
}

void PrivateKey::Free::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }

Result<PrivateKey> PrivateKey::Generate() {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  if (key == nullptr) return Error(OpenSslFailed("a key"));
  return PrivateKey(key);
}

Result<PrivateKey> PrivateKey::FromPem(std::string_view pem, const std::string& source) {
  const Bio bio = BioOf(pem);
  // Without this, OpenSSL asks for an encrypted key's password on the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  EVP_PKEY* const key = PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr);
  if (key == nullptr) {
    return Error(StatusCode::kMalformed, source + " has no private key in PEM, or it is damaged " +
                                             "or encrypted: " + OpenSslReason());
  }
  return PrivateKey(key);
}

Result<std::string> PrivateKey::Pem() const {
  const Bio bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0,
                                                      nullptr, nullptr) != 1) {
    return Error(OpenSslFailed("a key's text"));
  }
  return BioText(bio.get());
}

void Certificate::Free::operator()(x509_st* certificate) const { X509_free(certificate); }

Result<Certificate> Certificate::FromX509(x509_st* certificate, const std::string& source) {
  Certificate read(certificate);
  X509_NAME* const subject = X509_get_subject_name(certificate);
  CertificateInfo& info = read.info_;
  info.name = CommonName(subject);
  info.role = RoleOf(subject);
  info.is_ca = X509_check_ca(certificate) == 1;
  const auto not_before = TimeOf(X509_get0_notBefore(certificate));
  const auto not_after = TimeOf(X509_get0_notAfter(certificate));
  if (!not_before.has_value() || !not_after.has_value()) {
    ERR_clear_error();
    return Error(StatusCode::kMalformed, source + ": a certificate's time cannot be read");
  }
  info.not_before = *not_before;
  info.not_after = *not_after;
  info.hosts = HostsOf(certificate);
  info.issuer = CommonName(X509_get_issuer_name(certificate));
  info.serial = SerialText(certificate);
  info.fingerprint = FingerprintText(certificate);
  ERR_clear_error();
  return read;
}

Result<std::vector<Certificate>> Certificate::FromPem(std::string_view pem,
                                                      const std::string& source) {
  const Bio bio = BioOf(pem);
  std::vector<Certificate> certificates;
  ERR_clear_error();
  while (X509* const x = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    ENGRAM_ASSIGN_OR_RETURN(Certificate read, FromX509(x, source));
    certificates.push_back(std::move(read));
  }
  // The end shows itself as an error too.
  const unsigned long error = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  const bool at_end =
      ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  const std::string reason = OpenSslReason();
  if (!at_end) {
    return Error(StatusCode::kMalformed, source + ": a certificate is damaged: " + reason);
  }
  if (certificates.empty()) {
    return Error(StatusCode::kMalformed, source + " has no certificate in PEM");
  }
  return certificates;
}

Result<std::string> Certificate::Pem() const {
  const Bio bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate_.get()) != 1) {
    return Error(OpenSslFailed("a certificate's text"));
  }
  return BioText(bio.get());
}

bool Certificate::IsSignedBy(const Certificate& ca) const {
  EVP_PKEY* const ca_key = X509_get0_pubkey(ca.get());
  const bool is_signed = ca_key != nullptr && X509_check_issued(ca.get(), get()) == X509_V_OK &&
                         X509_verify(get(), ca_key) == 1;
  ERR_clear_error();
  return is_signed;
}

bool Certificate::HasKey(const PrivateKey& key) const {
  EVP_PKEY* const own = X509_get0_pubkey(get());
  const bool same = own != nullptr && EVP_PKEY_eq(own, key.get()) == 1;
  ERR_clear_error();
  return same;
}

Result<Certificate> MakeCaCertificate(const PrivateKey& key, int days, UnixTime now) {
  ENGRAM_TRY(CheckDays(days));
  const std::string digits = RandomDigits();
  if (digits.empty()) return Error(OpenSslFailed("a CA's name"));
  X509Pointer draft =
      Draft({"", "engram-pool CA " + digits}, key, now, now + std::chrono::hours(24) * days);
  if (draft == nullptr) return Error(OpenSslFailed("a CA certificate"));
  X509* const x = draft.get();
  if (X509_set_issuer_name(x, X509_get_subject_name(x)) != 1 ||
      !AddExtension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !AddExtension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !AddExtension(x, x, NID_subject_key_identifier, "hash") ||
      X509_sign(x, key.get(), EVP_sha256()) == 0) {
    return Error(OpenSslFailed("a CA certificate"));
  }
  return Certificate::FromX509(draft.release(), "the new CA");
}

Result<Certificate> MakeCertificate(const Certificate& ca, const PrivateKey& ca_key,
                                    const PrivateKey& key, const CertificateRequest& request,
                                    UnixTime now) {
  ENGRAM_TRY(CheckRequest(request));
  ENGRAM_TRY(CheckIssuer(ca, ca_key, now));
  std::vector<std::string> hosts = request.hosts;
  if (hosts.empty() && CheckCertificateHost(request.name).ok()) hosts.push_back(request.name);
  const Subject subject = {
      std::string(kRoleOrganizationPrefix) + std::string(RoleName(request.role)), request.name};
  const UnixTime end =
      std::min<UnixTime>(now + std::chrono::hours(24) * request.days, ca.info().not_after);
  X509Pointer draft = Draft(subject, key, now, end);
  if (draft == nullptr) return Error(OpenSslFailed("a certificate"));
  X509* const x = draft.get();
  if (X509_set_issuer_name(x, X509_get_subject_name(ca.get())) != 1 ||
      !AddExtension(x, ca.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !AddExtension(x, ca.get(), NID_key_usage, "critical,digitalSignature") ||
      !AddExtension(x, ca.get(), NID_ext_key_usage, "serverAuth,clientAuth") ||
      !AddExtension(x, ca.get(), NID_subject_key_identifier, "hash") ||
      !AddExtension(x, ca.get(), NID_authority_key_identifier, "keyid:always") ||
      !AddHosts(x, hosts) || X509_sign(x, ca_key.get(), EVP_sha256()) == 0) {
    return Error(OpenSslFailed("a certificate"));
  }
  return Certificate::FromX509(draft.release(), "the new certificate");
}

}  // namespace engram

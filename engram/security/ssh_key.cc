#include "engram/security/ssh_key.h"

#include <array>
#include <string_view>

#include <openssl/core_names.h>
#include <openssl/evp.h>

namespace engram {
namespace {

constexpr std::string_view kKind = "ecdsa-sha2-nistp256";
constexpr std::string_view kCurve = "nistp256";
constexpr size_t kPointBytes = 65;  // 4, then both coordinates

// RFC 4251: a length in four bytes, the highest first.
void AppendString(std::string_view text, std::string* out) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(text.size() >> shift & 0xff));
  }
  out->append(text);
}

std::string Base64(const std::string& bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(length));
  return text;
}

}  // namespace

Result<std::string> SshPublicKey(const PrivateKey& key) {
  std::array<char, 64> group{};
  size_t group_bytes = 0;
  if (EVP_PKEY_get_group_name(key.get(), group.data(), group.size(), &group_bytes) != 1 ||
      std::string_view(group.data(), group_bytes) != "prime256v1") {
    return Error(StatusCode::kInvalidArgument, "the key is not on the curve P-256");
  }
  std::array<unsigned char, kPointBytes> point{};
  size_t point_bytes = 0;
  if (EVP_PKEY_get_octet_string_param(key.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                      point.size(), &point_bytes) != 1 ||
      point_bytes != kPointBytes) {
    return Error(StatusCode::kInternal, "OpenSSL does not give the key's point");
  }
  std::string blob;
  AppendString(kKind, &blob);
  AppendString(kCurve, &blob);
  AppendString({reinterpret_cast<const char*>(point.data()), point.size()}, &blob);
  return std::string(kKind) + " " + Base64(blob);
}

}  // namespace engram

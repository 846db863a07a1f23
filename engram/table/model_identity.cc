// docs/formats/model_identity.md
#include <string>
#include <type_traits>
#include <vector>

#include <openssl/evp.h>

#include "engram/base/check.h"
#include "engram/table/table_layout.h"

namespace engram {
namespace {

constexpr std::string_view kFormat = "engram model identity 1\n";
static_assert(kFormat.size() == 24);

// Appends integers in little-endian order.
class Encoder {
 public:
  explicit Encoder(size_t bytes) { bytes_.reserve(bytes); }
  template <typename T>
  void Append(T value) {
    auto bits = static_cast<std::make_unsigned_t<T>>(value);
    for (size_t i = 0; i < sizeof(T); ++i) {
      bytes_.push_back(static_cast<uint8_t>(bits & 0xff));
      if constexpr (sizeof(T) > 1) bits >>= 8;
    }
  }
  void Append(std::string_view text) { bytes_.insert(bytes_.end(), text.begin(), text.end()); }
  [[nodiscard]] const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace

ModelIdentity ComputeModelIdentity(const TableSpec& spec, std::span<const int32_t> compression) {
  const HashSpec& hash = spec.hash;
  Encoder out(4096 + compression.size() * sizeof(int32_t));
  out.Append(kFormat);
  out.Append(static_cast<uint32_t>(hash.variant));
  out.Append(hash.max_ngram_size);
  out.Append(hash.head_count);
  out.Append(static_cast<uint32_t>(hash.base_sizes.size()));
  for (const int64_t size : hash.base_sizes) out.Append(size);
  out.Append(static_cast<uint32_t>(hash.layer_ids.size()));
  for (const int32_t id : hash.layer_ids) out.Append(id);
  out.Append(hash.compressed_vocab_size);
  out.Append(hash.pad_id);
  out.Append(hash.seed);
  out.Append(static_cast<uint32_t>(spec.row_format));
  out.Append(spec.row_values);
  out.Append(static_cast<uint64_t>(compression.size()));
  for (const int32_t id : compression) out.Append(id);

  ModelIdentity identity{};
  unsigned int size = 0;
  const int ok = EVP_Digest(out.bytes().data(), out.bytes().size(), identity.data(), &size,
                            EVP_sha256(), nullptr);
  ENGRAM_CHECK(ok == 1 && size == identity.size());
  return identity;
}

std::string ModelIdentityHex(const ModelIdentity& identity) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(identity.size() * 2);
  for (const uint8_t byte : identity) {
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

}  // namespace engram

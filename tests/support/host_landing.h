// A stand-in for a GPU that rows land in: memory of the host. For tests of everything but the GPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "client/row_landing.h"
#include "engram/base/check.h"
#include "engram/base/crc32c.h"

namespace engram::test {

class HostLanding final : public RowLanding {
 public:
  bool claims_gpu = false;                  // of_gpu
  std::atomic<uint64_t> blocks_max{~0ull};  // Allocate fails from then on
  std::atomic<bool> copies_wrong{false};    // CopyToHost gives other bytes
  std::atomic<bool> keep_fails{false};      // as a GPU that broke down
  std::atomic<uint64_t> blocks{0};          // that there are
  std::atomic<uint64_t> kept{0};            // rows, right ones

  ~HostLanding() override { ENGRAM_CHECK(blocks == 0); }
  HostLanding() = default;
  HostLanding(const HostLanding&) = delete;
  HostLanding& operator=(const HostLanding&) = delete;

  [[nodiscard]] bool of_gpu() const override { return claims_gpu; }
  [[nodiscard]] Result<Block> Allocate(size_t bytes) override {
    if (blocks >= blocks_max) return Error(StatusCode::kResourceExhausted, "the GPU is full");
    ++blocks;
    return Block(new std::byte[bytes], {this});
  }
  [[nodiscard]] Status CopyToHost(const std::byte* from, std::span<std::byte> to) override {
    std::memcpy(to.data(), from, to.size());
    if (copies_wrong) to[0] ^= std::byte{1};
    return {};
  }
  [[nodiscard]] Result<std::unique_ptr<LandedRows>> MakeRows(const Shape& shape) override {
    return std::make_unique<Rows>(this, shape);
  }

  // What a backend makes of `rows`, which landed here: the rows themselves, [tokens][columns].
  [[nodiscard]] static std::vector<std::byte> LookUp(const LayerRows& rows, size_t row_bytes) {
    std::vector<std::byte> out(rows.rows.size() / kRowIdBytes * row_bytes);
    const size_t columns = rows.rows.size() / kRowIdBytes / rows.token_count;
    for (size_t i = 0; i < out.size() / row_bytes; ++i) {
      if (!rows.dead.empty() && rows.dead[i / columns] != 0) continue;
      uint32_t id = 0;
      std::memcpy(&id, rows.rows.data() + i * kRowIdBytes, kRowIdBytes);
      ENGRAM_CHECK(id < rows.landed.row_count);
      std::memcpy(&out[i * row_bytes], rows.landed.rows + id * row_bytes, row_bytes);
    }
    return out;
  }

 protected:
  void Release(std::byte* memory) override {
    --blocks;
    delete[] memory;
  }

 private:
  class Rows final : public LandedRows {
   public:
    Rows(HostLanding* landing, const Shape& shape)
        : landing_(landing), shape_(shape), table_(size_t{shape.places} * shape.row_bytes) {}

    [[nodiscard]] LandedTable table() const override { return {table_.data(), shape_.places}; }
    [[nodiscard]] Status Keep(uint32_t part, const std::byte* stored, bool /*landed*/,
                              std::span<const Row> rows, uint8_t* right) override {
      ENGRAM_CHECK(part < shape_.part_count);
      if (landing_->keep_fails) return {StatusCode::kInternal, "the GPU broke down"};
      const size_t row_bytes = shape_.row_bytes;
      for (const Row& row : rows) {
        const std::byte* const from = stored + row.from * (row_bytes + kRowCrcBytes);
        uint32_t crc = 0;
        std::memcpy(&crc, from + row_bytes, sizeof(crc));
        *right = Crc32c(row.crc_of_place, from, row_bytes) == crc ? 1 : 0;
        if (*right++ == 0) continue;
        ENGRAM_CHECK(row.place < shape_.places);
        std::memcpy(&table_[row.place * row_bytes], from, row_bytes);
        ++landing_->kept;
      }
      return {};
    }

   private:
    HostLanding* const landing_;
    const Shape shape_;
    std::vector<std::byte> table_;
  };
};

}  // namespace engram::test

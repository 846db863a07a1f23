// Rows of remote tables in a GPU's memory: read into it by the network card where that can be, and
// checked there. The GPU's side is model_worker/cuda/device_landing.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "engram/transport/landing_memory.h"

namespace engram {

// The rows of one row source's batches, on the GPU, each in a place of its own.
class LandedRows {
 public:
  // A row as it was read, and where it belongs.
  struct Row {
    uint32_t crc_of_place = 0;  // RowPlaceCrc: of what its CRC covers before its bytes
    uint32_t from = 0;          // in `stored`
    uint32_t place = 0;         // in table()
  };
  virtual ~LandedRows() = default;

  // [places][row_bytes], on the GPU.
  [[nodiscard]] virtual LandedTable table() const = 0;
  // Checks each row's CRC, on the GPU, and keeps the right ones in their places. Waits for it.
  //   part    of the source's I/O threads, each of which is driven by one thread at a time
  //   stored  [..][row_bytes + kRowCrcBytes] in this landing's memory if `landed`, else the host's
  //   right   [rows] written: 1 = right and kept, 0 = its CRC is wrong
  // ERRORS: kInternal (CUDA): nothing may be believed of `right` then.
  [[nodiscard]] virtual Status Keep(uint32_t part, const std::byte* stored, bool landed,
                                    std::span<const Row> rows, uint8_t* right) = 0;
};

// Thread-safe. Must outlive every source and transport that was given it.
class RowLanding : public LandingMemory {
 public:
  struct Shape {
    uint32_t places = 0;
    uint32_t row_bytes = 0;
    uint32_t part_count = 0;
  };
  // ERRORS: kResourceExhausted with the bytes wanted.
  [[nodiscard]] virtual Result<std::unique_ptr<LandedRows>> MakeRows(const Shape& shape) = 0;
};

}  // namespace engram

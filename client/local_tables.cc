#include "client/local_tables.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <sys/mman.h>

namespace engram {

Result<std::shared_ptr<const LocalTables>> LocalTables::Load(
    const std::filesystem::path& model_dir, std::shared_ptr<const TableLayout> layout,
    const OnProgress& on_progress) {
  ENGRAM_ASSIGN_OR_RETURN(CheckpointRows checkpoint, CheckpointRows::Open(model_dir, layout));
  auto tables = std::shared_ptr<LocalTables>(new LocalTables(std::move(layout)));
  const TableLayout& shape = *tables->layout_;
  for (int32_t i = 0; i < shape.layer_count(); ++i) {
    constexpr size_t kHugePageBytes = size_t{2} << 20;
    Table table;
    table.bytes = (shape.row_count(i) * shape.row_bytes() + kHugePageBytes - 1) / kHugePageBytes *
                  kHugePageBytes;
    void* memory =
        mmap(nullptr, table.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      return Error(StatusCode::kResourceExhausted,
                   "the tables need " + std::to_string(checkpoint.total_bytes()) +
                       " bytes of memory in this process (" + std::strerror(errno) +
                       "): read them from memory nodes instead");
    }
    (void)madvise(memory, table.bytes, MADV_HUGEPAGE);  // only faster: no error if refused
    table.rows = static_cast<std::byte*>(memory);
    tables->tables_.push_back(table);
  }
  const auto read = [&](const CheckpointRows::Piece& piece) {
    std::byte* table = tables->tables_[static_cast<size_t>(piece.layer_index)].rows;
    return checkpoint.Read(
        piece.layer_index, piece.first, piece.count,
        {table + piece.first.value() * shape.row_bytes(), size_t{piece.count} * shape.row_bytes()});
  };
  ENGRAM_TRY(checkpoint.ForEachPiece(read, on_progress));
  return tables;
}

LocalTables::~LocalTables() {
  for (const Table& table : tables_) munmap(table.rows, table.bytes);
}

uint64_t LocalTables::bytes() const {
  uint64_t bytes = 0;
  for (const Table& table : tables_) bytes += table.bytes;
  return bytes;
}

}  // namespace engram

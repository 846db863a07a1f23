// MetadataStore in one SQLite file (write-ahead log, synchronous = FULL).
#pragma once

#include <filesystem>
#include <memory>

#include "coordinator/metadata_store.h"

struct sqlite3;

namespace engram {

class SqliteStore final : public MetadataStore {
 public:
  // Opens or makes the file. ERRORS: kIo naming file and reason; kFailedPrecondition when another
  // coordinator has it open; kCorrupt when it is another program's database.
  [[nodiscard]] static Result<std::unique_ptr<SqliteStore>> Open(const std::filesystem::path& file);
  ~SqliteStore() override;

  [[nodiscard]] Result<uint64_t> BeginTerm() override;
  [[nodiscard]] Result<std::vector<MetadataRecord>> ReadAll() override;
  [[nodiscard]] Status Commit(uint64_t term, const std::vector<MetadataRecord>& records) override;

 private:
  SqliteStore(std::filesystem::path file, sqlite3* db) : file_(std::move(file)), db_(db) {}
  [[nodiscard]] Status Execute(const char* sql);
  [[nodiscard]] Status Failure(const char* doing) const;
  [[nodiscard]] Result<uint64_t> ReadTerm();
  [[nodiscard]] Status Write(uint64_t term, const std::vector<MetadataRecord>& records);

  const std::filesystem::path file_;
  sqlite3* db_;  // owned
};

}  // namespace engram

// MetadataStore in one SQLite file (write-ahead log, synchronous = FULL).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "coordinator/metadata_store.h"

struct sqlite3;

namespace engram {

class SqliteStore final : public MetadataStore {
 public:
  // Opens or makes the file. ERRORS: kIo naming file and reason; kFailedPrecondition when another
  // coordinator has it open; kCorrupt when it is another program's database.
  [[nodiscard]] static Result<std::unique_ptr<SqliteStore>> Open(const std::filesystem::path& file);
  ~SqliteStore() override;

  // The file is a copy from earlier that was put in place: moves the term and the numbers in the
  // records (coordinator/restored_state.h) past what may have been given since. Before Campaign.
  //   name  of this restore: the file keeps it, and the same name again does nothing; empty: done
  //         whatever was done before
  // ERRORS: kIo, kCorrupt; nothing is changed then.
  [[nodiscard]] Status SkipGiven(const std::string& name);

  // The file is this process's alone: it leads at once, and again as soon as it has resigned.
  [[nodiscard]] Status Campaign(std::string address, std::function<void()> on_change) override;
  [[nodiscard]] Leadership leadership() const override;
  void Resign(uint64_t term) override;
  [[nodiscard]] bool shared() const override { return false; }
  [[nodiscard]] Result<std::vector<MetadataRecord>> ReadAll() override;
  [[nodiscard]] Status Commit(uint64_t term, const std::vector<MetadataRecord>& records) override;

 private:
  SqliteStore(std::filesystem::path file, sqlite3* db) : file_(std::move(file)), db_(db) {}
  [[nodiscard]] Status Execute(const char* sql);
  [[nodiscard]] Status Failure(const char* doing) const;
  [[nodiscard]] Result<uint64_t> ReadTerm();
  // Of the last restore; empty: there was none with a name.
  [[nodiscard]] Result<std::string> ReadRestored();
  [[nodiscard]] Status BeginTerm();
  [[nodiscard]] Status Write(uint64_t term, const std::vector<MetadataRecord>& records);

  const std::filesystem::path file_;
  sqlite3* db_;  // owned
  std::function<void()> on_change_;
  mutable std::mutex mutex_;
  Leadership leadership_;  // guarded by mutex_
};

}  // namespace engram

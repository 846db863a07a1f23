#include "coordinator/sqlite_store.h"

#include <string>
#include <utility>

#include <sqlite3.h>

#include "coordinator/restored_state.h"

namespace engram {
namespace {

constexpr int kApplicationId = 0x454e4750;  // "ENGP"

// One prepared statement. Finalised with it.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    if (sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr) != SQLITE_OK) statement_ = nullptr;
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  [[nodiscard]] bool ok() const { return statement_ != nullptr; }
  void BindText(int at, const std::string& text) {
    sqlite3_bind_text(statement_, at, text.data(), static_cast<int>(text.size()), SQLITE_STATIC);
  }
  void BindBlob(int at, const std::string& bytes) {
    sqlite3_bind_blob64(statement_, at, bytes.data(), bytes.size(), SQLITE_STATIC);
  }
  void BindInt(int at, uint64_t value) {
    sqlite3_bind_int64(statement_, at, static_cast<sqlite3_int64>(value));
  }
  [[nodiscard]] int Step() { return sqlite3_step(statement_); }
  void Reset() { sqlite3_reset(statement_); }
  [[nodiscard]] uint64_t Int(int column) {
    return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
  }
  [[nodiscard]] std::string Bytes(int column) {
    const void* data = sqlite3_column_blob(statement_, column);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
    return size == 0 ? std::string() : std::string(static_cast<const char*>(data), size);
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::filesystem::path& file) {
  sqlite3* db = nullptr;
  const int opened = sqlite3_open_v2(
      file.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<SqliteStore> store(new SqliteStore(file, db));
  if (opened != SQLITE_OK) {
    return Error(store->Failure("opening").WithContext(
        "give --state a file in a folder that exists and can be written"));
  }
  // One coordinator has the file for as long as it runs.
  sqlite3_busy_timeout(db, 2000);
  for (const char* sql :
       {"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL",
        "BEGIN IMMEDIATE",
        "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value BLOB NOT NULL) "
        "WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS term (one INTEGER PRIMARY KEY CHECK (one = 1), "
        "term INTEGER NOT NULL)",
        "INSERT OR IGNORE INTO term VALUES (1, 0)",
        "CREATE TABLE IF NOT EXISTS restored (one INTEGER PRIMARY KEY CHECK (one = 1), "
        "name TEXT NOT NULL)",
        "COMMIT"}) {
    if (Status status = store->Execute(sql); !status.ok()) {
      if (sqlite3_errcode(db) == SQLITE_BUSY) {
        return Error(StatusCode::kFailedPrecondition,
                     file.string() + " is open in another process: is a coordinator running?");
      }
      return Error(std::move(status));
    }
  }
  {
    Statement id(db, "PRAGMA application_id");
    if (!id.ok() || id.Step() != SQLITE_ROW) return Error(store->Failure("reading"));
    const uint64_t found = id.Int(0);
    if (found != 0 && found != kApplicationId) {
      return Error(StatusCode::kCorrupt, file.string() + " is another program's database");
    }
  }
  ENGRAM_TRY(store->Execute(("PRAGMA application_id = " + std::to_string(kApplicationId)).c_str()));
  return store;
}

SqliteStore::~SqliteStore() { sqlite3_close(db_); }

Status SqliteStore::Failure(const char* doing) const {
  const int code = sqlite3_errcode(db_);
  const bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
  return Status(damaged ? StatusCode::kCorrupt : StatusCode::kIo,
                std::string(doing) + " " + file_.string() + ": " + sqlite3_errmsg(db_));
}

Status SqliteStore::Execute(const char* sql) {
  return sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK ? Status()
                                                                        : Failure("writing");
}

Result<uint64_t> SqliteStore::ReadTerm() {
  Statement read(db_, "SELECT term FROM term WHERE one = 1");
  if (!read.ok() || read.Step() != SQLITE_ROW) return Error(Failure("reading"));
  return read.Int(0);
}

Result<std::string> SqliteStore::ReadRestored() {
  Statement read(db_, "SELECT name FROM restored WHERE one = 1");
  if (!read.ok()) return Error(Failure("reading"));
  const int step = read.Step();
  if (step == SQLITE_DONE) return std::string();
  if (step != SQLITE_ROW) return Error(Failure("reading"));
  return read.Bytes(0);
}

Status SqliteStore::SkipGiven(const std::string& name) {
  const auto restored = ReadRestored();
  if (!restored.has_value()) return restored.error();
  if (!name.empty() && *restored == name) return Status();
  const auto records = ReadAll();
  if (!records.has_value()) return records.error();
  const auto changed = SkipGivenNumbers(*records);
  if (!changed.has_value()) return changed.error();
  const Result<uint64_t> term = ReadTerm();
  if (!term.has_value()) return term.error();
  ENGRAM_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  Status status = Write(*term, *changed);
  if (status.ok()) {
    Statement update(db_, "UPDATE term SET term = ?1 WHERE one = 1");
    if (update.ok()) update.BindInt(1, *term + kRestoredTermsSkipped);
    if (!update.ok() || update.Step() != SQLITE_DONE) status = Failure("writing");
  }
  if (status.ok() && !name.empty()) {
    Statement keep(db_, "INSERT OR REPLACE INTO restored VALUES (1, ?1)");
    if (keep.ok()) keep.BindText(1, name);
    if (!keep.ok() || keep.Step() != SQLITE_DONE) status = Failure("writing");
  }
  if (status.ok()) status = Execute("COMMIT");
  if (!status.ok()) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

Status SqliteStore::Campaign(std::string address, std::function<void()> on_change) {
  on_change_ = std::move(on_change);
  {
    const std::lock_guard lock(mutex_);
    leadership_.leader = std::move(address);
  }
  return BeginTerm();
}

Status SqliteStore::BeginTerm() {
  const Result<uint64_t> last = ReadTerm();
  if (!last.has_value()) return last.error();
  Statement update(db_, "UPDATE term SET term = ?1 WHERE one = 1");
  if (!update.ok()) return Failure("writing");
  update.BindInt(1, *last + 1);
  if (update.Step() != SQLITE_DONE) return Failure("writing");
  {
    const std::lock_guard lock(mutex_);
    leadership_.term = *last + 1;
  }
  on_change_();
  return Status();
}

Leadership SqliteStore::leadership() const {
  const std::lock_guard lock(mutex_);
  return leadership_;
}

void SqliteStore::Resign(uint64_t term) {
  {
    const std::lock_guard lock(mutex_);
    if (leadership_.term != term) return;
    leadership_.term = 0;
  }
  // A file that cannot be written leaves this process without a term: nothing can be committed.
  if (!BeginTerm().ok()) on_change_();
}

Result<std::vector<MetadataRecord>> SqliteStore::ReadAll() {
  Statement read(db_, "SELECT key, value FROM records ORDER BY key");
  if (!read.ok()) return Error(Failure("reading"));
  std::vector<MetadataRecord> records;
  int step = read.Step();
  for (; step == SQLITE_ROW; step = read.Step()) {
    records.push_back({read.Bytes(0), read.Bytes(1)});
  }
  if (step != SQLITE_DONE) return Error(Failure("reading"));
  return records;
}

Status SqliteStore::Commit(uint64_t term, const std::vector<MetadataRecord>& records) {
  ENGRAM_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  Status status = Write(term, records);
  if (status.ok()) status = Execute("COMMIT");
  if (!status.ok()) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

Status SqliteStore::Write(uint64_t term, const std::vector<MetadataRecord>& records) {
  const Result<uint64_t> newest = ReadTerm();
  if (!newest.has_value()) return newest.error();
  if (*newest != term) {
    return Status(StatusCode::kFailedPrecondition,
                  "term " + std::to_string(*newest) + " has begun; this coordinator has term " +
                      std::to_string(term) + " and may change nothing any more");
  }
  Statement put(db_,
                "INSERT INTO records VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2");
  Statement erase(db_, "DELETE FROM records WHERE key = ?1");
  if (!put.ok() || !erase.ok()) return Failure("writing");
  for (const MetadataRecord& record : records) {
    Statement& statement = record.value.has_value() ? put : erase;
    statement.BindText(1, record.key);
    if (record.value.has_value()) statement.BindBlob(2, *record.value);
    if (statement.Step() != SQLITE_DONE) return Failure("writing");
    statement.Reset();
  }
  return Status();
}

}  // namespace engram

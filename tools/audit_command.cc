// Who changed what, and who was refused, from the audit log of a coordinator or a memory node.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include "engram/security/audit_log.h"
#include "tools/command.h"

namespace engram {
namespace {

constexpr auto kPollPause = std::chrono::milliseconds(200);
// A longer line is not one of ours.
constexpr size_t kLineBytesMax = 1u << 20;

struct Options {
  std::string file;
  std::string who;
  bool refused = false;
  bool follow = false;
};

// Control characters of a name would move the terminal's cursor.
std::string Plain(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

std::string TextOf(const nlohmann::json& entry, const char* key) {
  const auto found = entry.find(key);
  return found == entry.end() || !found->is_string() ? "" : Plain(found->get<std::string>());
}

bool Wanted(const nlohmann::json& entry, const Options& options) {
  return options.who.empty() || TextOf(entry, "who") == options.who;
}

struct Entry {
  nlohmann::json json;
  std::string line;
  std::string time;
};

Status Show(const Entry& shown, const Options& options, bool json) {
  const nlohmann::json& entry = shown.json;
  if (!Wanted(entry, options)) return {};
  if (json) return Print(shown.line + "\n");
  const std::string who = TextOf(entry, "who");
  std::string text = shown.time + "  ";
  text += who.empty() ? "somebody" : who + " (" + TextOf(entry, "role") + ")";
  text += "  " + TextOf(entry, "from") + "  " + TextOf(entry, "what");
  if (const std::string about = TextOf(entry, "about"); !about.empty()) text += " " + about;
  text += ": " + TextOf(entry, "outcome");
  if (const std::string message = TextOf(entry, "message"); !message.empty()) {
    text += ", " + message;
  }
  return Print(text + "\n");
}

// Gives the lines of a file as they come, also when another has its name meanwhile.
class Tail {
 public:
  explicit Tail(std::filesystem::path file) : file_(std::move(file)) {}

  // False: there is no such file.
  bool Read(std::vector<Entry>* entries) {
    if (!in_.is_open()) {
      inode_ = Inode();
      in_.open(file_);
      if (!in_.is_open()) return false;
    }
    for (char c = 0; in_.get(c);) {
      if (c != '\n') {
        if (text_.size() < kLineBytesMax) text_ += c;
        continue;
      }
      Take(entries);
      text_.clear();
    }
    // Another file has the name now: what the old one got last has been read.
    if (Inode() != inode_) {
      in_.close();
      text_.clear();
    }
    in_.clear();
    return true;
  }

 private:
  void Take(std::vector<Entry>* entries) const {
    auto entry = nlohmann::json::parse(text_, nullptr, false);
    if (!entry.is_object()) {
      std::fprintf(stderr, "engramctl: left out a line of %zu bytes that is no entry\n",
                   text_.size());
      return;
    }
    std::string time = TextOf(entry, "time");
    entries->push_back({std::move(entry), text_, std::move(time)});
  }
  [[nodiscard]] ino_t Inode() const {
    struct stat about {};
    return ::stat(file_.c_str(), &about) == 0 ? about.st_ino : 0;
  }

  const std::filesystem::path file_;
  std::ifstream in_;
  ino_t inode_ = 0;
  std::string text_;
};

Status Run(const Options& options, CommandLine& line) {
  line.json_done = line.json;
  Tail changes(options.file);
  Tail refusals(RefusalsBeside(options.file));
  while (true) {
    std::vector<Entry> entries;
    const bool there = changes.Read(&entries);
    if (options.refused) {
      // A file of refusals may be given itself.
      std::erase_if(entries, [](const Entry& entry) {
        return TextOf(entry.json, "outcome") != StatusCodeName(StatusCode::kPermissionDenied);
      });
    }
    if (!refusals.Read(&entries) && !there && !options.follow) {
      return {StatusCode::kNotFound, "cannot read " + options.file +
                                         ": it is what engram-coordinator or "
                                         "engram-shard-server was given as --audit-log"};
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.time < b.time; });
    for (const Entry& entry : entries) ENGRAM_RETURN_IF_ERROR(Show(entry, options, line.json));
    if (!options.follow) return {};
    std::this_thread::sleep_for(kPollPause);
  }
}

}  // namespace

void AddAuditCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("audit", "Show who changed what and who was refused, from an audit log");
  command->footer(
      "Coordinators and memory nodes write two files each where they are given --audit-log FILE:\n"
      "changes in audit.log, refusals in audit.refused.log, which are shown together by time. "
      "When\n"
      "one is full, it becomes audit.1.log or audit.refused.1.log and so on, which can be shown\n"
      "likewise. With --json each entry is one JSON document on a line of its own.\n\n"
      "Example:\n  engramctl audit /var/log/engram/audit.log --refused --follow");
  command->add_option("file", options->file, "The file")->required()->type_name("FILE");
  command->add_option("--who", options->who, "Entries of this name only");
  command->add_flag("--refused", options->refused, "Refusals only");
  command->add_flag("--follow", options->follow, "Go on with what happens, until interrupted");
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line); }; });
}

}  // namespace engram

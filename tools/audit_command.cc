// Who changed what, and who was refused, from the audit log of a coordinator or a memory node.
#include <fstream>
#include <memory>
#include <thread>

#include <sys/stat.h>

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
  if (!options.who.empty() && TextOf(entry, "who") != options.who) return false;
  return !options.refused || TextOf(entry, "outcome") == "PERMISSION_DENIED";
}

Status Show(const std::string& line, const Options& options, bool json) {
  const auto entry = nlohmann::json::parse(line, nullptr, false);
  if (!entry.is_object()) {
    std::fprintf(stderr, "engramctl: left out a line of %zu bytes that is no entry\n", line.size());
    return {};
  }
  if (!Wanted(entry, options)) return {};
  if (json) return Print(line + "\n");
  const std::string who = TextOf(entry, "who");
  std::string text = TextOf(entry, "time") + "  ";
  text += who.empty() ? "somebody" : who + " (" + TextOf(entry, "role") + ")";
  text += "  " + TextOf(entry, "from") + "  " + TextOf(entry, "what");
  if (const std::string about = TextOf(entry, "about"); !about.empty()) text += " " + about;
  text += ": " + TextOf(entry, "outcome");
  if (const std::string message = TextOf(entry, "message"); !message.empty()) {
    text += ", " + message;
  }
  return Print(text + "\n");
}

ino_t InodeOf(const std::string& file) {
  struct stat about {};
  return ::stat(file.c_str(), &about) == 0 ? about.st_ino : 0;
}

Status Run(const Options& options, CommandLine& line) {
  line.json_done = line.json;
  std::ifstream in;
  ino_t inode = 0;
  std::string text;
  while (true) {
    if (!in.is_open()) {
      inode = InodeOf(options.file);
      in.open(options.file);
      if (!in.is_open() && !options.follow) {
        return {StatusCode::kNotFound, "cannot read " + options.file +
                                           ": it is what engram-coordinator or "
                                           "engram-shard-server was given as --audit-log"};
      }
    }
    for (char c = 0; in.get(c);) {
      if (c != '\n') {
        if (text.size() < kLineBytesMax) text += c;
        continue;
      }
      ENGRAM_RETURN_IF_ERROR(Show(text, options, line.json));
      text.clear();
    }
    if (!options.follow) return {};
    // Another file has the name now: what the old one got last has been read.
    if (in.is_open() && InodeOf(options.file) != inode) {
      in.close();
      text.clear();
    }
    in.clear();
    std::this_thread::sleep_for(kPollPause);
  }
}

}  // namespace

void AddAuditCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("audit", "Show who changed what and who was refused, from an audit log");
  command->footer(
      "Coordinators and memory nodes write one each where they are given --audit-log FILE; when it "
      "is\n"
      "full, audit.log becomes audit.1.log and so on, which can be shown likewise. With --json "
      "each entry is "
      "one\n"
      "JSON document on a line of its own.\n\n"
      "Example:\n  engramctl audit /var/log/engram/audit.log --refused --follow");
  command->add_option("file", options->file, "The file")->required()->type_name("FILE");
  command->add_option("--who", options->who, "Entries of this name only");
  command->add_flag("--refused", options->refused, "Refusals only");
  command->add_flag("--follow", options->follow, "Go on with what happens, until interrupted");
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line); }; });
}

}  // namespace engram

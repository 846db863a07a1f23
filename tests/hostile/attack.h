// What an attack is, whom it attacks, and what it tells afterwards.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "engram/security/tls_identity.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_reader.h"

namespace engram::test {

// A running cluster of one coordinator and at least one memory node.
struct Victim {
  std::string coordinator;
  std::string coordinator_http;
  std::string node;  // control and data address
  std::string node_http;
  pid_t node_pid = 0;  // for the ports that UCX opens; 0 = attacks on them are left out
  // Folders of certificates, by holder: "reader", "other" (another reader), "operator", "impostor"
  // (a node with no node's name), "coordinator", "foreign" (an operator of another CA). Empty:
  // development mode.
  std::map<std::string, ChannelSecurity> holders;
  NodeTarget target;                 // of the version that is served
  std::vector<uint64_t> rows;        // addresses of some rows that there are
  uint64_t row_space = 0;            // addresses from here on name no row
  std::vector<std::string> command;  // starts another engram-hostile-peer at the same cluster

  [[nodiscard]] bool tls() const { return !holders.empty(); }
  // Development mode: nobody.
  [[nodiscard]] const ChannelSecurity& holder(const std::string& name) const;
  // As the coordinator gives it to `holder`, and for how long; empty in development mode.
  [[nodiscard]] Result<std::string> Token(const std::string& holder,
                                          std::chrono::milliseconds* lifetime = nullptr) const;
};

// Asks the coordinator what is served, as `security` allows. `node` etc. are left as they are.
[[nodiscard]] Status Describe(const ChannelSecurity& security, Victim* victim);

// What one attack did. Thread-compatible.
struct Tally {
  uint64_t messages = 0;                    // sent: frames, datagrams, connections without any
  std::map<std::string, uint64_t> answers;  // by what came back
  uint64_t given = 0;                       // what nobody there had a right to
  std::vector<std::string> violations;      // the first 20 of them, and what else must not be

  void Answer(std::string_view what) { ++answers[std::string(what)]; }
  void Violation(const std::string& what);
};

// A seeded source of bytes and choices.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  [[nodiscard]] uint64_t Number() { return random_(); }
  // 0 <= n < end.
  [[nodiscard]] uint64_t Below(uint64_t end) { return end == 0 ? 0 : random_() % end; }
  [[nodiscard]] bool OneIn(uint64_t n) { return Below(n) == 0; }
  [[nodiscard]] std::string Bytes(size_t count);
  // Some bits of `text` are others, it is cut off, or longer.
  [[nodiscard]] std::string Damaged(std::string text);
  // An interesting number: 0, 1, all ones, near a power of two, or any.
  [[nodiscard]] uint64_t Edge();

 private:
  std::mt19937_64 random_;
};

// Sends `messages` at least, and stops at `until` even if not all are sent.
struct Order {
  uint64_t messages = 0;
  std::chrono::steady_clock::time_point until;
  [[nodiscard]] bool Goes(const Tally& tally) const {
    return tally.messages < messages && std::chrono::steady_clock::now() < until;
  }
};

struct Attack {
  std::string_view name;
  std::string_view about;
  double share;  // of the messages of a run of all
  void (*run)(const Victim& victim, const Order& order, Dice& dice, Tally& tally);
};

// All there are, in the files by what they attack.
[[nodiscard]] std::vector<Attack> ByteAttacks();     // sockets of control and HTTP ports
[[nodiscard]] std::vector<Attack> CallAttacks();     // well-formed calls
[[nodiscard]] std::vector<Attack> DataAttacks();     // UCX messages
[[nodiscard]] std::vector<Attack> SessionAttacks();  // opening and leaving data sessions
[[nodiscard]] std::vector<Attack> PortAttacks();     // the port that UCX opens
[[nodiscard]] std::vector<Attack> ReaderAttacks();   // readers that are killed

// How a reader ends at one of its sends: instead of it, after it, or after it with a reset of that
// connection instead of an end; or it stands still from then on (SIGSTOP).
enum class EndOfReader : uint8_t { kBefore, kAfter, kReset, kStopped };
// This process as a reader, which ends at its n-th send from now on, n = `sends`; its UCX
// listens at `port`, 0 = any. Returns, 0 or the exit status, where it ended before.
[[nodiscard]] int ReadUntilTheEnd(const Victim& victim, int sends, EndOfReader how, uint16_t port);

}  // namespace engram::test

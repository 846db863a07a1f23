// The simulated world: one clock, one queue of things to happen, processes and the network between
// them. Everything random comes from one seed, so a seed replays exactly.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engram/base/clock.h"

namespace engram::sim {

using Action = std::function<void()>;

// SplitMix64 (Steele et al. 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  [[nodiscard]] uint64_t Next();
  // Below `bound` > 0.
  [[nodiscard]] uint64_t Below(uint64_t bound) { return Next() % bound; }
  [[nodiscard]] bool OneIn(uint64_t times) { return Below(times) == 0; }
  [[nodiscard]] Duration Between(Duration least, Duration most);

 private:
  uint64_t state_;
};

class World final : public Clock {
 public:
  explicit World(uint64_t seed) : random_(seed) {}

  [[nodiscard]] MonotonicTime Now() const override { return now_; }
  [[nodiscard]] Random& random() { return random_; }
  // In the order of time, then of the calls.
  void At(MonotonicTime when, Action what);
  void After(Duration delay, Action what) { At(now_ + delay, std::move(what)); }
  // Does what comes next. False: nothing comes before `end`; the clock stands there.
  bool RunOne(MonotonicTime end);

  // An invariant does not hold. The first one is kept.
  void Violated(const std::string& what);
  [[nodiscard]] const std::string& violation() const { return violation_; }
  // What happened, for whoever replays a seed.
  void Note(const std::string& what);
  void PrintNotes() { prints_notes_ = true; }
  [[nodiscard]] uint64_t steps() const { return steps_; }

 private:
  struct Event {
    MonotonicTime when;
    uint64_t number;
    Action what;
    friend bool operator<(const Event& a, const Event& b) {
      return a.when != b.when ? a.when > b.when : a.number > b.number;
    }
  };
  Random random_;
  MonotonicTime now_{std::chrono::seconds(1)};
  std::priority_queue<Event> events_;
  uint64_t numbers_ = 0;
  uint64_t steps_ = 0;
  std::string violation_;
  bool prints_notes_ = false;
};

// A process: runs, is stopped (SIGSTOP), or is dead. What is due while it is stopped happens when
// it goes on; what was due to an earlier life never happens.
class Process {
 public:
  Process(World* world, std::string name) : world_(world), name_(std::move(name)) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool up() const { return life_ % 2 == 1; }
  [[nodiscard]] bool stopped() const { return stops_ > 0; }
  // Odd while it is up; never the same again.
  [[nodiscard]] uint64_t life() const { return life_; }

  void Start() { ++life_; }
  void Kill();
  void Stop() { ++stops_; }
  void Continue();

  // In this life, `delay` from now.
  void After(Duration delay, Action what);
  // Now, or when it goes on.
  void Do(Action what);

 private:
  void RunHeld();

  World* world_;
  const std::string name_;
  uint64_t life_ = 0;
  uint32_t stops_ = 0;
  std::deque<Action> held_;
};

// Messages in one direction of one connection arrive in order.
struct Channel {
  MonotonicTime last_arrival;
};

struct Connection {
  Channel there;
  Channel back;
};

// TCP between processes: what is lost is sent again, so it is late; a cut network holds everything
// back until it is mended. Messages of different channels overtake each other.
class Network {
 public:
  explicit Network(World* world) : world_(world) {}

  // `what` happens in the life that `to` has now, when the message arrives.
  void Send(const std::string& from, Process* to, Channel* channel, Action what) {
    SendTo(from, to, to->life(), channel, std::move(what));
  }
  // The same to an earlier life, as an answer on its connection: if that is over, to nobody.
  void SendTo(const std::string& from, Process* to, uint64_t life, Channel* channel, Action what);
  // `serve` happens at `to`, in this life of it; what it gives happens at `from`, if that has the
  // same life then.
  void Call(Process* from, Process* to, uint64_t life, Connection* connection,
            std::function<Action()> serve);

  void Cut(const std::string& a, const std::string& b) { cut_.insert(std::minmax(a, b)); }
  void Mend(const std::string& a, const std::string& b) { cut_.erase(std::minmax(a, b)); }
  [[nodiscard]] bool IsCut(const std::string& a, const std::string& b) const {
    return !cut_.empty() && cut_.contains(std::minmax(a, b));
  }
  // Everything to and from it takes so much longer; 0 = no more.
  void SetSlow(const std::string& name, Duration by);
  void MendAll() {
    cut_.clear();
    slow_.clear();
  }

 private:
  void Arrive(const std::string& from, Process* to, uint64_t life, Action what);

  World* world_;
  std::set<std::pair<std::string, std::string>> cut_;
  std::map<std::string, Duration> slow_;
};

}  // namespace engram::sim

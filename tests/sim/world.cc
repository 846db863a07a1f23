#include "tests/sim/world.h"

#include <algorithm>
#include <cstdio>
#include <memory>

namespace engram::sim {
namespace {
using std::chrono::microseconds;
using std::chrono::milliseconds;
// TCP's retransmission of a lost segment.
constexpr Duration kRetransmission = milliseconds(200);
constexpr uint64_t kLostOneIn = 500;
}  // namespace

uint64_t Random::Next() {
  state_ += 0x9e3779b97f4a7c15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

Duration Random::Between(Duration least, Duration most) {
  const auto span = static_cast<uint64_t>((most - least).count()) + 1;
  return least + Duration(static_cast<Duration::rep>(Below(span)));
}

void World::At(MonotonicTime when, Action what) {
  events_.push({std::max(when, now_), ++numbers_, std::move(what)});
}

bool World::RunOne(MonotonicTime end) {
  if (events_.empty() || events_.top().when >= end) {
    now_ = end;
    return false;
  }
  // The queue gives only const access; its order does not depend on what is moved out.
  Event event = std::move(const_cast<Event&>(events_.top()));
  events_.pop();
  now_ = event.when;
  ++steps_;
  event.what();
  return true;
}

void World::Violated(const std::string& what) {
  Note("VIOLATED: " + what);
  if (violation_.empty()) violation_ = what;
}

void World::Note(const std::string& what) {
  if (!prints_notes_) return;
  const auto at = std::chrono::duration_cast<microseconds>(now_.time_since_epoch()).count();
  std::printf("%10.6f %s\n", static_cast<double>(at) / 1e6, what.c_str());
}

void Process::Kill() {
  ++life_;
  stops_ = 0;
  held_.clear();
}

void Process::Continue() {
  if (stops_ > 0 && --stops_ == 0) {
    world_->After(Duration(), [this, life = life_] {
      if (life == life_) RunHeld();
    });
  }
}

void Process::After(Duration delay, Action what) {
  world_->After(delay, [this, life = life_, what = std::move(what)]() mutable {
    if (life == life_) Do(std::move(what));
  });
}

void Process::Do(Action what) {
  if (!up()) return;
  if (stopped() || !held_.empty()) {
    held_.push_back(std::move(what));
  } else {
    what();
  }
}

void Process::RunHeld() {
  while (up() && !stopped() && !held_.empty()) {
    const Action next = std::move(held_.front());
    held_.pop_front();
    next();
  }
}

void Network::SetSlow(const std::string& name, Duration by) {
  if (by == Duration()) {
    slow_.erase(name);
  } else {
    slow_[name] = by;
  }
}

void Network::SendTo(const std::string& from, Process* to, uint64_t life, Channel* channel,
                     Action what) {
  Random& random = world_->random();
  Duration delay = random.Between(microseconds(20), microseconds(400));
  if (random.OneIn(kLostOneIn)) delay += kRetransmission;
  if (!slow_.empty()) {
    for (const std::string& end : {from, to->name()}) {
      if (const auto slow = slow_.find(end); slow != slow_.end()) delay += slow->second;
    }
  }
  MonotonicTime arrival = world_->Now() + delay;
  if (channel != nullptr) {
    arrival = std::max(arrival, channel->last_arrival);
    channel->last_arrival = arrival;
  }
  world_->At(arrival, [this, from, to, life, what = std::move(what)]() mutable {
    Arrive(from, to, life, std::move(what));
  });
}

void Network::Call(Process* from, Process* to, uint64_t life, Connection* connection,
                   std::function<Action()> serve) {
  SendTo(from->name(), to, life, &connection->there,
         [this, from, back = from->life(), to, connection, serve = std::move(serve)] {
           SendTo(to->name(), from, back, &connection->back, serve());
         });
}

void Network::Arrive(const std::string& from, Process* to, uint64_t life, Action what) {
  if (to->life() != life) return;
  if (IsCut(from, to->name())) {
    world_->After(kRetransmission, [this, from, to, life, what = std::move(what)]() mutable {
      Arrive(from, to, life, std::move(what));
    });
    return;
  }
  to->Do(std::move(what));
}

}  // namespace engram::sim

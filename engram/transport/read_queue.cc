#include "engram/transport/read_queue.h"

#include <algorithm>

#include "engram/base/check.h"

namespace engram {

bool ReadQueue::Admit(QueuedClient* client, uint32_t rows) {
  const uint64_t free = options_.rows_max - rows_admitted_;
  const uint64_t cost = rows + kReadCost;
  if (cost > ShareLeft(free, client->holder_->rows_admitted_, client->rows_admitted_)) return false;
  client->rows_admitted_ += cost;
  client->holder_->rows_admitted_ += cost;
  rows_admitted_ += cost;
  return true;
}

void ReadQueue::Forget(QueuedClient* client, uint32_t rows) {
  const uint64_t cost = rows + kReadCost;
  ENGRAM_CHECK(client->rows_admitted_ >= cost);
  client->rows_admitted_ -= cost;
  client->holder_->rows_admitted_ -= cost;
  rows_admitted_ -= cost;
}

void ReadQueue::Push(QueuedClient* client, QueuedRead* read) {
  read->came = reads_pushed_++;
  // Who asked for nothing meanwhile has saved nothing up.
  if (client->reads_.empty()) {
    client->start_ = std::max(client->start_, now_);
    ++client->holder_->clients_waiting_;
  }
  const auto later = [this](const QueuedRead* a, const QueuedRead* b) {
    const bool by_time = options_.fair && a->wanted_by != b->wanted_by;
    return by_time ? a->wanted_by > b->wanted_by : a->came > b->came;
  };
  auto& reads = client->reads_;
  reads.insert(std::upper_bound(reads.begin(), reads.end(), read, later), read);
  if (!client->set_aside_) Order(client);
}

QueuedRead* ReadQueue::Pop(QueuedClient* client) {
  ENGRAM_CHECK(client == Front());
  QueuedRead* const read = client->reads_.back();
  client->reads_.pop_back();
  Forget(client, read->rows);
  now_ = std::max(now_, client->start_);
  client->start_ += LengthOf(*client, read->rows);
  if (client->reads_.empty()) {
    --client->holder_->clients_waiting_;
    Remove(client);
  } else {
    Order(client);
  }
  return read;
}

void ReadQueue::SetAside(QueuedClient* client) {
  ENGRAM_CHECK(client == Front());
  Remove(client);
  client->set_aside_ = true;
  set_aside_.push_back(client);
}

void ReadQueue::BringBack() {
  for (QueuedClient* const client : set_aside_) {
    client->set_aside_ = false;
    Order(client);
  }
  set_aside_.clear();
}

uint64_t ReadQueue::LengthOf(const QueuedClient& client, uint32_t rows) {
  return uint64_t{rows + kReadCost} * client.holder_->clients_waiting_;
}

void ReadQueue::Order(QueuedClient* client) {
  const QueuedRead& next = *client->reads_.back();
  client->finish_ = options_.fair ? client->start_ + LengthOf(*client, next.rows) : next.came;
  if (client->place_ == QueuedClient::kNowhere) {
    heap_.push_back(client);
    client->place_ = heap_.size() - 1;
  }
  Place(client, client->place_);
}

void ReadQueue::Remove(QueuedClient* client) {
  const size_t at = client->place_;
  client->place_ = QueuedClient::kNowhere;
  QueuedClient* const last = heap_.back();
  heap_.pop_back();
  if (last != client) Place(last, at);
}

void ReadQueue::Place(QueuedClient* client, size_t at) {
  const auto put = [this](QueuedClient* moved, size_t place) {
    heap_[place] = moved;
    moved->place_ = place;
  };
  while (at > 0 && heap_[(at - 1) / 2]->finish_ > client->finish_) {
    put(heap_[(at - 1) / 2], at);
    at = (at - 1) / 2;
  }
  while (2 * at + 1 < heap_.size()) {
    size_t child = 2 * at + 1;
    if (child + 1 < heap_.size() && heap_[child + 1]->finish_ < heap_[child]->finish_) ++child;
    if (heap_[child]->finish_ >= client->finish_) break;
    put(heap_[child], at);
    at = child;
  }
  put(client, at);
}

}  // namespace engram

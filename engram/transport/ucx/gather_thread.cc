// The thread's life: start, loop, tasks of other threads, sessions. What it answers is in
// gather_answers.cc.
#include "engram/transport/ucx/gather_thread.h"

#include <algorithm>
#include <future>
#include <utility>

#include <spdlog/spdlog.h>

#include "engram/base/check.h"
#include "engram/base/thread_role.h"
#include "engram/transport/ucx/handshake_guard.h"
#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {
constexpr std::chrono::milliseconds kHouseKeepingMax{500};
// Of slow_reader_max: when the kernel ends a connection that takes nothing, by itself. Later than
// the session's end, which says why; before its endpoint is closed (CloseEndpoint).
constexpr int kStuckFactor = 2;
constexpr int kCloseFactor = 3;
// Of the thread's end: for those that are in the midst of UCX's handshake.
constexpr std::chrono::milliseconds kEndHandshakesMax{500};
}  // namespace

GatherThread::GatherThread(const Options& options, LeaseBook* leases, RowServerTestHooks* hooks,
                           OnLost on_lost)
    : options_(options),
      leases_(leases),
      hooks_(hooks),
      on_lost_(std::move(on_lost)),
      port_guard_(kStuckFactor * options.slow_reader_max, options.audit),
      replies_(options.reply_buffers_max, this),
      queue_(options.queue),
      spin_(options.spin_max) {}

Result<std::unique_ptr<GatherThread>> GatherThread::Start(const UcxContext& context,
                                                          const UcxContext* one_sided,
                                                          const Options& options, LeaseBook* leases,
                                                          RowServerTestHooks* hooks,
                                                          OnLost on_lost) {
  std::unique_ptr<GatherThread> thread(
      new GatherThread(options, leases, hooks, std::move(on_lost)));
  // The worker is made, driven and destroyed by its thread.
  auto prepared = std::make_shared<std::promise<Status>>();
  std::future<Status> outcome = prepared->get_future();
  thread->thread_ = std::thread([prepared, &context, one_sided, raw = thread.get()] {
    Status status = raw->Prepare(context, one_sided);
    const bool ok = status.ok();
    prepared->set_value(std::move(status));
    if (ok) raw->Loop();
    raw->ShutDown();
  });
  if (Status status = outcome.get(); !status.ok()) return Error(std::move(status));
  return thread;
}

GatherThread::~GatherThread() {
  stop_ = true;
  if (wait_ != nullptr) wait_->Notify();
  if (thread_.joinable()) thread_.join();
}

Status GatherThread::Prepare(const UcxContext& context, const UcxContext* one_sided) {
  BecomeIoThread("gather-" + std::to_string(options_.number), kServerSlice);
  GuardHandshakesOfThisThread(port_guard_.stuck_max());
  auto wait = EventWait::Create();
  if (!wait.has_value()) return wait.error();
  wait_ = *std::move(wait);
  auto worker = UcxWorker::Create(context);
  if (!worker.has_value()) return worker.error();
  worker_ = *std::move(worker);
  auto address = worker_->Address();
  if (!address.has_value()) return address.error();
  worker_address_ = *std::move(address);
  port_guard_.Guard(worker_address_);
  ENGRAM_RETURN_IF_ERROR(worker_->Handle(this));
  ENGRAM_RETURN_IF_ERROR(wait_->Watch(worker_->event_fd()));
  if (one_sided == nullptr) return {};
  auto one_sided_worker = UcxWorker::Create(*one_sided);
  if (!one_sided_worker.has_value()) return one_sided_worker.error();
  one_sided_worker_ = *std::move(one_sided_worker);
  address = one_sided_worker_->Address();
  if (!address.has_value()) return address.error();
  one_sided_address_ = *std::move(address);
  return wait_->Watch(one_sided_worker_->event_fd());
}

void GatherThread::Loop() {
  while (!stop_.load(std::memory_order_relaxed)) {
    if (hooks_->paused.load(std::memory_order_relaxed)) {
      StandStill();
      continue;
    }
    bool any = wait_->TakeNotice() && RunTasks();
    any |= ProgressAll();
    const MonotonicTime now = std::chrono::steady_clock::now();
    if (now >= next_house_keeping_) KeepHouse(now);
    if (!any) SleepOrSpin();
  }
}

void GatherThread::StandStill() {
  ++hooks_->standing_still;
  while (hooks_->paused.load(std::memory_order_relaxed) && !stop_.load(std::memory_order_relaxed)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  --hooks_->standing_still;
}

bool GatherThread::RunTasks() {
  {
    const std::lock_guard lock(tasks_mutex_);
    running_tasks_.swap(tasks_);
  }
  const bool any = !running_tasks_.empty();
  for (const auto& task : running_tasks_) task();
  running_tasks_.clear();
  return any;
}

bool GatherThread::ProgressAll() {
  bool any = worker_->Progress();
  if (one_sided_worker_ != nullptr) any |= one_sided_worker_->Progress();
  any |= AnswerNext();
  return any;
}

void GatherThread::SleepOrSpin() {
  const MonotonicTime idle_since = std::chrono::steady_clock::now();
  if (session_count_.load(std::memory_order_relaxed) > 0) {
    const MonotonicTime end = idle_since + spin_.now();
    while (std::chrono::steady_clock::now() < end) {
      if (ProgressAll() || wait_->HasNotice()) return;
      __builtin_ia32_pause();
    }
  }
  const bool armed = worker_->Arm() && (one_sided_worker_ == nullptr || one_sided_worker_->Arm());
  if (!armed || wait_->HasNotice()) return;
  wait_->Sleep(next_house_keeping_);
  spin_.WorkCameAfter(std::chrono::steady_clock::now() - idle_since);
}

void GatherThread::KeepHouse(MonotonicTime now) {
  // So that a slow reader is seen before the kernel ends its connection.
  next_house_keeping_ = now + std::min<Duration>(kHouseKeepingMax, options_.slow_reader_max / 4);
  (void)EndHandshakesOfThisThread(port_guard_.stuck_max());
  CloseEnding(now);
  std::vector<uint64_t> ended;
  for (const auto& [id, session] : sessions_) {
    if (session->endpoint != nullptr && session->endpoint->failure() != UCS_OK &&
        session->end_with.ok()) {
      session->end_with = UcxStatus(session->endpoint->failure(), "the reader's connection");
    }
    if (now - session->last_sign_of_life > options_.silence_max && session->end_with.ok()) {
      session->end_with =
          Status(StatusCode::kDeadlineExceeded,
                 "no sign of life for " + std::to_string(options_.silence_max.count()) + " ms");
    }
    const Duration behind = session->taking.Behind(now);
    if (behind > options_.slow_reader_max && session->end_with.ok()) {
      counters_.slow_readers.fetch_add(1, std::memory_order_relaxed);
      session->end_with = Status(
          StatusCode::kResourceExhausted,
          "it does not take its replies: " + std::to_string(session->replies + session->refusals) +
              " wait for it, one of them for more than " +
              std::to_string(options_.slow_reader_max.count()) + " ms");
    }
    if (!session->end_with.ok()) ended.push_back(id);
  }
  for (const uint64_t id : ended) {
    const Status why = Find(id)->end_with;
    EndSession(id);
    on_lost_(id, why);
  }
}

void GatherThread::EndSession(uint64_t id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  ServedClient* const client = found->second->client;
  CloseEndpoint(std::move(found->second->endpoint));
  sessions_.erase(found);
  --client->sessions;
  ForgetIfUnused(client);
  leases_->Close(id);
  --session_count_;
}

void GatherThread::CloseEndpoint(std::unique_ptr<UcxEndpoint> endpoint) {
  if (endpoint == nullptr) return;
  auto ending = std::make_unique<EndingEndpoint>();
  ending->close_at = std::chrono::steady_clock::now() + kCloseFactor * options_.slow_reader_max;
  ending->flushed = endpoint->Flush(ending.get()) != UcxStarted::kPending;
  ending->endpoint = std::move(endpoint);
  ending_.push_back(std::move(ending));
  ending_count_ = static_cast<uint32_t>(ending_.size());
}

void GatherThread::CloseEnding(MonotonicTime now) {
  for (const auto& ending : ending_) {
    if (ending->endpoint == nullptr) continue;
    if (ending->endpoint->failure() != UCS_OK || now >= ending->close_at) ending->endpoint.reset();
  }
  std::erase_if(ending_,
                [](const auto& ending) { return ending->flushed && ending->endpoint == nullptr; });
  ending_count_ = static_cast<uint32_t>(ending_.size());
}

void GatherThread::ShutDown() {
  RunTasks();
  const MonotonicTime give_up = std::chrono::steady_clock::now() + kEndHandshakesMax;
  while (worker_ != nullptr && EndHandshakesOfThisThread(Duration::zero()) > 0 &&
         std::chrono::steady_clock::now() < give_up) {
    worker_->Progress();
  }
  // Closing one completes what it still had to send, within: nobody looks for a session then that
  // is half gone.
  std::vector<std::unique_ptr<UcxEndpoint>> endpoints;
  for (const auto& [id, session] : sessions_) endpoints.push_back(std::move(session->endpoint));
  sessions_.clear();
  endpoints.clear();
  for (const auto& ending : ending_) ending->endpoint.reset();
  session_count_ = 0;
  if (worker_ != nullptr) worker_->FinishClosing();
  one_sided_worker_.reset();
  worker_.reset();
}

void GatherThread::Run(std::function<void()> task) {
  {
    const std::lock_guard lock(tasks_mutex_);
    tasks_.push_back(std::move(task));
  }
  wait_->Notify();
}

void GatherThread::AddSession(ServedSession served, std::function<void(Status)> done) {
  Run([this, served = std::move(served), done = std::move(done)] {
    auto finder = served.finder();
    if (finder == nullptr) {
      done({StatusCode::kWrongVersion, "the version was dropped"});
      return;
    }
    auto session = std::make_unique<Session>();
    session->id = served.id;
    session->protocol = served.protocol;
    ServedHolder* const holder = &holders_[served.holder];
    holder->name = served.holder;
    const auto [client, is_new] =
        clients_.try_emplace({holder, served.client}, holder, served.client);
    holder->clients += is_new ? 1 : 0;
    session->client = &client->second;
    ++session->client->sessions;
    session->peer_worker_address = served.peer_worker_address;
    session->finder = std::move(finder);
    session->version = served.version;
    const MonotonicTime session_opened = std::chrono::steady_clock::now();
    session->last_sign_of_life = session_opened;
    ENGRAM_CHECK(sessions_.emplace(served.id, std::move(session)).second);
    // Before the reader can ask for a directory.
    leases_->Open(served.id, served.version, session_opened);
    ++session_count_;
    done({});
  });
}

void GatherThread::RemoveSession(uint64_t session) {
  Run([this, session] { EndSession(session); });
}

void GatherThread::ReplaceFinder(TableVersion version, std::shared_ptr<const SlotFinder> finder) {
  ENGRAM_CHECK(std::this_thread::get_id() != thread_.get_id());
  const auto done = std::make_shared<std::promise<void>>();
  std::future<void> replaced = done->get_future();
  Run([this, done, version, finder = std::move(finder)] {
    for (const auto& [id, session] : sessions_) {
      if (session->version != version) continue;
      session->finder = finder;
      if (finder != nullptr) continue;
      LeaseGrant grant;
      grant.status = static_cast<uint32_t>(StatusCode::kWrongVersion);
      grant.session = id;
      SendGrant(*session, grant);
    }
    done->set_value();
  });
  replaced.wait();
}

void GatherThread::AddTo(RowServerStats& stats) const {
  stats.sessions_open += session_count_.load(std::memory_order_relaxed);
  stats.reads += counters_.reads.load(std::memory_order_relaxed);
  stats.rows += counters_.rows.load(std::memory_order_relaxed);
  stats.bytes += counters_.bytes.load(std::memory_order_relaxed);
  counters_.gather_times.AddTo(&stats.gather_times);
  stats.rows_not_owned += counters_.rows_not_owned.load(std::memory_order_relaxed);
  stats.rows_out_of_range += counters_.rows_out_of_range.load(std::memory_order_relaxed);
  stats.refused_messages += counters_.refused.load(std::memory_order_relaxed);
  stats.refused_busy += counters_.refused_busy.load(std::memory_order_relaxed);
  stats.expired += counters_.expired.load(std::memory_order_relaxed);
  stats.slow_readers += counters_.slow_readers.load(std::memory_order_relaxed);
  stats.rows_waiting += counters_.rows_waiting.load(std::memory_order_relaxed);
}

}  // namespace engram

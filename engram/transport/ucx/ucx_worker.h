// A UCX worker: the progress of one thread's endpoints, messages and reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ucp/api/ucp.h>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/transport/ucx/ucx_context.h"

namespace engram {

// Told once when an operation that did not complete at once has ended. Must outlive the operation.
class UcxCompletion {
 public:
  virtual void OnComplete(ucs_status_t status) = 0;

 protected:
  ~UcxCompletion() = default;
};

// How an operation started.
enum class UcxStarted : uint8_t {
  kDone,     // complete; no OnComplete
  kPending,  // OnComplete follows
  kFailed,   // no OnComplete
};

// A message that came. `header` and `data` are valid during the call only.
struct UcxMessage {
  std::span<const std::byte> header;
  void* data = nullptr;  // the body, or what UcxWorker::Receive takes when `rendezvous`
  uint64_t body_bytes = 0;
  bool rendezvous = false;  // the body has not come yet: Receive it now, or it is dropped
};

class UcxMessageHandler {
 public:
  // Called inside Progress. True when Receive was called with the message.
  virtual bool OnMessage(uint32_t id, const UcxMessage& message) = 0;

 protected:
  ~UcxMessageHandler() = default;
};

// Thread-compatible: one thread at a time makes, drives and destroys a worker and everything on it.
class UcxWorker {
 public:
  [[nodiscard]] static Result<std::unique_ptr<UcxWorker>> Create(const UcxContext& context);
  // Waits for closing endpoints, at most kCloseMax.
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  [[nodiscard]] ucp_worker_h handle() const { return worker_; }
  // What a peer creates its endpoint from.
  [[nodiscard]] Result<std::string> Address() const;

  // Once. `handler` gets every message; one of an id that no protocol has may come with another
  // such id. It must outlive the worker's last Progress.
  [[nodiscard]] Status Handle(UcxMessageHandler* handler);

  // True if anything happened.
  bool Progress();

  // Readable when there is something to do, once Arm() gave true; -1 without UCP_FEATURE_WAKEUP.
  [[nodiscard]] int event_fd() const { return event_fd_; }
  // False: something is pending (or, for kCloseMax at most, an endpoint closes), Progress first.
  [[nodiscard]] bool Arm();

  // Takes the body of a rendezvous message into `buffer` [bytes]. During OnMessage only.
  [[nodiscard]] UcxStarted Receive(const UcxMessage& message, std::byte* buffer,
                                   UcxCompletion* done);

  // Ends an endpoint: every operation on it completes, the handle is gone. Called by UcxEndpoint.
  void CloseEndpoint(ucp_ep_h endpoint);
  // Drives the worker until every closed endpoint is gone, at most kCloseMax.
  void FinishClosing();

  // The outcome of a UCX call that gives a request pointer. Takes no ownership of `done`.
  [[nodiscard]] static UcxStarted Started(ucs_status_ptr_t request);
  // Request parameters that lead to done->OnComplete.
  [[nodiscard]] static ucp_request_param_t SendParam(UcxCompletion* done);

 private:
  // What UCX hands back with a message.
  struct Registration {
    UcxMessageHandler* handler = nullptr;
    uint32_t id = 0;
  };
  static constexpr uint32_t kOwnIds = 16;  // of protocols; those above all have the id kOwnIds
  static constexpr std::chrono::milliseconds kCloseMax{500};

  explicit UcxWorker(ucp_worker_h worker) : worker_(worker) {}
  static ucs_status_t OnAm(void* arg, const void* header, size_t header_length, void* data,
                           size_t length, const ucp_am_recv_param_t* param);
  void CollectClosed();

  const ucp_worker_h worker_;  // owned
  int event_fd_ = -1;          // the worker's own
  std::array<Registration, kOwnIds + 1> registrations_;
  struct Closing {
    void* request;
    MonotonicTime give_up;
  };
  std::vector<Closing>
      closing_;  // endpoints that are closing; past give_up the worker's end does it
};

}  // namespace engram

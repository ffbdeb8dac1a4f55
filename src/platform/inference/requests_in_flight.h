// Requests that were begun and have not ended: whose they are, how far they are, how to stop one.
//
// Threads: any. An entry is told what happens by the threads that make it happen (engine, loader); that costs
// a few relaxed stores. It is bounded by what runs and waits.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/engine/engine.h"

namespace tidepool::platform {

struct RequestInFlight {
  std::string id;          // "run-...": its own, while request_id may be a client's and there twice
  std::string request_id;  // X-Request-Id
  std::string organisation, workspace, key, member;  // opaque ids; member empty for a service key
  std::string model;                                 // the stored model's id, as the usage row will have it
  std::string called;    // the name it was called by: a deployment's, or the model's
  std::string endpoint;  // "chat.completions", ...
  double age_s = 0;
  compute::ProgressEvent::Phase phase = compute::ProgressEvent::Phase::kQueued;
  int32_t queue_position = 0;  // kQueued: requests ahead, as far as is known
  double share = 0;            // kLoading, kPrefill: 0..1
  int64_t prompt_tokens = 0;   // 0 until its prompt was made
  int64_t output_tokens = 0;   // so far, all choices, reasoning included
  bool stopped = false;        // it was told to stop and has not ended yet
};

class RequestsInFlight {
  struct Registry;

 public:
  // One request. Leaves the list when it ends or is dropped.
  class Entry {
   public:
    Entry(std::shared_ptr<Registry> registry, RequestInFlight who, std::function<void()> stop,
          Nanoseconds since);
    ~Entry() { End(); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

    void SetPrompt(int64_t tokens) { prompt_.store(tokens, std::memory_order_relaxed); }
    void OnProgress(const compute::ProgressEvent& event);
    void CountOutput(int64_t more) { output_.fetch_add(more, std::memory_order_relaxed); }
    // Somebody other than its client stopped it. Its client is told so.
    bool stopped() const { return stopped_.load(std::memory_order_acquire); }
    void End();

   private:
    friend class RequestsInFlight;
    const std::shared_ptr<Registry> registry_;
    const RequestInFlight who_;
    const std::function<void()> stop_;
    const Nanoseconds since_;
    std::atomic<compute::ProgressEvent::Phase> phase_{compute::ProgressEvent::Phase::kQueued};
    std::atomic<int32_t> position_{0};
    std::atomic<float> share_{0};
    std::atomic<int64_t> prompt_{0}, output_{0};
    std::atomic<bool> stopped_{false};
    uint64_t number_ = 0;  // its place in the registry
  };
  using Wanted = std::function<bool(const RequestInFlight&)>;

  explicit RequestsInFlight(const Clock& clock);
  // `who` needs no id and no progress. `stop` may be called by any thread, more than once, and must not wait.
  std::shared_ptr<Entry> Begin(RequestInFlight who, std::function<void()> stop);
  // Newest first, at most `limit`; `all`, if given, gets how many there are of them.
  std::vector<RequestInFlight> List(const Wanted& wanted, size_t limit, size_t* all = nullptr) const;
  // Tells all that are wanted to stop, and says which they were.
  std::vector<RequestInFlight> Stop(const Wanted& wanted);

 private:
  RequestInFlight Shown(const Entry& entry) const;
  const Clock& clock_;
  // Shared with the entries, which may outlive this.
  const std::shared_ptr<Registry> registry_;
};

// What a client hears whose request was stopped here. Clients do not try it again.
Error StoppedError();

}  // namespace tidepool::platform

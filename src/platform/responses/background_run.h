// A response that runs without its client: its events, for those who listen and those who come back.
//
// Threads: any. Listeners are called under no mutex, from the thread that publishes; they must not block.
// They read at their own pace: a slow one holds up nobody, until what it has not read is not kept any more.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/accounts/principal.h"
#include "platform/inference/inference.h"

namespace tidepool::platform {

class ResponseListener {
 public:
  virtual ~ResponseListener() = default;
  virtual void OnMore() = 0;  // there is something to read, if only the end
};

class BackgroundRun {
 public:
  // `max_event_bytes`: of events kept for those that come late; the oldest go first.
  BackgroundRun(std::string id, Principal owner, size_t max_event_bytes, int32_t max_listeners)
      : id_(std::move(id)),
        owner_(std::move(owner)),
        max_event_bytes_(max_event_bytes),
        max_listeners_(max_listeners) {}

  const std::string& id() const { return id_; }
  const Principal& owner() const { return owner_; }
  const std::string& workspace() const { return owner_.workspace; }

  // What runs; cancelled at once if Cancel came first.
  void SetGeneration(std::shared_ptr<Generation> generation);
  void Cancel();                                 // by the client
  void Stop();                                   // by the server
  bool cancelled() const { return cancelled_; }  // the client wanted it

  void Publish(std::string_view type, std::string data);
  void End();  // after the last event
  bool ended() const;
  size_t event_bytes() const;

  struct Event {
    std::string type, data;
  };
  struct Piece {
    std::vector<Event> events;
    bool over = false;  // nothing follows
  };
  // The events after number `after` (-1: all): of those that are there the first, about `max_bytes` of them.
  // kInvalid "events_gone" if some of them are not kept any more.
  Result<Piece> Read(int64_t after, size_t max_bytes) const;
  // OnMore from now on. kOverloaded "too_many_listeners"; kUnavailable "draining".
  Status Listen(std::shared_ptr<ResponseListener> listener);
  void Remove(const std::shared_ptr<ResponseListener>& listener);
  void Release();       // lets go of what ran
  void EndListening();  // who reads comes to an end, and nobody listens from now on; the run goes on

 private:
  void Halt();

  const std::string id_;
  const Principal owner_;  // who began it
  const size_t max_event_bytes_;
  const int32_t max_listeners_;
  std::atomic<bool> cancelled_{false}, halted_{false};

  mutable std::mutex mutex_;
  std::shared_ptr<Generation> generation_;
  std::deque<Event> events_;
  int64_t first_ = 0;  // the number of events_.front()
  size_t bytes_ = 0;
  bool ended_ = false, closed_ = false;
  std::vector<std::shared_ptr<ResponseListener>> listeners_;
};

}  // namespace tidepool::platform

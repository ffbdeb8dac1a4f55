// GET /api/v1/pool/events: the pool's state to many watchers. One thread looks at the pool while somebody
// watches, at most four times a second, and writes what changed to all.
//
// States and events are apart: a state is what is now, an event is what the engine did, with its time, once
// for each watcher. A watcher that reads slowly misses states; events wait for it in the engine's log, which
// keeps the last few thousand, and what has left the log meanwhile is told as a number ("missed"). One that
// takes nothing for http.write_timeout_s is dropped by its connection. The server's drain ends all streams.
//
// Threads: Add from any; Stop before the exchanges' server goes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gateway/http.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway::native {

// The state as the API shows it.
nlohmann::ordered_json PoolJson(const platform::PoolState& state);
// Models that came, went or changed their state between two looks, as server-sent events "model".
std::string ModelEvents(const platform::PoolState& before, const platform::PoolState& now);
// One thing that the engine did: number, time, model, reason, bytes, seconds, resident_segments.
nlohmann::ordered_json EngineEventJson(const platform::PoolEventList::Entry& entry);
// What the engine did, as server-sent events named by what it was: load, loaded, load_failed, load_stopped,
// evict, spill, restore, recompute, reject, switch, weights_lost; and missed, before them.
std::string EngineEvents(const platform::PoolEventList& list);

class PoolFeed {
 public:
  PoolFeed(platform::Inference& inference, const std::atomic<bool>& draining)
      : inference_(inference), draining_(draining) {}
  ~PoolFeed() { Stop(); }
  PoolFeed(const PoolFeed&) = delete;
  PoolFeed& operator=(const PoolFeed&) = delete;

  // Answers the exchange with a stream, or with 429 when too many watch, 503 while stopping.
  void Add(std::shared_ptr<Exchange> exchange);
  void Stop();  // ends all streams

 private:
  struct Watcher;
  void Run();

  platform::Inference& inference_;
  const std::atomic<bool>& draining_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::vector<std::shared_ptr<Watcher>> watchers_;
  std::thread thread_;  // from the first watcher on
};

}  // namespace tidepool::gateway::native

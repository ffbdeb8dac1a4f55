// POST /api/pull: the progress of pulls to those who asked for them, as lines of JSON. One thread looks at
// the pulls while somebody watches, four times a second, and writes what changed.
//
// A client that leaves does not end its pull; the server's drain ends the watching, not the job.
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
#include "platform/catalog/catalog.h"

namespace tidepool::gateway::ollama {

// {"status": ..., "digest", "total", "completed"} or {"error": ...}, without a line break.
std::string ProgressLine(const platform::PullStatus& pull);

class PullFeed {
 public:
  PullFeed(platform::Catalog& catalog, const std::atomic<bool>& draining)
      : catalog_(catalog), draining_(draining) {}
  ~PullFeed() { Stop(); }
  PullFeed(const PullFeed&) = delete;
  PullFeed& operator=(const PullFeed&) = delete;

  // Answers the exchange with lines, or without `stream` with one object at the end; with 429 when too many
  // watch, 503 while stopping.
  void Add(std::shared_ptr<Exchange> exchange, std::string pull, bool stream);
  void Stop();  // ends all answers

 private:
  struct Watcher;
  void Run();

  platform::Catalog& catalog_;
  const std::atomic<bool>& draining_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::vector<std::shared_ptr<Watcher>> watchers_;
  std::thread thread_;  // from the first watcher on
};

}  // namespace tidepool::gateway::ollama

// Threads for what would hold up an I/O thread: parsing bodies, rendering templates, tokenizing, deleting
// files. The queue is bounded by `max_waiting`; Submit never blocks.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tidepool::gateway {

class Workers {
 public:
  Workers(int threads, size_t max_waiting);
  ~Workers();  // waits for what runs; what waits is dropped
  // False if too much waits, or after Stop.
  bool Submit(std::function<void()> work);
  void Stop();

 private:
  void Run();
  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tidepool::gateway

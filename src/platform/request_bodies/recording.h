// The words of one request while it runs: what was asked, whole, and what is answered, as it comes.
//
// Threads: the request's own, one at a time (the engine's thread, then the ledger's). Appending is bounded
// and never blocks. What it holds counts against a bound of all recordings; a recording that is dropped gives
// it back.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "platform/accounts/principal.h"

namespace tidepool::platform {

class BodyRecording;

// Where a recording goes when its request is over. Must not block.
class BodyKeeper {
 public:
  virtual ~BodyKeeper() = default;
  virtual void Take(std::shared_ptr<BodyRecording> recording) = 0;
};

// Bytes of all recordings.
class BodyMemory {
 public:
  explicit BodyMemory(int64_t limit) : limit_(limit) {}
  bool Charge(int64_t bytes);
  void Release(int64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  int64_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

class BodyRecording : public std::enable_shared_from_this<BodyRecording> {
 public:
  // `request` was charged. The keeper and the memory outlive it.
  BodyRecording(BodyKeeper& keeper, std::shared_ptr<BodyMemory> memory, std::string workspace,
                std::string request, size_t max_answer_bytes);
  ~BodyRecording();
  BodyRecording(const BodyRecording&) = delete;
  BodyRecording& operator=(const BodyRecording&) = delete;

  void Text(int32_t choice, std::string_view content, std::string_view reasoning);
  void BeginCall(int32_t choice, int32_t call, std::string_view id, std::string_view name);
  void Arguments(int32_t choice, int32_t call, std::string_view arguments);
  void DropCall(int32_t choice, int32_t call);  // it was none
  void Vectors(int64_t count, int64_t dimensions);
  void Scores(const std::vector<float>& scores);
  // Its usage row is on disk, under that id. Once; after it nothing is appended.
  void Keep(std::string usage_id);

  struct Call {
    int32_t index = 0;
    std::string id, name, arguments;
  };
  struct Choice {
    std::string content, reasoning;
    std::vector<Call> calls;
  };
  const std::string workspace;
  std::string usage_id;
  std::string request;
  std::vector<Choice> choices;
  int64_t vectors = 0, dimensions = 0;
  std::vector<float> scores;
  bool answer_cut = false;

 private:
  Choice* At(int32_t choice);
  Call* CallAt(int32_t choice, int32_t call);
  void Append(std::string& to, std::string_view text);

  BodyKeeper& keeper_;
  const std::shared_ptr<BodyMemory> memory_;
  int64_t charged_;
  size_t answer_left_;
};

}  // namespace tidepool::platform

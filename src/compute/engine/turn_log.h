// What was computed when: turns of the device, a turn being consecutive steps of one model. A bounded log
// that readers follow, as pool_events.h is.
//
// A turn ends with a step of another model, with a pause of kTurnPause, or when it has lasted kLongestTurn,
// so that a server busy with one model still says when it was late. The newest turn may grow: who follows
// asks again from the one before it.
//
// Threads: Add and Token from one thread, Since from any; adding allocates nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"

namespace tidepool::compute {

inline constexpr Nanoseconds kTurnPause = 50 * kMillisecond;
inline constexpr Nanoseconds kLongestTurn = 5 * kSecond;

struct PoolTurn {
  uint64_t number = 0;           // from 1, without gaps
  Nanoseconds from = 0, to = 0;  // the engine's clock
  std::shared_ptr<const std::string> model = {};
  int64_t steps = 0, tokens = 0;   // computed, prompts' included
  int64_t answered = 0, late = 0;  // tokens of answers that were promised a time; of these, after it
  double least_slack_s = 0;        // of these: the time left when it was said; negative: late
};

struct PoolTurns {
  std::vector<PoolTurn> turns;  // oldest first
  uint64_t missed = 0;          // between `after` and the first of them
  uint64_t last = 0;            // number of the newest there is
};

class PoolTurnLog {
 public:
  explicit PoolTurnLog(size_t most) : ring_(most) {}  // 0: none are kept

  // A step of `model` was computed.
  void Add(const std::shared_ptr<const std::string>& model, Nanoseconds from, Nanoseconds to, int64_t tokens);
  // The step added last gave so many tokens more than it planned: guesses that were right.
  void Guessed(int64_t tokens);
  // A token of an answer was told by the step added last, so long before it was due.
  void Token(double slack_s);
  PoolTurns Since(uint64_t after, size_t most) const;

 private:
  PoolTurn& newest() { return ring_[last_ % ring_.size()]; }

  mutable std::mutex mutex_;
  std::vector<PoolTurn> ring_;  // turn n is at n % size
  uint64_t last_ = 0;
};

}  // namespace tidepool::compute

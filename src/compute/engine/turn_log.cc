#include "compute/engine/turn_log.h"

#include <algorithm>

#include "compute/engine/numbered_ring.h"

namespace tidepool::compute {

void PoolTurnLog::Add(const std::shared_ptr<const std::string>& model, Nanoseconds from, Nanoseconds to,
                      int64_t tokens) {
  if (ring_.empty()) return;
  const std::lock_guard lock(mutex_);
  if (last_ > 0) {
    PoolTurn& turn = newest();
    const bool same = turn.model == model || *turn.model == *model;
    if (same && from - turn.to < kTurnPause && to - turn.from < kLongestTurn) {
      turn.to = to;
      ++turn.steps;
      turn.tokens += tokens;
      return;
    }
  }
  ++last_;
  newest() = {.number = last_, .from = from, .to = to, .model = model, .steps = 1, .tokens = tokens};
}

void PoolTurnLog::Guessed(int64_t tokens) {
  if (ring_.empty() || tokens == 0) return;
  const std::lock_guard lock(mutex_);
  if (last_ > 0) newest().tokens += tokens;
}

void PoolTurnLog::Token(double slack_s) {
  if (ring_.empty()) return;
  const std::lock_guard lock(mutex_);
  if (last_ == 0) return;
  PoolTurn& turn = newest();
  turn.least_slack_s = turn.answered == 0 ? slack_s : std::min(turn.least_slack_s, slack_s);
  ++turn.answered;
  turn.late += slack_s < 0 ? 1 : 0;
}

PoolTurns PoolTurnLog::Since(uint64_t after, size_t most) const {
  const std::lock_guard lock(mutex_);
  PoolTurns found;
  found.last = last_;
  found.missed = ReadRing(ring_, last_, after, most, found.turns);
  return found;
}

}  // namespace tidepool::compute

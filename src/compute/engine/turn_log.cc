#include "compute/engine/turn_log.h"

#include <algorithm>

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
  if (after >= last_) return found;
  const uint64_t kept = std::min<uint64_t>(last_, ring_.size());
  const uint64_t first = std::max(after, last_ - kept) + 1;
  found.missed = first - 1 - after;
  for (uint64_t number = first; number <= last_ && found.turns.size() < most; ++number)
    found.turns.push_back(ring_[number % ring_.size()]);
  return found;
}

}  // namespace tidepool::compute

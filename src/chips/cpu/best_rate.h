// The best rate of repeated short rounds of work: what the machine can do, not what other programs leave of
// it.
#pragma once

#include <chrono>
#include <cmath>

namespace tidepool::chips::cpu {

inline double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct RoundPlan {
  double usual_s = 0;    // rounds go on for this long,
  int least_rounds = 1;  // and until so many were made,
  double longest_s = 0;  // but no new one starts after this
};

// `round()` works for a few milliseconds and returns its rate; at least one is made. Rates that are not
// finite (a clock that did not move) do not count.
template <typename Round, typename Now = double (*)()>
double BestRate(const RoundPlan& plan, Round&& round, Now now = SteadySeconds) {
  const double begin = now();
  double best = 0;
  for (int rounds = 1;; ++rounds) {
    const double rate = round();
    if (std::isfinite(rate) && rate > best) best = rate;
    const double spent = now() - begin;
    if (spent >= plan.longest_s || (spent >= plan.usual_s && rounds >= plan.least_rounds)) return best;
  }
}

}  // namespace tidepool::chips::cpu

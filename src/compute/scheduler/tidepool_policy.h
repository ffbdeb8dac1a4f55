// The constants of Tidepool's policy. Internal to this folder. All but the times are shares or factors; those
// in seconds are of the scale of the promises that people make (TTFT of seconds, TPOT of tenths).
#pragma once

#include <cstdint>
#include <limits>

#include "base/clock.h"

namespace tidepool::compute::pool {

inline constexpr double kNever = std::numeric_limits<double>::infinity();
inline constexpr double kPinnedUrgency = -1e8;  // before all jobs; -kNever is for draining only
inline constexpr double kLateGrace_s = 1;       // so late is still urgent
inline constexpr double kTurnAlarm_s = 1;       // slack at which another model's turn is broken for weights
inline constexpr double kTurnRun_s = 4;         // and how long it must have had its turns
inline constexpr double kTurnRunLoads = 2;      // likewise, in the time of both loads
inline constexpr double kTurnTokens = 4;      // hysteresis of turns between resident models, in tokens' time
inline constexpr double kPromise = 0.85;      // demand up to which promises are made
inline constexpr double kLateMeant = 0.02;    // share of answers that may end late
inline constexpr double kLateCuts = 4;        // of promises, for what is late beyond that
inline constexpr double kLeastPromise = 0.5;  // that is left of them at least
inline constexpr double kJoins = 2;           // of that, in copies, for one more of a model that is at work
inline constexpr double kRoundOfTtft = 0.5;   // a round of switches that keeps within promises
inline constexpr double kBatchShare = 0.8;    // of that, for batch work
inline constexpr double kInteractiveAhead =
    0.25;                                         // of its TTFT: so much more urgent is who waits at a screen
inline constexpr double kBeyondShare = 0.55;      // of that, beyond an account's share
inline constexpr double kSwitchHysteresis = 1.0;  // of both loads' time
inline constexpr double kOverdue = 0.25;          // of a load's time
inline constexpr double kUnserved = 10;           // likewise, of a model that was not served since it came
inline constexpr int32_t kGrowTokens = 128;       // KV reserved ahead where spilling is possible
inline constexpr double kKvShare = 1.0 / 64;  // of the arena, left free for growth when weights are loaded
inline constexpr double kLastCommit = 0.75;   // of the KV that may be promised, to what comes last
inline constexpr double kKvRoom = 0.1;        // of the arena, beside weights of models that fit in together
inline constexpr double kRound_s = 5;    // a round of switches that keeps within usual promises (ttft / 2)
inline constexpr double kComfort = 0.7;  // load up to which a device is as good as an empty one
inline constexpr Nanoseconds kTurnPause = kSecond;  // without work, after which a model's turns begin anew
inline constexpr Nanoseconds kBalanceInterval = kSecond / 2;
inline constexpr Nanoseconds kRetry = kSecond / 4;
inline constexpr Nanoseconds kWeightsFirst =
    kSecond / 10;                                       // KV that went for weights stays away so long at most
inline constexpr Nanoseconds kMoveRest = 10 * kSecond;  // between two moves of one model
inline constexpr double kMoveGap = 0.2;
inline constexpr int32_t kMaxPassed = 64;
inline constexpr double kBurst = 0.25;     // of the TTFT: so far ahead of its share an account may be
inline constexpr double kBeyond_s = 0.5;   // jobs so far ahead leave a quarter of a batch to others
inline constexpr double kOwnRequests = 6;  // of an account that may come at once
inline constexpr Nanoseconds kFlood = 20 * kSecond;  // after it was refused an account counts as a flood
inline constexpr double kOwnBurst = 0.25;  // of what is not an account's share, on a device, for a moment
inline constexpr double kOwnBurstBehind = 0.75;  // of one that has had less than the others, or so little
inline constexpr double kBehind = 0.25;          // more: of the bunch that may come at once
inline constexpr double kStopLeft_s = 0.05;      // loads that end so soon are not stopped for others
inline constexpr int32_t kBeyondTokens = 512;    // prompt tokens a step of jobs beyond their account's share
inline constexpr double kBeyondStep_s = 0.1;     // but about so long, where that takes longer,
inline constexpr double kLeastBeyond = 0.125;    // and at least this part of it
inline constexpr int32_t kFullBatch = 64;

}  // namespace tidepool::compute::pool

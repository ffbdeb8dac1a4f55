// What steps and loads are expected to take, and how that is learned from those that were.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "compute/scheduler/pool_state.h"

namespace tidepool::compute::pool {
namespace {

// Weight of a new measurement of step times, once there are many. The first ones are averaged with the guess
// that they meet: a guess may be wrong by half, and what is promised before the tenth request counts on it.
constexpr double kSmoothing = 0.1;

double WeightOf(int32_t& measurements) {
  constexpr int32_t kMany = 9;  // 1 / (9 + 1) = kSmoothing
  if (measurements < kMany) ++measurements;
  return std::max(kSmoothing, 1.0 / (measurements + 1));
}

}  // namespace

// ---- learning ------------------------------------------------------------------------------------------

void PoolState::LearnPace(Device& device, double planned_s, Nanoseconds busy, Nanoseconds now) {
  constexpr double kQuickest = 0.7, kSlowest = 2;
  constexpr double kRounding = 1e-3;
  if (busy <= 0 || planned_s <= 0) {
    device.step_ended_at = -1;
    return;
  }
  const Nanoseconds passed = device.step_ended_at >= 0 ? now - device.step_ended_at : busy;
  device.step_ended_at = now;
  LearnCharge(device, static_cast<double>(passed) * 1e-9, now);
  double ratio = std::clamp(static_cast<double>(passed) * 1e-9 / planned_s, 0.5, 3.0);
  if (std::abs(ratio - 1) < kRounding) ratio = 1;
  // They decay with the time planned: the same whether steps are told one by one or together. A promise
  // counts on the worse of the long and the short view.
  const auto learn = [&](double& seen, double window_s) {
    seen = ratio + (seen - ratio) * std::exp(-planned_s / window_s);
  };
  learn(device.long_pace, kLongPace_s);
  learn(device.short_pace, kShortPace_s);
  device.pace = std::clamp(std::max(device.long_pace, device.short_pace), kQuickest, kSlowest);
}

void PoolState::LearnCharge(Device& device, double passed_s, Nanoseconds now) {
  // At most: what came beyond a share is refused before the device is full, so that part of what it does not
  // serve is only idle. At least: a little less than full batches is full.
  constexpr double kMost = 1.2, kLeast = 1.05;
  const bool refuses = now - device.refused_at < kRefuses;
  const double decay = std::exp(-passed_s / (refuses ? kLongPace_s : 3 * kLongPace_s));
  device.passed_s = device.passed_s * decay + (refuses ? passed_s : device.step_charged_s);
  device.charged_s = device.charged_s * decay + device.step_charged_s;
  const double seen = device.charged_s > 0 ? device.passed_s / device.charged_s : 1;
  device.charge = seen < kLeast ? 1 : std::min(seen, kMost);
}

// A step's time is the sum of its parts, each times its learned factor. Normalised least mean squares (Widrow
// and Hoff, 1960): a step's error is shared out among the factors by the parts' squares, in the end a tenth
// of it at a time.
double PoolState::LearnStep(Device& device, int32_t steps, Nanoseconds busy) {
  constexpr double kMostOff = 4;  // times the prediction, that one step says anything about
  constexpr double kLeastFactor = 0.05, kMostFactor = 1000;
  // A step with tokens that were guessed says nothing: it had more rows, and the next may have none.
  if (steps == 0 || device.landing || busy <= 0 || device.beyond_plan > 0) return 0;
  const PoolPlan& plan = device.plan;
  double prefill = 0, prefill2 = 0, context = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    if (static_cast<int32_t>(i) < plan.decodes) {
      context += planned.begin + 0.5 * (steps - 1);
    } else {
      prefill += planned.count;
      prefill2 += static_cast<double>(planned.count) * planned.count;
    }
  }
  Model& model = *device.running->model;
  const StepProfile& given = GivenProfile(model, device);
  LearnedPace& pace = model.pace;
  struct Part {
    double seconds;
    double* factor;
  };
  std::array<Part, 5> parts{};
  size_t count = 0;
  const auto add = [&](double seconds, double& factor) {
    if (seconds > 0) parts[count++] = {seconds, &factor};
  };
  const double bases[] = {prefill > 0 ? given.prefill_base_s * pace.prefill_base : 0,
                          plan.decodes > 0 ? given.decode_base_s * pace.decode_base : 0};
  if (bases[0] > bases[1]) {
    add(given.prefill_base_s, pace.prefill_base);  // the larger counts once
  } else {
    add(given.decode_base_s, pace.decode_base);
  }
  add(given.prefill_per_token_s * prefill + given.prefill_per_token2_s * prefill2, pace.prefill_token);
  add(given.decode_per_context_token_s * context, pace.decode_context);
  add(given.decode_per_sequence_s * plan.decodes, pace.decode_sequence);
  double predicted = 0, squares = 0;
  for (size_t i = 0; i < count; ++i) {
    predicted += parts[i].seconds * *parts[i].factor;
    squares += parts[i].seconds * parts[i].seconds;
  }
  if (predicted <= 0) return 0;
  const double seen =
      std::clamp(static_cast<double>(busy) * 1e-9 / steps, predicted / kMostOff, predicted * kMostOff);
  const double error = seen - predicted;
  const double weight = WeightOf(prefill > 0 ? pace.prefills : pace.decodes);
  if (std::abs(error) < 1e-6 * predicted) return predicted * steps;  // rounding to nanoseconds
  for (size_t i = 0; i < count; ++i) {
    double& factor = *parts[i].factor;
    factor = std::clamp(factor + weight * error * parts[i].seconds / squares, kLeastFactor, kMostFactor);
  }
  return predicted * steps;
}

// ---- estimates -----------------------------------------------------------------------------------------

const StepProfile& PoolState::GivenProfile(const Model& model, const Device& device) const {
  const auto& profiles = model.model.profiles;
  return profiles[std::min(Index(device.device.kind), profiles.size() - 1)];
}

StepProfile PoolState::ProfileOf(const Model& model, const Device& device) const {
  StepProfile profile = GivenProfile(model, device);
  const LearnedPace& pace = model.pace;
  profile.prefill_base_s *= pace.prefill_base;
  profile.prefill_per_token_s *= pace.prefill_token;
  profile.prefill_per_token2_s *= pace.prefill_token;
  profile.decode_base_s *= pace.decode_base;
  profile.decode_per_context_token_s *= pace.decode_context;
  profile.decode_per_sequence_s *= pace.decode_sequence;
  return profile;
}

double PoolState::DecodeSeconds(const Replica& replica, int32_t more_sequences, int64_t more_context,
                                View view) const {
  const int32_t sequences = replica.jobs(view) + more_sequences;
  const int64_t beyond = view == View::kAll ? 0 : replica.beyond_context;
  return BatchSeconds(*replica.model, *replica.device, sequences,
                      static_cast<double>(replica.context - beyond + more_context));
}

double PoolState::BatchSeconds(const Model& model, const Device& device, int32_t sequences,
                               double context) const {
  if (sequences <= 0) return 0;
  const double rounds = std::ceil(static_cast<double>(sequences) / model.model.max_sequences);
  const StepProfile profile = ProfileOf(model, device);
  return profile.decode_base_s * (rounds - 1) + profile.StepSeconds(0, 0, context, sequences);
}

double PoolState::PrefillSeconds(const Model& model, const Device& device, int64_t tokens) const {
  const auto n = static_cast<double>(tokens);
  if (n <= 0) return 0;
  // As ProfileOf(...).StepSeconds(n, n * n, 0, 0): every decision asks for it once a job.
  const StepProfile& given = GivenProfile(model, device);
  const LearnedPace& pace = model.pace;
  return given.prefill_base_s * pace.prefill_base +
         (given.prefill_per_token_s * pace.prefill_token * n +
          given.prefill_per_token2_s * pace.prefill_token * (n * n));
}

double PoolState::LoadSeconds(const Model& model, const Device& device) const {
  const Host& host = *hosts_[Index(device.device.host)];
  const double rate = model.warm[Index(device.device.host)]
                          ? device.copy_rate
                          : std::min(device.copy_rate, host.host.load_bytes_per_s);
  const Replica* replica = FindReplica(model, device);
  int32_t landed = replica == nullptr ? 0 : replica->landed;
  if (model.model.weights_id != 0) {
    for (const Replica* other : device.replicas) {
      if (other->model->model.weights_id == model.model.weights_id) landed = std::max(landed, other->landed);
    }
  }
  return static_cast<double>(model.weight_bytes - model.prefix_bytes[Index(landed)]) / std::max(rate, 1.0);
}

uint64_t PoolState::SharedBytes(const Replica& replica) const {
  const uint64_t id = replica.model->model.weights_id;
  uint64_t bytes = 0;
  if (id == 0) return bytes;
  for (const Replica* other : replica.device->replicas) {
    if (other != &replica && other->model->model.weights_id == id) bytes = std::max(bytes, other->bytes);
  }
  return bytes;
}

double PoolState::LoadSeconds(const Replica& replica) const {
  return LoadSeconds(*replica.model, *replica.device);
}

double PoolState::SlowestPace(const Model& model, const Device& device) const {
  constexpr double kExpectedContext = 1024;
  return 2 * ProfileOf(model, device).StepSeconds(0, 0, kExpectedContext, 1);
}

double PoolState::ReplicaLoad(const Replica& replica, int32_t more_sequences, int64_t more_context,
                              View view) const {
  if (replica.jobs(view) + more_sequences == 0) return 0;
  const PoolModel& model = replica.model->model;
  return DecodeSeconds(replica, more_sequences, more_context, view) /
         std::max(static_cast<double>(model.tpot) * 1e-9, SlowestPace(*replica.model, *replica.device));
}

double PoolState::LoadOf(Device& device, View view) const {
  if (!device.load_known) {
    device.load[0] = device.load[1] = 0;
    for (const Replica* replica : device.replicas) {
      const double all = ReplicaLoad(*replica, 0, 0);
      device.load[0] += all;
      device.load[1] += replica->beyond == 0 ? all : ReplicaLoad(*replica, 0, 0, View::kWithinShare);
    }
    device.load_known = true;
  }
  return device.load[view == View::kAll ? 0 : 1];
}

}  // namespace tidepool::compute::pool

#include "compute/simulator/sim_links.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compute/simulator/simulator.h"

namespace tidepool::compute {
namespace {

size_t At(int32_t index) { return static_cast<size_t>(index); }
constexpr double kDone = 0.5;  // bytes left by rounding

}  // namespace

void SimLinks::Build(const SimConfig& config) {
  config_ = &config;
  in_.assign(config.devices.size(), 0);
  out_.assign(config.devices.size(), 0);
  cold_.assign(config.hosts.size(), 0);
  landed_.assign(config.devices.size(), std::vector<int32_t>(config.models.size(), 0));
  warm_used_.assign(config.hosts.size(), std::vector<uint64_t>(config.models.size(), 0));
  warm_bytes_.assign(config.hosts.size(), 0);
}

void SimLinks::SetWarm(int32_t host, int32_t model, bool warm) {
  uint64_t& used = warm_used_[At(host)][At(model)];
  const uint64_t bytes = config_->models[At(model)].weight_bytes;
  if (warm && used == 0) warm_bytes_[At(host)] += bytes;
  if (!warm && used != 0) warm_bytes_[At(host)] -= bytes;
  used = warm ? ++uses_ : 0;
}

double SimLinks::SegmentBytes(int32_t model, int32_t from, int32_t to) const {
  const SimModel& m = config_->models[At(model)];
  const auto layers = static_cast<uint64_t>(std::max(m.layers, 1));
  const auto prefix = [&](int32_t n) {
    return n == 0 ? 0 : m.weight_bytes / layers * static_cast<uint64_t>(n) + m.weight_bytes % layers;
  };
  return static_cast<double>(prefix(to) - prefix(from));
}

double SimLinks::Rate(const SimTransfer& transfer) const {
  const SimDevice& device = config_->devices[At(transfer.device)];
  const double link = config_->kinds[At(device.kind)].copy_bytes_per_s;
  const bool outward = transfer.kind == EffectKind::kSpill;
  double rate = link / (outward ? out_ : in_)[At(transfer.device)];
  if (transfer.cold) {
    rate = std::min(rate, config_->hosts[At(device.host)].load_bytes_per_s / cold_[At(device.host)]);
  }
  return rate;
}

void SimLinks::Advance(Nanoseconds now) {
  const double dt = static_cast<double>(now - at_) * 1e-9;
  at_ = now;
  if (dt <= 0) return;
  for (SimTransfer& transfer : transfers_) transfer.bytes -= Rate(transfer) * dt;
}

void SimLinks::Start(SimTransfer transfer, Nanoseconds now) {
  Advance(now);
  const int32_t host = config_->devices[At(transfer.device)].host;
  if (transfer.kind == EffectKind::kLoad) {
    transfer.bytes =
        SegmentBytes(transfer.model, landed_[At(transfer.device)][At(transfer.model)], transfer.segments);
    transfer.cold = warm_used_[At(host)][At(transfer.model)] == 0;
    if (transfer.cold) ++cold_[At(host)];
  }
  ++(transfer.kind == EffectKind::kSpill ? out_ : in_)[At(transfer.device)];
  transfers_.push_back(transfer);
  changed_ = true;
}

SimTransfer& SimLinks::LoadOf(int32_t device) {
  const auto entry = std::find_if(transfers_.begin(), transfers_.end(), [&](const SimTransfer& t) {
    return t.kind == EffectKind::kLoad && t.device == device;
  });
  CHECK(entry != transfers_.end());
  return *entry;
}

// Whole segments only.
int32_t SimLinks::Landed(const SimTransfer& load) const {
  int32_t landed = landed_[At(load.device)][At(load.model)];
  const double done = SegmentBytes(load.model, landed, load.segments) - std::max(load.bytes, 0.0);
  const int32_t from = landed;
  while (landed < load.segments && SegmentBytes(load.model, from, landed + 1) <= done) ++landed;
  return landed;
}

std::pair<int32_t, Nanoseconds> SimLinks::NextSegment(int32_t device, Nanoseconds now) {
  Advance(now);
  const SimTransfer& load = LoadOf(device);
  const int32_t landed = Landed(load);
  if (landed == load.segments) return {landed, now};
  const double missing = std::max(load.bytes, 0.0) - SegmentBytes(load.model, landed + 1, load.segments);
  return {landed, now + std::llround(1e9 * std::max(missing, 0.0) / Rate(load))};
}

// What had begun to land is lost.
int32_t SimLinks::StopLoad(int32_t device, Nanoseconds now) {
  Advance(now);
  const SimTransfer& load = LoadOf(device);
  const int32_t landed = Landed(load);
  landed_[At(device)][At(load.model)] = landed;
  --in_[At(device)];
  if (load.cold) --cold_[At(config_->devices[At(device)].host)];
  transfers_.erase(transfers_.begin() + (&load - transfers_.data()));
  changed_ = true;
  return landed;
}

void SimLinks::Evicted(int32_t device, int32_t model, int32_t keep) { landed_[At(device)][At(model)] = keep; }

bool SimLinks::TakeChanged() { return std::exchange(changed_, false); }

Nanoseconds SimLinks::NextEnd(Nanoseconds now) {
  Advance(now);
  double soonest = INFINITY;
  for (const SimTransfer& transfer : transfers_) {
    soonest = std::min(soonest, std::max(transfer.bytes, 0.0) / Rate(transfer));
  }
  return std::isinf(soonest) ? INT64_MAX
                             : now + std::max<Nanoseconds>(1, std::llround(std::ceil(soonest * 1e9)));
}

void SimLinks::TakeFinished(Nanoseconds now, std::vector<SimTransfer>& finished) {
  Advance(now);
  finished.clear();
  std::erase_if(transfers_, [&](const SimTransfer& transfer) {
    if (transfer.bytes > kDone) return false;
    finished.push_back(transfer);
    return true;
  });
  for (const SimTransfer& transfer : finished) {
    --(transfer.kind == EffectKind::kSpill ? out_ : in_)[At(transfer.device)];
    if (transfer.kind != EffectKind::kLoad) continue;
    landed_[At(transfer.device)][At(transfer.model)] = transfer.segments;
    const int32_t host = config_->devices[At(transfer.device)].host;
    if (transfer.cold) --cold_[At(host)];
    MakeWarm(host, transfer.model);
  }
  changed_ = true;
}

// A model that was read stays in host memory; the least recently used ones give their place.
void SimLinks::MakeWarm(int32_t host, int32_t model) {
  const bool was = warm_used_[At(host)][At(model)] != 0;
  SetWarm(host, model, true);
  if (!was) warm_changes_.emplace_back(host, model, true);
  const uint64_t limit = config_->hosts[At(host)].memory_bytes / 4 * 3;
  while (warm_bytes_[At(host)] > limit) {
    int32_t oldest = -1;
    for (size_t m = 0; m < config_->models.size(); ++m) {
      const uint64_t used = warm_used_[At(host)][m];
      if (used == 0 || static_cast<int32_t>(m) == model) continue;
      if (oldest < 0 || used < warm_used_[At(host)][At(oldest)]) oldest = static_cast<int32_t>(m);
    }
    if (oldest < 0) break;
    SetWarm(host, oldest, false);
    warm_changes_.emplace_back(host, oldest, false);
  }
}

std::vector<std::tuple<int32_t, int32_t, bool>> SimLinks::TakeWarmChanges() {
  return std::exchange(warm_changes_, {});
}

}  // namespace tidepool::compute

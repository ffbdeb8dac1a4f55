// Copies in virtual time: transfers of one direction of a device share its link equally; loads of models
// that are not in host memory share the host's reading rate too. Internal to the simulator.
#pragma once

#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute {

struct SimConfig;

struct SimTransfer {
  EffectKind kind = EffectKind::kLoad;
  int32_t device = 0;
  int32_t model = 0;
  PoolJobId job = 0;
  int32_t segments = 0;  // loads: target
  double bytes = 0;      // left
  bool cold = false;
};

class SimLinks {
 public:
  void Build(const SimConfig& config);
  void SetWarm(int32_t host, int32_t model, bool warm);
  void Start(SimTransfer transfer, Nanoseconds now);
  // Leading segments in memory when the load of `device` was stopped.
  int32_t StopLoad(int32_t device, Nanoseconds now);
  // Of the load of `device`: segments that are there, and when the next one will be, at today's rate.
  std::pair<int32_t, Nanoseconds> NextSegment(int32_t device, Nanoseconds now);
  void Evicted(int32_t device, int32_t model, int32_t keep);
  bool TakeChanged();
  Nanoseconds NextEnd(Nanoseconds now);
  void TakeFinished(Nanoseconds now, std::vector<SimTransfer>& finished);
  std::vector<std::tuple<int32_t, int32_t, bool>> TakeWarmChanges();

 private:
  void Advance(Nanoseconds now);
  SimTransfer& LoadOf(int32_t device);
  int32_t Landed(const SimTransfer& load) const;
  double Rate(const SimTransfer& transfer) const;
  double SegmentBytes(int32_t model, int32_t from, int32_t to) const;
  void MakeWarm(int32_t host, int32_t model);

  const SimConfig* config_ = nullptr;
  std::vector<SimTransfer> transfers_;
  std::vector<int32_t> in_, out_, cold_;          // counts by device, device, host
  std::vector<std::vector<int32_t>> landed_;      // [device][model] segments
  std::vector<std::vector<uint64_t>> warm_used_;  // [host][model] last use, 0: cold
  std::vector<uint64_t> warm_bytes_;              // by host
  std::vector<std::tuple<int32_t, int32_t, bool>> warm_changes_;
  uint64_t uses_ = 0;
  Nanoseconds at_ = 0;
  bool changed_ = false;
};

}  // namespace tidepool::compute

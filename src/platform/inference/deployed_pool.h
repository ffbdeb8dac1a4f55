// PoolControl over the engine, the ledger and the deployments. Metrics, beside the ledger's and those of
// residency:
//   tidepool_pool_over_limit_bytes, tidepool_pool_host_kv_used_bytes, tidepool_pool_host_kv_limit_bytes
//   tidepool_pool_load                  share of the device that all requests need to keep their pace
//   tidepool_pool_switch_share          of its time that waited for weights with work at hand
//   tidepool_pool_cordoned              1: no new work begins
//   tidepool_pool_events_total{event}   arrival, rejected, switch, load, load_failure, eviction, spill,
//                                       restore, drop, move, turn
//   tidepool_pool_bytes_moved_total{what}  loaded, spilled, restored
//   tidepool_pool_segments{model, state}   cold, warm, loading, resident
//   tidepool_pool_requests{model, state}   waiting, active, spilled
//   tidepool_pool_slack_seconds{model}     of its most urgent request; 0 without one
//   tidepool_pool_pinned{model}, tidepool_pool_quarantined{model}
// A model that has left stays in the export with zeros.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "compute/residency/residency_metrics.h"
#include "platform/inference/deployments.h"
#include "platform/inference/pool_control.h"

namespace tidepool::platform {

class DeployedPool final : public PoolControl {
 public:
  DeployedPool(Deployments& deployments, compute::Engine& engine, compute::Ledger& ledger, const Clock& clock,
               MetricsRegistry& metrics, const InferenceOptions& options, uint64_t machine_bytes);

  PoolState State() const override;
  Status Resize(const PoolResize& resize) override;
  Result<PoolModelState> SetPolicy(const std::string& model, const PolicyChange& change) override;
  void SetCordoned(bool cordoned) override { engine_.SetCordoned(cordoned); }
  PoolEventList Events(uint64_t after, size_t most) const override;
  PoolTurnList Turns(uint64_t after, size_t most) const override;
  Result<std::string> Trace(bool requests) const override;
  void UpdateMetrics() override;

 private:
  double UnixOffset() const;

  struct ModelSeries {
    std::array<Gauge, 4> segments;
    std::array<Gauge, 3> requests;
    Gauge slack, pinned, quarantined;
  };
  ModelSeries& SeriesOf(const std::string& model);

  Deployments& deployments_;
  compute::Engine& engine_;
  compute::Ledger& ledger_;
  const Clock& clock_;
  MetricsRegistry& registry_;
  const InferenceOptions options_;
  const uint64_t machine_bytes_;  // no budget is larger; 0: not known

  std::mutex resize_mutex_;
  std::mutex metrics_mutex_;  // of what follows
  std::unique_ptr<compute::ResidencyMetrics> residency_metrics_;
  Gauge over_, host_kv_used_, host_kv_limit_, load_, switch_share_, cordoned_;
  std::array<Counter, 11> events_;
  std::array<Counter, 3> bytes_moved_;
  compute::PoolCounters last_;
  std::map<std::string, ModelSeries> models_;
};

}  // namespace tidepool::platform

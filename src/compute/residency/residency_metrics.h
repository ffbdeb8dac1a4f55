// Residency and the packed cache as metrics:
//   tidepool_weights_bytes{model, state}  state: cold, warm, loading, resident
//   tidepool_warm_used_bytes, tidepool_warm_limit_bytes
//   tidepool_weight_loads_total{model, result}  result: ok, failed, cancelled
//   tidepool_weight_evictions_total{model}, tidepool_weight_load_seconds_total{model}
//   tidepool_weight_bytes_moved_total{model, source}  source: disk, memory
//   tidepool_packed_cache_bytes, tidepool_packed_cache_files,
//   tidepool_packed_cache_total{event}  event: hit, miss, rebuild, eviction
#pragma once

#include <array>
#include <map>
#include <string>

#include "base/metrics.h"
#include "compute/residency/packed_cache.h"
#include "compute/residency/residency.h"

namespace tidepool::compute {

// Threads: one (whoever calls Update). A model that has left stays in the export with 0 bytes.
class ResidencyMetrics {
 public:
  // `cache` may be nullptr (simulated devices have none). All outlive this object.
  ResidencyMetrics(const Residency& residency, MetricsRegistry& registry, const PackedCache* cache = nullptr);
  // Copies the present state. Allocates and lists the cache's folder; not for a step.
  void Update();

 private:
  struct Series {
    std::array<Gauge, 4> bytes;
    std::array<Counter, 3> loads;
    Counter evictions, load_seconds, from_disk, from_memory;
    ModelResidency last;  // what the counters have
  };
  Series& SeriesOf(const std::string& model);

  const Residency& residency_;
  MetricsRegistry& registry_;
  const PackedCache* const cache_;
  Gauge warm_used_, warm_limit_, cache_bytes_, cache_files_;
  std::array<Counter, 4> cache_events_;
  PackedCacheStats last_cache_;
  std::map<std::string, Series> models_;
};

}  // namespace tidepool::compute

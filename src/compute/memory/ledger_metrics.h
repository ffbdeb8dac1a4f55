// The ledger as gauges: tidepool_pool_bytes{owner, kind}, tidepool_pool_used_bytes,
// tidepool_pool_limit_bytes.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "base/metrics.h"
#include "compute/memory/ledger.h"

namespace tidepool::compute {

// Threads: one (whoever calls Update). An owner that has left stays in the export with 0 bytes.
class LedgerMetrics {
 public:
  LedgerMetrics(const Ledger& ledger, MetricsRegistry& registry);
  // Copies the ledger's present state to the gauges. Allocates; not for a step.
  void Update();

 private:
  const Ledger& ledger_;
  MetricsRegistry& registry_;
  Gauge used_, limit_;
  std::map<std::pair<std::string, ChargeKind>, Gauge> charges_;
};

}  // namespace tidepool::compute

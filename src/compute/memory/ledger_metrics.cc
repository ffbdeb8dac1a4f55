#include "compute/memory/ledger_metrics.h"

namespace tidepool::compute {

LedgerMetrics::LedgerMetrics(const Ledger& ledger, MetricsRegistry& registry)
    : ledger_(ledger),
      registry_(registry),
      used_(registry.gauge("tidepool_pool_used_bytes", "Bytes of the pool that are charged")),
      limit_(registry.gauge("tidepool_pool_limit_bytes", "Hard limit of the pool")) {
  limit_.Set(static_cast<double>(ledger.limit()));
}

void LedgerMetrics::Update() {
  const auto snapshot = ledger_.Snapshot();
  double used = 0;
  for (auto& [key, gauge] : charges_) {
    if (!snapshot.contains(key)) gauge.Set(0);
  }
  for (const auto& [key, bytes] : snapshot) {
    auto entry = charges_.find(key);
    if (entry == charges_.end()) {
      Gauge gauge =
          registry_.gauge("tidepool_pool_bytes", "Bytes of the pool by owner and kind",
                          {{"owner", key.first}, {"kind", std::string(ChargeKindName(key.second))}});
      entry = charges_.emplace(key, gauge).first;
    }
    entry->second.Set(static_cast<double>(bytes));
    used += static_cast<double>(bytes);
  }
  used_.Set(used);
  limit_.Set(static_cast<double>(ledger_.limit()));
}

}  // namespace tidepool::compute

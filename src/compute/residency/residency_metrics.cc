#include "compute/residency/residency_metrics.h"

#include <algorithm>

namespace tidepool::compute {
namespace {

// A model that was detached and attached again counts from zero: its counters go on from where they were.
void Advance(Counter& counter, double now, double last) { counter.Increment(now >= last ? now - last : now); }
void Advance(Counter& counter, uint64_t now, uint64_t last) {
  Advance(counter, static_cast<double>(now), static_cast<double>(last));
}

}  // namespace

ResidencyMetrics::ResidencyMetrics(const Residency& residency, MetricsRegistry& registry,
                                   const PackedCache* cache)
    : residency_(residency),
      registry_(registry),
      cache_(cache),
      warm_used_(
          registry.gauge("tidepool_warm_used_bytes", "Weights kept in memory beside the resident ones")),
      warm_limit_(registry.gauge("tidepool_warm_limit_bytes", "Budget of warm weights")) {
  if (cache_ == nullptr) return;
  cache_bytes_ = registry.gauge("tidepool_packed_cache_bytes", "Packed weights on disk");
  cache_files_ = registry.gauge("tidepool_packed_cache_files", "Packed files on disk");
  constexpr const char* kEvents[] = {"hit", "miss", "rebuild", "eviction"};
  for (size_t i = 0; i < cache_events_.size(); ++i) {
    cache_events_[i] =
        registry.counter("tidepool_packed_cache_total",
                         "Packed files opened, packed, packed again and evicted", {{"event", kEvents[i]}});
  }
}

ResidencyMetrics::Series& ResidencyMetrics::SeriesOf(const std::string& model) {
  const auto known = models_.find(model);
  if (known != models_.end()) return known->second;
  Series series;
  constexpr const char* kStates[] = {"cold", "warm", "loading", "resident"};
  for (size_t i = 0; i < series.bytes.size(); ++i) {
    series.bytes[i] = registry_.gauge("tidepool_weights_bytes", "Weights by state of residency",
                                      {{"model", model}, {"state", kStates[i]}});
  }
  constexpr const char* kResults[] = {"ok", "failed", "cancelled"};
  for (size_t i = 0; i < series.loads.size(); ++i) {
    series.loads[i] = registry_.counter("tidepool_weight_loads_total", "Loads of weights",
                                        {{"model", model}, {"result", kResults[i]}});
  }
  series.evictions =
      registry_.counter("tidepool_weight_evictions_total", "Evictions of weights", {{"model", model}});
  series.load_seconds = registry_.counter("tidepool_weight_load_seconds_total",
                                          "Seconds spent moving weights", {{"model", model}});
  constexpr const char* kMoved = "Bytes of weights made resident or warm, by where they came from";
  series.from_disk =
      registry_.counter("tidepool_weight_bytes_moved_total", kMoved, {{"model", model}, {"source", "disk"}});
  series.from_memory = registry_.counter("tidepool_weight_bytes_moved_total", kMoved,
                                         {{"model", model}, {"source", "memory"}});
  return models_.emplace(model, std::move(series)).first->second;
}

void ResidencyMetrics::Update() {
  warm_used_.Set(static_cast<double>(residency_.warm_used()));
  warm_limit_.Set(static_cast<double>(residency_.warm_limit()));
  const std::vector<ModelResidency> now = residency_.Snapshot();
  for (auto& [name, series] : models_) {
    const bool here =
        std::any_of(now.begin(), now.end(), [&](const auto& model) { return model.name == name; });
    if (here) continue;
    for (Gauge& gauge : series.bytes) gauge.Set(0);
    series.last = {};
  }
  for (const ModelResidency& model : now) {
    Series& series = SeriesOf(model.name);
    const uint64_t bytes[] = {model.bytes.cold, model.bytes.warm, model.bytes.loading, model.bytes.resident};
    for (size_t i = 0; i < series.bytes.size(); ++i) series.bytes[i].Set(static_cast<double>(bytes[i]));
    const ModelResidency& last = series.last;
    Advance(series.loads[0], model.completed_loads, last.completed_loads);
    Advance(series.loads[1], model.failed_loads, last.failed_loads);
    Advance(series.loads[2], model.cancelled_loads, last.cancelled_loads);
    Advance(series.evictions, model.evictions, last.evictions);
    Advance(series.load_seconds, model.load_seconds, last.load_seconds);
    Advance(series.from_disk, model.cold_bytes_moved, last.cold_bytes_moved);
    Advance(series.from_memory, model.warm_bytes_moved, last.warm_bytes_moved);
    series.last = model;
  }
  if (cache_ == nullptr) return;
  const PackedCacheStats stats = cache_->stats();
  cache_bytes_.Set(static_cast<double>(stats.bytes));
  cache_files_.Set(static_cast<double>(stats.files));
  Advance(cache_events_[0], stats.hits, last_cache_.hits);
  Advance(cache_events_[1], stats.misses, last_cache_.misses);
  Advance(cache_events_[2], stats.rebuilds, last_cache_.rebuilds);
  Advance(cache_events_[3], stats.evictions, last_cache_.evictions);
  last_cache_ = stats;
}

}  // namespace tidepool::compute

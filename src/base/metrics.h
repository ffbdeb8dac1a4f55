// Metrics: counters, gauges and histograms, exported in Prometheus' text format.
//
// Handles are looked up once (a mutex and a map) and kept; Increment/Set/Observe are atomic and cheap,
// so the engine thread may call them. Names follow Prometheus: tidepool_<what>_<unit>[_total].
// Backed by prometheus-cpp; only metrics.cc knows it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tidepool {

using MetricLabels = std::map<std::string, std::string>;

class Counter {
 public:
  void Increment(double by = 1);
  double value() const;

 private:
  friend class MetricsRegistry;
  void* impl_ = nullptr;
};

class Gauge {
 public:
  void Set(double value);
  void Add(double by);
  double value() const;

 private:
  friend class MetricsRegistry;
  void* impl_ = nullptr;
};

class Histogram {
 public:
  void Observe(double value);

 private:
  friend class MetricsRegistry;
  void* impl_ = nullptr;
};

// Any thread. Handles are valid as long as the registry. The same name and labels give the same series.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;
  MetricsRegistry& operator=(const MetricsRegistry&) = delete;

  Counter counter(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  Gauge gauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  Histogram histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                      const MetricLabels& labels = {});

  // The whole registry in Prometheus' text exposition format.
  std::string Serialize() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Seconds, 1 ms to 120 s: for TTFT, TPOT, queue and request times.
const std::vector<double>& LatencyBounds();

}  // namespace tidepool

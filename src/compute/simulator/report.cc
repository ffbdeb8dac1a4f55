#include "compute/simulator/report.h"

#include <cmath>

namespace tidepool::compute {
namespace {

using RowJson = nlohmann::ordered_json;

// Six significant digits: enough for every figure, and stable to read.
double Shortened(double value) {
  if (value == 0 || !std::isfinite(value)) return 0;
  const double unit = std::pow(10, std::floor(std::log10(std::abs(value))) - 5);
  const double rounded = std::round(value / unit);
  return unit < 1 ? rounded / std::round(1 / unit) : rounded * unit;
}

bool LessIsWorse(const std::string& key) {
  return key == "tokens_on_time" || key == "requests_on_time" || key == "admitted_on_time" || key == "qos_sosp25";
}

}  // namespace

RowJson RowOf(const SimResult& result) {
  const double refused =
      result.requests == 0 ? 0 : static_cast<double>(result.rejected) / static_cast<double>(result.requests);
  RowJson row;
  row["policy"] = result.policy;
  row["models"] = result.models;
  row["devices"] = result.devices;
  row["requests"] = result.requests;
  row["tokens_on_time"] = Shortened(result.tokens_on_time);
  row["requests_on_time"] = Shortened(result.requests_on_time);
  row["ttft_p50_s"] = Shortened(result.ttft_p50_s);
  row["ttft_p99_s"] = Shortened(result.ttft_p99_s);
  row["max_stall_p50_s"] = Shortened(result.max_stall_p50_s);
  row["max_stall_p99_s"] = Shortened(result.max_stall_p99_s);
  row["utilisation"] = Shortened(result.utilisation);
  row["switches"] = result.switches;
  row["bytes_moved"] = result.bytes_moved;
  row["wall_s"] = Shortened(result.wall_s);
  row["refused_share"] = Shortened(refused);
  row["admitted_on_time"] = Shortened(result.admitted_on_time);
  row["unfinished"] = result.unfinished;
  row["tokens"] = result.tokens;
  row["makespan_s"] = Shortened(result.makespan_s);
  row["qos_sosp25"] = Shortened(result.qos_sosp25);
  return row;
}

RowJson WorstRow(const std::vector<RowJson>& rows) {
  RowJson worst = rows.front();
  for (const RowJson& row : rows) {
    for (auto& [key, value] : worst.items()) {
      if (!value.is_number() || !row[key].is_number()) continue;
      const bool worse = LessIsWorse(key) ? row[key] < value : row[key] > value;
      if (worse) value = row[key];
    }
  }
  return worst;
}

}  // namespace tidepool::compute

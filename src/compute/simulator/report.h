// Results as rows of JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "compute/simulator/simulator.h"

namespace tidepool::compute {

// policy, models, devices, requests, tokens_on_time, requests_on_time, ttft_p50_s, ttft_p99_s,
// max_stall_p50_s, max_stall_p99_s, utilisation, switches, bytes_moved, wall_s; then refused_share,
// unfinished, makespan_s and qos_sosp25.
nlohmann::ordered_json RowOf(const SimResult& result);
// Field by field: the least share on time, the longest times, the highest share refused.
nlohmann::ordered_json WorstRow(const std::vector<nlohmann::ordered_json>& rows);

}  // namespace tidepool::compute

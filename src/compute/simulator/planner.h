// The operator's question: how many devices of which kind, dedicated and pooled?
//
// By search over simulations. Dedicated: for each model the fewest devices of its own that keep the share of
// its tokens. Pooled: the fewest that keep it over all tokens. Refused requests count late in both.
#pragma once

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "compute/simulator/study.h"

namespace tidepool::compute {

// The request is a study's (study.h) with "devices": "H20,H100" (kinds, without counts), "share": 0.99,
// "prices": {"H20": 1.5} (an hour), "risk": 2 (the load at which the found sizes are tried again) and
// "chart". The reply: {"data": [{"kind", "pooled": {"devices", "tokens_on_time", "requests_on_time",
// "refused_share", "ttft_p99_s", "per_hour", "per_million_tokens", "at_risk"}, "dedicated": {...}, "saving",
// "placement":
// [{"device", "host", "busy", "models": [{"model", "share"}]}]}], "requests_per_s", "tokens_per_s", "svg"}.
// "devices" is null where even max_count (default 1024) would not do.
Result<nlohmann::ordered_json> PlanStudy(const nlohmann::ordered_json& request, const StudyLimits& limits,
                                         const StudyProgress& progress);

}  // namespace tidepool::compute

// What the handlers work with. Everything outlives the handlers and may be used from any thread. What is
// called later, by the engine or the loader, may come when the gateway is gone: it holds `workers` and
// touches the rest only within what they run.
#pragma once

#include <atomic>
#include <memory>

#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/json_body.h"
#include "gateway/workers.h"

namespace tidepool::gateway {

namespace native {
class PoolFeed;
}
namespace ollama {
class PullFeed;
}

struct Services {
  const GatewayOptions& options;
  platform::Inference& inference;
  platform::Catalog& catalog;
  const Clock& clock;
  MetricsRegistry& metrics;
  const ServerHooks& hooks;
  std::shared_ptr<Workers> workers;  // milliseconds: parsing, rendering, tokenizing; refuse once it stopped
  Workers& slow;                     // seconds: loading, deleting, measuring
  std::atomic<bool>& draining;
  std::atomic<bool>& bench_running;
  native::PoolFeed& pool_feed;
  ollama::PullFeed& pull_feed;

  JsonLimits json_limits() const { return JsonLimits{options.max_json_depth, 2'000'000, 4096}; }
};

// The body of the request as JSON; an empty body is an empty object if `optional`.
Result<nlohmann::ordered_json> JsonBody(const Services& services, const HttpRequest& request,
                                        bool optional = false);

// A key may be for some models only. They are meant by their stored ids, whatever alias the request uses, or
// by the names of deployments.
Status CheckModel(const Services& services, const HttpRequest& request, const std::string& model);

}  // namespace tidepool::gateway

// The HTTP server: dialects (openai, native), security, limits. decode -> call -> encode, no business rules.
//
// Threads: I/O threads of its own (Asio, one io_context each). Engine callbacks are posted to the
// connection's executor through a bounded buffer. Asio and Beast stay inside this folder's http_*.cc files.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "platform/accounts/authenticator.h"
#include "platform/catalog/catalog.h"
#include "platform/inference/inference.h"

namespace tidepool::platform {
class Accounting;
class Accounts;
class Audit;
class ConversationShares;
class Conversations;
class RequestBodies;
class Responses;
}  // namespace tidepool::platform

namespace tidepool::gateway {

struct GatewayOptions {
  std::string listen = "127.0.0.1:8433";   // address:port; port 0 picks a free one
  bool open = false;                       // no key needed; refused beyond loopback
  bool allow_plain_http = false;           // listen beyond loopback without TLS
  std::string trusted_proxy;               // CIDR list: a TLS-terminating proxy in front
  std::string tls_certificate, tls_key;    // PEM files
  std::vector<std::string> allowed_hosts;  // Host names besides the listen address and localhost
  std::vector<std::string> cors_origins;   // exact origins, or "*"
  int32_t threads = 1;
  int32_t max_connections = 4096;
  int32_t max_streams_per_connection = 1;  // HTTP/1.1: requests are answered one after another
  uint64_t max_body_bytes = 16u << 20;
  uint64_t max_total_body_bytes = 256u << 20;  // of all requests being read or answered; beyond it 503
  uint32_t max_header_bytes = 32u << 10;
  double header_timeout_s = 10;
  double body_timeout_s = 60;
  double idle_timeout_s = 75;                  // keep-alive
  double write_timeout_s = 30;                 // a reader that takes nothing for so long is dropped
  uint64_t max_write_buffer_bytes = 1u << 20;  // per connection; above half of it the generation is paused
  double keep_alive_comment_s = 10;            // SSE comments while nothing is produced
  int32_t max_json_depth = 64;
  double drain_timeout_s = 30;
};

// What the native API shows of the process around it; the composition root fills these.
struct ServerHooks {
  std::function<nlohmann::ordered_json()> settings;  // GET /api/v1/settings
  // PATCH /api/v1/settings: checks {"name": value, ..}, calls `record` with what was and what will be, then
  // changes. Not set: 501.
  using RecordChange =
      std::function<Status(const nlohmann::ordered_json& before, const nlohmann::ordered_json& after)>;
  std::function<Status(const nlohmann::ordered_json& values, const RecordChange& record)> change_settings;
  std::function<nlohmann::ordered_json()>
      doctor;  // GET /api/v1/doctor (may take a second; runs off the I/O threads)
  std::function<nlohmann::ordered_json()> status;  // GET /api/v1/status: pool, ledger, uptime
  // POST /api/v1/bench {"model","prompt_tokens","generate_tokens","depth","batch":[..]} (checked), on a
  // thread of its own, one at a time ->
  // {"data":[{"id","test":"prefill|decode","batch","tokens","seconds","tokens_per_s","share_of_limit",
  // "limit"}]}. Not set: 501.
  std::function<Result<nlohmann::ordered_json>(const nlohmann::ordered_json&)> bench;
  // "8GiB" or "60%" (of the machine) to bytes, as the settings take them. Not set: numbers only.
  std::function<Result<uint64_t>(std::string_view)> memory_bytes;
  // Limits, quotas, budgets, prices, usage, bills. Not set: 501.
  platform::Accounting* accounting = nullptr;
  platform::Conversations* conversations = nullptr;  // outlives the gateway. Not set: 501
  platform::ConversationShares* shares = nullptr;    // outlives the gateway. Not set: 501
  platform::RequestBodies* bodies = nullptr;         // outlives the engine. Not set: none are kept
  platform::Responses* responses = nullptr;          // outlives the engine. Not set: 501
  platform::DeploymentBook* deployments = nullptr;   // outlives the engine. Not set: 501
  // Organisations, members, keys, sessions and what happened. Not set: 501.
  platform::Accounts* accounts = nullptr;
  platform::Audit* audit = nullptr;
  // POST /api/v1/backup: a copy of the store while serving; with a passphrase the key file goes along,
  // sealed.
  std::function<Result<nlohmann::ordered_json>(const std::string& file, const std::string& passphrase)>
      backup;
  // Called when rights may have changed, for the gateway to cut streams. Set by the gateway.
  std::function<void(std::function<void()>)> on_rights_changed;
  std::string version;
  std::string commit;
};

class Gateway {
 public:
  virtual ~Gateway() = default;
  // Checks the options (listening beyond loopback without protection is kInvalid) and binds; serving starts
  // at once.
  static Result<std::unique_ptr<Gateway>> Start(const GatewayOptions& options, platform::Inference& inference,
                                                platform::Catalog& catalog, platform::Authenticator& keys,
                                                const Clock& clock, MetricsRegistry& metrics,
                                                ServerHooks hooks);
  virtual std::string url() const = 0;  // "http://127.0.0.1:8433", with the real port
  // /ready answers 503 and new work is refused from now on; returns when streams ended or the time-out
  // passed.
  virtual bool Drain() = 0;
  virtual void Stop() = 0;
};

// The OpenAPI document of every route the gateway serves (also GET /openapi.json, and committed as
// api/openapi.json).
nlohmann::ordered_json OpenApiDocument();

}  // namespace tidepool::gateway

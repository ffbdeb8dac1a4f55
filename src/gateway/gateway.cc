#include "gateway/gateway.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "base/log.h"
#include "gateway/application.h"
#include "gateway/http_server.h"
#include "gateway/native/pool_feed.h"
#include "gateway/ollama/pull_feed.h"
#include "gateway/services.h"
#include "platform/conversations/conversations.h"
#include "platform/responses/responses.h"

namespace tidepool::gateway {
namespace {

Nanoseconds Duration(double seconds) {
  return static_cast<Nanoseconds>(seconds * static_cast<double>(kSecond));
}

ConnectionOptions ConnectionOptionsOf(const GatewayOptions& options) {
  ConnectionOptions out;
  out.limits.max_header_bytes = options.max_header_bytes;
  out.limits.max_body_bytes = options.max_body_bytes;
  out.header_timeout = Duration(options.header_timeout_s);
  out.body_timeout = Duration(options.body_timeout_s);
  out.idle_timeout = Duration(options.idle_timeout_s);
  out.write_timeout = Duration(options.write_timeout_s);
  out.quiet_interval = Duration(options.keep_alive_comment_s);
  out.max_write_buffer_bytes = options.max_write_buffer_bytes;
  return out;
}

// Members are destroyed from the last to the first: the server (and with it every connection) goes before the
// workers, and both before what the handlers use.
class RunningGateway final : public Gateway {
 public:
  RunningGateway(const GatewayOptions& options, platform::Inference& inference, platform::Catalog& catalog,
                 platform::Authenticator& keys, const Clock& clock, MetricsRegistry& metrics,
                 ServerHooks hooks, Security security)
      : options_(options),
        hooks_(std::move(hooks)),
        clock_(clock),
        // Two: a body that takes long to parse does not hold up the others.
        workers_(std::make_shared<Workers>(std::max(2, options.threads),
                                           static_cast<size_t>(options.max_connections))),
        slow_(2, 64),
        pool_feed_(inference, draining_),
        pull_feed_(catalog, draining_),
        services_{options_, inference, catalog,   clock,          metrics,    hooks_,
                  workers_, slow_,     draining_, bench_running_, pool_feed_, pull_feed_},
        application_(services_, std::move(security), keys),
        bodies_(std::make_shared<BodyBudget>(
            options.max_total_body_bytes,
            metrics.gauge("tidepool_http_request_body_bytes_in_flight",
                          "Bytes of the bodies of requests being read or answered"),
            metrics.counter("tidepool_http_refused_bodies_total",
                            "Requests refused because all bodies together would be too large"))) {}

  ~RunningGateway() override { Stop(); }

  Status Listen(const ListenAddress& address) {
    HttpServerOptions server;
    server.address = address.address;
    server.port = address.port;
    server.tls_certificate = options_.tls_certificate;
    server.tls_key = options_.tls_key;
    server.threads = options_.threads;
    server.max_connections = options_.max_connections;
    server.connection = ConnectionOptionsOf(options_);
    server.connection.bodies = bodies_;
    TP_ASSIGN(server_, HttpServer::Start(server, application_, clock_));
    // A wildcard address is no address to open in a browser.
    const bool any = address.address == "0.0.0.0" || address.address == "::";
    const std::string host = any ? "127.0.0.1" : address.address;
    const bool v6 = host.find(':') != std::string::npos;
    url_ = fmt::format("{}://{}{}{}:{}", options_.tls_certificate.empty() ? "http" : "https", v6 ? "[" : "",
                       host, v6 ? "]" : "", server_->port());
    return {};
  }

  std::string url() const override { return url_; }

  bool Drain() override {
    draining_ = true;
    if (hooks_.conversations != nullptr) hooks_.conversations->EndListening();
    if (hooks_.responses != nullptr) hooks_.responses->EndListening();
    return application_.WaitIdle(options_.drain_timeout_s);
  }

  void Stop() override {
    draining_ = true;
    if (hooks_.conversations != nullptr) hooks_.conversations->EndListening();
    if (hooks_.responses != nullptr) hooks_.responses->EndListening();
    pool_feed_.Stop();
    pull_feed_.Stop();
    application_.StopWatching();
    if (server_) server_->Stop();
    slow_.Stop();
    workers_->Stop();
  }

 private:
  const GatewayOptions options_;
  const ServerHooks hooks_;
  const Clock& clock_;
  std::atomic<bool> draining_{false};
  std::atomic<bool> bench_running_{false};
  const std::shared_ptr<Workers> workers_;
  Workers slow_;
  native::PoolFeed pool_feed_;
  ollama::PullFeed pull_feed_;
  Services services_;
  Application application_;
  const std::shared_ptr<BodyBudget> bodies_;
  std::unique_ptr<HttpServer> server_;
  std::string url_;
};

Status CheckOptions(const GatewayOptions& options) {
  const auto positive = [](double value, std::string_view name) -> Status {
    if (value > 0) return {};
    return Fail(ErrorKind::kInvalid, "bad_setting", fmt::format("{} must be above 0, not {}.", name, value),
                std::string(name));
  };
  TP_TRY(positive(options.threads, "threads"));
  TP_TRY(positive(options.max_connections, "max_connections"));
  TP_TRY(positive(static_cast<double>(options.max_body_bytes), "max_body_bytes"));
  if (options.max_total_body_bytes < options.max_body_bytes) {
    return Fail(
        ErrorKind::kInvalid, "bad_setting",
        fmt::format("http.max_total_body ({}) is less than http.max_body ({}): the largest body would never "
                    "be taken. Raise the one or lower the other.",
                    options.max_total_body_bytes, options.max_body_bytes),
        "http.max_total_body");
  }
  TP_TRY(positive(options.header_timeout_s, "header_timeout_s"));
  TP_TRY(positive(options.body_timeout_s, "body_timeout_s"));
  TP_TRY(positive(options.idle_timeout_s, "idle_timeout_s"));
  TP_TRY(positive(options.write_timeout_s, "write_timeout_s"));
  TP_TRY(positive(options.keep_alive_comment_s, "keep_alive_comment_s"));
  TP_TRY(positive(options.max_json_depth, "max_json_depth"));
  if (options.max_header_bytes < 1024 || options.max_write_buffer_bytes < 16384) {
    return Fail(ErrorKind::kInvalid, "bad_setting",
                "max_header_bytes must be at least 1024 and max_write_buffer_bytes at least 16384.");
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Gateway>> Gateway::Start(const GatewayOptions& options, platform::Inference& inference,
                                                platform::Catalog& catalog, platform::Authenticator& keys,
                                                const Clock& clock, MetricsRegistry& metrics,
                                                ServerHooks hooks) {
  TP_TRY(CheckOptions(options));
  TP_ASSIGN(const ListenAddress address, ParseListenAddress(options.listen));
  TP_TRY(CheckListening(options, address));
  TP_ASSIGN(Security security, Security::Create(options, address));
  auto gateway = std::make_unique<RunningGateway>(options, inference, catalog, keys, clock, metrics,
                                                  std::move(hooks), std::move(security));
  TP_TRY(gateway->Listen(address));
  return std::unique_ptr<Gateway>(std::move(gateway));
}

}  // namespace tidepool::gateway

// The application above the HTTP server: screens requests (ids, security, routes, keys), runs handlers on
// their lane, counts and logs. No endpoint's own logic.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "gateway/router.h"
#include "gateway/security.h"
#include "gateway/services.h"

namespace tidepool::gateway {

class Application final : public HttpApplication {
 public:
  Application(Services& services, Security security, const platform::KeyStore& keys);

  std::optional<HttpResponse> Screen(HttpRequest& request) override;
  void Handle(std::shared_ptr<Exchange> exchange) override;
  HttpResponse Refuse(int status, std::string_view code, std::string_view message) override;
  void Decorate(const HttpRequest& request, std::vector<HttpHeader>& headers) override;
  void Finished(const HttpRequest& request, const ExchangeSummary& summary) override;

  // Waits until no routed request is in flight; false if `timeout_s` passed first.
  bool WaitIdle(double timeout_s);

 private:
  struct RouteMetrics {
    std::map<int, Counter> requests;  // by status
    Histogram seconds;
  };
  Result<void> ScreenRouted(HttpRequest& request);
  RouteMetrics& MetricsOf(const Route* route);
  void Run(const std::shared_ptr<Exchange>& exchange);

  Services& services_;
  const Security security_;
  const platform::KeyStore& keys_;

  std::mutex mutex_;  // of what follows
  std::condition_variable idle_;
  int64_t in_flight_ = 0;
  std::map<const Route*, RouteMetrics> metrics_;

  Gauge in_flight_gauge_;
  Counter bytes_received_, bytes_sent_, dropped_readers_, aborted_;
};

}  // namespace tidepool::gateway

// The application above the HTTP server: screens requests (ids, security, routes, keys), runs handlers on
// their lane, counts and logs. No endpoint's own logic.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "gateway/router.h"
#include "gateway/security.h"
#include "gateway/services.h"

namespace tidepool::gateway {

class Application final : public HttpApplication {
 public:
  Application(Services& services, Security security, const platform::Authenticator& keys);
  ~Application() override { StopWatching(); }

  std::optional<HttpResponse> Screen(HttpRequest& request) override;
  void Handle(std::shared_ptr<Exchange> exchange) override;
  HttpResponse Refuse(const HttpRequest& request, int status, std::string_view code,
                      std::string_view message) override;
  void Decorate(const HttpRequest& request, std::vector<HttpHeader>& headers) override;
  void Finished(const HttpRequest& request, const ExchangeSummary& summary) override;

  // Waits until no routed request is in flight; false if `timeout_s` passed first.
  bool WaitIdle(double timeout_s);
  // No exchange is cut from now on, and nobody calls OnRightsChanged.
  void StopWatching();

 private:
  struct RouteMetrics {
    std::map<int, Counter> requests;  // by status
    Histogram seconds;
  };
  Result<void> ScreenRouted(HttpRequest& request);
  RouteMetrics& MetricsOf(const Route* route);
  void Run(const std::shared_ptr<Exchange>& exchange);
  void RecordAction(const HttpRequest& request, const ExchangeSummary& summary);
  // A thread: ends what runs for those who lost the right to it. At once when rights change, and once a
  // second for keys that expire.
  void WatchRights();
  void CutForbidden();

  Services& services_;
  const Security security_;
  const platform::Authenticator& keys_;

  std::mutex mutex_;  // of what follows
  std::condition_variable idle_;
  int64_t in_flight_ = 0;
  std::map<const Route*, RouteMetrics> metrics_;
  std::unordered_map<const HttpRequest*, std::weak_ptr<Exchange>> running_;  // of callers with a key

  struct RightsChange {  // outlives the application in the callback of accounts
    std::mutex mutex;
    std::condition_variable wake;
    bool changed = false, stopping = false;
  };
  const std::shared_ptr<RightsChange> rights_ = std::make_shared<RightsChange>();
  std::thread watcher_;

  Gauge in_flight_gauge_;
  Counter bytes_received_, bytes_sent_, dropped_readers_, aborted_, cut_;
};

}  // namespace tidepool::gateway

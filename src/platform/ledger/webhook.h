// Tells organisations what they asked to be told: budgets at thresholds, free quotas at 20 % and at nothing.
//
// A notice is a row of the store until its organisation's URL has answered 2xx: it is sent again after 5 s,
// 30 s, 2 min, 10 min, then every hour, at most kMaxAttempts times, over restarts. It may arrive twice; its
// id says so.
//
// Organisations are told side by side, at most `workers` at a time, so that a URL that hangs delays its own
// notices only. Those of one organisation come one after another, oldest first: what follows one that failed
// waits for it, until that has failed kAttemptsInOrder times.
//
//   POST url
//   Tidepool-Signature: t=<unix seconds>,v1=<hex of HMAC-SHA-256(secret, "<t>.<body>")>
//   {"id": "...", "type": "budget.threshold" | "quota.low" | "quota.exhausted" | "webhook.test",
//    "created": ..., "data": {...}}
//
// Private, loopback and link-local addresses are refused at the moment of connecting unless the setting
// allows them; redirects are not followed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/ledger/ledger_store.h"

namespace tidepool::platform {

inline constexpr int32_t kMaxAttempts = 24;
inline constexpr int32_t kAttemptsInOrder = 5;

// http or https with a host, no user, no fragment; at most 2000 bytes. kInvalid "bad_url".
Status CheckWebhookUrl(std::string_view url, bool allow_private);

std::string WebhookSignature(std::string_view secret, int64_t unix_s, std::string_view body);

struct WebhookOptions {
  bool allow_private_addresses = false;
  int64_t timeout_s = 10;
  int64_t poll_ms = 1000;
  int64_t workers = 8;
};

// POSTs once; kUnavailable with the reason otherwise. Ends within a second or so of `stop` becoming true.
Status PostWebhook(const std::string& url, const std::string& signature, const std::string& body,
                   const WebhookOptions& options, const std::atomic<bool>* stop = nullptr);

class WebhookSender {
 public:
  using Unseal = std::function<Result<std::string>(const std::string&)>;
  // All outlive it. Its thread starts at once, and one more for each organisation that is being told.
  WebhookSender(LedgerStore& store, const WallClock& wall, MetricsRegistry& metrics, Unseal unseal,
                const WebhookOptions& options);
  ~WebhookSender();
  WebhookSender(const WebhookSender&) = delete;
  WebhookSender& operator=(const WebhookSender&) = delete;

  // One notice "webhook.test", signed as all are, at once and not again: waits for the answer, at most
  // timeout_s. Threads: any.
  Status Test(const Webhook& webhook) const;

 private:
  void Run();
  void TellAllOf(const std::string& organisation);
  // Whether it went as it should: else nothing more of this organisation is sent now.
  Status Deliver(const std::optional<Webhook>& webhook, Delivery& delivery);
  Status Send(const Webhook& webhook, const std::string& body) const;

  LedgerStore& store_;
  const WallClock& wall_;
  const Unseal unseal_;
  const WebhookOptions options_;
  Counter delivered_, failed_, given_up_;
  Gauge telling_gauge_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stopping_{false};
  std::map<std::string, std::thread> telling_;  // by organisation
  std::vector<std::string> told_;               // whose thread has ended
  std::thread thread_;
};

}  // namespace tidepool::platform

#include "platform/ledger/webhook.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <sodium.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/ids.h"
#include "base/log.h"
#include "platform/catalog/address.h"

namespace tidepool::platform {
namespace {

constexpr std::array<int64_t, 5> kRetryAfterMs = {5'000, 30'000, 120'000, 600'000, 3'600'000};
constexpr int64_t kAtATime = 100;  // notices of one organisation in one go

struct SocketGuard {
  bool allow_private = false;
  bool refused = false;
};

curl_socket_t OpenWebhookSocket(void* context, curlsocktype, curl_sockaddr* address) {
  auto& guard = *static_cast<SocketGuard*>(context);
  if (!guard.allow_private && IsPrivateAddress(&address->addr)) {
    guard.refused = true;
    return CURL_SOCKET_BAD;
  }
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

int StopTransfer(void* stop, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<const std::atomic<bool>*>(stop)->load() ? 1 : 0;
}

size_t DropBody(char*, size_t size, size_t count, void* taken) {
  auto& bytes = *static_cast<size_t*>(taken);
  bytes += size * count;
  return bytes > (64u << 10) ? 0 : size * count;
}

std::string NoticeType(const Notice& notice) {
  if (notice.kind == Notice::Kind::kBudget) return "budget.threshold";
  return notice.threshold == 0 ? "quota.exhausted" : "quota.low";
}

std::string NoticeBody(const Delivery& delivery) {
  const Notice& n = delivery.notice;
  const bool budget = n.kind == Notice::Kind::kBudget;
  nlohmann::ordered_json data{{"organisation", n.organisation}};
  if (budget) {
    data["budget"] = n.subject;
    data["scope"] = n.name;
    data["period_from"] = TimeText(n.period_ms);
    data["threshold_percent"] = n.threshold;
    data["amount"] = n.limit;
    data["spent"] = n.used;
    data["currency"] = n.currency;
  } else {
    data["model"] = n.name;
    data["model_version"] = n.subject;
    data["granted"] = TimeText(n.period_ms);
    data["percent_left"] = n.threshold;
    data["total_tokens"] = n.limit;
    data["used_tokens"] = n.used;
  }
  nlohmann::ordered_json body{
      {"id", fmt::format("{}-{}-{}-{}", NoticeType(n), n.subject, n.period_ms, n.threshold)},
      {"type", NoticeType(n)},
      {"created", delivery.created_ms / 1000},
      {"data", std::move(data)}};
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Status CheckWebhookUrl(std::string_view url, bool allow_private) {
  const auto bad = [&](std::string_view why) {
    return Fail(ErrorKind::kInvalid, "bad_url", fmt::format("url: {}", why), "url");
  };
  if (url.size() > 2000) return bad("at most 2000 bytes");
  const std::string text(url);
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  if (parsed == nullptr || curl_url_set(parsed.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK)
    return bad("is no URL; write https://host/path");
  const auto part = [&](CURLUPart which) {
    char* value = nullptr;
    std::string out;
    if (curl_url_get(parsed.get(), which, &value, 0) == CURLUE_OK) out = value;
    curl_free(value);
    return out;
  };
  const std::string scheme = part(CURLUPART_SCHEME);
  if (scheme != "https" && scheme != "http") return bad("must begin with https:// or http://");
  if (!part(CURLUPART_USER).empty() || !part(CURLUPART_PASSWORD).empty())
    return bad("must hold no user or password");
  if (!part(CURLUPART_FRAGMENT).empty()) return bad("must hold no #fragment");
  const std::string host = part(CURLUPART_HOST);
  if (host.empty()) return bad("has no host");
  if (!allow_private && (IsPrivateLiteral(host) || host == "localhost" || host.ends_with(".localhost")))
    return bad("private addresses are not allowed here (setting ledger.webhook_private)");
  return {};
}

std::string WebhookSignature(std::string_view secret, int64_t unix_s, std::string_view body) {
  const std::string signed_text = fmt::format("{}.{}", unix_s, body);
  crypto_auth_hmacsha256_state state;
  crypto_auth_hmacsha256_init(&state, reinterpret_cast<const unsigned char*>(secret.data()), secret.size());
  crypto_auth_hmacsha256_update(&state, reinterpret_cast<const unsigned char*>(signed_text.data()),
                                signed_text.size());
  std::array<unsigned char, crypto_auth_hmacsha256_BYTES> mac;
  crypto_auth_hmacsha256_final(&state, mac.data());
  std::string text = fmt::format("t={},v1=", unix_s);
  for (const unsigned char byte : mac) text += fmt::format("{:02x}", byte);
  return text;
}

Status PostWebhook(const std::string& url, const std::string& signature, const std::string& body,
                   const WebhookOptions& options, const std::atomic<bool>* stop) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(initialised == CURLE_OK);
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  CHECK(curl != nullptr);
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
  list = curl_slist_append(list, ("Tidepool-Signature: " + signature).c_str());
  list = curl_slist_append(list, "Expect:");
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(list, curl_slist_free_all);
  SocketGuard guard{options.allow_private_addresses, false};
  size_t taken = 0;
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_POST, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.data());
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, static_cast<long>(options.timeout_s));
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 0L);
  // A proxy would connect for us, wherever the name leads.
  curl_easy_setopt(curl.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(curl.get(), CURLOPT_OPENSOCKETFUNCTION, OpenWebhookSocket);
  curl_easy_setopt(curl.get(), CURLOPT_OPENSOCKETDATA, &guard);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, DropBody);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &taken);
  curl_easy_setopt(curl.get(), CURLOPT_USERAGENT, "tidepool");
  if (stop != nullptr) {
    curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, StopTransfer);
    curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, stop);
  }
  const CURLcode code = curl_easy_perform(curl.get());
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  if (guard.refused)
    return Fail(ErrorKind::kForbidden, "private_address", "the URL leads to a private address");
  if (status >= 200 && status < 300) return {};
  if (status != 0) return Fail(ErrorKind::kUnavailable, "webhook_refused", fmt::format("HTTP {}", status));
  return Fail(ErrorKind::kUnavailable, "webhook_unreachable", curl_easy_strerror(code));
}

WebhookSender::WebhookSender(LedgerStore& store, const WallClock& wall, MetricsRegistry& metrics,
                             Unseal unseal, const WebhookOptions& options)
    : store_(store),
      wall_(wall),
      unseal_(std::move(unseal)),
      options_(options),
      delivered_(metrics.counter("tidepool_webhooks_delivered_total", "Notices that their URL has taken")),
      failed_(metrics.counter("tidepool_webhooks_failed_total", "Attempts to deliver a notice that failed")),
      given_up_(metrics.counter("tidepool_webhooks_given_up_total", "Notices that were never taken")),
      telling_gauge_(metrics.gauge("tidepool_webhooks_telling", "Organisations that are being told now")),
      thread_([this] { Run(); }) {}

WebhookSender::~WebhookSender() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  for (auto& [organisation, thread] : telling_) thread.join();
}

void WebhookSender::Run() {
  const auto pause = std::chrono::milliseconds(options_.poll_ms);
  auto next = std::chrono::steady_clock::now() + pause;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait_until(lock, next, [this] { return stopping_ || !told_.empty(); });
    if (stopping_) return;
    for (const std::string& organisation : std::exchange(told_, {})) {
      telling_.find(organisation)->second.join();  // it has nothing left to do
      telling_.erase(organisation);
    }
    telling_gauge_.Set(static_cast<double>(telling_.size()));
    if (std::chrono::steady_clock::now() < next) continue;
    next = std::chrono::steady_clock::now() + pause;
    const int64_t room = options_.workers - std::ssize(telling_);
    if (room <= 0) continue;
    std::vector<std::string> busy;
    for (const auto& [organisation, thread] : telling_) busy.push_back(organisation);
    lock.unlock();
    const auto due = store_.OrganisationsDue(wall_.unix_ms(), busy, room);
    lock.lock();
    if (!due) continue;  // the store logs its troubles
    for (const std::string& organisation : *due) {
      telling_.emplace(organisation, [this, organisation] {
        TellAllOf(organisation);
        std::lock_guard done(mutex_);
        told_.push_back(organisation);
        wake_.notify_all();
      });
    }
    telling_gauge_.Set(static_cast<double>(telling_.size()));
  }
}

void WebhookSender::TellAllOf(const std::string& organisation) {
  const int64_t now_ms = wall_.unix_ms();
  const auto webhook = store_.FindWebhook(organisation);
  auto waiting = store_.WaitingDeliveries(organisation, now_ms, kAttemptsInOrder, kAtATime);
  if (!webhook || !waiting) return;
  for (Delivery& delivery : *waiting) {
    if (stopping_) return;
    if (delivery.next_ms <= now_ms) {
      if (!Deliver(*webhook, delivery)) return;
      if (delivery.next_ms <= now_ms) continue;  // taken
    }
    if (delivery.attempts >= kAttemptsInOrder) continue;
    (void)store_.HoldDeliveries(organisation, delivery.next_ms);
    return;
  }
}

Status WebhookSender::Send(const Webhook& webhook, const std::string& body) const {
  TP_ASSIGN(const std::string secret, unseal_(webhook.secret));
  return PostWebhook(webhook.url, WebhookSignature(secret, wall_.unix_ms() / 1000, body), body, options_,
                     &stopping_);
}

Status WebhookSender::Test(const Webhook& webhook) const {
  const nlohmann::ordered_json body{{"id", RandomId("test-", 16)},
                                    {"type", "webhook.test"},
                                    {"created", wall_.unix_ms() / 1000},
                                    {"data", {{"organisation", webhook.organisation}}}};
  return Send(webhook, body.dump());
}

Status WebhookSender::Deliver(const std::optional<Webhook>& webhook, Delivery& delivery) {
  LogInfo("notice", {{"type", NoticeType(delivery.notice)},
                     {"organisation", delivery.notice.organisation},
                     {"of", delivery.notice.name},
                     {"percent", delivery.notice.threshold},
                     {"limit", delivery.notice.limit},
                     {"used", delivery.notice.used}});
  if (!webhook) return store_.SaveDelivery(delivery, "no_webhook", "");
  const Status sent = Send(*webhook, NoticeBody(delivery));
  if (!sent && stopping_) return sent;  // cut off: not its fault, the next start sends it
  ++delivery.attempts;
  if (sent) {
    delivered_.Increment();
    return store_.SaveDelivery(delivery, "delivered", "");
  }
  failed_.Increment();
  const bool last = delivery.attempts >= kMaxAttempts;
  if (last) given_up_.Increment();
  const size_t step = std::min(static_cast<size_t>(delivery.attempts) - 1, kRetryAfterMs.size() - 1);
  delivery.next_ms = wall_.unix_ms() + kRetryAfterMs[step];
  LogWarn("a webhook was not delivered", {{"organisation", delivery.notice.organisation},
                                          {"attempt", delivery.attempts},
                                          {"reason", sent.error().message}});
  return store_.SaveDelivery(delivery, last ? "given_up" : "waiting", sent.error().message);
}

}  // namespace tidepool::platform

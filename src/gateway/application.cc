#include "gateway/application.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/ids.h"
#include "base/log.h"
#include "gateway/action_note.h"
#include "gateway/errors.h"
#include "gateway/web_app.h"
#include "platform/accounts/audit.h"
#include "platform/conversations/conversations.h"
#include "platform/responses/responses.h"

namespace tidepool::gateway {
namespace {

constexpr std::string_view kMetricPrefix = "tidepool_http_";

std::string MetricName(std::string_view what) { return std::string(kMetricPrefix).append(what); }

// In the shape of the dialect that the path belongs to.
HttpResponse RouteError(const HttpRequest& request, const Error& error) {
  const ErrorShape shape = request.route != nullptr ? request.route->errors : ErrorShapeOf(request.target);
  return shape != nullptr ? shape(error, request) : ErrorResponse(error);
}

// What the operator does to models, the pool and pulls. Accounts and the ledger record their own changes,
// with what was before.
bool IsRecorded(const Route& route) {
  return route.access == platform::Role::kOperator && (route.tag == "native" || route.tag == "ollama") &&
         route.method != "GET" && route.method != "HEAD";
}

// A list is read whole for a file: that takes seconds, where a page of it takes milliseconds.
Lane LaneOf(const HttpRequest& request) {
  const Route& route = *request.route;
  if (route.lane != Lane::kWorker || !TakesParameter(route, "format")) return route.lane;
  const auto query = ParseQuery(request.target, route.query);
  if (!query) return route.lane;
  const bool file =
      std::any_of(query->begin(), query->end(), [](const auto& given) { return given.first == "format"; });
  return file ? Lane::kSlow : route.lane;
}

}  // namespace

Result<nlohmann::ordered_json> JsonBody(const Services& services, const HttpRequest& request, bool optional) {
  if (optional && request.body.empty()) return nlohmann::ordered_json::object();
  TP_ASSIGN(auto body, ParseJson(request.body, services.json_limits()));
  if (!body.is_object()) {
    return Fail(ErrorKind::kInvalid, "malformed_json", "The body must be a JSON object.");
  }
  return body;
}

Status CheckModel(const Services& services, const HttpRequest& request, const std::string& model) {
  if (request.principal.models.empty()) return {};
  const auto found = services.inference.Find(model);
  if (found ? platform::MayUse(request.principal, *found) : request.principal.MayUseModel(model)) return {};
  return Fail(ErrorKind::kForbidden, "model_not_allowed",
              fmt::format("The key {}... is not for the model \"{}\".", request.principal.key_id,
                          model.substr(0, 100)),
              "model");
}

Application::Application(Services& services, Security security, const platform::Authenticator& keys)
    : services_(services), security_(std::move(security)), keys_(keys) {
  MetricsRegistry& metrics = services.metrics;
  in_flight_gauge_ = metrics.gauge(MetricName("requests_in_flight"), "Requests being answered");
  bytes_received_ = metrics.counter(MetricName("request_body_bytes_total"), "Bytes of request bodies");
  bytes_sent_ = metrics.counter(MetricName("response_bytes_total"), "Bytes of responses, with headers");
  dropped_readers_ =
      metrics.counter(MetricName("dropped_readers_total"), "Clients dropped for reading too slowly");
  aborted_ = metrics.counter(MetricName("aborted_requests_total"), "Requests whose client went away");
  cut_ = metrics.counter(MetricName("cut_requests_total"),
                         "Requests that were ended because their key or session lost the right to them");
  if (services.hooks.on_rights_changed) {
    services.hooks.on_rights_changed([rights = rights_] {
      std::lock_guard lock(rights->mutex);
      rights->changed = true;
      rights->wake.notify_all();
    });
  }
  watcher_ = std::thread([this] { WatchRights(); });
}

std::optional<HttpResponse> Application::Screen(HttpRequest& request) {
  const std::string* id = request.Header("x-request-id");
  request.id = id != nullptr && IsSaneRequestId(*id) ? *id : RandomId("req-");
  if (auto status = ScreenRouted(request); !status) {
    HttpResponse response = RouteError(request, status.error());
    if (status.error().code == "method_not_allowed") {
      response.status = 405;
      response.headers.push_back({"Allow", status.error().param});
    } else if (status.error().code == "unsupported_media_type" ||
               status.error().code == "unsupported_encoding") {
      response.status = 415;
    } else if (response.status == 401) {
      response.headers.push_back({"WWW-Authenticate", "Bearer"});
    }
    return response;
  }
  if (request.method == "OPTIONS" && request.route == nullptr) return Security::Preflight(request);
  return std::nullopt;
}

Result<void> Application::ScreenRouted(HttpRequest& request) {
  TP_TRY(security_.CheckSource(request));
  if (request.method == "OPTIONS" && !request.allowed_origin.empty() &&
      request.Header("access-control-request-method") != nullptr) {
    return {};
  }
  TP_ASSIGN(RouteMatch match, MatchRoute(Routes(), request.method, request.target));
  if (match.route == nullptr && match.allow.empty()) match.route = WebRoute(request);
  if (match.route == nullptr) {
    if (!match.allow.empty()) {
      return Fail(ErrorKind::kInvalid, "method_not_allowed",
                  fmt::format("{} is not possible here, only {}.", request.method, match.allow), match.allow);
    }
    return Fail(ErrorKind::kNotFound, "unknown_path",
                fmt::format("There is no {} {}. GET /openapi.json lists what there is.", request.method,
                            request.target.substr(0, 200)));
  }
  const Route& route = *match.route;
  request.route = match.route;
  request.path_values = std::move(match.values);
  if (IsRecorded(route)) request.note = std::make_shared<ActionNote>();
  if (route.access != platform::Role::kNone) TP_TRY(security_.CheckCaller(request, keys_));
  if (request.principal.role < route.access) {
    return Fail(ErrorKind::kForbidden, "role_too_low",
                fmt::format("This needs the role {}; yours here is {}.", platform::RoleName(route.access),
                            platform::RoleName(request.principal.role)));
  }
  const auto& endpoints = request.principal.endpoints;
  if (!endpoints.empty() && std::none_of(endpoints.begin(), endpoints.end(), [&](const std::string& pattern) {
        return platform::MatchesPattern(pattern, route.pattern);
      })) {
    return Fail(ErrorKind::kForbidden, "endpoint_not_allowed",
                fmt::format("The key {}... is not for {}.", request.principal.key_id, route.pattern));
  }
  const std::string* length = request.Header("content-length");
  const bool has_body =
      request.Header("transfer-encoding") != nullptr || (length != nullptr && *length != "0");
  const std::string* type = request.Header("content-type");
  if (has_body && (type == nullptr || !IsJsonContentType(*type))) {
    return Fail(ErrorKind::kInvalid, "unsupported_media_type",
                fmt::format("The body must be JSON, sent with \"Content-Type: application/json\"{}.",
                            type == nullptr ? std::string()
                                            : fmt::format(" (it came as \"{}\")", type->substr(0, 60))),
                "Content-Type");
  }
  const std::string* encoding = request.Header("content-encoding");
  if (has_body && encoding != nullptr && *encoding != "identity") {
    return Fail(ErrorKind::kInvalid, "unsupported_encoding", "Send the body without a Content-Encoding.",
                "Content-Encoding");
  }
  if (route.inference && services_.draining) {
    Error error{ErrorKind::kUnavailable, "draining", "The server is stopping and takes no new work.", "", 5};
    return Fail(std::move(error));
  }
  return {};
}

void Application::Handle(std::shared_ptr<Exchange> exchange) {
  const Route& route = *exchange->request().route;
  {
    std::lock_guard lock(mutex_);
    ++in_flight_;
    if (route.access != platform::Role::kNone) running_[&exchange->request()] = exchange;
  }
  in_flight_gauge_.Add(1);
  // Its rights may have gone while its body was read.
  if (route.access != platform::Role::kNone && !keys_.StillValid(exchange->request().principal)) {
    return exchange->Send(RouteError(
        exchange->request(), Error{ErrorKind::kUnauthenticated, "key_revoked",
                                   "The key or session was revoked while the request was sent.", "", 0}));
  }
  const Lane lane = LaneOf(exchange->request());
  if (lane == Lane::kInline) return Run(exchange);
  Workers& workers = lane == Lane::kWorker ? *services_.workers : services_.slow;
  if (!workers.Submit([this, exchange] { Run(exchange); })) {
    exchange->Send(
        RouteError(exchange->request(), Error{ErrorKind::kOverloaded, "server_busy",
                                              "Too many requests wait for this already; try again.", "", 1}));
  }
}

void Application::Run(const std::shared_ptr<Exchange>& exchange) {
  try {
    exchange->request().route->handler(services_, exchange);
  } catch (const std::exception& problem) {
    LogError("a handler failed", {{"request_id", exchange->request().id},
                                  {"route", exchange->request().route->pattern},
                                  {"reason", problem.what()}});
    exchange->Send(RouteError(exchange->request(),
                              Error{ErrorKind::kInternal, "internal_error",
                                    "The server failed to answer this request; see its log.", "", 0}));
  }
}

HttpResponse Application::Refuse(const HttpRequest& request, int status, std::string_view code,
                                 std::string_view message) {
  // What is refused for its header alone has not been routed.
  const auto match = MatchRoute(Routes(), request.method, request.target);
  const Route* route = match ? match->route : nullptr;
  if (route == nullptr || route->errors == nullptr) return ErrorResponse(status, code, message);
  const ErrorKind kind = status == 413   ? ErrorKind::kTooLarge
                         : status == 408 ? ErrorKind::kTimeout
                         : status >= 500 ? ErrorKind::kUnavailable
                                         : ErrorKind::kInvalid;
  HttpResponse response = route->errors(Error{kind, std::string(code), std::string(message), "", 0}, request);
  response.status = status;
  return response;
}

void Application::Decorate(const HttpRequest& request, std::vector<HttpHeader>& headers) {
  headers.push_back({"X-Request-Id", request.id.empty() ? RandomId("req-") : request.id});
  headers.push_back({"X-Content-Type-Options", "nosniff"});
  if (!request.allowed_origin.empty()) {
    headers.push_back({"Access-Control-Allow-Origin", request.allowed_origin});
    headers.push_back(
        {"Access-Control-Expose-Headers",
         "X-Request-Id, request-id, Tidepool-Ignored, Retry-After, x-ratelimit-limit-requests, "
         "x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, "
         "x-ratelimit-reset-requests, x-ratelimit-reset-tokens"});
    headers.push_back({"Vary", "Origin"});
  }
}

Application::RouteMetrics& Application::MetricsOf(const Route* route) {
  const auto found = metrics_.find(route);
  if (found != metrics_.end()) return found->second;
  RouteMetrics& made = metrics_[route];
  made.seconds = services_.metrics.histogram(
      MetricName("request_seconds"), "Time to answer a request, whole streams", LatencyBounds(),
      {{"route", route == nullptr ? "other" : std::string(route->pattern)}});
  return made;
}

void Application::Finished(const HttpRequest& request, const ExchangeSummary& summary) {
  const Route* route = request.route;
  const int status = summary.status;
  {
    std::lock_guard lock(mutex_);
    RouteMetrics& metrics = MetricsOf(route);
    auto counter = metrics.requests.find(status);
    if (counter == metrics.requests.end()) {
      counter =
          metrics.requests
              .emplace(status, services_.metrics.counter(
                                   MetricName("requests_total"), "Requests answered, by route and status",
                                   {{"route", route == nullptr ? "other" : std::string(route->pattern)},
                                    {"status", fmt::to_string(status)}}))
              .first;
    }
    counter->second.Increment();
    metrics.seconds.Observe(summary.seconds);
    running_.erase(&request);
    if (summary.handled && --in_flight_ == 0) idle_.notify_all();
  }
  bytes_received_.Increment(static_cast<double>(request.body.size()));
  bytes_sent_.Increment(static_cast<double>(summary.bytes_sent));
  if (summary.handled) in_flight_gauge_.Add(-1);
  if (summary.aborted) aborted_.Increment();
  if (summary.dropped_reader) dropped_readers_.Increment();
  RecordAction(request, summary);
  // Probes come every few seconds for ever.
  const bool probe = route != nullptr && route->lane == Lane::kInline && status < 400;
  const LogLevel level = probe ? LogLevel::kDebug : LogLevel::kInfo;
  if (!LogEnabled(level)) return;
  Log(level, "request",
      {{"request_id", request.id},
       {"method", request.method},
       {"path", request.target.substr(0, 200)},
       {"status", status},
       {"seconds", fmt::format("{:.4f}", summary.seconds)},
       {"bytes", summary.bytes_sent},
       {"peer", request.peer.address},
       {"key", request.principal.key_id},
       {"end", summary.dropped_reader ? "reader too slow"
               : summary.aborted      ? "client gone"
                                      : "complete"}});
}

void Application::RecordAction(const HttpRequest& request, const ExchangeSummary& summary) {
  const Route* route = request.route;
  if (services_.hooks.audit == nullptr || request.note == nullptr || request.note->replayed() ||
      !summary.handled || summary.status >= 400) {
    return;
  }
  std::string object;
  for (const auto& [name, value] : request.path_values) object += object.empty() ? value : "/" + value;
  auto body = nlohmann::ordered_json::parse(request.body.substr(0, 16384), nullptr, false);
  if (body.is_discarded()) body = nullptr;
  const auto [before, now] = request.note->Get();
  nlohmann::ordered_json after = {{"status", summary.status}, {"request", std::move(body)}};
  if (now.is_object()) after.update(now);
  services_.hooks.audit->RecordLater(platform::ActorOf(request.principal, request.client_address, request.id),
                                     fmt::format("{} {}", route->method, route->pattern), object, before,
                                     after);
}

void Application::WatchRights() {
  while (true) {
    {
      std::unique_lock lock(rights_->mutex);
      rights_->wake.wait_for(lock, std::chrono::seconds(1),
                             [this] { return rights_->changed || rights_->stopping; });
      if (rights_->stopping) return;
      rights_->changed = false;
    }
    CutForbidden();
  }
}

void Application::CutForbidden() {
  if (services_.hooks.conversations != nullptr)
    cut_.Increment(services_.hooks.conversations->CutForbidden(keys_));
  if (services_.hooks.responses != nullptr) {
    services_.hooks.responses->StopForbidden(
        [&](const platform::Principal& principal) { return keys_.StillValid(principal); });
  }
  std::vector<std::shared_ptr<Exchange>> running;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [request, exchange] : running_) {
      if (auto alive = exchange.lock()) running.push_back(std::move(alive));
    }
  }
  for (const auto& exchange : running) {
    const HttpRequest& request = exchange->request();
    // Short calls end by themselves, and one of them may be what ended the session.
    if (!request.route->inference && !request.route->streams) continue;
    if (keys_.StillValid(request.principal)) continue;
    LogInfo("a request was cut: its key or session lost the right to it",
            {{"request_id", request.id}, {"key", request.principal.key_id}});
    cut_.Increment();
    exchange->Abort();
  }
}

void Application::StopWatching() {
  {
    std::lock_guard lock(rights_->mutex);
    rights_->stopping = true;
  }
  rights_->wake.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

bool Application::WaitIdle(double timeout_s) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, std::chrono::duration<double>(timeout_s), [this] { return in_flight_ == 0; });
}

}  // namespace tidepool::gateway

// The table of routes: the one list from which requests are dispatched, metrics are labelled and the OpenAPI
// document is generated, so that a route cannot be served without being described.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway {

enum class Lane : uint8_t {
  kInline,  // on the I/O thread: microseconds only
  kWorker,
  kSlow,
};

using Handler = void (*)(Services& services, std::shared_ptr<Exchange> exchange);
using Schema = nlohmann::ordered_json (*)();
using ErrorShape = HttpResponse (*)(const Error& error, const HttpRequest& request);

// Pattern: segments divided by '/'; "{name}" matches one segment, "{name...}" one or more (names of models
// hold slashes, sent raw or as %2F). Values are percent-decoded.
struct Route {
  std::string_view method;
  std::string_view pattern;
  // The least role that may call it; kNone: anybody, without a key. This column is the only source of rights.
  platform::Role access;
  Lane lane;
  bool inference;  // new work: refused while draining
  Handler handler;
  std::string_view tag;
  std::string_view summary;
  Schema request = nullptr;   // JSON schema of the body; nullptr: no body
  Schema response = nullptr;  // of the 200 (or `success`) reply; nullptr: an object
  int success = 200;
  bool streams = false;  // may answer as text/event-stream
  std::string_view content_type = "application/json";
  std::string_view query =
      {};  // "limit:integer after workspace": the parameters it takes; others are refused
  ErrorShape errors = nullptr;  // of the dialect, also for what fails before its handler; nullptr: OpenAI's
};

std::span<const Route> Routes();
// Of paths and methods that nobody serves: a dialect's clients read the error all the same. nullptr:
// OpenAI's.
ErrorShape ErrorShapeOf(std::string_view target);

struct RouteMatch {
  const Route* route = nullptr;
  std::vector<std::pair<std::string, std::string>> values;
  std::string allow;  // the path exists with other methods: "GET, POST"
};

// `target` is the request target (path and query). /compatible-mode/v1/... is /v1/...: one route, one right.
// kInvalid for a path that cannot be decoded; route == nullptr with an empty `allow` if there is no such
// path. HEAD finds GET routes.
Result<RouteMatch> MatchRoute(std::span<const Route> routes, std::string_view method,
                              std::string_view target);

// Is it one of its query's parameters?
bool TakesParameter(const Route& route, std::string_view name);
// The parameters of the target's query, decoded. kInvalid "unknown_parameter" (also for one given twice) and
// "bad_query".
Result<std::vector<std::pair<std::string, std::string>>> ParseQuery(std::string_view target,
                                                                    std::string_view allowed);

// "%41b" -> "Ab". kInvalid for a bad escape, a NUL or a control character.
Result<std::string> PercentDecode(std::string_view text);

}  // namespace tidepool::gateway

#include "gateway/native/call.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "gateway/errors.h"
#include "gateway/router.h"

namespace tidepool::gateway::native {
namespace {

constexpr size_t kMaxIdempotencyKey = 255;

HttpResponse ResponseOf(const Result<Json>& result, int status) {
  return result ? JsonResponse(*result, status) : ErrorResponse(result.error());
}

}  // namespace

Call::Call(Services& services_of, const std::shared_ptr<Exchange>& exchange_of)
    : services(services_of),
      exchange(exchange_of),
      request(exchange_of->request()),
      caller{request.principal, platform::ActorOf(request.principal, request.client_address, request.id)} {
  // The path of a public route (signing in) has no caller.
  if (request.route->access == platform::Role::kNone) caller.actor.organisation = caller.actor.workspace = "";
}

Status Call::ReadBody(std::span<const openai::Field> table, bool optional) {
  TP_ASSIGN(body_, JsonBody(services, request, optional));
  openai::FieldReader reader(body_, table);
  TP_TRY(reader.Check());
  if (reader.ignored().empty()) return {};
  const std::string& name = reader.ignored().front();
  return Fail(openai::BadField(name.substr(0, 64),
                               fmt::format("There is no field \"{}\" here.", name.substr(0, 64)),
                               "unknown_field"));
}

// The types were checked: FieldReader's getters need no table.
std::optional<std::string> Call::String(std::string_view name) const {
  return openai::FieldReader(body_, {}).String(name);
}
std::optional<double> Call::Number(std::string_view name) const {
  return openai::FieldReader(body_, {}).Number(name);
}
std::optional<int64_t> Call::Integer(std::string_view name) const {
  return openai::FieldReader(body_, {}).Integer(name);
}
std::optional<bool> Call::Boolean(std::string_view name) const {
  return openai::FieldReader(body_, {}).Boolean(name);
}

Result<std::string> Call::Required(std::string_view name) const {
  if (auto value = String(name)) return std::move(*value);
  return Fail(openai::BadField(name, fmt::format("{} is missing.", name), "missing_field"));
}

Result<std::optional<std::vector<std::string>>> Call::Strings(std::string_view name) const {
  const Json* list = openai::FieldReader(body_, {}).Find(name);
  if (list == nullptr) return std::optional<std::vector<std::string>>();
  std::vector<std::string> out;
  for (const Json& item : *list) {
    if (!item.is_string() || item.get_ref<const std::string&>().size() > 1000) {
      return Fail(openai::BadField(name, fmt::format("{} holds {}, which is no text of at most 1000 bytes.",
                                                     name, openai::Shown(item))));
    }
    out.push_back(item.get<std::string>());
  }
  return std::optional<std::vector<std::string>>(std::move(out));
}

Result<std::optional<int64_t>> Call::Time(std::string_view name) const {
  const auto seconds = Integer(name);
  if (!seconds) return std::optional<int64_t>();
  // Year 9999.
  if (*seconds < 0 || *seconds > 253'402'300'799) {
    return Fail(
        openai::BadField(name, fmt::format("{} must be seconds since 1970, not {}.", name, *seconds)));
  }
  return std::optional<int64_t>(*seconds * 1000);
}

std::string Call::Query(std::string_view name) const {
  for (const auto& [key, value] : query_) {
    if (key == name) return value;
  }
  return {};
}

Result<std::optional<int64_t>> Call::QueryInteger(std::string_view name) const {
  const std::string text = Query(name);
  if (text.empty()) return std::optional<int64_t>();
  int64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || end != text.data() + text.size()) {
    return Fail(openai::BadField(
        name, fmt::format("{} must be a whole number, not \"{}\".", name, text.substr(0, 40))));
  }
  return std::optional<int64_t>(number);
}

Result<platform::Page> Call::Page() const {
  platform::Page page;
  TP_ASSIGN(const std::optional<int64_t> limit, QueryInteger("limit"));
  page.limit = limit.value_or(100);
  page.after = Query("after");
  return page;
}

void Serve(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
           const std::function<Result<Json>(Call&)>& work) {
  if (services.hooks.accounts == nullptr || services.hooks.audit == nullptr) {
    return exchange->Send(ErrorResponse(501, "not_available", "This server has no accounts."));
  }
  Call call(services, exchange);
  const HttpRequest& request = call.request;
  auto query = ParseQuery(request.target, request.route->query);
  if (!query) return exchange->Send(ErrorResponse(query.error()));
  call.query_ = std::move(*query);
  const auto send = [&](HttpResponse response) {
    for (HttpHeader& header : call.headers) response.headers.push_back(std::move(header));
    response.headers.push_back({"Cache-Control", "no-store"});
    exchange->Send(std::move(response));
  };
  const std::string* key = request.Header("idempotency-key");
  // Without a caller there is nobody to keep answers apart by.
  if (key == nullptr || request.method != "POST" || request.route->access == platform::Role::kNone)
    return send(ResponseOf(work(call), status));
  const bool sane = !key->empty() && key->size() <= kMaxIdempotencyKey &&
                    std::all_of(key->begin(), key->end(), [](char c) { return c >= 0x20 && c < 0x7f; });
  if (!sane) {
    return send(
        ErrorResponse(Error{ErrorKind::kInvalid, "bad_idempotency_key",
                            "An Idempotency-Key has 1 to 255 visible characters.", "Idempotency-Key", 0}));
  }
  const std::string id = fmt::format("{}/{}/{} {} {}", request.principal.account, request.principal.member,
                                     request.method, request.route->pattern, *key);
  const auto kept = call.accounts().BeginIdempotent(id, fmt::format("{}\n{}", request.target, request.body));
  if (!kept) return send(ErrorResponse(kept.error()));
  if (*kept) {
    HttpResponse response;
    response.status = (*kept)->status;
    response.body = (*kept)->body;
    response.headers.push_back({"Idempotent-Replayed", "true"});
    return send(std::move(response));
  }
  HttpResponse response = ResponseOf(work(call), status);
  // What may go better the next time is not kept.
  const bool final = response.status < 500 && response.status != 429 && response.status != 409;
  call.accounts().EndIdempotent(
      id,
      final ? std::optional(platform::Accounts::KeptReply{response.status, response.body}) : std::nullopt);
  send(std::move(response));
}

Json ListSchemaOf(Json item) {
  Json schema;
  schema["type"] = "object";
  schema["properties"]["data"]["type"] = "array";
  schema["properties"]["data"]["items"] = std::move(item);
  schema["properties"]["has_more"]["type"] = "boolean";
  schema["properties"]["next_cursor"]["type"] = Json::array({"string", "null"});
  return schema;
}

Json TimeJson(const std::optional<int64_t>& unix_ms) {
  return unix_ms ? Json(*unix_ms / 1000) : Json(nullptr);
}

}  // namespace tidepool::gateway::native

#include "gateway/native/call.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "gateway/action_note.h"
#include "gateway/errors.h"
#include "gateway/router.h"

namespace tidepool::gateway::native {
namespace {

constexpr size_t kMaxIdempotencyKey = 255;

HttpResponse ResponseOf(Result<HttpResponse> result) {
  return result ? std::move(*result) : ErrorResponse(result.error());
}

std::string_view TypeName(std::string_view name, const Json& value) {
  if (value.is_boolean()) return "boolean";
  if (value.is_number_float()) return "number";
  if (value.is_number() || (value.is_null() && name.ends_with("_at"))) return "integer";
  if (value.is_array()) return "array";
  return value.is_object() ? "object" : "string";
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

Status Call::ReadQuery() {
  TP_ASSIGN(query_, ParseQuery(request.target, request.route->query));
  return {};
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
  TP_ASSIGN(const int64_t number, WholeNumber(name, text));
  return std::optional<int64_t>(number);
}

Result<platform::Page> Call::Page(int64_t limit, int64_t most) const {
  TP_ASSIGN(const std::optional<int64_t> given, QueryInteger("limit"));
  if (given && (*given < 1 || *given > most))
    return Fail(openai::BadField("limit", fmt::format("limit must be 1 to {}, not {}.", most, *given)));
  return platform::Page{.limit = given.value_or(limit), .after = Query("after")};
}

void Serve(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
           const std::function<Result<Json>(Call&)>& work) {
  ServeReply(services, exchange, [&](Call& call) -> Result<HttpResponse> {
    TP_ASSIGN(const Json json, work(call));
    return JsonResponse(json, status);
  });
}

void ServeReply(Services& services, const std::shared_ptr<Exchange>& exchange,
                const std::function<Result<HttpResponse>(Call&)>& work) {
  if (services.hooks.accounts == nullptr || services.hooks.audit == nullptr) {
    return exchange->Send(ErrorResponse(501, "not_available", "This server has no accounts."));
  }
  Call call(services, exchange);
  const HttpRequest& request = call.request;
  if (Status read = call.ReadQuery(); !read) return exchange->Send(ErrorResponse(read.error()));
  const auto send = [&](HttpResponse response) {
    for (HttpHeader& header : call.headers) response.headers.push_back(std::move(header));
    response.headers.push_back({"Cache-Control", "no-store"});
    exchange->Send(std::move(response));
  };
  const std::string* key = request.Header("idempotency-key");
  // Without a caller there is nobody to keep answers apart by.
  if (key == nullptr || request.method != "POST" || request.route->access == platform::Role::kNone)
    return send(ResponseOf(work(call)));
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
    if (request.note != nullptr) request.note->Replayed();
    return send(std::move(response));
  }
  HttpResponse response = ResponseOf(work(call));
  // What may go better the next time is not kept.
  const bool final = response.status < 500 && response.status != 429 && response.status != 409;
  call.accounts().EndIdempotent(
      id,
      final ? std::optional(platform::Accounts::KeptReply{response.status, response.body}) : std::nullopt);
  send(std::move(response));
}

Result<int64_t> WholeNumber(std::string_view name, std::string_view text) {
  int64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || end != text.data() + text.size()) {
    return Fail(openai::BadField(
        name, fmt::format("{} must be a whole number, not \"{}\".", name, text.substr(0, 40))));
  }
  return number;
}

Json ListJson(Json data, const std::string& next) {
  Json out;
  out["data"] = std::move(data);
  out["has_more"] = !next.empty();
  out["next_cursor"] = next.empty() ? Json(nullptr) : Json(next);
  return out;
}

Json SchemaLike(const Json& example) {
  Json schema{{"type", "object"}};
  for (const auto& [name, value] : example.items()) {
    Json& property = schema["properties"][name];
    const std::string_view type = TypeName(name, value);
    property["type"] = value.is_null() ? Json::array({type, "null"}) : Json(type);
    if (value.is_array()) property["items"]["type"] = "string";
    if (name.ends_with("_at")) property["description"] = "seconds since 1970";
  }
  return schema;
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

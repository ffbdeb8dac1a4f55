// One call of the native API: who calls, the checked body, the query, and how the answer is sent.
//
//   void CreateThing(Services& services, std::shared_ptr<Exchange> exchange) {
//     Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
//       TP_TRY(call.ReadBody(ThingFields()));
//       ...
//     });
//   }
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/fields.h"
#include "gateway/services.h"
#include "platform/accounts/accounts.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

class Call {
 public:
  Call(Services& services_of, const std::shared_ptr<Exchange>& exchange_of);

  Services& services;
  const std::shared_ptr<Exchange>& exchange;
  const HttpRequest& request;
  platform::Caller caller;
  // What the handler adds to the answer (Set-Cookie).
  std::vector<HttpHeader> headers;

  platform::Accounts& accounts() const { return *services.hooks.accounts; }
  platform::Audit& audit() const { return *services.hooks.audit; }

  // Fields that the table lacks are errors. `optional`: there may be no body.
  Status ReadBody(std::span<const openai::Field> table, bool optional = false);
  const Json& body() const { return body_; }
  std::optional<std::string> String(std::string_view name) const;
  std::optional<double> Number(std::string_view name) const;
  std::optional<int64_t> Integer(std::string_view name) const;
  std::optional<bool> Boolean(std::string_view name) const;
  bool Has(std::string_view name) const { return body_.contains(name); }
  Result<std::string> Required(std::string_view name) const;
  Result<std::optional<std::vector<std::string>>> Strings(std::string_view name) const;
  // A time in whole seconds since 1970 as milliseconds; nullopt for absent and for null.
  Result<std::optional<int64_t>> Time(std::string_view name) const;

  // The query against the route's parameters: unknown ones are errors. Serve has done it.
  Status ReadQuery();
  // "" if it was not given.
  std::string Query(std::string_view name) const;
  Result<std::optional<int64_t>> QueryInteger(std::string_view name) const;
  const std::vector<std::pair<std::string, std::string>>& query() const { return query_; }
  // `limit` if none is given; 1 to `most`.
  Result<platform::Page> Page(int64_t limit = 100, int64_t most = 1000) const;
  std::string Id(std::string_view name = "id") const { return std::string(request.PathValue(name)); }

 private:
  Json body_ = Json::object();
  std::vector<std::pair<std::string, std::string>> query_;
};

// Runs the work and sends its result with `status`, or its error. 501 on a server without accounts. A POST
// with an Idempotency-Key runs once: who sends it again gets the first answer (header Idempotent-Replayed),
// another request under the same key is refused.
void Serve(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
           const std::function<Result<Json>(Call&)>& work);
// The same for answers that are not JSON.
void ServeReply(Services& services, const std::shared_ptr<Exchange>& exchange,
                const std::function<Result<HttpResponse>(Call&)>& work);

// A parameter's text as a number.
Result<int64_t> WholeNumber(std::string_view name, std::string_view text);
// {"data": [..], "has_more": .., "next_cursor": ..}; an empty `next`: no more.
Json ListJson(Json data, const std::string& next);
template <typename T>
Json ListJson(const platform::Listed<T>& listed, Json (*encode)(const T&)) {
  Json data = Json::array();
  for (const T& item : listed.items) data.push_back(encode(item));
  return ListJson(std::move(data), listed.next);
}
Json ListSchemaOf(Json item);
// An object's schema from an example of its JSON: the encoders are the only description. What is null in the
// example may be null; else it is text, or, with a name in "_at", a time.
Json SchemaLike(const Json& example);
// Seconds since 1970, or null.
Json TimeJson(const std::optional<int64_t>& unix_ms);

inline constexpr std::string_view kPageQuery = "limit:integer after";

}  // namespace tidepool::gateway::native

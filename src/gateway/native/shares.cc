// Links to conversations: made, listed and taken back by their member, read by whoever holds one.
#include "platform/conversations/shares.h"

#include "gateway/errors.h"
#include "gateway/native/call.h"
#include "gateway/native/conversations.h"

namespace tidepool::gateway::native {
namespace {

using openai::Field;
using openai::FieldType;
using openai::Treatment;

constexpr Field kShareFields[] = {
    {"days", FieldType::kNumber, Treatment::kRead, "until it ends; 7 if not given"},
    {"leaf", FieldType::kString, Treatment::kRead,
     "the last turn of the branch; not given: where the person is"}};
constexpr Field kSharedFields[] = {
    {"token", FieldType::kString, Treatment::kRead, "what stands behind the # of the link"}};

void ServeShares(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
                 const std::function<Result<Json>(Call&, platform::ConversationShares&)>& work) {
  if (services.hooks.shares == nullptr)
    return exchange->Send(ErrorResponse(501, "not_available", "This server keeps no conversations."));
  Serve(services, exchange, status, [&](Call& call) { return work(call, *services.hooks.shares); });
}

Json ShareJson(const platform::ConversationShare& share) {
  return {{"id", share.id},
          {"conversation", share.conversation},
          {"title", share.title},
          {"turns", share.turns},
          {"created_at", share.created_ms / 1000},
          {"expires_at", share.expires_ms / 1000}};
}

Json SharedJson(const platform::SharedConversation& shared) {
  Json turns = Json::array();
  for (const platform::SharedTurn& turn : shared.turns) {
    turns.push_back({{"role", turn.user ? "user" : "assistant"},
                     {"content", turn.content},
                     {"reasoning", turn.reasoning},
                     {"model", turn.model},
                     {"files", turn.files},
                     {"created_at", turn.created_ms / 1000}});
  }
  return {{"title", shared.title},
          {"turns", std::move(turns)},
          {"created_at", shared.created_ms / 1000},
          {"expires_at", shared.expires_ms / 1000}};
}

}  // namespace

void ListShares(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeShares(services, exchange, 200, [](Call& call, platform::ConversationShares& shares) -> Result<Json> {
    TP_ASSIGN(const auto listed, shares.List(call.caller.principal, call.Id()));
    Json data = Json::array();
    for (const auto& one : listed) data.push_back(ShareJson(one));
    return Json{{"data", std::move(data)}};
  });
}

void CreateShare(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeShares(services, exchange, 201, [](Call& call, platform::ConversationShares& shares) -> Result<Json> {
    TP_TRY(call.ReadBody(kShareFields, /*optional=*/true));
    TP_ASSIGN(const platform::CreatedShare made,
              shares.Create(call.caller.principal, call.caller.actor, call.Id(),
                            call.String("leaf").value_or(""), call.Number("days").value_or(7)));
    Json out = ShareJson(made.share);
    out["token"] = made.token;
    return out;
  });
}

void RevokeShare(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeShares(services, exchange, 200, [](Call& call, platform::ConversationShares& shares) -> Result<Json> {
    TP_TRY(shares.Revoke(call.caller.principal, call.caller.actor, call.Id(), call.Id("share")));
    return Json{{"id", call.Id("share")}, {"deleted", true}};
  });
}

void ReadShared(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeShares(services, exchange, 200, [](Call& call, platform::ConversationShares& shares) -> Result<Json> {
    TP_TRY(call.ReadBody(kSharedFields));
    TP_ASSIGN(const std::string token, call.Required("token"));
    call.headers.push_back({"X-Robots-Tag", "noindex"});
    return shares.Read(token, call.request.client_address).map(SharedJson);
  });
}

Json ShareRequestSchema() { return openai::SchemaOf(kShareFields, {}); }
Json CreatedShareSchema() {
  Json schema = SchemaLike(ShareJson({}));
  schema["properties"]["token"] =
      Json{{"type", "string"}, {"description", "shown once; the link is /shared#TOKEN"}};
  return schema;
}
Json ShareListSchema() {
  Json schema = Json::parse(R"json({"type": "object", "properties": {"data": {"type": "array"}}})json");
  schema["properties"]["data"]["items"] = SchemaLike(ShareJson({}));
  return schema;
}
Json SharedRequestSchema() { return openai::SchemaOf(kSharedFields, {"token"}); }
Json SharedSchema() {
  Json schema = SchemaLike(SharedJson({}));
  schema["properties"]["turns"]["items"] = Json::parse(R"json({
    "type": "object", "properties": {
      "role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}, "reasoning": {"type": "string"},
      "model": {"type": "string"}, "files": {"type": "array", "items": {"type": "string"}, "description": "names"},
      "created_at": {"type": "integer"}}
  })json");
  return schema;
}

}  // namespace tidepool::gateway::native

// Conversations: /api/v1/conversations and the events of one.
#include "gateway/native/conversations.h"

#include <fmt/format.h>

#include <mutex>
#include <utility>

#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/native/call.h"
#include "gateway/native/export.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/handlers.h"
#include "gateway/openai/reply.h"
#include "gateway/openai/sampling_fields.h"
#include "gateway/router.h"
#include "gateway/sse.h"
#include "platform/conversations/conversations.h"

namespace tidepool::gateway::native {
namespace {

using openai::BadField;
using openai::Field;
using openai::FieldReader;
using openai::FieldType;
using openai::Treatment;
using platform::ConversationEvent;

void SendNoConversations(const std::shared_ptr<Exchange>& exchange) {
  exchange->Send(ErrorResponse(501, "not_available", "This server keeps no conversations."));
}

// Serve, for servers that keep conversations.
void ServeConversations(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
                        const std::function<Result<Json>(Call&, platform::Conversations&)>& work) {
  if (services.hooks.conversations == nullptr) return SendNoConversations(exchange);
  Serve(services, exchange, status, [&](Call& call) { return work(call, *services.hooks.conversations); });
}

double Seconds(int64_t ms) { return static_cast<double>(ms) / 1e3; }
Json OrNull(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json SummaryJson(const platform::Conversation& c) {
  return {{"id", c.id},
          {"title", c.title},
          {"model", c.model},
          {"pinned", c.pinned},
          {"running", c.running},
          {"created", Seconds(c.created_ms)},
          {"updated", Seconds(c.updated_ms)}};
}

Json ConversationJson(const platform::Conversation& c) {
  Json out = SummaryJson(c);
  out["system"] = c.system;
  out["sampling"] = c.sampling;
  out["leaf"] = OrNull(c.leaf);
  return out;
}

Json TurnJson(const platform::Turn& turn) {
  Json files = Json::array();
  for (const auto& file : turn.files) files.push_back({{"name", file.name}, {"text", file.text}});
  Json out{{"id", turn.id},
           {"parent", OrNull(turn.parent)},
           {"role", turn.user ? "user" : "assistant"},
           {"content", turn.content},
           {"reasoning", turn.reasoning},
           {"files", std::move(files)},
           {"model", turn.model},
           {"state", platform::TurnStateName(turn.state)},
           {"finish_reason", turn.finish_reason},
           {"error", nullptr},
           {"usage", nullptr}};
  if (turn.state == platform::TurnState::kFailed)
    out["error"] = {{"code", turn.error_code}, {"message", turn.error_message}};
  if (turn.usage) {
    out["usage"] = {{"prompt_tokens", turn.usage->prompt_tokens},
                    {"completion_tokens", turn.usage->completion_tokens},
                    {"total_tokens", turn.usage->prompt_tokens + turn.usage->completion_tokens},
                    {"prompt_tokens_details", {{"cached_tokens", turn.usage->cached_tokens}}},
                    {"completion_tokens_details", {{"reasoning_tokens", turn.usage->reasoning_tokens}}}};
  }
  out["cost"] = turn.billed ? openai::BilledJson(*turn.billed) : Json(nullptr);
  Json timings = Json::object();
  if (turn.timings.ttft_s > 0) timings["ttft_s"] = turn.timings.ttft_s;
  if (turn.timings.queue_s > 0) timings["queue_s"] = turn.timings.queue_s;
  if (turn.timings.reasoning_s > 0) timings["reasoning_s"] = turn.timings.reasoning_s;
  if (turn.timings.decode_s > 0) timings["decode_s"] = turn.timings.decode_s;
  out["timings"] = std::move(timings);
  out["dropped_turns"] = turn.dropped_turns;
  out["created"] = Seconds(turn.created_ms);
  return out;
}

Json WholeJson(const platform::ConversationWithTurns& whole) {
  Json out = ConversationJson(whole.conversation);
  Json turns = Json::array();
  for (const auto& turn : whole.turns) turns.push_back(TurnJson(turn));
  out["turns"] = std::move(turns);
  out["sequence"] = whole.sequence;
  return out;
}

Status CheckOnlyKnown(FieldReader& reader) {
  TP_TRY(reader.Check());
  if (reader.ignored().empty()) return {};
  const std::string name = reader.ignored().front().substr(0, 64);
  return Fail(BadField(name, fmt::format("There is no field \"{}\" here.", name), "unknown_field"));
}

Result<platform::SamplingRequest> SamplingOf(const Json& sampling) {
  FieldReader reader(sampling, openai::SamplingFields());
  TP_TRY(CheckOnlyKnown(reader));
  std::vector<std::string> unknown;  // within objects
  auto out = openai::ReadSampling(reader, unknown);
  if (out && !unknown.empty())
    return Fail(BadField(unknown.front(), fmt::format("There is no field \"{}\" here.", unknown.front()),
                         "unknown_field"));
  return out;
}

std::span<const Field> ChangeFields() {
  static const Field kFields[] = {
      {"title", FieldType::kString, Treatment::kRead, ""},
      {"model", FieldType::kString, Treatment::kRead, "who answers from now on"},
      {"system", FieldType::kString, Treatment::kRead, "said to the model before the conversation"},
      {"sampling", FieldType::kObject, Treatment::kRead,
       "temperature, max_tokens, stop, ... as in a chat completion"},
      {"pinned", FieldType::kBoolean, Treatment::kRead, "listed before the others"},
      {"leaf", FieldType::kString, Treatment::kRead, "the turn at whose end the reader is; null: the newest"},
  };
  return kFields;
}

Result<platform::ConversationChange> ReadChange(Call& call, bool optional) {
  TP_TRY(call.ReadBody(ChangeFields(), optional));
  platform::ConversationChange change;
  change.title = call.String("title");
  change.model = call.String("model");
  change.system = call.String("system");
  change.pinned = call.Boolean("pinned");
  change.leaf = call.String("leaf");
  if (call.Has("leaf") && !change.leaf) change.leaf = "";  // null
  if (const auto sampling = call.body().find("sampling");
      sampling != call.body().end() && !sampling->is_null()) {
    TP_TRY(SamplingOf(*sampling));
    change.sampling = *sampling;
  }
  return change;
}

std::span<const Field> TurnFields() {
  static const Field kFields[] = {
      {"parent", FieldType::kString, Treatment::kRead,
       "the turn it follows; null: the conversation's beginning"},
      {"content", FieldType::kString, Treatment::kRead,
       "what the person says; none: another answer to `parent`"},
      {"files", FieldType::kArray, Treatment::kRead, "{name, text}, put before the content"},
      {"model", FieldType::kString, Treatment::kRead, "who answers; the conversation's without it"},
      {"continue", FieldType::kString, Treatment::kRead, "go on with this answer, which ended early"},
  };
  return kFields;
}

Result<platform::NewTurn> ReadTurn(Call& call) {
  TP_TRY(call.ReadBody(TurnFields()));
  platform::NewTurn turn;
  turn.parent = call.String("parent").value_or("");
  turn.content = call.String("content");
  turn.model = call.String("model").value_or("");
  turn.continue_turn = call.String("continue").value_or("");
  if (const auto files = call.body().find("files"); files != call.body().end() && !files->is_null()) {
    for (const Json& file : *files) {
      static const Field kFields[] = {{"name", FieldType::kString, Treatment::kRead, ""},
                                      {"text", FieldType::kString, Treatment::kRead, ""}};
      if (!file.is_object()) return Fail(BadField("files", "files must hold objects with name and text."));
      FieldReader item(file, kFields);
      TP_TRY(CheckOnlyKnown(item));
      turn.files.push_back({item.String("name").value_or(""), item.String("text").value_or("")});
    }
  }
  return turn;
}

// "id: 7\nevent: delta\ndata: {...}\n\n"
void AppendConversationEvent(std::string& out, const ConversationEvent& event) {
  using Kind = ConversationEvent::Kind;
  Json data = Json::object();
  std::string_view name = "reload";
  switch (event.kind) {
    case Kind::kTurn:
      name = "turn";
      data["turn"] = TurnJson(*event.turn);
      break;
    case Kind::kDelta:
      name = "delta";
      data["turn"] = event.turn_id;
      if (!event.content.empty()) data["content"] = event.content;
      if (!event.reasoning.empty()) data["reasoning"] = event.reasoning;
      break;
    case Kind::kProgress:
      name = "progress";
      data["turn"] = event.turn_id;
      data["phase"] = platform::ProgressPhaseName(event.progress.phase);
      if (event.progress.phase == compute::ProgressEvent::Phase::kQueued) {
        data["queue_position"] = event.progress.queue_position;
      } else {
        data["share"] = event.progress.share;
      }
      break;
    case Kind::kConversation:
      name = "conversation";
      data["conversation"] = ConversationJson(*event.conversation);
      break;
    case Kind::kReload: break;
  }
  fmt::format_to(std::back_inserter(out), "id: {}\n", event.sequence);
  AppendNamedEvent(out, name, DumpJson(data));
}

// A page that follows a conversation: the conversation's listener and its connection's.
class Follower final : public platform::ConversationListener,
                       public ExchangeListener,
                       public std::enable_shared_from_this<Follower> {
 public:
  Follower(platform::Conversations& conversations, std::string id, std::shared_ptr<Exchange> exchange)
      : conversations_(conversations), id_(std::move(id)), exchange_(std::move(exchange)) {}

  void OnEvent(const ConversationEvent& event) override {
    std::string out;
    AppendConversationEvent(out, event);
    if (const auto exchange = Stream()) exchange->Write(out);
  }
  void OnEnd() override {
    if (const auto exchange = Take()) exchange->End();
  }
  void OnClosed() override {
    conversations_.Remove(id_, shared_from_this());
    Take();
  }
  void OnQuiet() override {
    std::string out;
    AppendComment(out, "quiet");
    if (const auto exchange = Stream()) exchange->Write(out);
  }

 private:
  std::shared_ptr<Exchange> Stream() {
    const std::lock_guard lock(mutex_);
    return exchange_;
  }
  // The exchange holds this as its listener: let go of it when it is over.
  std::shared_ptr<Exchange> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(exchange_, nullptr);
  }

  platform::Conversations& conversations_;
  const std::string id_;
  std::mutex mutex_;
  std::shared_ptr<Exchange> exchange_;
};

}  // namespace

void ListConversations(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(services, exchange, 200,
                     [](Call& call, platform::Conversations& conversations) -> Result<Json> {
                       TP_ASSIGN(const platform::Page page, call.Page(50));
                       TP_ASSIGN(const platform::ConversationPage listed,
                                 conversations.List(call.caller.principal, call.Query("query"), page.after,
                                                    static_cast<int32_t>(page.limit)));
                       Json data = Json::array();
                       for (const auto& one : listed.conversations) data.push_back(SummaryJson(one));
                       return Json{{"data", std::move(data)}, {"next", OrNull(listed.next)}};
                     });
}

void CreateConversation(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(
      services, exchange, 201, [](Call& call, platform::Conversations& conversations) -> Result<Json> {
        TP_ASSIGN(const platform::ConversationChange change, ReadChange(call, /*optional=*/true));
        TP_ASSIGN(const platform::Conversation created, conversations.Create(call.caller.principal, change));
        Json out = ConversationJson(created);
        out["turns"] = Json::array();
        out["sequence"] = 0;
        return out;
      });
}

void GetConversation(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(services, exchange, 200,
                     [](Call& call, platform::Conversations& conversations) -> Result<Json> {
                       return conversations.Find(call.caller.principal, call.Id()).map(WholeJson);
                     });
}

void ChangeConversation(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(
      services, exchange, 200, [](Call& call, platform::Conversations& conversations) -> Result<Json> {
        TP_ASSIGN(const platform::ConversationChange change, ReadChange(call, /*optional=*/false));
        return conversations.Change(call.caller.principal, call.Id(), change).map(ConversationJson);
      });
}

void DeleteConversation(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(services, exchange, 200,
                     [](Call& call, platform::Conversations& conversations) -> Result<Json> {
                       TP_TRY(conversations.Delete(call.caller.principal, call.Id()));
                       return Json{{"id", call.Id()}, {"deleted", true}};
                     });
}

void StartTurn(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(
      services, exchange, 201, [](Call& call, platform::Conversations& conversations) -> Result<Json> {
        TP_ASSIGN(platform::NewTurn turn, ReadTurn(call));
        TP_ASSIGN(const platform::Conversation conversation,
                  conversations.Read(call.caller.principal, call.Id()));
        TP_ASSIGN(turn.sampling, SamplingOf(conversation.sampling));
        TP_ASSIGN(
            const std::vector<platform::Turn> made,
            conversations.StartTurn(call.caller.principal, call.Id(), std::move(turn), call.request.id));
        Json turns = Json::array();
        for (const auto& one : made) turns.push_back(TurnJson(one));
        return Json{{"turns", std::move(turns)}};
      });
}

void StopTurn(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeConversations(services, exchange, 200,
                     [](Call& call, platform::Conversations& conversations) -> Result<Json> {
                       TP_TRY(conversations.StopTurn(call.caller.principal, call.Id(), call.Id("turn")));
                       return Json{{"id", call.Id("turn")}, {"stopped", true}};
                     });
}

void ConversationEvents(Services& services, std::shared_ptr<Exchange> exchange) {
  auto* conversations = services.hooks.conversations;
  if (conversations == nullptr) return SendNoConversations(exchange);
  Call call(services, exchange);
  const auto begin = [&]() -> Result<int64_t> {
    TP_TRY(call.ReadQuery());
    TP_ASSIGN(const std::optional<int64_t> after, call.QueryInteger("after"));
    if (after && *after < 0) return Fail(BadField("after", "after is below 0."));
    // The status line goes first: events follow from other threads as soon as it listens.
    TP_TRY(conversations->Read(call.caller.principal, call.Id()));
    if (services.draining)
      return Fail(ErrorKind::kUnavailable, "draining", "The server is stopping; try again later.");
    return after.value_or(0);
  };
  const auto after = begin();
  if (!after) return exchange->Send(ErrorResponse(after.error()));
  exchange->Begin(200, kEventStream, {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}});
  const auto follower = std::make_shared<Follower>(*conversations, call.Id(), exchange);
  if (auto listening =
          conversations->Listen(call.caller.principal, call.Id(), static_cast<uint64_t>(*after), follower);
      !listening) {
    std::string out;
    AppendNamedEvent(out, "error", DumpJson(ErrorJson(listening.error())));
    exchange->Write(out);
    return exchange->End();
  }
  exchange->Listen(follower);
}

void ExportConversation(Services& services, std::shared_ptr<Exchange> exchange) {
  if (services.hooks.conversations == nullptr) return SendNoConversations(exchange);
  ServeReply(services, exchange, [&](Call& call) -> Result<HttpResponse> {
    const std::string format = call.Query("format");
    if (!format.empty() && format != "markdown" && format != "json") {
      return Fail(
          BadField("format", fmt::format("format is \"{}\"; give markdown or json.", format.substr(0, 40))));
    }
    TP_ASSIGN(const auto found, services.hooks.conversations->Find(call.caller.principal, call.Id()));
    const bool json = format == "json";
    ExportedFile file{.action = "conversation.exported",
                      .object = found.conversation.id,
                      .name = fmt::format("{}.{}", found.conversation.id, json ? "json" : "md"),
                      .content_type = json ? "application/json" : "text/markdown; charset=utf-8",
                      .bounds = {{"format", json ? "json" : "markdown"}, {"turns", found.turns.size()}}};
    if (json) {
      Json whole = WholeJson(found);
      whole.erase("sequence");
      file.body = DumpJson(whole);
    } else {
      file.body = platform::ExportMarkdown(found);
    }
    return Export(call, call.caller.actor, std::move(file));
  });
}

// ---- schemas ------------------------------------------------------------------------------------------

namespace {

constexpr const char* kTurnSchema = R"json({
  "type": "object",
  "properties": {
    "id": {"type": "string"}, "parent": {"type": ["string", "null"]}, "role": {"enum": ["user", "assistant"]},
    "content": {"type": "string"}, "reasoning": {"type": "string"},
    "files": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}, "text": {"type": "string"}}}},
    "model": {"type": "string"}, "state": {"enum": ["running", "done", "stopped", "interrupted", "failed"]},
    "finish_reason": {"type": "string"},
    "error": {"type": ["object", "null"], "properties": {"code": {"type": "string"}, "message": {"type": "string"}}},
    "usage": {}, "cost": {},
    "timings": {"type": "object", "description": "where they are known", "properties": {
      "queue_s": {"type": "number", "optional": true}, "ttft_s": {"type": "number", "optional": true},
      "reasoning_s": {"type": "number", "optional": true}, "decode_s": {"type": "number", "optional": true}}},
    "dropped_turns": {"type": "integer", "description": "the oldest turns, left out because the context was full"},
    "created": {"type": "number", "description": "seconds since 1970"}}
})json";

Json TurnSchema() {
  Json schema = Json::parse(kTurnSchema);
  schema["properties"]["usage"] = openai::UsageSchema();
  schema["properties"]["cost"] = openai::BilledSchema();
  for (const char* name : {"usage", "cost"})
    schema["properties"][name]["type"] = Json::array({"object", "null"});
  return schema;
}

Json SummarySchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "title": {"type": "string"}, "model": {"type": "string"}, "pinned": {"type": "boolean"},
      "running": {"type": "boolean", "description": "an answer is being written"},
      "created": {"type": "number"}, "updated": {"type": "number"}}
  })json");
}

}  // namespace

Json ConversationDetailsSchema() {
  Json schema = SummarySchema();
  schema["properties"]["system"] = {{"type", "string"}};
  Json& sampling = schema["properties"]["sampling"];
  sampling = {{"type", "object"}, {"description", "as it was set"}};
  for (const char* name : {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
                           "frequency_penalty", "seed", "max_tokens", "thinking_budget"})
    sampling["properties"][name] = {{"type", Json::array({"number", "null"})}, {"optional", true}};
  sampling["properties"]["stop"] = {{"type", Json::array({"array", "string", "null"})},
                                    {"items", {{"type", "string"}}},
                                    {"optional", true}};
  schema["properties"]["leaf"] = {{"type", Json::array({"string", "null"})}};
  return schema;
}
Json ConversationSchema() {
  Json schema = ConversationDetailsSchema();
  schema["properties"]["turns"] = {{"type", "array"}, {"items", TurnSchema()}};
  schema["properties"]["sequence"] = {{"type", "integer"}, {"description", "for events?after="}};
  return schema;
}
Json ConversationListSchema() {
  Json schema = Json::parse(R"json({"type": "object", "properties": {
    "data": {"type": "array"}, "next": {"type": ["string", "null"], "description": "for ?after=; also ?query= and ?limit="}}})json");
  schema["properties"]["data"]["items"] = SummarySchema();
  return schema;
}
Json ConversationChangeSchema() { return openai::SchemaOf(ChangeFields(), {}); }
Json NewTurnSchema() {
  Json schema = openai::SchemaOf(TurnFields(), {});
  schema["properties"]["files"]["items"] = Json::parse(
      R"json({"type": "object", "properties": {"name": {"type": "string"}, "text": {"type": "string"}}})json");
  return schema;
}
Json TurnsSchema() {
  Json schema = Json::parse(R"json({"type": "object", "properties": {"turns": {"type": "array"}}})json");
  schema["properties"]["turns"]["items"] = TurnSchema();
  return schema;
}
Json ConversationEventsSchema() {
  Json schema = Json::parse(R"json({
    "type": "object", "description": "of /api/v1/conversations/{id}/events",
    "properties": {
      "turn": {"type": "object", "properties": {"turn": {}}},
      "delta": {"type": "object", "properties": {
        "turn": {"type": "string"}, "content": {"type": "string", "optional": true}, "reasoning": {"type": "string", "optional": true}}},
      "conversation": {"type": "object", "properties": {"conversation": {}}},
      "reload": {"type": "object", "description": "read the conversation again"}}
  })json");
  schema["properties"]["turn"]["properties"]["turn"] = TurnSchema();
  schema["properties"]["conversation"]["properties"]["conversation"] = ConversationDetailsSchema();
  Json progress = openai::ProgressSchema();
  progress["properties"]["turn"] = {{"type", "string"}};
  schema["properties"]["progress"] = std::move(progress);
  return schema;
}

}  // namespace tidepool::gateway::native

#include "platform/conversations/conversation_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using store::Row;
using store::Session;

constexpr store::Migration kMigrations[] = {
    {1, "conversations and their turns", R"sql(
CREATE TABLE conversations (
  id TEXT PRIMARY KEY, workspace TEXT NOT NULL, owner TEXT NOT NULL, title TEXT NOT NULL, model TEXT NOT NULL,
  system TEXT NOT NULL, sampling TEXT NOT NULL, leaf TEXT NOT NULL, pinned BIGINT NOT NULL,
  created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL);
CREATE INDEX conversations_of_owner ON conversations (workspace, owner, pinned, updated_ms, id);
CREATE TABLE conversation_turns (
  number BIGSERIAL PRIMARY KEY, id TEXT NOT NULL UNIQUE, conversation TEXT NOT NULL REFERENCES conversations (id),
  parent TEXT NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, reasoning TEXT NOT NULL, files TEXT NOT NULL,
  model TEXT NOT NULL, state TEXT NOT NULL, finish_reason TEXT NOT NULL, error_code TEXT NOT NULL,
  error_message TEXT NOT NULL, usage TEXT NOT NULL, timings TEXT NOT NULL, dropped_turns BIGINT NOT NULL,
  created_ms BIGINT NOT NULL);
CREATE INDEX conversation_turns_in_order ON conversation_turns (conversation, number);
CREATE INDEX conversation_turns_by_state ON conversation_turns (state);
)sql"},
    // What is there already is counted in characters, which is less where they are not ASCII.
    {2, "how many bytes there are", R"sql(
ALTER TABLE conversations ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE conversation_turns ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
UPDATE conversation_turns SET bytes = LENGTH(content) + LENGTH(reasoning) + LENGTH(files);
UPDATE conversations SET bytes = LENGTH(title) + LENGTH(system) + LENGTH(sampling) + COALESCE(
  (SELECT SUM(t.bytes) FROM conversation_turns t WHERE t.conversation = conversations.id), 0);
CREATE INDEX conversations_by_size ON conversations (workspace, owner, bytes);
DROP INDEX conversation_turns_by_state;
CREATE INDEX conversation_turns_by_state ON conversation_turns (state, conversation);
)sql"},
    {3, "links that show a branch", R"sql(
CREATE TABLE conversation_shares (
  id TEXT PRIMARY KEY, hash BYTEA NOT NULL UNIQUE, conversation TEXT NOT NULL REFERENCES conversations (id),
  workspace TEXT NOT NULL, owner TEXT NOT NULL, member TEXT NOT NULL, title TEXT NOT NULL, turns BIGINT NOT NULL,
  content TEXT NOT NULL, bytes BIGINT NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL);
CREATE INDEX conversation_shares_of_owner ON conversation_shares (workspace, owner);
CREATE INDEX conversation_shares_of_conversation ON conversation_shares (conversation);
CREATE INDEX conversation_shares_by_end ON conversation_shares (expires_ms);
)sql"},
};

constexpr std::string_view kConversationColumns =
    "id, title, model, system, sampling, leaf, pinned, created_ms, updated_ms, "
    "(SELECT COUNT(*) FROM conversation_turns t WHERE t.conversation = conversations.id AND t.state = "
    "'running'), bytes";

Conversation ConversationOf(const Row& row) {
  Conversation out;
  out.id = row.Text(0);
  out.title = row.Text(1);
  out.model = row.Text(2);
  out.system = row.Text(3);
  out.sampling = Json::parse(row.Text(4), nullptr, false);
  if (!out.sampling.is_object()) out.sampling = Json::object();
  out.leaf = row.Text(5);
  out.pinned = row.Flag(6);
  out.created_ms = row.Integer(7);
  out.updated_ms = row.Integer(8);
  out.running = row.Integer(9) > 0;
  out.bytes = row.Integer(10);
  return out;
}

TurnState StateOf(std::string_view name) {
  for (const TurnState state :
       {TurnState::kRunning, TurnState::kDone, TurnState::kStopped, TurnState::kInterrupted}) {
    if (name == TurnStateName(state)) return state;
  }
  return TurnState::kFailed;
}

std::string FilesText(const std::vector<AttachedFile>& files) {
  Json out = Json::array();
  for (const AttachedFile& file : files) out.push_back({{"name", file.name}, {"text", file.text}});
  return out.dump();
}

std::vector<AttachedFile> FilesOf(const std::string& text) {
  std::vector<AttachedFile> out;
  const Json files = Json::parse(text, nullptr, false);
  if (!files.is_array()) return out;
  for (const Json& file : files) {
    if (file.is_object()) out.push_back({file.value("name", ""), file.value("text", "")});
  }
  return out;
}

std::string UsageText(const Turn& turn) {
  if (!turn.usage) return "";
  Json out{{"prompt", turn.usage->prompt_tokens},
           {"cached", turn.usage->cached_tokens},
           {"completion", turn.usage->completion_tokens},
           {"reasoning", turn.usage->reasoning_tokens}};
  if (turn.billed) {
    out["amount_nanos"] = turn.billed->amount_nanos;
    out["currency"] = turn.billed->currency;
    out["billing"] = static_cast<int>(turn.billed->billing);
    out["free_tokens"] = turn.billed->free_tokens;
  }
  return out.dump();
}

std::optional<compute::Usage> UsageOf(const std::string& text) {
  const Json usage = Json::parse(text, nullptr, false);
  if (!usage.is_object()) return std::nullopt;
  return compute::Usage{usage.value("prompt", 0), usage.value("cached", 0), usage.value("completion", 0),
                        usage.value("reasoning", 0)};
}

// Rows from before money was kept with them have none.
std::optional<Billed> BilledOf(const std::string& text) {
  const Json usage = Json::parse(text, nullptr, false);
  if (!usage.is_object() || !usage.contains("amount_nanos")) return std::nullopt;
  Billed billed;
  billed.amount_nanos = usage.value("amount_nanos", int64_t{0});
  billed.currency = usage.value("currency", "");
  billed.billing =
      static_cast<Billing>(std::clamp(usage.value("billing", 0), 0, static_cast<int>(Billing::kWaived)));
  billed.free_tokens = usage.value("free_tokens", int64_t{0});
  return billed;
}

std::string TimingsText(const TurnTimings& timings) {
  return Json{{"queue_s", timings.queue_s},
              {"ttft_s", timings.ttft_s},
              {"reasoning_s", timings.reasoning_s},
              {"decode_s", timings.decode_s}}
      .dump();
}

TurnTimings TimingsOf(const std::string& text) {
  const Json timings = Json::parse(text, nullptr, false);
  if (!timings.is_object()) return {};
  return {timings.value("queue_s", 0.0), timings.value("ttft_s", 0.0), timings.value("reasoning_s", 0.0),
          timings.value("decode_s", 0.0)};
}

constexpr std::string_view kTurnColumns =
    "id, parent, role, content, reasoning, files, model, state, finish_reason, error_code, error_message, "
    "usage, timings, dropped_turns, created_ms";

Turn TurnOf(const Row& row) {
  Turn turn;
  turn.id = row.Text(0);
  turn.parent = row.Text(1);
  turn.user = row.Text(2) == "user";
  turn.content = row.Text(3);
  turn.reasoning = row.Text(4);
  turn.files = FilesOf(row.Text(5));
  turn.model = row.Text(6);
  turn.state = StateOf(row.Text(7));
  turn.finish_reason = row.Text(8);
  turn.error_code = row.Text(9);
  turn.error_message = row.Text(10);
  turn.usage = UsageOf(row.Text(11));
  turn.billed = BilledOf(row.Text(11));
  turn.timings = TimingsOf(row.Text(12));
  turn.dropped_turns = static_cast<int32_t>(row.Integer(13));
  turn.created_ms = row.Integer(14);
  return turn;
}

// A store's text holds no NUL; a model may well say one.
std::string Storable(const std::string& text) {
  if (text.find('\0') == std::string::npos) return text;
  std::string out;
  for (const char c : text) {
    if (c != '\0') out.push_back(c);
  }
  return out;
}

// For LIKE .. ESCAPE '\'.
std::string Pattern(std::string_view search) {
  std::string out = "%";
  for (const char c : search) {
    if (c == '%' || c == '_' || c == '\\') out.push_back('\\');
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  }
  return out + "%";
}

}  // namespace

store::MigrationList Conversations::Migrations() { return {"conversations", kMigrations}; }

ConversationOwner ConversationOwner::Of(const Principal& who) {
  return {who.workspace, who.member.empty() ? "key:" + who.key : who.member};
}

Result<Conversation> ReadConversation(Session& session, const ConversationOwner& owner,
                                      const std::string& id) {
  TP_ASSIGN(const store::Rows rows,
            session.Query(
                fmt::format("SELECT {} FROM conversations WHERE id = $1 AND workspace = $2 AND owner = $3",
                            kConversationColumns),
                {id, owner.workspace, owner.owner}));
  if (rows.empty()) {
    return Fail(ErrorKind::kNotFound, "unknown_conversation",
                fmt::format("There is no conversation \"{}\" of yours.", id.substr(0, 64)), "id");
  }
  return ConversationOf(rows.front());
}

// The cursor names the last one's place in the order: "PINNED.UPDATED_MS.ID".
Result<ConversationPage> ReadConversations(Session& session, const ConversationOwner& owner,
                                           std::string_view search, std::string_view after, int32_t limit) {
  std::vector<store::Value> values = {owner.workspace, owner.owner};
  std::string where = "workspace = $1 AND owner = $2";
  if (!after.empty()) {
    int64_t pinned = 0, updated_ms = 0;
    const size_t first = after.find('.');
    const size_t second = first == std::string_view::npos ? first : after.find('.', first + 1);
    const bool good =
        second != std::string_view::npos &&
        std::from_chars(after.data(), after.data() + first, pinned).ptr == after.data() + first &&
        std::from_chars(after.data() + first + 1, after.data() + second, updated_ms).ptr ==
            after.data() + second;
    if (!good) return Fail(ErrorKind::kInvalid, "bad_cursor", "after is no cursor of this list.", "after");
    values.emplace_back(pinned);
    values.emplace_back(updated_ms);
    values.emplace_back(std::string(after.substr(second + 1)));
    where += " AND (pinned < $3 OR (pinned = $3 AND (updated_ms < $4 OR (updated_ms = $4 AND id < $5))))";
  }
  if (!search.empty()) {
    values.emplace_back(Pattern(search));
    const size_t n = values.size();
    where += fmt::format(
        " AND (LOWER(title) LIKE ${0} ESCAPE '\\' OR EXISTS (SELECT 1 FROM conversation_turns t WHERE "
        "t.conversation = conversations.id AND LOWER(t.content) LIKE ${0} ESCAPE '\\'))",
        n);
  }
  values.emplace_back(limit + 1);
  TP_ASSIGN(const store::Rows rows,
            session.Query(
                fmt::format("SELECT {} FROM conversations WHERE {} ORDER BY pinned DESC, updated_ms DESC, id "
                            "DESC LIMIT ${}",
                            kConversationColumns, where, values.size()),
                values));
  ConversationPage page;
  for (const Row& row : rows) page.conversations.push_back(ConversationOf(row));
  if (page.conversations.size() > static_cast<size_t>(limit)) {
    page.conversations.resize(static_cast<size_t>(limit));
    const Conversation& last = page.conversations.back();
    page.next = fmt::format("{}.{}.{}", last.pinned ? 1 : 0, last.updated_ms, last.id);
  }
  return page;
}

int64_t BytesOf(const Conversation& c) {
  return static_cast<int64_t>(c.title.size() + c.system.size() + c.sampling.dump().size());
}

Result<OwnerUse> ReadOwnerUse(Session& session, const ConversationOwner& owner) {
  TP_ASSIGN(const store::Rows rows,
            session.Query("SELECT COUNT(*), COALESCE(SUM(bytes), 0) + COALESCE((SELECT SUM(s.bytes) FROM "
                          "conversation_shares s WHERE s.workspace = $1 AND s.owner = $2), 0) FROM "
                          "conversations WHERE workspace = $1 AND owner = $2",
                          {owner.workspace, owner.owner}));
  return OwnerUse{rows.front().Integer(0), rows.front().Integer(1)};
}

Result<int64_t> CountTurns(Session& session, const std::string& conversation) {
  TP_ASSIGN(const store::Rows rows, session.Query("SELECT COUNT(*) FROM conversation_turns WHERE "
                                                  "conversation = $1",
                                                  {conversation}));
  return rows.front().Integer(0);
}

Result<RunningTurns> CountRunning(Session& session, const ConversationOwner& owner,
                                  const std::string& conversation) {
  // From the running ones, of which there are few, not from the owner's conversations.
  TP_ASSIGN(
      const store::Rows rows,
      session.Query("SELECT COUNT(*), COALESCE(SUM(CASE WHEN t.conversation = $3 THEN 1 ELSE 0 END), 0) "
                    "FROM conversation_turns t WHERE t.state = 'running' AND EXISTS (SELECT 1 FROM "
                    "conversations c WHERE c.id = t.conversation AND c.workspace = $1 AND c.owner = $2)",
                    {owner.workspace, owner.owner, conversation}));
  return RunningTurns{rows.front().Integer(0), rows.front().Integer(1)};
}

Status InsertConversation(Session& session, const ConversationOwner& owner, const Conversation& c) {
  TP_TRY(session.Execute(
      "INSERT INTO conversations (id, workspace, owner, title, model, system, sampling, leaf, pinned, "
      "created_ms, updated_ms, bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
      {c.id, owner.workspace, owner.owner, c.title, c.model, c.system, c.sampling.dump(), c.leaf,
       c.pinned ? 1 : 0, c.created_ms, c.updated_ms, BytesOf(c)}));
  return {};
}

Status UpdateConversation(Session& session, const Conversation& c, const Conversation& was) {
  TP_TRY(session.Execute(
      "UPDATE conversations SET title = $2, model = $3, system = $4, sampling = $5, leaf = $6, "
      "pinned = $7, updated_ms = $8, bytes = bytes + $9 WHERE id = $1",
      {c.id, c.title, c.model, c.system, c.sampling.dump(), c.leaf, c.pinned ? 1 : 0, c.updated_ms,
       BytesOf(c) - BytesOf(was)}));
  return {};
}

Status DeleteConversation(Session& session, const std::string& id) {
  TP_TRY(session.Execute("DELETE FROM conversation_shares WHERE conversation = $1", {id}));
  TP_TRY(session.Execute("DELETE FROM conversation_turns WHERE conversation = $1", {id}));
  TP_TRY(session.Execute("DELETE FROM conversations WHERE id = $1", {id}));
  return {};
}

Result<std::vector<Turn>> ReadTurns(Session& session, const std::string& conversation) {
  TP_ASSIGN(
      const store::Rows rows,
      session.Query(fmt::format("SELECT {} FROM conversation_turns WHERE conversation = $1 ORDER BY number",
                                kTurnColumns),
                    {conversation}));
  std::vector<Turn> out;
  out.reserve(rows.size());
  for (const Row& row : rows) out.push_back(TurnOf(row));
  return out;
}

Result<std::optional<Turn>> ReadTurn(Session& session, const std::string& conversation,
                                     const std::string& id) {
  TP_ASSIGN(const store::Rows rows,
            session.Query(fmt::format("SELECT {} FROM conversation_turns WHERE id = $1 AND conversation = $2",
                                      kTurnColumns),
                          {id, conversation}));
  return rows.empty() ? std::nullopt : std::optional(TurnOf(rows.front()));
}

int64_t BytesOf(const Turn& turn) {
  return static_cast<int64_t>(turn.content.size() + turn.reasoning.size() + FilesText(turn.files).size());
}

Status InsertTurn(Session& session, const std::string& conversation, const Turn& turn) {
  TP_TRY(session.Execute(
      "INSERT INTO conversation_turns (id, conversation, parent, role, content, reasoning, files, model, "
      "state, finish_reason, error_code, error_message, usage, timings, dropped_turns, created_ms, bytes) "
      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
      {turn.id, conversation, turn.parent, turn.user ? "user" : "assistant", Storable(turn.content),
       Storable(turn.reasoning), Storable(FilesText(turn.files)), turn.model, TurnStateName(turn.state),
       turn.finish_reason, turn.error_code, turn.error_message, UsageText(turn), TimingsText(turn.timings),
       turn.dropped_turns, turn.created_ms, BytesOf(turn)}));
  TP_TRY(session.Execute("UPDATE conversations SET bytes = bytes + $2 WHERE id = $1",
                         {conversation, BytesOf(turn)}));
  return {};
}

Status UpdateTurn(Session& session, const Turn& turn) {
  TP_TRY(session.Execute(
      "UPDATE conversations SET bytes = bytes + $2 - (SELECT bytes FROM conversation_turns WHERE id = $1) "
      "WHERE id = (SELECT conversation FROM conversation_turns WHERE id = $1)",
      {turn.id, BytesOf(turn)}));
  TP_TRY(session.Execute(
      "UPDATE conversation_turns SET content = $2, reasoning = $3, model = $4, state = $5, finish_reason = "
      "$6, error_code = $7, error_message = $8, usage = $9, timings = $10, dropped_turns = $11, bytes = $12 "
      "WHERE id = $1",
      {turn.id, Storable(turn.content), Storable(turn.reasoning), turn.model, TurnStateName(turn.state),
       turn.finish_reason, turn.error_code, turn.error_message, UsageText(turn), TimingsText(turn.timings),
       turn.dropped_turns, BytesOf(turn)}));
  return {};
}

Status MarkInterrupted(Session& session) {
  TP_TRY(session.Execute("UPDATE conversation_turns SET state = $1 WHERE state = $2",
                         {TurnStateName(TurnState::kInterrupted), TurnStateName(TurnState::kRunning)}));
  return {};
}

}  // namespace tidepool::platform

#include "platform/responses/response_rows.h"

#include <fmt/format.h>

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using store::Session;

constexpr store::Migration kMigrations[] = {
    {1, "responses", R"sql(
CREATE TABLE responses (
  id TEXT PRIMARY KEY, workspace TEXT NOT NULL, previous TEXT NOT NULL, background BIGINT NOT NULL, status TEXT NOT NULL,
  body TEXT NOT NULL, input TEXT NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL);
CREATE INDEX responses_of_workspace ON responses (workspace, created_ms, id);
CREATE INDEX responses_by_expiry ON responses (expires_ms);
CREATE INDEX responses_by_status ON responses (status);
)sql"},
    // Responses::Open seals what is there; body and input are '' from then on.
    {2, "sealed responses", R"sql(
ALTER TABLE responses ADD COLUMN body_box BYTEA;
ALTER TABLE responses ADD COLUMN input_box BYTEA;
)sql"},
};

constexpr int64_t kSealAtOnce = 50;

std::string Text(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

// With whose and what it is, so that a box cannot pass for another.
std::string Label(const std::string& id, std::string_view what) { return fmt::format("{} {}\n", id, what); }

std::string SealAs(const KeyFile& keys, const std::string& id, std::string_view what, std::string_view text) {
  return keys.Seal(Label(id, what).append(text));
}

Result<Json> Unsealed(const KeyFile& keys, const std::string& id, std::string_view what,
                      const std::string& box) {
  TP_ASSIGN(const std::string text, keys.Unseal(box));
  const std::string label = Label(id, what);
  if (!text.starts_with(label))
    return Fail(ErrorKind::kCorrupt, "store_corrupt", "The stored response is not the one of this id.");
  return Json::parse(std::string_view(text).substr(label.size()), nullptr, false);
}

}  // namespace

store::MigrationList Responses::Migrations() { return {"responses", kMigrations}; }

SealedResponse::SealedResponse(const KeyFile& keys, const StoredResponse& response)
    : body(SealAs(keys, response.id, "body", Text(response.body))),
      input(SealAs(keys, response.id, "input", Text(response.input))) {}

Result<StoredResponse> ReadResponse(Session& session, const KeyFile& keys, const std::string& workspace,
                                    const std::string& id, int64_t now_ms) {
  TP_ASSIGN(const store::Rows rows,
            session.Query(
                "SELECT id, previous, background, status, body_box, input_box, created_ms, expires_ms FROM "
                "responses WHERE id = $1 AND workspace = $2 AND (expires_ms = 0 OR expires_ms > $3)",
                {id, workspace, now_ms}));
  if (rows.empty()) {
    return Fail(
        ErrorKind::kNotFound, "unknown_response",
        fmt::format("There is no response \"{}\" in this workspace; it may have expired.", id.substr(0, 64)),
        "response_id");
  }
  const store::Row& row = rows.front();
  StoredResponse out;
  out.id = row.Text(0);
  out.previous = row.Text(1);
  out.background = row.Flag(2);
  out.status = row.Text(3);
  TP_ASSIGN(out.body, Unsealed(keys, out.id, "body", row.Bytes(4)));
  TP_ASSIGN(out.input, Unsealed(keys, out.id, "input", row.Bytes(5)));
  out.created_ms = row.Integer(6);
  out.expires_ms = row.Integer(7);
  if (!out.body.is_object() || !out.input.is_array())
    return Fail(ErrorKind::kCorrupt, "store_corrupt", "The stored response cannot be read.");
  // The status is the row's: MarkFailed changes no body.
  if (out.body.value("status", "") != out.status && out.status == "failed") {
    out.body["error"] = {{"code", "server_error"}, {"message", "The server ended before this response."}};
  }
  out.body["status"] = out.status;
  return out;
}

Status InsertResponse(Session& session, const std::string& workspace, const StoredResponse& r,
                      const SealedResponse& sealed) {
  TP_TRY(session.Execute(
      "INSERT INTO responses (id, workspace, previous, background, status, body, input, body_box, input_box, "
      "created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, '', '', $6, $7, $8, $9)",
      {r.id, workspace, r.previous, r.background ? 1 : 0, r.status, store::Blob{sealed.body},
       store::Blob{sealed.input}, r.created_ms, r.expires_ms}));
  return {};
}

Status UpdateResponse(Session& session, const StoredResponse& r, const SealedResponse& sealed) {
  TP_TRY(session.Execute("UPDATE responses SET status = $2, body_box = $3 WHERE id = $1",
                         {r.id, r.status, store::Blob{sealed.body}}));
  return {};
}

Result<int64_t> SealOldResponses(Session& session, const KeyFile& keys) {
  TP_ASSIGN(
      const store::Rows rows,
      session.Query("SELECT id, body, input FROM responses WHERE body_box IS NULL LIMIT $1", {kSealAtOnce}));
  for (const store::Row& row : rows) {
    const std::string id = row.Text(0);
    TP_TRY(session.Execute(
        "UPDATE responses SET body = '', input = '', body_box = $2, input_box = $3 WHERE id = $1",
        {id, store::Blob{SealAs(keys, id, "body", row.Text(1))},
         store::Blob{SealAs(keys, id, "input", row.Text(2))}}));
  }
  return static_cast<int64_t>(rows.size());
}

Result<int64_t> ExpireResponses(Session& session, const std::string& workspace, int64_t now_ms) {
  return session.Execute(
      "UPDATE responses SET expires_ms = 1 WHERE workspace = $1 AND (expires_ms = 0 OR expires_ms > $2)",
      {workspace, now_ms});
}

Result<int64_t> DropExpired(Session& session, int64_t now_ms) {
  return session.Execute(
      "DELETE FROM responses WHERE id IN (SELECT id FROM responses WHERE expires_ms > 0 AND "
      "expires_ms <= $1 LIMIT $2)",
      {now_ms, kDropAtOnce});
}

Result<int64_t> DeleteResponse(Session& session, const std::string& workspace, const std::string& id) {
  return session.Execute("DELETE FROM responses WHERE id = $1 AND workspace = $2", {id, workspace});
}

Result<int64_t> DropResponses(Session& session, const std::string& workspace, int64_t max_stored,
                              int64_t now_ms) {
  TP_ASSIGN(const int64_t expired, DropExpired(session, now_ms));
  TP_ASSIGN(
      const int64_t oldest,
      session.Execute("DELETE FROM responses WHERE workspace = $1 AND status NOT IN ('queued', "
                      "'in_progress') AND id IN (SELECT id FROM responses WHERE workspace = $1 ORDER BY "
                      "created_ms DESC, id DESC LIMIT 1000000 OFFSET $2)",
                      {workspace, max_stored}));
  return expired + oldest;
}

Status MarkFailed(Session& session) {
  TP_TRY(session.Execute("UPDATE responses SET status = 'failed' WHERE status IN ('queued', 'in_progress')"));
  return {};
}

}  // namespace tidepool::platform

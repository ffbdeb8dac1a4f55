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
};

// A store's text holds no NUL; in JSON it would be an escape, so there is none.
std::string Text(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

store::MigrationList Responses::Migrations() { return {"responses", kMigrations}; }

Result<StoredResponse> ReadResponse(Session& session, const std::string& workspace, const std::string& id,
                                    int64_t now_ms) {
  TP_ASSIGN(
      const store::Rows rows,
      session.Query("SELECT id, previous, background, status, body, input, created_ms, expires_ms FROM "
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
  out.body = Json::parse(row.Text(4), nullptr, false);
  out.input = Json::parse(row.Text(5), nullptr, false);
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

Status InsertResponse(Session& session, const std::string& workspace, const StoredResponse& r) {
  TP_TRY(session.Execute(
      "INSERT INTO responses (id, workspace, previous, background, status, body, input, created_ms, "
      "expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
      {r.id, workspace, r.previous, r.background ? 1 : 0, r.status, Text(r.body), Text(r.input), r.created_ms,
       r.expires_ms}));
  return {};
}

Status UpdateResponse(Session& session, const StoredResponse& r) {
  TP_TRY(session.Execute("UPDATE responses SET status = $2, body = $3 WHERE id = $1",
                         {r.id, r.status, Text(r.body)}));
  return {};
}

Result<int64_t> DeleteResponse(Session& session, const std::string& workspace, const std::string& id) {
  return session.Execute("DELETE FROM responses WHERE id = $1 AND workspace = $2", {id, workspace});
}

Result<int64_t> DropResponses(Session& session, const std::string& workspace, int64_t max_stored,
                              int64_t now_ms) {
  TP_ASSIGN(const int64_t expired,
            session.Execute("DELETE FROM responses WHERE expires_ms > 0 AND expires_ms <= $1", {now_ms}));
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

#include <nlohmann/json.hpp>

#include "platform/accounts/accounts_rows.h"

namespace tidepool::platform {
namespace {

constexpr int64_t kIdempotentDayMs = 86'400'000;
// A first call that was cut off by a crash holds its key for so long.
constexpr int64_t kIdempotentHoldMs = 120'000;

}  // namespace

Status Accounts::SetSecret(const Caller& caller, const std::string& name, std::string_view secret) {
  if (name != kHubTokenSecret) {
    return Fail(
        ErrorKind::kInvalid, "invalid_value",
        fmt::format("Nothing reads a secret \"{}\"; there is {}.", name.substr(0, 60), kHubTokenSecret),
        "name");
  }
  if (secret.empty() || secret.size() > 4096)
    return Fail(ErrorKind::kInvalid, "invalid_value", "value must have 1 to 4096 bytes.", "value");
  const std::string box = keys_.Seal(secret);
  return database_.Write([&](store::Session& session) -> Status {
    TP_TRY(
        session.Execute("INSERT INTO secrets (name, box, created_ms) VALUES ($1, $2, $3) ON CONFLICT (name) "
                        "DO UPDATE SET box = "
                        "excluded.box, created_ms = excluded.created_ms",
                        {name, store::Blob{box}, wall_clock_.unix_ms()}));
    return audit_.Append(session, caller.actor, "secret.set", name, nullptr, nullptr);
  });
}

Status Accounts::RemoveSecret(const Caller& caller, const std::string& name) {
  return database_.Write([&](store::Session& session) -> Status {
    TP_ASSIGN(const int64_t removed, session.Execute("DELETE FROM secrets WHERE name = $1", {name}));
    if (removed == 0) return NotThere("secret", name);
    return audit_.Append(session, caller.actor, "secret.removed", name, nullptr, nullptr);
  });
}

Result<std::vector<Accounts::SecretName>> Accounts::ListSecrets() const {
  TP_ASSIGN(const store::Rows rows, database_.Get<store::Rows>([](store::Session& session) {
    return session.Query("SELECT name, created_ms FROM secrets ORDER BY name LIMIT 1000");
  }));
  std::vector<SecretName> out;
  for (const store::Row& row : rows) out.push_back({row.Text(0), row.Integer(1)});
  return out;
}

Result<std::optional<std::string>> Accounts::GetSecret(const std::string& name) const {
  TP_ASSIGN(const store::Rows rows, database_.Get<store::Rows>([&](store::Session& session) {
    return session.Query("SELECT box FROM secrets WHERE name = $1", {name});
  }));
  if (rows.empty()) return std::optional<std::string>();
  TP_ASSIGN(std::string secret, keys_.Unseal(rows[0].Bytes(0)));
  return std::optional<std::string>(std::move(secret));
}

Result<std::optional<Accounts::KeptReply>> Accounts::BeginIdempotent(std::string_view id,
                                                                     std::string_view request) {
  const store::Blob key{keys_.HashOf(fmt::format("idempotency:{}", id))};
  const store::Blob asked{keys_.HashOf(request)};
  TP_ASSIGN(const store::Rows rows, database_.Put<store::Rows>([&](store::Session& session)
                                                                   -> Result<store::Rows> {
    const int64_t now = wall_clock_.unix_ms();
    TP_TRY(
        session.Execute("DELETE FROM idempotent_replies WHERE id = $1 AND (created_ms < $2 OR (status = 0 "
                        "AND created_ms < $3))",
                        {key, now - kIdempotentDayMs, now - kIdempotentHoldMs}));
    TP_ASSIGN(store::Rows there,
              session.Query("SELECT request, status, box FROM idempotent_replies WHERE id = $1", {key}));
    if (there.empty()) {
      TP_TRY(session.Execute(
          "INSERT INTO idempotent_replies (id, request, status, box, created_ms) VALUES ($1, $2, 0, $3, $4)",
          {key, asked, store::Blob{}, now}));
    }
    return there;
  }));
  if (rows.empty()) return std::optional<KeptReply>();
  if (rows[0].Bytes(0) != asked.bytes) {
    return Fail(ErrorKind::kConflict, "idempotency_key_reused",
                "Another request was sent with this Idempotency-Key; take a new one for each request.",
                "Idempotency-Key");
  }
  if (rows[0].Integer(1) == 0) {
    return Fail(Error{ErrorKind::kConflict, "idempotency_in_progress",
                      "The first request with this Idempotency-Key is still running.", "Idempotency-Key", 1});
  }
  TP_ASSIGN(std::string body, keys_.Unseal(rows[0].Bytes(2)));
  return std::optional<KeptReply>(KeptReply{static_cast<int>(rows[0].Integer(1)), std::move(body)});
}

void Accounts::EndIdempotent(std::string_view id, const std::optional<KeptReply>& reply) {
  const store::Blob key{keys_.HashOf(fmt::format("idempotency:{}", id))};
  const store::Blob box{reply ? keys_.Seal(reply->body) : std::string()};
  database_.WriteLater(
      [key, box, status = reply ? reply->status : 0](store::Session& session) -> Status {
        if (status == 0)
          return session.Execute("DELETE FROM idempotent_replies WHERE id = $1", {key}).map([](int64_t) {});
        return session
            .Execute("UPDATE idempotent_replies SET status = $1, box = $2 WHERE id = $3", {status, box, key})
            .map([](int64_t) {});
      },
      [](const Status&) {});
}

}  // namespace tidepool::platform

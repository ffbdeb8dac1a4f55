#include "platform/accounts/schema.h"

namespace tidepool::platform {
namespace {

// A released migration never changes: append.
constexpr store::Migration kAccountsMigrations[] = {
    {1, "organisations, workspaces, members, keys", R"sql(
CREATE TABLE accounts_state (name TEXT PRIMARY KEY, number BIGINT NOT NULL, value TEXT NOT NULL);
INSERT INTO accounts_state (name, number, value) VALUES ('version', 0, '');
CREATE TABLE organisations (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, suspended BIGINT NOT NULL, weight DOUBLE PRECISION NOT NULL,
  created_ms BIGINT NOT NULL);
CREATE TABLE workspaces (
  id TEXT PRIMARY KEY, organisation_id TEXT NOT NULL REFERENCES organisations (id), name TEXT NOT NULL,
  weight DOUBLE PRECISION NOT NULL, created_ms BIGINT NOT NULL, archived_ms BIGINT,
  UNIQUE (organisation_id, name));
CREATE TABLE users (
  id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, password TEXT NOT NULL,
  is_operator BIGINT NOT NULL, created_ms BIGINT NOT NULL);
CREATE TABLE members (
  id TEXT PRIMARY KEY, organisation_id TEXT NOT NULL REFERENCES organisations (id),
  workspace_id TEXT REFERENCES workspaces (id), user_id TEXT NOT NULL REFERENCES users (id), role TEXT NOT NULL,
  created_ms BIGINT NOT NULL);
CREATE UNIQUE INDEX members_of_organisation ON members (organisation_id, user_id) WHERE workspace_id IS NULL;
CREATE UNIQUE INDEX members_of_workspace ON members (workspace_id, user_id) WHERE workspace_id IS NOT NULL;
CREATE TABLE api_keys (
  id TEXT PRIMARY KEY, prefix TEXT NOT NULL, hash BYTEA NOT NULL UNIQUE, name TEXT NOT NULL,
  organisation_id TEXT NOT NULL REFERENCES organisations (id),
  workspace_id TEXT NOT NULL REFERENCES workspaces (id), user_id TEXT REFERENCES users (id), role TEXT NOT NULL,
  models TEXT NOT NULL, endpoints TEXT NOT NULL, networks TEXT NOT NULL, weight DOUBLE PRECISION NOT NULL,
  created_ms BIGINT NOT NULL, created_by TEXT NOT NULL, expires_ms BIGINT, revoked_ms BIGINT, last_used_ms BIGINT,
  replaced_by TEXT);
CREATE INDEX api_keys_of_workspace ON api_keys (workspace_id, created_ms, id);
)sql"},
    {2, "sessions and links", R"sql(
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, hash BYTEA NOT NULL UNIQUE, user_id TEXT NOT NULL REFERENCES users (id),
  address TEXT NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL);
CREATE INDEX sessions_of_user ON sessions (user_id);
CREATE TABLE links (
  id TEXT PRIMARY KEY, hash BYTEA NOT NULL UNIQUE, kind TEXT NOT NULL, organisation_id TEXT NOT NULL,
  workspace_id TEXT, user_id TEXT, email TEXT NOT NULL, role TEXT NOT NULL, created_ms BIGINT NOT NULL,
  created_by TEXT NOT NULL, expires_ms BIGINT NOT NULL, used_ms BIGINT);
CREATE INDEX links_of_organisation ON links (organisation_id, kind, created_ms, id);
)sql"},
    {3, "audit", R"sql(
CREATE TABLE audit (
  number BIGINT PRIMARY KEY, time_ms BIGINT NOT NULL, organisation TEXT NOT NULL, workspace TEXT NOT NULL,
  member TEXT NOT NULL, key_id TEXT NOT NULL, address TEXT NOT NULL, request_id TEXT NOT NULL, action TEXT NOT NULL,
  object TEXT NOT NULL, before_value TEXT NOT NULL, after_value TEXT NOT NULL, mac BYTEA NOT NULL);
CREATE INDEX audit_of_organisation ON audit (organisation, number);
)sql"},
    {4, "secrets and idempotent replies", R"sql(
CREATE TABLE secrets (name TEXT PRIMARY KEY, box BYTEA NOT NULL, created_ms BIGINT NOT NULL);
CREATE TABLE idempotent_replies (
  id BYTEA PRIMARY KEY, request BYTEA NOT NULL, status BIGINT NOT NULL, box BYTEA NOT NULL,
  created_ms BIGINT NOT NULL);
CREATE INDEX idempotent_replies_by_age ON idempotent_replies (created_ms);
)sql"},
    {5, "workspaces that share conversations", R"sql(
ALTER TABLE workspaces ADD COLUMN sharing BIGINT NOT NULL DEFAULT 0;
)sql"},
    {6, "what workspaces store of requests", R"sql(
ALTER TABLE workspaces ADD COLUMN store_bodies BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workspaces ADD COLUMN retention_days BIGINT NOT NULL DEFAULT 30;
ALTER TABLE workspaces ADD COLUMN redact TEXT NOT NULL DEFAULT '{}';
ALTER TABLE workspaces ADD COLUMN stored_responses BIGINT NOT NULL DEFAULT 0;
)sql"},
};

}  // namespace

store::MigrationList AccountsMigrations() { return {"accounts", kAccountsMigrations}; }

}  // namespace tidepool::platform

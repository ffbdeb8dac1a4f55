#include "platform/request_bodies/request_bodies.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "platform/request_bodies/redaction.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDayMs = 86'400'000;
constexpr size_t kMostAtOnce = 64;     // of one transaction
constexpr int64_t kMostDeleted = 200;  // of one transaction
constexpr size_t kMostRedactors = 64;  // compiled patterns of workspaces
constexpr std::string_view kCutMark = "…[cut]";

constexpr store::Migration kMigrations[] = {
    {1, "request bodies", R"sql(
CREATE TABLE request_bodies (
  usage_id TEXT PRIMARY KEY, workspace TEXT NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL,
  bytes BIGINT NOT NULL, box BYTEA NOT NULL);
CREATE INDEX request_bodies_of_workspace ON request_bodies (workspace, created_ms, bytes);
CREATE INDEX request_bodies_by_expiry ON request_bodies (expires_ms);
)sql"},
};

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

tl::unexpected<Error> NoBody(const std::string& usage_id) {
  return Fail(
      ErrorKind::kNotFound, "no_stored_body",
      fmt::format(
          "Nothing is stored of what the request \"{}\" said: its workspace did not keep bodies then, or "
          "it has expired.",
          usage_id.substr(0, 64)),
      "id");
}

}  // namespace

store::MigrationList RequestBodies::Migrations() { return {"request_bodies", kMigrations}; }

struct RequestBodies::Sealed {
  std::string usage_id, workspace, box;
};

RequestBodies::RequestBodies(store::Database& database, Accounts& accounts, const KeyFile& keys,
                             const WallClock& wall_clock, MetricsRegistry& metrics,
                             const RequestBodiesOptions& options)
    : database_(database),
      accounts_(accounts),
      keys_(keys),
      wall_clock_(wall_clock),
      options_(options),
      memory_(std::make_shared<BodyMemory>(static_cast<int64_t>(options.max_memory_bytes))) {
  const auto dropped = [&](const char* why) {
    return metrics.counter("tidepool_bodies_dropped_total",
                           "Request bodies that were to be stored and are not", {{"reason", why}});
  };
  stored_ = metrics.counter("tidepool_bodies_stored_total", "Request bodies stored");
  dropped_memory_ = dropped("memory");
  dropped_rule_ = dropped("rule");
  dropped_store_ = dropped("store");
  deleted_ = metrics.counter(
      "tidepool_bodies_deleted_total",
      "Stored request bodies that expired, were deleted, or were beyond what a workspace may keep");
  redactions_ = metrics.counter("tidepool_bodies_redactions_total",
                                "Places taken out of bodies before they were stored");
  cut_ = metrics.counter("tidepool_bodies_cut_total", "Stored request bodies that are not whole");
  memory_gauge_ =
      metrics.gauge("tidepool_bodies_memory_bytes", "Request bodies that are recorded or wait for the store");
  accounts_.OnWorkspaceChange([this](store::Session& session, const Workspace& before, Workspace& after) {
    return CheckChange(session, before, after);
  });
  thread_ = std::thread([this] { Run(); });
}

RequestBodies::~RequestBodies() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

// On the store's writer thread, in the transaction of the change.
Status RequestBodies::CheckChange(store::Session& session, const Workspace& before, Workspace& after) {
  if (after.bodies != before.bodies) TP_TRY(CheckPatterns(after.bodies.patterns));
  const bool longer = after.bodies.retention_days != before.bodies.retention_days;
  if ((longer || (after.bodies.store && !before.bodies.store)) &&
      after.bodies.retention_days > options_.max_days) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("retention_days is {}; this server keeps bodies for {} days at most (setting "
                            "bodies.max_days).",
                            after.bodies.retention_days, options_.max_days),
                "retention_days");
  }
  const int64_t now = wall_clock_.unix_ms();
  if (!after.bodies.store || after.archived_ms) {
    // Out of sight now; Sweep takes the rows away in steps, so that no other write waits for all of them.
    TP_ASSIGN(after.bodies_deleted,
              session.Execute("UPDATE request_bodies SET expires_ms = 0 WHERE workspace = $1 AND "
                              "expires_ms > $2",
                              {after.id, now}));
  } else if (after.bodies.retention_days < before.bodies.retention_days) {
    const int64_t keep_ms = after.bodies.retention_days * kDayMs;
    TP_ASSIGN(after.bodies_deleted,
              session.Execute("UPDATE request_bodies SET expires_ms = 0 WHERE workspace = $1 AND "
                              "expires_ms > $2 AND created_ms <= $3",
                              {after.id, now, now - keep_ms}));
    TP_TRY(session.Execute(
        "UPDATE request_bodies SET expires_ms = created_ms + $2 WHERE workspace = $1 AND expires_ms "
        "> created_ms + $2",
        {after.id, keep_ms}));
  }
  if (after.bodies_deleted > 0) {
    session.AfterCommit([this] {
      {
        const std::lock_guard lock(mutex_);
        sweep_ = true;
      }
      wake_.notify_all();
    });
  }
  return {};
}

std::shared_ptr<BodyRecording> RequestBodies::Begin(const Principal& who, const std::string& request) {
  if (!accounts_.BodyRuleOf(who.workspace).store) return nullptr;
  if (!memory_->Charge(static_cast<int64_t>(request.size()))) {
    dropped_memory_.Increment();
    return nullptr;
  }
  return std::make_shared<BodyRecording>(*this, memory_, who.workspace, request,
                                         options_.max_answer_bytes + kLookBeyondBytes);
}

void RequestBodies::Take(std::shared_ptr<BodyRecording> recording) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    waiting_.push_back(std::move(recording));
    ++taken_;
  }
  wake_.notify_all();
}

void RequestBodies::Run() {
  std::vector<std::shared_ptr<BodyRecording>> batch;
  for (;;) {
    bool sweep = false, stopping = false;
    {
      std::unique_lock lock(mutex_);
      const bool woken = wake_.wait_for(lock, std::chrono::milliseconds(options_.sweep_every_ms),
                                        [&] { return stopping_ || sweep_ || !waiting_.empty(); });
      sweep = !woken || sweep_;
      sweep_ = false;
      const size_t count = std::min(waiting_.size(), kMostAtOnce);
      batch.assign(std::make_move_iterator(waiting_.begin()),
                   std::make_move_iterator(waiting_.begin() + static_cast<std::ptrdiff_t>(count)));
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(count));
      stopping = stopping_ && batch.empty();
    }
    if (stopping) return;
    const size_t count = batch.size();
    if (count > 0) Write(batch);
    batch.clear();
    if (count > 0) {
      {
        const std::lock_guard lock(mutex_);
        finished_ += count;
      }
      idle_.notify_all();
    }
    memory_gauge_.Set(static_cast<double>(memory_->used()));
    if (bytes_since_sweep_ * 16 > options_.max_workspace_bytes) sweep = true;
    if (!sweep) continue;
    bytes_since_sweep_ = 0;
    if (const auto swept = Sweep(); !swept)
      LogWarn("expired request bodies are not deleted yet", {{"reason", swept.error().message}});
  }
}

Result<Redactor*> RequestBodies::RedactorOf(const std::string& workspace, const BodyRule& rule) {
  const auto found = redactors_.find(workspace);
  if (found != redactors_.end() && found->second->rule() == rule) return found->second.get();
  TP_ASSIGN(auto made, Redactor::Make(rule));
  if (redactors_.size() >= kMostRedactors) redactors_.clear();
  auto& kept = redactors_[workspace];
  kept = std::move(made);
  return kept.get();
}

Result<RequestBodies::Sealed> RequestBodies::Seal(const BodyRecording& recording, const BodyRule& rule) {
  TP_ASSIGN(Redactor * redactor, RedactorOf(recording.workspace, rule));
  redactor->Begin();
  Json out;
  // Inside the box, so that a row cannot pass for another's.
  out["usage_id"] = recording.usage_id;
  out["workspace"] = recording.workspace;
  Json request = Json::parse(recording.request, nullptr, false);
  if (request.is_discarded()) request = recording.request;  // (handlers have read it: it is JSON)
  bool cut = redactor->RedactJson(request, options_.max_request_bytes);
  std::string text = Dump(request);
  if (text.size() > options_.max_request_bytes) {
    size_t keep = options_.max_request_bytes;
    while (keep > 0 && (static_cast<unsigned char>(text[keep]) & 0xC0) == 0x80) --keep;
    text.resize(keep);
    cut = true;
  }
  if (cut) text.append(kCutMark);
  out["request"] = std::move(text);
  out["request_bytes"] = recording.request.size();
  out["request_cut"] = cut;

  size_t left = options_.max_answer_bytes;
  bool answer_cut = recording.answer_cut;
  const auto words = [&](const std::string& whole) {
    // The end of what was recorded may be the middle of a name or a number that would not be known for one.
    const size_t sure = whole.size() - (recording.answer_cut ? std::min(whole.size(), kLookBeyondBytes) : 0);
    Redactor::Text kept = redactor->Redact(whole, std::min(sure, left), recording.answer_cut);
    left -= std::min(left, whole.size());
    if (kept.cut) kept.kept.append(kCutMark);
    answer_cut = answer_cut || kept.cut;
    return std::move(kept.kept);
  };
  const auto arguments = [&](const std::string& whole) {
    Json json = recording.answer_cut || whole.size() > left ? Json() : Json::parse(whole, nullptr, false);
    if (!json.is_structured()) return words(whole);
    answer_cut = redactor->RedactJson(json, left) || answer_cut;
    left -= std::min(left, whole.size());
    return Dump(json);
  };
  Json answer;
  answer["choices"] = Json::array();
  for (const BodyRecording::Choice& choice : recording.choices) {
    Json item;
    item["content"] = words(choice.content);
    item["reasoning"] = words(choice.reasoning);
    item["tool_calls"] = Json::array();
    for (const BodyRecording::Call& call : choice.calls) {
      item["tool_calls"].push_back(
          {{"id", call.id}, {"name", words(call.name)}, {"arguments", arguments(call.arguments)}});
    }
    answer["choices"].push_back(std::move(item));
  }
  answer["embeddings"] = recording.vectors == 0
                             ? Json(nullptr)
                             : Json{{"count", recording.vectors}, {"dimensions", recording.dimensions}};
  answer["scores"] = recording.scores.empty() ? Json(nullptr) : Json(recording.scores);
  out["answer"] = std::move(answer);
  out["answer_cut"] = answer_cut;
  out["redactions"] = redactor->found();
  redactions_.Increment(static_cast<double>(redactor->found()));
  if (cut || answer_cut) cut_.Increment();
  return Sealed{recording.usage_id, recording.workspace, keys_.Seal(Dump(out))};
}

void RequestBodies::Write(std::vector<std::shared_ptr<BodyRecording>>& batch) {
  std::vector<Sealed> boxes;
  for (auto& recording : batch) {
    const BodyRule rule = accounts_.BodyRuleOf(recording->workspace);
    if (!rule.store) {
      dropped_rule_.Increment();
    } else if (auto sealed = Seal(*recording, rule)) {
      boxes.push_back(std::move(*sealed));
    } else {
      LogWarn("a request body is not stored",
              {{"usage_id", recording->usage_id}, {"reason", sealed.error().message}});
      dropped_rule_.Increment();
    }
    recording.reset();
  }
  if (boxes.empty()) return;
  const int64_t now = wall_clock_.unix_ms();
  int64_t stored = 0;
  const Status written = database_.Write([&](store::Session& session) -> Status {
    stored = 0;
    for (const Sealed& one : boxes) {
      // As it is now: no row comes after the transaction that turned it off.
      TP_ASSIGN(const BodyRule rule, Accounts::ReadBodyRule(session, one.workspace));
      if (!rule.store) continue;
      const int64_t days = std::min<int64_t>(rule.retention_days, options_.max_days);
      TP_ASSIGN(
          const int64_t added,
          session.Execute(
              "INSERT INTO request_bodies (usage_id, workspace, created_ms, expires_ms, bytes, box) "
              "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (usage_id) DO NOTHING",
              {one.usage_id, one.workspace, now, now + days * kDayMs, one.box.size(), store::Blob{one.box}}));
      stored += added;
    }
    return {};
  });
  if (!written) {
    LogWarn("request bodies are not stored", {{"bodies", boxes.size()}, {"reason", written.error().message}});
    dropped_store_.Increment(static_cast<double>(boxes.size()));
    return;
  }
  stored_.Increment(static_cast<double>(stored));
  dropped_rule_.Increment(static_cast<double>(std::ssize(boxes) - stored));
  for (const Sealed& one : boxes) bytes_since_sweep_ += one.box.size();
}

Result<StoredBody> RequestBodies::Find(const std::string& workspace, const std::string& usage_id) const {
  const int64_t now = wall_clock_.unix_ms();
  TP_ASSIGN(const store::Rows rows, database_.Get<store::Rows>([&](store::Session& session) {
    return session.Query(
        "SELECT created_ms, expires_ms, box FROM request_bodies WHERE usage_id = $1 AND workspace = $2 "
        "AND expires_ms > $3 AND created_ms > $4",
        {usage_id, workspace, now, now - options_.max_days * kDayMs});
  }));
  if (rows.empty()) return NoBody(usage_id);
  TP_ASSIGN(const std::string text, keys_.Unseal(rows[0].Bytes(2)));
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("usage_id", "") != usage_id || json.value("workspace", "") != workspace)
    return Fail(ErrorKind::kCorrupt, "store_corrupt", "The stored body is not the one of this request.");
  StoredBody out;
  out.usage_id = usage_id;
  out.created_ms = rows[0].Integer(0);
  out.expires_ms = rows[0].Integer(1);
  out.request = json.value("request", "");
  out.request_bytes = json.value("request_bytes", int64_t{0});
  out.request_cut = json.value("request_cut", false);
  out.answer = json.value("answer", Json::object());
  out.answer_cut = json.value("answer_cut", false);
  out.redactions = json.value("redactions", int64_t{0});
  return out;
}

Status RequestBodies::Delete(const std::string& workspace, const std::string& usage_id,
                             const std::function<Status(store::Session&)>& audit) {
  TP_TRY(database_.Write([&](store::Session& session) -> Status {
    TP_ASSIGN(const int64_t deleted,
              session.Execute(
                  "DELETE FROM request_bodies WHERE usage_id = $1 AND workspace = $2 AND expires_ms > $3",
                  {usage_id, workspace, wall_clock_.unix_ms()}));
    if (deleted == 0) return NoBody(usage_id);
    return audit(session);
  }));
  deleted_.Increment();
  return {};
}

Result<std::set<std::string>> RequestBodies::Which(const std::vector<std::string>& usage_ids) const {
  std::set<std::string> out;
  if (usage_ids.empty()) return out;
  const int64_t now = wall_clock_.unix_ms();
  std::vector<store::Value> values = {now, now - options_.max_days * kDayMs};
  std::string places;
  for (const std::string& id : usage_ids) {
    values.emplace_back(id);
    places += fmt::format("{}${}", places.empty() ? "" : ", ", values.size());
  }
  TP_ASSIGN(const store::Rows rows, database_.Get<store::Rows>([&](store::Session& session) {
    return session.Query(
        fmt::format("SELECT usage_id FROM request_bodies WHERE expires_ms > $1 AND created_ms > $2 AND "
                    "usage_id IN ({})",
                    places),
        values);
  }));
  for (const store::Row& row : rows) out.insert(row.Text(0));
  return out;
}

Result<int64_t> RequestBodies::Sweep() {
  int64_t swept = 0;
  const auto in_steps = [&](const std::function<Result<int64_t>(store::Session&)>& some) -> Status {
    for (;;) {
      TP_ASSIGN(const int64_t gone, database_.Put<int64_t>(some));
      swept += gone;
      deleted_.Increment(static_cast<double>(gone));
      if (gone < kMostDeleted) return {};
    }
  };
  const int64_t now = wall_clock_.unix_ms();
  for (const std::string_view which : {"expires_ms <= $1", "created_ms <= $1"}) {
    // The second: the operator's bound, for rows from when it was higher.
    const int64_t until = which.starts_with("expires") ? now : now - options_.max_days * kDayMs;
    TP_TRY(in_steps([&](store::Session& session) {
      return session.Execute(fmt::format("DELETE FROM request_bodies WHERE usage_id IN (SELECT usage_id FROM "
                                         "request_bodies WHERE {} LIMIT $2)",
                                         which),
                             {until, kMostDeleted});
    }));
  }
  TP_ASSIGN(const store::Rows sums, database_.Get<store::Rows>([](store::Session& session) {
    return session.Query("SELECT workspace, SUM(bytes) FROM request_bodies GROUP BY workspace");
  }));
  for (const store::Row& sum : sums) {
    int64_t over = sum.Integer(1) - static_cast<int64_t>(options_.max_workspace_bytes);
    while (over > 0) {
      const auto gone = database_.Put<int64_t>([&](store::Session& session) -> Result<int64_t> {
        TP_ASSIGN(const store::Rows oldest,
                  session.Query(
                      "SELECT usage_id, bytes FROM request_bodies WHERE workspace = $1 ORDER BY created_ms, "
                      "bytes LIMIT $2",
                      {sum.Text(0), kMostDeleted}));
        int64_t count = 0;
        for (const store::Row& row : oldest) {
          if (over <= 0) break;
          TP_TRY(session.Execute("DELETE FROM request_bodies WHERE usage_id = $1", {row.Text(0)}));
          over -= row.Integer(1);
          ++count;
        }
        return count;
      });
      if (!gone) return Fail(gone.error());
      if (*gone == 0) break;
      swept += *gone;
      deleted_.Increment(static_cast<double>(*gone));
    }
  }
  return swept;
}

bool RequestBodies::Flush(double timeout_s) {
  std::unique_lock lock(mutex_);
  const uint64_t until = taken_;
  return idle_.wait_for(lock, std::chrono::duration<double>(timeout_s), [&] { return finished_ >= until; });
}

}  // namespace tidepool::platform

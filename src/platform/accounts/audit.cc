#include "platform/accounts/audit.h"

#include <fmt/format.h>

#include "base/log.h"
#include "platform/accounts/private_file.h"

namespace tidepool::platform {
namespace {

constexpr std::string_view kAuditColumns =
    "number, time_ms, organisation, workspace, member, key_id, address, request_id, action, object, "
    "before_value, after_value, mac";
constexpr size_t kMaxAuditText = 65536;  // of before and after, each

AuditRow AuditRowOf(const store::Row& row) {
  AuditRow out;
  out.number = row.Integer(0);
  out.time_ms = row.Integer(1);
  out.actor = {row.Text(2), row.Text(3), row.Text(4), row.Text(5), row.Text(6), row.Text(7)};
  out.action = row.Text(8);
  out.object = row.Text(9);
  out.before = row.Text(10);
  out.after = row.Text(11);
  out.mac = row.Bytes(12);
  return out;
}

// Invalid UTF-8 becomes U+FFFD and NUL a space: what a client sent must not keep a row from being written.
std::string AuditText(std::string_view text, size_t limit) {
  std::string out = nlohmann::ordered_json(std::string(text.substr(0, limit)))
                        .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  out = nlohmann::ordered_json::parse(out).get<std::string>();
  for (char& c : out) {
    if (c == '\0') c = ' ';
  }
  return out;
}

std::string AuditJson(const nlohmann::ordered_json& value) {
  std::string out = value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  if (out.size() > kMaxAuditText)
    out = nlohmann::ordered_json{{"cut", out.substr(0, 1024)}}.dump(-1, ' ', true);
  return out;
}

}  // namespace

AuditActor ActorOf(const Principal& principal, std::string address, std::string request_id) {
  return {principal.organisation, principal.workspace, principal.member,
          principal.key,          std::move(address),  std::move(request_id)};
}

AuditActor MachineActor() {
  AuditActor actor;
  actor.key = "machine";
  return actor;
}

Audit::Audit(store::Database& database, const KeyFile& keys, const WallClock& clock,
             std::filesystem::path home)
    : database_(database), keys_(keys), clock_(clock), head_path_(std::move(home) / "audit.head") {
  CheckHead();
}

Result<std::optional<Audit::Head>> Audit::ReadHead() const {
  TP_ASSIGN(const std::optional<std::string> text, ReadPrivateFile(head_path_));
  if (!text) return std::optional<Head>();
  Head head;
  const size_t space = text->find(' ');
  head.number = std::atoll(text->c_str());
  if (space != std::string::npos) head.mac = BytesOfHex(text->substr(space + 1, 64));
  return std::optional<Head>(std::move(head));
}

void Audit::CheckHead() {
  const auto head = ReadHead();
  const auto last = database_.Get<int64_t>([](store::Session& session) -> Result<int64_t> {
    TP_ASSIGN(const store::Rows rows, session.Query("SELECT MAX(number) FROM audit"));
    return rows.at(0).Integer(0);
  });
  if (!last) return;  // the store's trouble shows with the next append
  // Before the first row: a crash between it and its head must not look like a head that was removed.
  if (head && !*head && *last == 0) {
    if (const Status written = WritePrivateFile(head_path_, "0 \n"); !written)
      LogError("the head of the audit log cannot be kept outside the store",
               {{"reason", written.error().message}});
    return;
  }
  const int64_t named = head && *head ? (*head)->number : 0;
  const auto row = database_.Get<store::Rows>([&](store::Session& session) {
    return session.Query("SELECT mac FROM audit WHERE number = $1", {named});
  });
  bool fits = head && *head && named == 0;
  if (named > 0) fits = row && row->size() == 1 && (*row)[0].Bytes(0) == (*head)->mac;
  if (fits) {
    head_number_ = named;
    return;
  }
  head_kept_ = true;
  LogError(
      "the audit log does not fit its head outside the store: rows were cut off or replaced; see `tidepool "
      "audit "
      "verify`",
      {{"head", head_path_.string()}});
}

std::string Audit::MacOf(const AuditRow& row, std::string_view previous) const {
  std::string text;
  const auto add = [&](std::string_view part) {
    text += fmt::format("{}:", part.size());
    text += part;
  };
  add(previous);
  add(fmt::to_string(row.number));
  add(fmt::to_string(row.time_ms));
  for (const std::string* part :
       {&row.actor.organisation, &row.actor.workspace, &row.actor.member, &row.actor.key, &row.actor.address,
        &row.actor.request_id, &row.action, &row.object, &row.before, &row.after}) {
    add(*part);
  }
  return keys_.AuditMac(text);
}

Status Audit::Append(store::Session& session, const AuditActor& actor, std::string_view action,
                     std::string_view object, const nlohmann::ordered_json& before,
                     const nlohmann::ordered_json& after) {
  TP_ASSIGN(const store::Rows last,
            session.Query("SELECT number, mac FROM audit ORDER BY number DESC LIMIT 1"));
  AuditRow row;
  row.number = last.empty() ? 1 : last[0].Integer(0) + 1;
  row.time_ms = clock_.unix_ms();
  row.actor = {AuditText(actor.organisation, 200), AuditText(actor.workspace, 200),
               AuditText(actor.member, 200),       AuditText(actor.key, 200),
               AuditText(actor.address, 200),      AuditText(actor.request_id, 200)};
  row.action = AuditText(action, 200);
  row.object = AuditText(object, 1000);
  row.before = AuditJson(before);
  row.after = AuditJson(after);
  row.mac = MacOf(row, last.empty() ? std::string() : last[0].Bytes(1));
  TP_TRY(session.Execute(
      fmt::format("INSERT INTO audit ({}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                  kAuditColumns),
      {row.number, row.time_ms, row.actor.organisation, row.actor.workspace, row.actor.member, row.actor.key,
       row.actor.address, row.actor.request_id, row.action, row.object, row.before, row.after,
       store::Blob{row.mac}}));
  session.AfterCommit([this, number = row.number, mac = row.mac] { WriteHead(number, mac); });
  return {};
}

void Audit::WriteHead(int64_t number, const std::string& mac) {
  std::lock_guard lock(head_mutex_);
  if (head_kept_ || number <= head_number_) return;
  const Status written = WritePrivateFile(head_path_, fmt::format("{} {}\n", number, HexOf(mac)));
  if (!written) {
    LogError("the head of the audit log cannot be kept outside the store",
             {{"reason", written.error().message}});
    return;
  }
  head_number_ = number;
}

Status Audit::Record(const AuditActor& actor, std::string_view action, std::string_view object,
                     const nlohmann::ordered_json& before, const nlohmann::ordered_json& after) {
  return database_.Write(
      [&](store::Session& session) { return Append(session, actor, action, object, before, after); });
}

void Audit::RecordLater(const AuditActor& actor, std::string_view action, std::string_view object,
                        const nlohmann::ordered_json& before, const nlohmann::ordered_json& after) {
  database_.WriteLater(
      [this, actor, action = std::string(action), object = std::string(object), before,
       after](store::Session& session) { return Append(session, actor, action, object, before, after); },
      [action = std::string(action)](const Status& done) {
        if (!done) LogError("not in the audit log", {{"action", action}, {"reason", done.error().message}});
      });
}

Result<std::vector<AuditRow>> Audit::List(std::string_view organisation, int64_t before_number,
                                          int64_t limit) const {
  return database_.Get<std::vector<AuditRow>>([&](store::Session& session) -> Result<std::vector<AuditRow>> {
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(fmt::format("SELECT {} FROM audit WHERE ($1 = '' OR organisation = $1) AND ($2 = 0 OR "
                                  "number < $2) ORDER BY number DESC LIMIT $3",
                                  kAuditColumns),
                      {organisation, before_number, limit}));
    std::vector<AuditRow> out;
    for (const store::Row& row : rows) out.push_back(AuditRowOf(row));
    return out;
  });
}

Result<AuditVerdict> Audit::Verify() const {
  TP_ASSIGN(const std::optional<Head> head, ReadHead());
  const int64_t head_number = head ? head->number : 0;
  const std::string head_mac = head ? head->mac : "";
  AuditVerdict verdict;
  const auto bad = [&](int64_t number, std::string problem) {
    verdict.good = false;
    verdict.number = number;
    verdict.problem = std::move(problem);
    return false;
  };
  std::string previous;
  const Status read = database_.Read([&](store::Session& session) {
    return session.Each(
        fmt::format("SELECT {} FROM audit ORDER BY number", kAuditColumns), {},
        [&](const store::Row& stored) {
          const AuditRow row = AuditRowOf(stored);
          if (row.number != verdict.rows + 1)
            return bad(verdict.rows + 1, fmt::format("row {} is missing", verdict.rows + 1));
          if (MacOf(row, previous) != row.mac) {
            return bad(row.number,
                       fmt::format("row {} was changed, moved, or written without the key file", row.number));
          }
          if (row.number == head_number && row.mac != head_mac) {
            return bad(row.number, fmt::format("row {} is not the one that audit.head names", row.number));
          }
          previous = row.mac;
          ++verdict.rows;
          return true;
        });
  });
  TP_TRY(read);
  if (!verdict.good) return verdict;
  if (!head && verdict.rows > 0) {
    bad(0, fmt::format("{} is missing", head_path_.string()));
  } else if (head_number > verdict.rows) {
    bad(verdict.rows + 1,
        fmt::format("the rows after {} were cut off: there were {}", verdict.rows, head_number));
  } else {
    verdict.after_head = verdict.rows - head_number;
  }
  return verdict;
}

Status Audit::ResetHead() {
  TP_ASSIGN(const store::Rows last, database_.Get<store::Rows>([](store::Session& session) {
    return session.Query("SELECT number, mac FROM audit ORDER BY number DESC LIMIT 1");
  }));
  std::lock_guard lock(head_mutex_);
  head_number_ = 0;
  head_kept_ = false;
  if (last.empty()) return WritePrivateFile(head_path_, "0 \n");
  return WritePrivateFile(head_path_, fmt::format("{} {}\n", last[0].Integer(0), HexOf(last[0].Bytes(1))));
}

}  // namespace tidepool::platform

#include "platform/catalog/deployment_book.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/log.h"
#include "models/templates/chat_template.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using store::Session;

constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxDescriptionBytes = 2000;
constexpr size_t kMaxTemplateBytes = 256 << 10;
constexpr size_t kMaxSystemPromptBytes = 256 << 10;
constexpr size_t kMaxDeploymentStops = 16;  // as the engine takes
constexpr size_t kMaxDeploymentStopBytes = 1024;

constexpr store::Migration kDeploymentMigrations[] = {
    {1, "deployments", R"sql(
CREATE TABLE deployments (
  name TEXT PRIMARY KEY, base TEXT NOT NULL, spec TEXT NOT NULL, callers TEXT NOT NULL,
  created_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL);
)sql"},
};

Status OutOfRange(const char* field, const std::string& value, const std::string& allowed) {
  return Fail(ErrorKind::kInvalid, "invalid_value",
              fmt::format("{} is {}; it must be {}", field, value, allowed), field);
}

Status CheckNumber(const char* field, const std::optional<double>& value, double low, double high,
                   bool low_open = false) {
  if (!value) return {};
  if (std::isfinite(*value) && (low_open ? *value > low : *value >= low) && *value <= high) return {};
  return OutOfRange(field, fmt::format("{}", *value),
                    fmt::format("{} {} and at most {}", low_open ? "above" : "at least", low, high));
}

Status CheckWhole(const char* field, const std::optional<int64_t>& value, int64_t low) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (!value || (*value >= low && *value <= kMost)) return {};
  return OutOfRange(field, fmt::format("{}", *value), fmt::format("{} to {}", low, kMost));
}

Status CheckBytes(const char* field, const std::string& text, size_t most) {
  if (text.size() > most) {
    return Fail(ErrorKind::kInvalid, "too_long",
                fmt::format("{} is {} bytes long; at most {} are taken", field, text.size(), most), field);
  }
  if (text.find('\0') == std::string::npos) return {};
  return Fail(ErrorKind::kInvalid, "invalid_value", fmt::format("{} holds a NUL byte", field), field);
}

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

template <typename T>
void Take(const Json& json, const char* name, std::optional<T>& to) {
  const auto it = json.find(name);
  if (it == json.end()) return;
  if constexpr (std::is_same_v<T, bool>) {
    if (it->is_boolean()) to = it->template get<bool>();
  } else if (std::is_same_v<T, double> ? it->is_number() : it->is_number_integer()) {
    to = it->template get<T>();
  } else if (it->is_number() && std::fabs(it->template get<double>()) < 1e15) {
    to = static_cast<T>(it->template get<double>());
  }
}

std::string TakeText(const Json& json, const char* name) {
  const auto it = json.find(name);
  return it != json.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::string CallersText(const std::vector<DeploymentCaller>& callers) {
  Json out = Json::array();
  for (const DeploymentCaller& one : callers) {
    out.push_back({{"organisation", one.organisation},
                   {"workspace", one.workspace},
                   {"member", one.member},
                   {"key", one.key},
                   {"requests", one.requests},
                   {"last_ms", one.last_ms}});
  }
  return out.dump();
}

std::vector<DeploymentCaller> CallersOfText(const std::string& text) {
  std::vector<DeploymentCaller> out;
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_array()) return out;
  for (const Json& one : json) {
    if (!one.is_object()) continue;
    out.push_back({one.value("organisation", ""), one.value("workspace", ""), one.value("member", ""),
                   one.value("key", ""), one.value("requests", int64_t{0}),
                   one.value("last_ms", int64_t{0})});
  }
  return out;
}

DeploymentSpec SpecOfRow(const store::Row& row) {
  DeploymentSpec spec = DeploymentSpecOf(Json::parse(row.Text(2), nullptr, false));
  spec.name = row.Text(0);
  spec.base = row.Text(1);
  spec.created_ms = row.Integer(3);
  spec.updated_ms = row.Integer(4);
  return spec;
}

// A template of 256 KiB is told by its length: the log keeps what was decided, not texts.
Json AuditOf(const DeploymentSpec& spec) {
  Json out = DeploymentSpecJson(spec);
  for (const char* name : {"chat_template", "system_prompt"}) {
    if (const size_t bytes = out[name].get_ref<const std::string&>().size(); bytes > kMaxDescriptionBytes)
      out[name] = fmt::format("({} bytes)", bytes);
  }
  return out;
}

constexpr std::string_view kDeploymentColumns = "name, base, spec, created_ms, updated_ms";

Result<DeploymentSpec> ReadSpec(Session& session, const std::string& name) {
  TP_ASSIGN(
      const store::Rows rows,
      session.Query(fmt::format("SELECT {} FROM deployments WHERE name = $1", kDeploymentColumns), {name}));
  if (rows.empty()) {
    return Fail(ErrorKind::kNotFound, "deployment_not_found",
                fmt::format("There is no deployment \"{}\".", name.substr(0, kMaxNameBytes)), "name");
  }
  return SpecOfRow(rows.front());
}

}  // namespace

Status CheckDeploymentName(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool good = !name.empty() && name.size() <= kMaxNameBytes && plain(name.front()) &&
                    std::all_of(name.begin(), name.end(), [&](char c) {
                      return plain(c) || std::string_view("._-:/").find(c) != std::string_view::npos;
                    });
  if (good && name.find("//") == std::string_view::npos && name.back() != '/') return {};
  return Fail(ErrorKind::kInvalid, "invalid_name",
              fmt::format("name \"{}\" is none for a deployment: 1 to {} letters, digits and . _ - : / , "
                          "beginning with a letter or a digit",
                          name.substr(0, kMaxNameBytes), kMaxNameBytes),
              "name");
}

Status CheckDeploymentSpec(const DeploymentSpec& spec) {
  TP_TRY(CheckDeploymentName(spec.name));
  TP_TRY(CheckBytes("description", spec.description, kMaxDescriptionBytes));
  TP_TRY(CheckBytes("chat_template", spec.chat_template, kMaxTemplateBytes));
  TP_TRY(CheckBytes("system_prompt", spec.system_prompt, kMaxSystemPromptBytes));
  if (!spec.chat_template.empty()) {
    if (const auto parsed = templates::ChatTemplate::Parse(spec.chat_template); !parsed) {
      return Fail(ErrorKind::kInvalid, "bad_template",
                  fmt::format("chat_template cannot be read: {}", parsed.error().message), "chat_template");
    }
  }
  // The engine's own ranges: a default that it would refuse would fail every request.
  const DeploymentDefaults& d = spec.defaults;
  TP_TRY(CheckNumber("temperature", d.temperature, 0, 2));
  TP_TRY(CheckNumber("top_p", d.top_p, 0, 1, true));
  TP_TRY(CheckNumber("min_p", d.min_p, 0, 1));
  TP_TRY(CheckNumber("repetition_penalty", d.repetition_penalty, 0, 10, true));
  TP_TRY(CheckNumber("presence_penalty", d.presence_penalty, -2, 2));
  TP_TRY(CheckNumber("frequency_penalty", d.frequency_penalty, -2, 2));
  TP_TRY(CheckWhole("top_k", d.top_k, -1));
  TP_TRY(CheckWhole("max_tokens", d.max_tokens, 1));
  TP_TRY(CheckWhole("reasoning_budget", d.reasoning_budget, -1));
  if (d.stop.size() > kMaxDeploymentStops) {
    return OutOfRange("stop", fmt::format("{} texts", d.stop.size()),
                      fmt::format("at most {} texts", kMaxDeploymentStops));
  }
  for (const std::string& stop : d.stop) {
    if (stop.empty()) return OutOfRange("stop", "an empty text", "a list of texts");
    TP_TRY(CheckBytes("stop", stop, kMaxDeploymentStopBytes));
  }
  TP_TRY(CheckWhole("max_context_tokens", spec.max_context_tokens, 0));
  TP_TRY(CheckWhole("max_output_tokens", spec.max_output_tokens, 0));
  if (spec.idle_ttl_s && *spec.idle_ttl_s != -1)
    TP_TRY(CheckNumber("idle_ttl_s", spec.idle_ttl_s, 0, 31536000));
  TP_TRY(CheckNumber("min_resident_s", spec.min_resident_s, 0, 86400));
  TP_TRY(CheckNumber("ttft_s", spec.ttft_s, 0, 86400, true));
  TP_TRY(CheckNumber("tpot_s", spec.tpot_s, 0, 3600, true));
  return CheckNumber("weight", spec.weight, 0.001, 1000);
}

Json DeploymentSpecJson(const DeploymentSpec& spec) {
  const DeploymentDefaults& d = spec.defaults;
  return {{"name", spec.name},
          {"base", spec.base},
          {"description", spec.description},
          {"chat_template", spec.chat_template},
          {"system_prompt", spec.system_prompt},
          {"defaults",
           {{"temperature", OrNull(d.temperature)},
            {"top_p", OrNull(d.top_p)},
            {"top_k", OrNull(d.top_k)},
            {"min_p", OrNull(d.min_p)},
            {"repetition_penalty", OrNull(d.repetition_penalty)},
            {"presence_penalty", OrNull(d.presence_penalty)},
            {"frequency_penalty", OrNull(d.frequency_penalty)},
            {"max_tokens", OrNull(d.max_tokens)},
            {"reasoning_budget", OrNull(d.reasoning_budget)},
            {"stop", d.stop},
            {"thinking", OrNull(d.thinking)},
            {"priority", d.priority ? Json(compute::JobClassName(*d.priority)) : Json(nullptr)}}},
          {"max_context_tokens", spec.max_context_tokens},
          {"max_output_tokens", spec.max_output_tokens},
          {"pinned", spec.pinned},
          {"idle_ttl_s", OrNull(spec.idle_ttl_s)},
          {"min_resident_s", OrNull(spec.min_resident_s)},
          {"ttft_s", OrNull(spec.ttft_s)},
          {"tpot_s", OrNull(spec.tpot_s)},
          {"weight", OrNull(spec.weight)},
          {"created_by", spec.created_by}};
}

DeploymentSpec DeploymentSpecOf(const Json& json) {
  DeploymentSpec spec;
  if (!json.is_object()) return spec;
  spec.name = TakeText(json, "name");
  spec.base = TakeText(json, "base");
  spec.description = TakeText(json, "description");
  spec.chat_template = TakeText(json, "chat_template");
  spec.system_prompt = TakeText(json, "system_prompt");
  spec.created_by = TakeText(json, "created_by");
  if (const auto it = json.find("defaults"); it != json.end() && it->is_object()) {
    DeploymentDefaults& d = spec.defaults;
    Take(*it, "temperature", d.temperature);
    Take(*it, "top_p", d.top_p);
    Take(*it, "top_k", d.top_k);
    Take(*it, "min_p", d.min_p);
    Take(*it, "repetition_penalty", d.repetition_penalty);
    Take(*it, "presence_penalty", d.presence_penalty);
    Take(*it, "frequency_penalty", d.frequency_penalty);
    Take(*it, "max_tokens", d.max_tokens);
    Take(*it, "reasoning_budget", d.reasoning_budget);
    Take(*it, "thinking", d.thinking);
    d.priority = compute::FindJobClass(TakeText(*it, "priority"));
    if (const auto stop = it->find("stop"); stop != it->end() && stop->is_array()) {
      for (const Json& one : *stop) {
        if (one.is_string()) d.stop.push_back(one.get<std::string>());
      }
    }
  }
  const auto whole = [&](const char* name, int32_t& to) {
    std::optional<int64_t> value;
    Take(json, name, value);
    if (value)
      to = static_cast<int32_t>(std::clamp<int64_t>(*value, -1, std::numeric_limits<int32_t>::max()));
  };
  whole("max_context_tokens", spec.max_context_tokens);
  whole("max_output_tokens", spec.max_output_tokens);
  std::optional<bool> pinned;
  Take(json, "pinned", pinned);
  spec.pinned = pinned.value_or(false);
  Take(json, "idle_ttl_s", spec.idle_ttl_s);
  Take(json, "min_resident_s", spec.min_resident_s);
  Take(json, "ttft_s", spec.ttft_s);
  Take(json, "tpot_s", spec.tpot_s);
  Take(json, "weight", spec.weight);
  return spec;
}

store::MigrationList DeploymentBook::Migrations() { return {"catalog", kDeploymentMigrations}; }

DeploymentBook::DeploymentBook(store::Database& database, Audit* audit, const WallClock& wall_clock,
                               MetricsRegistry& metrics, int64_t max_deployments)
    : database_(database),
      audit_(audit),
      wall_clock_(wall_clock),
      max_deployments_(max_deployments),
      count_(metrics.gauge("tidepool_deployments", "Deployments there are")),
      specs_(std::make_shared<Specs>()) {}

DeploymentBook::~DeploymentBook() { FlushUses(/*wait=*/true); }

Result<std::unique_ptr<DeploymentBook>> DeploymentBook::Open(store::Database& database, Audit* audit,
                                                             const WallClock& wall_clock,
                                                             MetricsRegistry& metrics,
                                                             int64_t max_deployments) {
  auto book = std::unique_ptr<DeploymentBook>(
      new DeploymentBook(database, audit, wall_clock, metrics, max_deployments));
  TP_TRY(book->Read());
  return book;
}

Status DeploymentBook::Read() {
  auto specs = std::make_shared<Specs>();
  std::map<std::string, std::vector<DeploymentCaller>> callers;
  TP_TRY(database_.Read([&](Session& session) {
    specs->clear();
    callers.clear();
    return session.Each(fmt::format("SELECT {}, callers FROM deployments", kDeploymentColumns), {},
                        [&](const store::Row& row) {
                          specs->emplace(row.Text(0), std::make_shared<const DeploymentSpec>(SpecOfRow(row)));
                          callers[row.Text(0)] = CallersOfText(row.Text(5));
                          return true;
                        });
  }));
  const std::lock_guard lock(mutex_);
  count_.Set(static_cast<double>(specs->size()));
  std::erase_if(uses_, [&](const auto& entry) { return !specs->contains(entry.first); });
  for (auto& [name, list] : callers) {
    Uses& uses = uses_[name];
    if (!uses.dirty) uses.callers = std::move(list);
  }
  specs_ = std::move(specs);
  return {};
}

std::shared_ptr<const DeploymentSpec> DeploymentBook::Find(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto it = specs_->find(name);
  return it == specs_->end() ? nullptr : it->second;
}

std::vector<std::shared_ptr<const DeploymentSpec>> DeploymentBook::List() const {
  return List({}, std::numeric_limits<int64_t>::max()).deployments;
}

DeploymentPage DeploymentBook::List(std::string_view after, int64_t limit) const {
  std::shared_ptr<const Specs> specs;
  {
    const std::lock_guard lock(mutex_);
    specs = specs_;
  }
  DeploymentPage page;
  for (auto it = after.empty() ? specs->begin() : specs->upper_bound(after); it != specs->end(); ++it) {
    if (static_cast<int64_t>(page.deployments.size()) == limit) {
      page.next = page.deployments.back()->name;
      break;
    }
    page.deployments.push_back(it->second);
  }
  return page;
}

std::vector<std::string> DeploymentBook::NamesOf(std::string_view base) const {
  std::vector<std::string> out;
  for (const auto& spec : List()) {
    if (spec->base == base) out.push_back(spec->name);
  }
  return out;
}

Result<DeploymentSpec> DeploymentBook::Create(const AuditActor& actor, DeploymentSpec spec) {
  TP_TRY(CheckDeploymentSpec(spec));
  spec.created_ms = spec.updated_ms = wall_clock_.unix_ms();
  spec.created_by = actor.member.empty() ? actor.key : actor.member;
  const Status written = database_.Write([&](Session& session) -> Status {
    TP_ASSIGN(const store::Rows rows,
              session.Query("SELECT COUNT(*), COALESCE(SUM(CASE WHEN name = $1 THEN 1 ELSE 0 END), 0) FROM "
                            "deployments",
                            {spec.name}));
    if (rows.front().Integer(1) > 0) {
      return Fail(
          ErrorKind::kConflict, "exists",
          fmt::format("There is a deployment \"{}\" already; change it, or choose another name.", spec.name),
          "name");
    }
    if (rows.front().Integer(0) >= max_deployments_) {
      return Fail(ErrorKind::kTooLarge, "too_many_deployments",
                  fmt::format("There are {} deployments, the most that models.max_deployments allows; "
                              "delete some.",
                              rows.front().Integer(0)));
    }
    const Json json = DeploymentSpecJson(spec);
    TP_TRY(
        session.Execute("INSERT INTO deployments (name, base, spec, callers, created_ms, updated_ms) "
                        "VALUES ($1, $2, $3, '[]', $4, $5)",
                        {spec.name, spec.base, json.dump(), spec.created_ms, spec.updated_ms}));
    if (audit_ == nullptr) return {};
    return audit_->Append(session, actor, "deployment.created", spec.name, nullptr, AuditOf(spec));
  });
  TP_TRY(written);
  Changed();
  return spec;
}

Result<DeploymentSpec> DeploymentBook::Change(const AuditActor& actor, const std::string& name,
                                              const std::function<Status(DeploymentSpec&)>& change) {
  auto changed = database_.Put<DeploymentSpec>([&](Session& session) -> Result<DeploymentSpec> {
    TP_ASSIGN(const DeploymentSpec before, ReadSpec(session, name));
    DeploymentSpec spec = before;
    TP_TRY(change(spec));
    spec.name = before.name;
    spec.created_ms = before.created_ms;
    spec.created_by = before.created_by;
    spec.updated_ms = wall_clock_.unix_ms();
    TP_TRY(CheckDeploymentSpec(spec));
    const Json json = DeploymentSpecJson(spec);
    TP_TRY(session.Execute("UPDATE deployments SET base = $2, spec = $3, updated_ms = $4 WHERE name = $1",
                           {name, spec.base, json.dump(), spec.updated_ms}));
    if (audit_ != nullptr) {
      TP_TRY(audit_->Append(session, actor, "deployment.changed", name, AuditOf(before), AuditOf(spec)));
    }
    return spec;
  });
  if (changed) Changed();
  return changed;
}

Result<DeploymentSpec> DeploymentBook::Delete(const AuditActor& actor, const std::string& name) {
  auto deleted = database_.Put<DeploymentSpec>([&](Session& session) -> Result<DeploymentSpec> {
    TP_ASSIGN(DeploymentSpec spec, ReadSpec(session, name));
    TP_TRY(session.Execute("DELETE FROM deployments WHERE name = $1", {name}));
    if (audit_ != nullptr) {
      TP_TRY(audit_->Append(session, actor, "deployment.deleted", name, AuditOf(spec), nullptr));
    }
    return spec;
  });
  if (deleted) Changed();
  return deleted;
}

void DeploymentBook::Changed() {
  if (const Status read = Read(); !read) {
    LogError("a change of deployments is not in force yet", {{"reason", read.error().message}});
    return;
  }
  const std::lock_guard lock(changed_mutex_);
  if (changed_) changed_();
}

void DeploymentBook::OnChange(std::function<void()> changed) {
  const std::lock_guard lock(changed_mutex_);
  changed_ = std::move(changed);
}

void DeploymentBook::NoteUse(const std::string& name, const DeploymentCaller& who) {
  const int64_t now_ms = wall_clock_.unix_ms();
  const std::lock_guard lock(mutex_);
  if (!specs_->contains(name)) return;  // deleted since it was found
  Uses& uses = uses_[name];
  uses.dirty = true;
  auto& callers = uses.callers;
  const auto same = std::find_if(callers.begin(), callers.end(), [&](const DeploymentCaller& one) {
    return one.workspace == who.workspace && one.member == who.member && one.key == who.key;
  });
  DeploymentCaller caller = same == callers.end() ? who : *same;
  if (same == callers.end()) caller.requests = 0;
  ++caller.requests;
  caller.last_ms = now_ms;
  if (same != callers.end()) {
    std::move_backward(callers.begin(), same, same + 1);
    callers.front() = std::move(caller);
    return;
  }
  if (callers.size() >= kMaxDeploymentCallers) callers.pop_back();
  callers.insert(callers.begin(), std::move(caller));
}

std::vector<DeploymentCaller> DeploymentBook::CallersOf(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto it = uses_.find(name);
  return it == uses_.end() ? std::vector<DeploymentCaller>() : it->second.callers;
}

void DeploymentBook::FlushUses(bool wait) {
  std::vector<std::pair<std::string, std::string>> rows;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [name, uses] : uses_) {
      if (std::exchange(uses.dirty, false)) rows.emplace_back(name, CallersText(uses.callers));
    }
  }
  if (rows.empty()) return;
  store::Work write = [rows = std::move(rows)](Session& session) -> Status {
    for (const auto& [name, callers] : rows) {
      TP_TRY(session.Execute("UPDATE deployments SET callers = $2 WHERE name = $1", {name, callers}));
    }
    return {};
  };
  const auto told = [](const Status& written) {
    if (!written) LogWarn("callers of deployments are not saved", {{"reason", written.error().message}});
  };
  if (wait) {
    told(database_.Write(write));
  } else {
    database_.WriteLater(std::move(write), told);
  }
}

void DeploymentBook::Refresh() {
  FlushUses(/*wait=*/false);
  // An embedded store is this server's alone.
  if (database_.backend() != store::Backend::kPostgresql) return;
  if (const Status read = Read(); !read)
    LogWarn("deployments cannot be read again", {{"reason", read.error().message}});
}

}  // namespace tidepool::platform

// deployments: list, show, create, change, delete.
#include <fmt/format.h>

#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

std::string DeploymentPath(std::string_view name) {
  return "/api/v1/deployments/" + ApiClient::Segment(name);
}

std::string LastUsed(const Json& item) {
  const auto at = static_cast<int64_t>(NumberField(item, "last_used_at"));
  return at > 0 ? AgeText(static_cast<int64_t>(std::time(nullptr)) - at) : "never";
}

Result<std::string> ReadWhole(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    return Fail(ErrorKind::kNotFound, "no_file", fmt::format("{} cannot be read", file), "--template");
  }
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// Only what was said.
Result<Json> DeploymentBody(const DeploymentOptions& o) {
  Json body = Json::object(), defaults = Json::object();
  const auto set = [](Json& to, const char* name, const auto& value) {
    if (value) to[name] = *value;
  };
  set(body, "description", o.description);
  set(body, "system_prompt", o.system);
  if (o.template_file) {
    body["chat_template"] = "";
    if (!o.template_file->empty()) {
      TP_ASSIGN(body["chat_template"], ReadWhole(*o.template_file));
    }
  }
  set(body, "max_context_tokens", o.context);
  set(body, "max_output_tokens", o.max_output);
  set(body, "pinned", o.pinned);
  set(body, "idle_ttl_s", o.ttl_s);
  set(body, "ttft_s", o.ttft_s);
  set(body, "tpot_s", o.tpot_s);
  set(body, "weight", o.weight);
  set(defaults, "temperature", o.temperature);
  set(defaults, "top_p", o.top_p);
  set(defaults, "top_k", o.top_k);
  set(defaults, "max_tokens", o.max_tokens);
  set(defaults, "thinking", o.thinking);
  set(defaults, "priority", o.priority);
  if (!o.stop.empty()) defaults["stop"] = o.stop;
  if (!defaults.empty()) body["defaults"] = std::move(defaults);
  if (o.force) body["force"] = true;
  return body;
}

void PrintCallers(std::FILE* to, const Json& deployment) {
  const auto callers = deployment.find("used_by");
  if (callers == deployment.end() || !callers->is_array()) return;
  for (const Json& one : *callers) {
    const std::string member = TextField(one, "member");
    fmt::print(to, "  {}  {}  {} requests, last {}\n", member.empty() ? TextField(one, "key") : member,
               TextField(one, "workspace"), NumberField(one, "requests"), LastUsed(one));
  }
}

Status PrintDeployment(Session& session, const Json& reply, std::string_view did) {
  if (session.json()) {
    PrintJson(reply);
  } else {
    fmt::print("{} {} ({})\n", did, TextField(reply, "name"), TextField(reply, "base"));
  }
  return {};
}

}  // namespace

Status ListDeployments(Session& session, const DeploymentOptions&) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Get("/api/v1/deployments?limit=1000"));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& one : reply.value("data", Json::array())) {
    const double most = NumberField(one, "max_output_tokens");
    rows.push_back({TextField(one, "name"), TextField(one, "base"), TextField(one, "state"),
                    one.value("pinned", false) ? "pinned" : "",
                    fmt::format("{:.0f}", NumberField(one, "context_length")),
                    most > 0 ? fmt::format("{:.0f}", most) : "", LastUsed(one)});
  }
  if (rows.empty()) {
    fmt::print(stderr, "no deployments; try: tidepool deployments create NAME MODEL\n");
    return {};
  }
  fmt::print("{}", TableText({{"NAME"},
                              {"MODEL"},
                              {"STATE"},
                              {"KEPT"},
                              {"CONTEXT", Align::kRight, true},
                              {"OUTPUT", Align::kRight, true},
                              {"LAST USED"}},
                             rows, session.terminal().text_width()));
  return {};
}

Status ShowDeployment(Session& session, const DeploymentOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Get(DeploymentPath(options.name)));
  PrintJson(reply);
  return {};
}

Status CreateDeployment(Session& session, const DeploymentOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(Json body, DeploymentBody(options));
  body["name"] = options.name;
  body["base"] = options.base;
  TP_ASSIGN(const Json reply, api->Post("/api/v1/deployments", body));
  return PrintDeployment(session, reply, "deployed");
}

Status ChangeDeployment(Session& session, const DeploymentOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(Json body, DeploymentBody(options));
  if (!options.base.empty()) body["base"] = options.base;
  TP_ASSIGN(const Json reply, api->Patch(DeploymentPath(options.name), body));
  return PrintDeployment(session, reply, "changed");
}

// Who called it last is said before it goes, and on a terminal asked.
Status DeleteDeployment(Session& session, const DeploymentOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json found, api->Get(DeploymentPath(options.name)));
  const auto callers = found.find("used_by");
  if (callers != found.end() && callers->is_array() && !callers->empty()) {
    fmt::print(stderr, "{} was called by:\n", options.name);
    PrintCallers(stderr, found);
    if (!options.yes && session.terminal().input_is_terminal()) {
      fmt::print(stderr, "They will get errors. Delete it? [y/N] ");
      std::string answer;
      std::getline(std::cin, answer);
      if (answer != "y" && answer != "Y" && answer != "yes")
        return Fail(ErrorKind::kCancelled, "cancelled", "nothing was deleted");
    }
  }
  TP_ASSIGN(const Json reply, api->Delete(DeploymentPath(options.name)));
  if (session.json()) {
    PrintJson(reply);
  } else {
    fmt::print("deleted {}\n", options.name);
  }
  return {};
}

}  // namespace tidepool::cli

// list, show, rm, ps, stop.
#include <fmt/format.h>

#include <ctime>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

std::string Text(const Json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return {};
  return it->is_string() ? it->get<std::string>() : it->dump();
}

double Number(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number() ? it->get<double>() : 0;
}

const Json& Items(const Json& reply) {
  static const Json none = Json::array();
  const auto it = reply.find("data");
  return it != reply.end() && it->is_array() ? *it : none;
}

std::string Size(double bytes) { return bytes > 0 ? BytesText(bytes) : std::string(); }
std::string Context(double tokens) { return tokens > 0 ? fmt::format("{:.0f}", tokens) : std::string(); }

std::string Age(const Json& model) {
  const auto created = static_cast<int64_t>(Number(model, "created"));
  return created > 0 ? AgeText(static_cast<int64_t>(std::time(nullptr)) - created) : std::string();
}

std::string StateText(const Json& model) {
  const std::string state = Text(model, "state");
  if (state == "loading") return fmt::format("loading {:.0f}%", Number(model, "load_share") * 100);
  return state;
}

Status ListCatalogue(Session& session, ApiClient& api) {
  TP_ASSIGN(const Json reply, api.Get("/api/v1/catalogue"));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& entry : Items(reply)) {
    rows.push_back({Text(entry, "id"), Text(entry, "parameters"), Context(Number(entry, "context_length")),
                    Text(entry, "family"), Text(entry, "licence")});
  }
  fmt::print(
      "{}",
      TableText(
          {{"NAME"}, {"PARAMETERS", Align::kRight}, {"CONTEXT", Align::kRight}, {"FAMILY"}, {"LICENCE"}},
          rows));
  return {};
}

void PrintField(std::string_view name, const std::string& value) {
  if (!value.empty()) fmt::print("{:<14}{}\n", name, value);
}

}  // namespace

Status List(Session& session, bool catalogue) {
  TP_ASSIGN(ApiClient * api, session.Api());
  if (catalogue) return ListCatalogue(session, *api);
  TP_ASSIGN(const Json reply, api->Get("/api/v1/models"));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  if (Items(reply).empty()) {
    fmt::print(stderr,
               "no models yet; try: tidepool pull smollm2:135m (tidepool list --catalogue shows more)\n");
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& model : Items(reply)) {
    const double parameters = Number(model, "parameters");
    rows.push_back({Text(model, "id"), Size(Number(model, "bytes")), Text(model, "architecture"),
                    Text(model, "quantisation"), parameters > 0 ? CountText(parameters) : "",
                    Context(Number(model, "context_length")), StateText(model), Age(model)});
  }
  fmt::print("{}", TableText({{"NAME"},
                              {"SIZE", Align::kRight},
                              {"FAMILY"},
                              {"WEIGHTS"},
                              {"PARAMETERS", Align::kRight},
                              {"CONTEXT", Align::kRight},
                              {"STATE"},
                              {"ADDED"}},
                             rows));
  return {};
}

Status Show(Session& session, const std::string& model) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Get(ModelPath(model)));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  PrintField("name", Text(reply, "id"));
  PrintField("state", StateText(reply));
  PrintField("size", Size(Number(reply, "bytes")));
  PrintField("family", Text(reply, "architecture"));
  PrintField("weights", Text(reply, "quantisation"));
  PrintField("format", Text(reply, "format"));
  if (Number(reply, "parameters") > 0) PrintField("parameters", CountText(Number(reply, "parameters")));
  PrintField("context", Context(Number(reply, "context_length")));
  PrintField("makes", reply.value("generates", true) ? "text" : "embeddings");
  PrintField("licence", Text(reply, "licence"));
  PrintField("source", Text(reply, "source"));
  PrintField("added", Age(reply));
  if (const auto engine = reply.find("engine"); engine != reply.end() && engine->is_object()) {
    PrintField(
        "in memory",
        fmt::format("{} weights, {} KV, {} workspace", BytesText(Number(*engine, "weight_bytes")),
                    BytesText(Number(*engine, "kv_bytes")), BytesText(Number(*engine, "workspace_bytes"))));
  }
  if (const auto error = reply.find("error"); error != reply.end() && error->is_object()) {
    PrintField("error", Text(*error, "message"));
  }
  return {};
}

Status Remove(Session& session, const std::vector<std::string>& models) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json removed = Json::array();
  for (const std::string& model : models) {
    TP_ASSIGN(const Json reply, api->Delete(ModelPath(model)));
    const std::string id = Text(reply, "id");
    removed.push_back({{"id", id}, {"deleted", true}});
    if (!session.json()) fmt::print("removed {}\n", id);
  }
  if (session.json()) PrintJson({{"data", removed}});
  return {};
}

Status Processes(Session& session) {
  ApiClient* api = session.ApiIfRunning();
  Json loaded = Json::array();
  if (api != nullptr) {
    TP_ASSIGN(const Json reply, api->Get("/api/v1/models"));
    for (const Json& model : Items(reply)) {
      if (Text(model, "state") != "stored") loaded.push_back(model);
    }
  }
  if (session.json()) {
    PrintJson({{"data", loaded}});
    return {};
  }
  if (api == nullptr) {
    fmt::print(stderr, "no server runs; tidepool run MODEL starts one\n");
    return {};
  }
  if (loaded.empty()) {
    fmt::print(stderr, "no model is loaded; tidepool run MODEL loads one\n");
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& model : loaded) {
    const Json engine = model.value("engine", Json::object());
    rows.push_back({Text(model, "id"), StateText(model), Size(Number(engine, "weight_bytes")),
                    Size(Number(engine, "kv_bytes")), fmt::format("{:.0f}", Number(engine, "running")),
                    fmt::format("{:.0f}", Number(engine, "waiting"))});
  }
  fmt::print("{}", TableText({{"NAME"},
                              {"STATE"},
                              {"WEIGHTS", Align::kRight},
                              {"KV", Align::kRight},
                              {"RUNNING", Align::kRight},
                              {"WAITING", Align::kRight}},
                             rows));
  return {};
}

Status Stop(Session& session, const std::string& model, bool force) {
  ApiClient* api = session.ApiIfRunning();
  if (api == nullptr) return Fail(ErrorKind::kNotFound, "no_server", "no server runs, so no model is loaded");
  TP_ASSIGN(const Json reply, api->Post(ModelPath(model, "/unload"), {{"force", force}}, 120));
  if (session.json()) {
    PrintJson(reply);
  } else {
    fmt::print("unloaded {}\n", Text(reply, "id"));
  }
  return {};
}

}  // namespace tidepool::cli

// list, show, rm, stop.
#include <fmt/format.h>

#include <ctime>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

const Json& Items(const Json& reply) {
  static const Json none = Json::array();
  const auto it = reply.find("data");
  return it != reply.end() && it->is_array() ? *it : none;
}

std::string Size(double bytes) { return bytes > 0 ? BytesText(bytes) : std::string(); }
std::string Context(double tokens) { return tokens > 0 ? fmt::format("{:.0f}", tokens) : std::string(); }

std::string Age(const Json& model) {
  const auto created = static_cast<int64_t>(NumberField(model, "created"));
  return created > 0 ? AgeText(static_cast<int64_t>(std::time(nullptr)) - created) : std::string();
}

std::string StateText(const Json& model) {
  const std::string state = TextField(model, "state");
  if (state == "loading") return fmt::format("loading {:.0f}%", NumberField(model, "load_share") * 100);
  if (state == "quarantined")
    return fmt::format("quarantined, tried again in {:.0f} s", NumberField(model, "retry_in_s"));
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
    rows.push_back({TextField(entry, "id"), TextField(entry, "parameters"),
                    Context(NumberField(entry, "context_length")), TextField(entry, "family"),
                    TextField(entry, "licence")});
  }
  fmt::print("{}", TableText({{"NAME"},
                              {"PARAMETERS", Align::kRight},
                              {"CONTEXT", Align::kRight},
                              {"FAMILY", Align::kLeft, true},
                              {"LICENCE", Align::kLeft, true}},
                             rows, session.terminal().text_width()));
  return {};
}

// What to do about a model that is in use.
Error WithForceHint(Error error, const std::string& model) {
  if (error.kind == ErrorKind::kConflict)
    error.message += fmt::format("; tidepool stop {} --force does", model);
  return error;
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
    const double parameters = NumberField(model, "parameters");
    rows.push_back({TextField(model, "id"), Size(NumberField(model, "bytes")),
                    TextField(model, "architecture"), TextField(model, "quantisation"),
                    parameters > 0 ? CountText(parameters) : "",
                    Context(NumberField(model, "context_length")), StateText(model), Age(model)});
  }
  fmt::print("{}", TableText({{"NAME"},
                              {"SIZE", Align::kRight},
                              {"FAMILY", Align::kLeft, true},
                              {"WEIGHTS"},
                              {"PARAMETERS", Align::kRight, true},
                              {"CONTEXT", Align::kRight, true},
                              {"STATE"},
                              {"ADDED"}},
                             rows, session.terminal().text_width()));
  return {};
}

Status Show(Session& session, const std::string& model) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Get(ModelPath(model)));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  PrintField("name", TextField(reply, "id"));
  PrintField("state", StateText(reply));
  PrintField("size", Size(NumberField(reply, "bytes")));
  PrintField("family", TextField(reply, "architecture"));
  PrintField("weights", TextField(reply, "quantisation"));
  PrintField("format", TextField(reply, "format"));
  if (NumberField(reply, "parameters") > 0)
    PrintField("parameters", CountText(NumberField(reply, "parameters")));
  PrintField("context", Context(NumberField(reply, "context_length")));
  PrintField("makes", reply.value("ranks", false)      ? "scores of pairs of texts"
                      : reply.value("generates", true) ? "text"
                                                       : "embeddings");
  PrintField("licence", TextField(reply, "licence"));
  PrintField("source", TextField(reply, "source"));
  PrintField("added", Age(reply));
  if (const auto engine = reply.find("engine"); engine != reply.end() && engine->is_object()) {
    PrintField("in memory",
               fmt::format("{} weights, {} KV, {} workspace", BytesText(NumberField(*engine, "weight_bytes")),
                           BytesText(NumberField(*engine, "kv_bytes")),
                           BytesText(NumberField(*engine, "workspace_bytes"))));
  }
  if (const auto error = reply.find("error"); error != reply.end() && error->is_object()) {
    PrintField("error", TextField(*error, "message"));
  }
  return {};
}

Status Remove(Session& session, const std::vector<std::string>& models) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json removed = Json::array();
  for (const std::string& model : models) {
    const auto reply = api->Delete(ModelPath(model));
    if (!reply) return Fail(WithForceHint(reply.error(), model));
    const std::string id = TextField(*reply, "id");
    removed.push_back({{"id", id}, {"deleted", true}});
    if (!session.json()) fmt::print("removed {}\n", id);
  }
  if (session.json()) PrintJson({{"data", removed}});
  return {};
}

Status Stop(Session& session, const std::string& model, bool force) {
  ApiClient* api = session.ApiIfRunning();
  if (api == nullptr) return Fail(ErrorKind::kNotFound, "no_server", "no server runs, so no model is loaded");
  TP_ASSIGN(const Json found, api->Get(ModelPath(model)));
  const bool loaded = TextField(found, "state") != "stored";
  const auto reply = api->Post(ModelPath(model, "/unload"), {{"force", force}}, 120);
  if (!reply) return Fail(WithForceHint(reply.error(), model));
  if (session.json()) {
    PrintJson(*reply);
  } else {
    fmt::print("{}{}\n", loaded ? "unloaded " : "not in memory: ", TextField(*reply, "id"));
  }
  return {};
}

}  // namespace tidepool::cli

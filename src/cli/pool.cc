// ps, pool, pin, unpin: what is in memory, and how much of it there may be.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <thread>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

constexpr size_t kBarWidth = 12;
constexpr const char* kPoolPath = "/api/v1/pool";

const Json& Member(const Json& json, const char* key) {
  static const Json none = Json::object();
  const auto it = json.find(key);
  return it != json.end() && it->is_object() ? *it : none;
}

const Json& Models(const Json& state) {
  static const Json none = Json::array();
  const auto it = state.find("models");
  return it != state.end() && it->is_array() ? *it : none;
}

bool Flag(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_boolean() && it->get<bool>();
}

double Sum(const Json& json, std::initializer_list<const char*> keys) {
  double sum = 0;
  for (const char* key : keys) sum += NumberField(json, key);
  return sum;
}

// Resident, loading, warm and cold segments from the embedding to the head.
std::string ResidencyBar(const Json& segments, bool unicode) {
  const double total = Sum(segments, {"resident", "loading", "warm", "cold"});
  if (total <= 0) return {};
  const char* marks[] = {unicode ? "█" : "#", unicode ? "▓" : "+", unicode ? "▒" : "=", unicode ? "·" : "."};
  const char* keys[] = {"resident", "loading", "warm", "cold"};
  std::string bar;
  double passed = 0;
  size_t drawn = 0;
  for (size_t i = 0; i < 4; ++i) {
    passed += NumberField(segments, keys[i]);
    const auto until = static_cast<size_t>(passed / total * static_cast<double>(kBarWidth) + 0.5);
    for (; drawn < std::min(until, kBarWidth); ++drawn) bar += marks[i];
  }
  return bar;
}

std::string ResidencyWords(const Json& model) {
  const std::string state = TextField(model, "state");
  if (state == "loading") return fmt::format("preparing {:.0f}%", NumberField(model, "load_share") * 100);
  if (state == "quarantined") return fmt::format("quarantined {:.0f} s", NumberField(model, "retry_in_s"));
  if (state != "ready") return state;
  const Json& segments = Member(model, "segments");
  const double total = Sum(segments, {"resident", "loading", "warm", "cold"});
  const double resident = NumberField(segments, "resident");
  if (total <= 0 || resident >= total) return "resident";
  if (NumberField(segments, "loading") > 0) return fmt::format("loading {:.0f}/{:.0f}", resident, total);
  if (resident > 0) return fmt::format("part {:.0f}/{:.0f}", resident, total);
  const double warm = NumberField(segments, "warm");
  if (warm >= total) return "warm";
  return warm > 0 ? fmt::format("warm {:.0f}/{:.0f}", warm, total) : "cold";
}

std::string SlackText(const Json& model) {
  const auto it = model.find("slack_s");
  if (it == model.end() || !it->is_number()) return "-";
  const double slack = it->get<double>();
  return slack < 0 ? fmt::format("{:.1f} s late", -slack) : fmt::format("{:.1f} s", slack);
}

std::string ModelTable(const Json& state, size_t width, bool unicode) {
  std::vector<std::vector<std::string>> rows;
  for (const Json& model : Models(state)) {
    const double bytes = Sum(Member(model, "bytes"), {"resident", "loading", "warm", "cold"});
    const double spilled = NumberField(model, "spilled");
    std::string active = fmt::format("{:.0f}", NumberField(model, "active"));
    if (spilled > 0) active += fmt::format("+{:.0f}", spilled);
    rows.push_back({TextField(model, "id") + (Flag(model, "pinned") ? " *" : ""), ResidencyWords(model),
                    ResidencyBar(Member(model, "segments"), unicode), bytes > 0 ? BytesText(bytes) : "",
                    active, fmt::format("{:.0f}", NumberField(model, "waiting")), SlackText(model),
                    fmt::format("{:.0f}%", NumberField(model, "load") * 100)});
  }
  return TableText({{"NAME"},
                    {"WEIGHTS"},
                    {"LAYERS", Align::kLeft, true},
                    {"SIZE", Align::kRight, true},
                    {"ACTIVE", Align::kRight},
                    {"QUEUE", Align::kRight},
                    {"SLACK", Align::kRight},
                    {"LOAD", Align::kRight, true}},
                   std::move(rows), width);
}

std::string BudgetText(const Json& budget) {
  const double limit = NumberField(budget, "limit_bytes");
  if (limit <= 0) return "none";
  std::string text = fmt::format("{} of {}", BytesText(NumberField(budget, "used_bytes")), BytesText(limit));
  const double over = NumberField(budget, "over_bytes");
  return over > 0 ? text + fmt::format(", {} over: draining", BytesText(over)) : text;
}

std::string DeviceText(const Json& state) {
  const Json& device = Member(state, "device");
  return fmt::format("load {:.0f}%, {:.2f} switches/s, {:.0f}% of the time lost to switching{}",
                     NumberField(device, "load") * 100, NumberField(device, "switches_per_s"),
                     NumberField(device, "switch_share") * 100, Flag(device, "cordoned") ? ", cordoned" : "");
}

std::string Watched(const Json& state, size_t width, bool unicode) {
  std::string text = fmt::format("memory {}   warm {}\n{}\n\n", BudgetText(Member(state, "memory")),
                                 BudgetText(Member(state, "warm")), DeviceText(state));
  if (Models(state).empty()) return text + "no model is loaded; tidepool run MODEL loads one\n";
  return text + ModelTable(state, width, unicode);
}

void PrintErrors(const Json& state) {
  for (const Json& model : Models(state)) {
    const Json& error = Member(model, "error");
    if (error.empty()) continue;
    TerminalFilter filter;
    fmt::print("{}: {}\n", TextField(model, "id"), filter.Feed(TextField(error, "message")));
  }
}

// Rewrites its lines in place: never clears what it is about to write, so nothing flickers.
class Redraw {
 public:
  explicit Redraw(const Terminal& terminal) : terminal_(terminal) {}
  void Show(const std::string& text) {
    std::string out;
    if (lines_ > 0) out += fmt::format("\x1b[{}A\r", lines_);
    const size_t most = terminal_.height() > 1 ? terminal_.height() - 1 : 1;
    size_t lines = 0;
    for (size_t begin = 0; begin < text.size() && lines < most; ++lines) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      out += Fit(text.substr(begin, end - begin), terminal_.width()) + "\x1b[K\n";
      begin = end + 1;
    }
    out += "\x1b[J";
    lines_ = lines;
    fmt::print("{}", out);
    std::fflush(stdout);
  }

 private:
  const Terminal& terminal_;
  size_t lines_ = 0;
};

// One line a model and look, for logs and pipes.
void PrintLines(const Json& state) {
  char clock[16] = "";
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  if (::localtime_r(&now, &local) != nullptr) std::strftime(clock, sizeof clock, "%H:%M:%S", &local);
  for (const Json& model : Models(state)) {
    fmt::print("{} {} {} active {:.0f} queue {:.0f} slack {} load {:.0f}%\n", clock, TextField(model, "id"),
               ResidencyWords(model), NumberField(model, "active"), NumberField(model, "waiting"),
               SlackText(model), NumberField(model, "load") * 100);
  }
  std::fflush(stdout);
}

Status Watch(Session& session, ApiClient& api) {
  Redraw redraw(session.terminal());
  const bool terminal = session.terminal().output_is_terminal();
  const auto show = [&](const SseEvent& event) {
    const Json data = Json::parse(event.data, nullptr, false);
    if (session.json()) {
      fmt::print("{}\n", Json({{"event", event.name}, {"data", data}}).dump());
      std::fflush(stdout);
    } else if (event.name == "state" && data.is_object()) {
      if (terminal) {
        redraw.Show(Watched(data, session.terminal().width(), session.terminal().unicode()));
      } else {
        PrintLines(data);
      }
    }
    return true;
  };
  const Status ended = api.Follow(std::string(kPoolPath) + "/events", show);
  if (!ended && ended.error().code == "interrupted" && terminal) return {};  // that is how one leaves
  if (!ended) return Fail(ended.error());
  fmt::print(stderr, "the server is stopping\n");
  return {};
}

Error NoServer() {
  return {ErrorKind::kNotFound, "no_server",
          "no server runs; tidepool run MODEL or tidepool serve starts one", "", 0};
}

Result<Json> ChangePolicy(Session& session, const Json& change) {
  TP_ASSIGN(ApiClient * api, session.Api());
  return api->Post(std::string(kPoolPath) + "/policy", change, 120);
}

}  // namespace

Status Processes(Session& session, bool watch) {
  ApiClient* api = session.ApiIfRunning();
  if (api == nullptr && watch) return Fail(NoServer());
  if (api == nullptr) {
    if (session.json()) {
      PrintJson({{"data", Json::array()}});
    } else {
      fmt::print(stderr, "no server runs; tidepool run MODEL starts one\n");
    }
    return {};
  }
  if (watch) return Watch(session, *api);
  TP_ASSIGN(const Json state, api->Get(kPoolPath));
  if (session.json()) {
    PrintJson({{"data", Models(state)}});
    return {};
  }
  if (Models(state).empty()) {
    fmt::print(stderr, "no model is loaded; tidepool run MODEL loads one\n");
    return {};
  }
  fmt::print("{}", ModelTable(state, session.terminal().text_width(), session.terminal().unicode()));
  PrintErrors(state);
  return {};
}

Status ShowPool(Session& session) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json state, api->Get(kPoolPath));
  if (session.json()) {
    PrintJson(state);
    return {};
  }
  const Json& counters = Member(state, "counters");
  const Json& packed = Member(state, "packed_cache");
  fmt::print("memory     {}\n", BudgetText(Member(state, "memory")));
  fmt::print("warm       {}\n", BudgetText(Member(state, "warm")));
  fmt::print("host KV    {}\n", BudgetText(Member(state, "host_kv")));
  if (!packed.empty()) {
    fmt::print("on disk    {} of packed weights, {:.0f} file{}\n", BytesText(NumberField(packed, "bytes")),
               NumberField(packed, "files"), NumberField(packed, "files") == 1 ? "" : "s");
  }
  fmt::print("device     {}\n", DeviceText(state));
  fmt::print(
      "since start  {:.0f} requests, {:.0f} refused, {:.0f} loads ({:.0f} failed), {:.0f} evictions, "
      "{:.0f} switches, {:.0f} spills, {:.0f} recomputed\n",
      NumberField(counters, "arrivals"), NumberField(counters, "rejected"), NumberField(counters, "loads"),
      NumberField(counters, "load_failures"), NumberField(counters, "evictions"),
      NumberField(counters, "switches"), NumberField(counters, "spills"), NumberField(counters, "drops"));
  const auto owners = Member(state, "memory").find("owners");
  if (owners != Member(state, "memory").end() && owners->is_array() && !owners->empty()) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& owner : *owners) {
      rows.push_back(
          {TextField(owner, "owner"), TextField(owner, "kind"), BytesText(NumberField(owner, "bytes"))});
    }
    fmt::print("\n{}", TableText({{"OWNER"}, {"KIND"}, {"BYTES", Align::kRight}}, std::move(rows),
                                 session.terminal().text_width()));
  }
  if (!Models(state).empty())
    fmt::print("\n{}", ModelTable(state, session.terminal().text_width(), session.terminal().unicode()));
  PrintErrors(state);
  return {};
}

Status ResizePool(Session& session, const PoolSizes& sizes) {
  Json request = Json::object();
  if (!sizes.memory.empty()) request["memory"] = sizes.memory;
  if (!sizes.warm_memory.empty()) request["warm_memory"] = sizes.warm_memory;
  if (!sizes.host_kv.empty()) request["host_kv"] = sizes.host_kv;
  if (request.empty()) {
    return Fail(ErrorKind::kInvalid, "usage",
                "resize wants a size: tidepool pool resize 8GiB (or 60%), --warm 4GiB, --host-kv 2GiB");
  }
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Post(std::string(kPoolPath) + "/resize", request, 120));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  fmt::print("memory     {}\nwarm       {}\nhost KV    {}\n{}\n", BudgetText(Member(reply, "memory")),
             BudgetText(Member(reply, "warm")), BudgetText(Member(reply, "host_kv")),
             TextField(reply, "note"));
  return {};
}

Status CordonPool(Session& session, bool cordoned) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Post(std::string(kPoolPath) + "/cordon", {{"cordoned", cordoned}}, 120));
  if (session.json()) {
    PrintJson(reply);
  } else {
    fmt::print("{}\n", cordoned
                           ? "cordoned: what runs ends, nothing new begins; tidepool pool uncordon ends it"
                           : "takes new work again");
  }
  return {};
}

Status Pin(Session& session, const std::string& model, bool pinned) {
  const auto reply = ChangePolicy(session, {{"model", model}, {"pinned", pinned}});
  if (!reply) return Fail(reply.error());
  if (session.json()) {
    PrintJson(*reply);
    return {};
  }
  const std::string id = TextField(*reply, "id");
  if (pinned) {
    fmt::print("{} stays in memory until the server starts again; for always: the setting models.pin\n", id);
  } else {
    fmt::print("{} makes way when its memory is needed\n", id);
  }
  return {};
}

}  // namespace tidepool::cli

// bench --profile: fits the simulator's step profile to a model on the machine of the server.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "cli/commands.h"
#include "cli/fit.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

Result<Json> Measured(Session& session, ApiClient* api, const std::string& model, int64_t prompt,
                      int64_t generate, const std::vector<int64_t>& batch) {
  session.terminal().ShowStatus(
      fmt::format("measuring {}: prompt {}, {} tokens, batch {}", model, prompt, generate, batch.back()));
  const Json body = {
      {"model", model}, {"prompt_tokens", prompt}, {"generate_tokens", generate}, {"batch", batch}};
  auto reply = api->Post("/api/v1/bench", body, 3600);
  session.terminal().ClearStatus();
  if (!reply) return Fail(reply.error());
  return std::move(*reply);
}

struct Samples {
  std::vector<std::vector<double>> rows;
  std::vector<double> seconds;
};

// Row by row of the bench's reply: a prefill of so many tokens, and steps of a batch whose context grows from
// 8 tokens by one a step.
void AddSamples(const Json& reply, Samples& prefill, Samples& decode) {
  for (const Json& row : reply.value("data", Json::array())) {
    const double seconds = NumberField(row, "seconds"), tokens = NumberField(row, "tokens");
    const double batch = NumberField(row, "batch");
    if (!(seconds > 0) || !(tokens > 0)) continue;
    if (row.value("test", "") == "prefill") {
      prefill.rows.push_back({1, tokens, tokens * tokens});
      prefill.seconds.push_back(seconds);
    } else {
      decode.rows.push_back({1, batch * (8 + tokens / 2), batch});
      decode.seconds.push_back(seconds / tokens);
    }
  }
}

double Digits(double value) { return value == 0 ? 0 : std::stod(fmt::format("{:.5g}", value)); }

// The model's shape from what the engine holds of it: bytes of KV over the tokens they are for.
Json ShapeOf(const Json& model) {
  const Json engine = model.value("engine", Json::object());
  const double blocks = NumberField(engine, "kv_blocks_used") + NumberField(engine, "kv_blocks_cached");
  const double kv = blocks > 0 ? std::round(NumberField(engine, "kv_bytes") / (blocks * 16)) : 0;
  return {{"weight_bytes", static_cast<int64_t>(NumberField(engine, "weight_bytes"))},
          {"kv_token_bytes", std::max<int64_t>(1, static_cast<int64_t>(kv))}};
}

}  // namespace

Status BenchProfile(Session& session, const BenchOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json described, api->Get(ModelPath(options.model)));
  const double context = NumberField(described, "context_length");
  const int64_t most = context > 64 ? static_cast<int64_t>(context) - 16 : 4096;
  Samples prefill, decode;
  int64_t before = 0;
  for (const int64_t wanted : {16, 64, 256, 512, 1024, 2048}) {
    const int64_t prompt = std::min(wanted, most);
    if (prompt == before) continue;
    before = prompt;
    TP_ASSIGN(const Json reply, Measured(session, api, options.model, prompt, 8, {1}));
    AddSamples(reply, prefill, decode);
  }
  for (const int64_t wanted : {32, 256}) {
    TP_ASSIGN(const Json reply,
              Measured(session, api, options.model, 16, std::min(wanted, most), {1, 2, 4, 8, 16}));
    AddSamples(reply, prefill, decode);
  }
  TP_ASSIGN(const Json status, api->Get("/api/v1/status"));
  TP_ASSIGN(const Json loaded, api->Get(ModelPath(options.model)));
  const std::vector<double> p = FitNonNegative(prefill.rows, prefill.seconds);
  const std::vector<double> d = FitNonNegative(decode.rows, decode.seconds);
  if (p.size() != 3 || d.size() != 3) {
    return Fail(ErrorKind::kInternal, "no_measurement", "the server's bench gave no figures");
  }
  const double memory = NumberField(status.value("roofline", Json::object()), "memory_bytes_per_s");
  Json out;
  out["device"] = "here";
  out["arena_bytes"] = static_cast<int64_t>(NumberField(status.value("pool", Json::object()), "limit_bytes"));
  // A copy reads and writes: half of what the memory streams.
  out["copy_bytes_per_s"] = static_cast<int64_t>(memory > 0 ? memory / 2 : 5e9);
  out["source"] = fmt::format("tidepool bench --profile, {} threads", status.value("threads", 0));
  Json& model = out["models"][options.model];
  model["prefill"] = {{"base_ms", Digits(p[0] * 1e3)},
                      {"per_token_us", Digits(p[1] * 1e6)},
                      {"per_token2_ns", Digits(p[2] * 1e9)}};
  model["decode"] = {{"base_ms", Digits(d[0] * 1e3)},
                     {"per_context_token_us", Digits(d[1] * 1e6)},
                     {"per_sequence_us", Digits(d[2] * 1e6)}};
  model["mean_error_prefill"] = Digits(FitError(prefill.rows, prefill.seconds, p));
  model["mean_error_decode"] = Digits(FitError(decode.rows, decode.seconds, d));
  out["shapes"][options.model] = ShapeOf(loaded);
  std::ofstream file(options.profile);
  file << out.dump(2) << '\n';
  file.close();
  if (!file)
    return Fail(ErrorKind::kInvalid, "cannot_write", fmt::format("cannot write {}", options.profile));
  if (session.json()) {
    PrintJson(out);
    return {};
  }
  fmt::print("prefill  {:.2f} ms + {:.1f} us a token + {:.2f} ns a token squared   (mean error {:.0f}%)\n",
             p[0] * 1e3, p[1] * 1e6, p[2] * 1e9, model["mean_error_prefill"].get<double>() * 100);
  fmt::print(
      "decode   {:.2f} ms + {:.2f} us a token of context + {:.0f} us a sequence   (mean error {:.0f}%)\n",
      d[0] * 1e3, d[1] * 1e6, d[2] * 1e6, model["mean_error_decode"].get<double>() * 100);
  fmt::print("written to {}; tidepool sim --profile {} --devices 1xhere --models {} ...\n", options.profile,
             options.profile, options.model);
  return {};
}

}  // namespace tidepool::cli

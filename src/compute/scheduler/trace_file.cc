// Traces as JSON lines. A record has only the fields that are not zero.
#include <fmt/format.h>

#include <algorithm>
#include <istream>
#include <nlohmann/json.hpp>
#include <ostream>

#include "compute/scheduler/trace.h"

namespace tidepool::compute {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostRecords = 1'000'000, kMostLine = 1 << 20;
constexpr int kKinds = static_cast<int>(TraceKind::kDecide) + 1;

Json ProfileJson(const StepProfile& p) {
  return {p.prefill_base_s, p.prefill_per_token_s,        p.prefill_per_token2_s,
          p.decode_base_s,  p.decode_per_context_token_s, p.decode_per_sequence_s};
}
StepProfile ProfileFrom(const Json& j) {
  return {j.at(0).get<double>(), j.at(1).get<double>(), j.at(2).get<double>(),
          j.at(3).get<double>(), j.at(4).get<double>(), j.at(5).get<double>()};
}

Json ModelJson(const PoolModel& m) {
  Json profiles = Json::array();
  for (const StepProfile& profile : m.profiles) profiles.push_back(ProfileJson(profile));
  return {{"id", m.model},
          {"name", m.name},
          {"causal", m.causal},
          {"batch_tokens", m.batch_tokens},
          {"max_step_tokens", m.max_step_tokens},
          {"max_sequences", m.max_sequences},
          {"max_logit_rows", m.max_logit_rows},
          {"segments", m.segment_bytes},
          {"weights_id", m.weights_id},
          {"kv_block_bytes", m.kv_block_bytes},
          {"profiles", profiles},
          {"ttft", m.ttft},
          {"tpot", m.tpot},
          {"weight", m.weight},
          {"pinned", m.pinned},
          {"idle_ttl", m.idle_ttl},
          {"min_resident", m.min_resident},
          {"devices", m.devices},
          {"warm_hosts", m.warm_hosts}};
}
PoolModel ModelFrom(const Json& j) {
  PoolModel m;
  m.model = j.at("id").get<PoolModelId>();
  m.name = j.at("name").get<std::string>();
  m.causal = j.at("causal").get<bool>();
  m.batch_tokens = j.at("batch_tokens").get<int32_t>();
  m.max_step_tokens = j.at("max_step_tokens").get<int32_t>();
  m.max_sequences = j.at("max_sequences").get<int32_t>();
  m.max_logit_rows = j.at("max_logit_rows").get<int32_t>();
  m.segment_bytes = j.at("segments").get<std::vector<uint64_t>>();
  m.weights_id = j.value("weights_id", uint64_t{0});  // not in traces of before
  m.kv_block_bytes = j.at("kv_block_bytes").get<uint64_t>();
  for (const Json& profile : j.at("profiles")) m.profiles.push_back(ProfileFrom(profile));
  m.ttft = j.at("ttft").get<Nanoseconds>();
  m.tpot = j.at("tpot").get<Nanoseconds>();
  m.weight = j.at("weight").get<double>();
  m.pinned = j.at("pinned").get<bool>();
  m.idle_ttl = j.at("idle_ttl").get<Nanoseconds>();
  m.min_resident = j.at("min_resident").get<Nanoseconds>();
  m.devices = j.at("devices").get<std::vector<PoolDeviceId>>();
  m.warm_hosts = j.at("warm_hosts").get<std::vector<PoolHostId>>();
  return m;
}

Json JobJson(const PoolJob& job) {
  return {{"account", job.account},
          {"account_weights", job.account_weights},
          {"class", static_cast<int>(job.job_class)},
          {"prompt", job.prompt_tokens},
          {"output", job.max_output_tokens},
          {"open", job.open_output_tokens},
          {"logits", job.wants_logits},
          {"prompt_logits", job.prompt_logits},
          {"ttft", job.ttft},
          {"tpot", job.tpot}};
}
PoolJob JobFrom(const Json& j) {
  PoolJob job;
  job.account = j.at("account").get<std::string>();
  job.account_weights = j.at("account_weights").get<std::vector<double>>();
  job.job_class = static_cast<JobClass>(std::clamp(j.at("class").get<int>(), 0, 2));
  job.prompt_tokens = j.at("prompt").get<int32_t>();
  job.max_output_tokens = j.at("output").get<int32_t>();
  job.open_output_tokens = j.value("open", 0);
  job.wants_logits = j.at("logits").get<bool>();
  job.prompt_logits = j.at("prompt_logits").get<bool>();
  job.ttft = j.at("ttft").get<Nanoseconds>();
  job.tpot = j.at("tpot").get<Nanoseconds>();
  return job;
}

Json RecordJson(const TraceRecord& r) {
  Json j = {{"t", r.at}, {"e", TraceKindName(r.kind)}};
  if (r.device != 0) j["device"] = r.device;
  if (r.model != 0) j["model"] = r.model;
  if (r.job != 0) j["job"] = r.job;
  if (r.value != 0) j["value"] = r.value;
  if (r.more != 0) j["more"] = r.more;
  if (r.host) j["host"] = {{"kv_bytes", r.host->kv_bytes}, {"load_bytes_per_s", r.host->load_bytes_per_s}};
  if (r.added_device) {
    j["new"] = {{"host", r.added_device->host},
                {"kind", r.added_device->kind},
                {"arena_bytes", r.added_device->arena_bytes},
                {"copy_bytes_per_s", r.added_device->copy_bytes_per_s}};
  }
  if (r.added_model) j["spec"] = ModelJson(*r.added_model);
  if (r.arrived) j["request"] = JobJson(*r.arrived);
  if (r.kind == TraceKind::kDecide) {
    Json effects = Json::array();
    for (const Effect& e : r.effects) {
      effects.push_back({static_cast<int>(e.kind), static_cast<int>(e.reason), e.device, e.model, e.job,
                         e.segments, e.tokens});
    }
    if (!effects.empty()) j["fx"] = effects;
  }
  return j;
}

TraceRecord RecordFrom(const Json& j) {
  TraceRecord r;
  const auto name = j.at("e").get<std::string>();
  int kind = 0;
  while (kind < kKinds && TraceKindName(static_cast<TraceKind>(kind)) != name) ++kind;
  if (kind == kKinds) throw std::invalid_argument("unknown event \"" + name.substr(0, 40) + "\"");
  r.kind = static_cast<TraceKind>(kind);
  r.at = j.at("t").get<Nanoseconds>();
  r.device = j.value("device", 0);
  r.model = j.value("model", PoolModelId{0});
  r.job = j.value("job", PoolJobId{0});
  r.value = j.value("value", int64_t{0});
  r.more = j.value("more", int64_t{0});
  switch (r.kind) {
    case TraceKind::kHost:
      r.host = std::make_shared<PoolHost>(
          PoolHost{.kv_bytes = j.at("host").at("kv_bytes").get<uint64_t>(),
                   .load_bytes_per_s = j.at("host").at("load_bytes_per_s").get<double>()});
      break;
    case TraceKind::kDevice: {
      const Json& d = j.at("new");
      r.added_device = std::make_shared<PoolDevice>(
          PoolDevice{.host = d.at("host").get<int32_t>(),
                     .kind = d.at("kind").get<int32_t>(),
                     .arena_bytes = d.at("arena_bytes").get<uint64_t>(),
                     .copy_bytes_per_s = d.at("copy_bytes_per_s").get<double>()});
      break;
    }
    case TraceKind::kModel:
    case TraceKind::kUpdateModel: r.added_model = std::make_shared<PoolModel>(ModelFrom(j.at("spec"))); break;
    case TraceKind::kArrive: {
      PoolJob job = JobFrom(j.at("request"));
      job.job = r.job;
      job.model = r.model;
      r.arrived = std::make_shared<PoolJob>(std::move(job));
      break;
    }
    case TraceKind::kDecide:
      for (const Json& e : j.value("fx", Json::array())) {
        r.effects.push_back({.kind = static_cast<EffectKind>(e.at(0).get<uint8_t>()),
                             .reason = static_cast<Reason>(e.at(1).get<uint8_t>()),
                             .device = e.at(2).get<int32_t>(),
                             .model = e.at(3).get<PoolModelId>(),
                             .job = e.at(4).get<PoolJobId>(),
                             .segments = e.at(5).get<int32_t>(),
                             .tokens = e.at(6).get<int32_t>()});
      }
      break;
    default: break;
  }
  return r;
}

}  // namespace

void WriteTrace(const SchedulerTrace& trace, std::ostream& out) {
  const PoolPolicyOptions& o = trace.options;
  const Json options = {{"admission_load", o.admission_load},
                        {"overcommit", o.overcommit},
                        {"max_turn_steps", o.max_turn_steps},
                        {"age_bound_s", o.age_bound_s}};
  const Json policy = {{"policy", trace.policy}, {"options", options}};
  out << policy.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  if (!trace.complete) out << R"({"incomplete":true})" << '\n';
  for (const TraceRecord& record : trace.records) {
    out << RecordJson(record).dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  }
}

Result<SchedulerTrace> ReadTrace(std::istream& in) {
  SchedulerTrace trace;
  std::string line;
  size_t number = 0;
  const auto fail = [&](const std::string& why) {
    return Fail(ErrorKind::kCorrupt, "bad_trace", fmt::format("line {} of the trace: {}", number, why),
                "trace");
  };
  while (std::getline(in, line)) {
    ++number;
    if (line.empty()) continue;
    if (line.size() > kMostLine) return fail("longer than 1 MiB");
    if (trace.records.size() >= kMostRecords) return fail("more than a million records");
    try {
      const Json json = Json::parse(line);
      if (json.contains("incomplete")) {
        trace.complete = false;
        continue;
      }
      if (json.contains("policy")) {
        trace.policy = json.at("policy").get<std::string>();
        const Json& options = json.at("options");
        trace.options = {.admission_load = options.at("admission_load").get<double>(),
                         .overcommit = options.at("overcommit").get<double>(),
                         .max_turn_steps = options.at("max_turn_steps").get<int32_t>(),
                         .age_bound_s = options.at("age_bound_s").get<double>()};
        continue;
      }
      trace.records.push_back(RecordFrom(json));
    } catch (const std::exception& error) {
      return fail(error.what());
    }
  }
  return trace;
}

}  // namespace tidepool::compute

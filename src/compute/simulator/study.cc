#include "compute/simulator/study.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>

#include "compute/simulator/study_fields.h"

namespace tidepool::compute {
namespace {

using StudyJson = nlohmann::ordered_json;

// What the models of a study are before devices are known.
struct ModelSet {
  std::vector<std::string> names;   // one a model when `listed`, else the pattern
  std::vector<std::string> shapes;  // of the same size
  std::vector<double> rates;        // listed: 0 when not given
  bool listed = false;
};

class StudyDecoder {
 public:
  StudyDecoder(const StudyJson& request, const StudyLimits& limits, const StudyChange& change)
      : fields_(request), limits_(limits), change_(change) {}

  Result<Study> Decode() {
    TP_TRY(fields_.Known({"workload",     "trace",        "repeat_until_s", "popularity",
                          "models",       "model_count",  "devices",        "profiles",
                          "split",        "policies",     "ttft_s",         "tpot_s",
                          "seeds",        "duration_s",   "lengths",        "input_scale",
                          "output_scale", "copy_gbps",    "host_memory_gb", "load_gbps",
                          "admission",    "batch_tokens", "max_sequences",  "max_output_tokens",
                          "sweep",        "chart",        "kinds",          "share",
                          "prices",       "max_count",    "title",          "risk"}));
    study_.hardware = Hardware::Shipped();
    study_.max_requests = limits_.max_requests;
    TP_TRY(Profiles());
    TP_TRY(Numbers());
    TP_TRY(Devices());
    TP_TRY(Lists());
    TP_TRY(Lengths_());
    TP_TRY(ReadModels());
    TP_TRY(Workload());
    TP_TRY(ResolveModels());
    return std::move(study_);
  }

 private:
  Status Profiles() {
    const StudyJson* profiles = fields_.Find("profiles");
    if (profiles == nullptr) return {};
    if (!profiles->is_array() || profiles->size() > 64) {
      return BadStudyField("profiles", "is not a list of at most 64 devices");
    }
    for (const StudyJson& profile : *profiles) TP_TRY(study_.hardware.AddDevice(profile));
    return {};
  }

  Status Numbers() {
    SimConfig& config = study_.config;
    TP_ASSIGN(config.ttft_s, fields_.Number("ttft_s", 10, 1e-3, 1e5));
    TP_ASSIGN(config.tpot_s, fields_.Number("tpot_s", 0.1, 1e-5, 1e4));
    config.ttft_s *= change_.slo;
    config.tpot_s *= change_.slo;
    TP_ASSIGN(config.options.admission_load,
              fields_.Number("admission", config.options.admission_load, 0, 1e6));
    TP_ASSIGN(const int64_t output, fields_.Integer("max_output_tokens", 2048, 1, 1 << 20));
    config.max_output_tokens = static_cast<int32_t>(output);
    TP_ASSIGN(const int64_t batch, fields_.Integer("batch_tokens", config.batch_tokens, 1, 1 << 20));
    config.batch_tokens = static_cast<int32_t>(batch);
    TP_ASSIGN(const int64_t sequences, fields_.Integer("max_sequences", config.max_sequences, 1, 4096));
    config.max_sequences = static_cast<int32_t>(sequences);
    TP_ASSIGN(study_.duration_s, fields_.Number("duration_s", 900, 1, 1e7));
    TP_ASSIGN(study_.scale.input, fields_.Number("input_scale", 1, 1e-3, 1e3));
    TP_ASSIGN(study_.scale.output, fields_.Number("output_scale", 1, 1e-3, 1e3));
    TP_ASSIGN(const double memory, fields_.Number("host_memory_gb", 2199.023255552, 0, 1e6));
    host_.memory_bytes = static_cast<uint64_t>(memory * 1e9);
    TP_ASSIGN(const double load, fields_.Number("load_gbps", 8, 1e-3, 1e4));
    host_.load_bytes_per_s = load * 1e9;
    TP_ASSIGN(study_.chart, fields_.Flag("chart", false));
    study_.rate_factor = change_.rate;
    return {};
  }

  Status Devices() {
    TP_ASSIGN(const std::string text, fields_.Text("devices", "16xH800"));
    TP_ASSIGN(auto devices, ParseDevices(text));
    if (change_.devices) devices = *change_.devices;
    size_t all = 0;
    for (const DeviceCount& device : devices) all += static_cast<size_t>(device.count);
    if (all > limits_.max_devices) {
      return BadStudyField("devices", fmt::format("{} are more than {}", all, limits_.max_devices));
    }
    TP_ASSIGN(const double copy, fields_.Number("copy_gbps", 0, 0, 1e4));
    PlaceDevices(devices, host_, study_.config);
    for (SimDeviceKind& kind : study_.config.kinds) {
      TP_ASSIGN(const DeviceProfile* profile, study_.hardware.Device(kind.name));
      kind.arena_bytes = profile->arena_bytes;
      kind.copy_bytes_per_s = copy > 0 ? copy * 1e9 : profile->copy_bytes_per_s;
      study_.kinds.push_back(profile->name);
      kind.name = profile->name;
    }
    TP_ASSIGN(const std::string split, fields_.Text("split", "", 64));
    if (!split.empty()) TP_TRY(Split(split));
    return {};
  }

  // "6:10": devices that prefill and that decode, in all; the same share of every host.
  Status Split(std::string_view text) {
    const size_t colon = text.find(':');
    int32_t prefill = 0, decode = 0;
    const auto parse = [](std::string_view part, int32_t* out) {
      const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), *out);
      return problem == std::errc() && end == part.data() + part.size() && *out > 0;
    };
    const auto devices = static_cast<int32_t>(study_.config.devices.size());
    if (colon == std::string_view::npos || !parse(text.substr(0, colon), &prefill) ||
        !parse(text.substr(colon + 1), &decode) || prefill + decode != devices) {
      return BadStudyField("split",
                           fmt::format("\"{}\" is not PREFILL:DECODE with {} devices in all", text, devices));
    }
    const auto hosts = static_cast<int32_t>(study_.config.hosts.size());
    study_.config.prefill_devices = std::max(1, (prefill + hosts / 2) / hosts);
    return {};
  }

  Status Lists() {
    const StudyJson* policies = fields_.Find("policies");
    const std::vector<std::string> known = SimPolicies();
    if (policies == nullptr) {
      study_.policies = {"tidepool"};
    } else {
      if (!policies->is_array() || policies->empty() || policies->size() > 32) {
        return BadStudyField("policies", "is not a list of 1 to 32 names");
      }
      for (const StudyJson& policy : *policies) {
        const std::string name = policy.is_string() ? policy.get<std::string>() : "";
        if (name == "all") {
          study_.policies.insert(study_.policies.end(), known.begin(), known.end());
        } else if (std::find(known.begin(), known.end(), name) == known.end()) {
          return BadStudyField("policies", fmt::format("\"{}\" is not known; known are {}",
                                                       name.substr(0, 64), fmt::join(known, ", ")));
        } else {
          study_.policies.push_back(name);
        }
      }
    }
    const StudyJson* seeds = fields_.Find("seeds");
    if (seeds == nullptr) {
      study_.seeds = {1};
      return {};
    }
    if (!seeds->is_array() || seeds->empty() || seeds->size() > 1000) {
      return BadStudyField("seeds", "is not a list of 1 to 1000 numbers");
    }
    for (const StudyJson& seed : *seeds) {
      if (!seed.is_number_unsigned()) return BadStudyField("seeds", "holds what is no number of 0 or more");
      study_.seeds.push_back(seed.get<uint64_t>());
    }
    return {};
  }

  Result<Trace> ReadTraceField(const char* field) {
    const StudyJson& json = *fields_.Find(field);
    const StudyFields fields(json, field);
    TP_TRY(fields.Known({"name", "text"}));
    TP_ASSIGN(const std::string name, fields.Text("name", ""));
    if (!json.contains("text") || !json["text"].is_string()) return BadStudyField(field, "has no text");
    TraceLimits limits;
    limits.max_requests = limits_.max_requests;
    limits.max_models = limits_.max_models;
    return ReadTrace(json["text"].get_ref<const std::string&>(), name, limits);
  }

  Status Lengths_() {
    if (fields_.Find("lengths") == nullptr) return {};
    TP_ASSIGN(const Trace trace, ReadTraceField("lengths"));
    study_.lengths = LengthsOf(trace);
    return {};
  }

  Status ReadModels() {
    const StudyJson* models = fields_.Find("models");
    if (models == nullptr || models->is_string()) {
      TP_ASSIGN(set_.shapes, ParseModelMix(models == nullptr ? "mix:sosp25" : models->get<std::string>()));
      set_.names = set_.shapes;
      return {};
    }
    if (!models->is_array() || models->empty()) {
      return BadStudyField("models", "is neither a mix such as mix:sosp25 nor a list of models");
    }
    set_.listed = true;
    for (const StudyJson& model : *models) TP_TRY(ReadModel(model));
    return {};
  }

  // {"name", "like" or its own shape and profiles, "count", "rate"}
  Status ReadModel(const StudyJson& json) {
    const StudyFields fields(json, "models");
    TP_TRY(fields.Known(
        {"name", "like", "count", "rate", "weight_bytes", "layers", "kv_token_bytes", "profiles"}));
    TP_ASSIGN(std::string like, fields.Text("like", "", 256));
    TP_ASSIGN(const std::string name, fields.Text("name", like, 256));
    TP_ASSIGN(const int64_t count, fields.Integer("count", 1, 1, static_cast<int64_t>(limits_.max_models)));
    TP_ASSIGN(const double rate, fields.Number("rate", 0, 0, 1e6));
    if (name.empty()) return BadStudyField("models", "an entry has neither a name nor a like");
    if (json.contains("weight_bytes")) {
      if (!like.empty()) return BadStudyField("models", name + " has both a like and a shape of its own");
      like = name;
      StudyJson shape = json;
      TP_TRY(study_.hardware.AddModels(StudyJson{{"models", {{name, shape}}}}));
      const StudyJson none = StudyJson::object();
      const StudyJson* const found = fields.Find("profiles");
      const StudyJson& profiles = found == nullptr ? none : *found;
      if (!profiles.is_object()) return BadStudyField("models", "profiles is no object");
      for (const auto& [device, profile] : profiles.items()) {
        DeviceProfile* kind = study_.hardware.FindDevice(device);
        if (kind == nullptr) return BadStudyField("models", fmt::format("there is no device {}", device));
        std::string lower = name;
        for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        TP_ASSIGN(kind->models[lower], ParseStepProfile(profile, name));
      }
    } else if (like.empty()) {
      like = name;
    }
    if (set_.names.size() + static_cast<size_t>(count) > limits_.max_models) {
      return BadStudyField("models", fmt::format("more than {} models", limits_.max_models));
    }
    for (int64_t i = 0; i < count; ++i) {
      set_.names.push_back(count == 1 ? name : fmt::format("{}-{}", name, i + 1));
      set_.shapes.push_back(like);
      set_.rates.push_back(rate);
    }
    return {};
  }

  Status Workload() {
    TP_ASSIGN(const std::string spec, fields_.Text("workload", "", 256));
    TP_ASSIGN(const int64_t asked,
              fields_.Integer("model_count", 0, 0, static_cast<int64_t>(limits_.max_models)));
    const bool has_trace = fields_.Find("trace") != nullptr;
    if (has_trace != spec.empty() && !(set_.listed && !has_trace)) {
      return BadStudyField("workload", "give either a workload (poisson:0.1x70 and the like) or a trace");
    }
    if (!spec.empty()) {
      TP_ASSIGN(arrivals_, ParseArrivals(spec));
    } else if (has_trace) {
      TP_ASSIGN(study_.trace, ReadTraceField("trace"));
      if (!study_.trace->timed) return BadStudyField("trace", "is a table of lengths, without times");
    }
    TP_TRY(Count(asked));
    if (study_.trace) return TraceWorkload();
    if (arrivals_) {
      study_.cv = arrivals_->cv;
      study_.rates = RatesOf(*arrivals_, count_);
    } else {
      study_.rates = set_.rates;
      if (std::all_of(study_.rates.begin(), study_.rates.end(), [](double r) { return r == 0; })) {
        return BadStudyField("workload", "is missing, and no model of the list has a rate");
      }
    }
    return {};
  }

  Status Count(int64_t asked) {
    int64_t count = asked;
    if (set_.listed) count = std::ssize(set_.names);
    if (count == 0 && arrivals_) count = arrivals_->models;
    if (count == 0 && study_.trace) {
      count = std::max<int64_t>(study_.trace->nominal_models, std::ssize(study_.trace->models));
    }
    if (change_.models) {
      if (set_.listed || (study_.trace && !study_.trace->models.empty())) {
        return BadStudyField("sweep", "over models wants a workload such as poisson:0.1 and a mix of models");
      }
      count = *change_.models;
    }
    if (count <= 0) {
      return BadStudyField("workload",
                           "does not say how many models there are: poisson:0.1x70, or model_count");
    }
    if (static_cast<size_t>(count) > limits_.max_models) {
      return BadStudyField("models", fmt::format("{} are more than {}", count, limits_.max_models));
    }
    count_ = static_cast<int32_t>(count);
    return {};
  }

  Status TraceWorkload() {
    Trace& trace = *study_.trace;
    TP_ASSIGN(const double repeat, fields_.Number("repeat_until_s", 0, 0, 1e7));
    TP_ASSIGN(const std::string popularity, fields_.Text("popularity", "", 256));
    if (trace.models.empty()) {
      ArrivalSpec even;
      if (!popularity.empty()) {
        TP_ASSIGN(even,
                  ParseArrivals(popularity.find(',') == std::string::npos ? popularity + ",1" : popularity));
      }
      study_.popularity = RatesOf(even, count_);
    } else {
      if (!popularity.empty()) return BadStudyField("popularity", "the trace names its models");
      TP_TRY(MatchNames(trace));
    }
    for (const std::string& path : trace.accounts)
      study_.config.accounts.push_back({.path = path, .weights = {}});
    study_.replay = repeat == 0 && change_.rate == 1;
    if (study_.replay) return {};
    // A longer time, or another rate: the trace's rates and lengths, arrivals by chance.
    study_.duration_s = repeat > 0 ? repeat : std::max(trace.span_s(), 1.0);
    if (study_.lengths.empty()) study_.lengths = LengthsOf(trace);
    study_.rates = TraceRates(trace, count_);
    if (!study_.popularity.empty()) {
      const double sum = std::accumulate(study_.popularity.begin(), study_.popularity.end(), 0.0);
      const double all = static_cast<double>(trace.requests.size()) / std::max(trace.span_s(), 1.0);
      for (size_t m = 0; m < study_.rates.size(); ++m) study_.rates[m] = all * study_.popularity[m] / sum;
    }
    return {};
  }

  // A list of models is matched by name when it names all of the trace's; else its n-th model plays the n-th.
  Status MatchNames(Trace& trace) {
    if (set_.listed) {
      std::map<std::string, int32_t> index;
      for (size_t i = 0; i < set_.names.size(); ++i) index.emplace(set_.names[i], static_cast<int32_t>(i));
      std::vector<int32_t> to;
      for (const std::string& model : trace.models) {
        const auto entry = index.find(model);
        if (entry == index.end()) break;
        to.push_back(entry->second);
      }
      if (to.size() == trace.models.size()) {
        for (SimRequest& request : trace.requests) request.model = to[static_cast<size_t>(request.model)];
        return {};
      }
    }
    if (std::ssize(trace.models) > count_) {
      return BadStudyField("models",
                           fmt::format("there are {}, but the trace has {}", count_, trace.models.size()));
    }
    return {};
  }

  Status ResolveModels() {
    std::map<std::string, SimModel> resolved;
    for (int32_t i = 0; i < count_; ++i) {
      const size_t entry = static_cast<size_t>(i) % set_.shapes.size();
      const std::string& shape = set_.shapes[entry];
      if (!resolved.contains(shape)) {
        TP_ASSIGN(resolved[shape], study_.hardware.Resolve(shape, study_.kinds));
      }
      SimModel model = resolved[shape];
      model.name = set_.listed ? set_.names[entry] : fmt::format("{} #{}", shape, i + 1);
      study_.config.models.push_back(std::move(model));
    }
    return {};
  }

  const StudyFields fields_;
  const StudyLimits& limits_;
  const StudyChange& change_;
  Study study_;
  SimHost host_;
  ModelSet set_;
  std::optional<ArrivalSpec> arrivals_;
  int32_t count_ = 0;
};

}  // namespace

void PlaceDevices(const std::vector<DeviceCount>& devices, const SimHost& host, SimConfig& config) {
  config.kinds.clear();
  config.devices.clear();
  config.hosts.clear();
  for (const DeviceCount& device : devices) {
    const auto kind = static_cast<int32_t>(config.kinds.size());
    config.kinds.push_back({device.kind, 0, 0});
    for (int32_t i = 0; i < device.count; ++i) {
      if (i % 8 == 0) config.hosts.push_back(host);
      config.devices.push_back({kind, static_cast<int32_t>(config.hosts.size()) - 1});
    }
  }
}

Result<Study> DecodeStudy(const StudyJson& request, const StudyLimits& limits, const StudyChange& change) {
  return StudyDecoder(request, limits, change).Decode();
}

Result<std::vector<SimRequest>> Study::Requests(uint64_t seed) const {
  if (replay) return ReplayRequests(*trace, scale, popularity, seed);
  GenerateOptions options{.rates = rates,
                          .cv = cv,
                          .duration_s = duration_s,
                          .scale = scale,
                          .seed = seed,
                          .max_requests = max_requests};
  for (double& rate : options.rates) rate *= rate_factor;
  return GenerateRequests(options, lengths.empty() ? ShippedLengths() : lengths);
}

}  // namespace tidepool::compute

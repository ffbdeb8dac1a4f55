#include "compute/simulator/hardware.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "compute/simulator/shipped_data.h"

namespace tidepool::compute {
namespace {

using HardwareJson = nlohmann::ordered_json;

std::string Lower(std::string_view text) {
  std::string out(text.substr(0, 256));
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

tl::unexpected<Error> BadHardware(std::string_view where, std::string_view what) {
  return Fail(ErrorKind::kInvalid, "bad_profile", fmt::format("{}: {}", where, what), std::string(where));
}

Result<double> HardwareNumber(const HardwareJson& json, const char* key, std::string_view where, double least,
                              double most, double otherwise) {
  if (!json.is_object()) return BadHardware(where, "is not an object");
  const auto entry = json.find(key);
  if (entry == json.end()) {
    if (std::isnan(otherwise)) return BadHardware(where, fmt::format("{} is missing", key));
    return otherwise;
  }
  const double value = entry->is_number() ? entry->get<double>() : NAN;
  if (!(value >= least && value <= most)) {
    return BadHardware(
        where, fmt::format("{} is {}, not a number from {} to {}", key,
                           entry->dump(-1, ' ', false, HardwareJson::error_handler_t::replace).substr(0, 64),
                           least, most));
  }
  return value;
}

template <typename Map>
std::string KnownNames(const Map& map) {
  std::string out;
  for (const auto& [name, value] : map) out += (out.empty() ? "" : ", ") + name;
  return out;
}

// "16xH800" -> 16, "H800"; a name without a count counts once.
Result<DeviceCount> ParseCount(std::string_view text, std::string_view what) {
  DeviceCount out;
  const size_t cross = text.find('x');
  int32_t count = 0;
  const char* const begin = text.data();
  const char* const end = begin + (cross == std::string_view::npos ? 0 : cross);
  const auto [stop, problem] = std::from_chars(begin, end, count);
  if (cross != std::string_view::npos && cross > 0 && problem == std::errc() && stop == end) {
    out.count = count;
    text.remove_prefix(cross + 1);
  }
  out.kind = std::string(text);
  if (out.kind.empty() || out.kind.size() > 128 || out.count < 1 || out.count > 100'000) {
    return Fail(
        ErrorKind::kInvalid, fmt::format("bad_{}", what),
        fmt::format("{}: \"{}\" is not COUNTxNAME with a count from 1 to 100000", what, text.substr(0, 64)),
        std::string(what));
  }
  return out;
}

Result<std::vector<DeviceCount>> ParseCounts(std::string_view text, std::string_view what, int64_t most) {
  std::vector<DeviceCount> out;
  int64_t sum = 0;
  while (true) {
    const size_t comma = text.find(',');
    TP_ASSIGN(const DeviceCount count, ParseCount(text.substr(0, comma), what));
    sum += count.count;
    if (sum > most || out.size() >= 64) {
      return Fail(ErrorKind::kTooLarge, fmt::format("bad_{}", what),
                  fmt::format("{}: more than {} in all, or more than 64 kinds", what, most),
                  std::string(what));
    }
    out.push_back(count);
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

Result<StepProfile> ParseStepProfile(const HardwareJson& json, std::string_view where) {
  const HardwareJson none = HardwareJson::object();
  const auto part = [&](const char* key) -> const HardwareJson& {
    return json.is_object() && json.contains(key) ? json[key] : none;
  };
  const HardwareJson& prefill = part("prefill");
  const HardwareJson& decode = part("decode");
  // Far above any device, and low enough that no run of steps overflows nanoseconds.
  constexpr double kMostMs = 1e5, kMostTokenUs = 1e6, kMostToken2Ns = 1e3, kMostContextUs = 1e3;
  StepProfile out;
  TP_ASSIGN(const double pa, HardwareNumber(prefill, "base_ms", where, 0, kMostMs, NAN));
  TP_ASSIGN(const double pb, HardwareNumber(prefill, "per_token_us", where, 0, kMostTokenUs, NAN));
  TP_ASSIGN(const double pc, HardwareNumber(prefill, "per_token2_ns", where, 0, kMostToken2Ns, 0));
  TP_ASSIGN(const double da, HardwareNumber(decode, "base_ms", where, 0, kMostMs, NAN));
  TP_ASSIGN(const double db, HardwareNumber(decode, "per_context_token_us", where, 0, kMostContextUs, 0));
  TP_ASSIGN(const double dc, HardwareNumber(decode, "per_sequence_us", where, 0, kMostTokenUs, 0));
  if (da <= 0 && dc <= 0) return BadHardware(where, "a decode step must take time");
  out.prefill_base_s = pa * 1e-3;
  out.prefill_per_token_s = pb * 1e-6;
  out.prefill_per_token2_s = pc * 1e-9;
  out.decode_base_s = da * 1e-3;
  out.decode_per_context_token_s = db * 1e-6;
  out.decode_per_sequence_s = dc * 1e-6;
  return out;
}

Hardware Hardware::Shipped() {
  static const Hardware kShipped = [] {
    Hardware out;
    CHECK(out.AddModels(HardwareJson::parse(ShippedModelsJson())).has_value());
    for (const std::string_view json : ShippedDeviceJsons()) {
      CHECK(out.AddDevice(HardwareJson::parse(json)).has_value());
    }
    return out;
  }();
  return kShipped;
}

Status Hardware::AddModels(const HardwareJson& json) {
  if (!json.is_object() || !json.contains("models") || !json["models"].is_object()) {
    return BadHardware("models", "is no object of models by name");
  }
  for (const auto& [name, shape] : json["models"].items()) {
    if (models_.size() >= 10'000) return BadHardware("models", "more than 10000 models");
    ModelShape out;
    TP_ASSIGN(const double weights, HardwareNumber(shape, "weight_bytes", name, 1, 1e14, NAN));
    TP_ASSIGN(const double layers, HardwareNumber(shape, "layers", name, 1, 1024, 32));
    TP_ASSIGN(const double kv, HardwareNumber(shape, "kv_token_bytes", name, 1, 1e9, NAN));
    out.weight_bytes = static_cast<uint64_t>(weights);
    out.layers = static_cast<int32_t>(layers);
    out.kv_token_bytes = static_cast<uint64_t>(kv);
    models_[Lower(name)] = out;
  }
  return {};
}

Status Hardware::AddDevice(const HardwareJson& json) {
  if (!json.is_object() || !json.contains("device") || !json["device"].is_string()) {
    return BadHardware("device", "is missing: the name of the kind");
  }
  DeviceProfile out;
  out.name = json["device"].get<std::string>();
  if (out.name.empty() || out.name.size() > 64) return BadHardware("device", "is empty or too long");
  TP_ASSIGN(const double arena, HardwareNumber(json, "arena_bytes", out.name, 1, 1e15, NAN));
  out.arena_bytes = static_cast<uint64_t>(arena);
  TP_ASSIGN(out.copy_bytes_per_s, HardwareNumber(json, "copy_bytes_per_s", out.name, 1e6, 1e13, 25e9));
  TP_ASSIGN(out.price_per_hour, HardwareNumber(json, "price_per_hour", out.name, 0, 1e6, 0));
  if (!json.contains("models") || !json["models"].is_object()) {
    return BadHardware(out.name, "models, its step profiles by model, is missing");
  }
  for (const auto& [model, profile] : json["models"].items()) {
    if (out.models.size() >= 10'000) return BadHardware(out.name, "more than 10000 models");
    TP_ASSIGN(out.models[Lower(model)], ParseStepProfile(profile, fmt::format("{}: {}", out.name, model)));
  }
  if (json.contains("shapes")) TP_TRY(AddModels(HardwareJson{{"models", json["shapes"]}}));
  devices_[Lower(out.name)] = std::move(out);
  return {};
}

DeviceProfile* Hardware::FindDevice(std::string_view name) {
  const auto entry = devices_.find(Lower(name));
  return entry == devices_.end() ? nullptr : &entry->second;
}

Result<const DeviceProfile*> Hardware::Device(std::string_view name) const {
  const auto entry = devices_.find(Lower(name));
  if (entry == devices_.end()) {
    return Fail(ErrorKind::kInvalid, "unknown_device",
                fmt::format("there is no profile of device \"{}\"; known are {}", name.substr(0, 64),
                            KnownNames(devices_)),
                "devices");
  }
  return &entry->second;
}

Result<const ModelShape*> Hardware::Model(std::string_view name) const {
  const auto entry = models_.find(Lower(name));
  if (entry == models_.end()) {
    return Fail(ErrorKind::kInvalid, "unknown_model",
                fmt::format("there is no shape of model \"{}\"; known are mix:sosp25, {}", name.substr(0, 64),
                            KnownNames(models_)),
                "models");
  }
  return &entry->second;
}

Result<SimModel> Hardware::Resolve(std::string_view model, const std::vector<std::string>& kinds) const {
  TP_ASSIGN(const ModelShape* shape, Model(model));
  SimModel out;
  out.name = model;
  out.weight_bytes = shape->weight_bytes;
  out.layers = shape->layers;
  out.kv_token_bytes = shape->kv_token_bytes;
  for (const std::string& kind : kinds) {
    TP_ASSIGN(const DeviceProfile* device, Device(kind));
    const auto profile = device->models.find(Lower(model));
    if (profile == device->models.end()) {
      return Fail(ErrorKind::kInvalid, "no_profile",
                  fmt::format("there is no step profile of {} on {}; known there are {}", model, device->name,
                              KnownNames(device->models)),
                  "models");
    }
    out.profiles.push_back(profile->second);
  }
  return out;
}

Result<std::vector<DeviceCount>> ParseDevices(std::string_view text) {
  return ParseCounts(text, "devices", 100'000);
}

Result<std::vector<std::string>> ParseModelMix(std::string_view text) {
  if (text == "mix:sosp25") text = "6xqwen2.5-7b,2xyi1.5-9b,2xllama2-13b";
  if (text.starts_with("mix:")) text.remove_prefix(4);
  TP_ASSIGN(const auto counts, ParseCounts(text, "models", 10'000));
  std::vector<std::string> names;
  for (const DeviceCount& count : counts)
    names.insert(names.end(), static_cast<size_t>(count.count), count.kind);
  return names;
}

}  // namespace tidepool::compute

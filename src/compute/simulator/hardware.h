// What models and devices are to the simulator: shapes and step profiles, shipped (data/profiles) or given.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/simulator/simulator.h"

namespace tidepool::compute {

struct ModelShape {
  uint64_t weight_bytes = 0;
  int32_t layers = 32;
  uint64_t kv_token_bytes = 0;
};

struct DeviceProfile {
  std::string name;
  uint64_t arena_bytes = 0;        // weights and KV
  double copy_bytes_per_s = 25e9;  // each way
  double price_per_hour = 0;       // 0: not known
  std::map<std::string, StepProfile> models;
};

class Hardware {
 public:
  // A copy of what the binary holds.
  static Hardware Shipped();

  // A device as in data/profiles/h800.json; one of the same name is replaced. `shapes`, when it holds any,
  // are models as in data/profiles/models.json.
  Status AddDevice(const nlohmann::ordered_json& json);
  Status AddModels(const nlohmann::ordered_json& json);

  // Names are matched without regard to case. Errors list what is known.
  Result<const DeviceProfile*> Device(std::string_view name) const;
  Result<const ModelShape*> Model(std::string_view name) const;
  DeviceProfile* FindDevice(std::string_view name);

  // The model on these kinds of devices. Errors: no profile for one of them.
  Result<SimModel> Resolve(std::string_view model, const std::vector<std::string>& kinds) const;

 private:
  std::map<std::string, DeviceProfile> devices_;  // by lower-case name
  std::map<std::string, ModelShape> models_;
};

// "16xH800" or "8xH100,4xA10": at most 100,000 devices.
struct DeviceCount {
  std::string kind;
  int32_t count = 1;
};
Result<std::vector<DeviceCount>> ParseDevices(std::string_view text);

// "mix:sosp25" or "6xqwen2.5-7b,2xyi1.5-9b" or "qwen2.5-7b": the names in order; model i is entry i mod size.
Result<std::vector<std::string>> ParseModelMix(std::string_view text);

Result<StepProfile> ParseStepProfile(const nlohmann::ordered_json& json, std::string_view where);

}  // namespace tidepool::compute

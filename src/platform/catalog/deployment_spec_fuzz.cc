// What the store may hold, and what comes of it: a spec that is written and read again is the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "platform/catalog/deployment_book.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::platform;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)CheckDeploymentName(text);
  const auto json = nlohmann::ordered_json::parse(text, nullptr, false);
  const DeploymentSpec spec = DeploymentSpecOf(json);
  if (!CheckDeploymentSpec(spec)) return 0;
  const auto written = DeploymentSpecJson(spec);
  if (DeploymentSpecJson(DeploymentSpecOf(written)) != written) std::abort();
  return 0;
}

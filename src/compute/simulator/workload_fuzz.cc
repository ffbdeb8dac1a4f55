#include <cstdint>

#include "compute/simulator/study.h"
#include "compute/simulator/traces.h"

// A trace is read; then its bytes are a study's request, decoded but not run.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::compute;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const TraceLimits limits{.max_bytes = 1 << 16, .max_requests = 1000, .max_models = 50};
  if (const auto trace = ReadTrace(text, "synth-9-0.1-1.0-1.0.csv", limits)) {
    (void)TraceRates(*trace, 50);
    (void)ReplayRequests(*trace, {2, 0.5}, {1, 2}, 1);
    (void)LengthsOf(*trace);
  }
  const auto json = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!json.is_object()) return 0;
  const StudyLimits small{.max_requests = 1000, .max_models = 50, .max_devices = 50};
  if (const auto study = DecodeStudy(json, small, {})) (void)study->Requests(1);
  return 0;
}

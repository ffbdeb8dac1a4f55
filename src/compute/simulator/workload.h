// Requests of a study: arrivals from a formula or a trace, lengths from a table. The same seed gives the same
// requests on every machine with the same libm; each model has its own stream, so that adding models leaves
// the requests of the others alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/simulator/traces.h"

namespace tidepool::compute {

// splitmix64; distributions are ours because those of the standard library differ between libraries.
class SimRandom {
 public:
  explicit SimRandom(uint64_t seed, uint64_t stream = 0);
  uint64_t Next();
  double Uniform();                // in (0, 1]
  uint64_t Below(uint64_t bound);  // 0 to bound - 1
  double Exponential(double mean);
  double Gamma(double shape, double scale);

 private:
  double Normal();
  uint64_t state_;
};

// poisson:RATE        RATE requests/s for each model
// gamma:RATE,CV       the same with Gamma inter-arrivals of that coefficient of variation (1: Poisson)
// zipf:ALPHA,TOTAL    TOTAL requests/s in all, of model i (from 1) in proportion to 1/i^ALPHA
// power:ALPHA,FIRST   FIRST requests/s for the first model, FIRST/i^ALPHA for model i
// each with xMODELS at the end: poisson:0.1x70
struct ArrivalSpec {
  enum class Kind : uint8_t { kEqual, kZipf, kPower };
  Kind kind = Kind::kEqual;
  double rate = 0.1;  // of each model, in all, of the first model
  double alpha = 0;
  double cv = 1;
  int32_t models = 0;  // 0: not said
};
// Errors name the part that is wrong.
Result<ArrivalSpec> ParseArrivals(std::string_view text);
bool IsArrivalSpec(std::string_view text);  // begins like one; else it should be a file's name
std::vector<double> RatesOf(const ArrivalSpec& spec, int32_t models);

struct LengthScale {
  double input = 1, output = 1;
};

struct GenerateOptions {
  std::vector<double> rates;  // requests/s by model
  double cv = 1;
  double duration_s = 900;
  LengthScale scale = {};
  uint64_t seed = 1;
  size_t max_requests = 5'000'000;
};
// Sorted by arrival. kTooLarge when more than max_requests are to be expected.
Result<std::vector<SimRequest>> GenerateRequests(const GenerateOptions& options, const Lengths& lengths);

// Of the requests of a trace as they are: lengths scaled; with `popularity` (weights by model) each gets a
// model by chance.
std::vector<SimRequest> ReplayRequests(const Trace& trace, LengthScale scale,
                                       const std::vector<double>& popularity, uint64_t seed);

// Requests/s of each model: the nominal rate when the trace's name gives one, else counted over its span.
std::vector<double> TraceRates(const Trace& trace, int32_t models);

}  // namespace tidepool::compute

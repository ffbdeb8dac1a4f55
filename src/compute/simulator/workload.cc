#include "compute/simulator/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace tidepool::compute {
namespace {

constexpr int32_t kMaxScaledTokens = 1 << 22;

int32_t Scaled(int32_t tokens, double scale) {
  return static_cast<int32_t>(std::clamp<double>(std::llround(tokens * scale), 1, kMaxScaledTokens));
}

Result<double> SpecNumber(std::string_view spec, std::string_view text, std::string_view what, double least,
                          double most) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most)) {
    return Fail(ErrorKind::kInvalid, "bad_workload",
                fmt::format("workload \"{}\": {} \"{}\" is not a number from {} to {}", spec.substr(0, 128),
                            what, text.substr(0, 32), least, most),
                "workload");
  }
  return value;
}

}  // namespace

SimRandom::SimRandom(uint64_t seed, uint64_t stream) : state_(seed * 0x9e3779b97f4a7c15) {
  state_ = Next() ^ (stream + 1) * 0xd1342543de82ef95;
  Next();
}

uint64_t SimRandom::Next() {
  state_ += 0x9e3779b97f4a7c15;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

double SimRandom::Uniform() { return static_cast<double>((Next() >> 11) + 1) * 0x1p-53; }

// The bias of the remainder is below 2^-40 for tables of millions.
uint64_t SimRandom::Below(uint64_t bound) { return Next() % bound; }

double SimRandom::Exponential(double mean) { return -std::log(Uniform()) * mean; }

double SimRandom::Normal() {
  const double radius = std::sqrt(-2 * std::log(Uniform()));
  return radius * std::cos(2 * std::numbers::pi * Uniform());
}

// Marsaglia and Tsang, "A simple method for generating gamma variables" (2000); below shape 1 their boost.
double SimRandom::Gamma(double shape, double scale) {
  if (shape < 1) return Gamma(shape + 1, scale) * std::pow(Uniform(), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = Normal();
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    if (std::log(Uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v * scale;
  }
}

bool IsArrivalSpec(std::string_view text) {
  for (const std::string_view kind : {"poisson:", "gamma:", "zipf:", "power:"}) {
    if (text.starts_with(kind)) return true;
  }
  return false;
}

Result<ArrivalSpec> ParseArrivals(std::string_view text) {
  if (!IsArrivalSpec(text)) {
    return Fail(ErrorKind::kInvalid, "bad_workload",
                fmt::format("workload \"{}\" is none of poisson:RATE, gamma:RATE,CV, zipf:ALPHA,TOTAL and "
                            "power:ALPHA,FIRST",
                            text.substr(0, 128)),
                "workload");
  }
  ArrivalSpec spec;
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  std::string_view first = text.substr(colon + 1), second;
  if (const size_t cross = first.find('x'); cross != std::string_view::npos) {
    TP_ASSIGN(const double models, SpecNumber(text, first.substr(cross + 1), "number of models", 1, 10000));
    spec.models = static_cast<int32_t>(models);
    first = first.substr(0, cross);
  }
  const size_t comma = first.find(',');
  if (comma != std::string_view::npos) {
    second = first.substr(comma + 1);
    first = first.substr(0, comma);
  }
  if (kind == "poisson" && !second.empty()) {
    TP_TRY(SpecNumber(text, fmt::format("{},{}", first, second), "rate", 0, 1e6));
  }
  constexpr double kLeastRate = 1e-9, kMostRate = 1e6;
  if (kind == "poisson" || kind == "gamma") {
    TP_ASSIGN(spec.rate, SpecNumber(text, first, "rate", kLeastRate, kMostRate));
    if (kind == "gamma") {
      TP_ASSIGN(spec.cv, SpecNumber(text, second, "coefficient of variation", 0.1, 32));
    }
    return spec;
  }
  spec.kind = kind == "zipf" ? ArrivalSpec::Kind::kZipf : ArrivalSpec::Kind::kPower;
  TP_ASSIGN(spec.alpha, SpecNumber(text, first, "exponent", 0, 10));
  TP_ASSIGN(spec.rate, SpecNumber(text, second, "rate", kLeastRate, kMostRate));
  return spec;
}

std::vector<double> RatesOf(const ArrivalSpec& spec, int32_t models) {
  std::vector<double> rates(static_cast<size_t>(std::max(models, 0)), spec.rate);
  if (spec.kind == ArrivalSpec::Kind::kEqual) return rates;
  double sum = 0;
  for (size_t i = 0; i < rates.size(); ++i) {
    rates[i] = std::pow(static_cast<double>(i + 1), -spec.alpha);
    sum += rates[i];
  }
  const double factor = spec.kind == ArrivalSpec::Kind::kZipf ? spec.rate / sum : spec.rate;
  for (double& rate : rates) rate *= factor;
  return rates;
}

Result<std::vector<SimRequest>> GenerateRequests(const GenerateOptions& options, const Lengths& lengths) {
  CHECK(!lengths.empty() && options.cv > 0);
  double expected = 0;
  for (const double rate : options.rates) expected += rate * options.duration_s;
  if (!(expected <= static_cast<double>(options.max_requests))) {
    return Fail(
        ErrorKind::kTooLarge, "workload_too_large",
        fmt::format("the workload would hold about {:.0f} requests, more than {}; shorten it or lower "
                    "its rate",
                    expected, options.max_requests),
        "workload");
  }
  std::vector<SimRequest> requests;
  requests.reserve(static_cast<size_t>(expected * 1.1) + 16);
  const double shape = 1 / (options.cv * options.cv);
  for (size_t model = 0; model < options.rates.size(); ++model) {
    const double rate = options.rates[model];
    if (!(rate > 0)) continue;
    SimRandom random(options.seed, model);
    const auto gap = [&] {
      return options.cv == 1 ? random.Exponential(1 / rate) : random.Gamma(shape, 1 / (rate * shape));
    };
    // A process that is not Poisson remembers its last arrival: it begins long before time 0.
    double at = options.cv == 1 ? 0 : -50 / rate;
    for (at += gap(); at < options.duration_s; at += gap()) {
      if (at < 0) continue;
      if (requests.size() >= options.max_requests * 2) break;
      const auto& [prompt, output] = lengths[random.Below(lengths.size())];
      SimRequest request;
      request.arrival = std::llround(at * 1e9);
      request.model = static_cast<int32_t>(model);
      request.prompt = Scaled(prompt, options.scale.input);
      request.output = Scaled(output, options.scale.output);
      requests.push_back(request);
    }
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const SimRequest& a, const SimRequest& b) { return a.arrival < b.arrival; });
  return requests;
}

std::vector<SimRequest> ReplayRequests(const Trace& trace, LengthScale scale,
                                       const std::vector<double>& popularity, uint64_t seed) {
  std::vector<SimRequest> requests = trace.requests;
  std::vector<double> cumulative;
  double sum = 0;
  for (const double weight : popularity) cumulative.push_back(sum += weight);
  SimRandom random(seed);
  for (SimRequest& request : requests) {
    request.prompt = Scaled(request.prompt, scale.input);
    request.output = Scaled(request.output, scale.output);
    if (cumulative.empty()) continue;
    const auto at = std::lower_bound(cumulative.begin(), cumulative.end(), random.Uniform() * sum);
    request.model =
        static_cast<int32_t>(std::min<ptrdiff_t>(at - cumulative.begin(), std::ssize(cumulative) - 1));
  }
  return requests;
}

std::vector<double> TraceRates(const Trace& trace, int32_t models) {
  if (trace.nominal_rate > 0) {
    std::vector<double> rates(static_cast<size_t>(models), 0);
    std::fill_n(rates.begin(), std::min(models, trace.nominal_models), trace.nominal_rate);
    return rates;
  }
  std::vector<double> rates(static_cast<size_t>(models), 0);
  const double span = std::max(trace.span_s(), 1.0);
  for (const SimRequest& request : trace.requests) {
    if (request.model < models) rates[static_cast<size_t>(request.model)] += 1 / span;
  }
  return rates;
}

}  // namespace tidepool::compute

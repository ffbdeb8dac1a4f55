// What a row costs to sample, in microseconds: sampler_bench [--vocab 151936] [--rows 16] [--seconds 0.3]
//
// Sixteen rows (by default) in turn, as the streams of a step would bring them: they are in no near cache.
// Two shapes:
//   sure  a few tokens stand out, as where a trained model is sure of itself
//   flat  normally distributed logits: most of the vocabulary has its share of the mass
// Columns: with the row's peaks, as decoders give them; without, when the sampler makes them itself; and, for
// what reads the whole row, the rows shared out among the threads of a device (time of all rows / rows).
// Medians.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "chips/device.h"
#include "compute/engine/sampler.h"

namespace tidepool::compute {
namespace {

struct Settings {
  int32_t vocab = 151'936;
  int rows = 16;
  double seconds = 0.3;
};

double Median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

template <typename Body>
double MedianMicroseconds(double seconds, const Body& body) {
  using WallClock = std::chrono::steady_clock;
  std::vector<double> times;
  const auto end = WallClock::now() + std::chrono::duration<double>(seconds);
  while (WallClock::now() < end || times.size() < 5) {
    const auto begin = WallClock::now();
    body();
    times.push_back(std::chrono::duration<double, std::micro>(WallClock::now() - begin).count());
  }
  return Median(times);
}

struct Rows {
  std::vector<std::vector<float>> logits, peaks;
};

Rows MakeRows(const Settings& settings, bool sure) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, sure ? 2.5f : 1.0f);
  Rows rows;
  for (int r = 0; r < settings.rows; ++r) {
    std::vector<float> row(static_cast<size_t>(settings.vocab));
    for (float& logit : row) logit = normal(random);
    for (int i = 0; sure && i < 40; ++i) row[random() % row.size()] = 22.0f - 0.3f * static_cast<float>(i);
    std::vector<float> peaks(static_cast<size_t>(chips::PeaksOf(settings.vocab)));
    for (size_t b = 0; b * kRowBlock < row.size(); ++b) {
      const size_t size = std::min(kRowBlock, row.size() - b * kRowBlock);
      (*RowKernelSets())->peaks(row.data() + b * kRowBlock, size, peaks.data() + b * kRowLanes);
    }
    rows.logits.push_back(std::move(row));
    rows.peaks.push_back(std::move(peaks));
  }
  return rows;
}

struct Way {
  std::string name;
  SamplingParams params;
  int32_t history = 0;  // tokens with counts
};

std::vector<Way> Ways() {
  std::vector<Way> ways;
  const auto add = [&](const char* name, int32_t history, auto change) {
    Way way{.name = name, .params = {}, .history = history};
    way.params.temperature = 0.7f;
    change(way.params);
    ways.push_back(std::move(way));
  };
  add("greedy", 0, [](SamplingParams& p) { p.temperature = 0; });
  add("greedy, 300 penalties", 300, [](SamplingParams& p) { p.temperature = 0; });
  add("temperature 0.7", 0, [](SamplingParams&) {});
  add("top_k 20", 0, [](SamplingParams& p) { p.top_k = 20; });
  add("top_p 0.9", 0, [](SamplingParams& p) { p.top_p = 0.9f; });
  add("top_k 20, top_p 0.8", 0, [](SamplingParams& p) {
    p.top_k = 20;
    p.top_p = 0.8f;
  });
  add("min_p 0.05", 0, [](SamplingParams& p) { p.min_p = 0.05f; });
  add("top_k 20, 300 penalties", 300, [](SamplingParams& p) { p.top_k = 20; });
  add("greedy, 5 logprobs", 0, [](SamplingParams& p) {
    p.temperature = 0;
    p.top_logprobs = 5;
  });
  for (Way& way : ways) {
    if (way.history > 0) way.params.repetition_penalty = 1.1f;
  }
  return ways;
}

void Run(const Settings& settings) {
  auto device = chips::MakeCpuDevice({}).value();
  const auto threads = static_cast<size_t>(device->info().threads);
  std::vector<std::unique_ptr<Sampler>> samplers;
  while (samplers.size() < threads) samplers.push_back(std::make_unique<Sampler>(settings.vocab));
  fmt::print("{} logits, {} rows, {} kernels; us a row\n\n", settings.vocab, settings.rows,
             (*RowKernelSets())->name);
  fmt::print("{:<26} {:>10} {:>10} {:>12}\n", "", "peaks", "no peaks", fmt::format("{} threads", threads));
  for (const bool sure : {true, false}) {
    const Rows rows = MakeRows(settings, sure);
    for (const Way& way : Ways()) {
      TokenCounts counts;
      counts.Reserve(static_cast<size_t>(way.history));
      for (int32_t i = 0; i < way.history; ++i)
        counts.Add(static_cast<int32_t>(i * 7919LL % settings.vocab), i % 2 == 0);
      std::atomic<int64_t> sum{0};  // keeps the work alive
      std::vector<TokenLogprob> logprobs(threads);
      for (TokenLogprob& logprob : logprobs) logprob.top.reserve(20);
      uint64_t index = 0;
      const auto sample = [&](size_t r, bool peaks, size_t worker) {
        const Sampler::Row row{rows.logits[r], peaks ? rows.peaks[r].data() : nullptr};
        Sampler& sampler = *samplers[worker];
        const int32_t token = sampler.Sample(row, {.params = &way.params,
                                                   .counts = way.history > 0 ? &counts : nullptr,
                                                   .seed = r,
                                                   .index = index});
        if (way.params.top_logprobs >= 0)
          sampler.Logprobs(row, token, way.params.top_logprobs, logprobs[worker]);
        sum.fetch_add(token, std::memory_order_relaxed);
      };
      const auto one_by_one = [&](bool peaks) {
        return MedianMicroseconds(settings.seconds,
                                  [&] {
                                    ++index;
                                    for (size_t r = 0; r < rows.logits.size(); ++r) sample(r, peaks, 0);
                                  }) /
               settings.rows;
      };
      const auto shared_out = [&] {
        return MedianMicroseconds(settings.seconds,
                                  [&] {
                                    ++index;
                                    std::atomic<size_t> next{0};
                                    device->RunOnThreads(static_cast<int64_t>(threads), [&](int64_t worker) {
                                      for (size_t r = next.fetch_add(1); r < rows.logits.size();
                                           r = next.fetch_add(1)) {
                                        sample(r, true, static_cast<size_t>(worker));
                                      }
                                    });
                                  }) /
               settings.rows;
      };
      const double with_peaks = one_by_one(true), without = one_by_one(false);
      fmt::print("{:<5}{:<21} {:10.2f} {:10.2f} {:>12}\n", sure ? "sure" : "flat", way.name, with_peaks,
                 without, ReadsWholeRow(way.params) ? fmt::format("{:.2f}", shared_out()) : "");
    }
  }
}

}  // namespace
}  // namespace tidepool::compute

int main(int argc, char** argv) {
  tidepool::compute::Settings settings;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const double value = i + 1 < argc ? std::atof(argv[i + 1]) : 0;
    if (name == "--vocab" && value >= 1) {
      settings.vocab = static_cast<int32_t>(value);
    } else if (name == "--rows" && value >= 1) {
      settings.rows = static_cast<int>(value);
    } else if (name == "--seconds" && value > 0) {
      settings.seconds = value;
    } else {
      fmt::print(stderr, "sampler_bench [--vocab N] [--rows N] [--seconds S]\n");
      return 2;
    }
  }
  tidepool::compute::Run(settings);
  return 0;
}

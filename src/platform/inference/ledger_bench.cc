// What the ledger costs: time to the first token and to the end of answers of the simulated model, at a
// steady rate, without a ledger, with one whose rows go nowhere after the journal, and with the whole over
// SQLite; in turns, in one run.
//
//   ledger_bench [REQUESTS_PER_S=500] [SECONDS=10] [ROUNDS=3]
//
// Prints JSON: for each, percentiles of both times in milliseconds; the measured fdatasync of the same
// folder; rows/s.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "platform/inference/metering_rig.h"

namespace tidepool::platform {
namespace {

using Time = std::chrono::steady_clock::time_point;
double Milliseconds(Time from, Time to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

struct Times {
  std::vector<double> first, end;
};

class TimedSink final : public ChatSink {
 public:
  void OnToken(int32_t, const compute::TokenEvent&) override {
    if (first == Time()) first = std::chrono::steady_clock::now();
  }
  void OnFinish(int32_t, const compute::FinishEvent&) override {}
  void OnDone(const Result<compute::Usage>& usage) override {
    CHECK(usage.has_value());
    end = std::chrono::steady_clock::now();
    done.store(true, std::memory_order_release);
  }
  Time begin, first, end;
  std::atomic<bool> done{false};
};

double Percentile(std::vector<double>& values, double share) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

void SetRules(Accounting& accounting) {
  // Every kind of rule at work, none refusing.
  for (const ScopeKind kind : {ScopeKind::kOrganisation, ScopeKind::kWorkspace, ScopeKind::kKey}) {
    const Scope scope{kind, kind == ScopeKind::kKey ? "key" : kind == ScopeKind::kWorkspace ? "ws" : "org"};
    CHECK(accounting
              .SetLimit({}, {.scope = scope,
                             .organisation = "org",
                             .requests_per_minute = 100'000'000,
                             .tokens_per_minute = 100'000'000'000,
                             .tokens_per_day = 100'000'000'000,
                             .concurrent_requests = 1'000'000})
              .has_value());
    Budget budget{.id = "", .scope = scope, .organisation = "org"};
    budget.amount = *Money::Parse("1000000000");
    CHECK(accounting.SetBudget({}, budget).has_value());
  }
  CHECK(accounting
            .AddPrices(
                {},
                *ParsePriceBook(nlohmann::ordered_json::parse(
                    R"({"currency":"EUR","models":[{"model":"*","tiers":[{"input":"1","output":"2"}]}]})")),
                "bench")
            .has_value());
}

void Drive(Inference& inference, double rate, double seconds, Times& times) {
  std::vector<std::shared_ptr<TimedSink>> sinks;
  std::vector<std::shared_ptr<Generation>> running;
  const auto start = std::chrono::steady_clock::now();
  const auto count = static_cast<int>(rate * seconds);
  for (int i = 0; i < count; ++i) {
    std::this_thread::sleep_until(start + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                              std::chrono::duration<double>(i / rate)));
    ChatRequest request;
    request.request_id = fmt::format("b{}", i);
    request.model = "scripted";
    request.messages = nlohmann::ordered_json::array({{{"role", "user"}, {"content", "[[tokens:6]]"}}});
    request.sampling.max_tokens = 16;
    request.principal.organisation = "org";
    request.principal.workspace = "ws";
    request.principal.key = "key";
    auto sink = std::make_shared<TimedSink>();
    sink->begin = std::chrono::steady_clock::now();
    auto generation = inference.Chat(std::move(request), sink);
    CHECK(generation.has_value());
    sinks.push_back(std::move(sink));
    running.push_back(std::move(*generation));
  }
  for (const auto& sink : sinks) {
    while (!sink->done.load(std::memory_order_acquire))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    times.first.push_back(Milliseconds(sink->begin, sink->first));
    times.end.push_back(Milliseconds(sink->begin, sink->end));
  }
}

// The folder's own fdatasync after an append of 4 KiB into zeros that were written before.
double SyncMilliseconds(const std::filesystem::path& folder) {
  const std::string path = (folder / "sync").string();
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
  CHECK(file >= 0);
  const std::string block(4096, 'x');
  CHECK(::pwrite(file, std::string(4 << 20, '\0').data(), 4 << 20, 0) == 4 << 20 && ::fdatasync(file) == 0);
  std::vector<double> times;
  for (int i = 0; i < 200; ++i) {
    CHECK(::pwrite(file, block.data(), block.size(), i * 4096) == 4096);
    const auto begin = std::chrono::steady_clock::now();
    CHECK(::fdatasync(file) == 0);
    times.push_back(Milliseconds(begin, std::chrono::steady_clock::now()));
  }
  ::close(file);
  return Percentile(times, 0.5);
}

// Meters opened and closed as fast as they go, 256 at a time: rows made durable a second, and in the store.
nlohmann::ordered_json RowsPerSecond(Accounting& accounting) {
  constexpr int kRows = 50'000, kAtOnce = 256;
  std::mutex mutex;
  std::condition_variable changed;
  int open = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kRows; ++i) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return open < kAtOnce; });
      ++open;
    }
    AdmissionRequest request;
    request.payer = {"org", "ws", "key", ""};
    request.model = request.model_version = "m";
    request.prompt_tokens = request.max_output_tokens = 10;
    auto meter = accounting.ledger().Admit(request, "r", "completions");
    CHECK(meter.has_value());
    (*meter)->Count({.prompt = 10, .cached = 0, .output = 5, .reasoning = 0}, 1);
    (*meter)->Close(UsageStatus::kDone, "", {}, [&](const Status&) {
      std::lock_guard lock(mutex);
      --open;
      changed.notify_one();
    });
  }
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return open == 0; });
  }
  const double durable_s = Milliseconds(start, std::chrono::steady_clock::now()) / 1000;
  CHECK(accounting.ledger().Flush(300));
  const double stored_s = Milliseconds(start, std::chrono::steady_clock::now()) / 1000;
  return {{"durable_rows_per_s", std::round(kRows / durable_s)},
          {"stored_rows_per_s", std::round(kRows / stored_s)}};
}

int Main(int argc, char** argv) {
  const double rate = argc > 1 ? std::atof(argv[1]) : 500;
  const double seconds = argc > 2 ? std::atof(argv[2]) : 10;
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
  const std::pair<const char*, MeteringRig::Kind> kinds[] = {{"no ledger", MeteringRig::Kind::kUnmetered},
                                                             {"null store", MeteringRig::Kind::kNullStore},
                                                             {"SQLite", MeteringRig::Kind::kWhole}};
  std::map<std::string, Times> times;
  nlohmann::ordered_json out;
  for (int round = 0; round < rounds; ++round) {
    for (const auto& [name, kind] : kinds) {
      MeteringRig::Options options;
      options.kind = kind;
      MeteringRig rig(std::move(options));
      if (rig.accounting) SetRules(*rig.accounting);
      Times warm;
      Drive(*rig.inference, rate, 0.5, warm);
      Drive(*rig.inference, rate, seconds, times[name]);
      if (round == 0 && kind == MeteringRig::Kind::kWhole) {
        out["fdatasync_ms"] = SyncMilliseconds(rig.folder());
        out.update(RowsPerSecond(*rig.accounting));
      }
    }
  }
  for (const auto& [name, kind] : kinds) {
    Times& t = times[name];
    out[name] = {{"first_p50_ms", Percentile(t.first, 0.5)},
                 {"first_p99_ms", Percentile(t.first, 0.99)},
                 {"end_p50_ms", Percentile(t.end, 0.5)},
                 {"end_p99_ms", Percentile(t.end, 0.99)}};
  }
  out["added_to_first_p99_ms"] =
      out["SQLite"]["first_p99_ms"].get<double>() - out["no ledger"]["first_p99_ms"].get<double>();
  out["end_p50_against_null_store"] =
      out["SQLite"]["end_p50_ms"].get<double>() / out["null store"]["end_p50_ms"].get<double>();
  fmt::print("{}\n", out.dump(2));
  return 0;
}

}  // namespace
}  // namespace tidepool::platform

int main(int argc, char** argv) { return tidepool::platform::Main(argc, argv); }

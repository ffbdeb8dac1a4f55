// Prints what packing and switching cost on this machine: residency_bench MODEL [FOLDER].
//
//   pack    source bytes a second into the packed file, and the wait for the disk after it
//   open    from a path to a model over a packed file that exists, no weight read
//   cold    disk -> resident, with and without checksums
//   warm    in memory -> resident: what a switch costs, beside what copying the bytes would take
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "compute/residency/packed_cache.h"
#include "compute/residency/residency.h"

namespace tidepool::compute {
namespace {

using WallClock = std::chrono::steady_clock;

double SecondsSince(WallClock::time_point begin) {
  return std::chrono::duration<double>(WallClock::now() - begin).count();
}

template <typename T>
T Must(Result<T> result) {
  if (!result) {
    fmt::print(stderr, "{}\n", result.error().message);
    std::exit(1);
  }
  return std::move(*result);
}

double CopyBytesPerSecond() {
  constexpr size_t kBytes = size_t{256} << 20;
  std::vector<char> from(kBytes, 1), to(kBytes, 2);
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto begin = WallClock::now();
    std::memcpy(to.data(), from.data(), kBytes);
    best = std::max(best, static_cast<double>(kBytes) / SecondsSince(begin));
  }
  return best;
}

LoadReport Load(ResidentWeights& weights) {
  std::promise<LoadReport> promise;
  weights.Load([&](const LoadReport& report) { promise.set_value(report); });
  return promise.get_future().get();
}

void PrintLoad(const char* name, const LoadReport& report, double seconds) {
  CHECK(report.status.has_value());
  const auto bytes = static_cast<double>(report.cold_bytes + report.warm_bytes);
  fmt::print("{:<22} {:8.1f} MiB in {:8.2f} ms  {:7.2f} GB/s\n", name, bytes / (1 << 20), 1e3 * seconds,
             bytes / seconds / 1e9);
}

void Run(const std::filesystem::path& path, const std::filesystem::path& folder) {
  const auto device = Must(chips::MakeCpuDevice({}));
  const auto cache = Must(PackedCache::Open({.folder = folder}));
  const SteadyClock clock;
  Ledger ledger(uint64_t{64} << 30);
  const auto open = [&] {
    const auto begin = WallClock::now();
    const auto checkpoint = Must(formats::Checkpoint::Open(path));
    const double header_s = SecondsSince(begin);
    PackedModel opened = Must(cache->OpenOrBuild(*checkpoint, *device, {}, path.string()));
    const double seconds = SecondsSince(begin);
    if (opened.built) {
      const architectures::PackReport& report = opened.report;
      fmt::print(
          "pack                   {:8.1f} MiB in {:8.2f} ms  {:7.2f} GB/s of source, then {:.0f} ms for the "
          "disk\n",
          static_cast<double>(report.source_bytes) / (1 << 20), 1e3 * report.pack_s,
          static_cast<double>(report.source_bytes) / report.pack_s / 1e9, 1e3 * report.sync_s);
    } else {
      fmt::print("open                   {:.2f} ms, of it {:.2f} ms for the source's header\n", 1e3 * seconds,
                 1e3 * header_s);
    }
    return opened;
  };
  {
    const PackedModel built = open();
  }
  for (const bool verify : {false, true}) {
    PackedModel opened = open();
    const auto residency = Residency::Start(ledger, clock, {.warm_bytes = uint64_t{16} << 30});
    for (const bool from_memory : {true, false}) {
      if (!from_memory) residency->SetWarmLimit(0);
      auto weights = residency->Attach("model", "key", MakeFileBacking(opened.file, {.verify = verify}));
      residency->WaitIdle();
      auto begin = WallClock::now();
      LoadReport report = Load(*weights);
      PrintLoad(fmt::format("first {} {}", from_memory ? "warm" : "cold", verify ? "verified" : "").c_str(),
                report, SecondsSince(begin));
      if (from_memory) {
        begin = WallClock::now();
        weights->Evict(UINT64_MAX);
        fmt::print("evict                  {:.3f} ms\n", 1e3 * SecondsSince(begin));
        residency->WaitIdle();
        begin = WallClock::now();
        report = Load(*weights);
        PrintLoad("switch warm", report, SecondsSince(begin));
      }
      weights->Evict(UINT64_MAX);
      residency->WaitIdle();
    }
    opened = {};
  }
  fmt::print("copying memory         {:.2f} GB/s\n", CopyBytesPerSecond() / 1e9);
}

}  // namespace
}  // namespace tidepool::compute

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    fmt::print(stderr, "usage: residency_bench MODEL [FOLDER for packed files]\n");
    return 2;
  }
  tidepool::compute::Run(argv[1],
                         argc > 2 ? argv[2] : std::filesystem::temp_directory_path() / "tidepool-packed");
  return 0;
}

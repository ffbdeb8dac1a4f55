#include "server/doctor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "gateway/native/handlers.h"
#include "platform/accounts/home.h"

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;

struct Disk {
  uint64_t free_bytes = 0;
  double write_bytes_per_s = 0;
};

// Writes 64 MiB and syncs: enough to tell a network disk from a local one, short enough to wait for.
Disk MeasureDisk(const std::filesystem::path& home) {
  Disk disk;
  struct statvfs stat{};
  if (::statvfs(home.c_str(), &stat) == 0) disk.free_bytes = uint64_t{stat.f_bavail} * stat.f_frsize;
  constexpr size_t kProbeBytes = size_t{64} << 20;
  if (disk.free_bytes < 4 * kProbeBytes) return disk;
  const std::filesystem::path path = home / "doctor.probe";
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return disk;
  const std::vector<char> chunk(size_t{4} << 20, 'x');
  const auto start = std::chrono::steady_clock::now();
  size_t written = 0;
  while (written < kProbeBytes) {
    const ssize_t got = ::write(file, chunk.data(), chunk.size());
    if (got <= 0) break;
    written += static_cast<size_t>(got);
  }
  ::fdatasync(file);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  ::close(file);
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  if (took.count() > 0) disk.write_bytes_per_s = static_cast<double>(written) / took.count();
  return disk;
}

double LoadAverage() {
  double load = 0;
  return ::getloadavg(&load, 1) == 1 ? load : 0;
}

// One of gateway::native::kDoctorFindings, or it does not compile: the web application has a text for each,
// which it fills with the finding's values.
struct FindingId {
  consteval FindingId(const char* text) : id(text) {
    if (std::ranges::find(gateway::native::kDoctorFindings, id) == std::end(gateway::native::kDoctorFindings))
      throw "a finding that kDoctorFindings lacks";
  }
  std::string_view id;
};

// One of gateway::native::kDoctorReasons; null for an error that is none of them.
Json ReasonOf(std::string_view code) {
  const auto& known = gateway::native::kDoctorReasons;
  return std::ranges::find(known, code) == std::end(known) ? Json() : Json(code);
}

void AddFinding(Json& advice, FindingId id, const char* topic, const char* level, std::string text,
                Json values = Json::object(), Json reason = nullptr) {
  advice.push_back({{"id", id.id},
                    {"topic", topic},
                    {"level", level},
                    {"text", std::move(text)},
                    {"values", std::move(values)},
                    {"reason", std::move(reason)}});
}

Json Advice(const chips::DeviceInfo& info, const chips::Roofline& roofline, uint64_t pool_bytes,
            const Disk& disk) {
  Json advice = Json::array();
  const std::vector<std::string> sets = chips::CpuInstructionSets();
  if (sets.front() == "reference") {
    AddFinding(advice, "processor_reference", "processor", "warn",
               "no AVX2: only the slow reference kernels run here; use a newer processor");
  } else if (info.instruction_set != sets.front()) {
    AddFinding(advice, "processor_not_best", "processor", "hint",
               fmt::format("{} is used although this processor has {}; unset pool.instruction_set",
                           info.instruction_set, sets.front()),
               {{"used", info.instruction_set}, {"best", sets.front()}});
  } else {
    AddFinding(advice, "processor_best", "processor", "ok",
               fmt::format("the best kernels for this processor are in use ({})", info.instruction_set),
               {{"used", info.instruction_set}});
  }
  if (const double load = LoadAverage(); load > info.threads * 0.5) {
    AddFinding(
        advice, "load_high", "load", "warn",
        fmt::format("other programs use the processor (load {:.1f} on {} threads): answers will be slower",
                    load, info.threads),
        {{"load", fmt::format("{:.1f}", load)}, {"threads", info.threads}});
  }
  // Decode reads every weight once per token, so this is the ceiling that people meet first.
  const double gb_per_s = roofline.memory_bytes_per_s / 1e9;
  AddFinding(
      advice, "memory_speed", "memory", "hint",
      fmt::format("memory reads at {:.1f} GB/s: one stream of a model with 1 GB of weights decodes at most "
                  "{:.0f} tokens/s; smaller quantisations (Q4_K_M) and several requests at once raise the "
                  "total",
                  gb_per_s, gb_per_s),
      {{"rate", fmt::format("{:.1f}", gb_per_s)}, {"tokens", fmt::format("{:.0f}", gb_per_s)}});
  const auto gib = [](uint64_t bytes) {
    return fmt::format("{:.1f}", static_cast<double>(bytes) / (1 << 30));
  };
  if (pool_bytes < (uint64_t{2} << 30)) {
    AddFinding(advice, "pool_small", "pool", "warn",
               fmt::format("the pool has only {} GiB; raise pool.memory to hold more than small models",
                           gib(pool_bytes)),
               {{"gib", gib(pool_bytes)}});
  }
  if (disk.free_bytes < (uint64_t{10} << 30)) {
    AddFinding(
        advice, "disk_low", "disk", "warn",
        fmt::format("{} GiB free: remove models (tidepool rm) or move TIDEPOOL_HOME", gib(disk.free_bytes)),
        {{"gib", gib(disk.free_bytes)}});
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 4096) {
    const auto limit = static_cast<uint64_t>(files.rlim_cur);
    AddFinding(advice, "files_few", "files", "hint",
               fmt::format("open files are limited to {}; `ulimit -n 65536` allows more connections", limit),
               {{"limit", limit}});
  }
  return advice;
}

// Opening a file reads its header only.
void AddSlowModels(const chips::Device& device, const platform::Catalog& catalog, Json& advice) {
  constexpr size_t kMostModels = 200;
  const std::vector<platform::StoredModel> models = catalog.List();
  for (size_t i = 0; i < std::min(models.size(), kMostModels); ++i) {
    if (models[i].format == "none") continue;
    const auto path = catalog.Materialise(models[i]);
    if (!path) continue;
    const auto checkpoint = formats::Checkpoint::Open(*path);
    if (!checkpoint) {
      AddFinding(advice, "model_broken", "model", "warn",
                 fmt::format("{} cannot be opened: {}", models[i].id, checkpoint.error().message),
                 {{"model", models[i].id}, {"why", checkpoint.error().message}},
                 ReasonOf(checkpoint.error().code));
      continue;
    }
    for (Json row : SlowTensors(device, **checkpoint)) {
      const Json reason = row["reason"];
      row.erase("reason");
      row["model"] = models[i].id;
      AddFinding(advice, "kernels_slow", "kernels", "hint",
                 fmt::format("{}: {} tensors of type {} ({}) take a slower path: {}", models[i].id,
                             row["tensors"].get<int64_t>(), row["type"].get<std::string>(),
                             row["example"].get<std::string>(), row["why"].get<std::string>()),
                 row, reason);
    }
  }
}

}  // namespace

Json SlowTensors(const chips::Device& device, const formats::Checkpoint& checkpoint) {
  struct Group {
    int64_t tensors = 0;
    const formats::Tensor* example = nullptr;
    const char* reason = "";
  };
  std::map<std::pair<std::string, std::string>, Group> groups;  // by type and reason
  for (const formats::Tensor& tensor : checkpoint.tensors()) {
    if (tensor.shape.size() != 2) continue;  // vectors are float32 whatever the file has
    const bool fp8 = tensor.type == chips::DataType::kF8_E4M3;
    const chips::WeightSpec spec{fp8 ? chips::DataType::kBF16 : tensor.type, tensor.shape[0],
                                 tensor.shape[1]};
    std::string why;
    const char* reason = "";
    if (const auto bytes = device.PackedBytes(spec); !bytes) {
      why = bytes.error().message;
      reason = bytes.error().code == "bad_weight_shape" ? "shape_unsupported" : "type_unsupported";
    } else if (const chips::KernelChoice choice = device.DescribeKernel(spec); !choice.fast) {
      why = choice.why;
      reason = device.info().instruction_set == "reference" ? "reference_kernels" : "no_kernel";
    } else if (fp8) {
      why = "8-bit floats are kept as BF16: twice the bytes";
      reason = "kept_as_bf16";
    }
    if (why.empty()) continue;
    Group& group = groups[{std::string(chips::TraitsOf(tensor.type).name), why}];
    if (group.tensors++ == 0) group = {1, &tensor, reason};
  }
  Json rows = Json::array();
  for (const auto& [key, group] : groups) {
    const formats::Tensor& example = *group.example;
    rows.push_back({{"type", key.first},
                    {"tensors", group.tensors},
                    {"example", example.name},
                    {"shape", fmt::format("{}x{}", example.shape[0], example.shape[1])},
                    {"block", chips::TraitsOf(example.type).block_elements},
                    {"reason", ReasonOf(group.reason)},
                    {"why", key.second}});
  }
  return rows;
}

Json DescribeMachine(const DoctorInput& input) {
  chips::Device& device = *input.device;
  const std::filesystem::path& home = input.home;
  const uint64_t pool_bytes = input.pool_bytes;
  const chips::DeviceInfo& info = device.info();
  MachineProfile profile = input.profile;
  if (const Status measured = MeasureMachine(device, input.options, input.calibrate, /*again=*/true, profile);
      !measured)
    LogWarn("the machine cannot be measured", {{"reason", measured.error().message}});
  const chips::Roofline& roofline = profile.roofline;
  if (const Status written = WriteMachineProfile(home / kMachineProfileFile, profile); !written)
    LogWarn("what was measured of the machine is not kept", {{"reason", written.error().message}});
  Json kernels = Json::array();
  if (const auto measured = chips::MeasureCpuKernels(input.options, roofline)) {
    for (const chips::KernelMeasurement& kernel : *measured) {
      kernels.push_back({{"type", chips::TraitsOf(kernel.type).name},
                         {"kernel", kernel.choice.kernel},
                         {"one_row_bytes_per_s", kernel.one_row_bytes_per_s},
                         {"one_row_share", kernel.one_row_share},
                         {"many_rows_ops_per_s", kernel.many_rows_ops_per_s},
                         {"many_rows_share", kernel.many_rows_share}});
    }
  }
  const Disk disk = MeasureDisk(home);
  Json advice = Advice(info, roofline, pool_bytes, disk);
  if (const Status key_file = platform::CheckKeyFile(home); !key_file) {
    const Error& wrong = key_file.error();
    AddFinding(advice, "key_file", "keys", "warn", wrong.message,
               {{"why", wrong.message}, {"file", (home / platform::KeyFile::kName).string()}},
               ReasonOf(wrong.code));
  }
  if (input.catalog != nullptr) AddSlowModels(device, *input.catalog, advice);
  return {{"device", info.name},
          {"threads", info.threads},
          {"instruction_set", info.instruction_set},
          {"instruction_sets", chips::CpuInstructionSets()},
          {"memory_bytes", info.memory_bytes},
          {"pool_bytes", pool_bytes},
          {"memory_bytes_per_s", roofline.memory_bytes_per_s},
          {"int8_ops_per_s", roofline.int8_ops_per_s},
          {"f32_flops_per_s", roofline.f32_flops_per_s},
          {"disk_free_bytes", disk.free_bytes},
          {"disk_write_bytes_per_s", disk.write_bytes_per_s},
          {"home", home.string()},
          {"load_average", LoadAverage()},
          {"tuned", input.profile.tuned},
          {"tuning", DescribeTuning(input.profile.tuning)},
          {"kernels", std::move(kernels)},
          {"advice", std::move(advice)}};
}

}  // namespace tidepool::server

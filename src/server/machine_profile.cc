#include "server/machine_profile.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <system_error>

#include "base/log.h"
#include "server/server.h"

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;
using chips::cpu::KernelTuning;

constexpr size_t kMostBytes = size_t{64} << 10;
constexpr int kFormat = 3;
// Nothing that measures itself is beyond these: bytes or operations a second.
constexpr double kLeastRate = 1e6, kMostRate = 1e18;

tl::unexpected<Error> Unusable(const std::filesystem::path& file, std::string_view why) {
  return Fail(ErrorKind::kCorrupt, "machine_profile_unusable",
              fmt::format("{}: {}; the machine is measured again", file.string(), why), file.string());
}

Result<std::string> ReadSmallFile(const std::filesystem::path& path) {
  // O_NONBLOCK: a pipe in its place must not hang the start.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (file < 0) {
    if (errno == ENOENT)
      return Fail(ErrorKind::kNotFound, "machine_profile_missing", path.string() + ": no such file");
    return Unusable(path, std::generic_category().message(errno));
  }
  std::string text(kMostBytes + 1, '\0');
  size_t size = 0;
  struct stat status{};
  bool sound = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  while (sound && size < text.size()) {
    const ssize_t got = ::read(file, text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    sound = got >= 0;
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  ::close(file);
  if (!sound || size > kMostBytes) return Unusable(path, "not a regular file of at most 64 KiB");
  text.resize(size);
  return text;
}

const Json& Field(const Json& object, const char* name) {
  static const Json kNone;
  const auto at = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && at != object.end() ? *at : kNone;
}
int64_t Whole(const Json& value) { return value.is_number_integer() ? value.get<int64_t>() : -1; }
double Rate(const Json& value) {
  const double rate = value.is_number() ? value.get<double>() : 0;
  return std::isfinite(rate) && rate >= kLeastRate && rate <= kMostRate ? rate : 0;
}

Json KeyJson(const MachineKey& key) {
  return {{"processor", key.processor},
          {"instruction_set", key.instruction_set},
          {"threads", key.threads},
          {"packing_version", key.packing_version},
          {"build", key.build}};
}

}  // namespace

MachineKey KeyOf(const chips::Device& device) {
  const chips::DeviceInfo& info = device.info();
  return {info.name, info.instruction_set, info.threads, device.PackingVersion(),
          fmt::format("{} {}", kVersion, kCommit)};
}

Status MeasureMachine(chips::Device& device, const chips::DeviceOptions& options, bool calibrate, bool again,
                      MachineProfile& profile) {
  constexpr double kCalibrationSeconds = 0.8;
  const chips::Roofline now = device.MeasureRoofline();
  chips::Roofline& best = profile.roofline;
  best = {std::max(best.memory_bytes_per_s, now.memory_bytes_per_s),
          std::max(best.int8_ops_per_s, now.int8_ops_per_s),
          std::max(best.f32_flops_per_s, now.f32_flops_per_s),
          std::max(best.bf16_flops_per_s, now.bf16_flops_per_s)};
  if (!calibrate || (profile.tried && !again)) return {};
  profile.tried = true;
  const auto tuning = chips::CalibrateCpu(options, kCalibrationSeconds);
  if (tuning) {
    profile.tuning = *tuning;
    profile.tuned = true;
  } else if (tuning.error().code == "machine_busy") {
    LogInfo("not tuned", {{"reason", tuning.error().message}});
  } else {
    return Fail(tuning.error());
  }
  return {};
}

Json DescribeTuning(const KernelTuning& tuning) {
  return {{"linear_row_block_bytes", tuning.linear_row_block_bytes},
          {"linear_chunks_per_thread", tuning.linear_chunks_per_thread},
          {"inline_products", tuning.inline_products},
          {"inline_elements", tuning.inline_elements},
          {"fetch_level", tuning.fetch_level}};
}

Result<MachineProfile> ReadMachineProfile(const std::filesystem::path& file, const MachineKey& expected) {
  TP_ASSIGN(const std::string text, ReadSmallFile(file));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Unusable(file, "damaged");
  if (Whole(Field(json, "format")) != kFormat) return Unusable(file, "another format");
  if (Field(json, "key") != KeyJson(expected))
    return Unusable(file, "measured on another machine or by another build");
  MachineProfile profile;
  profile.key = expected;
  const Json& rates = Field(json, "roofline");
  profile.roofline = {Rate(Field(rates, "memory_bytes_per_s")), Rate(Field(rates, "int8_ops_per_s")),
                      Rate(Field(rates, "f32_flops_per_s")), Rate(Field(rates, "bf16_flops_per_s"))};
  const Json& tuning = Field(json, "tuning");
  profile.tuning = {Whole(Field(tuning, "linear_row_block_bytes")),
                    Whole(Field(tuning, "linear_chunks_per_thread")), Whole(Field(tuning, "inline_products")),
                    Whole(Field(tuning, "inline_elements")), Whole(Field(tuning, "fetch_level"))};
  const Json &tried = Field(json, "tried"), &tuned = Field(json, "tuned");
  if (profile.roofline.memory_bytes_per_s == 0 || profile.roofline.int8_ops_per_s == 0 ||
      profile.roofline.f32_flops_per_s == 0 || !IsSane(profile.tuning) || !tried.is_boolean() ||
      !tuned.is_boolean()) {
    return Unusable(file, "it holds numbers that cannot be");
  }
  profile.tried = tried.get<bool>();
  profile.tuned = tuned.get<bool>();
  return profile;
}

Status WriteMachineProfile(const std::filesystem::path& file, const MachineProfile& profile) {
  const std::string text = Json{{"format", kFormat},
                                {"key", KeyJson(profile.key)},
                                {"roofline",
                                 {{"memory_bytes_per_s", profile.roofline.memory_bytes_per_s},
                                  {"int8_ops_per_s", profile.roofline.int8_ops_per_s},
                                  {"f32_flops_per_s", profile.roofline.f32_flops_per_s},
                                  {"bf16_flops_per_s", profile.roofline.bf16_flops_per_s}}},
                                {"tried", profile.tried},
                                {"tuned", profile.tuned},
                                {"tuning", DescribeTuning(profile.tuning)}}
                               .dump(2) +
                           "\n";
  const std::filesystem::path half = file.string() + ".part";
  const int out = ::open(half.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  bool written = out >= 0 && ::write(out, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (out >= 0) written = ::close(out) == 0 && written;
  if (!written || ::rename(half.c_str(), file.c_str()) != 0) {
    const std::string why = std::generic_category().message(errno);
    ::unlink(half.c_str());
    return Fail(
        ErrorKind::kUnavailable, "file_unwritable",
        fmt::format("{}: {}; the machine will be measured at the next start again", file.string(), why),
        file.string());
  }
  return {};
}

}  // namespace tidepool::server

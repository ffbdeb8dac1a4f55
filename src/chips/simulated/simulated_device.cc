#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include "base/check.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/device.h"
#include "chips/quantisation.h"

namespace tidepool::chips {
namespace {

// Models with scripted answers compute nothing; an op that gets here is a wiring mistake, not a bad request.
class NoOps final : public Ops {
 public:
  void Embed(const PackedWeight&, std::span<const int32_t>, float, Matrix) override { Refuse(); }
  void RmsNorm(ConstMatrix, const float*, float, Matrix) override { Refuse(); }
  void LayerNorm(ConstMatrix, const float*, const float*, float, Matrix) override { Refuse(); }
  void Linear(ConstMatrix, std::span<const LinearTarget>) override { Refuse(); }
  void Rope(const RopeArgs&) override { Refuse(); }
  void AppendKv(const KvAppendArgs&) override { Refuse(); }
  void Attention(const AttentionArgs&) override { Refuse(); }
  void GatedLinear(ConstMatrix, const PackedWeight&, const PackedWeight&, Activation, Matrix,
                   Matrix) override {
    Refuse();
  }
  void GatedActivation(Activation, ConstMatrix, ConstMatrix, Matrix) override { Refuse(); }
  void Activate(Activation, ConstMatrix, Matrix) override { Refuse(); }
  void Add(ConstMatrix, ConstMatrix, Matrix) override { Refuse(); }
  void GatherRows(ConstMatrix, std::span<const int32_t>, Matrix) override { Refuse(); }
  void Synchronize() override {}

 private:
  [[noreturn]] static void Refuse() {
    constexpr bool simulated_device_has_no_kernels = false;
    CHECK(simulated_device_has_no_kernels);
    __builtin_unreachable();
  }
};

class SimulatedDeviceImpl final : public SimulatedDevice {
 public:
  explicit SimulatedDeviceImpl(const SimulatedDeviceOptions& options) : options_(options) {
    info_.kind = DeviceKind::kSimulated;
    info_.name = "simulated";
    info_.instruction_set = "simulated";
    info_.threads = 1;
    info_.memory_bytes = options.memory_bytes;
    if (!options.tally_file.empty()) MapTally(options.tally_file);
  }
  ~SimulatedDeviceImpl() override {
    if (tally_ != nullptr) ::munmap(tally_, kTallyBytes);
  }

  const DeviceInfo& info() const override { return info_; }
  Result<DeviceBuffer> Allocate(size_t bytes) override {
    if (bytes > options_.memory_bytes) {
      return Fail(ErrorKind::kUnavailable, "out_of_memory",
                  "The simulated device has " + std::to_string(options_.memory_bytes) + " bytes, " +
                      std::to_string(bytes) + " were asked for.");
    }
    return cpu::AllocateHostMemory(bytes);
  }

  // Weights keep the file's layout.
  Result<size_t> PackedBytes(const WeightSpec& spec) const override {
    const DataTypeTraits* traits = FindDataTypeTraits(spec.type);
    if (traits == nullptr || spec.rows <= 0 || spec.columns <= 0 ||
        spec.columns % traits->block_elements != 0 || spec.rows > (int64_t{1} << 40) / spec.columns) {
      return Fail(ErrorKind::kInvalid, "bad_weight_shape", "This weight's type or shape is impossible.");
    }
    return static_cast<size_t>(spec.rows) * RowBytes(spec.type, spec.columns);
  }
  Result<PackedWeight> Pack(const WeightSpec& spec, std::span<const std::byte> source,
                            std::byte* destination) override {
    TP_ASSIGN(const size_t bytes, PackedBytes(spec));
    if (source.size() != bytes) {
      return Fail(
          ErrorKind::kInvalid, "bad_weight_size",
          "A weight of " + std::to_string(bytes) + " bytes was given " + std::to_string(source.size()) + ".");
    }
    std::memcpy(destination, source.data(), bytes);
    return PackedWeight{spec, destination, bytes, 0};
  }
  Result<PackedWeight> ViewPacked(const WeightSpec& spec, std::span<const std::byte> packed) const override {
    TP_ASSIGN(const size_t bytes, PackedBytes(spec));
    if (packed.size() != bytes) {
      return Fail(
          ErrorKind::kInvalid, "bad_weight_size",
          "A weight of " + std::to_string(bytes) + " bytes was given " + std::to_string(packed.size()) + ".");
    }
    return PackedWeight{spec, packed.data(), bytes, 0};
  }
  uint32_t PackingVersion() const override { return 1; }
  void CopyToDevice(void* destination, const void* source, size_t bytes) override {
    std::memcpy(destination, source, bytes);
  }
  void CopyToHost(void* destination, const void* source, size_t bytes) override {
    std::memcpy(destination, source, bytes);
  }
  size_t ScratchBytes(int32_t, int32_t) const override { return 0; }
  Status ReserveScratch(int32_t, int32_t) override { return {}; }
  Ops& ops() override { return ops_; }
  Roofline MeasureRoofline() override { return {}; }

  void AdvanceStep(int32_t tokens) override { AdvancePart(tokens, 1); }
  void AdvancePart(int32_t tokens, double share) override {
    const double seconds = share * (options_.step_base_s + options_.step_per_token_s * tokens);
    if (seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }

  bool tallies() const override { return tally_ != nullptr; }
  void Tally(int32_t tag, int32_t positions, int32_t sampled) override {
    if (tally_ == nullptr || tag < 0 || tag > kMaxTallyTag) return;
    TallyEntry& entry = tally_[tag];
    entry.positions = std::max(entry.positions, static_cast<uint32_t>(positions));
    entry.sampled += static_cast<uint32_t>(sampled);
  }

 private:
  static constexpr size_t kTallyBytes = (size_t{kMaxTallyTag} + 1) * sizeof(TallyEntry);
  void MapTally(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0 && ::ftruncate(file, kTallyBytes) == 0);
    void* const mapped = ::mmap(nullptr, kTallyBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    CHECK(mapped != MAP_FAILED);
    tally_ = static_cast<TallyEntry*>(mapped);
  }

  TallyEntry* tally_ = nullptr;
  SimulatedDeviceOptions options_;
  DeviceInfo info_;
  NoOps ops_;
};

}  // namespace

std::unique_ptr<SimulatedDevice> MakeSimulatedDevice(const SimulatedDeviceOptions& options) {
  return std::make_unique<SimulatedDeviceImpl>(options);
}

}  // namespace tidepool::chips

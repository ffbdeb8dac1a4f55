// Any bytes as a GGUF file: parsed from a block of exactly their size, then opened through a mapping, and
// everything that is handed out is read, decoded and validated.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "base/check.h"
#include "models/formats/checkpoint.h"
#include "models/formats/gguf_file.h"

namespace tidepool::formats {
namespace {

volatile uint64_t g_sink = 0;

void ReadMetadata(const Metadata& metadata) {
  for (const std::string_view key : metadata.Keys()) {
    CHECK(metadata.Has(key));
    const auto text = metadata.String(key);
    for (const char c : text.value_or("")) g_sink = g_sink + static_cast<uint8_t>(c);
    const auto strings = metadata.Strings(key);
    const auto floats = metadata.Floats(key);
    const auto ints = metadata.Ints(key);
    g_sink =
        g_sink + (strings ? strings->size() : 0) + (floats ? floats->size() : 0) + (ints ? ints->size() : 0);
    // One kind at most, but for arrays without elements and integers that are read as floats.
    CHECK(!(text && (strings || floats || ints)));
    if (metadata.Int(key)) CHECK(metadata.Float(key));
  }
}

void ReadTensors(const std::vector<Tensor>& tensors) {
  for (const Tensor& tensor : tensors) {
    CHECK(!tensor.name.empty() && !tensor.shape.empty() && !tensor.bytes.empty());
    const chips::DataTypeTraits& traits = chips::TraitsOf(tensor.type);
    CHECK(static_cast<uint64_t>(tensor.elements() / traits.block_elements * traits.block_bytes) ==
          tensor.bytes.size());
    for (const std::byte b : tensor.bytes) g_sink = g_sink + static_cast<uint64_t>(b);
  }
}

// A file that exists only in memory, and its path.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::byte> bytes) : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
    CHECK(descriptor_ >= 0);
    CHECK(write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace
}  // namespace tidepool::formats

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::formats;  // NOLINT
  const std::span<const std::byte> bytes{reinterpret_cast<const std::byte*>(data), size};
  const auto file = ParseGguf(bytes, "fuzz.gguf", {});
  if (!file) {
    CHECK(!file.error().message.empty() && !file.error().code.empty());
    return 0;
  }
  ReadMetadata(file->metadata);
  ReadTensors(file->tensors);
  const MemoryFile mapped(bytes);
  const auto checkpoint = Checkpoint::Open(mapped.path());
  if (!checkpoint) return 0;
  for (const Tensor& tensor : (*checkpoint)->tensors()) {
    CHECK((*checkpoint)->Find(tensor.name) == &tensor);
    const bool sound = ValidateTensorValues(**checkpoint, tensor).has_value();
    const auto values = TensorToFloat(**checkpoint, tensor);
    if (values) CHECK(values->size() == static_cast<size_t>(tensor.elements()));
    g_sink = g_sink + (sound ? 1 : 0);
  }
  return 0;
}

// What tests of residency share: packed files of random bytes, a controllable backing, and loads that are
// waited for.
#pragma once

#include <gtest/gtest.h>
#include <xxhash.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compute/residency/residency.h"

namespace tidepool::compute::testing {

template <typename T>
T Must(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().message;
    std::abort();
  }
  return std::move(*result);
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tidepool-residency-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline architectures::PackedKey TestKey(const std::string& content) {
  return {
      .content = content, .device = "cpu", .instruction_set = "test", .packing_version = 1, .precision = {}};
}

// A packed file of `segments` segments of random bytes.
inline std::filesystem::path WritePacked(const std::filesystem::path& folder, const std::string& name,
                                         const std::vector<uint64_t>& segments) {
  architectures::PackedTable table;
  table.key = TestKey(name);
  std::vector<char> data;
  std::mt19937_64 random(std::hash<std::string>()(name));
  for (const uint64_t bytes : segments) {
    const size_t offset = data.size();
    data.resize(offset + bytes);
    for (size_t at = offset; at + 8 <= data.size(); at += 8) {
      const uint64_t value = random();
      std::memcpy(data.data() + at, &value, 8);
    }
    table.segments.push_back({offset, bytes, XXH3_64bits(data.data() + offset, bytes)});
  }
  table.data_bytes = data.size();
  const std::vector<std::byte> head = SerialisePackedTable(table);
  const std::filesystem::path path = folder / (name + ".weights");
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(head.data()), static_cast<std::streamsize>(head.size()));
  out.seekp(static_cast<std::streamoff>(table.data_offset));
  out.write(data.data(), static_cast<std::streamsize>(data.size()));
  return path;
}

// Waits at every chunk for the test's permission, and records what it is asked.
class SteppedBacking final : public WeightBacking {
 public:
  struct Control {
    std::mutex mutex;
    std::condition_variable changed;
    int64_t permits = INT64_MAX;  // chunks that may still pass
    int64_t waiting = 0;          // chunks asked for so far
    std::vector<std::pair<size_t, uint64_t>> fetched;
    std::vector<size_t> pinned, unpinned, dropped;
    std::map<size_t, bool> in_memory;
    Status failure;
    int32_t fail_at = -1;
    std::map<size_t, bool> unchecked;

    void Permit(int64_t chunks) {
      const std::lock_guard lock(mutex);
      permits = chunks;
      changed.notify_all();
    }
    void AwaitChunk(int64_t count) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return waiting >= count; });
    }
  };

  SteppedBacking(std::vector<architectures::WeightSegment> segments, std::shared_ptr<Control> control)
      : segments_(std::move(segments)), control_(std::move(control)) {}
  std::span<const architectures::WeightSegment> segments() const override { return segments_; }
  Status Fetch(size_t segment, uint64_t begin, uint64_t bytes, const std::atomic<bool>& stop) override {
    std::unique_lock lock(control_->mutex);
    ++control_->waiting;
    control_->changed.notify_all();
    while (control_->permits == 0 && !stop) {
      control_->changed.wait_for(lock, std::chrono::milliseconds(1));
    }
    if (stop) return Fail(ErrorKind::kCancelled, "load_cancelled", "stopped");
    --control_->permits;
    if (static_cast<int32_t>(segment) == control_->fail_at) return control_->failure;
    control_->fetched.emplace_back(segment, begin);
    control_->in_memory[segment] = true;
    EXPECT_LE(begin + bytes, segments_[segment].bytes);
    return {};
  }
  Status Check(size_t segment) override {
    const std::lock_guard lock(control_->mutex);
    control_->unchecked[segment] = false;
    return {};
  }
  bool Checked(size_t segment) const override {
    const std::lock_guard lock(control_->mutex);
    return !control_->unchecked[segment];
  }
  void Pin(size_t segment) override { Record(control_->pinned, segment); }
  void Unpin(size_t segment) override { Record(control_->unpinned, segment); }
  void Drop(size_t segment) override {
    Record(control_->dropped, segment);
    const std::lock_guard lock(control_->mutex);
    control_->in_memory[segment] = false;
  }
  uint64_t BytesInMemory(size_t segment) const override {
    const std::lock_guard lock(control_->mutex);
    return control_->in_memory[segment] ? segments_[segment].bytes : 0;
  }

 private:
  void Record(std::vector<size_t>& list, size_t segment) {
    const std::lock_guard lock(control_->mutex);
    list.push_back(segment);
  }
  const std::vector<architectures::WeightSegment> segments_;
  const std::shared_ptr<Control> control_;
};

inline std::vector<architectures::WeightSegment> Segments(size_t count, uint64_t bytes) {
  std::vector<architectures::WeightSegment> segments;
  for (size_t i = 0; i < count; ++i) segments.push_back({i * bytes, bytes});
  return segments;
}

inline LoadReport LoadAndWait(ResidentWeights& weights, int32_t segments = -1) {
  std::promise<LoadReport> promise;
  weights.Load([&](const LoadReport& report) { promise.set_value(report); }, segments);
  return promise.get_future().get();
}

inline std::string Code(const Status& status) { return status ? "ok" : status.error().code; }

}  // namespace tidepool::compute::testing

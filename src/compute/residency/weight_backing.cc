#include "compute/residency/weight_backing.h"

#include <fmt/format.h>

#define XXH_STATIC_LINKING_ONLY  // the state as a member
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/check.h"
#include "base/log.h"

namespace tidepool::compute {
namespace {

using architectures::PackedFile;
using architectures::PackedSegment;
using architectures::WeightSegment;

class FileBacking final : public WeightBacking {
 public:
  FileBacking(std::shared_ptr<PackedFile> file, const FileBackingOptions& options, FileOperations& operations)
      : file_(std::move(file)), options_(options), operations_(operations) {
    for (const PackedSegment& segment : file_->table().segments)
      segments_.push_back({segment.offset, segment.bytes});
    present_.assign(segments_.size(), true);
    const uint64_t all = options_.copies == nullptr ? 1 : static_cast<uint64_t>(options_.copies->count()) + 1;
    for (const WeightSegment& segment : segments_) charged_.push_back({segment.offset, all * segment.bytes});
    filled_.assign(segments_.size(), std::vector<uint64_t>(all - 1, 0));
    XXH3_64bits_reset(&hash_);
  }

  std::span<const WeightSegment> segments() const override { return charged_; }

  Status Fetch(size_t segment, uint64_t begin, uint64_t bytes, const std::atomic<bool>&) override {
    const uint64_t one = segments_[segment].bytes;
    for (const uint64_t end = begin + bytes; begin < end;) {
      const uint64_t copy = begin / one, from = begin % one, part = std::min(end - begin, one - from);
      if (copy == 0) {
        TP_TRY(FetchFile(segment, from, part));
      } else {
        FillCopy(segment, static_cast<size_t>(copy - 1), from, part);
      }
      begin += part;
    }
    return {};
  }

  Status Check(size_t segment) override {
    if (options_.verify && !file_->checked(segment)) {
      if (segments_[segment].bytes == 0) XXH3_64bits_reset(&hash_);  // nothing of it was fetched
      const uint64_t expected = file_->table().segments[segment].checksum;
      if (XXH3_64bits_digest(&hash_) != expected)
        return Damaged(fmt::format("the checksum of segment {} is wrong", segment));
      file_->SetChecked(segment);
    }
    return CheckSize();
  }

  bool Checked(size_t segment) const override { return !options_.verify || file_->checked(segment); }

  // Locked pages cannot be taken away by a shortage of memory; a cut of the file would take them all the
  // same.
  void Pin(size_t segment) override {
    if (options_.lock && segments_[segment].bytes > 0) Lock(segment);
  }
  void Unpin(size_t segment) override {
    if (options_.lock) operations_.Unlock(At(segment), segments_[segment].bytes);
  }
  // A page cache may hold pages in blocks of up to 2 MiB, and drops whole blocks only: those over a border go
  // with the second of the two segments.
  void Drop(size_t segment) override {
    present_[segment] = false;
    size_t first = segment, last = segment;
    while (first > 0 && !present_[first - 1]) --first;
    while (last + 1 < segments_.size() && !present_[last + 1]) ++last;
    const uint64_t begin = segments_[first].offset, end = segments_[last].offset + segments_[last].bytes;
    operations_.Drop(file_->descriptor(), FileOffset(begin), file_->data() + begin, end - begin);
    if (options_.copies == nullptr) return;
    options_.copies->Drop(segments_[segment].offset, segments_[segment].bytes);
    std::ranges::fill(filled_[segment], 0);
  }
  uint64_t BytesInMemory(size_t segment) const override {
    uint64_t bytes = operations_.BytesInMemory(At(segment), segments_[segment].bytes);
    for (const uint64_t filled : filled_[segment]) bytes += filled;
    return bytes;
  }

 private:
  Status FetchFile(size_t segment, uint64_t begin, uint64_t bytes) {
    TP_TRY(CheckSize());
    const uint64_t offset = segments_[segment].offset + begin;
    if (options_.copies != nullptr) options_.copies->PreferFirstNode();
    present_[segment] = true;
    PrefetchEdges(segment, offset, bytes);
    if (Status status = operations_.Populate(file_->data() + offset, bytes); !status)
      return Damaged(fmt::format("bytes {} to {} of its weights cannot be read: {}", offset, offset + bytes,
                                 status.error().message));
    if (options_.verify && !file_->checked(segment)) TP_TRY(Hash(begin, FileOffset(offset), bytes));
    return {};
  }

  // What a copy has it keeps until the segment is dropped.
  void FillCopy(size_t segment, size_t copy, uint64_t begin, uint64_t bytes) {
    uint64_t& filled = filled_[segment][copy];
    if (begin + bytes <= filled) return;
    options_.copies->Fill(static_cast<int>(copy), segments_[segment].offset + begin, bytes);
    if (begin <= filled) filled = begin + bytes;
  }

  const std::byte* At(size_t segment) const { return file_->data() + segments_[segment].offset; }
  uint64_t FileOffset(uint64_t offset) const { return file_->table().data_offset + offset; }

  // The mapping reads whole blocks of 2 MiB (PackedFile::Open): they cost a thirtieth of single pages to map,
  // lock and drop. But a block over the segment's border would bring in what nobody has charged; so what of
  // the segment lies in such blocks is read page by page, exactly.
  void PrefetchEdges(size_t segment, uint64_t offset, uint64_t bytes) {
    constexpr uint64_t kBlock = uint64_t{2} << 20;
    const uint64_t begin = FileOffset(segments_[segment].offset), end = begin + segments_[segment].bytes;
    const uint64_t first = std::min(end, (begin + kBlock - 1) / kBlock * kBlock);
    const uint64_t last = std::max(first, end / kBlock * kBlock);
    const uint64_t from = FileOffset(offset), to = from + bytes;
    Prefetch(from, std::min(to, first));
    Prefetch(std::max(from, last), to);
  }
  void Prefetch(uint64_t from, uint64_t to) {  // in the file
    if (from >= to) return;
    const std::byte* const data = file_->data() + (from - file_->table().data_offset);
    if (operations_.BytesInMemory(data, to - from) < to - from)
      operations_.Prefetch(file_->descriptor(), from, to - from);
  }

  tl::unexpected<Error> Damaged(std::string what) const {
    return Fail(ErrorKind::kCorrupt, "packed_file_damaged",
                fmt::format("{}: {}. The file was changed or its disk fails; it will be packed again",
                            file_->path().string(), what),
                file_->path().string());
  }

  Status CheckSize() const {
    TP_ASSIGN(const uint64_t size, operations_.Size(file_->descriptor()));
    if (size == file_->table().file_bytes()) return {};
    return Damaged(fmt::format("it has {} bytes instead of {}", size, file_->table().file_bytes()));
  }

  // Through a buffer, not the mapping: a file that is cut meanwhile is then an error and no signal.
  Status Hash(uint64_t begin, uint64_t file_offset, uint64_t bytes) {
    if (begin == 0) XXH3_64bits_reset(&hash_);
    buffer_.resize(kBufferBytes);
    for (uint64_t at = 0; at < bytes; at += kBufferBytes) {
      const std::span part(buffer_.data(), std::min(bytes - at, kBufferBytes));
      if (Status status = operations_.Read(file_->descriptor(), file_offset + at, part); !status)
        return Damaged(status.error().message);
      XXH3_64bits_update(&hash_, part.data(), part.size());
    }
    return {};
  }

  void Lock(size_t segment) {
    static std::atomic<bool> refused{false};
    if (refused.load(std::memory_order_relaxed)) return;
    const Status status = operations_.Lock(At(segment), segments_[segment].bytes);
    if (status || refused.exchange(true)) return;
    LogWarn(
        "resident weights are not locked in memory; raise the memlock limit (ulimit -l, LimitMEMLOCK=) so "
        "that a shortage of memory cannot slow running models down",
        {{"error", status.error().message}});
  }

  static constexpr uint64_t kBufferBytes = uint64_t{256} << 10;  // stays in the second-level cache
  const std::shared_ptr<PackedFile> file_;
  const FileBackingOptions options_;
  FileOperations& operations_;
  std::vector<WeightSegment> segments_;  // of the file
  std::vector<WeightSegment> charged_;   // with the bytes of all copies
  std::vector<bool> present_;            // perhaps: false only after a drop
  // Of each segment and copy: bytes from its beginning. BytesInMemory may be asked by another thread before
  // the mover begins: all are 0 then.
  std::vector<std::vector<uint64_t>> filled_;
  std::vector<std::byte> buffer_;
  XXH3_state_t hash_;
};

class SimulatedBacking final : public WeightBacking {
 public:
  SimulatedBacking(std::span<const WeightSegment> segments, const SimulatedBackingOptions& options,
                   const Clock& clock)
      : segments_(segments.begin(), segments.end()),
        options_(options),
        clock_(clock),
        in_memory_(std::make_unique<std::atomic<bool>[]>(segments.size())) {}

  std::span<const WeightSegment> segments() const override { return segments_; }

  Status Fetch(size_t segment, uint64_t begin, uint64_t bytes, const std::atomic<bool>& stop) override {
    if (static_cast<int32_t>(segment) == options_.fail_at_segment) {
      return Fail(ErrorKind::kCorrupt, "packed_file_damaged",
                  fmt::format("simulated weights: segment {} cannot be read", segment));
    }
    const double rate = in_memory_[segment] ? options_.warm_bytes_per_s : options_.cold_bytes_per_s;
    if (rate > 0) TP_TRY(Pass(static_cast<double>(bytes) / rate, stop));
    if (begin + bytes == segments_[segment].bytes) in_memory_[segment] = true;
    return {};
  }
  Status Check(size_t) override { return {}; }
  bool Checked(size_t) const override { return true; }
  void Pin(size_t) override {}
  void Unpin(size_t) override {}
  void Drop(size_t segment) override { in_memory_[segment] = false; }
  uint64_t BytesInMemory(size_t segment) const override {
    return in_memory_[segment] ? segments_[segment].bytes : 0;
  }

 private:
  // The clock may be one that a test moves, so it is looked at again and again.
  Status Pass(double seconds, const std::atomic<bool>& stop) const {
    using std::chrono::microseconds;
    const Nanoseconds end = clock_.now() + static_cast<Nanoseconds>(seconds * 1e9);
    for (Nanoseconds now = clock_.now(); now < end; now = clock_.now()) {
      if (stop.load(std::memory_order_relaxed))
        return Fail(ErrorKind::kCancelled, "load_cancelled", "the load was cancelled");
      std::this_thread::sleep_for(microseconds(std::clamp<int64_t>((end - now) / 1000, 1, 200)));
    }
    return {};
  }

  const std::vector<WeightSegment> segments_;
  const SimulatedBackingOptions options_;
  const Clock& clock_;
  std::unique_ptr<std::atomic<bool>[]> in_memory_;
};

}  // namespace

std::unique_ptr<WeightBacking> MakeFileBacking(std::shared_ptr<PackedFile> file,
                                               const FileBackingOptions& options,
                                               FileOperations& operations) {
  CHECK(file != nullptr);
  return std::make_unique<FileBacking>(std::move(file), options, operations);
}

std::unique_ptr<WeightBacking> MakeSimulatedBacking(std::span<const WeightSegment> segments,
                                                    const SimulatedBackingOptions& options,
                                                    const Clock& clock) {
  return std::make_unique<SimulatedBacking>(segments, options, clock);
}

}  // namespace tidepool::compute

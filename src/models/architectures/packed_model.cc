#include "models/architectures/packed_model.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/ids.h"
#include "models/architectures/families.h"
#include "models/architectures/weights.h"

namespace tidepool::architectures {
namespace {

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

tl::unexpected<Error> WriteProblem(const std::filesystem::path& path, uint64_t bytes, int error) {
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return Fail(ErrorKind::kUnavailable, "disk_full",
                fmt::format("{}: no room for {} bytes of packed weights: {}. Free some space, or lower the "
                            "limit of the cache of packed weights",
                            path.parent_path().string(), bytes, std::generic_category().message(error)),
                path.string());
  }
  return Fail(ErrorKind::kUnavailable, "file_unwritable",
              fmt::format("{}: {}. Check that the server's user may write there", path.string(),
                          std::generic_category().message(error)),
              path.string());
}

// A file under a temporary name, mapped for writing; deleted unless it is committed.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& target) : target_(target) {}
  ~NewFile() {
    if (mapping_ != nullptr) munmap(mapping_, bytes_);
    if (descriptor_ < 0) return;
    if (!committed_) unlink(temporary_.c_str());
    close(descriptor_);
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  Status Create(uint64_t bytes) {
    TP_TRY(CreateLocked(bytes));
    // All of its space now: a disk that filled up later would be a bus error while packing.
    if (const int error = posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes)); error != 0)
      return WriteProblem(target_, bytes, error);
    void* const mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (mapping == MAP_FAILED) return WriteProblem(temporary_, bytes, errno);
    mapping_ = static_cast<std::byte*>(mapping);
    bytes_ = bytes;
    return {};
  }
  std::byte* data() const { return mapping_; }

  // Begins writing a finished range to disk.
  void StartWriting(uint64_t offset, uint64_t bytes) const {
    sync_file_range(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                    SYNC_FILE_RANGE_WRITE);
  }
  // Waits until the range is on disk and takes it out of memory.
  void Drop(uint64_t offset, uint64_t bytes) const {
    sync_file_range(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    madvise(mapping_ + offset, bytes, MADV_DONTNEED);
    posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
  }

  Status Commit() {
    if (fsync(descriptor_) != 0) return WriteProblem(temporary_, bytes_, errno);
    if (rename(temporary_.c_str(), target_.c_str()) != 0) return WriteProblem(target_, bytes_, errno);
    committed_ = true;
    const int folder = open(target_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
      fsync(folder);
      close(folder);
    }
    return {};
  }

 private:
  // Between creating and locking, another process that clears unfinished files away may take this one for
  // such: then the lock is its, or the name is gone, and another name is tried.
  Status CreateLocked(uint64_t bytes) {
    constexpr int kAttempts = 100;
    for (int attempt = 1;; ++attempt) {
      temporary_ = target_.string() + "." + RandomId("", 12) + ".tmp";
      descriptor_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
      if (descriptor_ < 0) return WriteProblem(temporary_, bytes, errno);
      struct stat held{}, named{};
      const bool locked = flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
      if (!locked && (errno != EWOULDBLOCK || attempt == kAttempts))
        return WriteProblem(temporary_, bytes, errno);
      if (locked && fstat(descriptor_, &held) == 0 && lstat(temporary_.c_str(), &named) == 0 &&
          held.st_ino == named.st_ino) {
        return {};
      }
      if (attempt == kAttempts) return WriteProblem(temporary_, bytes, ENOENT);
      close(std::exchange(descriptor_, -1));
    }
  }

  const std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::byte* mapping_ = nullptr;
  uint64_t bytes_ = 0;
  bool committed_ = false;
};

PackedTable TableOf(const WeightPlan& plan, const PackedKey& key) {
  PackedTable table;
  table.key = key;
  table.data_bytes = plan.bytes();
  for (const WeightSegment& segment : plan.segments())
    table.segments.push_back({segment.offset, segment.bytes, 0});
  for (const WeightPlan::Item& item : plan.items())
    table.items.push_back({item.name, item.spec, item.matrix != nullptr, 0, item.offset, item.bytes});
  return table;
}

uint64_t SourceBytes(const WeightPlan& plan) {
  uint64_t bytes = 0;
  for (const WeightPlan::Item& item : plan.items()) {
    if (item.tensor != nullptr) bytes += item.tensor->bytes.size();
  }
  return bytes;
}

bool SameSpec(const chips::WeightSpec& a, const chips::WeightSpec& b) {
  return a.type == b.type && a.rows == b.rows && a.columns == b.columns && a.precision == b.precision;
}

// The plan's declarations and the file's table, one by one.
Status Compare(const WeightPlan& plan, const PackedTable& table, const std::string& file) {
  const auto foreign = [&](std::string_view what) {
    return Fail(ErrorKind::kCorrupt, "packed_file_foreign",
                fmt::format("{}: {} is not what the model declares; it will be packed again", file, what),
                file);
  };
  const std::vector<WeightSegment> segments = plan.segments();
  if (table.data_bytes != plan.bytes() || segments.size() != table.segments.size() ||
      plan.items().size() != table.items.size()) {
    return foreign(fmt::format("a table of {} items in {} segments of {} bytes", table.items.size(),
                               table.segments.size(), table.data_bytes));
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].offset != table.segments[i].offset || segments[i].bytes != table.segments[i].bytes)
      return foreign(fmt::format("segment {}", i));
  }
  for (size_t i = 0; i < table.items.size(); ++i) {
    const WeightPlan::Item& declared = plan.items()[i];
    const PackedItem& item = table.items[i];
    if (declared.name != item.name || !SameSpec(declared.spec, item.spec) ||
        (declared.matrix != nullptr) != item.is_matrix || declared.offset != item.offset ||
        declared.bytes != item.bytes) {
      return foreign(fmt::format("'{}'", item.name));
    }
  }
  return {};
}

}  // namespace

Result<PackReport> WritePackedModel(const formats::Checkpoint& checkpoint, chips::Device& device,
                                    const PackOptions& options, const std::filesystem::path& path,
                                    const PackedKey& key) {
  const SteadyClock::time_point begin = SteadyClock::now();
  const Fields fields(checkpoint);
  TP_ASSIGN(std::unique_ptr<FamilyModel> model, MakeFamily(fields, options.load));
  WeightPlan plan(checkpoint, device, options.load.precision, model->naming());
  TP_TRY(model->DeclareWeights(plan));
  PackedTable table = TableOf(plan, key);
  SerialisePackedTable(table);  // for data_offset

  NewFile file(path);
  TP_TRY(file.Create(table.file_bytes()));
  std::byte* const data = file.data() + table.data_offset;
  // All that is beyond, not the segment alone: blocks of the page cache over a border go with the second
  // segment.
  uint64_t kept = 0;
  const auto drop_beyond = [&](size_t index) {
    const uint64_t end = table.segments[index].offset + table.segments[index].bytes;
    if (end <= options.keep_in_memory_bytes) {
      kept = end;
    } else {
      file.Drop(table.data_offset + kept, end - kept);
    }
  };
  const auto packed = [&](int32_t index) -> Status {
    PackedSegment& segment = table.segments[static_cast<size_t>(index)];
    segment.checksum = XXH3_64bits(data + segment.offset, segment.bytes);
    const uint64_t offset = table.data_offset + segment.offset;
    file.StartWriting(offset, segment.bytes);
    // One segment behind, so that waiting for the disk overlaps with packing.
    if (index > 0) drop_beyond(static_cast<size_t>(index) - 1);
    return {};
  };
  TP_TRY(plan.PackInto(device, data, options.load.progress, packed));
  for (size_t i = 0; i < table.items.size(); ++i) {
    if (table.items[i].is_matrix) table.items[i].layout = plan.items()[i].matrix->layout;
  }
  const std::vector<std::byte> head = SerialisePackedTable(table);
  std::memcpy(file.data(), head.data(), head.size());

  PackReport report;
  report.source_bytes = SourceBytes(plan);
  report.packed_bytes = table.file_bytes();
  report.pack_s = SecondsSince(begin);
  TP_TRY(file.Commit());
  drop_beyond(table.segments.size() - 1);
  report.sync_s = SecondsSince(begin) - report.pack_s;
  return report;
}

Result<std::unique_ptr<Model>> OpenPackedModel(const formats::Checkpoint& checkpoint, chips::Device& device,
                                               const LoadOptions& options, std::shared_ptr<PackedFile> file) {
  const Fields fields(checkpoint);
  TP_ASSIGN(std::unique_ptr<FamilyModel> model, MakeFamily(fields, options));
  WeightPlan plan(checkpoint, device, options.precision, model->naming());
  TP_TRY(model->DeclareWeights(plan));
  TP_TRY(Compare(plan, file->table(), file->path().string()));
  TP_TRY(plan.Bind(device, file->data()));
  for (size_t i = 0; i < plan.items().size(); ++i) {
    const WeightPlan::Item& item = plan.items()[i];
    if (item.matrix != nullptr && item.matrix->layout != file->table().items[i].layout) {
      return Fail(
          ErrorKind::kCorrupt, "packed_file_foreign",
          fmt::format("{}: '{}' has layout {}, this device uses {}; it will be packed again",
                      file->path().string(), item.name, file->table().items[i].layout, item.matrix->layout),
          file->path().string());
    }
  }
  model->WatchWeights([file = file.get()] { return file->intact(); });  // it lives as long as the model
  model->Adopt(device, std::move(file), plan);
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace tidepool::architectures

#include "models/architectures/packed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY  // the state on the stack
#include <xxhash.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "models/architectures/weights.h"

namespace tidepool::architectures {
namespace {

static_assert(std::endian::native == std::endian::little, "packed files are little endian");

constexpr char kMagic[8] = {'T', 'I', 'D', 'E', 'P', 'A', 'C', 'K'};
constexpr uint32_t kFormatVersion = 1;
constexpr uint64_t kMaxTableBytes = uint64_t{64} << 20;
constexpr uint64_t kMaxDataBytes = uint64_t{1} << 48;
constexpr uint32_t kMaxItems = 1'000'000;
constexpr uint32_t kMaxSegments = 4096;
constexpr size_t kMaxStringBytes = 4096;
constexpr uint64_t kItemAlignment = 64;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t table_bytes;
  uint64_t data_offset;
  uint64_t data_bytes;
  uint64_t reserved[2];
  uint64_t checksum;
};
static_assert(sizeof(Header) == kPackedHeaderBytes);

tl::unexpected<Error> Damaged(const std::string& file, std::string_view what) {
  return Fail(ErrorKind::kCorrupt, "packed_file_damaged",
              fmt::format("{}: {}; the packed file is not used and will be packed again", file, what), file);
}

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    out_.insert(out_.end(), bytes, bytes + sizeof value);
  }
  void String(std::string_view text) {
    Number(static_cast<uint16_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    out_.insert(out_.end(), bytes, bytes + text.size());
  }
  std::vector<std::byte>& bytes() { return out_; }

 private:
  std::vector<std::byte> out_;
};

// Reads of what is not there give zeros and fail() from then on.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  T Number() {
    T value{};
    if (Take(sizeof value)) std::memcpy(&value, bytes_.data() + at_ - sizeof value, sizeof value);
    return value;
  }
  std::string String() {
    const auto size = Number<uint16_t>();
    if (size > kMaxStringBytes) failed_ = true;
    if (!Take(size)) return {};
    return {reinterpret_cast<const char*>(bytes_.data() + at_ - size), size};
  }
  bool failed() const { return failed_; }
  size_t left() const { return bytes_.size() - at_; }

 private:
  bool Take(size_t size) {
    if (failed_ || size > left()) {
      failed_ = true;
      return false;
    }
    at_ += size;
    return true;
  }
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  bool failed_ = false;
};

uint64_t ChecksumOf(std::span<const std::byte> header_and_table) {
  Header header;
  std::memcpy(&header, header_and_table.data(), sizeof header);
  header.checksum = 0;
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, &header, sizeof header);
  XXH3_64bits_update(&state, header_and_table.data() + sizeof header,
                     header_and_table.size() - sizeof header);
  return XXH3_64bits_digest(&state);
}

void WriteKey(Writer& out, const PackedKey& key) {
  out.String(key.content);
  out.String(key.device);
  out.String(key.instruction_set);
  out.Number(key.packing_version);
  out.Number(static_cast<uint8_t>(key.precision));
}

bool ReadPrecision(Reader& in, chips::WeightPrecision* precision) {
  const auto value = in.Number<uint8_t>();
  *precision = static_cast<chips::WeightPrecision>(value);
  return value <= static_cast<uint8_t>(chips::WeightPrecision::kFloat32);
}

// Segments lie end to end at whole pages and fill the data.
Status CheckSegments(const PackedTable& table, const std::string& file) {
  uint64_t end = 0;
  for (const PackedSegment& segment : table.segments) {
    if (segment.offset != end || segment.offset % kSegmentAlignment != 0 ||
        segment.bytes > table.data_bytes - end) {
      return Damaged(file, fmt::format("a segment of {} bytes at {} does not fit the {} bytes of weights",
                                       segment.bytes, segment.offset, table.data_bytes));
    }
    end += segment.bytes;
  }
  if (end != table.data_bytes) return Damaged(file, "its segments do not cover its weights");
  return {};
}

Status ReadItems(Reader& in, uint32_t count, PackedTable& table, const std::string& file) {
  constexpr size_t kLeastItemBytes = 2 + 1 + 2 + 4 + 8 * 4;
  if (count > kMaxItems || count > in.left() / kLeastItemBytes)
    return Damaged(file, fmt::format("{} items do not fit its table", count));
  table.items.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    PackedItem item;
    item.name = in.String();
    const auto kind = in.Number<uint8_t>();
    item.is_matrix = kind == 1;
    const auto type = in.Number<uint8_t>();
    const bool precision = ReadPrecision(in, &item.spec.precision);
    item.spec.type = static_cast<chips::DataType>(type);
    item.layout = in.Number<uint32_t>();
    item.spec.rows = in.Number<int64_t>();
    item.spec.columns = in.Number<int64_t>();
    item.offset = in.Number<uint64_t>();
    item.bytes = in.Number<uint64_t>();
    if (in.failed() || kind > 1 || !precision || item.spec.rows < 1 || item.spec.columns < 1 ||
        item.offset % kItemAlignment != 0 || item.offset > table.data_bytes ||
        item.bytes > table.data_bytes - item.offset) {
      return Damaged(file, fmt::format("item {} is impossible", i));
    }
    table.items.push_back(std::move(item));
  }
  return {};
}

std::string SystemMessage(int error) { return std::generic_category().message(error); }

tl::unexpected<Error> Unreadable(const std::filesystem::path& path, int error) {
  return Fail(
      error == EACCES ? ErrorKind::kForbidden : ErrorKind::kUnavailable, "file_unreadable",
      fmt::format("{}: {}. Check that the server's user may read it", path.string(), SystemMessage(error)),
      path.string());
}

Status ReadExactly(int descriptor, std::byte* to, size_t size, const std::string& file) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = pread(descriptor, to + done, size - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unreadable(file, errno);
    if (got == 0) return Damaged(file, "it ends within its table");
    done += static_cast<size_t>(got);
  }
  return {};
}

Result<PackedTable> ReadTable(int descriptor, uint64_t file_bytes, const std::string& file) {
  std::vector<std::byte> bytes(kPackedHeaderBytes);
  TP_TRY(ReadExactly(descriptor, bytes.data(), bytes.size(), file));
  TP_ASSIGN(const uint64_t all, PackedTableBytes(bytes, file_bytes, file));
  bytes.resize(all);
  TP_TRY(ReadExactly(descriptor, bytes.data(), bytes.size(), file));
  return ParsePackedTable(bytes, file_bytes, file);
}

}  // namespace

PackedKey MakePackedKey(std::string content, const chips::Device& device, const LoadOptions& options) {
  constexpr std::string_view kKinds[] = {"cpu", "cuda", "simulated"};
  PackedKey key;
  key.content = std::move(content);
  if (key.content.size() > kMaxStringBytes) {
    // The digests of a model in many parts: theirs stands for them.
    const XXH128_hash_t hash = XXH3_128bits(key.content.data(), key.content.size());
    key.content = fmt::format("xxh3:{:016x}{:016x}:{}", hash.high64, hash.low64, key.content.size());
  }
  key.device = kKinds[static_cast<size_t>(device.info().kind)];
  key.instruction_set = device.info().instruction_set;
  key.packing_version = device.PackingVersion();
  key.precision = options.precision;
  return key;
}

std::string PackedKey::FileName() const {
  Writer out;
  WriteKey(out, *this);
  out.Number(kFormatVersion);
  const XXH128_hash_t hash = XXH3_128bits(out.bytes().data(), out.bytes().size());
  return fmt::format("{:016x}{:016x}.weights", hash.high64, hash.low64);
}

std::vector<std::byte> SerialisePackedTable(PackedTable& table) {
  Writer out;
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kFormatVersion;
  header.header_bytes = sizeof header;
  out.bytes().resize(sizeof header);
  WriteKey(out, table.key);
  out.Number(static_cast<uint32_t>(table.segments.size()));
  out.Number(static_cast<uint32_t>(table.items.size()));
  for (const PackedSegment& segment : table.segments) {
    out.Number(segment.offset);
    out.Number(segment.bytes);
    out.Number(segment.checksum);
  }
  for (const PackedItem& item : table.items) {
    out.String(item.name);
    out.Number(static_cast<uint8_t>(item.is_matrix));
    out.Number(static_cast<uint8_t>(item.spec.type));
    out.Number(static_cast<uint8_t>(item.spec.precision));
    out.Number(item.layout);
    out.Number(item.spec.rows);
    out.Number(item.spec.columns);
    out.Number(item.offset);
    out.Number(item.bytes);
  }
  std::vector<std::byte>& bytes = out.bytes();
  table.data_offset = (bytes.size() + kSegmentAlignment - 1) / kSegmentAlignment * kSegmentAlignment;
  header.table_bytes = bytes.size() - sizeof header;
  header.data_offset = table.data_offset;
  header.data_bytes = table.data_bytes;
  std::memcpy(bytes.data(), &header, sizeof header);
  header.checksum = ChecksumOf(bytes);
  std::memcpy(bytes.data(), &header, sizeof header);
  return std::move(bytes);
}

Result<uint64_t> PackedTableBytes(std::span<const std::byte> bytes, uint64_t file_bytes,
                                  const std::string& file) {
  Header header;
  if (bytes.size() < sizeof header) return Damaged(file, "it is too short");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return Damaged(file, "no packed file");
  if (header.version != kFormatVersion || header.header_bytes != sizeof header) {
    return Fail(ErrorKind::kCorrupt, "packed_file_version",
                fmt::format("{}: format version {}, this program reads {}; it will be packed again", file,
                            header.version, kFormatVersion),
                file);
  }
  const uint64_t all = sizeof header + header.table_bytes;
  if (header.table_bytes > kMaxTableBytes || header.data_bytes > kMaxDataBytes || header.data_offset < all ||
      header.data_offset > sizeof header + kMaxTableBytes + kSegmentAlignment ||
      header.data_offset % kSegmentAlignment != 0) {
    return Damaged(file, "its header is impossible");
  }
  if (header.data_offset + header.data_bytes != file_bytes) {
    return Damaged(file, fmt::format("it has {} bytes instead of {}", file_bytes,
                                     header.data_offset + header.data_bytes));
  }
  return all;
}

Result<PackedTable> ParsePackedTable(std::span<const std::byte> bytes, uint64_t file_bytes,
                                     const std::string& file) {
  TP_ASSIGN(const uint64_t all, PackedTableBytes(bytes, file_bytes, file));
  if (bytes.size() < all) return Damaged(file, "it ends within its table");
  bytes = bytes.first(all);
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (ChecksumOf(bytes) != header.checksum) return Damaged(file, "its table's checksum is wrong");

  PackedTable table;
  table.data_offset = header.data_offset;
  table.data_bytes = header.data_bytes;
  Reader in(bytes.subspan(sizeof header));
  table.key.content = in.String();
  table.key.device = in.String();
  table.key.instruction_set = in.String();
  table.key.packing_version = in.Number<uint32_t>();
  const bool precision = ReadPrecision(in, &table.key.precision);
  const auto segments = in.Number<uint32_t>();
  const auto items = in.Number<uint32_t>();
  if (in.failed() || !precision || segments > kMaxSegments) return Damaged(file, "its table is impossible");
  for (uint32_t i = 0; i < segments && !in.failed(); ++i) {
    PackedSegment segment;
    segment.offset = in.Number<uint64_t>();
    segment.bytes = in.Number<uint64_t>();
    segment.checksum = in.Number<uint64_t>();
    table.segments.push_back(segment);
  }
  if (in.failed()) return Damaged(file, "its table ends too early");
  TP_TRY(CheckSegments(table, file));
  TP_TRY(ReadItems(in, items, table, file));
  if (in.left() != 0) return Damaged(file, "its table is longer than what it holds");
  return table;
}

Result<std::shared_ptr<PackedFile>> PackedFile::Open(const std::filesystem::path& path,
                                                     const PackedKey& expected, bool trusted) {
  const std::string name = path.string();
  std::shared_ptr<PackedFile> file(new PackedFile);
  file->path_ = path;
  const auto missing = [&] {
    return Fail(ErrorKind::kNotFound, "packed_file_missing", fmt::format("{}: no such file", name), name);
  };
  // O_NONBLOCK: a pipe put in the file's place must not hang the server.
  file->descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
  if (file->descriptor_ < 0) {
    if (errno == ENOENT) return missing();
    return Unreadable(path, errno);
  }
  // Whoever deletes packed files takes them exclusively first: from here on it stays, or it is gone already.
  if (flock(file->descriptor_, LOCK_SH | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return missing();
    return Unreadable(path, errno);
  }
  posix_fadvise(file->descriptor_, 0, 0, POSIX_FADV_RANDOM);  // whoever reads says what exactly: no readahead
  struct stat status{};
  if (fstat(file->descriptor_, &status) != 0) return Unreadable(path, errno);
  if (status.st_nlink == 0) return missing();
  if (!S_ISREG(status.st_mode)) return Damaged(name, "not a regular file");
  const auto size = static_cast<uint64_t>(status.st_size);
  TP_ASSIGN(file->table_, ReadTable(file->descriptor_, size, name));
  if (file->table_.key != expected) {
    return Fail(
        ErrorKind::kCorrupt, "packed_file_foreign",
        fmt::format("{}: packed from other weights or for another device ({} {}, version {}); it will "
                    "be packed again",
                    name, file->table_.key.device, file->table_.key.instruction_set,
                    file->table_.key.packing_version),
        name);
  }
  void* const mapping = mmap(nullptr, size, PROT_READ, MAP_SHARED, file->descriptor_, 0);
  if (mapping == MAP_FAILED) {
    return Fail(ErrorKind::kUnavailable, "out_of_memory",
                fmt::format("{}: {} bytes cannot be mapped: {}. Check ulimit -v and vm.max_map_count", name,
                            size, SystemMessage(errno)),
                name);
  }
  file->mapping_ = static_cast<const std::byte*>(mapping);
  file->guard_ = MappedFileGuard(mapping, size);
  // Faults read aligned blocks of 2 MiB and nothing else. Advice only.
  madvise(mapping, size, MADV_RANDOM);
  madvise(mapping, size, MADV_HUGEPAGE);
  file->checked_ = std::make_unique<std::atomic<bool>[]>(file->table_.segments.size());
  for (size_t i = 0; i < file->table_.segments.size(); ++i) file->checked_[i] = trusted;
  return file;
}

bool PackedFile::intact() const {
  struct stat status{};
  return !guard_.lost() && fstat(descriptor_, &status) == 0 &&
         static_cast<uint64_t>(status.st_size) == table_.file_bytes();
}

PackedFile::~PackedFile() {
  guard_ = {};  // before somebody else's mapping stands there
  if (mapping_ != nullptr) munmap(const_cast<std::byte*>(mapping_), table_.file_bytes());
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace tidepool::architectures

// Layout, little endian: a header of 64 bytes, the index (key, workspaces, blocks), the blocks' KV.
#include "compute/kv/prefix_cache_file.h"

#define XXH_INLINE_ALL
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

namespace tidepool::compute {
namespace {

static_assert(std::endian::native == std::endian::little);

struct PrefixFileHeader {
  char magic[8];
  uint64_t checksum = 0;  // of this header, with 0 here, and the index
  uint64_t index_bytes = 0;
  uint64_t block_bytes = 0;
  uint64_t blocks = 0;
  uint64_t workspaces = 0;
  uint64_t block_tokens = chips::kKvBlockTokens;
  uint64_t unused = 0;
};
static_assert(sizeof(PrefixFileHeader) == 64);
constexpr char kPrefixFileMagic[] = "TPKVPFX1";

struct PrefixFileBlock {
  uint32_t workspace = 0;
  int32_t predecessor = -1;  // index of an earlier block; -1: first of its workspace
  int32_t tokens[chips::kKvBlockTokens];
  uint64_t checksum = 0;  // of the KV, seeded by the index
};
static_assert(sizeof(PrefixFileBlock) == 80);

// 210,000 blocks, or 3.3 million tokens, take 16 MiB of index.
constexpr uint64_t kMaxIndexBytes = 256u << 20;
constexpr uint64_t kMaxNameBytes = 4096;

class PrefixFileDescriptor {
 public:
  explicit PrefixFileDescriptor(int fd) : fd_(fd) {}
  PrefixFileDescriptor(const PrefixFileDescriptor&) = delete;
  PrefixFileDescriptor& operator=(const PrefixFileDescriptor&) = delete;
  ~PrefixFileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  const int fd_;
};

tl::unexpected<Error> PrefixFileFailed(const std::filesystem::path& path, std::string_view what, int error) {
  return Fail(error == ENOENT ? ErrorKind::kNotFound : ErrorKind::kUnavailable,
              error == ENOENT ? "no_prefix_cache" : "prefix_cache_file",
              fmt::format("{}: {}: {}", path.string(), what, std::strerror(error)));
}

tl::unexpected<Error> PrefixFileDamaged(const std::filesystem::path& path, std::string_view what) {
  return Fail(ErrorKind::kCorrupt, "prefix_cache_damaged",
              fmt::format("{}: {}; the prefix cache starts empty, the file is written again at the next stop",
                          path.string(), what));
}

uint64_t IndexChecksum(PrefixFileHeader header, const std::byte* index) {
  header.checksum = 0;
  return XXH3_64bits_withSeed(index, header.index_bytes, XXH3_64bits(&header, sizeof header));
}

uint64_t KvChecksum(const std::byte* data, size_t bytes, uint64_t index) {
  return XXH3_64bits_withSeed(data, bytes, index);
}

// False: short, or errno.
bool WriteAllAt(int fd, const void* data, size_t bytes, uint64_t at) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, from, bytes, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    from += n;
    at += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

bool ReadAllAt(int fd, void* data, size_t bytes, uint64_t at) {
  auto* to = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd, to, bytes, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    to += n;
    at += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

// ---- index -------------------------------------------------------------------------------------------

template <typename T>
void AppendBytes(std::vector<std::byte>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

void AppendName(std::vector<std::byte>& out, std::string_view name) {
  AppendBytes(out, static_cast<uint32_t>(name.size()));
  const auto* bytes = reinterpret_cast<const std::byte*>(name.data());
  out.insert(out.end(), bytes, bytes + name.size());
}

struct PrefixIndex {
  std::string_view key;
  std::vector<std::string_view> workspaces;
  std::span<const std::byte> blocks;  // PrefixFileBlock each, not aligned
  PrefixFileBlock At(size_t i) const {
    PrefixFileBlock block;
    std::memcpy(&block, blocks.data() + i * sizeof block, sizeof block);
    return block;
  }
};

// Takes `bytes` from the front; nullptr when there are fewer.
const std::byte* TakeFront(std::span<const std::byte>& from, uint64_t bytes) {
  if (bytes > from.size()) return nullptr;
  const std::byte* front = from.data();
  from = from.subspan(bytes);
  return front;
}

bool TakeName(std::span<const std::byte>& from, std::string_view& name) {
  uint32_t bytes = 0;
  const std::byte* length = TakeFront(from, sizeof bytes);
  if (length == nullptr) return false;
  std::memcpy(&bytes, length, sizeof bytes);
  if (bytes > kMaxNameBytes) return false;
  const std::byte* text = TakeFront(from, bytes);
  if (text == nullptr) return false;
  name = std::string_view(reinterpret_cast<const char*>(text), bytes);
  return true;
}

// Views into `bytes`. Empty: what is wrong with it.
std::string_view ParsePrefixIndex(const PrefixFileHeader& header, std::span<const std::byte> bytes,
                                  PrefixIndex& index) {
  if (!TakeName(bytes, index.key)) return "the key is cut off or too long";
  if (header.workspaces > bytes.size() / sizeof(uint32_t)) return "more workspaces than the index can hold";
  index.workspaces.resize(header.workspaces);
  for (std::string_view& name : index.workspaces) {
    if (!TakeName(bytes, name)) return "a workspace's name is cut off or too long";
  }
  if (bytes.size() % sizeof(PrefixFileBlock) != 0 ||
      header.blocks != bytes.size() / sizeof(PrefixFileBlock)) {
    return "the number of blocks differs from what the index holds";
  }
  index.blocks = bytes;
  for (size_t i = 0; i < header.blocks; ++i) {
    const PrefixFileBlock block = index.At(i);
    if (block.workspace >= header.workspaces) return "a block of a workspace that is not there";
    if (block.predecessor < -1 || block.predecessor >= static_cast<int64_t>(i)) {
      return "a block that continues none before it";
    }
    if (block.predecessor >= 0 &&
        index.At(static_cast<size_t>(block.predecessor)).workspace != block.workspace) {
      return "a block that continues another workspace's";
    }
  }
  return {};
}

bool PlausibleHeader(const PrefixFileHeader& header, uint64_t file_bytes) {
  if (std::memcmp(header.magic, kPrefixFileMagic, sizeof header.magic) != 0) return false;
  if (header.block_tokens != static_cast<uint64_t>(chips::kKvBlockTokens) || header.unused != 0) return false;
  if (header.index_bytes > kMaxIndexBytes || header.block_bytes == 0) return false;
  if (header.blocks > header.index_bytes / sizeof(PrefixFileBlock)) return false;
  if (header.index_bytes > file_bytes - sizeof header) return false;
  const uint64_t data_bytes = file_bytes - sizeof header - header.index_bytes;
  if (header.blocks == 0) return data_bytes == 0;
  return data_bytes % header.blocks == 0 && data_bytes / header.blocks == header.block_bytes;
}

}  // namespace

std::string PrefixCacheFileName(std::string_view content_key) {
  const XXH128_hash_t hash = XXH3_128bits(content_key.data(), content_key.size());
  return fmt::format("{:016x}{:016x}.prefix", hash.high64, hash.low64);
}

std::string KvContentKey(std::string_view model_digest, const chips::KvLayout& layout) {
  // kv2: attention over 16-bit KV is computed in integers, so its bits are not those of kv1.
  return fmt::format("{} kv2 type={} layers={} heads={} key={} value={}", model_digest,
                     static_cast<int>(layout.type), layout.layers, layout.kv_heads, layout.key_dim,
                     layout.value_dim);
}

// ---- save --------------------------------------------------------------------------------------------

namespace {

Status WritePrefixFile(const BlockPool& pool, const std::filesystem::path& path, int fd,
                       std::span<const BlockPool::CachedBlock> blocks) {
  std::map<std::string_view, uint32_t> workspace_of_name;
  std::vector<std::string_view> names;
  for (const auto& block : blocks) {
    if (workspace_of_name.emplace(block.workspace, names.size()).second) names.push_back(block.workspace);
  }
  std::vector<std::byte> index;
  AppendName(index, pool.content_key());
  for (const std::string_view name : names) AppendName(index, name);

  const size_t block_bytes = pool.options().block_bytes;
  PrefixFileHeader header;
  std::memcpy(header.magic, kPrefixFileMagic, sizeof header.magic);
  header.index_bytes = index.size() + blocks.size() * sizeof(PrefixFileBlock);
  header.block_bytes = block_bytes;
  header.blocks = blocks.size();
  header.workspaces = names.size();
  index.reserve(header.index_bytes);

  std::vector<std::byte> kv(block_bytes);
  uint64_t at = sizeof header + header.index_bytes;
  for (size_t i = 0; i < blocks.size(); ++i) {
    pool.device().CopyToHost(kv.data(), blocks[i].data, block_bytes);
    PrefixFileBlock entry;
    entry.workspace = workspace_of_name.at(blocks[i].workspace);
    entry.predecessor = blocks[i].predecessor;
    std::copy(blocks[i].tokens.begin(), blocks[i].tokens.end(), entry.tokens);
    entry.checksum = KvChecksum(kv.data(), block_bytes, i);
    AppendBytes(index, entry);
    if (!WriteAllAt(fd, kv.data(), block_bytes, at))
      return PrefixFileFailed(path, "cannot be written", errno);
    at += block_bytes;
  }
  header.checksum = IndexChecksum(header, index.data());
  if (!WriteAllAt(fd, index.data(), index.size(), sizeof header) ||
      !WriteAllAt(fd, &header, sizeof header, 0) || ::fsync(fd) != 0) {
    return PrefixFileFailed(path, "cannot be written", errno);
  }
  return {};
}

}  // namespace

Result<PrefixCacheFileStats> SavePrefixCache(const BlockPool& pool, const std::filesystem::path& path,
                                             uint64_t max_bytes) {
  const size_t block_bytes = pool.options().block_bytes;
  const uint64_t index_room = kMaxIndexBytes / 2 / sizeof(PrefixFileBlock);
  const uint64_t most = std::min({max_bytes / block_bytes, index_room, uint64_t{INT32_MAX}});
  const auto all = pool.CachedBlocks(static_cast<int32_t>(most));
  // With names too long to be read again there is no file.
  std::vector<BlockPool::CachedBlock> blocks;
  if (pool.content_key().size() <= kMaxNameBytes && std::all_of(all.begin(), all.end(), [](const auto& b) {
        return b.workspace.size() <= kMaxNameBytes;
      })) {
    blocks = all;
  }
  PrefixCacheFileStats stats{.blocks = static_cast<int32_t>(blocks.size()),
                             .left = pool.registered_blocks() - static_cast<int32_t>(blocks.size()),
                             .bytes = blocks.size() * block_bytes};
  if (blocks.empty()) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      return PrefixFileFailed(path, "cannot be removed", errno);
    }
    return stats;
  }
  std::filesystem::path beside = path;
  beside += ".part";
  ::unlink(beside.c_str());  // of a run that was killed
  const PrefixFileDescriptor file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return PrefixFileFailed(beside, "cannot be made", errno);
  if (Status written = WritePrefixFile(pool, beside, file.get(), blocks); !written) {
    ::unlink(beside.c_str());
    return Fail(std::move(written).error());
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return PrefixFileFailed(path, "cannot be renamed into place", error);
  }
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const PrefixFileDescriptor folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) ::fsync(folder.get());
  return stats;
}

// ---- load --------------------------------------------------------------------------------------------

Result<PrefixCacheFileStats> LoadPrefixCache(BlockPool& pool, const std::filesystem::path& path) {
  const PrefixFileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (file.get() < 0) return PrefixFileFailed(path, "cannot be opened", errno);
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) return PrefixFileFailed(path, "cannot be read", errno);
  if (!S_ISREG(info.st_mode)) return PrefixFileDamaged(path, "not a file");
  const auto file_bytes = static_cast<uint64_t>(info.st_size);
  PrefixFileHeader header;
  if (file_bytes < sizeof header || !ReadAllAt(file.get(), &header, sizeof header, 0) ||
      !PlausibleHeader(header, file_bytes)) {
    return PrefixFileDamaged(path, "not a prefix cache of this version, or cut off");
  }
  std::vector<std::byte> bytes(header.index_bytes);
  if (!ReadAllAt(file.get(), bytes.data(), bytes.size(), sizeof header)) {
    return PrefixFileDamaged(path, "the index cannot be read");
  }
  if (IndexChecksum(header, bytes.data()) != header.checksum) {
    return PrefixFileDamaged(path, "the checksum of the index is wrong");
  }
  PrefixIndex index;
  if (const std::string_view wrong = ParsePrefixIndex(header, bytes, index); !wrong.empty()) {
    return PrefixFileDamaged(path, wrong);
  }
  const size_t block_bytes = pool.options().block_bytes;
  if (index.key != pool.content_key() || header.block_bytes != block_bytes) {
    return Fail(ErrorKind::kConflict, "prefix_cache_of_another_model",
                fmt::format("{}: the prefix cache of \"{}\", not of \"{}\"; it is left alone", path.string(),
                            index.key, pool.content_key()));
  }

  PrefixCacheFileStats stats;
  BlockPool::CacheLoader loader(pool);
  std::vector<std::byte> kv(block_bytes);
  for (size_t i = 0; i < header.blocks; ++i) {
    const PrefixFileBlock block = index.At(i);
    std::byte* data = nullptr;
    const auto added = loader.Add(index.workspaces[block.workspace], block.predecessor, block.tokens, &data);
    if (added != BlockPool::CacheLoader::Added::kFill) {
      ++stats.left;
      continue;
    }
    const uint64_t at = sizeof header + header.index_bytes + i * block_bytes;
    if (!ReadAllAt(file.get(), kv.data(), block_bytes, at)) {
      return PrefixFileDamaged(path, "the KV of a block cannot be read");
    }
    if (KvChecksum(kv.data(), block_bytes, i) != block.checksum) {
      return PrefixFileDamaged(path, fmt::format("the checksum of block {} is wrong", i));
    }
    pool.device().CopyToDevice(data, kv.data(), block_bytes);
    ++stats.blocks;
    stats.bytes += block_bytes;
  }
  loader.Keep();
  return stats;
}

void internal::SealPrefixCacheFile(std::span<std::byte> file) {
  PrefixFileHeader header;
  if (file.size() < sizeof header) return;
  std::memcpy(&header, file.data(), sizeof header);
  if (!PlausibleHeader(header, file.size())) return;
  std::byte* const index = file.data() + sizeof header;
  const size_t entries = header.index_bytes - header.blocks * sizeof(PrefixFileBlock);
  for (size_t i = 0; i < header.blocks; ++i) {
    const uint64_t checksum =
        KvChecksum(index + header.index_bytes + i * header.block_bytes, header.block_bytes, i);
    std::memcpy(index + entries + i * sizeof(PrefixFileBlock) + offsetof(PrefixFileBlock, checksum),
                &checksum, sizeof checksum);
  }
  header.checksum = IndexChecksum(header, index);
  std::memcpy(file.data(), &header, sizeof header);
}

}  // namespace tidepool::compute

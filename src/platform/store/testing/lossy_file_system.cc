#include "platform/store/testing/lossy_file_system.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstring>
#include <fstream>
#include <sstream>
#include <unordered_map>

#include "base/check.h"

namespace tidepool::store {
namespace {

std::atomic<LossyFileSystem*> current{nullptr};

std::string ContentsOf(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

void Put(std::string& contents, uint64_t offset, std::string_view bytes) {
  if (contents.size() < offset + bytes.size()) contents.resize(offset + bytes.size(), '\0');
  contents.replace(offset, bytes.size(), bytes);
}

void Apply(const LossyFileSystem::Inode::Change& change, std::string& contents) {
  if (change.truncates) {
    contents.resize(change.offset, '\0');
  } else {
    Put(contents, change.offset, change.bytes);
  }
}

std::string FolderOf(const std::string& path) { return std::filesystem::path(path).parent_path().string(); }

// ---- SQLite's layer -----------------------------------------------------------------------------------

struct LossyVfsFile {
  sqlite3_file base;
  LossyFileSystem* system;
  std::shared_ptr<LossyFileSystem::Inode>* inode;  // nullptr: not ours
  std::string*
      folder;  // that its first sync syncs too, as SQLite's own layer does for new journals; or nullptr
  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
LossyVfsFile& Lossy(sqlite3_file* file) { return *reinterpret_cast<LossyVfsFile*>(file); }
sqlite3_vfs* Real(sqlite3_vfs* vfs) { return static_cast<sqlite3_vfs*>(vfs->pAppData); }
const sqlite3_io_methods& RealMethods(sqlite3_file* file) { return *Lossy(file).real()->pMethods; }

int VfsClose(sqlite3_file* file) {
  delete std::exchange(Lossy(file).inode, nullptr);
  delete std::exchange(Lossy(file).folder, nullptr);
  return RealMethods(file).xClose(Lossy(file).real());
}
int VfsRead(sqlite3_file* file, void* into, int count, sqlite3_int64 offset) {
  return RealMethods(file).xRead(Lossy(file).real(), into, count, offset);
}
int VfsWrite(sqlite3_file* file, const void* bytes, int count, sqlite3_int64 offset) {
  const int code = RealMethods(file).xWrite(Lossy(file).real(), bytes, count, offset);
  LossyVfsFile& lossy = Lossy(file);
  if (code == SQLITE_OK && lossy.inode != nullptr) {
    lossy.system->Wrote(**lossy.inode, static_cast<uint64_t>(offset),
                        {static_cast<const char*>(bytes), static_cast<size_t>(count)});
  }
  return code;
}
int VfsTruncate(sqlite3_file* file, sqlite3_int64 size) {
  const int code = RealMethods(file).xTruncate(Lossy(file).real(), size);
  if (code == SQLITE_OK && Lossy(file).inode != nullptr)
    Lossy(file).system->Truncated(**Lossy(file).inode, static_cast<uint64_t>(size));
  return code;
}
int VfsSync(sqlite3_file* file, int flags) {
  LossyVfsFile& lossy = Lossy(file);
  if (lossy.inode == nullptr) return RealMethods(file).xSync(lossy.real(), flags);
  lossy.system->Synced(**lossy.inode);
  if (lossy.folder != nullptr) {
    lossy.system->SyncedFolder(*lossy.folder);
    delete std::exchange(lossy.folder, nullptr);
  }
  return SQLITE_OK;
}
int VfsFileSize(sqlite3_file* file, sqlite3_int64* size) {
  return RealMethods(file).xFileSize(Lossy(file).real(), size);
}
int VfsLock(sqlite3_file* file, int kind) { return RealMethods(file).xLock(Lossy(file).real(), kind); }
int VfsUnlock(sqlite3_file* file, int kind) { return RealMethods(file).xUnlock(Lossy(file).real(), kind); }
int VfsCheckReservedLock(sqlite3_file* file, int* held) {
  return RealMethods(file).xCheckReservedLock(Lossy(file).real(), held);
}
int VfsFileControl(sqlite3_file* file, int what, void* argument) {
  return RealMethods(file).xFileControl(Lossy(file).real(), what, argument);
}
int VfsSectorSize(sqlite3_file* file) { return RealMethods(file).xSectorSize(Lossy(file).real()); }
int VfsDeviceCharacteristics(sqlite3_file* file) {
  return RealMethods(file).xDeviceCharacteristics(Lossy(file).real());
}
// The index of the WAL: memory, which no disk keeps.
int VfsShmMap(sqlite3_file* file, int region, int size, int extend, void volatile** memory) {
  return RealMethods(file).xShmMap(Lossy(file).real(), region, size, extend, memory);
}
int VfsShmLock(sqlite3_file* file, int offset, int count, int flags) {
  return RealMethods(file).xShmLock(Lossy(file).real(), offset, count, flags);
}
void VfsShmBarrier(sqlite3_file* file) { RealMethods(file).xShmBarrier(Lossy(file).real()); }
int VfsShmUnmap(sqlite3_file* file, int removes) {
  return RealMethods(file).xShmUnmap(Lossy(file).real(), removes);
}

const sqlite3_io_methods kMethods = {2,
                                     VfsClose,
                                     VfsRead,
                                     VfsWrite,
                                     VfsTruncate,
                                     VfsSync,
                                     VfsFileSize,
                                     VfsLock,
                                     VfsUnlock,
                                     VfsCheckReservedLock,
                                     VfsFileControl,
                                     VfsSectorSize,
                                     VfsDeviceCharacteristics,
                                     VfsShmMap,
                                     VfsShmLock,
                                     VfsShmBarrier,
                                     VfsShmUnmap,
                                     nullptr,
                                     nullptr};

int VfsOpen(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  LossyVfsFile& lossy = Lossy(file);
  std::memset(&lossy, 0, sizeof lossy);
  lossy.system = name == nullptr ? nullptr : LossyFileSystem::Of(name);
  struct stat info{};
  const bool is_new = name != nullptr && ::stat(name, &info) != 0;
  const int code = Real(vfs)->xOpen(Real(vfs), name, lossy.real(), flags, out_flags);
  if (lossy.real()->pMethods != nullptr) lossy.base.pMethods = &kMethods;
  if (code == SQLITE_OK && lossy.system != nullptr) {
    lossy.inode = new std::shared_ptr(lossy.system->Opened(name, (flags & SQLITE_OPEN_CREATE) != 0));
    const int journals = SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL;
    if (is_new && (flags & journals) != 0) lossy.folder = new std::string(FolderOf(name));
  }
  return code;
}
int VfsDelete(sqlite3_vfs* vfs, const char* name, int sync_folder) {
  const int code = Real(vfs)->xDelete(Real(vfs), name, 0);
  LossyFileSystem* system = LossyFileSystem::Of(name);
  if (code == SQLITE_OK && system != nullptr) {
    system->Removed(name);
    if (sync_folder != 0) system->SyncedFolder(FolderOf(name));
  }
  return code;
}

sqlite3_vfs& LossyVfs() {
  static sqlite3_vfs vfs = [] {
    sqlite3_vfs* real = sqlite3_vfs_find(nullptr);
    CHECK(real != nullptr);
    sqlite3_vfs made = *real;  // all but these as the real one has them
    made.iVersion = 1;         // randomness, sleep and time: the real one's, which do not ask whose they are
    made.szOsFile = static_cast<int>(sizeof(LossyVfsFile)) + real->szOsFile;
    made.pNext = nullptr;
    made.zName = "lossy";
    made.pAppData = real;
    made.xOpen = VfsOpen;
    made.xDelete = VfsDelete;
    return made;
  }();
  return vfs;
}

// ---- the C library's layer ----------------------------------------------------------------------------

struct Descriptors {
  std::mutex mutex;
  std::unordered_map<int, std::shared_ptr<LossyFileSystem::Inode>> files;  // open for writing
  std::unordered_map<int, std::string> folders;
};
Descriptors& Open() {
  static Descriptors descriptors;
  return descriptors;
}
std::shared_ptr<LossyFileSystem::Inode> FileOf(int fd) {
  std::lock_guard lock(Open().mutex);
  const auto it = Open().files.find(fd);
  return it == Open().files.end() ? nullptr : it->second;
}
std::string FolderOf(int fd) {
  std::lock_guard lock(Open().mutex);
  const auto it = Open().folders.find(fd);
  return it == Open().folders.end() ? "" : it->second;
}

}  // namespace

LossyFileSystem::LossyFileSystem(std::filesystem::path folder, uint32_t seed)
    : folder_(folder.string() + "/"), random_(seed) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    auto inode = std::make_shared<Inode>();
    inode->durable = ContentsOf(entry.path());
    names_[entry.path().string()] = std::move(inode);
  }
  durable_names_ = names_;
  CHECK(current.exchange(this) == nullptr);
  CHECK(sqlite3_vfs_register(&LossyVfs(), /*makeDflt=*/1) == SQLITE_OK);
}

LossyFileSystem::~LossyFileSystem() {
  sqlite3_vfs* real = static_cast<sqlite3_vfs*>(LossyVfs().pAppData);
  sqlite3_vfs_unregister(&LossyVfs());
  sqlite3_vfs_register(real, /*makeDflt=*/1);
  current = nullptr;
}

LossyFileSystem* LossyFileSystem::Of(std::string_view path) {
  LossyFileSystem* system = current.load();
  const bool within =
      system != nullptr && (path.starts_with(system->folder_) ||
                            path == std::string_view(system->folder_).substr(0, system->folder_.size() - 1));
  return within ? system : nullptr;
}

void LossyFileSystem::FailAt(int64_t nth_change, std::function<void()> then) {
  std::lock_guard lock(mutex_);
  fails_at_ = changes_ + nth_change;
  then_ = std::move(then);
}
bool LossyFileSystem::failed() {
  std::lock_guard lock(mutex_);
  return failed_;
}
int64_t LossyFileSystem::changes() {
  std::lock_guard lock(mutex_);
  return changes_;
}

void LossyFileSystem::CountChange() {
  if (++changes_ == fails_at_) Fail();
}

std::string LossyFileSystem::Surviving(const Inode& inode, double share) {
  std::string contents = inode.durable;
  for (const Inode::Change& change : inode.pending) {
    if (change.truncates) {
      if (Chance(share)) Apply(change, contents);
      continue;
    }
    std::string_view bytes = change.bytes;
    for (uint64_t offset = change.offset; !bytes.empty();) {
      const size_t count = std::min<uint64_t>(bytes.size(), kSector - offset % kSector);
      if (Chance(share)) Put(contents, offset, bytes.substr(0, count));
      offset += count;
      bytes.remove_prefix(count);
    }
  }
  return contents;
}

void LossyFileSystem::Fail() {
  if (std::exchange(failed_, true)) return;
  // From a disk that had written nothing of it to one that had all but said so.
  static constexpr std::array<double, 5> kShares = {0, 0.1, 0.5, 0.9, 1};
  const double share = kShares[random_() % kShares.size()];
  auto names = durable_names_;
  for (const NameChange& change : pending_names_) {
    if (!Chance(share)) continue;
    for (const auto& [name, inode] : change) names[name] = inode;
  }
  for (const auto& [name, inode] : names) {
    if (inode != nullptr) disk_[name.substr(folder_.size())] = Surviving(*inode, share);
  }
  if (then_) then_();
}

void LossyFileSystem::Restore(const std::filesystem::path& into) {
  std::lock_guard lock(mutex_);
  Fail();
  std::filesystem::create_directories(into);
  for (const auto& [name, contents] : disk_) {
    const std::filesystem::path path = into / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << contents;
    std::filesystem::permissions(path, std::filesystem::perms(0600));
  }
}

std::shared_ptr<LossyFileSystem::Inode> LossyFileSystem::Opened(const std::string& path, bool creates) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<Inode>& inode = names_[path];
  if (inode == nullptr && creates) {
    inode = std::make_shared<Inode>();
    pending_names_.push_back({{path, inode}});
    CountChange();
  }
  return inode;
}

void LossyFileSystem::Wrote(Inode& inode, uint64_t offset, std::string_view bytes) {
  std::lock_guard lock(mutex_);
  inode.pending.push_back({offset, std::string(bytes), false});
  CountChange();
}
void LossyFileSystem::Truncated(Inode& inode, uint64_t size) {
  std::lock_guard lock(mutex_);
  inode.pending.push_back({size, {}, true});
  CountChange();
}
void LossyFileSystem::Synced(Inode& inode) {
  std::lock_guard lock(mutex_);
  CountChange();  // it fails before the sync has done anything
  for (const Inode::Change& change : inode.pending) Apply(change, inode.durable);
  inode.pending.clear();
}
void LossyFileSystem::SyncedFolder(const std::string& folder) {
  std::lock_guard lock(mutex_);
  CountChange();
  std::erase_if(pending_names_, [&](const NameChange& change) {
    if (FolderOf(change.front().first) != folder) return false;  // (no file moves from one folder to another)
    for (const auto& [name, inode] : change) durable_names_[name] = inode;
    return true;
  });
}
void LossyFileSystem::Renamed(const std::string& from, const std::string& to) {
  std::lock_guard lock(mutex_);
  const std::shared_ptr<Inode> inode = names_[from];
  names_[to] = inode;
  names_.erase(from);
  pending_names_.push_back({{to, inode}, {from, nullptr}});
  CountChange();
}
void LossyFileSystem::Removed(const std::string& path) {
  std::lock_guard lock(mutex_);
  names_.erase(path);
  pending_names_.push_back({{path, nullptr}});
  CountChange();
}

}  // namespace tidepool::store

// NOLINTBEGIN(bugprone-reserved-identifier): names that the linker gives.
extern "C" {
int __real_open(const char* path, int flags, ...);
int __real_close(int fd);
ssize_t __real_write(int fd, const void* bytes, size_t count);
ssize_t __real_pwrite(int fd, const void* bytes, size_t count, off_t offset);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_rename(const char* from, const char* to);
int __real_unlink(const char* path);

int __wrap_open(const char* path, int flags, ...) {
  using namespace tidepool::store;
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list more;
    va_start(more, flags);
    mode = va_arg(more, mode_t);
    va_end(more);
  }
  const int fd = __real_open(path, flags, mode);
  LossyFileSystem* system = LossyFileSystem::Of(path);
  if (fd < 0 || system == nullptr) return fd;
  if ((flags & O_DIRECTORY) != 0) {
    std::lock_guard lock(Open().mutex);
    Open().folders[fd] = path;
  } else if ((flags & O_ACCMODE) != O_RDONLY) {
    auto inode = system->Opened(path, (flags & O_CREAT) != 0);
    std::lock_guard lock(Open().mutex);
    Open().files[fd] = std::move(inode);
  }
  return fd;
}
int __wrap_close(int fd) {
  {
    std::lock_guard lock(tidepool::store::Open().mutex);
    tidepool::store::Open().files.erase(fd);
    tidepool::store::Open().folders.erase(fd);
  }
  return __real_close(fd);
}
ssize_t __wrap_write(int fd, const void* bytes, size_t count) {
  const auto inode = tidepool::store::FileOf(fd);
  if (inode == nullptr) return __real_write(fd, bytes, count);
  const off_t offset = ::lseek(fd, 0, SEEK_CUR);
  const ssize_t written = __real_write(fd, bytes, count);
  if (auto* system = tidepool::store::current.load(); written > 0 && system != nullptr) {
    system->Wrote(*inode, static_cast<uint64_t>(offset),
                  {static_cast<const char*>(bytes), static_cast<size_t>(written)});
  }
  return written;
}
ssize_t __wrap_pwrite(int fd, const void* bytes, size_t count, off_t offset) {
  const ssize_t written = __real_pwrite(fd, bytes, count, offset);
  const auto inode = tidepool::store::FileOf(fd);
  auto* system = tidepool::store::current.load();
  if (written > 0 && inode != nullptr && system != nullptr) {
    system->Wrote(*inode, static_cast<uint64_t>(offset),
                  {static_cast<const char*>(bytes), static_cast<size_t>(written)});
  }
  return written;
}
int __wrap_fsync(int fd) {
  auto* system = tidepool::store::current.load();
  if (const std::string folder = tidepool::store::FolderOf(fd); system != nullptr && !folder.empty()) {
    system->SyncedFolder(folder);
    return 0;
  }
  const auto inode = tidepool::store::FileOf(fd);
  if (inode == nullptr || system == nullptr) return __real_fsync(fd);
  system->Synced(*inode);
  return 0;
}
int __wrap_fdatasync(int fd) {
  const auto inode = tidepool::store::FileOf(fd);
  auto* system = tidepool::store::current.load();
  if (inode == nullptr || system == nullptr) return __real_fdatasync(fd);
  system->Synced(*inode);
  return 0;
}
int __wrap_rename(const char* from, const char* to) {
  const int code = __real_rename(from, to);
  auto* system = tidepool::store::LossyFileSystem::Of(to);
  if (code == 0 && system != nullptr) system->Renamed(from, to);
  return code;
}
int __wrap_unlink(const char* path) {
  const int code = __real_unlink(path);
  auto* system = tidepool::store::LossyFileSystem::Of(path);
  if (code == 0 && system != nullptr) system->Removed(path);
  return code;
}
}
// NOLINTEND(bugprone-reserved-identifier)

#include "platform/catalog/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "base/ids.h"
#include "base/log.h"
#include "platform/catalog/manifest.h"
#include "platform/catalog/names.h"
#include "platform/catalog/sha256.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxManifestBytes = 4 << 20;
constexpr uint64_t kSpareDiskBytes = uint64_t{64} << 20;  // left free for everyone else on the disk
constexpr size_t kMaxModels = 100'000;

std::string LinksKey(const StoredModel& model) {
  std::string text = model.format;
  for (const StoredFile& file : model.files) text += fmt::format("\n{} {}", file.sha256, file.name);
  return Sha256Hex(text).substr(0, 32);
}

// The files of a folder tree, at most kMaxModels; false when trouble or the limit ended the walk.
bool FilesUnder(const fs::path& folder, std::vector<fs::path>& out) {
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    if (out.size() == kMaxModels) return false;
    if (it->is_regular_file(error)) out.push_back(it->path());
  }
  return !error;
}

std::vector<fs::path> EntriesOf(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  fs::directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) out.push_back(it->path());
  return out;
}

void RemoveTree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) LogWarn("cannot be removed", {{"path", path.string()}, {"error", error.message()}});
}

}  // namespace

Result<std::unique_ptr<Store>> Store::Open(const fs::path& root, uint64_t max_bytes) {
  for (const char* folder : {"blobs", "manifests", "links", "partial"}) TP_TRY(MakeFolders(root / folder));
  std::unique_ptr<Store> store(new Store(fs::absolute(root), max_bytes));
  TP_ASSIGN(const File lock, store->LockStore());
  Scanned scanned = store->Scan();
  store->DropOrphans(scanned);
  store->DropOldPartials();
  store->models_ = std::move(scanned.models);
  return store;
}

Result<File> Store::LockStore() const {
  TP_ASSIGN(File lock, File::Open(root_ / "store.lock", O_RDWR | O_CREAT));
  TP_TRY(lock.Lock());
  return lock;
}

fs::path Store::ManifestPath(const std::string& id) const {
  const size_t colon = id.find(':');
  return root_ / "manifests" / id.substr(0, colon) / (id.substr(colon + 1) + ".json");
}

fs::path Store::BlobPath(const std::string& sha256) const { return root_ / "blobs" / ("sha256-" + sha256); }

bool Store::HasBlob(const std::string& sha256, uint64_t bytes) const {
  struct stat info{};
  if (::stat(BlobPath(sha256).c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  return bytes == 0 || static_cast<uint64_t>(info.st_size) == bytes;
}

fs::path Store::PartialFolder(const std::string& key) const {
  return root_ / "partial" / Sha256Hex(key).substr(0, 32);
}

// ---- reading ----------------------------------------------------------------------------------------

Store::Scanned Store::Scan() const {
  Scanned out;
  std::vector<fs::path> paths;
  out.whole = FilesUnder(root_ / "manifests", paths);
  for (const fs::path& path : paths) {
    if (path.extension() != ".json") continue;
    const auto text = ReadWholeFile(path, kMaxManifestBytes);
    auto model = text ? ReadManifest(*text, path.string()) : Result<StoredModel>(Fail(text.error()));
    if (!model) {
      out.whole = false;
      LogWarn("model skipped", {{"error", model.error().message}});
      continue;
    }
    bool complete = ManifestPath(model->id) == path;
    for (const StoredFile& file : model->files) {
      out.blobs.insert("sha256-" + file.sha256);
      struct stat info{};
      complete = complete && ::stat(BlobPath(file.sha256).c_str(), &info) == 0 &&
                 static_cast<uint64_t>(info.st_size) == file.bytes;
    }
    if (complete) {
      out.models.push_back(std::move(*model));
    } else {
      LogWarn("model skipped: its manifest lies elsewhere or a blob is missing; pull it again",
              {{"model", model->id}, {"manifest", path.string()}});
    }
  }
  std::sort(out.models.begin(), out.models.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return out;
}

void Store::Refresh() const {
  Scanned scanned = Scan();
  const std::lock_guard lock(mutex_);
  models_ = std::move(scanned.models);
}

std::vector<StoredModel> Store::List() const {
  Refresh();
  const std::lock_guard lock(mutex_);
  return models_;
}

std::optional<StoredModel> Store::Lookup(const std::vector<StoredModel>& models, std::string_view id) {
  for (const StoredModel& model : models) {
    if (model.id == id) return model;
  }
  for (const StoredModel& model : models) {
    if (EqualsIgnoringCase(model.id, id)) return model;
  }
  return std::nullopt;
}

Result<std::optional<StoredModel>> Store::Find(std::string_view id) const {
  TP_ASSIGN(const ModelName name, ParseModelName(id));
  for (const bool refreshed : {false, true}) {
    if (refreshed) Refresh();  // another process may have pulled it
    const std::lock_guard lock(mutex_);
    if (auto found = Lookup(models_, name.tag.empty() ? name.name + ":latest" : id)) return found;
    if (!name.tag.empty()) continue;
    std::vector<const StoredModel*> tags;
    for (const StoredModel& model : models_) {
      if (EqualsIgnoringCase(model.id.substr(0, model.id.find(':')), name.name)) tags.push_back(&model);
    }
    if (tags.size() == 1) return std::optional<StoredModel>(*tags.front());
    if (tags.size() > 1) {
      std::string list;
      for (const StoredModel* model : tags) list += (list.empty() ? "" : ", ") + model->id;
      return Fail(ErrorKind::kNotFound, "model_not_found",
                  fmt::format("\"{}\" has several tags: {}; say which", id, list), "model");
    }
  }
  return std::optional<StoredModel>();
}

// ---- changing ---------------------------------------------------------------------------------------

Status Store::Commit(StoredModel& model, const std::vector<StagedFile>& files) {
  TP_ASSIGN(const File lock, LockStore());
  // One model has one spelling.
  if (const auto same = Lookup(Scan().models, model.id)) model.id = same->id;
  model.files.clear();
  model.bytes = 0;
  for (const StagedFile& staged : files) {
    const fs::path blob = BlobPath(staged.file.sha256);
    if (!HasBlob(staged.file.sha256, staged.file.bytes)) {
      if (staged.staged.empty()) {
        return Fail(ErrorKind::kConflict, "blob_gone",
                    fmt::format("{} was removed meanwhile", blob.string()));
      }
      ::chmod(staged.staged.c_str(), 0444);
      TP_TRY(RenameFile(staged.staged, blob));
    }
    model.files.push_back(staged.file);
    model.bytes += staged.file.bytes;
  }
  TP_TRY(SyncFolder(root_ / "blobs"));
  const fs::path manifest = ManifestPath(model.id);
  TP_TRY(MakeFolders(manifest.parent_path()));
  TP_TRY(WriteWholeFile(manifest, WriteManifest(model)));
  TP_TRY(SyncFolder(root_ / "manifests"));
  Scanned after = Scan();
  DropOrphans(after);
  const std::lock_guard guard(mutex_);
  models_ = std::move(after.models);
  return {};
}

Status Store::Remove(const std::string& id) {
  TP_ASSIGN(const File lock, LockStore());
  const fs::path manifest = ManifestPath(id);
  if (::unlink(manifest.c_str()) != 0) return FileFailed(manifest, "cannot be removed", errno);
  TP_TRY(SyncFolder(manifest.parent_path()));
  ::rmdir(manifest.parent_path().c_str());  // stays when it has other tags
  if (id.find('/') != std::string::npos) ::rmdir(manifest.parent_path().parent_path().c_str());
  Scanned after = Scan();
  DropOrphans(after);
  const std::lock_guard guard(mutex_);
  models_ = std::move(after.models);
  return {};
}

// Blobs and links that no manifest refers to. Blobs come in only under the store's lock together with their
// manifest, so under the lock an unused one is left over.
void Store::DropOrphans(const Scanned& scanned) const {
  if (!scanned.whole) return;
  std::set<std::string> links;
  for (const StoredModel& model : scanned.models) links.insert(LinksKey(model));
  for (const fs::path& blob : EntriesOf(root_ / "blobs")) {
    if (!scanned.blobs.contains(blob.filename().string())) RemoveTree(blob);
  }
  for (const fs::path& folder : EntriesOf(root_ / "links")) {
    const std::string name = folder.filename().string();
    const bool being_made = name.find(".tmp-") != std::string::npos;
    if (!links.contains(name) && !being_made) RemoveTree(folder);
  }
}

// A half pull can be resumed for a month; after that its bytes only cost disk.
void Store::DropOldPartials() const {
  constexpr auto kKept = std::chrono::hours(24 * 30);
  for (const fs::path& folder : EntriesOf(root_ / "partial")) {
    std::error_code error;
    const fs::file_time_type changed = fs::last_write_time(folder, error);
    if (!error && fs::file_time_type::clock::now() - changed > kKept) RemoveTree(folder);
  }
}

Result<fs::path> Store::Materialise(const StoredModel& model) const {
  const fs::path folder = root_ / "links" / LinksKey(model);
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    const fs::path beside = root_ / "links" / (LinksKey(model) + RandomId(".tmp-", 8));
    TP_TRY(MakeFolders(beside));
    for (const StoredFile& file : model.files) {
      const fs::path link = beside / file.name;
      TP_TRY(MakeFolders(link.parent_path()));
      fs::path target = "../../blobs";
      for (const char c : file.name) {
        if (c == '/') target = ".." / target;
      }
      fs::create_symlink(target / ("sha256-" + file.sha256), link, error);
      if (error) return FileFailed(link, "cannot be linked", error.value());
    }
    // Another thread or process may have been first; then its folder is as good.
    if (::rename(beside.c_str(), folder.c_str()) != 0) {
      const int problem = errno;
      RemoveTree(beside);
      if (!fs::is_directory(folder, error)) return FileFailed(folder, "cannot be made", problem);
    }
  }
  if (model.format != "gguf") return folder;
  std::string first;  // of a split set the first part, by name
  for (const StoredFile& file : model.files) {
    if (file.name.ends_with(".gguf") && (first.empty() || file.name < first)) first = file.name;
  }
  if (first.empty()) {
    return Fail(ErrorKind::kCorrupt, "manifest",
                fmt::format("model \"{}\" lists no .gguf file; pull it again", model.id));
  }
  return folder / first;
}

Status Store::CheckSpace(uint64_t bytes) const {
  TP_ASSIGN(const uint64_t free, FreeDiskBytes(root_));
  const auto mib = [](uint64_t b) { return static_cast<double>(b) / (1 << 20); };
  if (bytes > free || free - bytes < kSpareDiskBytes) {
    return Fail(
        ErrorKind::kUnavailable, "disk_full",
        fmt::format(
            "{:.0f} MiB are needed and {:.0f} MiB are free on the disk of {} ({} MiB stay free); remove "
            "a model (tidepool rm MODEL) or move TIDEPOOL_HOME to a larger disk",
            mib(bytes), mib(free), root_.string(), kSpareDiskBytes >> 20));
  }
  if (max_bytes_ == 0) return {};
  uint64_t used = 0;
  for (const char* folder : {"blobs", "partial"}) {
    std::vector<fs::path> files;
    FilesUnder(root_ / folder, files);
    for (const fs::path& file : files) used += SizeOrZero(file);
  }
  if (used <= max_bytes_ && bytes <= max_bytes_ - used) return {};
  return Fail(
      ErrorKind::kUnavailable, "disk_full",
      fmt::format(
          "{:.0f} MiB are needed, the store holds {:.0f} MiB and its limit is {:.0f} MiB; remove a model "
          "(tidepool rm MODEL) or raise the limit",
          mib(bytes), mib(used), mib(max_bytes_)));
}

}  // namespace tidepool::platform

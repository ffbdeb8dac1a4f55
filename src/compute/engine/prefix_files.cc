// What is kept over a restart and shown to others: files of prefix caches, the record of decisions.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <system_error>

#include "base/log.h"
#include "compute/engine/engine_impl.h"
#include "compute/kv/prefix_cache_file.h"

namespace tidepool::compute {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxPrefixFolderEntries = 100'000;  // one file a pinned model; a scan must end

bool HasFile(const PrefixFileOptions& options, const LoadedModel& model) {
  const BlockPoolOptions& pool = model.pool->options();
  return options.max_bytes > 0 && pool.prefix_cache && !pool.content_key.empty() && model.policy.pinned;
}

}  // namespace

// On the caller's thread: nobody else knows the model yet.
void EngineImpl::LoadPrefixFile(LoadedModel& model) const {
  if (!HasFile(options_.prefix_files, model)) return;
  const fs::path path = options_.prefix_files.folder / PrefixCacheFileName(model.pool->content_key());
  const auto loaded = LoadPrefixCache(*model.pool, path);
  if (loaded) {
    LogInfo("a prefix cache was restored",
            {{"model", model.card->name}, {"blocks", loaded->blocks}, {"bytes", loaded->bytes}});
  } else if (loaded.error().kind != ErrorKind::kNotFound) {
    LogWarn("a prefix cache was not restored",
            {{"model", model.card->name}, {"reason", loaded.error().message}});
  }
}

void EngineImpl::SavePrefixCaches() {
  const PrefixFileOptions& options = options_.prefix_files;
  if (options.max_bytes == 0) return;
  std::error_code error;
  fs::create_directories(options.folder, error);
  if (!error) fs::permissions(options.folder, fs::perms::owner_all, error);
  std::set<std::string> kept;
  Call([&] {
    for (const auto& [handle, model] : models_) {
      if (!HasFile(options, *model)) continue;
      const std::string name = PrefixCacheFileName(model->pool->content_key());
      const auto saved = SavePrefixCache(*model->pool, options.folder / name, options.max_bytes);
      kept.insert(name);  // also where writing failed: what was there before is whole
      if (saved) {
        LogInfo("a prefix cache was kept",
                {{"model", model->card->name}, {"blocks", saved->blocks}, {"left", saved->left}});
      } else {
        LogWarn("a prefix cache was not kept",
                {{"model", model->card->name}, {"reason", saved.error().message}});
      }
    }
  });
  int entries = 0;
  std::vector<fs::path> stale;
  for (fs::directory_iterator it(options.folder, error), end; !error && it != end; it.increment(error)) {
    if (++entries > kMaxPrefixFolderEntries) break;
    const std::string name = it->path().filename().string();
    if ((name.ends_with(".prefix") || name.ends_with(".prefix.part")) && !kept.contains(name))
      stale.push_back(it->path());
  }
  for (const fs::path& path : stale) fs::remove(path, error);
}

std::string EngineImpl::DecisionTrace(bool requests) const {
  if (recorder_ == nullptr) return {};
  SchedulerTrace trace;
  std::map<ModelHandle, std::string> names;
  Call([&] {
    trace = recorder_->trace();
    for (const auto& [handle, model] : models_) names[handle] = model->card->name;
  });
  std::ostringstream out;
  if (!requests) {
    WriteTrace(trace, out);
    return std::move(out).str();
  }
  for (const TraceRecord& record : trace.records) {  // also of models that have left
    if (record.kind == TraceKind::kModel && record.added_model != nullptr)
      names.emplace(record.added_model->model, record.added_model->name);
  }
  const std::vector<TraceArrival> arrivals = ArrivalsOf(trace);
  const Nanoseconds begin = arrivals.empty() ? 0 : arrivals.front().at;
  for (const TraceArrival& arrival : arrivals) {
    const nlohmann::ordered_json line = {
        {"arrival_s", static_cast<double>(arrival.at - begin) * 1e-9},
        {"model", names.contains(arrival.job.model) ? names[arrival.job.model] : "unknown"},
        {"prompt_tokens", arrival.job.prompt_tokens},
        {"output_tokens", std::max(arrival.produced, 1)},
        {"account", arrival.job.account},
        {"class", JobClassName(arrival.job.job_class)}};
    out << line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
  }
  return std::move(out).str();
}

}  // namespace tidepool::compute

#include "platform/catalog/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "platform/catalog/names.h"

namespace tidepool::platform {
namespace {

constexpr size_t kMaxListed = 12;
constexpr uint32_t kMaxSplits = 10'000;
constexpr std::array<std::string_view, 8> kPreferred = {"Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1",
                                                        "Q5_K_M", "Q8_0",   "BF16", "F16"};

std::string_view BaseName(std::string_view path) { return path.substr(path.rfind('/') + 1); }
std::string FolderOf(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string() : std::string(path.substr(0, slash + 1));
}

std::string Upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return out;
}

std::optional<uint32_t> ParseNumber(std::string_view digits) {
  if (digits.empty() || digits.size() > 9) return std::nullopt;
  uint32_t value = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<uint32_t>(c - '0');
  }
  return value;
}

// Files that ride along with models: vision projectors, draft heads, importance matrices.
bool IsSidecar(std::string_view path) {
  const std::string name = ToLowerAscii(BaseName(path));
  return name.starts_with("mmproj") || name.starts_with("mtp-") || name.find("imatrix") != std::string::npos;
}

// Files beside safetensors weights that say how to run them.
bool IsCompanion(std::string_view relative) {
  if (relative == "1_Pooling/config.json") return true;
  if (relative.find('/') != std::string_view::npos) return false;
  for (const std::string_view suffix : {".json", ".jinja", ".model"}) {
    if (relative.ends_with(suffix)) return true;
  }
  return relative == "vocab.txt" || relative == "merges.txt";
}

// "x.gguf.part03" -> ("x.gguf", 3)
std::optional<std::pair<std::string, uint32_t>> ParsePart(std::string_view path) {
  const std::string_view name = BaseName(path);
  const size_t dot = name.rfind(".part");
  if (dot == std::string_view::npos) return std::nullopt;
  const auto number = ParseNumber(name.substr(dot + 5));
  const std::string_view whole = name.substr(0, dot);
  if (!number || !whole.ends_with(".gguf")) return std::nullopt;
  return std::pair(std::string(whole), *number);
}

// One GGUF model: a file, a split set, or numbered parts of a file.
struct Candidate {
  std::string label;  // path without the split suffix, upper case, for matching
  std::string quantisation;
  std::vector<SelectedFile> files;
};

std::string List(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < names.size() && i < kMaxListed; ++i) out += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kMaxListed) out += fmt::format(" and {} more", names.size() - kMaxListed);
  return out;
}

Result<Candidate> JoinParts(const std::string& whole, std::map<uint32_t, RemoteFile> parts,
                            const std::string& place) {
  Candidate out{Upper(whole), QuantisationInName(whole), {{whole, {}}}};
  const uint32_t first = parts.begin()->first;
  const bool contiguous = first <= 1 && parts.rbegin()->first - first + 1 == parts.size();
  if (!contiguous) {
    return Fail(
        ErrorKind::kInvalid, "missing_part",
        fmt::format(
            "{}: parts of {} are missing: {} are there, numbered {} to {}; name every package that holds "
            "one",
            place, whole, parts.size(), first, parts.rbegin()->first),
        "source");
  }
  for (auto& [number, file] : parts) out.files.front().parts.push_back(std::move(file));
  return out;
}

Result<std::vector<Candidate>> GgufCandidates(const std::vector<RemoteFile>& files,
                                              const std::string& place) {
  std::vector<Candidate> out;
  std::map<std::string, std::map<uint32_t, RemoteFile>> parts;
  std::map<std::string, std::map<uint32_t, RemoteFile>> splits;
  for (const RemoteFile& file : files) {
    if (IsSidecar(file.path)) continue;
    if (const auto part = ParsePart(file.path)) {
      parts[part->first].emplace(part->second, file);
    } else if (!ToLowerAscii(file.path).ends_with(".gguf")) {
      continue;
    } else if (const auto split = ParseSplitName(file.path)) {
      splits[fmt::format("{}{} of {}", FolderOf(file.path), split->stem, split->count)].emplace(split->number,
                                                                                                file);
    } else {
      out.push_back(
          {Upper(file.path), QuantisationInName(file.path), {{std::string(BaseName(file.path)), {file}}}});
    }
  }
  for (auto& [whole, numbered] : parts) {
    TP_ASSIGN(Candidate joined, JoinParts(whole, std::move(numbered), place));
    out.push_back(std::move(joined));
  }
  for (auto& [key, numbered] : splits) {
    const RemoteFile& first = numbered.begin()->second;
    const SplitName split = *ParseSplitName(first.path);
    if (numbered.size() != split.count || numbered.begin()->first != 1 ||
        numbered.rbegin()->first != split.count) {
      continue;  // an incomplete set is no model
    }
    Candidate set{Upper(FolderOf(first.path) + split.stem) + ".GGUF", QuantisationInName(split.stem), {}};
    for (auto& [number, file] : numbered) set.files.push_back({std::string(BaseName(file.path)), {file}});
    out.push_back(std::move(set));
  }
  return out;
}

// The wanted quantisation stands between separators, in any case: "q4_k_m" fits "model-Q4_K_M.gguf".
bool Fits(const Candidate& candidate, const std::string& want) {
  const std::string& label = candidate.label;
  for (size_t at = label.find(want); at != std::string::npos; at = label.find(want, at + 1)) {
    const char before = at == 0 ? '-' : label[at - 1];
    const size_t end = at + want.size();
    const char after = end == label.size() ? '.' : label[end];
    const bool starts = before == '-' || before == '.' || before == '_' || before == '/';
    if (starts && (after == '-' || after == '.' || after == '/')) return true;
  }
  return false;
}

Selection ToSelection(Candidate candidate) {
  return {"gguf", std::move(candidate.quantisation), std::move(candidate.files)};
}

Result<Selection> ChooseGguf(std::vector<Candidate> candidates, std::string_view want,
                             const std::string& place) {
  std::vector<std::string> names;
  for (const Candidate& candidate : candidates) names.push_back(candidate.files.front().name);
  std::sort(names.begin(), names.end());
  if (!want.empty()) {
    const std::string upper = Upper(want);
    for (Candidate& candidate : candidates) {
      for (const SelectedFile& file : candidate.files) {
        if (file.parts.front().path == want || file.name == want) return ToSelection(std::move(candidate));
      }
    }
    std::erase_if(candidates, [&](const Candidate& candidate) { return !Fits(candidate, upper); });
    if (candidates.empty()) {
      return Fail(ErrorKind::kNotFound, "no_such_quantisation",
                  fmt::format("{} has no \"{}\"; it has {}", place, want, List(names)), "source");
    }
  }
  if (candidates.size() > 1 && want.empty()) {
    for (const std::string_view preferred : kPreferred) {
      const auto it = std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& candidate) {
        return candidate.quantisation == preferred;
      });
      if (it != candidates.end()) return ToSelection(std::move(*it));
    }
  }
  // "UD-Q4_K_M" fits "Q4_K_M" too: the plainest name is meant.
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.label.size() != b.label.size() ? a.label.size() < b.label.size() : a.label < b.label;
  });
  if (candidates.size() > 1 && candidates[0].label.size() == candidates[1].label.size()) {
    return Fail(ErrorKind::kInvalid, "ambiguous_source",
                fmt::format("{} has several models: {}; name one of them", place, List(names)), "source");
  }
  return ToSelection(std::move(candidates.front()));
}

// A folder with config.json and *.safetensors; the shallowest one.
Result<Selection> ChooseSafetensors(const std::vector<RemoteFile>& files, const std::string& place) {
  std::set<std::string> with_weights;
  for (const RemoteFile& file : files) {
    if (file.path.ends_with(".safetensors")) with_weights.insert(FolderOf(file.path));
  }
  std::optional<std::string> root;
  for (const RemoteFile& file : files) {
    const std::string folder = FolderOf(file.path);
    const bool holds = BaseName(file.path) == "config.json" && with_weights.contains(folder);
    if (holds && (!root || folder.size() < root->size())) root = folder;
  }
  if (!root) {
    return Fail(ErrorKind::kNotFound, "no_model_files",
                fmt::format("{} holds neither a .gguf file nor config.json with *.safetensors", place),
                "source");
  }
  Selection out{"safetensors", {}, {}};
  bool sharded = false;
  std::vector<RemoteFile> weights;
  for (const RemoteFile& file : files) {
    if (!file.path.starts_with(*root)) continue;
    const std::string relative = file.path.substr(root->size());
    if (IsCompanion(relative)) {
      out.files.push_back({relative, {file}});
      sharded = sharded || relative == "model.safetensors.index.json";
    } else if (relative.ends_with(".safetensors") && relative.find('/') == std::string::npos) {
      weights.push_back(file);
    }
  }
  // Repositories may keep the same weights twice, as model*.safetensors and as consolidated*.safetensors.
  const auto is_model = [&](const RemoteFile& file) { return BaseName(file.path).starts_with("model"); };
  if (std::any_of(weights.begin(), weights.end(), is_model)) {
    std::erase_if(weights, [&](const RemoteFile& file) { return !is_model(file); });
  }
  if (sharded) {
    std::erase_if(weights, [](const RemoteFile& file) { return BaseName(file.path) == "model.safetensors"; });
  }
  for (const RemoteFile& file : weights) out.files.push_back({std::string(BaseName(file.path)), {file}});
  return out;
}

}  // namespace

std::optional<SplitName> ParseSplitName(std::string_view file) {
  std::string_view name = BaseName(file);
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  name = name.substr(0, dot);
  constexpr size_t kSuffix = std::string_view("-00001-of-00005").size();
  if (name.size() <= kSuffix) return std::nullopt;
  const std::string_view suffix = name.substr(name.size() - kSuffix);
  const auto number = ParseNumber(suffix.substr(1, 5));
  const auto count = ParseNumber(suffix.substr(10, 5));
  if (suffix[0] != '-' || suffix.substr(6, 4) != "-of-" || !number || !count) return std::nullopt;
  if (*number < 1 || *number > *count || *count > kMaxSplits) return std::nullopt;
  return SplitName{std::string(name.substr(0, name.size() - kSuffix)), *number, *count};
}

std::string SplitFileName(std::string_view file, uint32_t number) {
  const auto split = ParseSplitName(file);
  if (!split) return std::string(file);
  return fmt::format("{}{}-{:05}-of-{:05}{}", FolderOf(file), split->stem, number, split->count,
                     file.substr(file.rfind('.')));
}

std::string QuantisationInName(std::string_view file) {
  std::string name = Upper(BaseName(file));
  if (name.ends_with(".GGUF")) name.resize(name.size() - 5);
  std::string found;
  for (size_t from = 0; from <= name.size();) {
    const size_t end = std::min(name.find_first_of("-.", from), name.size());
    const std::string token = name.substr(from, end - from);
    const bool digit_after_q =
        token.size() >= 3 && token[0] == 'Q' && token[1] >= '1' && token[1] <= '8' && token[2] == '_';
    const bool iq = token.size() >= 4 && token.starts_with("IQ") && token[2] >= '1' && token[2] <= '4';
    if (digit_after_q || iq || token == "F16" || token == "F32" || token == "BF16" || token == "FP16" ||
        token.starts_with("MXFP4")) {
      found = token == "FP16" ? "F16" : token;
    }
    from = end + 1;
  }
  return found;
}

Result<Selection> SelectModelFiles(const std::vector<RemoteFile>& files, std::string_view want,
                                   const std::string& place) {
  std::vector<RemoteFile> safe;
  for (const RemoteFile& file : files) {
    if (IsSafeFileName(file.path)) safe.push_back(file);
  }
  TP_ASSIGN(std::vector<Candidate> candidates, GgufCandidates(safe, place));
  const bool names_safetensors = want.ends_with(".safetensors") || want == "safetensors";
  if (!candidates.empty() && !names_safetensors) return ChooseGguf(std::move(candidates), want, place);
  TP_ASSIGN(Selection chosen, ChooseSafetensors(safe, place));
  if (want.empty() || names_safetensors || EqualsIgnoringCase(want, "latest")) return chosen;
  return Fail(
      ErrorKind::kNotFound, "no_such_quantisation",
      fmt::format("{} holds safetensors only, no \"{}\"; leave the part after the colon out", place, want),
      "source");
}

}  // namespace tidepool::platform

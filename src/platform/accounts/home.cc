#include "platform/accounts/home.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "platform/accounts/keys.h"
#include "platform/accounts/private_file.h"

namespace tidepool::platform {
namespace {

constexpr const char* kOldKeys = "keys.json";

struct OldKeys {
  std::string hash_secret;
  Accounts::FirstKey key;
};

Result<std::optional<OldKeys>> ReadOldKeys(const std::filesystem::path& home) {
  const std::filesystem::path path = home / kOldKeys;
  TP_ASSIGN(const std::optional<std::string> text, ReadPrivateFile(path));
  if (!text) return std::optional<OldKeys>();
  const auto corrupt = [&](std::string_view what) {
    return Fail(
        ErrorKind::kCorrupt, "key_file",
        fmt::format("{}: {}; restore it from a backup, or remove it and start again to get a new admin key",
                    path.string(), what));
  };
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("version", nlohmann::json()) != 1)
    return corrupt("not a version 1 key file");
  const auto bytes_of = [](const nlohmann::json& object, const char* name) {
    const auto it = object.find(name);
    const std::string bytes = it != object.end() && it->is_string() ? BytesOfHex(it->get<std::string>()) : "";
    return bytes.size() == 32 ? bytes : std::string();
  };
  OldKeys old;
  old.hash_secret = bytes_of(json, "secret");
  if (old.hash_secret.empty()) return corrupt("field \"secret\" is not 32 bytes in hex");
  const auto keys = json.find("keys");
  if (keys == json.end() || !keys->is_array()) return corrupt("field \"keys\" is not a list");
  for (const auto& item : *keys) {
    if (!item.is_object() || bytes_of(item, "hash").empty()) return corrupt("a key has no valid hash");
    const auto id = item.find("id");
    old.key.hash = bytes_of(item, "hash");
    old.key.prefix = id != item.end() && id->is_string() ? id->get<std::string>() : "";
    if (item.value("admin", nlohmann::json()) == true) return std::optional<OldKeys>(std::move(old));
  }
  return corrupt("it holds no admin key");
}

std::string WithoutEnd(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

}  // namespace

Result<AccountsHome> OpenAccountsHome(const std::filesystem::path& home, store::Database& database) {
  TP_ASSIGN(const store::Rows known, database.Get<store::Rows>([](store::Session& session) {
    return session.Query("SELECT value FROM accounts_state WHERE name = 'key_file'");
  }));
  const bool is_new = known.empty();
  TP_ASSIGN(const std::optional<OldKeys> old,
            is_new ? ReadOldKeys(home) : Result<std::optional<OldKeys>>(std::nullopt));
  auto keys = KeyFile::Open(home);
  if (!keys && keys.error().code == "no_key_file" && is_new)
    keys = KeyFile::Create(home, old ? old->hash_secret : "");
  if (!keys) return tl::unexpected<Error>(std::move(keys).error());
  AccountsHome out{std::move(*keys), std::nullopt, ""};
  if (!is_new) return out;
  if (old) {
    out.first_key = old->key;
    return out;
  }
  const std::filesystem::path admin_path = home / "admin.key";
  TP_ASSIGN(const std::optional<std::string> existing, ReadPrivateFile(admin_path));
  const std::string key = existing ? WithoutEnd(*existing) : "";
  if (KeyLooksValid(key)) {
    out.first_key = Accounts::FirstKey{key, "", ""};
    return out;
  }
  if (!key.empty()) {
    return Fail(ErrorKind::kCorrupt, "key_file",
                fmt::format("{}: not a Tidepool key (checksum); remove the file to get a new one",
                            admin_path.string()));
  }
  out.created_key = MakeKey();
  TP_TRY(WritePrivateFile(admin_path, out.created_key + "\n"));
  out.first_key = Accounts::FirstKey{out.created_key, "", ""};
  return out;
}

void RetireOldKeys(const std::filesystem::path& home) {
  std::error_code problem;
  if (!std::filesystem::exists(home / kOldKeys, problem)) return;
  std::filesystem::rename(home / kOldKeys, home / "keys.json.imported", problem);
  if (problem)
    LogWarn("keys.json is not needed any more and cannot be renamed", {{"reason", problem.message()}});
}

Status CheckKeyFile(const std::filesystem::path& home) {
  const std::filesystem::path path = home / KeyFile::kName;
  const auto wrong = [&](const char* code, std::string_view what) {
    return Fail(ErrorKind::kCorrupt, code, fmt::format("{} {}", path.string(), what));
  };
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0)
    return wrong("key_file_missing", "is missing: restore it from a backup");
  if (!S_ISREG(info.st_mode)) return wrong("key_file_no_file", "is no regular file");
  if ((info.st_mode & 077) != 0)
    return wrong("key_file_readable", "can be read by others: chmod 600 it and rotate every key");
  if (info.st_uid != ::geteuid()) return wrong("key_file_owner", "belongs to another user");
  if (const auto keys = KeyFile::Open(home); !keys)
    return Fail(ErrorKind::kCorrupt, "key_file_damaged", keys.error().message);
  return {};
}

}  // namespace tidepool::platform

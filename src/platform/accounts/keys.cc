#include "platform/accounts/keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sodium.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "tp-";
constexpr size_t kRandomChars = 40;   // 62^40: 238 bits
constexpr size_t kChecksumChars = 6;  // 62^6: a typing mistake passes once in 5.7e10
constexpr size_t kKeyChars = kPrefix.size() + kRandomChars + kChecksumChars;
constexpr size_t kIdChars = kPrefix.size() + 6;
constexpr size_t kHashBytes = 32;
constexpr uint64_t kMaxFileBytes = 1 << 20;
constexpr int kFormatVersion = 1;

void InitSodium() {
  static const int status = sodium_init();  // 0 first, 1 when already done, -1 when there is no randomness
  CHECK(status >= 0);
}

// Bytes of a cryptographic hash as base-62 digits.
std::string Checksum(std::string_view random) {
  constexpr std::string_view kDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  InitSodium();
  std::array<unsigned char, kHashBytes> hash;
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(random.data()),
                     random.size(), nullptr, 0);
  uint64_t number = 0;
  std::memcpy(&number, hash.data(), sizeof number);
  std::string out;
  for (size_t i = 0; i < kChecksumChars; ++i) {
    out += kDigits[number % kDigits.size()];
    number /= kDigits.size();
  }
  return out;
}

std::string ToHex(const unsigned char* bytes, size_t size) {
  std::string hex(size * 2 + 1, '\0');
  sodium_bin2hex(hex.data(), hex.size(), bytes, size);
  hex.pop_back();
  return hex;
}

template <size_t N>
bool FromHex(const std::string& hex, std::array<unsigned char, N>& out) {
  size_t size = 0;
  return sodium_hex2bin(out.data(), N, hex.data(), hex.size(), nullptr, &size, nullptr) == 0 && size == N &&
         hex.size() == 2 * N;
}

tl::unexpected<Error> FileError(const fs::path& path, std::string_view what, int error) {
  return Fail(ErrorKind::kInternal, "key_file",
              fmt::format("{}: {}: {}; check the folder's owner and free space", path.string(), what,
                          std::generic_category().message(error)));
}

// Closes a descriptor (and gives up its lock) at the end of a scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Readable by the owner only, whole or not at all: written beside, synced, renamed, the folder synced.
Status WritePrivate(const fs::path& path, std::string_view text) {
  const fs::path beside = path.string() + RandomId(".tmp-", 8);
  {
    const Descriptor file(::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return FileError(beside, "cannot be written", errno);
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const int error = errno;
        ::unlink(beside.c_str());
        return FileError(beside, "cannot be written", error);
      }
      done += static_cast<size_t>(n);
    }
    if (::fsync(file.get()) != 0) {
      const int error = errno;
      ::unlink(beside.c_str());
      return FileError(beside, "cannot be synced", error);
    }
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return FileError(path, "cannot be renamed into place", error);
  }
  const Descriptor folder(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) ::fsync(folder.get());
  return {};
}

// nullopt when there is no such file. Tightens permissions that let others read it.
Result<std::optional<std::string>> ReadPrivate(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.get() < 0) {
    if (errno == ENOENT) return std::optional<std::string>();
    return FileError(path, "cannot be opened", errno);
  }
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) return FileError(path, "cannot be read", errno);
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) > kMaxFileBytes) {
    return Fail(ErrorKind::kCorrupt, "key_file",
                fmt::format("{}: not a key file; move it away", path.string()));
  }
  if ((info.st_mode & 077) != 0) {
    LogWarn("key file was readable by others; permissions set to 0600", {{"file", path.string()}});
    if (::fchmod(file.get(), 0600) != 0) return FileError(path, "permissions cannot be set to 0600", errno);
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(path, "cannot be read", errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return std::optional<std::string>(std::move(text));
}

struct StoredKey {
  std::string id;
  std::array<unsigned char, kHashBytes> hash{};
  bool admin = false;
};

class KeyStoreImpl final : public KeyStore {
 public:
  Status Load(const fs::path& path, const std::string& text);
  Status CreateWith(const fs::path& path, std::string_view key);
  Result<Principal> Verify(std::string_view key) const override;

 private:
  std::array<unsigned char, kHashBytes> HashOf(std::string_view key) const {
    std::array<unsigned char, kHashBytes> hash;
    crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(key.data()),
                       key.size(), secret_.data(), secret_.size());
    return hash;
  }

  std::array<unsigned char, crypto_generichash_KEYBYTES> secret_{};  // makes the hashes useless elsewhere
  std::vector<StoredKey> keys_;
};

Status KeyStoreImpl::Load(const fs::path& path, const std::string& text) {
  const auto corrupt = [&](std::string_view what) {
    return Fail(
        ErrorKind::kCorrupt, "key_file",
        fmt::format("{}: {}; restore it from a backup, or remove it and start again to get a new admin key",
                    path.string(), what));
  };
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("version") || json["version"] != kFormatVersion) {
    return corrupt(fmt::format("not a version {} key file", kFormatVersion));
  }
  const auto string_of = [](const nlohmann::json& object, const char* key) {
    const auto it = object.find(key);
    return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
  };
  if (!FromHex(string_of(json, "secret"), secret_)) return corrupt("field \"secret\" is not 32 bytes in hex");
  const auto keys = json.find("keys");
  if (keys == json.end() || !keys->is_array()) return corrupt("field \"keys\" is not a list");
  for (const auto& item : *keys) {
    StoredKey key;
    if (!item.is_object() || !FromHex(string_of(item, "hash"), key.hash))
      return corrupt("a key has no valid hash");
    key.id = string_of(item, "id");
    key.admin = item.contains("admin") && item["admin"].is_boolean() && item["admin"].get<bool>();
    keys_.push_back(std::move(key));
  }
  if (keys_.empty()) return corrupt("it holds no keys");
  return {};
}

Status KeyStoreImpl::CreateWith(const fs::path& path, std::string_view key) {
  RandomBytes(secret_.data(), secret_.size());
  keys_ = {{std::string(key.substr(0, kIdChars)), HashOf(key), true}};
  nlohmann::ordered_json json;
  json["version"] = kFormatVersion;
  json["secret"] = ToHex(secret_.data(), secret_.size());
  json["keys"] = {{{"id", keys_[0].id},
                   {"hash", ToHex(keys_[0].hash.data(), kHashBytes)},
                   {"admin", true},
                   {"created", UnixTimeSeconds()}}};
  return WritePrivate(path, json.dump(2) + "\n");
}

Result<Principal> KeyStoreImpl::Verify(std::string_view key) const {
  if (!key.empty() && key.size() <= 4 * kKeyChars) {
    const auto hash = HashOf(key);
    // Every key is compared, so that the time tells nothing about which one matched.
    const StoredKey* found = nullptr;
    for (const StoredKey& stored : keys_) {
      if (sodium_memcmp(hash.data(), stored.hash.data(), kHashBytes) == 0) found = &stored;
    }
    if (found != nullptr) {
      Principal principal;
      principal.is_operator = found->admin;
      principal.role = found->admin ? Role::kOperator : Role::kDeveloper;
      principal.key = found->id;
      principal.account = fmt::format("{}/{}/{}", principal.organisation, principal.workspace, found->id);
      principal.key_id = found->id;
      return principal;
    }
  }
  std::string message =
      "this API key is not known here; the admin key is in admin.key in Tidepool's home folder";
  if (key.empty()) {
    message = "no API key was given; send it as \"Authorization: Bearer tp-...\"";
  } else if (!KeyLooksValid(key)) {
    message = "this API key is mistyped or cut short: a Tidepool key starts with tp- and its checksum fits";
  }
  return Fail(ErrorKind::kUnauthenticated, "invalid_api_key", std::move(message));
}

std::string TrimmedKey(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

}  // namespace

std::string MakeKey() {
  const std::string random = RandomId("", kRandomChars);
  return fmt::format("{}{}{}", kPrefix, random, Checksum(random));
}

bool KeyLooksValid(std::string_view key) {
  if (key.size() != kKeyChars || !key.starts_with(kPrefix)) return false;
  const std::string_view random = key.substr(kPrefix.size(), kRandomChars);
  return Checksum(random) == key.substr(kPrefix.size() + kRandomChars);
}

Result<std::unique_ptr<KeyStore>> KeyStore::Open(const fs::path& home,
                                                 std::optional<std::string>& created_key) {
  created_key.reset();
  InitSodium();
  std::error_code error;
  fs::create_directories(home, error);
  if (error) return FileError(home, "cannot be made", error.value());

  // One process at a time decides whether this is the first start.
  const fs::path lock_path = home / "keys.lock";
  const Descriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.get() < 0) return FileError(lock_path, "cannot be opened", errno);
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return FileError(lock_path, "cannot be locked", errno);
  }

  auto store = std::make_unique<KeyStoreImpl>();
  const fs::path keys_path = home / "keys.json";
  const fs::path admin_path = home / "admin.key";
  TP_ASSIGN(const std::optional<std::string> text, ReadPrivate(keys_path));
  if (text) {
    TP_TRY(store->Load(keys_path, *text));
    return std::unique_ptr<KeyStore>(std::move(store));
  }
  // A key put into admin.key beforehand (or left by a start that was cut off) is taken over.
  TP_ASSIGN(const std::optional<std::string> existing, ReadPrivate(admin_path));
  if (existing && KeyLooksValid(TrimmedKey(*existing))) {
    TP_TRY(store->CreateWith(keys_path, TrimmedKey(*existing)));
    return std::unique_ptr<KeyStore>(std::move(store));
  }
  if (existing && !TrimmedKey(*existing).empty()) {
    return Fail(ErrorKind::kCorrupt, "key_file",
                fmt::format("{}: not a Tidepool key (checksum); remove the file to get a new one",
                            admin_path.string()));
  }
  const std::string key = MakeKey();
  TP_TRY(WritePrivate(admin_path, key + "\n"));
  TP_TRY(store->CreateWith(keys_path, key));
  created_key = key;
  return std::unique_ptr<KeyStore>(std::move(store));
}

}  // namespace tidepool::platform

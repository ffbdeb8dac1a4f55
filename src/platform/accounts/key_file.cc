#include "platform/accounts/key_file.h"

#include <fmt/format.h>
#include <sodium.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/ids.h"
#include "platform/accounts/private_file.h"

namespace tidepool::platform {
namespace {

constexpr int kKeyFileVersion = 1;
// Names of the derived keys, 8 characters each as crypto_kdf wants.
constexpr char kKdfContext[] = "tidepool";
constexpr uint64_t kAuditKey = 1, kBoxKey = 2;

const unsigned char* Unsigned(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

std::string SealUnder(std::string_view secret, const unsigned char* key) {
  std::string out(crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES + secret.size(), '\0');
  auto* bytes = reinterpret_cast<unsigned char*>(out.data());
  RandomBytes(bytes, crypto_secretbox_NONCEBYTES);
  crypto_secretbox_easy(bytes + crypto_secretbox_NONCEBYTES, Unsigned(secret), secret.size(), bytes, key);
  return out;
}

bool UnsealUnder(std::string_view box, const unsigned char* key, std::string& out) {
  constexpr size_t kOverhead = crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES;
  if (box.size() < kOverhead) return false;
  out.resize(box.size() - kOverhead);
  return crypto_secretbox_open_easy(reinterpret_cast<unsigned char*>(out.data()),
                                    Unsigned(box) + crypto_secretbox_NONCEBYTES,
                                    box.size() - crypto_secretbox_NONCEBYTES, Unsigned(box), key) == 0;
}

std::array<unsigned char, crypto_secretbox_KEYBYTES> KeyOfPassphrase(std::string_view passphrase,
                                                                     const unsigned char* salt) {
  std::array<unsigned char, crypto_secretbox_KEYBYTES> key{};
  // Fails only without memory.
  CHECK(crypto_pwhash(key.data(), key.size(), passphrase.data(), passphrase.size(), salt,
                      crypto_pwhash_OPSLIMIT_MODERATE, crypto_pwhash_MEMLIMIT_INTERACTIVE,
                      crypto_pwhash_ALG_ARGON2ID13) == 0);
  return key;
}

}  // namespace

void InitSodium() {
  static const int status = sodium_init();  // 0 first, 1 when already done, -1 when there is no randomness
  CHECK(status >= 0);
}

std::string HexOf(std::string_view bytes) {
  std::string hex(bytes.size() * 2 + 1, '\0');
  sodium_bin2hex(hex.data(), hex.size(), Unsigned(bytes), bytes.size());
  hex.pop_back();
  return hex;
}

std::string BytesOfHex(std::string_view hex) {
  std::string bytes(hex.size() / 2, '\0');
  size_t size = 0;
  const int status = sodium_hex2bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), hex.data(),
                                    hex.size(), nullptr, &size, nullptr);
  return status == 0 && size * 2 == hex.size() ? bytes : std::string();
}

void KeyFile::Derive() {
  InitSodium();
  crypto_kdf_derive_from_key(audit_.data(), audit_.size(), kAuditKey, kKdfContext, master_.data());
  crypto_kdf_derive_from_key(box_.data(), box_.size(), kBoxKey, kKdfContext, master_.data());
}

Result<KeyFile> KeyFile::Open(const std::filesystem::path& home) {
  const std::filesystem::path path = home / kName;
  TP_ASSIGN(const std::optional<std::string> text, ReadPrivateFile(path));
  if (!text) {
    return Fail(ErrorKind::kNotFound, "no_key_file",
                fmt::format("{} is missing. The store cannot be used without it: restore it from a backup "
                            "made with --with-keys.",
                            path.string()));
  }
  return Parse(*text, path.string());
}

Result<KeyFile> KeyFile::Parse(std::string_view text, const std::string& where) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  KeyFile file;
  const auto read = [&](const char* name, Secret& secret) {
    const auto it = json.find(name);
    const std::string bytes = it != json.end() && it->is_string() ? BytesOfHex(it->get<std::string>()) : "";
    if (bytes.size() != secret.size()) return false;
    std::memcpy(secret.data(), bytes.data(), secret.size());
    return true;
  };
  const bool good = json.is_object() && json.value("version", nlohmann::json()) == kKeyFileVersion &&
                    read("master", file.master_) && read("hash", file.hash_);
  if (!good) {
    return Fail(
        ErrorKind::kCorrupt, "key_file",
        fmt::format("{}: not a version {} key file; restore it from a backup", where, kKeyFileVersion));
  }
  file.Derive();
  return file;
}

Result<KeyFile> KeyFile::Create(const std::filesystem::path& home, std::string_view hash_secret) {
  KeyFile file;
  RandomBytes(file.master_.data(), file.master_.size());
  RandomBytes(file.hash_.data(), file.hash_.size());
  if (hash_secret.size() == file.hash_.size())
    std::memcpy(file.hash_.data(), hash_secret.data(), hash_secret.size());
  file.Derive();
  TP_TRY(file.Write(home));
  return file;
}

std::string KeyFile::Text() const {
  const auto hex = [](const Secret& secret) {
    return HexOf({reinterpret_cast<const char*>(secret.data()), secret.size()});
  };
  nlohmann::ordered_json json;
  json["version"] = kKeyFileVersion;
  json["master"] = hex(master_);
  json["hash"] = hex(hash_);
  return json.dump(2) + "\n";
}

Status KeyFile::Write(const std::filesystem::path& home) const {
  return WritePrivateFile(home / kName, Text());
}

std::string KeyFile::HashOf(std::string_view key) const {
  std::string hash(32, '\0');
  crypto_generichash(reinterpret_cast<unsigned char*>(hash.data()), hash.size(), Unsigned(key), key.size(),
                     hash_.data(), hash_.size());
  return hash;
}

std::string KeyFile::AuditMac(std::string_view text) const {
  std::string mac(crypto_auth_hmacsha256_BYTES, '\0');
  crypto_auth_hmacsha256(reinterpret_cast<unsigned char*>(mac.data()), Unsigned(text), text.size(),
                         audit_.data());
  return mac;
}

std::string KeyFile::Seal(std::string_view secret) const { return SealUnder(secret, box_.data()); }

Result<std::string> KeyFile::Unseal(std::string_view box) const {
  std::string out;
  if (!UnsealUnder(box, box_.data(), out)) {
    return Fail(ErrorKind::kCorrupt, "secret_unreadable",
                "A stored secret cannot be decrypted: it was changed, or the key file is another one.");
  }
  return out;
}

std::string KeyFile::Fingerprint() const {
  return HexOf(AuditMac("fingerprint")).substr(0, 16) + HexOf(HashOf("fingerprint")).substr(0, 16);
}

std::string SealWithPassphrase(std::string_view secret, std::string_view passphrase) {
  InitSodium();
  std::string salt(crypto_pwhash_SALTBYTES, '\0');
  RandomBytes(salt.data(), salt.size());
  return salt + SealUnder(secret, KeyOfPassphrase(passphrase, Unsigned(salt)).data());
}

Result<std::string> UnsealWithPassphrase(std::string_view box, std::string_view passphrase) {
  InitSodium();
  std::string out;
  if (box.size() < crypto_pwhash_SALTBYTES ||
      !UnsealUnder(box.substr(crypto_pwhash_SALTBYTES), KeyOfPassphrase(passphrase, Unsigned(box)).data(),
                   out)) {
    return Fail(ErrorKind::kForbidden, "wrong_passphrase",
                "The passphrase is wrong, or the backup is damaged.");
  }
  return out;
}

std::string HashPassword(std::string_view password) {
  InitSodium();
  char out[crypto_pwhash_STRBYTES];
  CHECK(crypto_pwhash_str_alg(out, password.data(), password.size(), crypto_pwhash_OPSLIMIT_INTERACTIVE,
                              crypto_pwhash_MEMLIMIT_INTERACTIVE, crypto_pwhash_ALG_ARGON2ID13) == 0);
  return out;
}

bool PasswordMatches(std::string_view password, const std::string& hash) {
  InitSodium();
  return crypto_pwhash_str_verify(hash.c_str(), password.data(), password.size()) == 0;
}

}  // namespace tidepool::platform

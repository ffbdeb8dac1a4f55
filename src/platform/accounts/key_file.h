// $TIDEPOOL_HOME/secrets.key (mode 0600): the secrets that are not in the store. Whoever has a copy of the
// store without this file can neither test guesses of keys, nor read stored secrets, nor forge audit rows.
//
// Holds a master key, from which one key for each purpose is derived (libsodium's crypto_kdf), and the key of
// API key hashes by itself: an installation from before the store brings that one along (keys.json).
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::platform {

// CHECKs that the system has randomness. Any number of times, any thread.
void InitSodium();

std::string HexOf(std::string_view bytes);
// "" if it is no hex.
std::string BytesOfHex(std::string_view hex);

class KeyFile {
 public:
  static constexpr const char* kName = "secrets.key";
  using Secret = std::array<unsigned char, 32>;

  // kNotFound "no_key_file", kCorrupt "key_file".
  static Result<KeyFile> Open(const std::filesystem::path& home);
  // Makes a new one; `hash_secret` of 32 bytes, if not empty, is taken over for the hashes of keys.
  static Result<KeyFile> Create(const std::filesystem::path& home, std::string_view hash_secret);
  // As text, and from it: for backups.
  std::string Text() const;
  static Result<KeyFile> Parse(std::string_view text, const std::string& where);
  Status Write(const std::filesystem::path& home) const;

  // BLAKE2b under the hash secret, 32 bytes: of API keys, session and link tokens.
  std::string HashOf(std::string_view key) const;
  // HMAC-SHA-256 under the audit key, 32 bytes.
  std::string AuditMac(std::string_view text) const;
  // XSalsa20-Poly1305 (secretbox): 24 bytes of nonce, then the box.
  std::string Seal(std::string_view secret) const;
  Result<std::string> Unseal(std::string_view box) const;
  // Tells key files apart without revealing them; the store keeps it.
  std::string Fingerprint() const;

 private:
  KeyFile() = default;
  void Derive();
  Secret master_{}, hash_{}, audit_{}, box_{};
};

// The same with a passphrase instead of a key file (argon2id): 16 bytes of salt, then Seal's form.
std::string SealWithPassphrase(std::string_view secret, std::string_view passphrase);
Result<std::string> UnsealWithPassphrase(std::string_view box, std::string_view passphrase);

// argon2id, libsodium's encoding ("$argon2id$..."). A tenth of a second and 64 MiB: not on an I/O thread.
std::string HashPassword(std::string_view password);
bool PasswordMatches(std::string_view password, const std::string& hash);

}  // namespace tidepool::platform

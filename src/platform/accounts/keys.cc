#include "platform/accounts/keys.h"

#include <fmt/format.h>
#include <sodium.h>

#include <array>
#include <cstring>

#include "base/ids.h"
#include "platform/accounts/key_file.h"

namespace tidepool::platform {
namespace {

constexpr std::string_view kKeyStart = "tp-";
constexpr size_t kRandomChars = 40;   // 62^40: 238 bits
constexpr size_t kChecksumChars = 6;  // 62^6: a typing mistake passes once in 5.7e10
constexpr size_t kKeyChars = kKeyStart.size() + kRandomChars + kChecksumChars;

// Bytes of a cryptographic hash as base-62 digits.
std::string Checksum(std::string_view random) {
  constexpr std::string_view kDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  InitSodium();
  std::array<unsigned char, 32> hash;
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

}  // namespace

std::string MakeKey() {
  const std::string random = RandomId("", kRandomChars);
  return fmt::format("{}{}{}", kKeyStart, random, Checksum(random));
}

bool KeyLooksValid(std::string_view key) {
  if (key.size() != kKeyChars || !key.starts_with(kKeyStart)) return false;
  const std::string_view random = key.substr(kKeyStart.size(), kRandomChars);
  return Checksum(random) == key.substr(kKeyStart.size() + kRandomChars);
}

std::string KeyPrefix(std::string_view key) { return std::string(key.substr(0, kKeyStart.size() + 6)); }

std::string MakeToken(std::string_view prefix) { return RandomId(prefix, kRandomChars); }

}  // namespace tidepool::platform

#include "platform/catalog/sha256.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <vector>

#include "base/check.h"
#include "platform/catalog/files.h"

namespace tidepool::platform {

struct Sha256::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  CHECK(context_->md != nullptr && EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::Update(const void* data, size_t bytes) {
  CHECK(EVP_DigestUpdate(context_->md, data, bytes) == 1);
}

std::string Sha256::Hex() {
  std::array<unsigned char, 32> digest;
  CHECK(EVP_DigestFinal_ex(context_->md, digest.data(), nullptr) == 1);
  std::string hex;
  for (const unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

std::string Sha256Hex(std::string_view text) {
  Sha256 hash;
  hash.Update(text.data(), text.size());
  return hash.Hex();
}

Result<std::string> Sha256OfFile(const std::filesystem::path& path,
                                 const std::function<bool(uint64_t)>& progress) {
  TP_ASSIGN(File file, File::Open(path, O_RDONLY));
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  for (uint64_t done = 0;;) {
    TP_ASSIGN(const size_t n, file.Read(buffer.data(), buffer.size()));
    if (n == 0) return hash.Hex();
    hash.Update(buffer.data(), n);
    done += n;
    if (!progress(done)) return Fail(ErrorKind::kCancelled, "stopped", "stopped while verifying");
  }
}

}  // namespace tidepool::platform

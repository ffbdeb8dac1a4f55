#include "gateway/testing/certificate.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>

#include "base/check.h"
#include "base/ids.h"

namespace tidepool::gateway {
namespace {

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

File OpenForWriting(const std::string& path) {
  File file(std::fopen(path.c_str(), "w"), std::fclose);
  CHECK(file != nullptr);
  return file;
}

void AddExtension(X509* certificate, int kind, const char* value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value);
  CHECK(extension != nullptr);
  CHECK(X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

}  // namespace

TestCertificate::TestCertificate()
    : folder_(std::filesystem::temp_directory_path() / RandomId("tidepool-tls-", 12)) {
  std::filesystem::create_directories(folder_);
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> pair(EVP_EC_gen("P-256"), EVP_PKEY_free);
  CHECK(pair != nullptr);
  const std::unique_ptr<X509, void (*)(X509*)> made(X509_new(), X509_free);
  X509_set_version(made.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), 1);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
  X509_set_pubkey(made.get(), pair.get());
  X509_NAME* name = X509_get_subject_name(made.get());
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"),
                             -1, -1, 0);
  X509_set_issuer_name(made.get(), name);
  AddExtension(made.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(made.get(), NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  CHECK(X509_sign(made.get(), pair.get(), EVP_sha256()) > 0);
  CHECK(PEM_write_X509(OpenForWriting(certificate()).get(), made.get()) == 1);
  CHECK(PEM_write_PrivateKey(OpenForWriting(key()).get(), pair.get(), nullptr, nullptr, 0, nullptr,
                             nullptr) == 1);
  CHECK(PEM_write_PrivateKey(OpenForWriting(encrypted_key()).get(), pair.get(), EVP_aes_256_cbc(),
                             reinterpret_cast<const unsigned char*>("secret"), 6, nullptr, nullptr) == 1);
}

TestCertificate::~TestCertificate() { std::filesystem::remove_all(folder_); }

}  // namespace tidepool::gateway

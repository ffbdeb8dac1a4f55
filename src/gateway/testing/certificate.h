// A self-signed certificate for localhost and its key, as PEM files, made anew for each test.
#pragma once

#include <filesystem>
#include <string>

namespace tidepool::gateway {

class TestCertificate {
 public:
  TestCertificate();  // in a folder of its own
  ~TestCertificate();
  TestCertificate(const TestCertificate&) = delete;
  TestCertificate& operator=(const TestCertificate&) = delete;

  std::string certificate() const { return (folder_ / "certificate.pem").string(); }
  std::string key() const { return (folder_ / "key.pem").string(); }
  std::string encrypted_key() const { return (folder_ / "encrypted_key.pem").string(); }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

}  // namespace tidepool::gateway

// The files under the journal, as an interface, so that tests can lose what was not synced and fill the disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

class JournalFile {
 public:
  virtual ~JournalFile() = default;
  // Writes at `offset`, all of it or an error: kUnavailable "disk_full" or "journal_not_writable".
  virtual Status Write(uint64_t offset, std::string_view bytes) = 0;
  // What was written is on the disk when it returns (fdatasync).
  virtual Status Sync() = 0;
};

// One thread at a time.
class JournalFiles {
 public:
  virtual ~JournalFiles() = default;
  // A new file whose `bytes` are taken from the disk now (zeros until written), and whose name is on the
  // disk.
  virtual Result<std::unique_ptr<JournalFile>> Create(const std::string& name, uint64_t bytes) = 0;
  virtual Result<std::vector<std::string>> List() = 0;  // names, in any order
  virtual Result<std::string> Read(const std::string& name, uint64_t max_bytes) = 0;
  virtual Status Remove(const std::string& name) = 0;
};

// Files of a folder, which is made (0700) if it is not there.
Result<std::unique_ptr<JournalFiles>> OpenJournalFolder(const std::filesystem::path& folder);

}  // namespace tidepool::platform

// The few system calls that bring a mapped file into memory and out of it: an interface, so that tests can
// make them fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace tidepool::compute {

// Addresses and offsets are multiples of the page size. Errors name errno's text only; the caller knows the
// file.
class FileOperations {
 public:
  virtual ~FileOperations() = default;
  static FileOperations& Real();

  virtual Result<uint64_t> Size(int descriptor) = 0;
  // All of `to`, or an error ("ends early" too). Never a bus error, unlike reading the mapping.
  virtual Status Read(int descriptor, uint64_t offset, std::span<std::byte> to) = 0;
  // Begins reading exactly this range into the page cache, without waiting. Advice only.
  virtual void Prefetch(int descriptor, uint64_t offset, uint64_t bytes) = 0;
  // Page tables and page cache for a mapped range (MADV_POPULATE_READ): an error where a touch would be a bus
  // error.
  virtual Status Populate(const std::byte* data, size_t bytes) = 0;
  virtual Status Lock(const std::byte* data, size_t bytes) = 0;
  virtual void Unlock(const std::byte* data, size_t bytes) = 0;
  // Out of this process's page tables and, where no other process maps it, out of the page cache.
  virtual void Drop(int descriptor, uint64_t offset, const std::byte* data, size_t bytes) = 0;
  // Of a mapped range, whoever brought it in (mincore).
  virtual uint64_t BytesInMemory(const std::byte* data, size_t bytes) = 0;
};

}  // namespace tidepool::compute

// Real files that are really cut. The oracle for what is not guarded is the signal that ends a child.
#include "base/mapped_file_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace tidepool {
namespace {

constexpr size_t kPages = 64;

class MappedFileGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/guarded-XXXXXX";
    descriptor_ = mkstemp(name.data());
    ASSERT_GE(descriptor_, 0);
    unlink(name.c_str());
    const std::vector<unsigned char> ones(kPages * kPage, 1);
    ASSERT_EQ(write(descriptor_, ones.data(), ones.size()), static_cast<ssize_t>(ones.size()));
    data_ = Map();
  }
  void TearDown() override {
    if (data_ != nullptr) munmap(data_, kPages * kPage);
    close(descriptor_);
  }
  unsigned char* Map() {
    void* const mapping = mmap(nullptr, kPages * kPage, PROT_READ, MAP_SHARED, descriptor_, 0);
    EXPECT_NE(mapping, MAP_FAILED);
    return static_cast<unsigned char*>(mapping);
  }
  uint64_t Sum(const unsigned char* data) const {
    uint64_t sum = 0;
    for (size_t i = 0; i < kPages * kPage; ++i) sum += *const_cast<const volatile unsigned char*>(data + i);
    return sum;
  }

  const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  int descriptor_ = -1;
  unsigned char* data_ = nullptr;
};

TEST_F(MappedFileGuardTest, ACutFileReadsAsZerosAndSaysSo) {
  const MappedFileGuard guard(data_, kPages * kPage);
  EXPECT_EQ(Sum(data_), kPages * kPage);
  EXPECT_FALSE(guard.lost());
  ASSERT_EQ(ftruncate(descriptor_, static_cast<off_t>(10 * kPage)), 0);
  EXPECT_EQ(Sum(data_), 10 * kPage);
  EXPECT_TRUE(guard.lost());
}

// Also pages that a lock was to keep: a cut takes them all the same.
TEST_F(MappedFileGuardTest, LockedPagesAreLostToo) {
  if (mlock(data_, kPages * kPage) != 0) GTEST_SKIP() << "memory may not be locked here (ulimit -l)";
  const MappedFileGuard guard(data_, kPages * kPage);
  ASSERT_EQ(ftruncate(descriptor_, 0), 0);
  EXPECT_EQ(Sum(data_), 0u);
  EXPECT_TRUE(guard.lost());
}

TEST_F(MappedFileGuardTest, OnlyTheFileThatWasCut) {
  const MappedFileGuard guard(data_, kPages * kPage);
  std::string name = testing::TempDir() + "/other-XXXXXX";
  const int other = mkstemp(name.data());
  unlink(name.c_str());
  ASSERT_EQ(ftruncate(other, static_cast<off_t>(kPages * kPage)), 0);
  void* const mapping = mmap(nullptr, kPages * kPage, PROT_READ, MAP_SHARED, other, 0);
  ASSERT_NE(mapping, MAP_FAILED);
  {
    const MappedFileGuard second(mapping, kPages * kPage);
    ASSERT_EQ(ftruncate(other, 0), 0);
    EXPECT_EQ(Sum(static_cast<unsigned char*>(mapping)), 0u);
    EXPECT_TRUE(second.lost());
  }
  EXPECT_FALSE(guard.lost());
  EXPECT_EQ(Sum(data_), kPages * kPage);
  // The slot is free again, and what comes into it begins anew.
  const MappedFileGuard third(data_, kPages * kPage);
  EXPECT_FALSE(third.lost());
  munmap(mapping, kPages * kPage);
  close(other);
}

TEST_F(MappedFileGuardTest, ManyThreadsInTheCutPartAtOnce) {
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(ftruncate(descriptor_, static_cast<off_t>(kPages * kPage)), 0);
    unsigned char* const data = Map();
    {
      const MappedFileGuard guard(data, kPages * kPage);
      std::atomic<bool> cut{false};
      std::vector<std::thread> readers;
      for (int i = 0; i < 4; ++i) {
        readers.emplace_back([&] {
          while (!cut) Sum(data);
          Sum(data);
        });
      }
      ASSERT_EQ(ftruncate(descriptor_, 0), 0);
      cut = true;
      for (std::thread& reader : readers) reader.join();
      EXPECT_TRUE(guard.lost());
    }
    munmap(data, kPages * kPage);
  }
}

TEST_F(MappedFileGuardTest, ElsewhereABusErrorEndsTheProcess) {
  const MappedFileGuard guard(data_, kPage);
  ASSERT_EQ(ftruncate(descriptor_, 0), 0);
  EXPECT_EXIT(Sum(data_), ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace tidepool

// Any bytes as a prefix cache file, as they are and with right checksums: nothing is read out of bounds, and
// the pool is whole whatever was taken. The first byte says how.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "compute/kv/prefix_cache_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool;
  using namespace tidepool::compute;
  if (size < 1 || size > 1 << 16) return 0;
  const uint8_t how = data[0];
  std::vector<std::byte> file(reinterpret_cast<const std::byte*>(data) + 1,
                              reinterpret_cast<const std::byte*>(data) + size);
  if ((how & 1) != 0) internal::SealPrefixCacheFile(file);
  static const int fd = memfd_create("prefix_cache", MFD_CLOEXEC);
  CHECK(fd >= 0 && ftruncate(fd, 0) == 0);
  CHECK(pwrite(fd, file.data(), file.size(), 0) == static_cast<ssize_t>(file.size()));

  static const auto device = chips::MakeSimulatedDevice({});
  Ledger ledger((how & 2) != 0 ? 256 : 4096);
  BlockPool pool(*device, ledger, {.owner = "m", .block_bytes = 64, .slab_bytes = 256, .content_key = "m"});
  const std::vector<int32_t> prompt{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  KvSequence sequence;
  const bool running =
      (how & 4) != 0 && pool.Admit({.prompt = prompt, .max_tokens = 40, .workspace = "w"}, sequence);
  const auto loaded = LoadPrefixCache(pool, "/proc/self/fd/" + std::to_string(fd));
  CHECK(loaded || !loaded.error().message.empty());
  CHECK(loaded || pool.registered_blocks() == 0);
  if (running) {
    const KvSequence* one[] = {&sequence};
    pool.CheckInvariants(one);
    pool.Extend(sequence, 40);
    pool.Commit(sequence, prompt);
    pool.Release(sequence);
  }
  KvSequence after;
  if (pool.Admit({.prompt = prompt, .max_tokens = 17, .workspace = "w"}, after)) pool.Release(after);
  pool.CheckInvariants({});
  return 0;
}

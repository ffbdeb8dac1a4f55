// What the mover (residency.h) moves: one model's weights, segment by segment.
//
// On a CPU the device's memory and the host's are the same, so nothing is copied: a segment of a packed file
// is in memory when its pages are in the page cache and mapped, and it stays there while it is locked.
//
// Threads: everything is called by the mover only, but BytesInMemory, which any thread may ask before the
// mover has been given the backing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "compute/residency/file_operations.h"
#include "models/architectures/model.h"
#include "models/architectures/packed_file.h"

namespace tidepool::compute {

class WeightBacking {
 public:
  virtual ~WeightBacking() = default;
  virtual std::span<const architectures::WeightSegment> segments() const = 0;
  // Brings [begin, begin + bytes) of a segment into memory. Called with ascending ranges; a range that begins
  // at 0 begins the segment anew. `stop` asks to return early (kCancelled).
  // Errors: kCorrupt "packed_file_damaged" (cut, unreadable, or another checksum): the file is to be
  // discarded.
  virtual Status Fetch(size_t segment, uint64_t begin, uint64_t bytes, const std::atomic<bool>& stop) = 0;
  // After the last Fetch of a segment: is it what was written? Errors as Fetch.
  virtual Status Check(size_t segment) = 0;
  // Nothing is left for Check to find: compared already, or not to be compared.
  virtual bool Checked(size_t segment) const = 0;
  // Makes a fetched segment stay: from now on a step may touch it.
  virtual void Pin(size_t segment) = 0;
  // No step touches it any more. Its pages may stay, but need not.
  virtual void Unpin(size_t segment) = 0;
  // Out of memory.
  virtual void Drop(size_t segment) = 0;
  virtual uint64_t BytesInMemory(size_t segment) const = 0;
};

struct FileBackingOptions {
  // XXH3 of every segment, once in the process's life, when it is first fetched from a file that this process
  // has not written itself. About 10 GB/s on top of the reading.
  bool verify = true;
  // mlock what has landed, as far as RLIMIT_MEMLOCK goes; without the right it is said once and not tried
  // again.
  bool lock = true;
  // Copies of the file's weights for further NUMA nodes, or nullptr. A segment's bytes are then those of all
  // copies together: what is beyond the file's is filled from it.
  std::shared_ptr<chips::WeightCopies> copies = {};
};
// `operations` outlives the backing.
std::unique_ptr<WeightBacking> MakeFileBacking(std::shared_ptr<architectures::PackedFile> file,
                                               const FileBackingOptions& options = {},
                                               FileOperations& operations = FileOperations::Real());

// For the simulated device: nothing is behind it. A fetch takes bytes / rate of `clock`'s time.
struct SimulatedBackingOptions {
  double warm_bytes_per_s = 0;  // 0: takes no time
  double cold_bytes_per_s = 0;
  int32_t fail_at_segment = -1;  // every fetch of it fails, like a damaged file
};
// `clock` outlives the backing.
std::unique_ptr<WeightBacking> MakeSimulatedBacking(std::span<const architectures::WeightSegment> segments,
                                                    const SimulatedBackingOptions& options,
                                                    const Clock& clock);

}  // namespace tidepool::compute

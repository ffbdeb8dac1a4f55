// The journal of meters: what makes a request's row durable before its last byte, and what is left of open
// meters after a crash. It is also the buffer of rows the store has not taken yet.
//
// A *segment* is a file "journal-<16 hex digits>", zeros at first, filled with records from its start:
//   u32 size of payload | u32 crc32c of (segment number, offset of the record, payload) | payload
// little endian. The first record that is not whole ends the segment: what was not synced before a power loss
// may be missing in any part, but nothing that was synced stands behind it, because a record is only written
// after what stands before it.
//
// payload: u8 kind, then
//   open      varint meter, the row as far as it is known, the counts so far
//   progress  varint count, then per meter: varint meter, prompt, cached, output, reasoning, device_us
//   close     varint meter, the row
//
// When a segment is full the next one begins with an `open` record of every meter that is open, so that a
// segment can go once every row closed in it has been posted. Meters are numbered from (first segment of this
// process << 32), never twice.
//
// Threads: one at a time (the ledger's journal thread).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/ledger/journal_files.h"
#include "platform/ledger/usage_row.h"

namespace tidepool::platform {

struct MeterProgress {
  uint64_t meter = 0;
  BillableTokens tokens;
  int64_t device_us = 0;
};

struct JournalEntry {
  enum class Kind : uint8_t { kOpen = 1, kProgress = 2, kClose = 3 } kind = Kind::kOpen;
  uint64_t meter = 0;  // open, close
  UsageRow row;        // open, close
  std::vector<MeterProgress> progress;
};

// The whole records at the start of a segment. `torn` tells whether something other than zeros follows them.
std::vector<JournalEntry> ParseSegment(uint64_t number, std::string_view bytes, bool* torn = nullptr);

// What a crash left behind.
struct JournalRemains {
  std::vector<UsageRow> closed;  // in order; the store may have them already
  std::vector<UsageRow> open;    // status kInterrupted, counts of the last record
  size_t torn_segments = 0;
};

struct JournalOptions {
  uint64_t segment_bytes = 8u << 20;
  uint64_t max_bytes = 256u << 20;  // of all segments: beyond them nothing new is begun
};

class Journal {
 public:
  // Reads what is there, then begins a new segment. What remains stays on disk until RemainsPosted().
  static Result<std::unique_ptr<Journal>> Open(std::unique_ptr<JournalFiles> files,
                                               const JournalOptions& options, JournalRemains& remains);

  uint64_t NextMeter() { return next_meter_++; }
  // Adds records to what the next Commit writes.
  void Open(uint64_t meter, const UsageRow& row);
  void Progress(const std::vector<MeterProgress>& progress);
  void Close(uint64_t meter, const UsageRow& row);
  // Writes and syncs. After an error nothing of this commit counts as written; Commit again tries again.
  Status Commit();
  bool dirty() const { return !pending_.empty(); }

  void RemainsPosted();
  // Rows closed so far that are now in the store; segments that are not needed go.
  void Posted(const std::vector<uint64_t>& meters);

  // Whether new work may begin: there is room for what runs (a spare segment is kept for it) and more. Tries
  // to get the spare segment, and so recovers by itself. kUnavailable says why not.
  Status Ready();
  uint64_t bytes() const { return segments_.size() * options_.segment_bytes; }
  // Nothing is open, waits to be written or waits for the store.
  bool idle() const;
  // Only when idle: no file is left behind.
  Status RemoveAll();

 private:
  struct Segment {
    uint64_t number = 0;
    std::string name;
    std::set<uint64_t> unposted;
    bool remains = false;  // of an earlier process
  };
  Journal(std::unique_ptr<JournalFiles> files, const JournalOptions& options)
      : files_(std::move(files)), options_(options) {}
  Result<std::unique_ptr<JournalFile>> NewSegment();
  Status MakeSpare();
  Status Rotate();
  static std::string Frame(std::string_view payload, uint64_t segment, uint64_t offset);
  void DropSegments();

  const std::unique_ptr<JournalFiles> files_;
  const JournalOptions options_;
  std::vector<Segment> segments_;  // ascending; the spare one, if any, last
  std::unique_ptr<JournalFile> file_, spare_;
  size_t current_ = 0;   // index in segments_
  uint64_t offset_ = 0;  // of the next record in the current segment
  uint64_t last_number_ = 0;
  uint64_t next_meter_ = 0;
  struct OpenMeter {
    UsageRow row;  // with its last counts
    uint64_t bytes = 0;
  };
  std::map<uint64_t, OpenMeter> open_;
  uint64_t open_bytes_ = 0;  // at most what their records take
  struct Pending {
    std::string payload;
    JournalEntry::Kind kind;
    uint64_t meter = 0;
  };
  std::vector<Pending> pending_;
};

}  // namespace tidepool::platform

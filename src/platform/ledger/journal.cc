#include "platform/ledger/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/check.h"
#include "platform/ledger/wire.h"

namespace tidepool::platform {
namespace {

constexpr std::string_view kSegmentPrefix = "journal-";
constexpr size_t kHeaderBytes = 8;
constexpr uint32_t kMaxPayload = 4u << 20;
constexpr size_t kMaxProgressOfRecord = 4096;
// By how much an open row may grow as its five counts do: varints of up to 9 bytes that were of 1.
constexpr uint64_t kCountGrowth = 40;

// CRC-32C (Castagnoli), bit-reflected, a byte at a time: a few hundred bytes a record.
constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
    table[i] = crc;
  }
  return table;
}
constexpr auto kCrcTable = MakeCrcTable();

uint32_t Crc32c(uint32_t crc, std::string_view bytes) {
  crc = ~crc;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  return ~crc;
}

void PutFixed(uint64_t value, int bytes, std::string& out) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}
uint32_t Fixed32(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  return value;
}

// Where a record stands is part of its checksum: a copy of an old block in the wrong place is not taken.
uint32_t RecordCrc(uint64_t segment, uint64_t offset, std::string_view payload) {
  std::string place;
  PutFixed(segment, 8, place);
  PutFixed(offset, 8, place);
  return Crc32c(Crc32c(0, place), payload);
}

std::optional<uint64_t> SegmentNumber(std::string_view name) {
  if (!name.starts_with(kSegmentPrefix) || name.size() != kSegmentPrefix.size() + 16) return std::nullopt;
  name.remove_prefix(kSegmentPrefix.size());
  uint64_t number = 0;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), number, 16);
  if (problem != std::errc() || end != name.data() + name.size() || number == 0 ||
      number >= (uint64_t{1} << 32))
    return std::nullopt;
  return number;
}

bool ParseProgress(wire::Reader& reader, MeterProgress& progress) {
  progress.meter = reader.Varint();
  progress.tokens.prompt = reader.Count();
  progress.tokens.cached = reader.Count();
  progress.tokens.output = reader.Count();
  progress.tokens.reasoning = reader.Count();
  progress.device_us = reader.Count();
  return !reader.failed();
}

std::optional<JournalEntry> ParsePayload(std::string_view payload) {
  if (payload.empty()) return std::nullopt;
  const auto kind = static_cast<uint8_t>(payload.front());
  wire::Reader reader(payload.substr(1));
  JournalEntry entry;
  switch (kind) {
    case static_cast<uint8_t>(JournalEntry::Kind::kOpen):
    case static_cast<uint8_t>(JournalEntry::Kind::kClose): {
      entry.kind = static_cast<JournalEntry::Kind>(kind);
      entry.meter = reader.Varint();
      const auto row = DecodeUsageRow(reader.String());
      if (!row || reader.failed() || !reader.at_end()) return std::nullopt;
      entry.row = *row;
      return entry;
    }
    case static_cast<uint8_t>(JournalEntry::Kind::kProgress): {
      entry.kind = JournalEntry::Kind::kProgress;
      const uint64_t count = reader.Varint();
      if (count > kMaxProgressOfRecord) return std::nullopt;
      for (uint64_t i = 0; i < count; ++i) {
        MeterProgress progress;
        if (!ParseProgress(reader, progress)) return std::nullopt;
        entry.progress.push_back(progress);
      }
      if (!reader.at_end()) return std::nullopt;
      return entry;
    }
    default: return std::nullopt;
  }
}

std::string RowPayload(JournalEntry::Kind kind, uint64_t meter, const UsageRow& row) {
  std::string encoded;
  EncodeUsageRow(row, encoded);
  std::string payload(1, static_cast<char>(kind));
  wire::PutVarint(meter, payload);
  wire::PutString(encoded, payload);
  return payload;
}

void Apply(const MeterProgress& progress, UsageRow& row) {
  row.tokens = progress.tokens;
  row.device_us = progress.device_us;
}

}  // namespace

std::vector<JournalEntry> ParseSegment(uint64_t number, std::string_view bytes, bool* torn) {
  std::vector<JournalEntry> entries;
  uint64_t offset = 0;
  while (bytes.size() - offset >= kHeaderBytes) {
    const uint32_t size = Fixed32(bytes.substr(offset));
    if (size == 0 || size > kMaxPayload || size > bytes.size() - offset - kHeaderBytes) break;
    const std::string_view payload = bytes.substr(offset + kHeaderBytes, size);
    if (Fixed32(bytes.substr(offset + 4)) != RecordCrc(number, offset, payload)) break;
    auto entry = ParsePayload(payload);
    if (!entry) break;
    entries.push_back(std::move(*entry));
    offset += kHeaderBytes + size;
  }
  if (torn != nullptr) *torn = bytes.find_first_not_of('\0', offset) != std::string_view::npos;
  return entries;
}

Result<std::unique_ptr<Journal>> Journal::Open(std::unique_ptr<JournalFiles> files,
                                               const JournalOptions& options, JournalRemains& remains) {
  CHECK(options.segment_bytes >= 4096);
  std::unique_ptr<Journal> journal(new Journal(std::move(files), options));
  TP_ASSIGN(std::vector<std::string> names, journal->files_->List());
  std::sort(names.begin(), names.end());
  std::map<uint64_t, UsageRow> open;
  for (const std::string& name : names) {
    const auto number = SegmentNumber(name);
    if (!number) continue;  // not ours
    TP_ASSIGN(const std::string bytes, journal->files_->Read(name, uint64_t{1} << 30));
    bool torn = false;
    for (JournalEntry& entry : ParseSegment(*number, bytes, &torn)) {
      switch (entry.kind) {
        case JournalEntry::Kind::kOpen: open[entry.meter] = std::move(entry.row); break;
        case JournalEntry::Kind::kProgress:
          for (const MeterProgress& progress : entry.progress) {
            if (const auto it = open.find(progress.meter); it != open.end()) Apply(progress, it->second);
          }
          break;
        case JournalEntry::Kind::kClose:
          open.erase(entry.meter);
          // Without an id: a request that never began, so no row.
          if (!entry.row.id.empty()) remains.closed.push_back(std::move(entry.row));
          break;
      }
    }
    remains.torn_segments += torn ? 1 : 0;
    journal->segments_.push_back({*number, name, {}, true});
    journal->last_number_ = std::max(journal->last_number_, *number);
  }
  for (auto& [meter, row] : open) {
    row.status = UsageStatus::kInterrupted;
    row.error_code = "server_interrupted";
    remains.open.push_back(std::move(row));
  }
  TP_ASSIGN(journal->file_, journal->NewSegment());
  journal->current_ = journal->segments_.size() - 1;
  journal->next_meter_ = journal->last_number_ << 32;
  return journal;
}

Result<std::unique_ptr<JournalFile>> Journal::NewSegment() {
  Segment segment;
  segment.number = last_number_ + 1;
  segment.name = fmt::format("{}{:016x}", kSegmentPrefix, segment.number);
  auto file = files_->Create(segment.name, options_.segment_bytes);
  if (!file) return file;
  ++last_number_;
  segments_.push_back(std::move(segment));
  return file;
}

std::string Journal::Frame(std::string_view payload, uint64_t segment, uint64_t offset) {
  CHECK(!payload.empty() && payload.size() <= kMaxPayload);
  std::string framed;
  framed.reserve(kHeaderBytes + payload.size());
  PutFixed(payload.size(), 4, framed);
  PutFixed(RecordCrc(segment, offset, payload), 4, framed);
  framed.append(payload);
  return framed;
}

void Journal::Open(uint64_t meter, const UsageRow& row) {
  pending_.push_back({RowPayload(JournalEntry::Kind::kOpen, meter, row), JournalEntry::Kind::kOpen, meter});
  const uint64_t bytes = kHeaderBytes + pending_.back().payload.size() + kCountGrowth;
  open_[meter] = {row, bytes};
  open_bytes_ += bytes;
}

void Journal::Progress(const std::vector<MeterProgress>& progress) {
  for (size_t begin = 0; begin < progress.size(); begin += kMaxProgressOfRecord) {
    const size_t count = std::min(kMaxProgressOfRecord, progress.size() - begin);
    std::string payload(1, static_cast<char>(JournalEntry::Kind::kProgress));
    wire::PutVarint(count, payload);
    for (size_t i = begin; i < begin + count; ++i) {
      const MeterProgress& p = progress[i];
      wire::PutVarint(p.meter, payload);
      for (const int64_t number :
           {p.tokens.prompt, p.tokens.cached, p.tokens.output, p.tokens.reasoning, p.device_us}) {
        wire::PutVarint(static_cast<uint64_t>(number), payload);
      }
      if (const auto it = open_.find(p.meter); it != open_.end()) Apply(p, it->second.row);
    }
    pending_.push_back({std::move(payload), JournalEntry::Kind::kProgress, 0});
  }
}

void Journal::Close(uint64_t meter, const UsageRow& row) {
  // It stays in open_ until it is written: a new segment must not begin without a trace of it.
  pending_.push_back({RowPayload(JournalEntry::Kind::kClose, meter, row), JournalEntry::Kind::kClose, meter});
}

Status Journal::Commit() {
  size_t done = 0;
  while (done < pending_.size()) {
    std::string bytes;
    size_t next = done;
    while (next < pending_.size()) {
      const std::string& payload = pending_[next].payload;
      if (offset_ + bytes.size() + kHeaderBytes + payload.size() > options_.segment_bytes) break;
      bytes += Frame(payload, segments_[current_].number, offset_ + bytes.size());
      ++next;
    }
    if (bytes.empty()) {
      TP_TRY(Rotate());
      continue;
    }
    TP_TRY(file_->Write(offset_, bytes));
    TP_TRY(file_->Sync());
    offset_ += bytes.size();
    for (; done < next; ++done) {
      if (pending_[done].kind != JournalEntry::Kind::kClose) continue;
      segments_[current_].unposted.insert(pending_[done].meter);
      const auto closed = open_.find(pending_[done].meter);
      if (closed == open_.end()) continue;
      open_bytes_ -= closed->second.bytes;
      open_.erase(closed);
    }
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(done));
    done = 0;
  }
  return {};
}

Status Journal::MakeSpare() {
  if (spare_ != nullptr) return {};
  TP_ASSIGN(spare_, NewSegment());
  return {};
}

Status Journal::Rotate() {
  TP_TRY(MakeSpare());
  // The meters that are open go on in the next segment. One whose own `open` still waits is said twice, which
  // does no harm.
  const uint64_t number = segments_.back().number;
  std::string bytes;
  for (const auto& [meter, open] : open_) {
    bytes += Frame(RowPayload(JournalEntry::Kind::kOpen, meter, open.row), number, bytes.size());
  }
  if (bytes.size() > options_.segment_bytes / 2) {
    return Fail(ErrorKind::kUnavailable, "journal_too_small",
                fmt::format("{} open requests do not fit into a journal segment of {} bytes; raise "
                            "ledger.journal_segment",
                            open_.size(), options_.segment_bytes));
  }
  TP_TRY(spare_->Write(0, bytes));
  TP_TRY(spare_->Sync());
  file_ = std::move(spare_);
  current_ = segments_.size() - 1;
  offset_ = bytes.size();
  DropSegments();
  return {};
}

Status Journal::Ready() {
  if (bytes() > options_.max_bytes) {
    return Fail(
        Error{ErrorKind::kUnavailable,
              "usage_store_behind",
              fmt::format("{} bytes of usage wait on disk for the store, more than ledger.max_journal ({} "
                          "bytes) allows; the store must take them first",
                          bytes(), options_.max_bytes),
              {},
              5});
  }
  if (open_bytes_ > options_.segment_bytes / 4) {
    return Fail(
        Error{ErrorKind::kUnavailable,
              "journal_too_small",
              fmt::format("{} requests are open, as many as a journal segment of {} bytes can carry on; "
                          "raise ledger.journal_segment",
                          open_.size(), options_.segment_bytes),
              {},
              1});
  }
  // Half a segment is room for all that runs; the spare one is the reserve behind it.
  if (offset_ > options_.segment_bytes / 2) return MakeSpare();
  return {};
}

void Journal::RemainsPosted() {
  for (Segment& segment : segments_) segment.remains = false;
  DropSegments();
}

void Journal::Posted(const std::vector<uint64_t>& meters) {
  for (const uint64_t meter : meters) {
    for (Segment& segment : segments_) {
      if (segment.unposted.erase(meter) > 0) break;
    }
  }
  DropSegments();
}

// From the oldest on, so that what closes a meter never goes before what opened it.
void Journal::DropSegments() {
  while (current_ > 0 && !segments_.front().remains && segments_.front().unposted.empty()) {
    if (!files_->Remove(segments_.front().name)) return;
    segments_.erase(segments_.begin());
    --current_;
  }
}

bool Journal::idle() const {
  return open_.empty() && pending_.empty() &&
         std::all_of(segments_.begin(), segments_.end(),
                     [](const Segment& segment) { return segment.unposted.empty() && !segment.remains; });
}

Status Journal::RemoveAll() {
  CHECK(idle());
  file_.reset();
  spare_.reset();
  for (const Segment& segment : segments_) TP_TRY(files_->Remove(segment.name));
  segments_.clear();
  return {};
}

}  // namespace tidepool::platform

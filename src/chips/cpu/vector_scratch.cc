#include "chips/cpu/vector_scratch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "chips/cpu/cpu_ops.h"

namespace tidepool::chips::cpu {
namespace {

// One array of offsets for each distinct zero of kPanelFormats; those of 4 and 32 belong to scales by 16
// columns.
int OffsetKind(int zero) {
  switch (zero) {
    case 4: return 0;
    case 32: return 1;
    case 8: return 2;
    case 12: return 3;
    case 16: return 4;
    case 128: return 5;
    default: CHECK(false);
  }
}
constexpr int kOffsetKindsBy16 = 2;

int64_t Round64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

int64_t ActivationScratch::StrideFor(int64_t columns) {
  const int64_t padded = (columns + kGroup - 1) / kGroup * kGroup;
  return padded % 512 == 0 ? padded + 2 * kGroup : padded;
}

int64_t ActivationScratch::ElementsFor(int64_t rows, int64_t columns) {
  // A narrower matrix may have the wider stride.
  const int64_t stride = StrideFor(columns) + 2 * kGroup;
  return std::max(stride, std::min(rows * stride, kMaxElements));
}

size_t ActivationScratch::BytesFor(int64_t elements) const {
  const int64_t groups = elements / kGroup;
  int64_t bytes = Round64(elements);
  bytes += 2 * Round64(4 * groups);      // scales, sums by 32
  bytes += 2 * Round64(2 * 4 * groups);  // sums of codes, sums by 16
  bytes +=
      kOffsetKindsBy16 * Round64(2 * 4 * groups) + (kOffsetKinds - kOffsetKindsBy16) * Round64(4 * groups);
  return static_cast<size_t>(bytes);
}

Status ActivationScratch::Reserve(int64_t elements) {
  if (elements <= capacity_) return {};
  TP_ASSIGN(buffer_, AllocateHostMemory(BytesFor(elements)));
  capacity_ = elements;
  const int64_t groups = elements / kGroup;
  std::byte* next = buffer_.data();
  const auto take = [&](int64_t bytes) {
    std::byte* const begin = next;
    next += Round64(bytes);
    return begin;
  };
  codes_ = reinterpret_cast<int8_t*>(take(elements));
  scales_ = reinterpret_cast<float*>(take(4 * groups));
  sums16_ = reinterpret_cast<int32_t*>(take(2 * 4 * groups));
  sums_[0] = reinterpret_cast<float*>(take(4 * groups));
  sums_[1] = reinterpret_cast<float*>(take(2 * 4 * groups));
  for (int kind = 0; kind < kOffsetKinds; ++kind) {
    offsets_[static_cast<size_t>(kind)] =
        reinterpret_cast<int32_t*>(take((kind < kOffsetKindsBy16 ? 2 : 1) * 4 * groups));
  }
  return {};
}

void ActivationScratch::Begin(int64_t rows, int64_t columns, int tile_rows) {
  tiles_ = {rows, tile_rows == 0 ? 0 : (rows + tile_rows - 1) / tile_rows};
  rows_ = rows;
  columns_ = columns;
  stride_ = StrideFor(columns);
  CHECK(rows * stride_ <= capacity_);
  sums_valid_.fill(false);
  offsets_valid_.fill(false);
}

QuantiseTask ActivationScratch::Task() const {
  QuantiseTask task{};
  task.columns = columns_;
  task.stride = stride_;
  task.codes = codes_;
  task.scales = scales_;
  task.sums16 = sums16_;
  task.tiles = tiles_;
  return task;
}

void ActivationScratch::DeriveSums(bool by16) {
  if (std::exchange(sums_valid_[by16 ? 1 : 0], true)) return;
  float* const sums = sums_[by16 ? 1 : 0];
  const int64_t groups = rows_ * (columns_ / kGroup);
  for (int64_t g = 0; g < groups; ++g) {
    if (by16) {
      sums[2 * g] = scales_[g] * static_cast<float>(sums16_[2 * g]);
      sums[2 * g + 1] = scales_[g] * static_cast<float>(sums16_[2 * g + 1]);
    } else {
      sums[g] = scales_[g] * static_cast<float>(sums16_[2 * g] + sums16_[2 * g + 1]);
    }
  }
}

void ActivationScratch::DeriveOffsets(int zero, bool by16) {
  const auto kind = static_cast<size_t>(OffsetKind(zero));
  CHECK(by16 == (kind < kOffsetKindsBy16));
  if (std::exchange(offsets_valid_[kind], true)) return;
  int32_t* const offsets = offsets_[kind];
  const int64_t groups = rows_ * (columns_ / kGroup);
  if (by16) {
    for (int64_t g = 0; g < 2 * groups; ++g) offsets[g] = -zero * sums16_[g];
  } else {
    for (int64_t g = 0; g < groups; ++g) offsets[g] = -zero * (sums16_[2 * g] + sums16_[2 * g + 1]);
  }
}

void ActivationScratch::Derive(PanelLayout layout) {
  const PanelFormat& format = kPanelFormats[layout];
  const bool by16 = ScalesBy16(format.scales);
  if (HasMinimum(format.scales)) DeriveSums(by16);
  if (format.zero != 0) DeriveOffsets(format.zero, by16);
}

QuantisedRows ActivationScratch::For(PanelLayout layout) const {
  const PanelFormat& format = kPanelFormats[layout];
  const size_t by16 = ScalesBy16(format.scales) ? 1 : 0;
  QuantisedRows rows{};
  rows.codes = codes_;
  rows.scales = scales_;
  rows.stride = stride_;
  rows.tiles = tiles_;
  if (HasMinimum(format.scales)) {
    CHECK(sums_valid_[by16]);
    rows.sums = sums_[by16];
  }
  if (format.zero != 0) {
    const auto kind = static_cast<size_t>(OffsetKind(format.zero));
    CHECK(offsets_valid_[kind]);
    rows.offsets = offsets_[kind];
  }
  return rows;
}

int64_t BfloatScratch::StrideFor(int64_t columns) {
  constexpr int64_t kLine = 32;
  return ((columns + kLine - 1) / kLine | 1) * kLine;
}

int64_t BfloatScratch::ElementsFor(int64_t rows, int64_t columns) {
  return std::max(StrideFor(columns), std::min(rows * StrideFor(columns), kMaxElements));
}

Status BfloatScratch::Reserve(int64_t elements) {
  if (elements <= capacity_) return {};
  TP_ASSIGN(buffer_, AllocateHostMemory(BytesFor(elements)));
  capacity_ = elements;
  return {};
}

size_t RopeTables::BytesFor(int64_t rows, int64_t rotary_dim) {
  return static_cast<size_t>(kEntries) * static_cast<size_t>(rows * (2 * rotary_dim + 1) + rotary_dim) * 4;
}

void RopeTables::Reserve(int64_t rows, int64_t rotary_dim) {
  for (Entry& entry : entries_) {
    entry.positions.reserve(static_cast<size_t>(rows));
    entry.frequencies.reserve(static_cast<size_t>(rotary_dim));
    entry.cosines.reserve(static_cast<size_t>(rows * rotary_dim));
    entry.sines.reserve(static_cast<size_t>(rows * rotary_dim));
  }
}

bool RopeTables::Matches(const Entry& entry, const RopeArgs& args) {
  const size_t half = static_cast<size_t>(args.rotary_dim / 2);
  return entry.used != 0 && entry.pairing == args.pairing && entry.amplitude == args.amplitude &&
         std::ranges::equal(entry.frequencies, std::span(args.inverse_frequency, half)) &&
         std::ranges::equal(entry.positions, args.positions);
}

void RopeTables::Fill(Entry& entry, const RopeArgs& args) {
  const auto half = static_cast<size_t>(args.rotary_dim / 2);
  const bool interleaved = args.pairing == RopePairing::kInterleaved;
  const size_t width = interleaved ? 2 * half : half;
  entry.positions.assign(args.positions.begin(), args.positions.end());
  entry.frequencies.assign(args.inverse_frequency, args.inverse_frequency + half);
  entry.amplitude = args.amplitude;
  entry.pairing = args.pairing;
  entry.cosines.resize(args.positions.size() * width);
  entry.sines.resize(args.positions.size() * width);
  for (size_t row = 0; row < args.positions.size(); ++row) {
    for (size_t i = 0; i < half; ++i) {
      // In double: at position 100,000 a float angle would be off by 4e-3.
      const double angle =
          static_cast<double>(args.positions[row]) * static_cast<double>(args.inverse_frequency[i]);
      const auto c = static_cast<float>(std::cos(angle) * args.amplitude);
      const auto s = static_cast<float>(std::sin(angle) * args.amplitude);
      if (interleaved) {
        entry.cosines[row * width + 2 * i] = entry.cosines[row * width + 2 * i + 1] = c;
        entry.sines[row * width + 2 * i] = -s;
        entry.sines[row * width + 2 * i + 1] = s;
      } else {
        entry.cosines[row * width + i] = c;
        entry.sines[row * width + i] = s;
      }
    }
  }
}

RopeTables::Table RopeTables::For(const RopeArgs& args) {
  Entry* chosen = nullptr;
  for (Entry& entry : entries_) {
    if (Matches(entry, args)) chosen = &entry;
  }
  if (chosen == nullptr) {
    chosen = &*std::ranges::min_element(entries_, {}, &Entry::used);
    Fill(*chosen, args);
  }
  chosen->used = ++uses_;
  const int64_t width = args.pairing == RopePairing::kInterleaved ? args.rotary_dim : args.rotary_dim / 2;
  return {chosen->cosines.data(), chosen->sines.data(), width};
}

}  // namespace tidepool::chips::cpu

// y = x W^T for quantised panels: dot products of 8-bit integers, exact within a group, scaled and added in
// float32 in the order of the groups. Every path (any number of rows) does the same additions for an output.

// Whole vectors of 16 outputs and dot instructions: linear_dot.inl does it, over tiles of rows.
constexpr bool kTiles = TP_HAS_DOT && kLanes == kPanelRows;

// Stops the compiler from regrouping a chain of integer additions into a tree, whose leaves it then spills.
TP_INLINE void KeepInRegister(Ints& v) { asm("" : "+v"(v)); }

// Code vector j of a group: lane r holds row r's columns 4 j .. 4 j + 3. See panel_layout.h for the planes.
template <CodeStorage kStorage, int kJ>
TP_INLINE Ints UnpackCodes(const std::byte* codes) {
  if constexpr (kStorage == kByte) return LoadInts(codes + kJ * 64);
  constexpr bool kTwo = kStorage == kTwoBits || kStorage == kTwoBitsPlusBit;
  Ints low;
  if constexpr (kTwo) {
    low = AndInts(ShiftRight16<2 * (kJ / 2)>(LoadInts(codes + (kJ & 1) * 64)), SetByte(3));
  } else {
    low = AndInts(ShiftRight16<4 * (kJ / 4)>(LoadInts(codes + (kJ & 3) * 64)), SetByte(15));
  }
  constexpr int kLowBits = kTwo ? 2 : 4;
  const std::byte* high = codes + (kTwo ? 128 : 256);
  if constexpr (kStorage == kNibblePlusBit || kStorage == kTwoBitsPlusBit) {
    const Ints plane = LoadInts(high);
    constexpr int kUp = kLowBits - kJ;  // bit j goes to bit kLowBits
    const Ints moved =
        kUp >= 0 ? ShiftLeft16<(kUp >= 0 ? kUp : 0)>(plane) : ShiftRight16<(kUp < 0 ? -kUp : 0)>(plane);
    return OrInts(low, AndInts(moved, SetByte(1 << kLowBits)));
  }
  if constexpr (kStorage == kNibblePlusTwoBits) {
    const Ints plane = LoadInts(high + (kJ & 1) * 64);
    constexpr int kUp = 4 - 2 * (kJ / 2);  // bits 2 (j / 2) go to bits 4 and 5
    const Ints moved =
        kUp >= 0 ? ShiftLeft16<(kUp >= 0 ? kUp : 0)>(plane) : ShiftRight16<(kUp < 0 ? -kUp : 0)>(plane);
    return OrInts(low, AndInts(moved, SetByte(0x30)));
  }
  return low;
}

// Where no instruction sums four products of bytes, pairs of products are made in int16 (unsigned code times
// signed activation, saturating) and some of those are added in int16 before they widen. What fits:
//   a pair:   2 * 127 * largest code <= 32767, or codes are multiplied as int16 instead (`kWide`);
//   a chain:  2 * 127 * code * length <= 32767, where a code counts with its zero subtracted if the sum
//   starts at
//             -zero * x (`kShortStart`; int16 additions wrap, so only their end has to fit).
template <PanelLayout kLayout>
struct GroupFormat {
  static constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  static constexpr bool kMinimum = HasMinimum(kFormat.scales);
  static constexpr bool kZero = kFormat.zero != 0;
  static constexpr int kParts = ScalesBy16(kFormat.scales) ? 2 : 1;
  static constexpr int kPartVectors = 8 / kParts;  // code vectors of a part
  static constexpr int kLargest = kFormat.largest_code;
  static constexpr int kLargestLessZero =
      kFormat.zero > kLargest - kFormat.zero ? kFormat.zero : kLargest - kFormat.zero;
  static constexpr bool kWide = !TP_HAS_DOT && 2 * 127 * kLargest > 32767;
  static constexpr int Fitting(int code) {
    const int fitting = 32767 / (2 * 127 * code);
    return fitting >= 8 ? 8 : fitting >= 4 ? 4 : fitting >= 2 ? 2 : 1;
  }
  static constexpr bool kShortStart = !TP_HAS_DOT && !kWide && kZero && Fitting(kLargest) < kPartVectors;
  static constexpr int kChain = Fitting(kShortStart ? kLargestLessZero : kLargest);
  static_assert(!kShortStart || kChain >= kPartVectors, "one chain, since there is one start");

  // A row's group as the kernel reads it, every four bytes for all lanes of a vector: codes (wide: as int16,
  // each four as (0, 2), (1, 3)), where each part's sum starts, the scale, and the sums that minimums
  // multiply.
  static constexpr int kStart = kGroup * (kWide ? 2 : 1);
  static constexpr int kScale = kStart + (kZero ? 4 * kParts : 0);
  static constexpr int kSums = kScale + 4;
  static constexpr int kRecordBytes = kSums + (kMinimum ? 4 * kParts : 0);

  // A panel's group unpacked: code vectors (wide: the even and the odd bytes of each as int16), f32 scales
  // and minimums of the parts.
  static constexpr int kUnpackedScales = (kWide ? 16 : 8) * 64;
  static constexpr int kUnpackedMinimums = kUnpackedScales + 64 * kParts;
  static constexpr int kUnpackedBytes = kUnpackedMinimums + (kMinimum ? 64 * kParts : 0);
};

constexpr int kPanelVectors = kPanelRows / kLanes;

// The scales of a panel's groups, one group after the other.
template <PanelLayout kLayout>
struct GroupScales {
  static constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  static constexpr ScaleKind kScales = kFormat.scales;
  static constexpr int kParts = GroupFormat<kLayout>::kParts;
  static constexpr bool kMinimum = GroupFormat<kLayout>::kMinimum;
  const std::byte* panel;
  const std::byte* next;
  Floats factor[kPanelVectors], minimum_factor[kPanelVectors];

  TP_INLINE GroupScales Begin(const std::byte* panel, int64_t group) {
    GroupScales scales;
    scales.panel = panel;
    scales.next = panel;
    for (int v = 0; v < kPanelVectors; ++v) scales.factor[v] = scales.minimum_factor[v] = Zero();
    if (IsSuper(kScales) && group % kSuperGroups != 0) scales.Super(group);
    return scales;
  }
  __attribute__((always_inline)) void Super(int64_t group) {
    const std::byte* block = panel + group / kSuperGroups * static_cast<int64_t>(ScaleBytes(kScales));
    for (int v = 0; v < kPanelVectors; ++v) {
      factor[v] = LoadHalf(block + v * kLanes * 2);
      if constexpr (kMinimum) minimum_factor[v] = LoadHalf(block + kPanelRows * 2 + v * kLanes * 2);
    }
    next = block + kPanelRows * (kMinimum ? 4 : 2) +
           group % kSuperGroups * static_cast<int64_t>(SuperGroupBytes(kScales));
  }
  __attribute__((always_inline)) void Read(int64_t group, Floats (*scale)[kPanelVectors],
                                           Floats (*minimum)[kPanelVectors]) {
    if constexpr (IsSuper(kScales)) {
      if (group % kSuperGroups == 0) Super(group);
      for (int p = 0; p < kParts; ++p) {
        for (int v = 0; v < kPanelVectors; ++v) {
          scale[p][v] = Mul(factor[v], LoadInt8(next + v * kLanes));
          if constexpr (kMinimum)
            minimum[p][v] = Mul(minimum_factor[v], LoadInt8(next + kPanelRows + v * kLanes));
        }
        next += kPanelRows * (kMinimum ? 2 : 1);
      }
    } else {
      const std::byte* block = panel + group * static_cast<int64_t>(ScaleBytes(kScales));
      for (int v = 0; v < kPanelVectors; ++v) {
        scale[0][v] =
            kScales == kBfloatScale ? LoadBfloat(block + v * kLanes * 2) : LoadHalf(block + v * kLanes * 2);
        if constexpr (kMinimum) minimum[0][v] = LoadHalf(block + kPanelRows * 2 + v * kLanes * 2);
      }
    }
  }
};

template <PanelLayout kLayout>
TP_INLINE Ints CodeTable() {
  if constexpr (kPanelFormats[kLayout].codebook) {
    return BroadcastTable(kLayout == kPanelMXFP4 ? kMxfp4Codes : kIq4Codes);
  }
  return ZeroInts();
}

template <PanelLayout kLayout, int kJ>
TP_INLINE Ints ReadCodes(const std::byte* codes, Ints table) {
  const Ints u = UnpackCodes<kPanelFormats[kLayout].storage, kJ>(codes);
  if constexpr (kPanelFormats[kLayout].codebook) return Lookup(table, u);
  return u;
}
TP_INLINE Ints EvenBytes(Ints u) { return AndInts(u, Set16(0xff)); }
TP_INLINE Ints OddBytes(Ints u) { return ShiftRight16<8>(u); }

// Integer dot products of one part of a group of a panel with kRows rows. kUnpacked: `codes` are those of
// UnpackGroups.
template <PanelLayout kLayout, int kRows, int kPart, bool kUnpacked>
struct PartDot {
  using Format = GroupFormat<kLayout>;
  static constexpr int kFirst = kPart * Format::kPartVectors, kEnd = kFirst + Format::kPartVectors;
  using Sums = Ints[kRows][kPanelVectors];

  TP_INLINE Ints Start(const std::byte* records, int row) {
    if constexpr (!Format::kZero) return ZeroInts();
    return BroadcastInt(records + row * Format::kRecordBytes + Format::kStart + 4 * kPart);
  }

  template <int kJ>
  TP_INLINE void Step(const std::byte* codes, Ints table, const std::byte* records, Sums& sums,
                      Sums& short_sums) {
    if constexpr (kJ < kEnd) {
      constexpr int kHalves = Format::kWide ? 2 : 1;
      Ints u[kHalves][kPanelVectors];
      for (int v = 0; v < kPanelVectors; ++v) {
        if constexpr (kUnpacked) {
          for (int i = 0; i < kHalves; ++i) {
            u[i][v] = LoadInts(codes + (kJ * kHalves + i) * 64 + v * static_cast<int>(sizeof(Ints)));
          }
        } else {
          u[0][v] = ReadCodes<kLayout, kJ>(codes + v * static_cast<int>(sizeof(Ints)), table);
          if constexpr (Format::kWide) {
            u[kHalves - 1][v] = OddBytes(u[0][v]);
            u[0][v] = EvenBytes(u[0][v]);
          }
        }
      }
      for (int m = 0; m < kRows; ++m) {
        const std::byte* x = records + m * Format::kRecordBytes + kJ * 4 * kHalves;
        if constexpr (TP_HAS_DOT) {
          const Ints four = BroadcastInt(x);
          if constexpr (kJ == kFirst) {
            const Ints start = Start(records, m);
            for (int v = 0; v < kPanelVectors; ++v) sums[m][v] = start;
          }
          for (int v = 0; v < kPanelVectors; ++v) sums[m][v] = DotBytes(sums[m][v], u[0][v], four);
        } else if constexpr (Format::kWide) {
          for (int i = 0; i < kHalves; ++i) {
            const Ints two = BroadcastInt(x + 4 * i);
            const Ints start = kJ == kFirst && i == 0 ? Start(records, m) : ZeroInts();
            for (int v = 0; v < kPanelVectors; ++v) {
              const Ints product = MulAdd16(u[i][v], two);
              sums[m][v] = AddInt32(product, kJ == kFirst && i == 0 ? start : sums[m][v]);
              KeepInRegister(sums[m][v]);
            }
          }
        } else {
          constexpr int kInChain = (kJ - kFirst) % Format::kChain;
          constexpr bool kLast = kInChain == Format::kChain - 1 || kJ == kEnd - 1;
          constexpr bool kFirstChain = kJ - kFirst < Format::kChain;
          constexpr bool kAddStart = kInChain == 0 && Format::kShortStart;
          const Ints four = BroadcastInt(x);
          const Ints short_start = kAddStart ? Start(records, m) : ZeroInts();
          for (int v = 0; v < kPanelVectors; ++v) {
            const Ints product = MulAddBytes(u[0][v], four);
            short_sums[m][v] = kInChain != 0 ? AddInt16(short_sums[m][v], product)
                               : kAddStart   ? AddInt16(short_start, product)
                                             : product;
            KeepInRegister(short_sums[m][v]);
          }
          if constexpr (kLast) {
            constexpr bool kWideStart = kFirstChain && Format::kZero && !Format::kShortStart;
            const Ints start = kWideStart ? Start(records, m) : ZeroInts();
            for (int v = 0; v < kPanelVectors; ++v) {
              const Ints wide = MulAdd16(short_sums[m][v], Set16(1));
              sums[m][v] = !kFirstChain ? AddInt32(sums[m][v], wide)
                           : kWideStart ? AddInt32(start, wide)
                                        : wide;
            }
          }
        }
      }
      Step<kJ + 1>(codes, table, records, sums, short_sums);
    }
  }
};

// Groups [begin, end) of a panel times kRows rows, whose records are [group][row]: adds to totals [row][16
// outputs]. kUnpacked: `codes` are `end - begin` groups of UnpackGroups, else those of group `begin` in the
// panel.
template <PanelLayout kLayout, int kRows, bool kUnpacked>
static void QuantisedBlock(const std::byte* panel, const std::byte* codes, const std::byte* records,
                           int64_t begin, int64_t end, const std::byte* ahead, int64_t ahead_step,
                           float* totals) {
  using Format = GroupFormat<kLayout>;
  constexpr bool kMinimum = Format::kMinimum, kSuper = IsSuper(Format::kFormat.scales);
  constexpr int kParts = Format::kParts;
  // Else they would push the integer sums out of the registers, at every step instead of once a group.
  constexpr bool kTotalsInRegisters = kRows * kPanelVectors * 2 + 6 <= kRegisters;
  const Ints table = CodeTable<kLayout>();
  GroupScales<kLayout> scales{};
  if constexpr (!kUnpacked) scales = GroupScales<kLayout>::Begin(panel, begin);
  Floats total[kRows][kPanelVectors];
  if constexpr (kTotalsInRegisters) {
    for (int m = 0; m < kRows; ++m) {
      for (int v = 0; v < kPanelVectors; ++v) total[m][v] = Load(totals + m * kPanelRows + v * kLanes);
    }
  }
  for (int64_t g = begin; g < end; ++g) {
    if constexpr (!kUnpacked) {
      constexpr int kLines = static_cast<int>((CodeBytes(Format::kFormat.storage) + 63) / 64) + 1;
      for (int i = 0; i < kLines; ++i)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + 64 * i), _MM_HINT_T0);
      ahead += ahead_step;
    }
    Ints sums[kParts][kRows][kPanelVectors], short_sums[kRows][kPanelVectors];
    PartDot<kLayout, kRows, 0, kUnpacked>::template Step<0>(codes, table, records, sums[0], short_sums);
    if constexpr (kParts == 2) {
      PartDot<kLayout, kRows, 1, kUnpacked>::template Step<4>(codes, table, records, sums[1], short_sums);
    }
    Floats scale[kParts][kPanelVectors], minimum[kParts][kPanelVectors];
    if constexpr (kUnpacked) {
      const auto* floats = reinterpret_cast<const float*>(codes + Format::kUnpackedScales);
      for (int p = 0; p < kParts; ++p) {
        for (int v = 0; v < kPanelVectors; ++v) {
          scale[p][v] = Load(floats + p * kPanelRows + v * kLanes);
          if constexpr (kMinimum) minimum[p][v] = Load(floats + (kParts + p) * kPanelRows + v * kLanes);
        }
      }
      codes += Format::kUnpackedBytes;
    } else {
      scales.Read(g, scale, minimum);
      codes += CodeBytes(Format::kFormat.storage);
    }
    for (int m = 0; m < kRows; ++m) {
      const std::byte* record = records + m * Format::kRecordBytes;
      const Floats x_scale = BroadcastFloat(record + Format::kScale);
      Floats x_sum[kParts];
      if constexpr (kMinimum) {
        for (int p = 0; p < kParts; ++p) x_sum[p] = BroadcastFloat(record + Format::kSums + 4 * p);
      }
      for (int v = 0; v < kPanelVectors; ++v) {
        float* const to = totals + m * kPanelRows + v * kLanes;
        Floats scaled = Mul(ToFloats(sums[0][m][v]), scale[0][v]);
        if constexpr (kParts == 2) scaled = Fma(ToFloats(sums[1][m][v]), scale[kParts - 1][v], scaled);
        Floats sum = Fma(scaled, x_scale, kTotalsInRegisters ? total[m][v] : Load(to));
        if constexpr (kMinimum) {
          for (int p = 0; p < kParts; ++p) {
            // The K types subtract their minimum, the others add it.
            sum = kSuper ? NegFma(minimum[p][v], x_sum[p], sum) : Fma(minimum[p][v], x_sum[p], sum);
          }
        }
        if constexpr (kTotalsInRegisters) {
          total[m][v] = sum;
        } else {
          Store(to, sum);
        }
      }
    }
    records += kRows * Format::kRecordBytes;
  }
  if constexpr (kTotalsInRegisters) {
    for (int m = 0; m < kRows; ++m) {
      for (int v = 0; v < kPanelVectors; ++v) Store(totals + m * kPanelRows + v * kLanes, total[m][v]);
    }
  }
}

// Groups [begin, end) of a panel, for several tiles of rows.
template <PanelLayout kLayout>
struct UnpackGroups {
  using Format = GroupFormat<kLayout>;

  template <int kJ>
  TP_INLINE void Codes(const std::byte* codes, Ints table, std::byte* to) {
    if constexpr (kJ < 8) {
      for (int v = 0; v < kPanelVectors; ++v) {
        constexpr int kBytes = static_cast<int>(sizeof(Ints));
        const Ints u = ReadCodes<kLayout, kJ>(codes + v * kBytes, table);
        if constexpr (Format::kWide) {
          StoreInts(to + 2 * kJ * 64 + v * kBytes, EvenBytes(u));
          StoreInts(to + (2 * kJ + 1) * 64 + v * kBytes, OddBytes(u));
        } else {
          StoreInts(to + kJ * 64 + v * kBytes, u);
        }
      }
      Codes<kJ + 1>(codes, table, to);
    }
  }

  static void Run(const std::byte* panel, const std::byte* codes, int64_t begin, int64_t end, std::byte* to) {
    constexpr int kParts = Format::kParts;
    const Ints table = CodeTable<kLayout>();
    GroupScales<kLayout> scales = GroupScales<kLayout>::Begin(panel, begin);
    for (int64_t g = begin; g < end; ++g) {
      Codes<0>(codes, table, to);
      Floats scale[kParts][kPanelVectors], minimum[kParts][kPanelVectors];
      scales.Read(g, scale, minimum);
      auto* floats = reinterpret_cast<float*>(to + Format::kUnpackedScales);
      for (int p = 0; p < kParts; ++p) {
        for (int v = 0; v < kPanelVectors; ++v) {
          Store(floats + p * kPanelRows + v * kLanes, scale[p][v]);
          if constexpr (Format::kMinimum)
            Store(floats + (kParts + p) * kPanelRows + v * kLanes, minimum[p][v]);
        }
      }
      codes += CodeBytes(Format::kFormat.storage);
      to += Format::kUnpackedBytes;
    }
  }
};

// The records of `rows` rows from `row` on, groups [begin, end): [group][row].
template <PanelLayout kLayout>
static void MakeRecords(const LinearTask& task, int64_t row, int64_t rows, int64_t begin, int64_t end,
                        std::byte* to) {
  using Format = GroupFormat<kLayout>;
  constexpr int kParts = Format::kParts;
  const QuantisedRows& q = task.quantised;
  const int64_t groups = task.columns / kGroup;
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t first = (row + m) * groups;
    const int8_t* codes = q.codes + (row + m) * q.stride + begin * kGroup;
    std::byte* record = to + m * Format::kRecordBytes;
    for (int64_t g = begin; g < end; ++g, codes += kGroup, record += rows * Format::kRecordBytes) {
      __m128i half[2];
      for (int i = 0; i < 2; ++i) half[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * i));
      if constexpr (Format::kWide) {
        for (int i = 0; i < 2; ++i) {
          const __m256i wide =
              _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(_mm256_cvtepi8_epi16(half[i]), 0xd8), 0xd8);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(record + 32 * i), wide);
        }
      } else {
        for (int i = 0; i < 2; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(record + 16 * i), half[i]);
      }
      if constexpr (Format::kShortStart) {
        // -zero * x for the columns that meet in each int16 of a lane: bytes 0 and 1, and 2 and 3, of every
        // four.
        __m128i sums[2];
        for (int i = 0; i < 2; ++i) {
          sums[i] = _mm_maddubs_epi16(_mm_set1_epi8(static_cast<char>(Format::kFormat.zero)), half[i]);
        }
        if constexpr (kParts == 1) sums[0] = _mm_add_epi16(sums[0], sums[1]);
        for (int p = 0; p < kParts; ++p) {
          sums[p] = _mm_add_epi16(sums[p], _mm_shuffle_epi32(sums[p], 0x4e));
          sums[p] = _mm_add_epi16(sums[p], _mm_shuffle_epi32(sums[p], 0xb1));
          const int32_t start = _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), sums[p]));
          __builtin_memcpy(record + Format::kStart + 4 * p, &start, 4);
        }
      } else if constexpr (Format::kZero) {
        __builtin_memcpy(record + Format::kStart, q.offsets + (first + g) * kParts, 4 * kParts);
      }
      __builtin_memcpy(record + Format::kScale, q.scales + first + g, 4);
      if constexpr (Format::kMinimum) {
        __builtin_memcpy(record + Format::kSums, q.sums + (first + g) * kParts, 4 * kParts);
      }
    }
  }
}

// Fetches groups [begin, end) of a panel.
template <PanelLayout kLayout>
static void FetchGroups(const std::byte* panel, size_t codes_offset, int64_t begin, int64_t end) {
  constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  constexpr int64_t kUnit = IsSuper(kFormat.scales) ? kSuperGroups : 1;  // groups that share ScaleBytes
  constexpr auto kScaleBytes = static_cast<int64_t>(ScaleBytes(kFormat.scales));
  constexpr auto kCodeBytes = static_cast<int64_t>(CodeBytes(kFormat.storage));
  const auto fetch = [](const std::byte* from, const std::byte* to) {
    for (; from < to; from += 64) _mm_prefetch(reinterpret_cast<const char*>(from), _MM_HINT_T0);
  };
  fetch(panel + begin / kUnit * kScaleBytes, panel + (end + kUnit - 1) / kUnit * kScaleBytes);
  fetch(panel + codes_offset + begin * kCodeBytes, panel + codes_offset + end * kCodeBytes);
}

constexpr int64_t kRecordRows = 32;  // rows that share one unpacking of a panel, at most
constexpr int64_t kRecordsBytes =
    96 * 1024;  // of them, read from the second-level cache; part of the columns if wide
constexpr int64_t kUnpackedGroups = 8;  // 4 to 9 KiB, read from the first-level cache
constexpr int64_t kAheadBytes = 2048;   // how far the weights are fetched ahead where each is used once

template <PanelLayout kLayout, bool kUnpacked, int kRows = kLinearRows>
TP_INLINE void QuantisedTile(int64_t rows, const std::byte* panel, const std::byte* codes,
                             const std::byte* records, int64_t begin, int64_t end, const std::byte* ahead,
                             int64_t ahead_step, float* totals) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return QuantisedTile<kLayout, kUnpacked, kRows - 1>(rows, panel, codes, records, begin, end, ahead,
                                                          ahead_step, totals);
    }
  }
  QuantisedBlock<kLayout, kRows, kUnpacked>(panel, codes, records, begin, end, ahead, ahead_step, totals);
}

// At most kRecordRows rows and as many groups [begin, end) as their records fit, times the task's panels.
template <PanelLayout kLayout>
static void QuantisedPanels(const LinearTask& task, int64_t row, int64_t rows, int64_t begin, int64_t end,
                            std::byte* records) {
  using Format = GroupFormat<kLayout>;
  constexpr auto kCodeBytes = static_cast<int64_t>(CodeBytes(Format::kFormat.storage));
  // Tiles of kLinearRows rows or one less.
  const int64_t tiles = (rows + kLinearRows - 1) / kLinearRows;
  const auto tile_row = [&](int64_t tile) {
    const int64_t extra = rows % tiles;
    return tile * (rows / tiles) + (tile < extra ? tile : extra);
  };
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tile_row(tile);
    MakeRecords<kLayout>(task, row + first, tile_row(tile + 1) - first, begin, end,
                         records + first * (end - begin) * Format::kRecordBytes);
  }
  const int64_t groups = task.columns / kGroup;
  const auto ahead_step = static_cast<int64_t>(task.panel_bytes) / groups;
  alignas(64) std::byte unpacked[kUnpackedGroups * Format::kUnpackedBytes];
  alignas(64) float totals[kRecordRows * kPanelRows];
  for (int64_t p = task.panel_begin; p < task.panel_end; ++p) {
    const std::byte* panel = task.weight + static_cast<size_t>(p) * task.panel_bytes;
    const std::byte* codes = panel + task.codes_offset;
    const std::byte* ahead = panel + kAheadBytes;
    const int64_t output = p * kPanelRows;
    const int64_t outputs = task.outputs - output < kPanelRows ? task.outputs - output : kPanelRows;
    float* out = task.out + row * task.out_stride + output;
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t i = 0; i < kPanelRows; i += kLanes) {
        Store(totals + m * kPanelRows + i,
              begin == 0 ? Zero() : LoadFirst(out + m * task.out_stride + i, outputs - i));
      }
    }
    if (tiles == 1) {
      QuantisedTile<kLayout, false>(rows, panel, codes + begin * kCodeBytes, records, begin, end,
                                    ahead + begin * ahead_step, ahead_step, totals);
    } else {
      for (int64_t g = begin; g < end; g += kUnpackedGroups) {
        const int64_t until = g + kUnpackedGroups < end ? g + kUnpackedGroups : end;
        // The groups that are unpacked next.
        const int64_t next = until < end ? until : begin;
        const int64_t next_until = next + kUnpackedGroups < end ? next + kUnpackedGroups : end;
        FetchGroups<kLayout>(until < end ? panel : panel + task.panel_bytes, task.codes_offset, next,
                             next_until);
        UnpackGroups<kLayout>::Run(panel, codes + g * kCodeBytes, g, until, unpacked);
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t first = tile_row(tile), height = tile_row(tile + 1) - first;
          const std::byte* from =
              records + (first * (end - begin) + height * (g - begin)) * Format::kRecordBytes;
          QuantisedTile<kLayout, true>(height, panel, unpacked, from, g, until, nullptr, 0,
                                       totals + first * kPanelRows);
        }
      }
    }
    const bool bias = task.bias != nullptr && end == groups;
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t i = 0; i < outputs; i += kLanes) {
        Floats sum = Load(totals + m * kPanelRows + i);
        if (bias) sum = Add(sum, LoadFirst(task.bias + output + i, outputs - i));
        StoreFirst(out + m * task.out_stride + i, sum, outputs - i);
      }
    }
  }
}

template <PanelLayout kLayout>
static void LinearQuantised(const LinearTask& task) {
  constexpr int64_t kRecordBytes = GroupFormat<kLayout>::kRecordBytes;
  const int64_t groups = task.columns / kGroup;
  alignas(64) std::byte records[kRecordsBytes];
  for (int64_t row = task.row_begin; row < task.row_end; row += kRecordRows) {
    const int64_t rows = task.row_end - row < kRecordRows ? task.row_end - row : kRecordRows;
    const int64_t step = kRecordsBytes / (rows * kRecordBytes) / kUnpackedGroups * kUnpackedGroups;
    for (int64_t begin = 0; begin < groups; begin += step) {
      QuantisedPanels<kLayout>(task, row, rows, begin, begin + step < groups ? begin + step : groups,
                               records);
    }
  }
}

// Rounds rows to int8: scale = largest / 127 over 32 columns, code = nearest(x / scale).
static void QuantiseRows(const QuantiseTask& task) {
  constexpr int kVectors = kGroup / kLanes;
  const int64_t groups = task.columns / kGroup;
  int64_t tile = 0, tile_row = 0;  // of `row`: its tile and the tile's first row
  if constexpr (kTiles) {
    tile = task.row_begin * task.tiles.count / task.tiles.rows;
    while (TileFirstRow(task.tiles, tile) > task.row_begin) --tile;
  }
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const float* x = task.x + row * task.x_stride + task.group_begin * kGroup;
    int8_t* codes = task.codes + row * task.stride + task.group_begin * kGroup;
    int64_t place = row * groups + task.group_begin, step = 1;  // of the group's scale and sums
    if constexpr (kTiles) {
      while (TileFirstRow(task.tiles, tile + 1) <= row) ++tile;
      tile_row = TileFirstRow(task.tiles, tile);
      step = TileFirstRow(task.tiles, tile + 1) - tile_row;
      place = tile_row * groups + task.group_begin * step + row - tile_row;
      codes = task.codes + place * kGroup;
    }
    for (int64_t g = task.group_begin; g < task.group_end; ++g, x += kGroup, place += step, codes += step * kGroup) {
      Floats v[kVectors];
      Floats largest = Zero();
      bool nan = false;
      for (int i = 0; i < kVectors; ++i) {
        v[i] = Load(x + i * kLanes);
        largest = Max(Abs(v[i]), largest);  // a NaN is not taken
        nan |= Any(IsNan(v[i]));
      }
      const float peak = MaxLanes(largest);
      // Below 1e-35 the quotient could overflow; rounding to zero is exact to 1e-35.
      const float inverse = peak < 1e-35f ? 0.0f : 127.0f / peak;
      task.scales[place] = nan ? __builtin_nanf("") : peak * (1.0f / 127.0f);
      int32_t* sums = task.sums16 + place * 2;
      sums[0] = sums[1] = 0;
      for (int i = 0; i < kVectors; ++i) {
        sums[i * 2 / kVectors] += StoreInt8Sum(codes + i * kLanes, ToInts(Mul(v[i], Set1(inverse))));
      }
    }
  }
}

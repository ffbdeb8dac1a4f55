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

// Integer dot products of columns 4 kFirst .. 4 (kFirst + kCount) of a group with kRows rows.
template <PanelLayout kLayout, int kRows, int kFirst, int kCount>
struct GroupDot {
  static constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  // Pairs of products are summed in int16: at most kChain of them fit (2 * 127 * code each).
  static constexpr int kFitting = 32767 / (2 * 127 * kFormat.largest_code);
  static constexpr bool kWide = !TP_HAS_DOT && kFitting < 1;
  static constexpr int kChain = kFitting >= 8 ? 8 : kFitting >= 4 ? 4 : kFitting >= 2 ? 2 : 1;

  template <int kJ>
  TP_INLINE void Step(const std::byte* codes, Ints table, const int8_t* const* x, const int16_t* const* pairs,
                      Ints* sums, Ints* short_sums) {
    if constexpr (kJ < kFirst + kCount) {
      Ints u = UnpackCodes<kFormat.storage, kJ>(codes);
      if constexpr (kFormat.codebook) u = Lookup(table, u);
      if constexpr (TP_HAS_DOT) {
        for (int m = 0; m < kRows; ++m) sums[m] = DotBytes(sums[m], u, BroadcastInt(x[m] + kJ * 4));
      } else if constexpr (kWide) {
        const Ints even = AndInts(u, Set16(0xff)), odd = ShiftRight16<8>(u);
        for (int m = 0; m < kRows; ++m) {
          sums[m] = AddInt32(sums[m], MulAdd16(even, BroadcastInt(pairs[m] + kJ * 4)));
          sums[m] = AddInt32(sums[m], MulAdd16(odd, BroadcastInt(pairs[m] + kJ * 4 + 2)));
          KeepInRegister(sums[m]);
        }
      } else {
        constexpr int kInChain = (kJ - kFirst) % kChain;
        constexpr bool kLast = kInChain == kChain - 1 || kJ == kFirst + kCount - 1;
        const Ints ones = Set16(1);
        for (int m = 0; m < kRows; ++m) {
          const Ints product = MulAddBytes(u, BroadcastInt(x[m] + kJ * 4));
          short_sums[m] = kInChain == 0 ? product : AddInt16(short_sums[m], product);
          KeepInRegister(short_sums[m]);
          if constexpr (kLast) sums[m] = AddInt32(sums[m], MulAdd16(short_sums[m], ones));
        }
      }
      Step<kJ + 1>(codes, table, x, pairs, sums, short_sums);
    }
  }
};

template <PanelLayout kLayout, int kRows>
static void QuantisedBlock(const LinearTask& task, const std::byte* panel, int64_t first_output,
                           int64_t row) {
  constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  constexpr ScaleKind kScales = kFormat.scales;
  constexpr bool kMinimum = HasMinimum(kScales), kBy16 = ScalesBy16(kScales), kSuper = IsSuper(kScales);
  constexpr int kParts = kBy16 ? 2 : 1;
  constexpr bool kWide = GroupDot<kLayout, kRows, 0, 8>::kWide;
  const QuantisedRows& q = task.quantised;
  const int64_t groups = task.columns / kGroup;
  Ints table = ZeroInts();
  if constexpr (kFormat.codebook) table = BroadcastTable(kLayout == kPanelMXFP4 ? kMxfp4Codes : kIq4Codes);

  for (int half = 0; half < kPanelRows / kLanes; ++half) {
    const int64_t output = first_output + half * kLanes;
    if (output >= task.outputs) break;
    const std::byte* codes = panel + task.codes_offset + half * kLanes * 4;
    const std::byte* scales = panel;
    const int8_t* x[kRows];
    const int16_t* pairs[kRows];
    const float* x_scales[kRows];
    const float* x_sums[kRows];
    const int32_t* x_offsets[kRows];
    Floats total[kRows];
    for (int m = 0; m < kRows; ++m) {
      x[m] = q.codes + (row + m) * q.stride;
      pairs[m] = kWide ? q.pairs + (row + m) * q.stride : nullptr;
      x_scales[m] = q.scales + (row + m) * groups;
      x_sums[m] = kMinimum ? q.sums + (row + m) * groups * kParts : nullptr;
      x_offsets[m] = kFormat.zero != 0 ? q.offsets + (row + m) * groups * kParts : nullptr;
      total[m] = Zero();
    }
    Floats factor = Zero(), minimum_factor = Zero();
    const std::byte* group_scales = scales;
    for (int64_t g = 0; g < groups; ++g) {
      Floats scale[kParts], minimum[kParts];
      if constexpr (kSuper) {
        if (g % kSuperGroups == 0) {
          const std::byte* block = scales + g / kSuperGroups * static_cast<int64_t>(ScaleBytes(kScales));
          factor = LoadHalf(block + half * kLanes * 2);
          if constexpr (kMinimum) minimum_factor = LoadHalf(block + kPanelRows * 2 + half * kLanes * 2);
          group_scales = block + kPanelRows * (kMinimum ? 4 : 2) + half * kLanes;
        }
        for (int p = 0; p < kParts; ++p) {
          scale[p] = Mul(factor, LoadInt8(group_scales));
          group_scales += kPanelRows;
          if constexpr (kMinimum) {
            minimum[p] = Mul(minimum_factor, LoadInt8(group_scales));
            group_scales += kPanelRows;
          }
        }
      } else {
        const std::byte* block = scales + g * static_cast<int64_t>(ScaleBytes(kScales)) + half * kLanes * 2;
        scale[0] = kScales == kBfloatScale ? LoadBfloat(block) : LoadHalf(block);
        if constexpr (kMinimum) minimum[0] = LoadHalf(block + kPanelRows * 2);
      }

      Ints sums[kParts][kRows], short_sums[kRows];
      for (int p = 0; p < kParts; ++p) {
        for (int m = 0; m < kRows; ++m) {
          sums[p][m] = kFormat.zero != 0 ? BroadcastInt(x_offsets[m] + g * kParts + p) : ZeroInts();
        }
      }
      if constexpr (kBy16) {
        GroupDot<kLayout, kRows, 0, 4>::template Step<0>(codes, table, x, pairs, sums[0], short_sums);
        GroupDot<kLayout, kRows, 4, 4>::template Step<4>(codes, table, x, pairs, sums[kParts - 1],
                                                         short_sums);
      } else {
        GroupDot<kLayout, kRows, 0, 8>::template Step<0>(codes, table, x, pairs, sums[0], short_sums);
      }
      for (int m = 0; m < kRows; ++m) {
        Floats scaled = Mul(ToFloats(sums[0][m]), scale[0]);
        if constexpr (kBy16) scaled = Fma(ToFloats(sums[kParts - 1][m]), scale[kParts - 1], scaled);
        total[m] = Fma(scaled, Set1(x_scales[m][g]), total[m]);
        if constexpr (kMinimum) {
          for (int p = 0; p < kParts; ++p) {
            const Floats x_sum = Set1(x_sums[m][g * kParts + p]);
            // The K types subtract their minimum, the others add it.
            total[m] = kSuper ? NegFma(minimum[p], x_sum, total[m]) : Fma(minimum[p], x_sum, total[m]);
          }
        }
        x[m] += kGroup;
        if constexpr (kWide) pairs[m] += kGroup;
      }
      codes += CodeBytes(kFormat.storage);
    }
    const int64_t left = task.outputs - output;
    for (int m = 0; m < kRows; ++m) {
      if (task.bias != nullptr) total[m] = Add(total[m], LoadFirst(task.bias + output, left));
      StoreFirst(task.out + (row + m) * task.out_stride + output, total[m], left);
    }
  }
}

template <PanelLayout kLayout>
static void LinearQuantised(const LinearTask& task) {
  for (int64_t p = task.panel_begin; p < task.panel_end; ++p) {
    const std::byte* panel = task.weight + static_cast<size_t>(p) * task.panel_bytes;
    const int64_t output = p * kPanelRows;
    int64_t row = task.row_begin;
    for (; row + kLinearRows <= task.row_end; row += kLinearRows) {
      QuantisedBlock<kLayout, kLinearRows>(task, panel, output, row);
    }
    if constexpr (kLinearRows > 4) {
      if (row + 4 <= task.row_end) QuantisedBlock<kLayout, 4>(task, panel, output, row), row += 4;
    }
    if (row + 2 <= task.row_end) QuantisedBlock<kLayout, 2>(task, panel, output, row), row += 2;
    if (row < task.row_end) QuantisedBlock<kLayout, 1>(task, panel, output, row);
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
      Ints c[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        c[i] = ToInts(Mul(v[i], Set1(inverse)));
        StoreInt8(codes + i * kLanes, c[i]);
      }
      int32_t* sums = task.sums16 + place * 2;
      if constexpr (kVectors == 2) {
        sums[0] = SumInts(c[0]);
        sums[1] = SumInts(c[1]);
      } else {
        sums[0] = SumInts(AddInt32(c[0], c[1]));
        sums[1] = SumInts(AddInt32(c[kVectors - 2], c[kVectors - 1]));
      }
      if (task.pairs != nullptr) {
        int16_t* pairs = task.pairs + row * task.stride + g * kGroup;
        for (int i = 0; i < kGroup; i += 16) {
          __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
          wide = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(wide, 0xd8), 0xd8);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + i), wide);
        }
      }
    }
  }
}

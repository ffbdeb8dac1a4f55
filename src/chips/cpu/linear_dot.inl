// y = x W^T for quantised panels on processors with 512-bit dot products of bytes (VNNI).
//
// What bounds it: such a processor does two dot instructions a cycle, on the pipes that also multiply floats. A group
// of 32 columns costs, for each vector of 16 outputs and each row, 8 dot instructions and 2 float ones (times the
// weight's scale; times the row's, added), 3 with a minimum: 8 / 10 or 8 / 11 of the integer peak at best. Everything
// else has to hide behind these, so
//   - rows come in tiles of up to kDotTileRows and are kept as [group][row][32]: one pointer walks them all;
//   - kPanels panels share each broadcast of 4 codes of a row, kDotTileRows rows share each unpacked weight vector:
//     with 2 x 6 there are 12 integer and 12 float sums, and 70 loads to 120 dot and float instructions.
// An output's additions are the same whatever the tile: groups in order, integer sums exact within a group.

constexpr int kDotTileRows = 6;
constexpr int64_t kAheadPasses = 4;
// From so many lines a group on, several passes fetch into the second level too (`fetch_level`): with 8 and 16 rows of Q8_0,
// 9 and 6 lines, the first level could not wait for all of them; with 16 rows of Q4_0, 3 lines, it can, and is nearer.
constexpr int64_t kFarLines = 6;
// So many tiles pay for unpacking panels of a K type once, into a part of the second-level cache: with 512 rows 3 to 5 %
// of prefill (Zen 5), 5 to 10 % of Q6_K's Linear (Zen 4). What has one scale a group is read as fast from its nibbles; Q4_K
// gains 1 % from some 100 rows on and loses 5 % at 32.
constexpr int64_t UnpackTiles(PanelFormat format) { return format.storage == kNibble && !format.codebook ? 16 : 6; }
constexpr int64_t kUnpackedPanelBytes = 192 * 1024;

template <PanelLayout kLayout, bool kUnpacked, int kPanels, int kRows, int kFirst, int kCount>
struct DotColumns {
  static constexpr CodeStorage kStorage = kUnpacked ? kByte : kPanelFormats[kLayout].storage;
  template <int kJ>
  TP_INLINE void Step(const std::byte* const* codes, Ints table, const int8_t* x, Ints (*sums)[kRows]) {
    if constexpr (kJ < kFirst + kCount) {
      Ints u[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        u[p] = UnpackCodes<kStorage, kJ>(codes[p]);
        if constexpr (!kUnpacked && kPanelFormats[kLayout].codebook) u[p] = Lookup(table, u[p]);
      }
      for (int m = 0; m < kRows; ++m) {
        const Ints four = BroadcastInt(x + m * kGroup + kJ * 4);
        for (int p = 0; p < kPanels; ++p) sums[p][m] = DotBytes(sums[p][m], u[p], four);
      }
      Step<kJ + 1>(codes, table, x, sums);
    }
  }
};

// The bytes that the next panels will be read from, fetched while these are computed with: panels are too short for the
// processor to notice a stream in time, and with few rows a panel is left after one or two passes.
struct Ahead {
  const std::byte* next;
  const std::byte* end;
  int64_t lines;  // to fetch for each group of columns
  bool far;       // into the second level
};

// Groups [begin, end) of kPanels panels; `unpacked`: as UnpackGroups writes them, or nullptr.
struct DotGroups {
  int64_t begin, end;
  const std::byte* unpacked;
};

// One tile of rows times kPanels panels. Groups from the middle add to what is in the output.
template <PanelLayout kLayout, bool kUnpacked, int kPanels, int kRows>
static void DotTile(const LinearTask& task, int64_t first_panel, int64_t first_row, const DotGroups& range, Ahead& ahead) {
  using Format = GroupFormat<kLayout>;
  constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  constexpr ScaleKind kScales = kFormat.scales;
  constexpr bool kMinimum = HasMinimum(kScales), kBy16 = ScalesBy16(kScales), kSuper = IsSuper(kScales);
  constexpr int kParts = kBy16 ? 2 : 1;
  const QuantisedRows& q = task.quantised;
  const int64_t groups = task.columns / kGroup;
  Ints table = ZeroInts();
  if constexpr (kFormat.codebook) table = BroadcastTable(kLayout == kPanelMXFP4 ? kMxfp4Codes : kIq4Codes);

  const std::byte* codes[kPanels];
  const std::byte* scales[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    scales[p] = task.weight + static_cast<size_t>(first_panel + p) * task.panel_bytes;
    codes[p] = kUnpacked ? range.unpacked + p * (range.end - range.begin) * Format::kUnpackedBytes : scales[p] + task.codes_offset;
  }
  const int64_t skipped = first_row * groups + range.begin * kRows;
  const int8_t* x = q.codes + skipped * kGroup;
  const float* x_scales = q.scales + skipped;
  const float* x_sums = kMinimum ? q.sums + skipped * kParts : nullptr;
  const int32_t* x_offsets = kFormat.zero != 0 ? q.offsets + skipped * kParts : nullptr;

  Floats total[kPanels][kRows];
  for (int p = 0; p < kPanels; ++p) {
    const int64_t output = (first_panel + p) * kPanelRows;
    for (int m = 0; m < kRows; ++m) {
      float* const out = task.out + (first_row + m) * task.out_stride + output;
      __builtin_prefetch(out, 1);  // many rows of outputs leave the second-level cache: stores would wait for them
      total[p][m] = range.begin == 0 ? Zero() : LoadFirst(out, task.outputs - output);
    }
  }
  Floats factor[kPanels], minimum_factor[kPanels];
  const std::byte* group_scales[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    factor[p] = minimum_factor[p] = Zero();
    group_scales[p] = scales[p];
  }
  for (int64_t g = range.begin; g < range.end; ++g) {
    if (ahead.next < ahead.end) {
      const auto* const lines = reinterpret_cast<const char*>(ahead.next);
      if (ahead.far) {
        for (int64_t i = 0; i < ahead.lines; ++i) _mm_prefetch(lines + 64 * i, _MM_HINT_T1);
      } else {
        for (int64_t i = 0; i < ahead.lines; ++i) _mm_prefetch(lines + 64 * i, _MM_HINT_T0);
      }
      ahead.next += 64 * ahead.lines;
    }
    Ints sums[kParts][kPanels][kRows];
    for (int part = 0; part < kParts; ++part) {
      for (int m = 0; m < kRows; ++m) {
        const Ints start = kFormat.zero != 0 ? BroadcastInt(x_offsets + m * kParts + part) : ZeroInts();
        for (int p = 0; p < kPanels; ++p) sums[part][p][m] = start;
      }
    }
    if constexpr (kBy16) {
      DotColumns<kLayout, kUnpacked, kPanels, kRows, 0, 4>::template Step<0>(codes, table, x, sums[0]);
      DotColumns<kLayout, kUnpacked, kPanels, kRows, 4, 4>::template Step<4>(codes, table, x, sums[kParts - 1]);
    } else {
      DotColumns<kLayout, kUnpacked, kPanels, kRows, 0, 8>::template Step<0>(codes, table, x, sums[0]);
    }
    Floats scale[kParts][kPanels], minimum[kParts][kPanels];
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kUnpacked) {
        const auto* floats = reinterpret_cast<const float*>(codes[p] + Format::kUnpackedScales);
        for (int part = 0; part < kParts; ++part) {
          scale[part][p] = Load(floats + part * kPanelRows);
          if constexpr (kMinimum) minimum[part][p] = Load(floats + (kParts + part) * kPanelRows);
        }
      } else if constexpr (kSuper) {
        if (g % kSuperGroups == 0) {
          const std::byte* block = scales[p] + g / kSuperGroups * static_cast<int64_t>(ScaleBytes(kScales));
          factor[p] = LoadHalf(block);
          if constexpr (kMinimum) minimum_factor[p] = LoadHalf(block + kPanelRows * 2);
          group_scales[p] = block + kPanelRows * (kMinimum ? 4 : 2);
        }
        for (int part = 0; part < kParts; ++part) {
          scale[part][p] = Mul(factor[p], LoadInt8(group_scales[p]));
          group_scales[p] += kPanelRows;
          if constexpr (kMinimum) {
            minimum[part][p] = Mul(minimum_factor[p], LoadInt8(group_scales[p]));
            group_scales[p] += kPanelRows;
          }
        }
      } else {
        const std::byte* block = scales[p] + g * static_cast<int64_t>(ScaleBytes(kScales));
        scale[0][p] = kScales == kBfloatScale ? LoadBfloat(block) : LoadHalf(block);
        if constexpr (kMinimum) minimum[0][p] = LoadHalf(block + kPanelRows * 2);
      }
    }
    for (int m = 0; m < kRows; ++m) {
      const Floats x_scale = Set1(x_scales[m]);
      for (int p = 0; p < kPanels; ++p) {
        Floats scaled = Mul(ToFloats(sums[0][p][m]), scale[0][p]);
        if constexpr (kBy16) scaled = Fma(ToFloats(sums[kParts - 1][p][m]), scale[kParts - 1][p], scaled);
        total[p][m] = Fma(scaled, x_scale, total[p][m]);
      }
      if constexpr (kMinimum) {
        for (int part = 0; part < kParts; ++part) {
          const Floats x_sum = Set1(x_sums[m * kParts + part]);
          for (int p = 0; p < kPanels; ++p) {
            // The K types subtract their minimum, the others add it.
            total[p][m] = kSuper ? NegFma(minimum[part][p], x_sum, total[p][m])
                                 : Fma(minimum[part][p], x_sum, total[p][m]);
          }
        }
      }
    }
    x += kGroup * kRows;
    x_scales += kRows;
    if constexpr (kMinimum) x_sums += kRows * kParts;
    if constexpr (kFormat.zero != 0) x_offsets += kRows * kParts;
    for (int p = 0; p < kPanels; ++p) codes[p] += kUnpacked ? Format::kUnpackedBytes : static_cast<int64_t>(CodeBytes(kFormat.storage));
  }
  for (int p = 0; p < kPanels; ++p) {
    const int64_t output = (first_panel + p) * kPanelRows;
    const int64_t left = task.outputs - output;
    for (int m = 0; m < kRows; ++m) {
      Floats y = total[p][m];
      if (task.bias != nullptr && range.end == groups) y = Add(y, LoadFirst(task.bias + output, left));
      StoreFirst(task.out + (first_row + m) * task.out_stride + output, y, left);
    }
  }
}

template <PanelLayout kLayout, bool kUnpacked, int kPanels>
static void EachTile(const LinearTask& task, int64_t panel, const DotGroups& part, Ahead& ahead) {
  for (int64_t tile = task.tile_begin; tile < task.tile_end; ++tile) {
    const int64_t row = TileFirstRow(task.quantised.tiles, tile);
    switch (TileFirstRow(task.quantised.tiles, tile + 1) - row) {
      case 6: DotTile<kLayout, kUnpacked, kPanels, 6>(task, panel, row, part, ahead); break;
      case 5: DotTile<kLayout, kUnpacked, kPanels, 5>(task, panel, row, part, ahead); break;
      case 4: DotTile<kLayout, kUnpacked, kPanels, 4>(task, panel, row, part, ahead); break;
      case 3: DotTile<kLayout, kUnpacked, kPanels, 3>(task, panel, row, part, ahead); break;
      case 2: DotTile<kLayout, kUnpacked, kPanels, 2>(task, panel, row, part, ahead); break;
      default: DotTile<kLayout, kUnpacked, kPanels, 1>(task, panel, row, part, ahead); break;
    }
  }
}

// All tiles of the task times kPanels panels.
template <PanelLayout kLayout, int kPanels>
static void DotTiles(const LinearTask& task, int64_t panel) {
  Ahead ahead = {};
  const int64_t next = panel + kPanels;
  if (next < task.panel_end || task.after != nullptr) {
    const bool more = next < task.panel_end;
    ahead.next = more ? task.weight + static_cast<size_t>(next) * task.panel_bytes : task.after;
    ahead.end = ahead.next + (more && next + kPanels > task.panel_end ? 1 : kPanels) * task.panel_bytes;
    int64_t passes = task.tile_end - task.tile_begin;
    if (passes > kAheadPasses) passes = kAheadPasses;
    const int64_t spread = task.columns / kGroup * passes * 64;
    ahead.lines = (ahead.end - ahead.next + spread - 1) / spread;
    ahead.far = task.fetch_level > 2 || (task.fetch_level == 2 && (passes == 1 || ahead.lines >= kFarLines));
  }
  using Format = GroupFormat<kLayout>;
  constexpr bool kPays = IsSuper(kPanelFormats[kLayout].scales);
  const int64_t groups = task.columns / kGroup;
  if (kPays && task.tile_end - task.tile_begin >= UnpackTiles(kPanelFormats[kLayout])) {
    alignas(64) std::byte unpacked[kUnpackedPanelBytes];
    constexpr int64_t kStep = kUnpackedPanelBytes / (kPanels * Format::kUnpackedBytes) / kSuperGroups * kSuperGroups;
    for (int64_t begin = 0; begin < groups; begin += kStep) {
      const DotGroups part = {begin, begin + kStep < groups ? begin + kStep : groups, unpacked};
      for (int p = 0; p < kPanels; ++p) {
        const std::byte* const from = task.weight + static_cast<size_t>(panel + p) * task.panel_bytes;
        UnpackGroups<kLayout>::Run(from, from + task.codes_offset + begin * static_cast<int64_t>(CodeBytes(Format::kFormat.storage)),
                                   begin, part.end, unpacked + p * (part.end - begin) * Format::kUnpackedBytes);
      }
      EachTile<kLayout, kPays, kPanels>(task, panel, part, ahead);
    }
    return;
  }
  EachTile<kLayout, false, kPanels>(task, panel, {0, groups, nullptr}, ahead);
}

template <PanelLayout kLayout>
static void LinearDot(const LinearTask& task) {
  int64_t panel = task.panel_begin;
  for (; panel + 2 <= task.panel_end; panel += 2) DotTiles<kLayout, 2>(task, panel);
  if (panel < task.panel_end) DotTiles<kLayout, 1>(task, panel);
}

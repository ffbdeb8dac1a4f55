// y = x W^T for many rows over tile registers, after simd_avx512.inl and the tiles (amx_tiles.inl or
// amx_tiles_model.inl). Include once, inside an anonymous namespace.
//
// Weights are decoded to bf16 into a scratch of one thread, 512 columns of two panels at a time, and
// multiplied with all rows of the task: sums are float32 and stay in tile registers over those columns, so
// nothing is scaled on the way. Why bf16, when int8 tiles multiply twice as fast:
//   - Weights have a scale for 32 (or 16) columns, x one for 32. An int8 tile product is 64 columns deep; cut
//     to 32, it takes the same time and does half the work, which is the speed of bf16, and then its 256
//     int32 sums must go through memory (16 stores, 16 loads) to be converted and scaled (3 instructions for
//     each 16 sums): 48 vector instructions, 24 cycles on two ports, for each 16 cycles of tile arithmetic.
//   - At full depth, both sides would need common scales over 64 columns and more. To be faster than bf16 the
//     scaling must be rarer still, and the error grows: relative to the size of the result, for weights of
//     Q4_0, K = 1024 (normal x / x of Student's t, 4 degrees / 8 channels 30 times as large as the others):
//       int8, a scale for 32 columns     0.54 % / 0.76 % / 1.2 %   (the kernels for few rows)
//       int8, common scales for 64       0.82 % / 1.1 %  / 1.8 %
//       int8, common scales for 256      0.96 % / 1.5 %  / 3.1 %
//       bf16 weights, bf16 x             0.24 % / 0.24 % / 0.23 %
// So bf16 is the most exact of them at the speed of the best int8 that is not worse than today's.
//
// The time of a task, a thread, 512 weights (32 columns of a panel), measured at 3.8 GHz: decoding 22 ns, 160
// vector operations; each 16 rows 4.2 ns of products (16 cycles) and 1.7 for sums that rest, 6.2 and more when
// real numbers have lowered the clock. With 256 rows decoding is a sixth of it (README.md has the machine).
//
// Order of additions: a tile product adds its 32 columns to the sum, tiles follow in the order of columns.
// Where a sum rests in scratch between two decodings, it rests as float32. So a row's result does not depend
// on its company; but it is not what the kernels for few rows give, which round x to int8.

// Tile registers: 4 sums, 2 of x, 2 of weights. Four products take four loads.
constexpr int kTilesSum = 0, kTilesX = 4, kTilesWeight = 6;

TP_INLINE TileConfig FullTiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.rows[i] = kTileRows;
    config.row_bytes[i] = 64;
  }
  return config;
}

// Words 0 .. 15 and 16 .. 31 of v alternating: a row of a weight tile from two columns of 16 outputs.
TP_INLINE Ints Interleave(Ints v) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(LoadInts(kOrder), v);
}

// The floats of 16 bf16 in one half of v.
TP_INLINE Floats FirstBfloats(Ints v) {
  return BitsToFloats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(v)), 16));
}
TP_INLINE Floats SecondBfloats(Ints v) {
  return BitsToFloats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1)), 16));
}
// What bf16 left of v: v - high, exact. Nothing where high is infinite or NaN (v itself says so then).
TP_INLINE Floats Remainder(Floats v, Floats high) {
  return _mm512_maskz_sub_ps(Less(Abs(high), Set1(__builtin_inff())), v, high);
}

// ---- x ----------------------------------------------------------------------------------------------

static void ConvertToTiles(const TileConvertTask& task) {
  for (int64_t tile = task.tile_begin; tile < task.tile_end; ++tile) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      const int64_t row = tile * kTileRows + r;
      const float* x = task.x + row * task.x_stride;
      int64_t at = tile * task.tile_step + r * kTileColumns;
      for (int64_t k = 0; k < task.columns; k += kTileColumns, at += kTileElements) {
        Floats first = Zero(), second = Zero();
        if (row < task.rows) {
          first = LoadFirst(x + k, task.columns - k);
          second = LoadFirst(x + k + kLanes, task.columns - k - kLanes);
        }
        const Ints high = ToBfloat(first, second);
        StoreInts(task.high + at, high);
        if (task.low != nullptr) {
          StoreInts(task.low + at,
                    ToBfloat(Remainder(first, FirstBfloats(high)), Remainder(second, SecondBfloats(high))));
        }
      }
    }
  }
}

// ---- weights ----------------------------------------------------------------------------------------

// Code vector j of a group of a panel, 64 bytes: lane r holds row r's columns 4 j .. 4 j + 3
// (panel_layout.h).
template <CodeStorage kStorage, int kJ>
TP_INLINE Ints TileCodes(const std::byte* codes) {
  if constexpr (kStorage == kByte) return LoadInts(codes + kJ * 64);
  constexpr bool kTwo = kStorage == kTwoBits || kStorage == kTwoBitsPlusBit;
  constexpr int kLowBits = kTwo ? 2 : 4, kPlanes = kTwo ? 2 : 4;
  const Ints low = AndInts(ShiftRight16<kLowBits*(kJ / kPlanes)>(LoadInts(codes + kJ % kPlanes * 64)),
                           SetByte((1 << kLowBits) - 1));
  if constexpr (kStorage == kNibble || kStorage == kTwoBits) return low;
  // Bits from a further plane: `kUp` places up, or down.
  constexpr bool kOne = kStorage != kNibblePlusTwoBits;
  constexpr int kUp = kOne ? kLowBits - kJ : 4 - 2 * (kJ / 2);
  const Ints plane = LoadInts(codes + kPlanes * 64 + (kOne ? 0 : kJ % 2 * 64));
  const Ints moved =
      kUp >= 0 ? ShiftLeft16<(kUp >= 0 ? kUp : 0)>(plane) : ShiftRight16<(kUp < 0 ? -kUp : 0)>(plane);
  return OrInts(low, AndInts(moved, SetByte((kOne ? 1 : 3) << kLowBits)));
}

// Scales of one part (32 columns, or 16) of a group, for the 16 rows of the panel.
struct PartScales {
  Floats scale, minimum;
};

template <ScaleKind kScales>
TP_INLINE void GroupScales(const std::byte* panel, int64_t group, PartScales* parts) {
  constexpr bool kMinimum = HasMinimum(kScales);
  if constexpr (!IsSuper(kScales)) {
    const std::byte* p = panel + group * static_cast<int64_t>(ScaleBytes(kScales));
    parts[0].scale = kScales == kBfloatScale ? LoadBfloat(p) : LoadHalf(p);
    parts[0].minimum = kMinimum ? LoadHalf(p + 2 * kPanelRows) : Zero();
  } else {
    const std::byte* p = panel + group / kSuperGroups * static_cast<int64_t>(ScaleBytes(kScales));
    const Floats factor = LoadHalf(p);
    const Floats minimum_factor = kMinimum ? LoadHalf(p + 2 * kPanelRows) : Zero();
    p += kPanelRows * (kMinimum ? 4 : 2) +
         group % kSuperGroups * static_cast<int64_t>(SuperGroupBytes(kScales));
    for (int part = 0; part < (ScalesBy16(kScales) ? 2 : 1); ++part) {
      parts[part].scale = Mul(factor, LoadInt8(p));
      p += kPanelRows;
      if constexpr (kMinimum) {  // the K types subtract their minimum, the others add it
        parts[part].minimum = Sub(Zero(), Mul(minimum_factor, LoadInt8(p)));
        p += kPanelRows;
      }
    }
  }
}

// Byte kB of each lane, with its sign or without, as a float.
template <bool kSigned, int kB>
TP_INLINE Floats ByteToFloats(Ints v) {
  if constexpr (kSigned) {
    return ToFloats(_mm512_srai_epi32(kB == 3 ? v : _mm512_slli_epi32(v, 24 - 8 * kB), 24));
  } else {
    return ToFloats(kB == 3 ? _mm512_srli_epi32(v, 24)
                            : AndInts(kB == 0 ? v : _mm512_srli_epi32(v, 8 * kB), SetInt(0xff)));
  }
}

// One group of a panel to one tile: row i holds columns 2 i and 2 i + 1 of the 16 outputs. The same floats as
// DecodePanelRow, but for the last bit where a minimum is added, then rounded to bf16.
template <PanelLayout kLayout, int kJ>
TP_INLINE void DecodeCodes(const std::byte* codes, Ints table, const PartScales* parts, std::byte* tile) {
  if constexpr (kJ < 8) {
    constexpr PanelFormat kFormat = kPanelFormats[kLayout];
    constexpr bool kMinimum = HasMinimum(kFormat.scales), kSigned = kFormat.zero != 0;
    Ints v = TileCodes<kFormat.storage, kJ>(codes);
    if constexpr (kFormat.codebook) {
      v = Lookup(table, v);
    } else if constexpr (kSigned) {
      v = _mm512_sub_epi8(v, SetByte(kFormat.zero));
    }
    const PartScales& part = parts[ScalesBy16(kFormat.scales) ? kJ / 4 : 0];
    const auto weight = [&](Floats code) __attribute__((always_inline)) {
      return kMinimum ? Fma(code, part.scale, part.minimum) : Mul(code, part.scale);
    };
    const Floats w0 = weight(ByteToFloats<kSigned, 0>(v)), w1 = weight(ByteToFloats<kSigned, 1>(v));
    const Floats w2 = weight(ByteToFloats<kSigned, 2>(v)), w3 = weight(ByteToFloats<kSigned, 3>(v));
    StoreInts(tile + 2 * kJ * 64, Interleave(ToBfloat(w0, w1)));
    StoreInts(tile + (2 * kJ + 1) * 64, Interleave(ToBfloat(w2, w3)));
    DecodeCodes<kLayout, kJ + 1>(codes, table, parts, tile);
  }
}

// The same for finite scales that do not overflow, in two thirds of the time: a code u of e bits as the float 2^e + u is its bits
// put behind an exponent, so that w = scale (2^e + u) - scale (2^e + zero), or + minimum - scale 2^e, is one operation (exact
// products; the second term has 22 bits at most but for the K types, which lose 2^-24 of it). Rounded to the nearest bf16, away
// from zero at ties, which is an addition to the bits.
constexpr int CodeBits(PanelFormat format) {
  if (format.codebook) return 8;
  switch (format.storage) {
    case kNibble: return 4;
    case kNibblePlusBit: return 5;
    case kNibblePlusTwoBits: return 6;
    case kTwoBits: return 2;
    case kTwoBitsPlusBit: return 3;
    case kByte: break;
  }
  return 8;
}

struct PartFactors {
  Floats scale, offset;
};

// False: slower, please.
template <PanelLayout kLayout>
TP_INLINE bool FactorsOf(const PartScales* parts, PartFactors* factors) {
  constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  constexpr float kTop = static_cast<float>(1 << CodeBits(kFormat));
  const auto large = [](Floats v) __attribute__((always_inline)) {  // or no number
    return _mm512_cmp_ps_mask(_mm512_abs_ps(v), Set1(1e30f), _CMP_NLT_UQ);
  };
  __mmask16 odd = 0;
  for (int part = 0; part < (ScalesBy16(kFormat.scales) ? 2 : 1); ++part) {
    const Floats scale = parts[part].scale;
    odd |= large(scale);
    factors[part].scale = scale;
    if constexpr (HasMinimum(kFormat.scales)) {
      odd |= large(parts[part].minimum);
      factors[part].offset = Fma(scale, Set1(-kTop), parts[part].minimum);
    } else {
      factors[part].offset = Mul(scale, Set1(-kTop - static_cast<float>(kFormat.zero)));
    }
  }
  return odd == 0;
}

// Bits [kAt, kAt + kBits) of each lane as the float 2^kBits + u.
template <int kBits, int kAt>
TP_INLINE Floats CodeToFloat(Ints v) {
  constexpr int kUp = 23 - kBits - kAt;
  if constexpr (kUp > 0) v = _mm512_slli_epi32(v, kUp > 0 ? kUp : 0);
  if constexpr (kUp < 0) v = _mm512_srli_epi32(v, kUp < 0 ? -kUp : 0);
  constexpr int kMask = ((1 << kBits) - 1) << (23 - kBits), kExponent = (127 + kBits) << 23;
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(v, SetInt(kMask), SetInt(kExponent), 0xea));  // (v & mask) | exponent
}

TP_INLINE Ints RoundedPair(Floats first, Floats second) {
  const Ints half = SetInt(0x8000);
  return _mm512_mask_mov_epi16(_mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(first), half), 16), 0xaaaaaaaa,
                               _mm512_add_epi32(_mm512_castps_si512(second), half));
}

template <PanelLayout kLayout, int kJ>
TP_INLINE void DecodeFinite(const std::byte* codes, Ints table, const PartFactors* parts, std::byte* tile) {
  if constexpr (kJ < 8) {
    constexpr PanelFormat kFormat = kPanelFormats[kLayout];
    // Codes without further planes are taken from where they are.
    constexpr bool kInPlace = !kFormat.codebook && (kFormat.storage == kNibble || kFormat.storage == kTwoBits);
    constexpr int kBits = CodeBits(kFormat), kPlanes = kBits == 4 ? 4 : 2;
    constexpr int kAt = kInPlace ? kBits * (kJ / kPlanes) : 0;
    Ints v;
    if constexpr (kInPlace) {
      v = LoadInts(codes + kJ % kPlanes * 64);
    } else {
      v = TileCodes<kFormat.storage, kJ>(codes);
      if constexpr (kFormat.codebook) v = Lookup(table, v);
    }
    const PartFactors& part = parts[ScalesBy16(kFormat.scales) ? kJ / 4 : 0];
    const Floats w0 = Fma(part.scale, CodeToFloat<kBits, kAt>(v), part.offset);
    const Floats w1 = Fma(part.scale, CodeToFloat<kBits, kAt + 8>(v), part.offset);
    const Floats w2 = Fma(part.scale, CodeToFloat<kBits, kAt + 16>(v), part.offset);
    const Floats w3 = Fma(part.scale, CodeToFloat<kBits, kAt + 24>(v), part.offset);
    StoreInts(tile + 2 * kJ * 64, RoundedPair(w0, w1));
    StoreInts(tile + (2 * kJ + 1) * 64, RoundedPair(w2, w3));
    DecodeFinite<kLayout, kJ + 1>(codes, table, parts, tile);
  }
}

// Columns [begin, end) of a panel to tiles; `begin` is a multiple of 32.
template <PanelLayout kLayout>
static void DecodePanel(const TileLinearTask& task, int64_t panel, int64_t begin, int64_t end,
                        std::byte* high, [[maybe_unused]] std::byte* low) {
  constexpr PanelFormat kFormat = kPanelFormats[kLayout];
  const std::byte* from = task.weight + static_cast<size_t>(panel) * task.panel_bytes;
  if constexpr (IsQuantised(kLayout)) {
    Ints unsigned_table = ZeroInts(), table = ZeroInts();
    if constexpr (kFormat.codebook) {
      unsigned_table = BroadcastTable(kLayout == kPanelMXFP4 ? kMxfp4Codes : kIq4Codes);
      table = _mm512_sub_epi8(unsigned_table, SetByte(kFormat.zero));
    }
    const std::byte* codes =
        from + task.codes_offset + begin / kGroup * static_cast<int64_t>(CodeBytes(kFormat.storage));
    for (int64_t group = begin / kGroup; group < end / kGroup; ++group, high += kTileBytes) {
      // The panel that is decoded after this one and its neighbour, into the second level, since few rows are done before memory
      // answers.
      for (size_t line = 0; line < CodeBytes(kFormat.storage); line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(codes + 2 * task.panel_bytes + line), _MM_HINT_T1);
      }
      PartScales parts[2];
      PartFactors factors[2];
      GroupScales<kFormat.scales>(from, group, parts);
      if (FactorsOf<kLayout>(parts, factors)) [[likely]] {
        DecodeFinite<kLayout, 0>(codes, unsigned_table, factors, high);
      } else {
        DecodeCodes<kLayout, 0>(codes, table, parts, high);
      }
      codes += CodeBytes(kFormat.storage);
    }
  } else {
    // Two columns are 64 bytes. The last tile of an odd width ends in zeros.
    from += begin * kPanelRows * 2;
    const int64_t padded = TilesOf(end) * kTileColumns;
    for (int64_t k = begin; k < padded; k += 2, from += 64, high += 64, low += 64) {
      const auto present = static_cast<__mmask32>(k + 1 < end ? 0xffffffffu : k < end ? 0xffffu : 0u);
      const Ints pair = _mm512_maskz_loadu_epi16(present, from);
      if constexpr (kLayout == kPanelBF16) {
        StoreInts(high, Interleave(pair));
      } else {
        const Floats first = _mm512_cvtph_ps(_mm512_castsi512_si256(pair));
        const Floats second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(pair, 1));
        const Ints rounded = ToBfloat(first, second);
        StoreInts(high, Interleave(rounded));
        StoreInts(low, Interleave(ToBfloat(Remainder(first, FirstBfloats(rounded)),
                                           Remainder(second, SecondBfloats(rounded)))));
      }
    }
  }
}

// ---- products ---------------------------------------------------------------------------------------

// How weights and x of a layout are multiplied: x times W in bf16; both planes of x times W; or the three
// products of two planes each that count (low times low is below 2^-16 of the product).
enum TilePlanes { kOnePlane, kTwoPlanesOfX, kTwoPlanesOfBoth };
constexpr TilePlanes PlanesOf(PanelLayout layout) {
  return layout == kPanelF16 ? kTwoPlanesOfBoth : layout == kPanelBF16 ? kTwoPlanesOfX : kOnePlane;
}

// Columns [tile_begin, tile_end) of 32, kRows x 16 rows times kPanels x 16 outputs.
struct TileBlock {
  const uint16_t* high[2];  // x: first tile of each 16 rows
  const uint16_t* low[2];
  const std::byte* weight[2];  // of each panel
  const std::byte* weight_low[2];
  int64_t tiles;
};

template <int kRows>
TP_INLINE void LoadX(const uint16_t* const* x, int64_t tile) {
  StreamTile<kTilesX>(x[0] + tile * kTileElements, 64);
  if constexpr (kRows > 1) StreamTile<kTilesX + 1>(x[1] + tile * kTileElements, 64);
}
template <int kPanels>
TP_INLINE void LoadWeights(const std::byte* const* weight, int64_t tile) {
  LoadTile<kTilesWeight>(weight[0] + tile * kTileBytes, 64);
  if constexpr (kPanels > 1) LoadTile<kTilesWeight + 1>(weight[1] + tile * kTileBytes, 64);
}
template <int kRows, int kPanels>
TP_INLINE void Multiply() {
  DotTilesBfloat<kTilesSum, kTilesX, kTilesWeight>();
  if constexpr (kPanels > 1) DotTilesBfloat<kTilesSum + 1, kTilesX, kTilesWeight + 1>();
  if constexpr (kRows > 1) DotTilesBfloat<kTilesSum + 2, kTilesX + 1, kTilesWeight>();
  if constexpr (kRows > 1 && kPanels > 1) DotTilesBfloat<kTilesSum + 3, kTilesX + 1, kTilesWeight + 1>();
}

template <TilePlanes kPlanes, int kRows, int kPanels>
TP_INLINE void MultiplyBlock(const TileBlock& block) {
  for (int64_t tile = 0; tile < block.tiles; ++tile) {
    // Small products first; each tile is loaded once for all products that follow each other with it.
    if constexpr (kPlanes != kOnePlane) {
      LoadX<kRows>(block.low, tile);
      LoadWeights<kPanels>(block.weight, tile);
      Multiply<kRows, kPanels>();
      LoadX<kRows>(block.high, tile);
      Multiply<kRows, kPanels>();
      if constexpr (kPlanes == kTwoPlanesOfBoth) {
        LoadWeights<kPanels>(block.weight_low, tile);
        Multiply<kRows, kPanels>();
      }
    } else {
      LoadX<kRows>(block.high, tile);
      LoadWeights<kPanels>(block.weight, tile);
      Multiply<kRows, kPanels>();
    }
  }
}

// A tile of sums: 16 rows of x, 16 outputs.
struct SumPlace {
  float* out;  // its place in the output
  int64_t stride;
  int64_t rows, outputs;  // that exist, 1 .. 16
  float* rest;            // its place between two parts of the width
};

// One part of the width.
struct TilePart {
  int64_t begin, end;  // columns
  bool first, last;
  std::byte* weight[2];  // of two panels, decoded
  std::byte* weight_low[2];
  const float* bias;  // of two panels, or nullptr
  float* edge;        // 16 x 16
  float* rest;        // [2 panels][tiles of 16 rows][16][16]
};

template <int kTile>
TP_INLINE void BeginSum(const TilePart& part, const SumPlace& place, int p) {
  if (!part.first) {
    StreamTile<kTile>(place.rest, 64);
  } else if (part.bias != nullptr) {
    LoadTile<kTile>(part.bias + p * kPanelRows, 0);
  } else {
    ZeroTile<kTile>();
  }
}

template <int kTile>
TP_INLINE void EndSum(const TilePart& part, const SumPlace& place) {
  if (!part.last) {
    StoreTile<kTile>(place.rest, 64);
  } else if (place.rows == kTileRows && place.outputs == kPanelRows) {
    StoreTile<kTile>(place.out, place.stride * 4);
  } else {
    StoreTile<kTile>(part.edge, 64);
    for (int64_t r = 0; r < place.rows; ++r) {
      StoreFirst(place.out + r * place.stride, Load(part.edge + r * kPanelRows), place.outputs);
    }
  }
}

// Sums of 16 rows of the task and the panel that is number p of two.
TP_INLINE SumPlace PlaceOf(const TileLinearTask& task, const TilePart& part, int64_t row_tiles, int64_t row_tile, int64_t panel, int p) {
  const int64_t row = task.row_begin + row_tile * kTileRows, output = (panel + p) * kPanelRows;
  const int64_t rows = task.row_end - row, outputs = task.outputs - output;
  return {task.out + row * task.out_stride + output, task.out_stride, rows < kTileRows ? rows : kTileRows,
          outputs < kPanelRows ? outputs : kPanelRows, part.rest + (p * row_tiles + row_tile) * kTileRows * kPanelRows};
}

// x of kRows times 16 rows of the task, from a column of the block on.
template <TilePlanes kPlanes, int kRows>
TP_INLINE void TakeX(const TileLinearTask& task, int64_t row_tile, int64_t column, TileBlock& block) {
  for (int i = 0; i < kRows; ++i) {
    const int64_t tile = task.row_begin / kTileRows + row_tile + i;
    const int64_t at = (tile * TilesOf(task.columns) + column / kTileColumns) * kTileElements;
    block.high[i] = task.high + at;
    if constexpr (kPlanes != kOnePlane) block.low[i] = task.low + at;
  }
}

template <int kRows, int kPanels>
TP_INLINE void BeginSums(const TileLinearTask& task, const TilePart& part, int64_t row_tiles, int64_t row_tile, int64_t panel) {
  const auto place = [&](int r, int p) __attribute__((always_inline)) { return PlaceOf(task, part, row_tiles, row_tile + r, panel, p); };
  BeginSum<kTilesSum>(part, place(0, 0), 0);
  if constexpr (kPanels > 1) BeginSum<kTilesSum + 1>(part, place(0, 1), 1);
  if constexpr (kRows > 1) BeginSum<kTilesSum + 2>(part, place(1, 0), 0);
  if constexpr (kRows > 1 && kPanels > 1) BeginSum<kTilesSum + 3>(part, place(1, 1), 1);
}
template <int kRows, int kPanels>
TP_INLINE void EndSums(const TileLinearTask& task, const TilePart& part, int64_t row_tiles, int64_t row_tile, int64_t panel) {
  const auto place = [&](int r, int p) __attribute__((always_inline)) { return PlaceOf(task, part, row_tiles, row_tile + r, panel, p); };
  EndSum<kTilesSum>(part, place(0, 0));
  if constexpr (kPanels > 1) EndSum<kTilesSum + 1>(part, place(0, 1));
  if constexpr (kRows > 1) EndSum<kTilesSum + 2>(part, place(1, 0));
  if constexpr (kRows > 1 && kPanels > 1) EndSum<kTilesSum + 3>(part, place(1, 1));
}

template <int kPanels>
TP_INLINE TileBlock BlockOf(const TilePart& part) {
  TileBlock block{};
  block.tiles = TilesOf(part.end) - part.begin / kTileColumns;
  for (int p = 0; p < kPanels; ++p) {
    block.weight[p] = part.weight[p];
    block.weight_low[p] = part.weight_low[p];
  }
  return block;
}

// All rows of the task times one or two panels, a part of the width.
template <TilePlanes kPlanes, int kPanels>
static void MultiplyPanels(const TileLinearTask& task, int64_t panel, const TilePart& part) {
  const int64_t row_tiles = (task.row_end - task.row_begin + kTileRows - 1) / kTileRows;
  TileBlock block = BlockOf<kPanels>(part);
  int64_t tile = 0;
  for (; tile + 1 < row_tiles; tile += 2) {
    TakeX<kPlanes, 2>(task, tile, part.begin, block);
    BeginSums<2, kPanels>(task, part, row_tiles, tile, panel);
    MultiplyBlock<kPlanes, 2, kPanels>(block);
    EndSums<2, kPanels>(task, part, row_tiles, tile, panel);
  }
  if (tile < row_tiles) {
    TakeX<kPlanes, 1>(task, tile, part.begin, block);
    BeginSums<1, kPanels>(task, part, row_tiles, tile, panel);
    MultiplyBlock<kPlanes, 1, kPanels>(block);
    EndSums<1, kPanels>(task, part, row_tiles, tile, panel);
  }
}

// At most 32 rows: sums stay in their tiles from the first part of the width to the last.
template <TilePlanes kPlanes, int kRows, int kPanels>
TP_INLINE void MultiplyRows(const TileLinearTask& task, int64_t panel, const TilePart& part, TileBlock& block) {
  TakeX<kPlanes, kRows>(task, 0, part.begin, block);
  if (part.first) BeginSums<kRows, kPanels>(task, part, kRows, 0, panel);
  MultiplyBlock<kPlanes, kRows, kPanels>(block);
  if (part.last) EndSums<kRows, kPanels>(task, part, kRows, 0, panel);
}
template <TilePlanes kPlanes, int kPanels>
static void MultiplyFewRows(const TileLinearTask& task, int64_t panel, const TilePart& part, int64_t row_tiles) {
  TileBlock block = BlockOf<kPanels>(part);
  if (row_tiles == 2) return MultiplyRows<kPlanes, 2, kPanels>(task, panel, part, block);
  MultiplyRows<kPlanes, 1, kPanels>(task, panel, part, block);
}

// Columns of parts of at most `most` tiles, as many in each but the last.
TP_INLINE int64_t EvenPart(int64_t columns, int64_t most) {
  const int64_t tiles = TilesOf(columns), parts = (tiles + most - 1) / most;
  return (tiles + parts - 1) / parts * kTileColumns;
}

template <PanelLayout kLayout>
static void LinearTiles(const TileLinearTask& task) {
  constexpr TilePlanes kPlanes = PlanesOf(kLayout);
  static_assert(TakesLowPlane(kLayout) == (kPlanes != kOnePlane));
  // Weights of a part, 32 KiB, stay in the first-level cache from decoding on until the last rows, while x, as much for 32 rows,
  // comes from the second level and does not stay. Few rows are done before memory has answered, and take smaller steps.
  constexpr int kPlanesOfX = kPlanes == kOnePlane ? 1 : 2, kPlanesOfW = kPlanes == kTwoPlanesOfBoth ? 2 : 1;
  constexpr int64_t kPartTiles = 64 / (2 * kPlanesOfX + 2 * kPlanesOfW);
  static_assert(2 * kPlanesOfW * kPartTiles <= kTileWeights);
  const int64_t row_tiles = (task.row_end - task.row_begin + kTileRows - 1) / kTileRows;
  auto* const edge = reinterpret_cast<float*>(task.scratch + kTileWeights * kTileBytes);
  float* const biases = edge + kTileRows * kPanelRows;
  float* const rest = biases + 2 * kPanelRows;
  TilePart part{};
  part.bias = task.bias == nullptr ? nullptr : biases;
  part.edge = edge;
  for (int p = 0; p < 2; ++p) {
    part.weight[p] = task.scratch + p * kPlanesOfW * kPartTiles * kTileBytes;
    part.weight_low[p] = part.weight[p] + (kPlanesOfW - 1) * kPartTiles * kTileBytes;
  }
  const bool few = row_tiles <= 2;
  const int64_t chunk = few ? task.columns : EvenPart(task.columns, kTileChunkColumns / kTileColumns);
  const TileConfig config = FullTiles();
  ConfigureTiles(config);
  // So many columns of x that all rows of the task keep them in the second-level cache while the panels pass by.
  for (int64_t begin = 0; begin < task.columns; begin += chunk) {
    const int64_t end = begin + chunk < task.columns ? begin + chunk : task.columns;
    const int64_t columns = EvenPart(end - begin, few ? kPartTiles / 2 : kPartTiles);
    for (int64_t panel = task.panel_begin; panel < task.panel_end; panel += 2) {
      const int count = panel + 1 < task.panel_end ? 2 : 1;
      for (int p = 0; begin == 0 && task.bias != nullptr && p < count; ++p) {
        const int64_t output = (panel + p) * kPanelRows;
        Store(biases + p * kPanelRows, LoadFirst(task.bias + output, task.outputs - output));
      }
      // Sums of panels that are met again rest apart; otherwise one place for two panels stays in the cache.
      const bool whole = begin == 0 && end == task.columns;
      part.rest = rest + (whole ? 0 : (panel - task.panel_begin) * row_tiles * kTileRows * kPanelRows);
      for (part.begin = begin; part.begin < end; part.begin = part.end) {
        part.end = part.begin + columns < end ? part.begin + columns : end;
        part.first = part.begin == 0;
        part.last = part.end == task.columns;
        for (int p = 0; p < count; ++p) DecodePanel<kLayout>(task, panel + p, part.begin, part.end, part.weight[p], part.weight_low[p]);
        if (few) {
          count == 2 ? MultiplyFewRows<kPlanes, 2>(task, panel, part, row_tiles) : MultiplyFewRows<kPlanes, 1>(task, panel, part, row_tiles);
        } else {
          count == 2 ? MultiplyPanels<kPlanes, 2>(task, panel, part) : MultiplyPanels<kPlanes, 1>(task, panel, part);
        }
      }
    }
  }
  ReleaseTiles();
}

// Six chains of products: the latency (52 cycles) of one hides behind the others (16 cycles each).
constexpr int kTileProbeChains = 6;
static int32_t ProbeTilesInt8(int64_t rounds) {
  const TileConfig config = FullTiles();
  ConfigureTiles(config);
  alignas(64) int32_t sums[kTileRows * kTileRows];
  const auto ones = SetByte(1);
  for (int r = 0; r < kTileRows; ++r) StoreInts(sums + r * kTileRows, ones);
  LoadTile<6>(sums, 64);
  LoadTile<7>(sums, 64);
  ZeroTile<0>(), ZeroTile<1>(), ZeroTile<2>(), ZeroTile<3>(), ZeroTile<4>(), ZeroTile<5>();
  for (int64_t round = 0; round < rounds; ++round) {
    DotTilesBytes<0, 6, 7, true, true>(), DotTilesBytes<1, 6, 7, true, true>(), DotTilesBytes<2, 6, 7, true, true>();
    DotTilesBytes<3, 6, 7, true, true>(), DotTilesBytes<4, 6, 7, true, true>(), DotTilesBytes<5, 6, 7, true, true>();
  }
  StoreTile<5>(sums, 64);
  ReleaseTiles();
  return sums[0];
}

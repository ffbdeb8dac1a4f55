// Attention over KV of kI16 on tiles of bytes: FixedPath (attention_fixed.inl) with its products of 16-bit integers made
// exactly, of their bytes. With a = 256 a_h + a_l, a_h signed and a_l not,
//   a b = 2^16 a_h b_h + 2^8 (a_h b_l + a_l b_h) + a_l b_l,
// three sums of products of bytes, each 64 deep in an instruction. They wrap around in int32 where what they add up to does
// not: by FixedPath's bounds that is below 2^31, so the bits of the whole are right, and with it every bit of the result.
//
// The time of 16 rows times 16 keys of 128 dimensions: 8 products of 16 cycles, where vectors take 512 (1024 instructions,
// two a cycle); then 3 x 16 rows of sums go through the first-level cache.

constexpr int kTilesLeft = 4, kTilesRight = 6;  // each: high bytes, low bytes; 0 .. 2: sums
constexpr int kPlanes = 2;                      // high, low
constexpr int64_t kSumInts = int64_t{kTileSums} * kTileRows * 16;  // of a tile of numbers

// The high and the low bytes of pairs of int16 (first: two pairs earlier), fours of them in a lane.
TP_INLINE void SplitFours(Ints first, Ints second, std::byte* high, std::byte* low) {
  // Of each lane: low bytes of both numbers, then high bytes.
  alignas(16) static constexpr uint8_t kApart[16] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
  const Ints order = BroadcastTable(kApart);
  const Ints a = _mm512_shuffle_epi8(first, order), b = _mm512_shuffle_epi8(second, order);
  StoreInts(low, _mm512_mask_mov_epi16(a, 0xaaaaaaaa, _mm512_slli_epi32(b, 16)));
  StoreInts(high, _mm512_mask_mov_epi16(b, 0x55555555, _mm512_srli_epi32(a, 16)));
}

// A row of a left tile: the bytes of 64 numbers of int16.
TP_INLINE void SplitRow(Ints first, Ints second, std::byte* high, std::byte* low) {
  const auto store = [](std::byte* to, Ints a, Ints b) __attribute__((always_inline)) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(a));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), _mm512_cvtepi16_epi8(b));
  };
  store(high, ShiftRight16<8>(first), ShiftRight16<8>(second));
  store(low, first, second);
}

// The sums of `depth` products, of the tiles of both sides [depth][kPlanes] at their strides, to `sums`.
TP_INLINE void MultiplyBytes(const std::byte* left, int64_t left_stride, const std::byte* right, int64_t right_stride, int64_t depth,
                             int32_t* sums) {
  ZeroTile<0>(), ZeroTile<1>(), ZeroTile<2>();
  for (int64_t at = 0; at < depth; ++at, left += left_stride, right += right_stride) {
    LoadTile<kTilesLeft>(left, kTileDepth);
    LoadTile<kTilesRight>(right, 64);
    LoadTile<kTilesRight + 1>(right + kTileBytes, 64);
    LoadTile<kTilesLeft + 1>(left + kTileBytes, kTileDepth);
    DotTilesBytes<0, kTilesLeft, kTilesRight, true, true>();
    DotTilesBytes<1, kTilesLeft, kTilesRight + 1, true, false>();
    DotTilesBytes<2, kTilesLeft + 1, kTilesRight + 1, false, false>();
    DotTilesBytes<1, kTilesLeft + 1, kTilesRight, false, true>();
  }
  StoreTile<0>(sums, 64);
  StoreTile<1>(sums + kSumInts / kTileSums, 64);
  StoreTile<2>(sums + kSumInts / kTileSums * 2, 64);
}

// Row m of what MultiplyBytes stored.
TP_INLINE Ints SumOf(const int32_t* sums, int m) {
  const auto part = [&](int i) __attribute__((always_inline)) { return LoadInts(sums + i * (kSumInts / kTileSums) + m * 16); };
  const Ints middle = AddInt32(_mm512_slli_epi32(part(0), 8), part(1));
  return AddInt32(_mm512_slli_epi32(middle, 8), part(2));
}

class TilePath : public FixedPath<kKvI16> {
  using Vectors = FixedPath<kKvI16>;

 public:
  static constexpr int kMostRows = kTileRows;

  // `tiles`: what TileAttentionFloats has beyond AttentionScratchFloats.
  TilePath(const AttentionTask& task, float* scratch, std::byte* tiles) : Vectors(task, scratch) {
    depth_ = (task.key_dim + kTileDepth - 1) / kTileDepth;
    value_vectors_ = (task.value_dim + kLanes - 1) / kLanes;
    const int64_t row_tiles = (task.row_end - task.row_begin) / kTileRows;  // whole ones
    const auto take = [&](int64_t count) {
      std::byte* const taken = tiles;
      tiles += count * kTileBytes;
      return taken;
    };
    query_tiles_ = take(row_tiles * depth_ * kPlanes);
    key_tiles_ = take(kSplitVectors * depth_ * kPlanes);
    value_tiles_ = take(kAttentionSplit / kTileDepth * value_vectors_ * kPlanes);
    weight_tiles_ = take(kAttentionSplit / kTileDepth * kPlanes);
    sums_ = reinterpret_cast<int32_t*>(take(0));
    for (int64_t tile = 0; tile < row_tiles; ++tile) SplitQueries(tile);
  }

  void Begin(int64_t split) {
    Vectors::Begin(split);
    const Range span = SpanOf(split);
    for (int64_t t = span.begin / kBlockTokens * kBlockTokens; t < span.end; t += kBlockTokens) {
      const std::byte* const block = BlockOf(split, t);
      const std::byte* const next = t + kBlockTokens < span.end ? BlockOf(split, t + kBlockTokens) : block;
      SplitKeys(t / kBlockTokens, block + task_.key_offset, next + task_.key_offset);
      SplitValues(t / kBlockTokens, block + task_.value_offset, next + task_.value_offset);
    }
  }

  template <int kRows>
  void Rows(int64_t row, int64_t split, RowSum* sums, float* values) {
    if constexpr (kRows < kTileRows) {
      Vectors::template Rows<kRows>(row, split, sums, values);
    } else if (odd_keys_ || odd_queries_ || odd_values_) {  // what has no scale
      Vectors::template Rows<12>(row, split, sums, values);
      Vectors::template Rows<4>(row + 12, split, sums + 12, values + 12 * task_.value_dim);
    } else {
      RowTile(row, split, sums, values);
    }
  }

 private:
  void SplitQueries(int64_t tile) {
    for (int64_t m = 0; m < kTileRows; ++m) {
      const int16_t* const codes = queries_ + (tile * kTileRows + m) * query_stride_;
      std::byte* to = query_tiles_ + tile * depth_ * kPlanes * kTileBytes + m * kTileDepth;
      for (int64_t d = 0; d < task_.key_dim; d += kTileDepth, to += kPlanes * kTileBytes) {
        const auto half = [&](int64_t at) {
          const int64_t left = query_stride_ - at;
          return left >= 32 ? LoadInts(codes + at) : _mm512_maskz_loadu_epi16(left > 0 ? (__mmask32{1} << left) - 1 : 0, codes + at);
        };
        SplitRow(half(d), half(d + 32), to, to + kTileBytes);
      }
    }
  }

  // Tiles of a block: [kTileDepth dimensions][kPlanes][fours of dimensions][16 tokens]. What is beyond the dimensions stays as it
  // is, and is multiplied by zeros.
  void SplitKeys(int64_t block, const std::byte* codes, const std::byte* next) {
    std::byte* const to = key_tiles_ + block * depth_ * kPlanes * kTileBytes;
    for (int64_t pair = 0; pair < pairs_; pair += 2, codes += 128, next += 128) {
      PrefetchLines(next, next + 128);
      std::byte* const place = to + pair / 32 * kPlanes * kTileBytes + pair % 32 / 2 * 64;
      SplitFours(LoadInts(codes), pair + 1 < pairs_ ? LoadInts(codes + 64) : ZeroInts(), place, place + kTileBytes);
    }
  }

  // [kTileDepth tokens][16 dimensions][kPlanes][fours of tokens][16 dimensions].
  void SplitValues(int64_t block, const std::byte* codes, const std::byte* next) {
    const int64_t row = int64_t{task_.value_dim} * 4;
    for (int64_t four = 0; four < kBlockTokens / 4; ++four, codes += 2 * row, next += 2 * row) {
      PrefetchLines(next, next + 2 * row);
      std::byte* to = value_tiles_ + block / 4 * value_vectors_ * kPlanes * kTileBytes + (block % 4 * 4 + four) * 64;
      for (int64_t v = 0; v < value_vectors_; ++v, to += kPlanes * kTileBytes) {
        SplitFours(LoadInts(codes + v * 64), LoadInts(codes + row + v * 64), to, to + kTileBytes);
      }
    }
  }

  void RowTile(int64_t row, int64_t split, RowSum* sums, float* values) {
    Range ranges[kTileRows], span;
    if (!RangesOf<kTileRows>(task_, row, split, ranges, span)) {
      for (int m = 0; m < kTileRows; ++m) sums[m] = kNothing;
      return;
    }
    const int64_t r = row - task_.row_begin;
    const int first = static_cast<int>(span.begin / kLanes), last = static_cast<int>((span.end + kLanes - 1) / kLanes);
    const int64_t tile_stride = kPlanes * kTileBytes;
    const std::byte* const queries = query_tiles_ + r / kTileRows * depth_ * tile_stride;
    InTurns(first, last, [&](int64_t v, int32_t* to) __attribute__((always_inline)) {
      MultiplyBytes(queries, tile_stride, key_tiles_ + v * depth_ * tile_stride, tile_stride, depth_, to);
    }, [&](int64_t v, const int32_t* from) __attribute__((always_inline)) {
      const Floats key_scale = Load(key_scales_ + v * kLanes);
      for (int m = 0; m < kTileRows; ++m) {
        Store(scores_ + m * kAttentionSplit + v * kLanes, Mul(Mul(ToFloats(SumOf(from, m)), key_scale), Set1(query_scales_[r + m])));
      }
    });
    Floats inverse[kTileRows];
    constexpr bool kInFloat[kTileRows] = {};
    RoundWeights<kTileRows>(scores_, weights_, value_scales_, ranges, kInFloat, first, last, sums, inverse);
    const int64_t begin = first / 4, end = (last + 3) / 4;  // of kTileDepth tokens
    SplitWeights(first, last, begin, end);
    const int64_t value_stride = value_vectors_ * tile_stride;
    InTurns(0, value_vectors_, [&](int64_t v, int32_t* to) __attribute__((always_inline)) {
      MultiplyBytes(weight_tiles_ + begin * tile_stride, tile_stride, value_tiles_ + begin * value_stride + v * tile_stride, value_stride,
                    end - begin, to);
    }, [&](int64_t v, const int32_t* from) __attribute__((always_inline)) {
      const int64_t d = v * kLanes;
      for (int m = 0; m < kTileRows; ++m) {
        StoreFirst(values + m * task_.value_dim + d, Mul(ToFloats(SumOf(from, m)), inverse[m]), task_.value_dim - d);
      }
    });
  }

  // multiply(i, sums) and use(i, sums) for all i in [first, last); the products of one are under way while the sums of the one before
  // are used.
  template <typename Multiply, typename Use>
  __attribute__((always_inline)) inline void InTurns(int64_t first, int64_t last, Multiply&& multiply, Use&& use) {
    int32_t* now = sums_;
    int32_t* before = sums_ + kSumInts;
    multiply(first, before);
    for (int64_t i = first + 1; i < last; ++i) {
      multiply(i, now);
      use(i - 1, before);
      int32_t* const other = before;
      before = now;
      now = other;
    }
    use(last - 1, before);
  }

  // Zeros before and behind what the rows see.
  void SplitWeights(int first, int last, int64_t begin, int64_t end) {
    for (int m = 0; m < kTileRows; ++m) {
      int16_t* const weights = weights_ + m * kAttentionSplit;
      for (int64_t v = begin * 4; v < first; ++v) StoreInt16(weights + v * kLanes, ZeroInts());
      for (int64_t v = last; v < end * 4; ++v) StoreInt16(weights + v * kLanes, ZeroInts());
      std::byte* to = weight_tiles_ + begin * kPlanes * kTileBytes + m * kTileDepth;
      for (int64_t t = begin * kTileDepth; t < end * kTileDepth; t += kTileDepth, to += kPlanes * kTileBytes) {
        SplitRow(LoadInts(weights + t), LoadInts(weights + t + 32), to, to + kTileBytes);
      }
    }
  }

  int64_t depth_, value_vectors_;  // tiles of a key; vectors of a value
  std::byte* query_tiles_;       // [16 rows][depth][kPlanes] tiles
  std::byte* key_tiles_;         // SplitKeys
  std::byte* value_tiles_;      // SplitValues
  std::byte* weight_tiles_;      // [kTileDepth tokens][kPlanes] tiles
  int32_t* sums_;                // [2][kSumInts]: InTurns
};

static void AttendOnTiles(const AttentionTask& task) {
  const auto address = reinterpret_cast<uintptr_t>(task.scratch);
  float* const scratch = task.scratch + (64 - address % 64) % 64 / sizeof(float);
  const int64_t rows = task.row_end - task.row_begin;
  float* const total = scratch + kAttentionBlockRows * AttentionPadded(task.value_dim);
  float* const rest = total + rows * AttentionPadded(task.value_dim);
  float* const tiles = scratch + AttentionScratchFloats(rows, task.key_dim, task.value_dim) - AttentionPadded(1);
  const TileConfig config = FullTiles();
  ConfigureTiles(config);
  TilePath path(task, rest, reinterpret_cast<std::byte*>(tiles));
  AttendBy(task, path, scratch, total);
  ReleaseTiles();
}

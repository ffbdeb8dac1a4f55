// Attention of one token a sequence over KV of kI16, all heads of a block together: a block's keys of a layer lie side by
// side, its values after them, and are read in that order, which memory gives faster than 4 KB of each block in turn. The
// additions are FixedPath's: scores and weighted values are exact integers, whatever the order.

constexpr int kDecodeVectors = 8;  // of value dimensions, summed together

template <int kRows>
class DecodePath {
  static_assert(kRows <= kDecodeGroup);
  static constexpr int kBlockVectors = kBlockTokens / kLanes;

 public:
  DecodePath(const DecodeTask& task, float* scratch) : task_(task), head_(task.head) {
    const int64_t rows = task.heads * kRows;
    const auto take = [&](int64_t floats) {
      float* const taken = scratch;
      scratch += floats;
      return taken;
    };
    query_stride_ = AttentionPadded(head_.key_dim);
    value_stride_ = AttentionPadded(head_.value_dim);
    value_scales_ = take(kAttentionSplit);
    query_scales_ = take(AttentionPadded(rows));
    queries_ = reinterpret_cast<int16_t*>(take(rows * query_stride_ / 2));
    scores_ = take(rows * kAttentionSplit);
    weights_ = reinterpret_cast<int16_t*>(take(rows * kAttentionSplit / 2));
    values_ = take(rows * value_stride_);
    totals_ = take(rows * value_stride_);
    one_ = take(kRows * (2 + head_.value_dim));
    rest_ = take(0);
    for (int64_t r = 0; r < rows; ++r) {
      const float* const query = head_.query + r * head_.key_dim;
      query_scales_[r] = RoundRow(query, head_.key_dim, head_.scale, queries_ + r * query_stride_);
      odd_queries_ |= query_scales_[r] != query_scales_[r];
    }
  }

  void Run() {
    const int64_t rows = task_.heads * kRows;
    RowSum sums[kDecodeRows], totals[kDecodeRows];
    for (int64_t r = 0; r < rows; ++r) totals[r] = kNothing;
    for (int64_t split = head_.split_begin; split < head_.split_end; ++split) {
      const Range range = RangeInSplit(head_, 0, split);
      Split(split, range, sums);
      for (int64_t r = 0; r < rows; ++r) {
        float* const values = values_ + r * value_stride_;
        if (head_.partial == nullptr) {
          MergeSplit(totals[r], totals_ + r * value_stride_, sums[r], values, head_.value_dim);
          continue;
        }
        const int64_t row = (split - head_.split_begin) * kRows + r % kRows;
        float* const to = head_.partial + r / kRows * task_.partial_step + row * (2 + head_.value_dim);
        to[0] = sums[r].maximum;
        to[1] = sums[r].sum;
        if (sums[r].maximum == -__builtin_inff()) continue;
        __builtin_memcpy(to + 2, values, static_cast<size_t>(head_.value_dim) * sizeof(float));
      }
    }
    if (head_.partial != nullptr) return;
    for (int64_t r = 0; r < rows; ++r) {
      StoreOutput(head_.out + r * head_.value_dim, totals_ + r * value_stride_, totals[r], head_.value_dim);
    }
  }

 private:
  const std::byte* KeysOf(const std::byte* block, int64_t head) const {
    return block + head_.key_offset + static_cast<size_t>(head) * task_.key_step;
  }
  const std::byte* ValuesOf(const std::byte* block, int64_t head) const {
    return block + head_.value_offset + static_cast<size_t>(head) * task_.value_step;
  }
  static int64_t CodesBytes(int64_t dims) { return kBlockTokens * (dims + dims % 2) * 2; }

  __attribute__((always_inline)) void Fetch(const std::byte* line) const {
    if (task_.fetch_far) {
      _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
    } else {
      _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0);
    }
  }
  __attribute__((always_inline)) void FetchLine(const std::byte*& next) const {
    Fetch(next);
    next += 64;
  }

  void Split(int64_t split, Range range, RowSum* sums) {
    const int64_t rows = task_.heads * kRows;
    if (range.begin >= range.end) {
      for (int64_t r = 0; r < rows; ++r) sums[r] = kNothing;
      return;
    }
    const int first = static_cast<int>(range.begin / kLanes), last = static_cast<int>((range.end + kLanes - 1) / kLanes);
    const std::byte* const* const blocks = head_.blocks + split * (kAttentionSplit / kBlockTokens);
    const int64_t first_block = range.begin / kBlockTokens, last_block = (range.end + kBlockTokens - 1) / kBlockTokens;
    bool odd = odd_queries_;
    for (int64_t b = first_block; b < last_block; ++b) {
      for (int64_t h = 0; h < task_.heads; ++h) {
        const std::byte* const next = h + 1 < task_.heads ? KeysOf(blocks[b], h + 1)
                                      : b + 1 < last_block ? KeysOf(blocks[b + 1], 0)
                                                           : ValuesOf(blocks[first_block], 0);
        odd |= BlockScores(blocks[b], b, h, first, last, range, next);
      }
    }
    if (odd) return SlowSplit(split, sums);
    Floats inverse[kDecodeRows];
    for (int64_t h = 0; h < task_.heads; ++h) {
      Range ranges[kRows];
      bool in_float[kRows] = {};
      for (int m = 0; m < kRows; ++m) ranges[m] = range;
      for (int64_t b = first_block; b < last_block; ++b) {
        __builtin_memcpy(value_scales_ + b * kBlockTokens, ValuesOf(blocks[b], h) + CodesBytes(head_.value_dim),
                         kBlockTokens * sizeof(float));
      }
      const int64_t row = h * kRows;
      RoundWeights<kRows>(scores_ + row * kAttentionSplit, weights_ + row * kAttentionSplit, value_scales_, ranges, in_float,
                          first, last, sums + row, inverse + row);
    }
    for (int64_t b = first_block; b < last_block; ++b) {
      const bool more = b + 1 < last_block;
      for (int64_t h = 0; h < task_.heads; ++h) {
        const std::byte* const next = h + 1 < task_.heads ? ValuesOf(blocks[b], h + 1)
                                      : more              ? ValuesOf(blocks[b + 1], 0)
                                                          : AfterSplit(split);
        BlockValues(blocks[b], b, h, first, last, next);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* const values = values_ + r * value_stride_;
      for (int64_t d = 0; d < value_stride_; d += kLanes) Store(values + d, Mul(ToFloats(LoadInts(values + d)), inverse[r]));
    }
  }

  // Keys that this thread reads after the values of a split.
  const std::byte* AfterSplit(int64_t split) const {
    if (split + 1 < head_.split_end) return KeysOf(head_.blocks[(split + 1) * (kAttentionSplit / kBlockTokens)], 0);
    return head_.next_blocks != nullptr ? head_.next_blocks[0] + head_.next_key_offset : nullptr;
  }

  // True: a key or value of the range has no scale.
  __attribute__((always_inline)) bool BlockScores(const std::byte* block, int64_t b, int64_t h, int first, int last, Range range,
                             const std::byte* next) {
    const std::byte* const keys = KeysOf(block, h);
    const auto* const value_scales = reinterpret_cast<const float*>(ValuesOf(block, h) + CodesBytes(head_.value_dim));
    const int64_t pairs = (head_.key_dim + 1) / 2;
    Ints sum[2][kRows][kBlockVectors];  // of even and odd steps: one chain alone would take longer than memory
    ClearSums(sum[0]);
    ClearSums(sum[1]);
    const auto step = [&](Ints (&into)[kRows][kBlockVectors], int64_t pair) {
      const std::byte* const from = keys + pair * kBlockTokens * 4;
      FetchLine(next);
      for (int v = 0; v < kBlockVectors; ++v) {
        const Ints k = LoadInts(from + v * kLanes * 4);
        for (int m = 0; m < kRows; ++m) {
          const Ints q = BroadcastInt(queries_ + (h * kRows + m) * query_stride_ + pair * 2);
          into[m][v] = DotPairs(into[m][v], q, k);
        }
      }
    };
    int64_t pair = 0;
    for (; pair + 2 <= pairs; pair += 2) {
      step(sum[0], pair);
      step(sum[1], pair + 1);
    }
    if (pair < pairs) step(sum[0], pair);
    FetchLine(next);  // its scales
    const auto* const key_scales = reinterpret_cast<const float*>(keys + CodesBytes(head_.key_dim));
    bool odd = false;
    for (int v = 0; v < kBlockVectors; ++v) {
      const int at = static_cast<int>(b) * kBlockVectors + v;
      if (at < first || at >= last) continue;
      const Floats key_scale = Load(key_scales + v * kLanes);
      const Floats value_scale = Load(value_scales + v * kLanes);
      Mask nan = IsNan(Add(key_scale, value_scale));
      if (!AllInside(range, int64_t{at} * kLanes)) nan = And(nan, InsideLanes(range, int64_t{at} * kLanes));
      odd |= Any(nan);
      for (int m = 0; m < kRows; ++m) {
        const int64_t row = h * kRows + m;
        Store(scores_ + row * kAttentionSplit + at * kLanes,
              Mul(Mul(ToFloats(AddInt32(sum[0][m][v], sum[1][m][v])), key_scale), Set1(query_scales_[row])));
      }
    }
    return odd;
  }

  __attribute__((always_inline)) void BlockValues(const std::byte* block, int64_t b, int64_t h, int first, int last, const std::byte* next) {
    // What the vectors of scores cover of the block.
    int64_t begin = b * kBlockTokens, end = begin + kBlockTokens;
    const bool begins = begin <= int64_t{first} * kLanes;
    if (begins) begin = int64_t{first} * kLanes;
    if (end > int64_t{last} * kLanes) end = int64_t{last} * kLanes;
    const std::byte* const codes = ValuesOf(block, h) + (begin - b * kBlockTokens) / 2 * head_.value_dim * 4;
    const int64_t vectors = value_stride_ / kLanes;
    const auto sum_up = [&]<int kVectors>(int64_t vector) {
      Ints sum[kRows][kVectors];
      float* const to = values_ + h * kRows * value_stride_ + vector * kLanes;
      for (int m = 0; m < kRows; ++m) {
        for (int v = 0; v < kVectors; ++v) sum[m][v] = begins ? ZeroInts() : LoadInts(to + m * value_stride_ + v * kLanes);
      }
      const std::byte* from = codes + vector * kLanes * 4;
      const std::byte* ahead = next == nullptr ? codes : next + vector * kLanes * 4;
      for (int64_t t = begin; t < end; t += 2, from += head_.value_dim * 4, ahead += head_.value_dim * 4) {
        Ints w[kVectors];
        for (int v = 0; v < kVectors; ++v) w[v] = LoadInts(from + v * kLanes * 4);
        for (int v = 0; v < kVectors; v += 16 / kLanes) Fetch(ahead + v * kLanes * 4);
        for (int m = 0; m < kRows; ++m) {
          const Ints p = BroadcastInt(weights_ + (h * kRows + m) * kAttentionSplit + t);
          for (int v = 0; v < kVectors; ++v) sum[m][v] = DotPairs(sum[m][v], p, w[v]);
        }
      }
      for (int m = 0; m < kRows; ++m) {
        for (int v = 0; v < kVectors; ++v) StoreInts(to + m * value_stride_ + v * kLanes, sum[m][v]);
      }
    };
    int64_t at = 0;
    if constexpr (kRows * kDecodeVectors <= kAttentionSums) {
      for (; at + kDecodeVectors <= vectors; at += kDecodeVectors) sum_up.template operator()<kDecodeVectors>(at);
    }
    constexpr int kSome = kRows * 4 <= kAttentionSums ? 4 : 2;
    for (; at + kSome <= vectors; at += kSome) sum_up.template operator()<kSome>(at);
    for (; at < vectors; ++at) sum_up.template operator()<1>(at);
  }

  // Head by head, as FixedPath does what has no scale.
  void SlowSplit(int64_t split, RowSum* sums) {
    for (int64_t h = 0; h < task_.heads; ++h) {
      AttentionTask task = head_;
      task.query += h * kRows * head_.key_dim;
      task.key_offset += static_cast<size_t>(h) * task_.key_step;
      task.value_offset += static_cast<size_t>(h) * task_.value_step;
      task.split_begin = split;
      task.split_end = split + 1;
      task.next_blocks = nullptr;
      task.partial = one_;
      task.scratch = rest_;
      Attend(task);
      for (int m = 0; m < kRows; ++m) {
        const float* const from = one_ + m * (2 + head_.value_dim);
        sums[h * kRows + m] = {from[0], from[1]};
        __builtin_memcpy(values_ + (h * kRows + m) * value_stride_, from + 2, static_cast<size_t>(head_.value_dim) * sizeof(float));
      }
    }
  }

  const DecodeTask& task_;
  const AttentionTask& head_;
  int64_t query_stride_, value_stride_;  // int16; int32
  float* value_scales_;                  // [kAttentionSplit], of the head at work
  float* query_scales_;                  // [heads][kRows], scale log2(e) included
  int16_t* queries_;                     // [heads][kRows][query_stride]
  float* scores_;                        // [heads][kRows][kAttentionSplit]
  int16_t* weights_;                     // likewise
  float* values_;                        // [heads][kRows][value_stride]: integers first
  float* totals_;                        // likewise
  float* one_;                           // [kRows][2 + value_dim]
  float* rest_;                          // AttentionScratchFloats
  bool odd_queries_ = false;
};

static void AttendDecode(const DecodeTask& task) {
  const auto address = reinterpret_cast<uintptr_t>(task.head.scratch);
  float* const scratch = task.head.scratch + (64 - address % 64) % 64 / sizeof(float);
  switch (task.head.group) {
    case 1: return DecodePath<1>(task, scratch).Run();
    case 2: return DecodePath<2>(task, scratch).Run();
    case 3: return DecodePath<3>(task, scratch).Run();
    default: return DecodePath<4>(task, scratch).Run();
  }
}

// Attention over KV of 8 or 16 bits, in 16-bit integers: vpdpwssd (or vpmaddwd) does twice the products of a
// float32 multiply-add, and a sum of integers is exact, so any tiling gives the same bits.
//
// Scores. Queries and keys are rounded to integers relative to their own length: k ~ |k| / U * code with
// U = kKeyUnit. By Cauchy and Schwarz no partial sum of a dot product exceeds (U + sqrt(D) / 2)^2 < 2^31 for
// D <= 2^20, whatever the vectors. Rounding moves a score by at most scale |q| |k| (sqrt(D) / U + D / 4 U^2),
// typically by 1.3e-5 scale |q| |k|: less than rounding q and k to f16 does. Where one dimension is
// nearly all of the length, the step is still a sixteenth of f16's step at that element.
//
// Values. A token's values are rounded relative to their largest: v ~ s code, |code| <= kValueUnit. The scale
// s goes into the weight: w = p s, and a row's weights of one split are rounded together, to w ~ code / unit
// with unit = min(kLargestWeight / max w, kWeightSum / sum w): codes fit 16 bits, and the sum of products
// stays below (kWeightSum + 128) kValueUnit < 2^31. The error of a split is at most half a code each: max|v|
// / (2 kValueUnit) by the values, and 256 / (2 kLargestWeight) max|v| by the weights if all err in one
// direction.
//
// What has no scale (NaN, infinities, lengths beyond float32) takes its scores and values in float32, row by
// row. Rounded keys and values of a split are kept in scratch and shared by all rows of the task; KV of type kI16 was
// rounded so when it was appended and is multiplied where it lies.

constexpr float kLargestWeight = 32767.0f;
constexpr float kWeightSum = 261632.0f;  // 2^18 - 512
constexpr float kLeastSquare = 1e-36f;   // shorter vectors count as zero
constexpr float kLeast = 1e-30f;
constexpr float kInfinity = __builtin_inff();

constexpr int64_t ElementBytes(KvElement element) { return element == kKvF32 ? 4 : element == kKvQ8 ? 1 : 2; }
TP_INLINE void PrefetchLines(const std::byte* begin, const std::byte* end) {
  for (; begin < end; begin += 64) _mm_prefetch(reinterpret_cast<const char*>(begin), _MM_HINT_T0);
}

// Scale of dimension d of kLanes keys from `slot` on. `head`: K of the head in a block.
template <KvElement kElement>
TP_INLINE Floats KeyScale(const std::byte* head, int64_t dims, int64_t slot, int64_t d) {
  if constexpr (kElement == kKvQ8) {
    return LoadHalf(head + kBlockTokens * dims + (d / kKvScaleGroup * kBlockTokens + slot) * 2);
  }
  return Set1(1.0f);
}
// Without the scale.
template <KvElement kElement>
TP_INLINE Floats LoadKey(const std::byte* p) {
  if constexpr (kElement == kKvQ8) return LoadInt8(p);
  return kElement == kKvF16 ? LoadHalf(p) : LoadBfloat(p);
}
template <KvElement kElement>
TP_INLINE Floats ValueScale(const std::byte* head, int64_t dims, int64_t slot, int64_t d) {
  if constexpr (kElement == kKvQ8) {
    const int64_t groups = (dims + kKvScaleGroup - 1) / kKvScaleGroup;
    return SetHalf(head + kBlockTokens * dims + (slot * groups + d / kKvScaleGroup) * 2);
  }
  return Set1(1.0f);
}
template <KvElement kElement>
TP_INLINE Floats LoadValue(const std::byte* p, int64_t left) {
  if constexpr (kElement == kKvQ8) return left >= kLanes ? LoadInt8(p) : LoadInt8First(p, left);
  if constexpr (kElement == kKvF16) return left >= kLanes ? LoadHalf(p) : LoadHalfFirst(p, left);
  return left >= kLanes ? LoadBfloat(p) : LoadBfloatFirst(p, left);
}
template <KvElement kElement>
TP_INLINE Floats Scaled(Floats v, Floats scale) {
  return kElement == kKvQ8 || kElement == kKvI16 ? Mul(v, scale) : v;
}

// A sequence's blocks lie anywhere in memory, which the processor's own prefetching does not see: while a
// head of a block is rounded, a later one (as long) is fetched: evenly, half in the pass that measures and
// half in the pass that rounds, for memory would idle during a pass without, and stall one that asked for
// all. Two blocks ahead: one takes about as long to round as a line takes to come.
constexpr int64_t kFetchAhead = 2 * kBlockTokens;

// kLanes keys of a block from `slot` on: to[pair of dimensions][kLanes] and their scales, NaN for keys that
// have none. Meanwhile `next` (as long as this head's keys) is fetched.
template <KvElement kElement>
static void RoundKeys(const std::byte* head, int64_t dims, int64_t slot, const std::byte* next, int32_t* to,
                      float* scale) {
  constexpr int64_t kRow = kBlockTokens * ElementBytes(kElement);
  // Lines are 64 bytes and a step is 4 dimensions: 64 bytes of f16 by halves, in either pass.
  constexpr int64_t kShare = kRow * kLanes / kBlockTokens / 2;
  const std::byte* const keys = head + slot * ElementBytes(kElement);
  const std::byte* fetch = next + dims * kRow * slot / kBlockTokens;
  Floats squares[4] = {Zero(), Zero(), Zero(), Zero()};
  for (int64_t group = 0; group < dims; group += kKvScaleGroup) {
    const int64_t end = group + kKvScaleGroup < dims ? group + kKvScaleGroup : dims;
    const Floats unit = KeyScale<kElement>(head, dims, slot, group);
    int64_t d = group;
    for (; d + 4 <= end; d += 4, fetch += 4 * kShare) {
      PrefetchLines(fetch, fetch + 4 * kShare);
      for (int i = 0; i < 4; ++i) {
        const Floats k = Scaled<kElement>(LoadKey<kElement>(keys + (d + i) * kRow), unit);
        squares[i] = Fma(k, k, squares[i]);
      }
    }
    for (; d < end; ++d) {
      const Floats k = Scaled<kElement>(LoadKey<kElement>(keys + d * kRow), unit);
      squares[0] = Fma(k, k, squares[0]);
    }
  }
  const Floats square = Add(Add(squares[0], squares[1]), Add(squares[2], squares[3]));
  const Floats length = Sqrt(square);
  const Mask finite = Less(square, Set1(kInfinity));
  const Mask usable = And(finite, Less(Set1(kLeastSquare), square));
  const Floats factor = Select(usable, Div(Set1(kKeyUnit), length), Zero());
  Store(scale, Select(finite, Mul(length, Set1(1.0f / kKeyUnit)), Set1(__builtin_nanf(""))));
  for (int64_t group = 0; group < dims; group += kKvScaleGroup) {
    const int64_t end = group + kKvScaleGroup < dims ? group + kKvScaleGroup : dims;
    const Floats by = Scaled<kElement>(factor, KeyScale<kElement>(head, dims, slot, group));
    const auto round = [&](int64_t d) { return ToInts(Mul(LoadKey<kElement>(keys + d * kRow), by)); };
    int64_t d = group;
    for (; d + 4 <= end; d += 4, to += 2 * kLanes, fetch += 4 * kShare) {
      PrefetchLines(fetch, fetch + 4 * kShare);
      StoreInts(to, PairInts(round(d), round(d + 1)));
      StoreInts(to + kLanes, PairInts(round(d + 2), round(d + 3)));
    }
    for (; d + 2 <= end; d += 2, to += kLanes) StoreInts(to, PairInts(round(d), round(d + 1)));
    if (d < end) StoreInts(to, PairInts(round(d), ZeroInts()));  // the last of an odd number
  }
}

// What a token's values are rounded relative to: their largest magnitude, or (q8) the largest that its scales
// allow. NaN if one is NaN.
template <KvElement kElement>
TP_INLINE uint16_t LargestValue(const std::byte* head, int64_t dims, int64_t slot) {
  if constexpr (kElement == kKvQ8) {
    const int64_t groups = (dims + kKvScaleGroup - 1) / kKvScaleGroup;
    return static_cast<uint16_t>(LargestBits16(head + kBlockTokens * dims + slot * groups * 2, groups));
  }
  return static_cast<uint16_t>(LargestBits16(head + slot * dims * 2, dims));
}

// The values of kLanes tokens of a block from `slot` on: to[pair of tokens][dimension] at `stride`, whole
// vectors, and the tokens' scales, NaN for those that have none. Meanwhile `next` is fetched.
template <KvElement kElement>
static void RoundValues(const std::byte* head, int64_t dims, int64_t slot, const std::byte* next, int32_t* to,
                        int64_t stride, float* scale) {
  const int64_t row = dims * ElementBytes(kElement);
  const std::byte* fetch = next + slot * row;
  uint16_t bits[kLanes];
  for (int i = 0; i < kLanes; ++i, fetch += row / 2) {
    PrefetchLines(fetch, fetch + row / 2);
    bits[i] = LargestValue<kElement>(head, dims, slot + i);
  }
  const Floats largest = kElement == kKvQ8    ? Mul(LoadHalf(bits), Set1(128.0f))
                         : kElement == kKvF16 ? LoadHalf(bits)
                                              : LoadBfloat(bits);
  const Mask finite = Less(largest, Set1(kInfinity));
  const Mask usable = And(finite, Less(Set1(kLeast), largest));
  float factors[kLanes];
  Store(factors, Select(usable, Div(Set1(kValueUnit), largest), Zero()));
  Store(scale, Select(finite, Mul(largest, Set1(1.0f / kValueUnit)), Set1(__builtin_nanf(""))));
  for (int i = 0; i < kLanes; i += 2, to += stride, fetch += row) {
    PrefetchLines(fetch, fetch + row);
    const std::byte* const first = head + (slot + i) * row;
    const std::byte* const second = first + row;
    const Floats by_first = Set1(factors[i]), by_second = Set1(factors[i + 1]);
    for (int64_t d = 0; d < dims; d += kLanes) {
      const int64_t at = d * ElementBytes(kElement);
      const Floats a = Scaled<kElement>(by_first, ValueScale<kElement>(head, dims, slot + i, d));
      const Floats b = Scaled<kElement>(by_second, ValueScale<kElement>(head, dims, slot + i + 1, d));
      const Ints low = ToInts(Mul(LoadValue<kElement>(first + at, dims - d), a));
      const Ints high = ToInts(Mul(LoadValue<kElement>(second + at, dims - d), b));
      StoreInts(to + d, PairInts(low, high));
    }
  }
}

// sum[m][v] += sum over `steps` pairs of left[m] (at `left_stride` int16) and right[v] (at `step_stride` int32). Meanwhile
// `next` is fetched: a line for each vector.
template <bool kFetch, int kRows, int kVectors>
TP_INLINE void PairProducts(const int16_t* left, int64_t left_stride, const int32_t* const (&right)[kVectors],
                            int64_t step_stride, int64_t steps, const std::byte* const (&next)[kVectors],
                            Ints (&sum)[kRows][kVectors]) {
  for (int64_t step = 0; step < steps; ++step, left += 2) {
    Ints r[kVectors];
    for (int v = 0; v < kVectors; ++v) r[v] = LoadInts(right[v] + step * step_stride);
    if constexpr (kFetch) {
      for (int v = 0; v < kVectors; ++v) _mm_prefetch(reinterpret_cast<const char*>(next[v] + step * 64), _MM_HINT_T0);
    }
    for (int m = 0; m < kRows; ++m) {
      const Ints l = BroadcastInt(left + m * left_stride);
      for (int v = 0; v < kVectors; ++v) sum[m][v] = DotPairs(sum[m][v], l, r[v]);
    }
  }
}
template <int kRows, int kVectors>
TP_INLINE void ClearSums(Ints (&sum)[kRows][kVectors]) {
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) sum[m][v] = ZeroInts();
  }
}

// A row of queries as integers; returns what its scores are multiplied by beside the keys' scales, NaN if there is none.
static float RoundRow(const float* query, int64_t dims, float scale, int16_t* to) {
  const float square = SumOfSquares(query, 0.0f, dims);
  const float length = __builtin_sqrtf(square);
  const Floats factor = Set1(square > kLeastSquare && square < kInfinity ? kKeyUnit / length : 0.0f);
  for (int64_t d = 0; d < dims; d += kLanes) {
    StoreInt16(to + d, ToInts(Mul(LoadFirst(query + d, dims - d), factor)));
  }
  return square < kInfinity ? length * (1.0f / kKeyUnit) * (scale * kLog2E) : __builtin_nanf("");
}

// The weights of some rows as integers, zero outside their ranges, and what products of theirs are
// multiplied by. Scores are overwritten. Row by row within each phase, so that the sums over lanes of one
// row and the vectors of the next overlap.
template <int kRows>
static void RoundWeights(float* all_scores, int16_t* all_weights, const float* value_scales, const Range* ranges,
                         const bool* in_float, int first, int last, RowSum* sums, Floats* inverse) {
  float all[kRows], most[kRows], unit[kRows];
  for (int m = 0; m < kRows; ++m) {
    sums[m].maximum = MaximumOf(ranges[m], first, last, all_scores + m * kAttentionSplit);
  }
  for (int m = 0; m < kRows; ++m) {
    const Range range = ranges[m];
    const Floats origin = Set1(OriginOf(sums[m].maximum));
    float* const scores = all_scores + m * kAttentionSplit;
    Floats sum = Zero(), weight_sum = Zero(), largest = Zero();
    if (in_float[m]) {
      sums[m] = Exponentials(range, first, last, scores);
      all[m] = most[m] = 0.0f;
      continue;
    }
    for (int v = first; v < last; ++v) {
      const int64_t at = v * kLanes;
      Floats p = Exp2(Sub(Load(scores + at), origin));
      Floats w = Mul(p, Load(value_scales + at));
      if (!AllInside(range, at)) {
        const Mask inside = InsideLanes(range, at);
        p = Select(inside, p, Zero());
        w = Select(inside, w, Zero());
      }
      sum = Add(sum, p);
      weight_sum = Add(weight_sum, w);
      largest = Max(w, largest);
      Store(scores + at, w);
    }
    sums[m].sum = SumLanes(sum);
    all[m] = SumLanes(weight_sum);
    most[m] = MaxLanes(largest);
  }
  for (int m = 0; m < kRows; ++m) {
    const float by_most = kLargestWeight / most[m], by_sum = kWeightSum / all[m];
    const float both = by_most < by_sum ? by_most : by_sum;
    // Not with a NaN among the scores: all of the row's output is NaN by its sum.
    unit[m] = most[m] > kLeast && both > 0.0f ? both : 0.0f;
    inverse[m] = Set1(unit[m] > 0.0f ? 1.0f / unit[m] : 0.0f);
  }
  for (int m = 0; m < kRows; ++m) {
    const float* const scores = all_scores + m * kAttentionSplit;
    int16_t* const weights = all_weights + m * kAttentionSplit;
    const Floats by = Set1(unit[m]);
    for (int64_t at = first * kLanes; at < last * kLanes; at += kLanes) {
      StoreInt16(weights + at, ToInts(Mul(Load(scores + at), by)));
    }
  }
}

// Rows that share a key or value while memory is the bound.
constexpr int kFetchRows = 3;

template <KvElement kElement>
class FixedPath {
 public:
  static constexpr int kMostRows = kVectorRows;
  // `scratch`: what AttendBy does not take of AttentionScratchFloats.
  FixedPath(const AttentionTask& task, float* scratch) : task_(task) {
    const int64_t rows = task.row_end - task.row_begin;
    pairs_ = (task.key_dim + 1) / 2;
    query_stride_ = AttentionPadded(task.key_dim);
    value_stride_ = AttentionPadded(task.value_dim);
    const auto take = [&](int64_t floats) {
      float* const taken = scratch;
      scratch += floats;
      return taken;
    };
    scores_ = take(kAttentionBlockRows * kAttentionSplit);
    weights_ = reinterpret_cast<int16_t*>(take(kAttentionBlockRows * kAttentionSplit / 2));
    key_scales_ = take(kAttentionSplit);
    value_scales_ = take(kAttentionSplit);
    keys_ = reinterpret_cast<int32_t*>(take(kAttentionSplit * query_stride_ / 2));
    values_ = reinterpret_cast<int32_t*>(take(kAttentionSplit / 2 * value_stride_));
    query_scales_ = take(AttentionPadded(rows));
    queries_ = reinterpret_cast<int16_t*>(take(rows * query_stride_ / 2));
    for (int64_t r = 0; r < rows; ++r) RoundQuery(r);
  }

  // Rounds what the task's rows see of a split.
  void Begin(int64_t split) {
    const Range span = SpanOf(split);
    if constexpr (kElement == kKvI16) {
      LoadScales(split, span);
    } else {
      Round(split, span);
    }
    odd_keys_ = odd_values_ = false;
    for (int64_t t = span.begin; t < span.end; ++t) {
      odd_keys_ |= key_scales_[t] != key_scales_[t];
      odd_values_ |= value_scales_[t] != value_scales_[t];
    }
  }

  template <int kRows>
  void Rows(int64_t row, int64_t split, RowSum* sums, float* values) {
    Range ranges[kRows], span;
    if (!RangesOf<kRows>(task_, row, split, ranges, span)) {
      for (int m = 0; m < kRows; ++m) sums[m] = kNothing;
      return;
    }
    const int64_t r = row - task_.row_begin;
    const int first = static_cast<int>(span.begin / kLanes);
    const int last = static_cast<int>((span.end + kLanes - 1) / kLanes);
    constexpr int kVectors = kRows <= 4 && kRows * 4 <= kAttentionSums ? 4 : 2;
    int v = first;
    for (; v + kVectors <= last; v += kVectors) Scores<kRows, kVectors>(split, r, v, first, last);
    for (; v < last; ++v) Scores<kRows, 1>(split, r, v, first, last);
    if (odd_keys_ || odd_queries_) {
      for (int m = 0; m < kRows; ++m) FloatScores(row + m, split, first, last, scores_ + m * kAttentionSplit);
    }
    Floats inverse[kRows];
    bool in_float[kRows] = {};
    if (odd_values_) {
      for (int m = 0; m < kRows; ++m) in_float[m] = HasOddValue(ranges[m]);
    }
    RoundWeights<kRows>(scores_, weights_, value_scales_, ranges, in_float, first, last, sums, inverse);
    const int64_t vectors = (task_.value_dim + kLanes - 1) / kLanes;
    int64_t at = 0;
    if constexpr (kRows * 8 <= kAttentionSums) {
      for (; at + 8 <= vectors; at += 8) Values<kRows, 8>(split, first, last, at, inverse, values);
    }
    for (; at + kVectors <= vectors; at += kVectors)
      Values<kRows, kVectors>(split, first, last, at, inverse, values);
    for (; at < vectors; ++at) Values<kRows, 1>(split, first, last, at, inverse, values);
    if (!odd_values_) return;
    if constexpr (kElement == kKvI16) {  // no element of the value is left: all of the output is NaN
      for (int m = 0; m < kRows; ++m) {
        if (in_float[m]) sums[m].sum = __builtin_nanf("");
      }
      return;
    }
    for (int m = 0; m < kRows; ++m) {
      if (in_float[m])
        FloatValues(split, ranges[m], scores_ + m * kAttentionSplit, values + m * task_.value_dim);
    }
  }

 protected:
  // What the task's rows see of a split, counted from its begin: every row sees its own position, and later rows see later ones, so
  // that together they leave no gap.
  Range SpanOf(int64_t split) const {
    const int64_t base = split * kAttentionSplit;
    Range span = {RangeOf(task_, task_.row_begin).begin - base, RangeOf(task_, task_.row_end - 1).end - base};
    if (span.begin < 0) span.begin = 0;
    if (span.end > kAttentionSplit) span.end = kAttentionSplit;
    return span;
  }

  // The place of position t (a multiple of kLanes, counted from the begin of `split`) in its block, and of the block.
  const std::byte* BlockOf(int64_t split, int64_t t) const {
    return task_.blocks[(split * kAttentionSplit + t) / kBlockTokens];
  }

  void LoadScales(int64_t split, Range span) {
    const size_t key_scales = task_.key_offset + static_cast<size_t>(CodesBytes(task_.key_dim));
    const size_t value_scales = task_.value_offset + static_cast<size_t>(CodesBytes(task_.value_dim));
    for (int64_t t = span.begin / kBlockTokens * kBlockTokens; t < span.end; t += kBlockTokens) {
      const std::byte* const block = BlockOf(split, t);
      __builtin_memcpy(key_scales_ + t, block + key_scales, kBlockTokens * sizeof(float));
      __builtin_memcpy(value_scales_ + t, block + value_scales, kBlockTokens * sizeof(float));
    }
  }
  static constexpr int64_t CodesBytes(int64_t dims) { return kBlockTokens * (dims + dims % 2) * 2; }

  void Round(int64_t split, Range span) {
    const int64_t base = split * kAttentionSplit;
    const int64_t begin = span.begin / kLanes * kLanes;
    const int64_t end = (span.end + kLanes - 1) / kLanes * kLanes;
    const auto block_of = [&](int64_t t) { return task_.blocks[(base + t) / kBlockTokens]; };
    for (int64_t t = begin; t < end; t += kLanes) {
      const int64_t ahead = t + kFetchAhead, over = ahead - end;
      const std::byte* const head = block_of(t) + task_.key_offset;
      const std::byte* const next = ahead < end          ? block_of(ahead) + task_.key_offset
                                    : begin + over < end ? block_of(begin + over) + task_.value_offset
                                                         : head;
      RoundKeys<kElement>(head, task_.key_dim, t % kBlockTokens, next, keys_ + t * pairs_, key_scales_ + t);
    }
    const bool more = split + 1 < task_.split_end;
    for (int64_t t = begin; t < end; t += kLanes) {
      const int64_t ahead = t + kFetchAhead;
      const std::byte* const head = block_of(t) + task_.value_offset;
      // Of the next split only where this one is whole: its blocks are there then.
      const std::byte* const next = ahead < end ? block_of(ahead) + task_.value_offset
                                    : more && end == kAttentionSplit && InNextSplit(split, ahead)
                                        ? block_of(ahead) + task_.key_offset
                                        : head;
      RoundValues<kElement>(head, task_.value_dim, t % kBlockTokens, next, values_ + t / 2 * value_stride_,
                            value_stride_, value_scales_ + t);
    }
  }

  // What is read some blocks after the value of position t of the range [begin, end) of `split`: values further on, then
  // keys of what this thread does next.
  const std::byte* AfterValues(int64_t split, int64_t t, int64_t begin, int64_t end) const {
    constexpr int64_t kAhead = 4 * kBlockTokens;
    if (t + kAhead < end) return BlockOf(split, t + kAhead) + task_.value_offset;
    const int64_t over = t + kAhead - end;
    if (split + 1 < task_.split_end) {
      return end == kAttentionSplit && InNextSplit(split, kAttentionSplit + over) ? BlockOf(split + 1, over) + task_.key_offset
                                                                                  : BlockOf(split, t) + task_.value_offset;
    }
    if (task_.next_blocks != nullptr && begin + over < end) return task_.next_blocks[over / kBlockTokens] + task_.next_key_offset;
    return BlockOf(split, t) + task_.value_offset;
  }

  // Whether the task's rows see position `t`, counted from the begin of `split`.
  bool InNextSplit(int64_t split, int64_t t) const {
    return split * kAttentionSplit + t < RangeOf(task_, task_.row_end - 1).end;
  }

  void RoundQuery(int64_t r) {
    const float* const query = QueryOf(task_, task_.row_begin + r);
    query_scales_[r] = RoundRow(query, task_.key_dim, task_.scale, queries_ + r * query_stride_);
    odd_queries_ |= query_scales_[r] != query_scales_[r];
  }

  // `last`: the split's last vector that is seen. Of kI16, while few rows leave memory the bound, what comes next is
  // fetched: keys further on, then values from `first` on.
  template <int kRows, int kVectors>
  void Scores(int64_t split, int64_t r, int vector, int first, int last) {
    Ints sum[kRows][kVectors];
    ClearSums(sum);
    const int32_t* keys[kVectors];
    const std::byte* next[kVectors] = {};
    if constexpr (kElement == kKvI16) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t t = int64_t{vector + v} * kLanes;
        keys[v] = reinterpret_cast<const int32_t*>(BlockOf(split, t) + task_.key_offset) + t % kBlockTokens;
        const int ahead = vector + v + kVectors;
        next[v] = ahead < last ? BlockOf(split, int64_t{ahead} * kLanes) + task_.key_offset
                               : BlockOf(split, int64_t{first + (ahead - last) % (last - first)} * kLanes) + task_.value_offset;
      }
      constexpr bool kFetch = kRows <= kFetchRows && kLanes == kBlockTokens;
      PairProducts<kFetch, kRows, kVectors>(queries_ + r * query_stride_, query_stride_, keys, kBlockTokens, pairs_, next, sum);
    } else {
      for (int v = 0; v < kVectors; ++v) keys[v] = keys_ + (vector + v) * pairs_ * kLanes;
      PairProducts<false, kRows, kVectors>(queries_ + r * query_stride_, query_stride_, keys, kLanes, pairs_, next, sum);
    }
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = (vector + v) * kLanes;
      const Floats key_scale = Load(key_scales_ + at);
      for (int m = 0; m < kRows; ++m) {
        Store(scores_ + m * kAttentionSplit + at,
              Mul(Mul(ToFloats(sum[m][v]), key_scale), Set1(query_scales_[r + m])));
      }
    }
  }

  static Floats KeyOf(const std::byte* head, int64_t d, int64_t slot) {
    if constexpr (kElement == kKvI16) {
      const Ints pairs = LoadInts(head + (d / 2 * kBlockTokens + slot) * 4);
      return ToFloats(d % 2 == 0 ? FirstOfPairs(pairs) : SecondOfPairs(pairs));
    } else {
      return LoadKey<kElement>(head + (d * kBlockTokens + slot) * ElementBytes(kElement));
    }
  }

  // The scores of a row that have no scale, in float32.
  void FloatScores(int64_t row, int64_t split, int first, int last, float* scores) const {
    const float* const query = QueryOf(task_, row);
    for (int v = first; v < last; ++v) {
      const Mask odd = IsNan(Mul(Load(key_scales_ + v * kLanes), Set1(query_scales_[row - task_.row_begin])));
      if (!Any(odd)) continue;
      const int64_t position = split * kAttentionSplit + v * kLanes, slot = position % kBlockTokens;
      const std::byte* const head = task_.blocks[position / kBlockTokens] + task_.key_offset;
      Floats sum = Zero();
      for (int64_t d = 0; d < task_.key_dim; ++d) {
        const Floats k = KeyOf(head, d, slot);
        const Floats scale = kElement == kKvI16 ? Load(key_scales_ + v * kLanes) : KeyScale<kElement>(head, task_.key_dim, slot, d);
        sum = Fma(Set1(query[d]), Scaled<kElement>(k, scale), sum);
      }
      float* const to = scores + v * kLanes;
      Store(to, Select(odd, Mul(sum, Set1(task_.scale * kLog2E)), Load(to)));
    }
  }

  bool HasOddValue(Range range) const {
    for (int64_t t = range.begin; t < range.end; ++t) {
      if (value_scales_[t] != value_scales_[t]) return true;
    }
    return false;
  }

  template <int kRows, int kVectors>
  void Values(int64_t split, int first, int last, int64_t vector, const Floats* inverse, float* values) const {
    Ints sum[kRows][kVectors];
    ClearSums(sum);
    const int32_t* from[kVectors];
    const std::byte* next[kVectors] = {};
    const int64_t begin = int64_t{first} * kLanes, end = int64_t{last} * kLanes;
    if constexpr (kElement == kKvI16) {
      constexpr bool kFetch = kRows <= kFetchRows && kVectors == 8;
      for (int64_t t = begin; t < end;) {
        const int64_t slot = t % kBlockTokens, stop = t + kBlockTokens - slot < end ? t + kBlockTokens - slot : end;
        const auto* const head = reinterpret_cast<const int32_t*>(BlockOf(split, t) + task_.value_offset);
        const std::byte* const ahead = kFetch ? AfterValues(split, t, begin, end) : nullptr;
        for (int v = 0; v < kVectors; ++v) {
          from[v] = head + slot / 2 * task_.value_dim + (vector + v) * kLanes;
          next[v] = ahead + v * 8 * 64;
        }
        PairProducts<kFetch, kRows, kVectors>(weights_ + t, kAttentionSplit, from, task_.value_dim, (stop - t) / 2, next, sum);
        t = stop;
      }
    } else {
      for (int v = 0; v < kVectors; ++v) from[v] = values_ + begin / 2 * value_stride_ + (vector + v) * kLanes;
      PairProducts<false, kRows, kVectors>(weights_ + begin, kAttentionSplit, from, value_stride_, (end - begin) / 2, next, sum);
    }
    for (int m = 0; m < kRows; ++m) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t d = (vector + v) * kLanes;
        StoreFirst(values + m * task_.value_dim + d, Mul(ToFloats(sum[m][v]), inverse[m]),
                   task_.value_dim - d);
      }
    }
  }

  void FloatValues(int64_t split, Range range, const float* weights, float* values) const {
    const int64_t dims = task_.value_dim;
    for (int64_t d = 0; d < dims; d += kLanes) {
      Floats sum = Zero();
      for (int64_t t = range.begin; t < range.end; ++t) {
        const int64_t position = split * kAttentionSplit + t, slot = position % kBlockTokens;
        const std::byte* const head = task_.blocks[position / kBlockTokens] + task_.value_offset;
        const Floats v = LoadValue<kElement>(head + (slot * dims + d) * ElementBytes(kElement), dims - d);
        const Floats scale = ValueScale<kElement>(head, dims, slot, d);
        sum = Fma(Set1(weights[t]), Scaled<kElement>(v, scale), sum);
      }
      StoreFirst(values + d, sum, dims - d);
    }
  }

  const AttentionTask& task_;
  int64_t pairs_, query_stride_, value_stride_;  // of key dimensions; int16; int32
  float* scores_;                                // [kAttentionBlockRows][kAttentionSplit], then weights
  int16_t* weights_;                             // the same, rounded
  float* key_scales_;                            // [kAttentionSplit]
  float* value_scales_;                          // [kAttentionSplit]
  int32_t* keys_;                                // [kSplitVectors][pairs][kLanes] pairs of dimensions
  int32_t* values_;                              // [kAttentionSplit / 2][value_stride] pairs of tokens
  float* query_scales_;                          // [rows], scale log2(e) included
  int16_t* queries_;                             // [rows][query_stride]
  bool odd_queries_ = false, odd_keys_ = false, odd_values_ = false;
};

// softmax(scale q k^T) v over paged KV: what both arithmetics share, and float32 arithmetic (KV as f32).
// Positions are reduced in splits of kAttentionSplit whose borders are absolute: within a split scores first,
// then their maximum, exponentials and sum, then the weighted values; splits are merged in order. So an
// output's additions depend on its own row alone, whether it came alone, in a chunk, or with its splits
// spread over threads. Scores are in units of log 2: s = scale log2(e) q k, and weights 2^(s - maximum).

constexpr int kSplitVectors = kAttentionSplit / kLanes;
constexpr int64_t kBlockTokens = 16;
constexpr float kLog2E = 1.44269504088896341f;
constexpr int kVectorRows = kAttentionSums / 2;  // of query, computed together on vectors
static_assert(kVectorRows <= kAttentionBlockRows);

TP_INLINE const float* QueryOf(const AttentionTask& task, int64_t row) {
  return task.query + row / task.group * task.query_stride + row % task.group * task.key_dim;
}

// Positions that a row sees: [begin, end).
struct Range {
  int64_t begin, end;
};
TP_INLINE Range RangeOf(const AttentionTask& task, int64_t row) {
  const int64_t position = task.context + row / task.group;
  const int64_t end = task.causal ? position + 1 : task.context + task.token_count;
  const int64_t begin = task.window > 0 && position + 1 > task.window ? position + 1 - task.window : 0;
  return {begin, end};
}
// The same, counted from the begin of a split and cut to it; {0, 0} where the row sees nothing of it.
TP_INLINE Range RangeInSplit(const AttentionTask& task, int64_t row, int64_t split) {
  Range range = RangeOf(task, row);
  range.begin -= split * kAttentionSplit;
  range.end -= split * kAttentionSplit;
  if (range.begin < 0) range.begin = 0;
  if (range.end > kAttentionSplit) range.end = kAttentionSplit;
  return range.begin < range.end ? range : Range{0, 0};
}
// The ranges of some rows, and the span that holds them all; false if all are empty.
template <int kRows>
TP_INLINE bool RangesOf(const AttentionTask& task, int64_t row, int64_t split, Range* ranges, Range& span) {
  span = {kAttentionSplit, 0};
  for (int m = 0; m < kRows; ++m) {
    ranges[m] = RangeInSplit(task, row + m, split);
    if (ranges[m].begin >= ranges[m].end) continue;
    if (ranges[m].begin < span.begin) span.begin = ranges[m].begin;
    if (ranges[m].end > span.end) span.end = ranges[m].end;
  }
  return span.begin < span.end;
}

// A row's share of some splits: sum of weights relative to 2^maximum. {-inf, 0}: nothing yet, or only scores
// of -inf. A NaN among the scores is in the sum.
struct RowSum {
  float maximum, sum;
};
constexpr RowSum kNothing = {-__builtin_inff(), 0.0f};

TP_INLINE bool AllInside(Range range, int64_t at) { return range.begin <= at && range.end >= at + kLanes; }
TP_INLINE Mask InsideLanes(Range range, int64_t at) {
  return AndNot(FirstLanes(range.begin - at), FirstLanes(range.end - at));
}
// NaN does not count.
static float MaximumOf(Range range, int begin, int end, const float* scores) {
  const Floats lowest = Set1(-__builtin_inff());
  Floats maximum = lowest;
  for (int v = begin; v < end; ++v) {
    const int64_t at = v * kLanes;
    const Floats s = Load(scores + at);
    maximum = Max(AllInside(range, at) ? s : Select(InsideLanes(range, at), s, lowest), maximum);
  }
  return MaxLanes(maximum);
}
// What scores are relative to: where all are -inf, their weights shall be 0.
TP_INLINE float OriginOf(float maximum) { return maximum == -__builtin_inff() ? -3.0e38f : maximum; }

// Turns a row's scores into 2^(score - maximum), zero outside its range.
static RowSum Exponentials(Range range, int begin, int end, float* scores) {
  const float top = MaximumOf(range, begin, end, scores);
  const Floats origin = Set1(OriginOf(top));
  Floats sum = Zero();
  for (int v = begin; v < end; ++v) {
    const int64_t at = v * kLanes;
    Floats p = Exp2(Sub(Load(scores + at), origin));
    if (!AllInside(range, at)) p = Select(InsideLanes(range, at), p, Zero());
    sum = Add(sum, p);
    Store(scores + at, p);
  }
  return {top, SumLanes(sum)};
}

// ---- float32 -----------------------------------------------------------------------------------------

// Scores of kRows rows for kVectors vectors of positions from vector `first` of the split.
template <int kRows, int kVectors>
static void Scores(const AttentionTask& task, int64_t row, int64_t split, int first, float* scores) {
  const float* key[kVectors];
  const float* query[kRows];
  Floats sum[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t position = split * kAttentionSplit + (first + v) * kLanes;
    key[v] = reinterpret_cast<const float*>(task.blocks[position / kBlockTokens] + task.key_offset) +
             position % kBlockTokens;
  }
  for (int m = 0; m < kRows; ++m) {
    query[m] = QueryOf(task, row + m);
    for (int v = 0; v < kVectors; ++v) sum[m][v] = Zero();
  }
  for (int64_t d = 0; d < task.key_dim; ++d) {
    Floats k[kVectors];
    for (int v = 0; v < kVectors; ++v) k[v] = Load(key[v] + d * kBlockTokens);
    for (int m = 0; m < kRows; ++m) {
      const Floats q = Set1(query[m][d]);
      for (int v = 0; v < kVectors; ++v) sum[m][v] = Fma(q, k[v], sum[m][v]);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      Store(scores + m * kAttentionSplit + (first + v) * kLanes, Mul(sum[m][v], Set1(task.scale * kLog2E)));
    }
  }
}

template <int kRows>
static void ScoreRows(const AttentionTask& task, int64_t row, int64_t split, int begin, int end,
                      float* scores) {
  constexpr int kVectors = kRows <= 4 && kRows * 4 <= kAttentionSums ? 4 : 2;
  int v = begin;
  for (; v + kVectors <= end; v += kVectors) Scores<kRows, kVectors>(task, row, split, v, scores);
  for (; v < end; ++v) Scores<kRows, 1>(task, row, split, v, scores);
}

// values[m][d ..] = sum over positions of p[m][t] * V[t][d ..] for kVectors vectors of dimensions.
template <int kRows, int kVectors>
static void WeightedValues(const AttentionTask& task, int64_t split, int64_t begin, int64_t end, int64_t d,
                           const float* scores, float* values) {
  Floats sum[kRows][kVectors];
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) sum[m][v] = Zero();
  }
  const bool tail = kVectors == 1 && task.value_dim - d < kLanes;
  for (int64_t t = begin; t < end;) {
    const int64_t position = split * kAttentionSplit + t;
    const float* value =
        reinterpret_cast<const float*>(task.blocks[position / kBlockTokens] + task.value_offset) +
        position % kBlockTokens * task.value_dim + d;
    const int64_t block_end = t + kBlockTokens - position % kBlockTokens;
    for (const int64_t stop = block_end < end ? block_end : end; t < stop; ++t) {
      Floats w[kVectors];
      if (tail) {
        w[0] = LoadFirst(value, task.value_dim - d);
      } else {
        for (int v = 0; v < kVectors; ++v) w[v] = Load(value + v * kLanes);
      }
      for (int m = 0; m < kRows; ++m) {
        const Floats p = Set1(scores[m * kAttentionSplit + t]);
        for (int v = 0; v < kVectors; ++v) sum[m][v] = Fma(p, w[v], sum[m][v]);
      }
      value += task.value_dim;
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      StoreFirst(values + m * task.value_dim + d + v * kLanes, sum[m][v], task.value_dim - d - v * kLanes);
    }
  }
}

template <int kRows>
static void ValueRows(const AttentionTask& task, int64_t split, int64_t begin, int64_t end,
                      const float* scores, float* values) {
  constexpr int kVectors = kRows <= 4 && kRows * 4 <= kAttentionSums ? 4 : 2;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= task.value_dim; d += kVectors * kLanes) {
    WeightedValues<kRows, kVectors>(task, split, begin, end, d, scores, values);
  }
  for (; d < task.value_dim; d += kLanes) {
    WeightedValues<kRows, 1>(task, split, begin, end, d, scores, values);
  }
}

class FloatPath {
 public:
  static constexpr int kMostRows = kVectorRows;
  explicit FloatPath(const AttentionTask& task, float* scratch) : task_(task), scores_(scratch) {}
  void Begin(int64_t) {}
  template <int kRows>
  void Rows(int64_t row, int64_t split, RowSum* sums, float* values) {
    Range ranges[kRows], span;
    if (!RangesOf<kRows>(task_, row, split, ranges, span)) {
      for (int m = 0; m < kRows; ++m) sums[m] = kNothing;
      return;
    }
    const int first = static_cast<int>(span.begin / kLanes);
    const int last = static_cast<int>((span.end + kLanes - 1) / kLanes);
    ScoreRows<kRows>(task_, row, split, first, last, scores_);
    for (int m = 0; m < kRows; ++m) {
      sums[m] = Exponentials(ranges[m], first, last, scores_ + m * kAttentionSplit);
    }
    ValueRows<kRows>(task_, split, span.begin, span.end, scores_, values);
    if (kRows == 1) return;
    // 0 times infinity: a value that only other rows see may have made a NaN.
    for (int m = 0; m < kRows; ++m) {
      float* const own = values + m * task_.value_dim;
      if (!HasNan(own)) continue;
      ValueRows<1>(task_, split, ranges[m].begin, ranges[m].end, scores_ + m * kAttentionSplit, own);
    }
  }

 private:
  bool HasNan(const float* values) const {
    for (int64_t d = 0; d < task_.value_dim; d += kLanes) {
      if (Any(IsNan(LoadFirst(values + d, task_.value_dim - d)))) return true;
    }
    return false;
  }
  const AttentionTask& task_;
  float* scores_;  // [kAttentionBlockRows][kAttentionSplit]
};

// ---- merging -----------------------------------------------------------------------------------------

// (into) = (into) + (from), both relative to their own maximum.
static void MergeSplit(RowSum& into, float* into_values, RowSum from, const float* from_values,
                       int64_t value_dim) {
  if (from.maximum == -__builtin_inff()) {
    into.sum += from.sum;  // 0 or NaN
    return;
  }
  if (into.maximum == -__builtin_inff()) {
    into = {from.maximum, into.sum + from.sum};
    __builtin_memcpy(into_values, from_values, static_cast<size_t>(value_dim) * sizeof(float));
    return;
  }
  if (into.maximum >= from.maximum) {
    const Floats weight = Exp2(Set1(from.maximum - into.maximum));
    into.sum += from.sum * FirstLane(weight);
    for (int64_t d = 0; d < value_dim; d += kLanes) {
      const int64_t left = value_dim - d;
      const Floats sum = Fma(LoadFirst(from_values + d, left), weight, LoadFirst(into_values + d, left));
      StoreFirst(into_values + d, sum, left);
    }
    return;
  }
  const Floats weight = Exp2(Set1(into.maximum - from.maximum));
  into.sum = into.sum * FirstLane(weight) + from.sum;
  into.maximum = from.maximum;
  for (int64_t d = 0; d < value_dim; d += kLanes) {
    const int64_t left = value_dim - d;
    const Floats sum = Fma(LoadFirst(into_values + d, left), weight, LoadFirst(from_values + d, left));
    StoreFirst(into_values + d, sum, left);
  }
}

// A row all of whose scores are -inf is 0 / 0.
static void StoreOutput(float* out, const float* values, RowSum total, int64_t value_dim) {
  const Floats inverse = Set1(total.maximum == -__builtin_inff() ? __builtin_nanf("") : 1.0f / total.sum);
  for (int64_t d = 0; d < value_dim; d += kLanes) {
    const int64_t left = value_dim - d;
    StoreFirst(out + d, Mul(LoadFirst(values + d, left), inverse), left);
  }
}

// Every split of a task over all its rows, by Path::Begin(split) and Path::Rows<kRows>(row, split, sums,
// values), at most Path::kMostRows at a time. `values`: [kAttentionBlockRows][value_dim]; `total`: [rows][value_dim].
template <typename Path>
__attribute__((noinline)) static void AttendBy(const AttentionTask& task, Path& path, float* values,
                                               float* total) {
  const int64_t rows = task.row_end - task.row_begin, dim = task.value_dim;
  RowSum totals[kAttentionRows];
  for (int64_t r = 0; r < rows; ++r) totals[r] = kNothing;
  for (int64_t split = task.split_begin; split < task.split_end; ++split) {
    path.Begin(split);
    int64_t r = 0;
    const bool begins = task.partial == nullptr && split == task.split_begin;  // nothing to merge with
    const auto run = [&]<int kRows>() {
      RowSum sums[kRows];
      float* const to = begins ? total + r * dim : values;
      path.template Rows<kRows>(task.row_begin + r, split, sums, to);
      for (int m = 0; m < kRows; ++m, ++r) {
        if (begins) {
          totals[r] = sums[m];
          continue;
        }
        if (task.partial == nullptr) {
          MergeSplit(totals[r], total + r * dim, sums[m], values + m * dim, dim);
          continue;
        }
        float* partial = task.partial + ((split - task.split_begin) * rows + r) * (2 + dim);
        partial[0] = sums[m].maximum;
        partial[1] = sums[m].sum;
        if (sums[m].maximum == -__builtin_inff()) continue;
        __builtin_memcpy(partial + 2, values + m * dim, static_cast<size_t>(dim) * sizeof(float));
      }
    };
    constexpr int kMostRows = Path::kMostRows;
    while (r + kMostRows <= rows) run.template operator()<kMostRows>();
    if constexpr (kMostRows > 12) {
      if (r + 12 <= rows) run.template operator()<12>();
    }
    if (kMostRows > 8 && r + 8 <= rows) run.template operator()<8>();
    if (kMostRows > 4 && r + 4 <= rows) run.template operator()<4>();
    // GQA groups of three are common (SmolLM2), so three rows keep one pass over the keys.
    if (r + 3 == rows) run.template operator()<3>();
    if (r + 2 <= rows) run.template operator()<2>();
    if (r < rows) run.template operator()<1>();
  }
  if (task.partial != nullptr) return;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = task.row_begin + r;
    float* out = task.out + row / task.group * task.out_stride + row % task.group * dim;
    StoreOutput(out, total + r * dim, totals[r], dim);
  }
}

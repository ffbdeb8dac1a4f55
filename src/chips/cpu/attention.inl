// softmax(scale q k^T) v over paged KV, float32 arithmetic. Positions are reduced in splits of
// kAttentionSplit whose borders are absolute: within a split scores first, then their maximum, exponentials
// and sum, then the weighted values; splits are merged in order. So an output's additions depend on its own
// row alone, whether it came alone, in a chunk, or with its splits spread over threads.

constexpr int kSplitVectors = kAttentionSplit / kLanes;
constexpr int64_t kBlockTokens = 16;

template <bool kHalf>
TP_INLINE Floats LoadKv(const std::byte* p) {
  return kHalf ? LoadHalf(p) : Load(reinterpret_cast<const float*>(p));
}
template <bool kHalf>
TP_INLINE Floats LoadKvFirst(const std::byte* p, int64_t n) {
  return kHalf ? LoadHalfFirst(p, n) : LoadFirst(reinterpret_cast<const float*>(p), n);
}

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

// Scores of kRows rows for kVectors vectors of positions from vector `first` of the split.
template <bool kHalf, int kRows, int kVectors>
static void Scores(const AttentionTask& task, int64_t row, int64_t split, int first, float* scores) {
  constexpr int64_t kElement = kHalf ? 2 : 4;
  const std::byte* key[kVectors];
  const float* query[kRows];
  Floats sum[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t position = split * kAttentionSplit + (first + v) * kLanes;
    key[v] = task.blocks[position / kBlockTokens] + task.key_offset + position % kBlockTokens * kElement;
  }
  for (int m = 0; m < kRows; ++m) {
    query[m] = QueryOf(task, row + m);
    for (int v = 0; v < kVectors; ++v) sum[m][v] = Zero();
  }
  for (int64_t d = 0; d < task.key_dim; ++d) {
    Floats k[kVectors];
    for (int v = 0; v < kVectors; ++v) k[v] = LoadKv<kHalf>(key[v] + d * kBlockTokens * kElement);
    for (int m = 0; m < kRows; ++m) {
      const Floats q = Set1(query[m][d]);
      for (int v = 0; v < kVectors; ++v) sum[m][v] = Fma(q, k[v], sum[m][v]);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      Store(scores + m * kAttentionSplit + (first + v) * kLanes, Mul(sum[m][v], Set1(task.scale)));
    }
  }
}

template <bool kHalf, int kRows>
static void ScoreRows(const AttentionTask& task, int64_t row, int64_t split, int begin, int end,
                      float* scores) {
  constexpr int kVectors = kRows * 4 <= kAttentionSums ? 4 : 2;
  int v = begin;
  for (; v + kVectors <= end; v += kVectors) Scores<kHalf, kRows, kVectors>(task, row, split, v, scores);
  for (; v < end; ++v) Scores<kHalf, kRows, 1>(task, row, split, v, scores);
}

// Turns a row's scores into exp(score - maximum), zero outside its range; returns maximum and sum.
struct RowSum {
  float maximum, sum;
};
static RowSum Exponentials(Range range, int begin, int end, float* scores) {
  const Floats lowest = Set1(-__builtin_inff());
  Floats maximum = lowest;
  for (int v = begin; v < end; ++v) {
    const int64_t at = v * kLanes;
    const Mask inside = AndNot(FirstLanes(range.begin - at), FirstLanes(range.end - at));
    maximum = Max(maximum, Select(inside, Load(scores + at), lowest));
  }
  const float top = MaxLanes(maximum);
  Floats sum = Zero();
  for (int v = begin; v < end; ++v) {
    const int64_t at = v * kLanes;
    const Mask inside = AndNot(FirstLanes(range.begin - at), FirstLanes(range.end - at));
    const Floats p = Select(inside, Exp(Sub(Load(scores + at), Set1(top))), Zero());
    sum = Add(sum, p);
    Store(scores + at, p);
  }
  return {top, SumLanes(sum)};
}

// values[m][d ..] = sum over positions of p[m][t] * V[t][d ..] for kVectors vectors of dimensions.
template <bool kHalf, int kRows, int kVectors>
static void WeightedValues(const AttentionTask& task, int64_t split, int64_t begin, int64_t end, int64_t d,
                           const float* scores, float* values) {
  constexpr int64_t kElement = kHalf ? 2 : 4;
  Floats sum[kRows][kVectors];
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) sum[m][v] = Zero();
  }
  const bool tail = kVectors == 1 && task.value_dim - d < kLanes;
  for (int64_t t = begin; t < end;) {
    const int64_t position = split * kAttentionSplit + t;
    const std::byte* value = task.blocks[position / kBlockTokens] + task.value_offset +
                             (position % kBlockTokens * task.value_dim + d) * kElement;
    const int64_t block_end = t + kBlockTokens - position % kBlockTokens;
    for (const int64_t stop = block_end < end ? block_end : end; t < stop; ++t) {
      Floats w[kVectors];
      if (tail) {
        w[0] = LoadKvFirst<kHalf>(value, task.value_dim - d);
      } else {
        for (int v = 0; v < kVectors; ++v) w[v] = LoadKv<kHalf>(value + v * kLanes * kElement);
      }
      for (int m = 0; m < kRows; ++m) {
        const Floats p = Set1(scores[m * kAttentionSplit + t]);
        for (int v = 0; v < kVectors; ++v) sum[m][v] = Fma(p, w[v], sum[m][v]);
      }
      value += task.value_dim * kElement;
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      StoreFirst(values + m * task.value_dim + d + v * kLanes, sum[m][v], task.value_dim - d - v * kLanes);
    }
  }
}

template <bool kHalf, int kRows>
static void ValueRows(const AttentionTask& task, int64_t split, int64_t begin, int64_t end,
                      const float* scores, float* values) {
  constexpr int kVectors = kRows * 4 <= kAttentionSums ? 4 : 2;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= task.value_dim; d += kVectors * kLanes) {
    WeightedValues<kHalf, kRows, kVectors>(task, split, begin, end, d, scores, values);
  }
  for (; d < task.value_dim; d += kLanes) {
    WeightedValues<kHalf, kRows, 1>(task, split, begin, end, d, scores, values);
  }
}

// One split for kRows rows: sums[m] and values[m].
template <bool kHalf, int kRows>
static void SplitRows(const AttentionTask& task, int64_t row, int64_t split, float* scores, RowSum* sums,
                      float* values) {
  const int64_t base = split * kAttentionSplit;
  Range ranges[kRows];
  int64_t begin = kAttentionSplit, end = 0;
  for (int m = 0; m < kRows; ++m) {
    const Range range = RangeOf(task, row + m);
    ranges[m] = {range.begin - base, range.end - base};
    if (ranges[m].begin < 0) ranges[m].begin = 0;
    if (ranges[m].end > kAttentionSplit) ranges[m].end = kAttentionSplit;
    if (ranges[m].begin >= ranges[m].end) {
      ranges[m] = {0, 0};
      continue;
    }
    if (ranges[m].begin < begin) begin = ranges[m].begin;
    if (ranges[m].end > end) end = ranges[m].end;
  }
  if (begin >= end) {
    for (int m = 0; m < kRows; ++m) sums[m] = {-__builtin_inff(), 0.0f};
    return;
  }
  const int first = static_cast<int>(begin / kLanes);
  const int last = static_cast<int>((end + kLanes - 1) / kLanes);
  ScoreRows<kHalf, kRows>(task, row, split, first, last, scores);
  for (int m = 0; m < kRows; ++m)
    sums[m] = Exponentials(ranges[m], first, last, scores + m * kAttentionSplit);
  ValueRows<kHalf, kRows>(task, split, begin, end, scores, values);
}

template <bool kHalf>
static void SplitAllRows(const AttentionTask& task, int64_t split, RowSum* sums, float* values) {
  float* scores = task.scratch;
  const int64_t rows = task.row_end - task.row_begin;
  int64_t r = 0;
  const auto run = [&]<int kRows>() {
    SplitRows<kHalf, kRows>(task, task.row_begin + r, split, scores, sums + r, values + r * task.value_dim);
    r += kRows;
  };
  while (r + kLinearRows <= rows) run.template operator()<kLinearRows>();
  if (kLinearRows > 4 && r + 4 <= rows) run.template operator()<4>();
  // GQA groups of three are common (SmolLM2), so three rows keep one pass over the keys.
  if (r + 3 == rows) run.template operator()<3>();
  if (r + 2 <= rows) run.template operator()<2>();
  if (r < rows) run.template operator()<1>();
}

// (into) = (into) + (from), both relative to their own maximum.
static void MergeSplit(RowSum& into, float* into_values, RowSum from, const float* from_values,
                       int64_t value_dim) {
  if (from.maximum == -__builtin_inff()) return;  // nothing of this row in the split
  if (into.maximum == -__builtin_inff()) {
    into = from;
    __builtin_memcpy(into_values, from_values, static_cast<size_t>(value_dim) * sizeof(float));
    return;
  }
  const float maximum = into.maximum > from.maximum ? into.maximum : from.maximum;
  const float keep = FirstLane(Exp(Set1(into.maximum - maximum)));
  const float add = FirstLane(Exp(Set1(from.maximum - maximum)));
  into.sum = into.sum * keep + from.sum * add;
  into.maximum = maximum;
  for (int64_t d = 0; d < value_dim; d += kLanes) {
    const int64_t left = value_dim - d;
    const Floats kept = Mul(LoadFirst(into_values + d, left), Set1(keep));
    StoreFirst(into_values + d, Fma(LoadFirst(from_values + d, left), Set1(add), kept), left);
  }
}

static void StoreOutput(float* out, const float* values, float sum, int64_t value_dim) {
  const Floats inverse = Set1(1.0f / sum);
  for (int64_t d = 0; d < value_dim; d += kLanes) {
    const int64_t left = value_dim - d;
    StoreFirst(out + d, Mul(LoadFirst(values + d, left), inverse), left);
  }
}

static void Attend(const AttentionTask& task) {
  const int64_t rows = task.row_end - task.row_begin, dim = task.value_dim;
  float* values = task.scratch + int64_t{kAttentionRows} * kAttentionSplit;
  float* total = values + kAttentionRows * dim;
  RowSum sums[kAttentionRows], totals[kAttentionRows];
  for (int64_t r = 0; r < rows; ++r) totals[r] = {-__builtin_inff(), 0.0f};
  for (int64_t split = task.split_begin; split < task.split_end; ++split) {
    if (task.half) {
      SplitAllRows<true>(task, split, sums, values);
    } else {
      SplitAllRows<false>(task, split, sums, values);
    }
    if (task.partial != nullptr) {
      float* to = task.partial + (split - task.split_begin) * rows * (2 + dim);
      for (int64_t r = 0; r < rows; ++r, to += 2 + dim) {
        to[0] = sums[r].maximum;
        to[1] = sums[r].sum;
        __builtin_memcpy(to + 2, values + r * dim, static_cast<size_t>(dim) * sizeof(float));
      }
    } else {
      for (int64_t r = 0; r < rows; ++r)
        MergeSplit(totals[r], total + r * dim, sums[r], values + r * dim, dim);
    }
  }
  if (task.partial != nullptr) return;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = task.row_begin + r;
    float* out = task.out + row / task.group * task.out_stride + row % task.group * dim;
    StoreOutput(out, total + r * dim, totals[r].sum, dim);
  }
}

static void MergePartials(const MergeTask& task) {
  const int64_t dim = task.value_dim;
  float* total = task.scratch;
  for (int64_t r = 0; r < task.rows; ++r) {
    RowSum sum = {-__builtin_inff(), 0.0f};
    for (int64_t split = 0; split < task.splits; ++split) {
      const float* from = task.partial + (split * task.rows + r) * (2 + dim);
      MergeSplit(sum, total, {from[0], from[1]}, from + 2, dim);
    }
    const int64_t row = task.row_begin + r;
    StoreOutput(task.out + row / task.group * task.out_stride + row % task.group * dim, total, sum.sum, dim);
  }
}

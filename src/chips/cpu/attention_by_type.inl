// Attention, merging of its parts, and appending, by the type of KV, after attention_fixed.inl.

static void Attend(const AttentionTask& task) {
  const auto address = reinterpret_cast<uintptr_t>(task.scratch);
  float* const scratch = task.scratch + (64 - address % 64) % 64 / sizeof(float);
  float* const total = scratch + kAttentionBlockRows * AttentionPadded(task.value_dim);
  float* const rest = total + (task.row_end - task.row_begin) * AttentionPadded(task.value_dim);
  const auto by = [&]<typename Path>(Path path) { AttendBy(task, path, scratch, total); };
  switch (task.element) {
    case kKvF32: return by(FloatPath(task, rest));
    case kKvF16: return by(FixedPath<kKvF16>(task, rest));
    case kKvBF16: return by(FixedPath<kKvBF16>(task, rest));
    case kKvQ8: return by(FixedPath<kKvQ8>(task, rest));
    case kKvI16: return by(FixedPath<kKvI16>(task, rest));
  }
}

static void MergePartials(const MergeTask& task) {
  const int64_t dim = task.value_dim;
  float* total = task.scratch;
  for (int64_t r = 0; r < task.rows; ++r) {
    RowSum sum = kNothing;
    for (int64_t split = 0; split < task.splits; ++split) {
      const float* from = task.partial + (split * task.rows + r) * (2 + dim);
      MergeSplit(sum, total, {from[0], from[1]}, from + 2, dim);
    }
    const int64_t row = task.row_begin + r;
    StoreOutput(task.out + row / task.group * task.out_stride + row % task.group * dim, total, sum, dim);
  }
}

// ---- appending ---------------------------------------------------------------------------------------

static void ConvertToBfloat(const float* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreBfloat(to + i, Load(from + i));
  if (i < count) {
    uint16_t lanes[kLanes];
    StoreBfloat(lanes, LoadFirst(from + i, count - i));
    __builtin_memcpy(to + i, lanes, static_cast<size_t>(count - i) * sizeof(uint16_t));
  }
}

static void ConvertToQ8(const float* from, int8_t* codes, uint16_t* scales, int64_t count) {
  for (int64_t group = 0; group < count; group += kKvScaleGroup, ++scales) {
    const int64_t end = group + kKvScaleGroup < count ? group + kKvScaleGroup : count;
    Ints top = ZeroInts();
    for (int64_t i = group; i < end; i += kLanes) {
      top = MaxInts(top, FloatsToBits(Abs(LoadFirst(from + i, end - i))));
    }
    const int32_t bits = MaxLanesInts(top);
    float largest;
    __builtin_memcpy(&largest, &bits, sizeof largest);
    *scales = static_cast<uint16_t>(_cvtss_sh(largest * (1.0f / 127), _MM_FROUND_TO_NEAREST_INT));
    const float scale = _cvtsh_ss(*scales);
    const bool finite = scale < kInfinity;
    if (!finite) *scales = 0x7e00;  // NaN
    const Floats factor = Set1(finite && scale > 0.0f ? 1.0f / scale : 0.0f);
    for (int64_t i = group; i < end; i += kLanes) {
      int8_t lanes[kLanes];
      const Floats code = Mul(LoadFirst(from + i, end - i), factor);
      StoreInt8(lanes, ToInts(Select(IsNan(code), Zero(), code)));  // 0 times infinity
      const int64_t left = end - i < kLanes ? end - i : kLanes;
      __builtin_memcpy(codes + i, lanes, static_cast<size_t>(left));
    }
  }
}

// Sums of squares in 16 lanes, whatever the vectors of the set: every set writes the same bytes.
static float SumOfSquares16(const float* x, int64_t count) {
  constexpr int kParts = kBlockTokens / kLanes;
  Floats sum[kParts];
  for (int p = 0; p < kParts; ++p) sum[p] = Zero();
  for (int64_t i = 0; i < count; i += kBlockTokens) {
    for (int p = 0; p < kParts; ++p) {
      const Floats v = LoadFirst(x + i + p * kLanes, count - i - p * kLanes);
      sum[p] = Fma(v, v, sum[p]);
    }
  }
  return SumLanes(kParts == 2 ? Add(sum[0], sum[kParts - 1]) : sum[0]);
}
static void CodesOf(const float* from, float factor, int16_t* codes, int64_t count) {
  const Floats by = Set1(factor);
  for (int64_t i = 0; i < AttentionPadded(count); i += kLanes) {
    const Floats code = Mul(LoadFirst(from + i, count - i), by);
    StoreInt16(codes + i, ToInts(Select(IsNan(code), Zero(), code)));  // 0 times infinity
  }
}
static float ConvertKeyToI16(const float* from, int16_t* codes, int64_t count) {
  const float square = SumOfSquares16(from, count), length = __builtin_sqrtf(square);
  CodesOf(from, square > kLeastSquare && square < kInfinity ? kKeyUnit / length : 0.0f, codes, count);
  return square < kInfinity ? length * (1.0f / kKeyUnit) : __builtin_nanf("");
}
static float ConvertValueToI16(const float* from, int16_t* codes, int64_t count) {
  Ints top = ZeroInts();
  for (int64_t i = 0; i < count; i += kLanes) top = MaxInts(top, FloatsToBits(Abs(LoadFirst(from + i, count - i))));
  const int32_t bits = MaxLanesInts(top);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  CodesOf(from, largest > kLeast && largest < kInfinity ? kValueUnit / largest : 0.0f, codes, count);
  return largest < kInfinity ? largest * (1.0f / kValueUnit) : __builtin_nanf("");
}

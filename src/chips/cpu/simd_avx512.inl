// Vectors of 16 floats: AVX-512 F, BW, VL, DQ. Internal linkage throughout (see kernel_table.h).
#define TP_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 16;
using Floats = __m512;
using Ints = __m512i;  // 16 x int32, 32 x int16 or 64 x int8
using Mask = __mmask16;

TP_INLINE Floats Zero() { return _mm512_setzero_ps(); }
TP_INLINE Floats Set1(float x) { return _mm512_set1_ps(x); }
TP_INLINE Floats Load(const float* p) { return _mm512_loadu_ps(p); }
TP_INLINE void Store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
TP_INLINE Mask FirstLanes(int64_t n) {
  return n >= 16 ? Mask{0xffff} : n <= 0 ? Mask{0} : static_cast<Mask>((1u << n) - 1);
}
TP_INLINE Floats LoadFirst(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
// A masked store to memory that is not in the cache holds up an AMD processor.
TP_INLINE void StoreFirst(float* p, Floats v, int64_t n) {
  if (n >= 16) return _mm512_storeu_ps(p, v);
  _mm512_mask_storeu_ps(p, FirstLanes(n), v);
}
TP_INLINE Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
TP_INLINE Floats Sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
TP_INLINE Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
TP_INLINE Floats Div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
TP_INLINE Floats Fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
TP_INLINE Floats NegFma(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
// The second operand where either is NaN.
TP_INLINE Floats Max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
TP_INLINE Floats Min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
TP_INLINE Floats Abs(Floats a) { return _mm512_abs_ps(a); }
TP_INLINE Floats Round(Floats a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TP_INLINE Mask IsNan(Floats a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
TP_INLINE Mask Less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
TP_INLINE bool Any(Mask m) { return m != 0; }
TP_INLINE Mask And(Mask a, Mask b) { return static_cast<Mask>(a & b); }
TP_INLINE Mask AndNot(Mask a, Mask b) { return static_cast<Mask>(~a & b); }
TP_INLINE Floats Select(Mask m, Floats yes, Floats no) { return _mm512_mask_blend_ps(m, no, yes); }
TP_INLINE Floats CopySign(Floats magnitude, Floats sign) {
  return _mm512_or_ps(_mm512_abs_ps(magnitude), _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
TP_INLINE Floats SwapPairs(Floats v) { return _mm512_permute_ps(v, 0xb1); }  // (1, 0, 3, 2 ..)
TP_INLINE Floats ToFloats(Ints v) { return _mm512_cvtepi32_ps(v); }
TP_INLINE Ints ToInts(Floats v) { return _mm512_cvtps_epi32(v); }  // nearest even
TP_INLINE Floats BitsToFloats(Ints v) { return _mm512_castsi512_ps(v); }
TP_INLINE Ints ShiftLeft23(Ints v) { return _mm512_slli_epi32(v, 23); }
TP_INLINE float SumLanes(Floats v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
TP_INLINE float MaxLanes(Floats v) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

TP_INLINE Floats LoadHalf(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
TP_INLINE Floats LoadHalfFirst(const void* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
TP_INLINE Floats LoadBfloat(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
TP_INLINE void StoreHalf(void* p, Floats v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TP_INLINE Floats LoadInt8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
TP_INLINE void StoreInt8(void* p, Ints v) {  // saturating
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(v));
}
// Stores as StoreInt8 and returns the sum of what was stored: bytes are summed by eights, 128 too large each.
TP_INLINE int32_t StoreInt8Sum(void* p, Ints v) {
  const __m128i bytes = _mm512_cvtsepi32_epi8(v);
  _mm_storeu_si128(static_cast<__m128i*>(p), bytes);
  const __m128i sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
}
TP_INLINE int32_t SumInts(Ints v) { return _mm512_reduce_add_epi32(v); }

// ---- attention ----
TP_INLINE Floats Sqrt(Floats a) { return _mm512_sqrt_ps(a); }
// 2^x for x <= 0: a polynomial on [-1/2, 1/2], relative error below 2^-22, exact at 0; 0 below 2^-126 (no
// subnormals: slow on some processors); NaN stays NaN.
TP_INLINE Floats Exp2(Floats x) {
  const Floats r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // 0 for -inf
  Floats p = Set1(1.326472731307149e-3f);
  p = Fma(p, r, Set1(9.671512991189957e-3f));
  p = Fma(p, r, Set1(5.550733581185341e-2f));
  p = Fma(p, r, Set1(0.24022242426872253f));
  p = Fma(p, r, Set1(0.6931470036506653f));
  p = Fma(p, r, Set1(1.0f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, Set1(-126.0f), _CMP_NLT_UQ), p, Sub(x, r));
}
TP_INLINE Floats LoadBfloatFirst(const void* p, int64_t n) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
TP_INLINE Floats LoadInt8First(const void* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(FirstLanes(n), p)));
}
TP_INLINE Floats SetHalf(const void* p) {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof half);
  return _mm512_set1_ps(_cvtsh_ss(half));
}
// Nearest even; NaN stays NaN.
TP_INLINE void StoreBfloat(void* p, Floats v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i chosen = _mm512_mask_blend_epi32(IsNan(v), rounded, quiet);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}
TP_INLINE void StoreInt16(void* p, Ints v) {  // saturating
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(v));
}
TP_INLINE void StoreInts(void* p, Ints v) { _mm512_storeu_si512(p, v); }
// The low halves of both: (low, high) pairs of int16.
TP_INLINE Ints PairInts(Ints low, Ints high) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
}
TP_INLINE Ints FloatsToBits(Floats v) { return _mm512_castps_si512(v); }
TP_INLINE Ints MaxInts(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
// The largest magnitude of n f16 or bf16, as bits.
TP_INLINE uint32_t LargestBits16(const void* p, int64_t n) {
  const auto* from = static_cast<const uint16_t*>(p);
  __m512i top = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 32) {
    const __m512i v = n - i >= 32 ? _mm512_loadu_si512(from + i)
                                  : _mm512_maskz_loadu_epi16((__mmask32{1} << (n - i)) - 1, from + i);
    top = _mm512_max_epu16(top, _mm512_and_si512(v, _mm512_set1_epi16(0x7fff)));
  }
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
  const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
  return 0xffffu ^ static_cast<uint32_t>(_mm_extract_epi16(least, 0));
}
TP_INLINE int32_t MaxLanesInts(Ints v) { return _mm512_reduce_max_epi32(v); }
// sum + a0 b0 + a1 b1 of int16 pairs.
#if defined(__AVX512VNNI__)
TP_INLINE Ints DotPairs(Ints sum, Ints a, Ints b) {
  // For the builtin g++ 12 copies the sum before and after every product.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#else
TP_INLINE Ints DotPairs(Ints sum, Ints a, Ints b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
#endif

// ---- integer dot products ----
TP_INLINE Ints ZeroInts() { return _mm512_setzero_si512(); }
// The first and the second of pairs of int16.
TP_INLINE Ints FirstOfPairs(Ints v) { return _mm512_srai_epi32(_mm512_slli_epi32(v, 16), 16); }
TP_INLINE Ints SecondOfPairs(Ints v) { return _mm512_srai_epi32(v, 16); }
TP_INLINE Ints LoadInts(const void* p) { return _mm512_loadu_si512(p); }
TP_INLINE Ints SetInt(int32_t x) { return _mm512_set1_epi32(x); }
TP_INLINE Ints BroadcastInt(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return _mm512_set1_epi32(value);
}
TP_INLINE Floats BroadcastFloat(const void* p) { return BitsToFloats(BroadcastInt(p)); }
TP_INLINE Ints BroadcastTable(const void* p) {  // 16 bytes into every 128-bit lane
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
TP_INLINE Ints AndInts(Ints a, Ints b) { return _mm512_and_si512(a, b); }
TP_INLINE Ints OrInts(Ints a, Ints b) { return _mm512_or_si512(a, b); }
TP_INLINE Ints SetByte(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
TP_INLINE Ints Set16(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
template <int kBits>
TP_INLINE Ints ShiftRight16(Ints v) {
  return _mm512_srli_epi16(v, kBits);
}
template <int kBits>
TP_INLINE Ints ShiftLeft16(Ints v) {
  return _mm512_slli_epi16(v, kBits);
}
TP_INLINE Ints Lookup(Ints table, Ints index) { return _mm512_shuffle_epi8(table, index); }
TP_INLINE Ints AddInt32(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
TP_INLINE Ints AddInt16(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
TP_INLINE Ints MulAddBytes(Ints u, Ints s) { return _mm512_maddubs_epi16(u, s); }  // unsigned x signed, pairs
TP_INLINE Ints MulAdd16(Ints a, Ints b) { return _mm512_madd_epi16(a, b); }
#if defined(__AVX512VNNI__)
#define TP_HAS_DOT 1
TP_INLINE Ints DotBytes(Ints sum, Ints u, Ints s) { return _mm512_dpbusd_epi32(sum, u, s); }
#else
#define TP_HAS_DOT 0
TP_INLINE Ints DotBytes(Ints sum, Ints, Ints) { return sum; }
#endif

constexpr int kRegisters = 32;
constexpr int kLinearRows = 8;    // rows of x that share one unpacking of a weight block
constexpr int kFloatVectors = 1;  // vectors of a panel
constexpr int kFloatRows = 8;
constexpr int kFloatPanels = 2;     // panels at once for many rows
constexpr int kAttentionSums = 24;  // accumulators of the attention loops at most

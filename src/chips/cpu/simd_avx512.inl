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
TP_INLINE void StoreFirst(float* p, Floats v, int64_t n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
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
TP_INLINE int32_t SumInts(Ints v) { return _mm512_reduce_add_epi32(v); }

// ---- integer dot products ----
TP_INLINE Ints ZeroInts() { return _mm512_setzero_si512(); }
TP_INLINE Ints LoadInts(const void* p) { return _mm512_loadu_si512(p); }
TP_INLINE void StoreInts(void* p, Ints v) { _mm512_storeu_si512(p, v); }
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
constexpr int kAttentionSums = 16;  // accumulators of the attention loops at most

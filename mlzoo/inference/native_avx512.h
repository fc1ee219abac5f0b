// Sixteen numbers at once, in one register, and sixteen outputs' products, by AVX-512 with VNNI. Beside it lies the same
// by AVX2: both give the same bits.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr int MOST_ROWS = 8;    // of which products are added up together: what registers hold
constexpr int MOST_GROUPS = 8;  // queries that are attended with together
constexpr int64_t SPAN = 32;    // of a head's width that is added up in registers

using F16 = __m512;
using I16 = __m512i;
using Mask = __mmask16;

inline F16 loaded(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, F16 numbers) { _mm512_storeu_ps(to, numbers); }
inline F16 all(float number) { return _mm512_set1_ps(number); }
inline F16 add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
inline F16 subtract(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
inline F16 multiply(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
inline F16 multiply_add(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
inline F16 greater(F16 a, F16 b) { return _mm512_max_ps(a, b); }  // b, where one of them is no number
inline F16 select(Mask mask, F16 one, F16 other) { return _mm512_mask_mov_ps(other, mask, one); }
inline Mask equal(F16 a, F16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

inline F16 to_nearest(F16 numbers) {
  return _mm512_roundscale_ps(numbers, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// `number` times 2 to the power of `twos`, which are whole and -126 at least.
inline F16 times_power(F16 numbers, F16 twos) { return _mm512_scalef_ps(numbers, twos); }

inline float sum_of(F16 numbers) { return _mm512_reduce_add_ps(numbers); }
inline float greatest_of(F16 numbers) { return _mm512_reduce_max_ps(numbers); }

inline F16 widened(const uint16_t* from) {
  __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

inline F16 from_half(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

// Rounds to the nearest, ties to even; what is no number stays none.
inline void store_narrowed(uint16_t* to, F16 numbers) {
  __m512i bits = _mm512_castps_si512(numbers);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(rounded));
}

// Which of 16 bytes are not 0; of those beyond `there`, none is read.
inline Mask which(const uint8_t* bytes, int64_t there) {
  __m128i read = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << there) - 1), bytes);
  return _mm_test_epi8_mask(read, read);
}

// The bits of the number that is farthest from 0, without its sign: of those, bits are in the order of numbers.
inline int32_t farthest(F16 first, F16 second) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  return _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(first), magnitude),
                                                  _mm512_and_si512(_mm512_castps_si512(second), magnitude)));
}

inline I16 whole(F16 numbers) { return _mm512_cvtps_epi32(numbers); }
inline int32_t sum_of(I16 first, I16 second) { return _mm512_reduce_add_epi32(_mm512_add_epi32(first, second)); }
inline F16 as_floats(I16 numbers) { return _mm512_cvtepi32_ps(numbers); }

// Writes a group's 32 numbers of 16 bits, 64 bytes. The processor multiplies 8 bits by 8: a number is 256 times its high
// part and its low part, and of a group come 32 high parts, then 32 low ones.
inline void store_group(uint8_t* to, I16 first, I16 second) {
  const I16 halves[] = {first, second};
  for (int half = 0; half < 2; ++half) {
    __m512i high = _mm512_srai_epi32(_mm512_add_epi32(halves[half], _mm512_set1_epi32(128)), 8);
    __m512i low = _mm512_sub_epi32(halves[half], _mm512_slli_epi32(high, 8));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * half), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 32 + 16 * half), _mm512_cvtepi32_epi8(low));
  }
}

// Products of some rows' groups, `stride` bytes apart, with the steps of 16 outputs' weights: by fours of inputs, and
// with 4 bits, two fours in the same bytes.
template <int ROWS, int BITS>
inline void multiply_group(const uint8_t* weights, const uint8_t* rows, int64_t stride, I16* sums) {
  constexpr int FOURS = 8;
  __m512i steps[FOURS];
  if (BITS == 4) {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int f = 0; f < FOURS / 2; ++f) {
      __m512i both = _mm512_loadu_si512(weights + 64 * f);
      steps[f] = _mm512_and_si512(both, low);
      steps[f + FOURS / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
  } else {
#pragma GCC unroll 8
    for (int f = 0; f < FOURS; ++f) steps[f] = _mm512_loadu_si512(weights + 64 * f);
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    const int32_t* fours = reinterpret_cast<const int32_t*>(rows + r * stride);
    __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int f = 0; f < FOURS; ++f) {
      high = _mm512_dpbusd_epi32(high, steps[f], _mm512_set1_epi32(fours[f]));
      low = _mm512_dpbusd_epi32(low, steps[f], _mm512_set1_epi32(fours[FOURS + f]));
    }
    sums[r] = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  }
}

// Turns 16 keys' numbers, [16, 16] at `from`, into [16, 16] at `to` in 32 bits, where a line is a number of all keys.
inline void turned(const uint16_t* from, int64_t line, int64_t count, float* to) {
  __m512 rows[16], pairs[16];
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) rows[t] = t < count ? widened(from + t * line) : _mm512_setzero_ps();
#pragma GCC unroll 8
  for (int t = 0; t < 16; t += 2) {
    pairs[t] = _mm512_unpacklo_ps(rows[t], rows[t + 1]);
    pairs[t + 1] = _mm512_unpackhi_ps(rows[t], rows[t + 1]);
  }
#pragma GCC unroll 4
  for (int t = 0; t < 16; t += 4) {
    __m512d a = _mm512_castps_pd(pairs[t]), b = _mm512_castps_pd(pairs[t + 1]);
    __m512d c = _mm512_castps_pd(pairs[t + 2]), d = _mm512_castps_pd(pairs[t + 3]);
    rows[t] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    rows[t + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    rows[t + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    rows[t + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int n = 0; n < 4; ++n) {  // Numbers n, n + 4, n + 8 and n + 12 of all keys.
    __m512 low = _mm512_shuffle_f32x4(rows[n], rows[4 + n], 0x88);
    __m512 high = _mm512_shuffle_f32x4(rows[8 + n], rows[12 + n], 0x88);
    __m512 odd_low = _mm512_shuffle_f32x4(rows[n], rows[4 + n], 0xdd);
    __m512 odd_high = _mm512_shuffle_f32x4(rows[8 + n], rows[12 + n], 0xdd);
    _mm512_storeu_ps(to + 16 * n, _mm512_shuffle_f32x4(low, high, 0x88));
    _mm512_storeu_ps(to + 16 * (n + 8), _mm512_shuffle_f32x4(low, high, 0xdd));
    _mm512_storeu_ps(to + 16 * (n + 4), _mm512_shuffle_f32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_ps(to + 16 * (n + 12), _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd));
  }
}

inline bool is_supported() {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace

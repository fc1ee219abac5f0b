// Sixteen numbers at once, in two registers, and sixteen outputs' products, by AVX2. Beside it lies the same by AVX-512:
// both give the same bits.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr int MOST_ROWS = 16;   // of which products are added up together
constexpr int MOST_GROUPS = 3;  // queries that are attended with together
constexpr int64_t SPAN = 16;    // of a head's width that is added up in registers

struct F16 {
  __m256 low, high;
};
struct I16 {
  __m256i low, high;
};
using Mask = F16;  // all bits of a number, or none

inline F16 loaded(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, F16 numbers) { _mm256_storeu_ps(to, numbers.low), _mm256_storeu_ps(to + 8, numbers.high); }
inline F16 all(float number) { return {_mm256_set1_ps(number), _mm256_set1_ps(number)}; }
inline F16 add(F16 a, F16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F16 subtract(F16 a, F16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F16 multiply(F16 a, F16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F16 multiply_add(F16 a, F16 b, F16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F16 greater(F16 a, F16 b) {  // b, where one of them is no number
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline F16 select(Mask mask, F16 one, F16 other) {
  return {_mm256_blendv_ps(other.low, one.low, mask.low), _mm256_blendv_ps(other.high, one.high, mask.high)};
}
inline Mask equal(F16 a, F16 b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)};
}

inline F16 to_nearest(F16 numbers) {
  constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(numbers.low, NEAREST), _mm256_round_ps(numbers.high, NEAREST)};
}

inline __m256 power_of_2(__m256 twos) {
  __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(twos), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

// `number` times 2 to the power of `twos`, which are whole and -126 at least. What is no number stays none.
inline F16 times_power(F16 numbers, F16 twos) {
  return multiply(numbers, {power_of_2(twos.low), power_of_2(twos.high)});
}

// Halves are taken together, then halves of those: the order that AVX-512 has.
inline float sum_of(F16 numbers) {
  __m256 eight = _mm256_add_ps(numbers.high, numbers.low);
  __m128 four = _mm_add_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float greatest_of(F16 numbers) {
  __m256 eight = _mm256_max_ps(numbers.high, numbers.low);
  __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline __m256 widened_8(const uint16_t* from) {
  __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}

inline F16 widened(const uint16_t* from) { return {widened_8(from), widened_8(from + 8)}; }

inline F16 from_half(const uint8_t* from) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16)))};
}

inline __m256i narrowed_8(__m256 numbers) {
  __m256i bits = _mm256_castps_si256(numbers);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  __m256i is_none = _mm256_castps_si256(_mm256_cmp_ps(numbers, numbers, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_none);
}

// Rounds to the nearest, ties to even; what is no number stays none.
inline void store_narrowed(uint16_t* to, F16 numbers) {
  __m256i packed = _mm256_packus_epi32(narrowed_8(numbers.low), narrowed_8(numbers.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
}

inline __m256 mask_of(__m128i bytes) {
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_setzero_si256()));
}

// Which of 16 bytes are not 0; of those beyond `there`, none is read.
inline Mask which(const uint8_t* bytes, int64_t there) {
  uint8_t own[16] = {};
  if (there < 16) bytes = static_cast<uint8_t*>(std::memcpy(own, bytes, there));
  __m128i read = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  return {mask_of(read), mask_of(_mm_srli_si128(read, 8))};
}

inline __m256i magnitude(__m256 numbers) {
  return _mm256_and_si256(_mm256_castps_si256(numbers), _mm256_set1_epi32(0x7fffffff));
}

// The bits of the number that is farthest from 0, without its sign: of those, bits are in the order of numbers.
inline int32_t farthest(F16 first, F16 second) {
  __m256i eight = _mm256_max_epi32(_mm256_max_epi32(magnitude(first.low), magnitude(first.high)),
                                   _mm256_max_epi32(magnitude(second.low), magnitude(second.high)));
  __m128i four = _mm_max_epi32(_mm256_extracti128_si256(eight, 1), _mm256_castsi256_si128(eight));
  __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

inline I16 whole(F16 numbers) { return {_mm256_cvtps_epi32(numbers.low), _mm256_cvtps_epi32(numbers.high)}; }

inline int32_t sum_of(I16 first, I16 second) {
  __m256i eight = _mm256_add_epi32(_mm256_add_epi32(first.low, first.high), _mm256_add_epi32(second.low, second.high));
  __m128i four = _mm_add_epi32(_mm256_extracti128_si256(eight, 1), _mm256_castsi256_si128(eight));
  __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

inline F16 as_floats(I16 numbers) { return {_mm256_cvtepi32_ps(numbers.low), _mm256_cvtepi32_ps(numbers.high)}; }

// Writes a group's 32 numbers of 16 bits, 64 bytes: of each four 0, 2, 1 and 3, since of weights in 8 bits that lie in
// 32, the even two and the odd two come apart at once.
inline void store_group(uint8_t* to, I16 first, I16 second) {
  const I16 halves[] = {first, second};
  for (int half = 0; half < 2; ++half) {
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(halves[half].low, halves[half].high), 0xd8);
    packed = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(packed, 0xd8), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32 * half), packed);
  }
}

// Steps of 16 outputs' weights, of two inputs each in 16 bits.
struct Pair {
  __m256i left, right;
};

// Hands over a group's steps by pairs of inputs, with the place of each among a row's. With 4 bits, two fours of inputs
// lie in the same bytes.
template <int BITS, class Take>
inline void by_pairs(const uint8_t* weights, Take take) {
  constexpr int64_t HALF = 16;  // numbers, after which those of the other four come
  const __m256i mask = _mm256_set1_epi32(BITS == 4 ? 0x000f000f : 0x00ff00ff);
#pragma GCC unroll 1
  for (int64_t place = 0; place < 16 * BITS / 8; place += 2, weights += 64) {
    __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32));
#pragma GCC unroll 4
    for (int part = 0; part < 16 / BITS; ++part) {  // Even and odd ones of a four; between them those of the other.
      const int64_t among = BITS == 8 ? part : part / 2 + HALF / 2 * (part % 2);
      take(Pair{_mm256_and_si256(left, mask), _mm256_and_si256(right, mask)}, place + among);
      left = _mm256_srli_epi16(left, BITS), right = _mm256_srli_epi16(right, BITS);
    }
  }
}

// Adds the products of a pair with those of some rows, `stride` bytes apart.
template <int ROWS>
inline void multiply_pair(Pair pair, const uint8_t* rows, int64_t stride, __m256i* low, __m256i* high) {
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r) {
    int32_t numbers;
    std::memcpy(&numbers, rows + r * stride, sizeof numbers);
    const __m256i both = _mm256_set1_epi32(numbers);
    low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(pair.left, both));
    high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(pair.right, both));
  }
}

// Products of some rows' groups, `stride` bytes apart, with the steps of 16 outputs' weights. Registers hold four rows:
// for more of them, steps are made numbers of 16 bits once, and lie in the nearest cache.
template <int ROWS, int BITS>
inline void multiply_group(const uint8_t* weights, const uint8_t* rows, int64_t stride, I16* sums) {
  constexpr int AT_ONCE = ROWS < 4 ? ROWS : 4;
  Pair steps[16];
  if constexpr (ROWS > AT_ONCE) by_pairs<BITS>(weights, [&](Pair pair, int64_t place) { steps[place] = pair; });
#pragma GCC unroll 1
  for (int first = 0; first < ROWS; first += AT_ONCE, rows += AT_ONCE * stride) {
    __m256i low[AT_ONCE], high[AT_ONCE];
#pragma GCC unroll 4
    for (int r = 0; r < AT_ONCE; ++r) low[r] = high[r] = _mm256_setzero_si256();
    if constexpr (ROWS > AT_ONCE) {
#pragma GCC unroll 1
      for (int64_t place = 0; place < 16; ++place)
        multiply_pair<AT_ONCE>(steps[place], rows + 4 * place, stride, low, high);
    } else {
      by_pairs<BITS>(weights, [&](Pair pair, int64_t place) {
        multiply_pair<AT_ONCE>(pair, rows + 4 * place, stride, low, high);
      });
    }
#pragma GCC unroll 4
    for (int r = 0; r < AT_ONCE; ++r) sums[first + r] = {low[r], high[r]};
  }
}

// Turns 8 keys' numbers into [8, 16] at `to`, where a line is a number of all keys.
inline void turned_8(const __m256* rows, float* to) {
  __m256 pairs[8], fours[8];
#pragma GCC unroll 4
  for (int t = 0; t < 8; t += 2) {
    pairs[t] = _mm256_unpacklo_ps(rows[t], rows[t + 1]);
    pairs[t + 1] = _mm256_unpackhi_ps(rows[t], rows[t + 1]);
  }
#pragma GCC unroll 2
  for (int t = 0; t < 8; t += 4) {
    fours[t] = _mm256_shuffle_ps(pairs[t], pairs[t + 2], 0x44);
    fours[t + 1] = _mm256_shuffle_ps(pairs[t], pairs[t + 2], 0xee);
    fours[t + 2] = _mm256_shuffle_ps(pairs[t + 1], pairs[t + 3], 0x44);
    fours[t + 3] = _mm256_shuffle_ps(pairs[t + 1], pairs[t + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int n = 0; n < 4; ++n) {  // Numbers n and n + 4 of all keys.
    _mm256_storeu_ps(to + 16 * n, _mm256_permute2f128_ps(fours[n], fours[4 + n], 0x20));
    _mm256_storeu_ps(to + 16 * (n + 4), _mm256_permute2f128_ps(fours[n], fours[4 + n], 0x31));
  }
}

// Turns 16 keys' numbers, [16, 16] at `from`, into [16, 16] at `to` in 32 bits, where a line is a number of all keys.
inline void turned(const uint16_t* from, int64_t line, int64_t count, float* to) {
  for (int keys = 0; keys < 16; keys += 8)
    for (int numbers = 0; numbers < 16; numbers += 8) {
      __m256 rows[8];
#pragma GCC unroll 8
      for (int t = 0; t < 8; ++t)
        rows[t] = keys + t < count ? widened_8(from + (keys + t) * line + numbers) : _mm256_setzero_ps();
      turned_8(rows, to + 16 * numbers + keys);
    }
}

inline bool is_supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // Compilers do not all know F16C's name.
}

}  // namespace

// The two kernels that a decode step waits for: products with weights in 4 or 8 bits, and attention over slots.
//
// Knows memory and one processor's instructions (AVX-512 with VNNI); nothing of models or requests. Each number is added
// up in an order that depends on nothing but its own row: neither on other rows nor on how many threads compute, so that
// a row comes out the same in every company. Compiled by `native.py`, which says how it is called.

#include <cstdint>

extern "C" {
// The part of torch's C interface that a compiled step calls a kernel through (torch/csrc/inductor/aoti_torch/c/shim.h).
typedef struct AtenTensorOpaque* Tensor;
int32_t aoti_torch_get_data_ptr(Tensor, void**);
int32_t aoti_torch_get_sizes(Tensor, int64_t**);
int32_t aoti_torch_get_strides(Tensor, int64_t**);
int32_t aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, Tensor*);
int32_t aoti_torch_dtype_bfloat16(void);
int32_t aoti_torch_dtype_float32(void);
int32_t aoti_torch_device_type_cpu(void);
}

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))

namespace {

constexpr int64_t GROUP = 32;  // neighbouring inputs that share a step
constexpr float MOST_STEPS = 127 * 256;  // of a row's number, either way
constexpr int64_t WIDTH = 16;  // outputs that are computed together
constexpr int MOST_GROUPS = 8;  // heads of queries that share keys and values
constexpr int MOST_PARTS = 8;   // of 16 numbers, that a head is wide
constexpr int64_t SPAN = 32;  // of a head's width that is added up in registers
constexpr int64_t MOST_SCORES = 64 * 1024;  // of what is attended together
constexpr int ROWS_TOGETHER = 4;  // of one slot, that read its keys and values together

VNNI inline __m512 widened(const uint16_t* from) {
  __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

// Rounds to the nearest, ties to even; what is no number stays none.
VNNI inline void store_narrowed(uint16_t* to, __m512 numbers) {
  __m512i bits = _mm512_castps_si512(numbers);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(rounded));
}

VNNI inline void store(uint16_t* to, __m512 numbers) { store_narrowed(to, numbers); }
VNNI inline void store(float* to, __m512 numbers) { _mm512_storeu_ps(to, numbers); }

// Logits are weights in 8 bits, and not rounded: in 16 bits, the likeliest of them would often be equal.
template <int BITS>
using Out = std::conditional_t<BITS == 8, float, uint16_t>;

// Rows in 16 bits, of each group of their own steps. A whole number is 256 times its high part and its low part, since
// the processor multiplies 8 bits by 8: of each group, 32 high parts and then 32 low ones.
struct Rows {
  int8_t* numbers;  // [rows, groups, 64]
  float* sizes;     // of a step, [rows, groups]
  float* sums;      // of a group's numbers, [rows, groups]
};

VNNI void in_16_bits(const uint16_t* row, int64_t groups, int8_t* numbers, float* sizes, float* sums) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t g = 0; g < groups; ++g, row += GROUP, numbers += 2 * GROUP) {
    __m512 halves[2] = {widened(row), widened(row + 16)};
    __m512i both = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(halves[0]), magnitude),
                                    _mm512_and_si512(_mm512_castps_si512(halves[1]), magnitude));
    int32_t bits = _mm512_reduce_max_epi32(both);  // Of numbers without a sign, bits are in the order of numbers.
    if (bits >= 0x7f800000) {  // Infinite, or no number: so are all outputs of this row, and of no other.
      sizes[g] = sums[g] = NAN;
      std::memset(numbers, 0, 2 * GROUP);
      continue;
    }
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const bool is_nothing = most < 1e-30f;
    const __m512 steps = _mm512_set1_ps(is_nothing ? 0.0f : MOST_STEPS / most);
    sizes[g] = is_nothing ? 0.0f : most / MOST_STEPS;
    __m512i sum = _mm512_setzero_si512();
    for (int half = 0; half < 2; ++half) {
      __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(halves[half], steps));
      __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
      __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
      sum = _mm512_add_epi32(sum, whole);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers + 16 * half), _mm512_cvtepi32_epi8(high));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers + GROUP + 16 * half), _mm512_cvtepi32_epi8(low));
    }
    sums[g] = sizes[g] * static_cast<float>(_mm512_reduce_add_epi32(sum));
  }
}

// Some rows of 16 outputs. A block of weights is a group's 32 inputs of 16 outputs: steps above the least, by fours of
// inputs (with 4 bits, two fours share bytes), then the sizes of steps and the least weights in 16 bits.
template <int ROWS, int BITS>
VNNI inline void products(const uint8_t* weights, int64_t groups, Rows rows, Out<BITS>* out, int64_t outputs) {
  constexpr int FOURS = GROUP / 4;
  const int64_t stride = groups * 2 * GROUP;
  __m512 added[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) added[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
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
    weights += 64 * BITS;
    __m512 size = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights)));
    __m512 least = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32)));
    weights += 64;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const int32_t* fours = reinterpret_cast<const int32_t*>(rows.numbers + r * stride + g * 2 * GROUP);
      __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int f = 0; f < FOURS; ++f) {
        high = _mm512_dpbusd_epi32(high, steps[f], _mm512_set1_epi32(fours[f]));
        low = _mm512_dpbusd_epi32(low, steps[f], _mm512_set1_epi32(fours[FOURS + f]));
      }
      __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
      __m512 scale = _mm512_mul_ps(size, _mm512_set1_ps(rows.sizes[r * groups + g]));
      added[r] = _mm512_fmadd_ps(sum, scale, added[r]);
      added[r] = _mm512_fmadd_ps(least, _mm512_set1_ps(rows.sums[r * groups + g]), added[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) store(out + r * outputs, added[r]);
}

template <int BITS>
VNNI void columns(const uint8_t* weights, int64_t count, int64_t groups, Rows rows, Out<BITS>* out, int64_t outputs) {
  int64_t r = 0;
  auto from = [&](int64_t row) {
    return Rows{rows.numbers + row * groups * 2 * GROUP, rows.sizes + row * groups, rows.sums + row * groups};
  };
  for (; r + 8 <= count; r += 8) products<8, BITS>(weights, groups, from(r), out + r * outputs, outputs);
  for (; r + 4 <= count; r += 4) products<4, BITS>(weights, groups, from(r), out + r * outputs, outputs);
  for (; r + 2 <= count; r += 2) products<2, BITS>(weights, groups, from(r), out + r * outputs, outputs);
  for (; r < count; ++r) products<1, BITS>(weights, groups, from(r), out + r * outputs, outputs);
}

// e to the power of numbers that are 0 at most, to about 1e-7 of it: 2 to a whole number, and a polynomial for the rest.
VNNI inline __m512 exponential(__m512 numbers) {
  // What is no number stays none: the second of the two is what a maximum with it gives.
  __m512 twos = _mm512_max_ps(_mm512_set1_ps(-126.0f), _mm512_mul_ps(numbers, _mm512_set1_ps(1.44269504f)));
  __m512 whole = _mm512_roundscale_ps(twos, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 rest = _mm512_sub_ps(twos, whole);
  __m512 power = _mm512_set1_ps(1.5353362e-4f);
  for (float next : {1.3398874e-3f, 9.6184373e-3f, 5.5503324e-2f, 2.4022648e-1f, 6.9314720e-1f, 1.0f})
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(next));
  return _mm512_scalef_ps(power, whole);
}

struct Slots {
  const uint16_t* keys;    // [lines, heads of keys, dim]
  const uint16_t* values;  // as keys
  int64_t heads, dim, line;
};

// A query: one head of one row, of those that share keys and values.
struct Query {
  const uint16_t* numbers;  // [dim]
  const uint8_t* seen;      // [extent]
  uint16_t* out;            // [dim]
  float* scores;            // [extent, padded to a multiple of 16]
  float wide[MOST_PARTS * 16];
  float sums[MOST_PARTS * 16];
  float share;
};

// Turns 16 keys' numbers, [16, 16] at `from`, into [16, 16] at `to` in 32 bits, where a line is a number of all keys.
VNNI inline void turned(const uint16_t* from, int64_t line, int64_t count, float* to) {
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

// Scores of 16 keys from t on: each is added up from its even and its odd numbers, in whatever company.
template <int COUNT>
VNNI inline void score(Query* queries, const float* keys, int64_t dim, int64_t t, __mmask16 there, float scale) {
  __m512 even[COUNT], odd[COUNT];
#pragma GCC unroll 8
  for (int q = 0; q < COUNT; ++q) even[q] = odd[q] = _mm512_setzero_ps();
  for (int64_t d = 0; d < dim; d += 2) {
    const __m512 first = _mm512_loadu_ps(keys + 16 * d), second = _mm512_loadu_ps(keys + 16 * d + 16);
#pragma GCC unroll 8
    for (int q = 0; q < COUNT; ++q) {
      even[q] = _mm512_fmadd_ps(_mm512_set1_ps(queries[q].wide[d]), first, even[q]);
      odd[q] = _mm512_fmadd_ps(_mm512_set1_ps(queries[q].wide[d + 1]), second, odd[q]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < COUNT; ++q) {
    __m512 sum = _mm512_mul_ps(_mm512_add_ps(even[q], odd[q]), _mm512_set1_ps(scale));
    __m128i is_seen = _mm_maskz_loadu_epi8(there, queries[q].seen + t);
    __mmask16 seen = _mm_test_epi8_mask(is_seen, is_seen);
    _mm512_storeu_ps(queries[q].scores + t, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, sum));
  }
}

// Makes scores weights that are 0 at least; their sum is one over `share`.
VNNI inline void weigh(Query& query, int64_t padded) {
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
  for (int64_t t = 0; t < padded; t += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(query.scores + t));
  const __m512 greatest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t t = 0; t < padded; t += 16) {
    __m512 scores = _mm512_loadu_ps(query.scores + t);
    __mmask16 hidden = _mm512_cmp_ps_mask(scores, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
    __m512 weights = _mm512_mask_mov_ps(exponential(_mm512_sub_ps(scores, greatest)), hidden, _mm512_setzero_ps());
    _mm512_storeu_ps(query.scores + t, weights);
    total = _mm512_add_ps(total, weights);
  }
  query.share = 1.0f / _mm512_reduce_add_ps(total);
}

// Adds to what queries get of the values from t on.
template <int COUNT>
VNNI inline void mix(Query* queries, const uint16_t* values, Slots slots, int64_t t, int64_t end) {
  for (int64_t from = 0; from < slots.dim; from += SPAN) {
    const bool is_wide = slots.dim - from >= SPAN;
    __m512 first[COUNT], second[COUNT];
#pragma GCC unroll 8
    for (int q = 0; q < COUNT; ++q) {
      first[q] = _mm512_loadu_ps(queries[q].sums + from);
      second[q] = is_wide ? _mm512_loadu_ps(queries[q].sums + from + 16) : _mm512_setzero_ps();
    }
    for (int64_t at = t; at < end; ++at) {
      const uint16_t* line = values + at * slots.line + from;
      const __m512 low = widened(line), high = is_wide ? widened(line + 16) : low;
#pragma GCC unroll 8
      for (int q = 0; q < COUNT; ++q) {
        if (!queries[q].seen[at]) continue;  // What lies there need not be a number.
        const __m512 weight = _mm512_set1_ps(queries[q].scores[at]);
        first[q] = _mm512_fmadd_ps(weight, low, first[q]);
        second[q] = _mm512_fmadd_ps(weight, high, second[q]);
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < COUNT; ++q) {
      _mm512_storeu_ps(queries[q].sums + from, first[q]);
      if (is_wide) _mm512_storeu_ps(queries[q].sums + from + 16, second[q]);
    }
  }
}

using Score = void (*)(Query*, const float*, int64_t, int64_t, __mmask16, float);
using Mix = void (*)(Query*, const uint16_t*, Slots, int64_t, int64_t);
constexpr Score SCORES[] = {score<1>, score<2>, score<3>, score<4>, score<5>, score<6>, score<7>, score<8>};
constexpr Mix MIXES[] = {mix<1>, mix<2>, mix<3>, mix<4>, mix<5>, mix<6>, mix<7>, mix<8>};

// Some rows of one slot, from all heads that share some heads of keys and values; each of those has so many queries.
// Lines are read once, for all heads.
VNNI void attend(Slots slots, int64_t first_line, int64_t head, int64_t heads, Query* queries, int count, int64_t extent,
                 float scale) {
  const uint16_t* keys = slots.keys + first_line * slots.line + head * slots.dim;
  const uint16_t* values = slots.values + first_line * slots.line + head * slots.dim;
  for (int q = 0; q < heads * count; ++q)
    for (int64_t p = 0; p < slots.dim; p += 16) {
      _mm512_storeu_ps(queries[q].wide + p, widened(queries[q].numbers + p));
      _mm512_storeu_ps(queries[q].sums + p, _mm512_setzero_ps());
    }
  float block[MOST_PARTS * 16 * 16];
  for (int64_t t = 0; t < extent; t += 16) {
    const int64_t there = std::min<int64_t>(16, extent - t);
    for (int64_t h = 0; h < heads; ++h) {
      const uint16_t* from = keys + t * slots.line + h * slots.dim;
      for (int64_t p = 0; p < slots.dim; p += 16) turned(from + p, slots.line, there, block + 16 * p);
      Query* own = queries + h * count;
      for (int q = 0; q < count; q += MOST_GROUPS)
        SCORES[std::min(MOST_GROUPS, count - q) - 1](own + q, block, slots.dim, t, (1u << there) - 1, scale);
    }
  }
  for (int q = 0; q < heads * count; ++q) weigh(queries[q], (extent + 15) / 16 * 16);
  for (int64_t t = 0; t < extent; t += 16)
    for (int64_t h = 0; h < heads; ++h)
      for (int q = 0; q < count; q += MOST_GROUPS)
        MIXES[std::min(MOST_GROUPS, count - q) - 1](queries + h * count + q, values + h * slots.dim, slots, t,
                                                    std::min(t + 16, extent));
  for (int q = 0; q < heads * count; ++q)
    for (int64_t p = 0; p < slots.dim; p += 16)
      store_narrowed(queries[q].out + p,
                     _mm512_mul_ps(_mm512_loadu_ps(queries[q].sums + p), _mm512_set1_ps(queries[q].share)));
}

}  // namespace

extern "C" {

int mlzoo_supported(void) {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

void mlzoo_w4a16(const uint8_t* ordered, int64_t bits, const uint16_t* x, void* out, int64_t rows, int64_t inputs,
                int64_t outputs) {
  const int64_t groups = inputs / GROUP, tiles = outputs / WIDTH, tile_bytes = groups * 64 * (bits + 1);
  static thread_local std::vector<int8_t> numbers;
  static thread_local std::vector<float> sizes, sums;
  numbers.resize(2 * rows * inputs), sizes.resize(rows * groups), sums.resize(rows * groups);
  const Rows all{numbers.data(), sizes.data(), sums.data()};
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r)
      in_16_bits(x + r * inputs, groups, all.numbers + 2 * r * inputs, all.sizes + r * groups, all.sums + r * groups);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles; ++t) {
      if (bits == 4)
        columns<4>(ordered + t * tile_bytes, rows, groups, all, static_cast<uint16_t*>(out) + t * WIDTH, outputs);
      else
        columns<8>(ordered + t * tile_bytes, rows, groups, all, static_cast<float*>(out) + t * WIDTH, outputs);
    }
  }
}

void mlzoo_attention(const uint16_t* query, const uint16_t* keys, const uint16_t* values, const int64_t* first_lines,
                     const uint8_t* seen, uint16_t* out, int64_t rows, int64_t heads, int64_t key_heads, int64_t dim,
                     int64_t extent, double scale) {
  const int64_t groups = heads / key_heads, padded = (extent + 15) / 16 * 16;
  const Slots slots{keys, values, key_heads, dim, key_heads * dim};
  static thread_local std::vector<int64_t> starts;  // of rows that are taken together
  starts.clear();
  for (int64_t row = 0; row < rows; ++row)
    if (!row || first_lines[row] != first_lines[row - 1] || row - starts.back() == ROWS_TOGETHER) starts.push_back(row);
  const int64_t tiles = starts.size();
  starts.push_back(rows);
  const int64_t* borders = starts.data();
  // All heads of keys together, unless threads would have nothing to do, or scores be more than a cache holds.
  int64_t together = std::max<int64_t>(1, MOST_SCORES / (ROWS_TOGETHER * groups * padded));
  together = std::min({together, key_heads, std::max<int64_t>(1, tiles * key_heads / (2 * omp_get_max_threads()))});
  const int64_t parts = (key_heads + together - 1) / together;
  // Whoever lacks memory says so here, where that can be heard: no thread of a team may.
  const int64_t most = ROWS_TOGETHER * groups * together;
  static thread_local std::vector<float> all_scores;
  static thread_local std::vector<Query> all_queries;
  all_scores.resize(omp_get_max_threads() * most * padded), all_queries.resize(omp_get_max_threads() * most);
  float* const first_scores = all_scores.data();
  Query* const first_queries = all_queries.data();
#pragma omp parallel
  {
    float* const scores = first_scores + omp_get_thread_num() * most * padded;
    Query* const queries = first_queries + omp_get_thread_num() * most;
#pragma omp for schedule(static, 1)
    for (int64_t task = 0; task < tiles * parts; ++task) {
      const int64_t tile = task / parts, head = task % parts * together;
      const int64_t heads_now = std::min(together, key_heads - head);
      const int64_t rows_now = borders[tile + 1] - borders[tile];
      int64_t at = 0;
      for (int64_t h = head; h < head + heads_now; ++h)
        for (int64_t row = borders[tile]; row < borders[tile + 1]; ++row)
          for (int64_t group = 0; group < groups; ++group, ++at) {
            const int64_t place = (row * heads + h * groups + group) * dim;
            queries[at].numbers = query + place, queries[at].out = out + place;
            queries[at].seen = seen + row * extent, queries[at].scores = scores + at * padded;
          }
      attend(slots, first_lines[borders[tile]], head, heads_now, queries, static_cast<int>(rows_now * groups),
             extent, static_cast<float>(scale));
    }
  }
}

}  // extern "C"

// What compiled steps call; tensors are contiguous, as `native.py` sees to.
extern "C" {

static int32_t made(int64_t rows, int64_t width, int32_t dtype, Tensor* out) {
  const int64_t sizes[] = {rows, width}, strides[] = {width, 1};
  return aoti_torch_empty_strided(2, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, out);
}

int32_t aoti_torch_cpu_w4a16(Tensor ordered, Tensor x, Tensor* out) {
  void *weights, *from, *to;
  int64_t *blocks, *sizes;
  if (aoti_torch_get_data_ptr(ordered, &weights) || aoti_torch_get_sizes(ordered, &blocks)) return 1;
  if (aoti_torch_get_data_ptr(x, &from) || aoti_torch_get_sizes(x, &sizes)) return 1;
  const int64_t bits = blocks[2] / 64 - 1;
  const int32_t dtype = bits == 8 ? aoti_torch_dtype_float32() : aoti_torch_dtype_bfloat16();
  if (made(sizes[0], blocks[0] * 16, dtype, out) || aoti_torch_get_data_ptr(*out, &to)) return 1;
  mlzoo_w4a16(static_cast<uint8_t*>(weights), bits, static_cast<uint16_t*>(from), to, sizes[0], sizes[1],
             blocks[0] * 16);
  return 0;
}

int32_t aoti_torch_cpu_slot_attention(Tensor query, Tensor keys, Tensor values, Tensor first_lines, Tensor seen,
                                      double scale, Tensor* out) {
  void *queries, *from, *what, *lines, *mask, *to;
  int64_t *sizes, *buffer, *visible;
  if (aoti_torch_get_data_ptr(query, &queries) || aoti_torch_get_sizes(query, &sizes)) return 1;
  if (aoti_torch_get_data_ptr(keys, &from) || aoti_torch_get_sizes(keys, &buffer)) return 1;
  if (aoti_torch_get_data_ptr(values, &what) || aoti_torch_get_data_ptr(first_lines, &lines)) return 1;
  if (aoti_torch_get_data_ptr(seen, &mask) || aoti_torch_get_sizes(seen, &visible)) return 1;
  const int64_t rows = sizes[0], heads = sizes[1], dim = sizes[2];
  if (made(rows, heads * dim, aoti_torch_dtype_bfloat16(), out) || aoti_torch_get_data_ptr(*out, &to)) return 1;
  mlzoo_attention(static_cast<uint16_t*>(queries), static_cast<uint16_t*>(from), static_cast<uint16_t*>(what),
                  static_cast<int64_t*>(lines), static_cast<uint8_t*>(mask), static_cast<uint16_t*>(to), rows, heads,
                  buffer[1] / dim, dim, visible[1], scale);
  return 0;
}

}  // extern "C"

// The two kernels that a decode step waits for: products with weights in 4 or 8 bits, and attention over slots.
//
// Knows memory, and sixteen numbers at once by one of two instruction sets; nothing of models or requests. Each number is added
// up in an order that depends on nothing but its own row: neither on other rows nor on how many threads compute, so that
// a row comes out the same in every company. Compiled by `native.py`, which says how it is called.

#include <cstdint>

#ifndef MLZOO_WITHOUT_STEPS
extern "C" {
// The part of torch's C interface that a compiled step calls a kernel through (torch/csrc/inductor/aoti_torch/c/shim.h).
typedef struct AtenTensorOpaque* Tensor;
int32_t aoti_torch_get_data_ptr(Tensor, void**);
int32_t aoti_torch_get_sizes(Tensor, int64_t**);
int32_t aoti_torch_get_strides(Tensor, int64_t**);
int32_t aoti_torch_get_dtype(Tensor, int32_t*);
int32_t aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, Tensor*);
int32_t aoti_torch_dtype_bfloat16(void);
int32_t aoti_torch_dtype_float32(void);
int32_t aoti_torch_device_type_cpu(void);
}
#endif

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __AVX512VNNI__
#include "native_avx512.h"
#else
#include "native_avx2.h"
#endif

namespace {

constexpr int64_t GROUP = 32;  // neighbouring inputs that share a step
constexpr float MOST_STEPS = 127 * 256;  // of a row's number, either way
constexpr int64_t WIDTH = 16;  // outputs that are computed together
constexpr int MOST_PARTS = 8;   // of 16 numbers, that a head is wide
constexpr int64_t MOST_SCORES = 64 * 1024;  // of what is attended together
constexpr int ROWS_TOGETHER = 4;  // of one slot, that read its keys and values together
constexpr int64_t AHEAD_BYTES = 2560;  // of weights that are asked for before they are needed

// Rows come in 16 bits or in 32, and leave as they came.
inline F16 read(const uint16_t* from) { return widened(from); }
inline F16 read(const float* from) { return loaded(from); }
inline void store(uint16_t* to, F16 numbers) { store_narrowed(to, numbers); }

// Logits are weights in 8 bits, and not rounded: in 16 bits, the likeliest of them would often be equal.
template <int BITS, typename Number>
using Out = std::conditional_t<BITS == 8, float, Number>;

// Rows in 16 bits, of each group of their own steps.
struct Rows {
  uint8_t* numbers;  // [rows, groups, 64]
  float* sizes;      // of a step, [rows, groups]
  float* sums;       // of a group's numbers, [rows, groups]
};

template <typename Number>
void in_16_bits(const Number* row, int64_t groups, uint8_t* numbers, float* sizes, float* sums) {
  for (int64_t g = 0; g < groups; ++g, row += GROUP, numbers += 2 * GROUP) {
    const F16 first = read(row), second = read(row + 16);
    const int32_t bits = farthest(first, second);
    if (bits >= 0x7f800000) {  // Infinite, or no number: so are all outputs of this row, and of no other.
      sizes[g] = sums[g] = NAN;
      std::memset(numbers, 0, 2 * GROUP);
      continue;
    }
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const bool is_nothing = most < 1e-30f;
    const F16 steps = all(is_nothing ? 0.0f : MOST_STEPS / most);
    sizes[g] = is_nothing ? 0.0f : most / MOST_STEPS;
    const I16 one = whole(multiply(first, steps)), other = whole(multiply(second, steps));
    store_group(numbers, one, other);
    sums[g] = sizes[g] * static_cast<float>(sum_of(one, other));
  }
}

// Some rows of 16 outputs. A block of weights is a group's 32 inputs of 16 outputs: steps above the least, then the sizes
// of steps and the least weights in 16 bits.
template <int ROWS, int BITS, typename To>
inline void products(const uint8_t* weights, int64_t groups, Rows rows, To* out, int64_t outputs) {
  const int64_t stride = groups * 2 * GROUP;
  F16 added[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) added[r] = all(0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    // The processor looks ahead by itself as far as a page reaches, which rows are quicker than.
#pragma GCC unroll 9
    for (int line = 0; line <= BITS; ++line) __builtin_prefetch(weights + AHEAD_BYTES + 64 * line);
    I16 sums[ROWS];
    multiply_group<ROWS, BITS>(weights, rows.numbers + g * 2 * GROUP, stride, sums);
    weights += 64 * BITS;
    const F16 size = from_half(weights), least = from_half(weights + 32);
    weights += 64;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F16 scale = multiply(size, all(rows.sizes[r * groups + g]));
      added[r] = multiply_add(as_floats(sums[r]), scale, added[r]);
      added[r] = multiply_add(least, all(rows.sums[r * groups + g]), added[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) store(out + r * outputs, added[r]);
}

// All rows of 16 outputs: as many at once as there are registers for, and the rest in halves of that.
template <int ROWS, int BITS, typename To>
void columns(const uint8_t* weights, int64_t count, int64_t groups, Rows rows, To* out, int64_t outputs) {
  for (; count >= ROWS; count -= ROWS) {
    products<ROWS, BITS>(weights, groups, rows, out, outputs);
    rows = {rows.numbers + ROWS * groups * 2 * GROUP, rows.sizes + ROWS * groups, rows.sums + ROWS * groups};
    out += ROWS * outputs;
  }
  if constexpr (ROWS > 1) columns<ROWS / 2, BITS>(weights, count, groups, rows, out, outputs);
}

// e to the power of numbers that are 0 at most, to about 1e-7 of it: 2 to a whole number, and a polynomial for the rest.
inline F16 exponential(F16 numbers) {
  // What is no number stays none: the second of the two is what `greater` gives.
  const F16 twos = greater(all(-126.0f), multiply(numbers, all(1.44269504f)));
  const F16 least = to_nearest(twos), rest = subtract(twos, least);
  F16 power = all(1.5353362e-4f);
  for (float next : {1.3398874e-3f, 9.6184373e-3f, 5.5503324e-2f, 2.4022648e-1f, 6.9314720e-1f, 1.0f})
    power = multiply_add(power, rest, all(next));
  return times_power(power, least);
}

struct Slots {
  const uint16_t* keys;    // [lines, heads of keys, dim]
  const uint16_t* values;  // as keys
  int64_t heads, dim, line;
};

// A query: one head of one row, of those that share keys and values.
struct Query {
  const void* numbers;  // [dim]
  const uint8_t* seen;  // [extent]
  void* out;            // [dim], as the numbers are
  float* scores;        // [extent, padded to a multiple of 16]
  float wide[MOST_PARTS * 16];
  float sums[MOST_PARTS * 16];
  float share;
};

// Scores of 16 keys from t on: each is added up from its even and its odd numbers, in whatever company.
template <int COUNT>
inline void score(Query* queries, const float* keys, int64_t dim, int64_t t, int64_t there, float scale) {
  F16 even[COUNT], odd[COUNT];
#pragma GCC unroll 8
  for (int q = 0; q < COUNT; ++q) even[q] = odd[q] = all(0.0f);
  for (int64_t d = 0; d < dim; d += 2) {
    const F16 first = loaded(keys + 16 * d), second = loaded(keys + 16 * d + 16);
#pragma GCC unroll 8
    for (int q = 0; q < COUNT; ++q) {
      even[q] = multiply_add(all(queries[q].wide[d]), first, even[q]);
      odd[q] = multiply_add(all(queries[q].wide[d + 1]), second, odd[q]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < COUNT; ++q) {
    const F16 sum = multiply(add(even[q], odd[q]), all(scale));
    store(queries[q].scores + t, select(which(queries[q].seen + t, there), sum, all(-INFINITY)));
  }
}

// Makes scores weights that are 0 at least; their sum is one over `share`.
inline void weigh(Query& query, int64_t padded) {
  F16 most = all(-INFINITY), total = all(0.0f);
  for (int64_t t = 0; t < padded; t += 16) most = greater(most, loaded(query.scores + t));
  const F16 greatest = all(greatest_of(most));
  for (int64_t t = 0; t < padded; t += 16) {
    const F16 scores = loaded(query.scores + t);
    const F16 weights =
        select(equal(scores, all(-INFINITY)), all(0.0f), exponential(subtract(scores, greatest)));
    store(query.scores + t, weights);
    total = add(total, weights);
  }
  query.share = 1.0f / sum_of(total);
}

// Adds to what queries get of the values from t on.
template <int COUNT>
inline void mix(Query* queries, const uint16_t* values, Slots slots, int64_t t, int64_t end) {
  for (int64_t from = 0; from < slots.dim; from += SPAN) {
    const bool is_wide = SPAN > 16 && slots.dim - from >= SPAN;
    F16 first[COUNT], second[COUNT];
#pragma GCC unroll 8
    for (int q = 0; q < COUNT; ++q) {
      first[q] = loaded(queries[q].sums + from);
      second[q] = is_wide ? loaded(queries[q].sums + from + 16) : all(0.0f);
    }
    for (int64_t at = t; at < end; ++at) {
      const uint16_t* line = values + at * slots.line + from;
      const F16 low = widened(line), high = is_wide ? widened(line + 16) : low;
#pragma GCC unroll 8
      for (int q = 0; q < COUNT; ++q) {
        if (!queries[q].seen[at]) continue;  // What lies there need not be a number.
        const F16 weight = all(queries[q].scores[at]);
        first[q] = multiply_add(weight, low, first[q]);
        if (SPAN > 16) second[q] = multiply_add(weight, high, second[q]);
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < COUNT; ++q) {
      store(queries[q].sums + from, first[q]);
      if (is_wide) store(queries[q].sums + from + 16, second[q]);
    }
  }
}

// How far a row sees, if that is farther than what is known of others.
inline int64_t sees_up_to(const uint8_t* seen, int64_t known, int64_t extent) {
  while (extent > known && !seen[extent - 1]) --extent;
  return extent;
}

template <int... COUNTS>
struct Together {  // what takes 1, 2 and so on queries at once
  static constexpr void (*SCORES[])(Query*, const float*, int64_t, int64_t, int64_t, float) = {score<COUNTS + 1>...};
  static constexpr void (*MIXES[])(Query*, const uint16_t*, Slots, int64_t, int64_t) = {mix<COUNTS + 1>...};
};
template <int... COUNTS>
Together<COUNTS...> up_to(std::integer_sequence<int, COUNTS...>);
using Any = decltype(up_to(std::make_integer_sequence<int, MOST_GROUPS>()));

// Some rows of one slot, from all heads that share some heads of keys and values; each of those has so many queries.
// Lines are read once, for all heads.
template <typename Number>
void attend(Slots slots, int64_t first_line, int64_t head, int64_t heads, Query* queries, int count, int64_t extent,
            float scale) {
  const uint16_t* keys = slots.keys + first_line * slots.line + head * slots.dim;
  const uint16_t* values = slots.values + first_line * slots.line + head * slots.dim;
  for (int q = 0; q < heads * count; ++q)
    for (int64_t p = 0; p < slots.dim; p += 16) {
      store(queries[q].wide + p, read(static_cast<const Number*>(queries[q].numbers) + p));
      store(queries[q].sums + p, all(0.0f));
    }
  float block[MOST_PARTS * 16 * 16];
  for (int64_t t = 0; t < extent; t += 16) {
    const int64_t there = std::min<int64_t>(16, extent - t);
    for (int64_t h = 0; h < heads; ++h) {
      const uint16_t* from = keys + t * slots.line + h * slots.dim;
      for (int64_t p = 0; p < slots.dim; p += 16) turned(from + p, slots.line, there, block + 16 * p);
      Query* own = queries + h * count;
      for (int q = 0; q < count; q += MOST_GROUPS)
        Any::SCORES[std::min(MOST_GROUPS, count - q) - 1](own + q, block, slots.dim, t, there, scale);
    }
  }
  for (int q = 0; q < heads * count; ++q) weigh(queries[q], (extent + 15) / 16 * 16);
  for (int64_t t = 0; t < extent; t += 16)
    for (int64_t h = 0; h < heads; ++h)
      for (int q = 0; q < count; q += MOST_GROUPS)
        Any::MIXES[std::min(MOST_GROUPS, count - q) - 1](queries + h * count + q, values + h * slots.dim, slots, t,
                                                         std::min(t + 16, extent));
  for (int q = 0; q < heads * count; ++q)
    for (int64_t p = 0; p < slots.dim; p += 16)
      store(static_cast<Number*>(queries[q].out) + p, multiply(loaded(queries[q].sums + p), all(queries[q].share)));
}

template <typename Number>
void w4a16(const uint8_t* ordered, int64_t bits, const Number* x, void* out, int64_t rows, int64_t inputs,
           int64_t outputs) {
  const int64_t groups = inputs / GROUP, tiles = outputs / WIDTH, tile_bytes = groups * 64 * (bits + 1);
  static thread_local std::vector<uint8_t> numbers;
  static thread_local std::vector<float> sizes, sums;
  numbers.resize(2 * rows * inputs), sizes.resize(rows * groups), sums.resize(rows * groups);
  const Rows every{numbers.data(), sizes.data(), sums.data()};
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r)
      in_16_bits(x + r * inputs, groups, every.numbers + 2 * r * inputs, every.sizes + r * groups, every.sums + r * groups);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles; ++t) {
      const uint8_t* weights = ordered + t * tile_bytes;
      if (bits == 4)
        columns<MOST_ROWS, 4>(weights, rows, groups, every, static_cast<Out<4, Number>*>(out) + t * WIDTH, outputs);
      else
        columns<MOST_ROWS, 8>(weights, rows, groups, every, static_cast<Out<8, Number>*>(out) + t * WIDTH, outputs);
    }
  }
}

template <typename Number>
void attention(const Number* query, const uint16_t* keys, const uint16_t* values, const int64_t* first_lines,
               const uint8_t* seen, Number* out, int64_t rows, int64_t heads, int64_t key_heads, int64_t dim,
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
      int64_t farthest = 1;  // What nobody here sees is not looked at, however far others see.
      for (int64_t row = borders[tile]; row < borders[tile + 1]; ++row)
        farthest = std::max(farthest, sees_up_to(seen + row * extent, farthest, extent));
      int64_t at = 0;
      for (int64_t h = head; h < head + heads_now; ++h)
        for (int64_t row = borders[tile]; row < borders[tile + 1]; ++row)
          for (int64_t group = 0; group < groups; ++group, ++at) {
            const int64_t place = (row * heads + h * groups + group) * dim;
            queries[at].numbers = query + place, queries[at].out = out + place;
            queries[at].seen = seen + row * extent, queries[at].scores = scores + at * padded;
          }
      attend<Number>(slots, first_lines[borders[tile]], head, heads_now, queries, static_cast<int>(rows_now * groups),
                     farthest, static_cast<float>(scale));
    }
  }
}

}  // namespace

// Rows are of 32 bits where they are wide, else of 16.
extern "C" {

int mlzoo_supported(void) { return is_supported(); }

void mlzoo_w4a16(const uint8_t* ordered, int64_t bits, const void* x, void* out, int64_t rows, int64_t inputs,
                 int64_t outputs, int64_t is_wide) {
  if (is_wide)
    w4a16(ordered, bits, static_cast<const float*>(x), out, rows, inputs, outputs);
  else
    w4a16(ordered, bits, static_cast<const uint16_t*>(x), out, rows, inputs, outputs);
}

void mlzoo_attention(const void* query, const uint16_t* keys, const uint16_t* values, const int64_t* first_lines,
                     const uint8_t* seen, void* out, int64_t rows, int64_t heads, int64_t key_heads, int64_t dim,
                     int64_t extent, int64_t is_wide, double scale) {
  if (is_wide)
    attention(static_cast<const float*>(query), keys, values, first_lines, seen, static_cast<float*>(out), rows, heads,
              key_heads, dim, extent, scale);
  else
    attention(static_cast<const uint16_t*>(query), keys, values, first_lines, seen, static_cast<uint16_t*>(out), rows,
              heads, key_heads, dim, extent, scale);
}

}  // extern "C"

#ifndef MLZOO_WITHOUT_STEPS
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
  int32_t dtype;
  if (aoti_torch_get_dtype(x, &dtype)) return 1;
  const int64_t bits = blocks[2] / 64 - 1;
  const bool is_wide = dtype == aoti_torch_dtype_float32();
  if (made(sizes[0], blocks[0] * 16, bits == 8 ? aoti_torch_dtype_float32() : dtype, out)) return 1;
  if (aoti_torch_get_data_ptr(*out, &to)) return 1;
  mlzoo_w4a16(static_cast<uint8_t*>(weights), bits, from, to, sizes[0], sizes[1], blocks[0] * 16, is_wide);
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
  int32_t dtype;
  if (aoti_torch_get_dtype(query, &dtype)) return 1;
  const int64_t rows = sizes[0], heads = sizes[1], dim = sizes[2];
  if (made(rows, heads * dim, dtype, out) || aoti_torch_get_data_ptr(*out, &to)) return 1;
  mlzoo_attention(queries, static_cast<uint16_t*>(from), static_cast<uint16_t*>(what), static_cast<int64_t*>(lines),
                  static_cast<uint8_t*>(mask), to, rows, heads, buffer[1] / dim, dim, visible[1],
                  dtype == aoti_torch_dtype_float32(), scale);
  return 0;
}

}  // extern "C"
#endif

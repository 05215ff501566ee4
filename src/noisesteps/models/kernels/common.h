/* What the kernels share: vectors, bfloat16, 2^x, and parts done side by side.

There is no header of the C library here, so that compiling them takes a second and
needs nothing of the system. */

#pragma once

typedef __INT64_TYPE__ i64;
typedef __UINT32_TYPE__ u32;
typedef __UINT16_TYPE__ u16;

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
/* A short loop, which is unrolled so that its numbers stay in registers. */
#define EACH(i, count)                                                                 \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < (count); i++)

/* Of the machine, not of the images: how many numbers an instruction handles. */
#if !defined(WIDTH) && defined(__AVX512F__)
#define WIDTH 16
#elif !defined(WIDTH)
#define WIDTH 8
#endif

typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

/* The same lanes as bits, and as many numbers of 16 bits. */
typedef u32 words __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef u16 halves __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));

INLINE vector load(const float *from) {
    return *(const vector *)from;
}
INLINE void store(float *to, vector x) {
    *(vector *)to = x;
}
INLINE vector all(float x) {
    return x - (vector){0};
}

/* Eight numbers, on every processor. */
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
INLINE eight load_eight(const float *from) {
    return *(const eight *)from;
}
INLINE void store_eight(float *to, eight x) {
    *(eight *)to = x;
}

/* Products that are summed before they are added to a total: fewer digits are lost. */
enum { PRODUCTS = 8 };

INLINE void clear(float *numbers, i64 count) {
    for (i64 i = 0; i < count; i++)
        numbers[i] = 0;
}
INLINE i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}

/* Numbers of an image, whose dtype is known when a loop is compiled. */
typedef enum { FLOAT32, BFLOAT16 } dtype;

INLINE float from_bits(u32 bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}
INLINE u32 to_bits(float x) {
    u32 bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float get(const void *from, i64 i, dtype kind) {
    if (kind == FLOAT32)
        return ((const float *)from)[i];
    return from_bits((u32)((const u16 *)from)[i] << 16);
}

/* To bfloat16 by rounding to the nearest, ties to even. */
INLINE void put(void *to, i64 i, float x, dtype kind) {
    if (kind == FLOAT32) {
        ((float *)to)[i] = x;
    } else {
        u32 bits = to_bits(x);
        ((u16 *)to)[i] = (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

INLINE const void *at(const void *from, i64 i, dtype kind) {
    return (const char *)from + i * (kind == FLOAT32 ? 4 : 2);
}

/* A vector of numbers of a dtype, as `get` and `put` do it with one. */

INLINE words widened(halves x) {
    return __builtin_convertvector(x, words);
}
INLINE halves rounded(vector x) {
    words bits = (words)x;
    return __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, halves);
}
INLINE vector load_from(const void *from, i64 i, dtype kind) {
    if (kind == FLOAT32)
        return load((const float *)from + i);
    return (vector)(widened(*(const halves *)((const u16 *)from + i)) << 16);
}
INLINE void store_to(void *to, i64 i, vector x, dtype kind) {
    if (kind == FLOAT32)
        store((float *)to + i, x);
    else
        *(halves *)((u16 *)to + i) = rounded(x);
}

#define LOG2_E 1.4426950408889634f

/* 2^x to 2e-7 of it, for x cut off at the exponents of normal numbers; NaN stays. */
INLINE float exp2_of(float x) {
    x = x < -126 ? -126 : x;
    x = x > 126 ? 126 : x;
    float whole = __builtin_floorf(x), part = x - whole;
    float result = 1.8775767e-3f;
    result = result * part + 8.9893397e-3f;
    result = result * part + 5.5826318e-2f;
    result = result * part + 2.4015361e-1f;
    result = result * part + 6.9315308e-1f;
    result = result * part + 9.9999994e-1f;
    return result * from_bits((u32)((int)whole + 127) << 23);
}

INLINE float sigmoid(float x) {
    return 1 / (1 + exp2_of(-x * LOG2_E));
}

/* Does part number `index` of some work. `scratch` is the thread's own memory. */
typedef void part(const void *work, i64 index, float *scratch);

/* Parts `name`_float32 and `name`_bfloat16, which do the same by other instructions:
what `does` it is compiled for each dtype, which it takes last, and for what else is
given. */
#define PARTS_OF_DTYPES(name, does, ...)                                               \
    static void name##_float32(const void *work, i64 index, float *scratch) {          \
        does(work, index, scratch, ##__VA_ARGS__, FLOAT32);                            \
    }                                                                                  \
    static void name##_bfloat16(const void *work, i64 index, float *scratch) {         \
        does(work, index, scratch, ##__VA_ARGS__, BFLOAT16);                           \
    }

/* Do `count` parts in any order, each thread with `numbers` floats of scratch. */
void do_parts(part *part, const void *work, i64 count, i64 numbers);
i64 thread_count(void);

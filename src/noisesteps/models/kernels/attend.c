/* Self-attention with heads of 8 channels, and its gradient: Vaswani et al. 2017.

Queries, keys and values lie together: (images, pixels, 3, heads, 8). The softmax is
computed anew for the gradient, as Dao et al. 2022 do, so that no matrix of scores is
kept. Sums are in float32. */

#include "common.h"

enum { HEAD = 8, LANES = 16 };
#define ROOT 2.8284271247461903f /* of HEAD */

typedef struct {
    i64 images, heads, pixels;
} shape;

typedef enum { QUERY, KEY, VALUE } role;

/* Where a head's 8 channels of the first pixel lie, and how far to the next one's. */
INLINE const void *head_of(const void *given, i64 n, i64 head, role role, shape s,
                           dtype kind) {
    return at(given, ((n * s.pixels * 3 + role) * s.heads + head) * HEAD, kind);
}
INLINE i64 stride_of(shape s) {
    return 3 * s.heads * HEAD;
}

/* Copy (pixels, 8) to float32 (8, pixels). */
INLINE void transpose(const void *restrict from, i64 stride, float *restrict to,
                      i64 pixels, dtype kind) {
    for (i64 j = 0; j < pixels; j++)
        for (i64 d = 0; d < HEAD; d++)
            to[d * pixels + j] = get(from, j * stride + d, kind);
}

/* Products of one vector with that of each pixel.

Fused by name, not as the compiler sees fit, since a gradient needs the same bits again:
scores can be thousands, and their last digit then changes their softmax visibly. */
static void score(const float *restrict q, const float *restrict key,
                  float *restrict scores, i64 pixels) {
    for (i64 j = 0; j < pixels; j++) {
        float sum = 0;
        EACH (d, HEAD)
            sum = __builtin_fmaf(q[d], key[d * pixels + j], sum);
        scores[j] = sum;
    }
}

static float highest(const float *scores, i64 pixels) {
    float lanes[LANES];
    for (i64 i = 0; i < LANES; i++)
        lanes[i] = scores[0];
    i64 j = 0;
    for (; j + LANES <= pixels; j += LANES)
        for (i64 i = 0; i < LANES; i++)
            lanes[i] = scores[j + i] > lanes[i] ? scores[j + i] : lanes[i];
    float result = lanes[0];
    for (i64 i = 1; i < LANES; i++)
        result = lanes[i] > result ? lanes[i] : result;
    for (; j < pixels; j++)
        result = scores[j] > result ? scores[j] : result;
    return result; /* a NaN still reaches the sum of the weights */
}

/* Replace the scores by factor * 2^(score - top), and return their sum. */
static float exponentiate(float *restrict scores, float top, float factor, i64 pixels) {
#pragma clang fp reassociate(on)
    float total = 0;
    for (i64 j = 0; j < pixels; j++) {
        scores[j] = factor * exp2_of(scores[j] - top);
        total += scores[j];
    }
    return total;
}

static float dot(const float *restrict a, const float *restrict b, i64 pixels) {
#pragma clang fp reassociate(on)
    float result = 0;
    for (i64 j = 0; j < pixels; j++)
        result += a[j] * b[j];
    return result;
}

/* Sum the pixels' vectors by their weights. */
static void mix(const float *restrict weights, const float *restrict value,
                float *restrict mixed, i64 pixels) {
#pragma clang fp reassociate(on)
    float m[HEAD] = {0};
    for (i64 j = 0; j < pixels; j++)
        EACH (d, HEAD)
            m[d] += weights[j] * value[d * pixels + j];
    for (i64 d = 0; d < HEAD; d++)
        mixed[d] = m[d];
}

static void add(const float *restrict numbers, float factor, float *restrict sums,
                i64 pixels) {
    for (i64 j = 0; j < pixels; j++)
        sums[j] += numbers[j] * factor;
}

typedef struct {
    const void *given;
    void *mixed;
    float *levels;
    shape shape;
} attention;

INLINE void attend_head(const attention *work, i64 index, float *scratch, dtype kind) {
    shape s = work->shape;
    i64 n = index / s.heads, head = index % s.heads, stride = stride_of(s);
    const void *query = head_of(work->given, n, head, QUERY, s, kind);
    float *tops = work->levels + index * s.pixels;
    float *totals = tops + s.images * s.heads * s.pixels;
    float *key = scratch, *value = key + HEAD * s.pixels;
    float *weights = value + HEAD * s.pixels, q[HEAD], mixed[HEAD];
    transpose(head_of(work->given, n, head, KEY, s, kind), stride, key, s.pixels, kind);
    transpose(head_of(work->given, n, head, VALUE, s, kind), stride, value, s.pixels,
              kind);
    for (i64 i = 0; i < s.pixels; i++) {
        for (i64 d = 0; d < HEAD; d++)
            q[d] = get(query, i * stride + d, kind) * (LOG2_E / ROOT);
        score(q, key, weights, s.pixels);
        tops[i] = highest(weights, s.pixels);
        totals[i] = exponentiate(weights, tops[i], 1, s.pixels);
        mix(weights, value, mixed, s.pixels);
        i64 to = ((n * s.pixels + i) * s.heads + head) * HEAD;
        for (i64 d = 0; d < HEAD; d++)
            put(work->mixed, to + d, mixed[d] / totals[i], kind);
    }
}

PARTS_OF_DTYPES(attends, attend_head)

/* Mix the values of pixels by the softmax of their scores, in each head.

given: queries, keys and values, in the dtype; mixed: the result, (images, pixels,
heads, 8); levels: written, the highest score of each pixel as a power of two and the
sum under its softmax, relative to that, float32 (2, images, heads, pixels). */
EXPORT void attend(const void *given, void *mixed, float *levels, i64 images, i64 heads,
                   i64 pixels, dtype kind) {
    attention work = {given, mixed, levels, {images, heads, pixels}};
    part *parts[] = {attends_float32, attends_bfloat16};
    do_parts(parts[kind], &work, images * heads, (2 * HEAD + 1) * pixels);
}

typedef struct {
    const void *given, *dmixed;
    const float *levels;
    void *dgiven;
    shape shape;
} attention_gradient;

INLINE void gradient_of_head(const attention_gradient *work, i64 index, float *scratch,
                             dtype kind) {
    shape s = work->shape;
    i64 n = index / s.heads, head = index % s.heads, stride = stride_of(s);
    i64 pixels = s.pixels, block = HEAD * pixels;
    const void *query = head_of(work->given, n, head, QUERY, s, kind);
    void *back[3];
    for (role role = QUERY; role <= VALUE; role++)
        back[role] = (void *)head_of(work->dgiven, n, head, role, s, kind);
    const float *tops = work->levels + index * pixels;
    const float *totals = tops + s.images * s.heads * pixels;
    float *key = scratch, *value = key + block, *dkey = value + block;
    float *dvalue = dkey + block, *weights = dvalue + block, *slopes = weights + pixels;
    float q[HEAD], upper[HEAD], dquery[HEAD];
    transpose(head_of(work->given, n, head, KEY, s, kind), stride, key, pixels, kind);
    transpose(head_of(work->given, n, head, VALUE, s, kind), stride, value, pixels,
              kind);
    for (i64 j = 0; j < block; j++)
        dkey[j] = dvalue[j] = 0;
    for (i64 i = 0; i < pixels; i++) {
        i64 from = ((n * pixels + i) * s.heads + head) * HEAD;
        for (i64 d = 0; d < HEAD; d++) {
            q[d] = get(query, i * stride + d, kind) * (LOG2_E / ROOT);
            upper[d] = get(work->dmixed, from + d, kind);
        }
        score(q, key, weights, pixels);
        exponentiate(weights, tops[i], 1 / totals[i], pixels);
        score(upper, value, slopes, pixels);
        float along = dot(weights, slopes, pixels);
        for (i64 j = 0; j < pixels; j++)
            slopes[j] = weights[j] * (slopes[j] - along);
        mix(slopes, key, dquery, pixels);
        for (i64 d = 0; d < HEAD; d++) {
            put(back[QUERY], i * stride + d, dquery[d] / ROOT, kind);
            add(slopes, q[d] / LOG2_E, dkey + d * pixels, pixels);
            add(weights, upper[d], dvalue + d * pixels, pixels);
        }
    }
    for (i64 j = 0; j < pixels; j++)
        for (i64 d = 0; d < HEAD; d++) {
            put(back[KEY], j * stride + d, dkey[d * pixels + j], kind);
            put(back[VALUE], j * stride + d, dvalue[d * pixels + j], kind);
        }
}

PARTS_OF_DTYPES(gradient, gradient_of_head)

/* Compute the gradient of `attend` from that of its result, `dmixed`. */
EXPORT void attend_gradient(const void *given, const float *levels, const void *dmixed,
                            void *dgiven, i64 images, i64 heads, i64 pixels,
                            dtype kind) {
    attention_gradient work = {given, dmixed, levels, dgiven, {images, heads, pixels}};
    part *parts[] = {gradient_float32, gradient_bfloat16};
    do_parts(parts[kind], &work, images * heads, (4 * HEAD + 2) * pixels);
}

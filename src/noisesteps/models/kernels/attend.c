/* Self-attention with heads of 8 channels, and its gradient: Vaswani et al. 2017.

Queries, keys and values lie together: (images, pixels, 3, heads, 8). The softmax is
computed anew for the gradient, as Dao et al. 2022 do, so that no matrix of scores is
kept: WIDTH queries, in the lanes of vectors, meet the keys of all pixels at a time.
Sums are in float32. */

#include "common.h"

enum { HEAD = 8, ABREAST = 4 /* keys whose gradients are summed at a time */ };
#define ROOT 2.8284271247461903f /* of HEAD */

typedef struct {
    i64 images, heads, pixels;
    i64 padded; /* the pixels, to whole vectors */
} shape;

INLINE shape shape_of(i64 images, i64 heads, i64 pixels) {
    return (shape){images, heads, pixels, (pixels + WIDTH - 1) / WIDTH * WIDTH};
}

typedef enum { QUERY, KEY, VALUE } role;

/* Where a head's 8 channels of the first pixel lie, and how far to the next one's. */
INLINE const void *head_of(const void *given, i64 n, i64 head, role role, shape s,
                           dtype kind) {
    return at(given, ((n * s.pixels * 3 + role) * s.heads + head) * HEAD, kind);
}
INLINE i64 stride_of(shape s) {
    return 3 * s.heads * HEAD;
}

/* The same, of what attention gives. */
INLINE const void *result_of(const void *mixed, i64 n, i64 head, shape s, dtype kind) {
    return at(mixed, (n * s.pixels * s.heads + head) * HEAD, kind);
}

/* Copy channels of a head, times a factor, to float32 (padded, 8), ending in zeros. */
INLINE void copy(const void *restrict from, i64 stride, float factor,
                 float *restrict to, shape s, dtype kind) {
    for (i64 j = 0; j < s.pixels; j++)
        EACH (d, HEAD)
            to[j * HEAD + d] = get(from, j * stride + d, kind) * factor;
    clear(to + s.pixels * HEAD, (s.padded - s.pixels) * HEAD);
}

/* Copy a head's queries, scaled for powers of two, its keys and values: one after the
other. */
INLINE void copy_head(const void *given, i64 n, i64 head, float *to, shape s,
                      dtype kind) {
    for (role role = QUERY; role <= VALUE; role++)
        copy(head_of(given, n, head, role, s, kind), stride_of(s),
             role == QUERY ? LOG2_E / ROOT : 1, to + role * HEAD * s.padded, s, kind);
}

/* Copy them back, in the dtype. */
INLINE void put_all(const float *restrict from, void *restrict to, i64 stride, shape s,
                    dtype kind) {
    for (i64 j = 0; j < s.pixels; j++)
        EACH (d, HEAD)
            put(to, j * stride + d, from[j * HEAD + d], kind);
}

/* Each of the 8 channels of WIDTH pixels, in lanes. */
INLINE void load_lanes(const float *from, vector to[HEAD]) {
    float lanes[HEAD][WIDTH];
    EACH (l, WIDTH)
        EACH (d, HEAD)
            lanes[d][l] = from[l * HEAD + d];
    EACH (d, HEAD)
        to[d] = load(lanes[d]);
}
INLINE void store_lanes(const vector from[HEAD], float *to) {
    float lanes[HEAD][WIDTH];
    EACH (d, HEAD)
        store(lanes[d], from[d]);
    EACH (l, WIDTH)
        EACH (d, HEAD)
            to[l * HEAD + d] = lanes[d][l];
}

/* Products of WIDTH pixels' channels with those of one.

Fused by name, not as the compiler sees fit, since a gradient needs the same bits again:
scores can be thousands, and their last digit then changes their softmax visibly. */
INLINE vector products(const vector lanes[HEAD], const float *one) {
    vector sum = all(0);
    EACH (d, HEAD)
        sum = __builtin_elementwise_fma(lanes[d], all(one[d]), sum);
    return sum;
}

INLINE vector highest(vector a, vector b) {
    EACH (l, WIDTH)
        a[l] = b[l] > a[l] ? b[l] : a[l];
    return a; /* a NaN still reaches the sum of the weights */
}
INLINE vector exponentiated(vector x) {
    EACH (l, WIDTH)
        x[l] = exp2_of(x[l]);
    return x;
}

/* Add the channels of pixels, (count, 8), by the lanes' weights of each; a few at a
time, which loses fewer digits. */
INLINE void add_weighted(const float *weights, const float *channels, i64 count,
                         vector sums[HEAD]) {
    for (i64 j = 0; j < count;) {
        vector few[HEAD] = {0};
        for (i64 end = least(j + PRODUCTS, count); j < end; j++) {
            vector weight = load(weights + j * WIDTH);
            EACH (d, HEAD)
                few[d] += weight * all(channels[j * HEAD + d]);
        }
        EACH (d, HEAD)
            sums[d] += few[d];
    }
}

/* The scores of WIDTH queries, (pixels, WIDTH), and the highest of each. */
INLINE vector score(const vector query[HEAD], const float *key, float *scores,
                    shape s) {
    vector top = all(-__builtin_inff());
    for (i64 j = 0; j < s.pixels; j++) {
        vector score = products(query, key + j * HEAD);
        store(scores + j * WIDTH, score);
        top = highest(top, score);
    }
    return top;
}

/* Replace the scores by 2^(score - top), and return their sums. */
INLINE vector weigh(float *scores, vector top, shape s) {
    vector total = all(0);
    for (i64 j = 0; j < s.pixels;) {
        vector few = all(0);
        for (i64 end = least(j + PRODUCTS, s.pixels); j < end; j++) {
            vector weight = exponentiated(load(scores + j * WIDTH) - top);
            store(scores + j * WIDTH, weight);
            few += weight;
        }
        total += few;
    }
    return total;
}

typedef struct {
    const void *given;
    void *mixed;
    float *levels;
    shape shape;
} attention;

INLINE void keep_levels(vector top, vector total, float *tops, i64 first, shape s) {
    float *totals = tops + s.images * s.heads * s.pixels;
    for (i64 l = 0; l < least(WIDTH, s.pixels - first); l++) {
        tops[first + l] = top[l];
        totals[first + l] = total[l];
    }
}

INLINE void attend_head(const attention *work, i64 index, float *scratch, dtype kind) {
    shape s = work->shape;
    i64 n = index / s.heads, head = index % s.heads;
    float *query = scratch, *key = query + HEAD * s.padded;
    float *value = key + HEAD * s.padded, *weights = value + HEAD * s.padded;
    copy_head(work->given, n, head, query, s, kind);
    for (i64 i = 0; i < s.pixels; i += WIDTH) {
        vector lanes[HEAD], mixed[HEAD] = {0};
        load_lanes(query + i * HEAD, lanes);
        vector top = score(lanes, key, weights, s), total = weigh(weights, top, s);
        add_weighted(weights, value, s.pixels, mixed);
        EACH (d, HEAD)
            mixed[d] /= total;
        store_lanes(mixed, query + i * HEAD); /* it is needed no more */
        if (work->levels)
            keep_levels(top, total, work->levels + index * s.pixels, i, s);
    }
    put_all(query, (void *)result_of(work->mixed, n, head, s, kind), s.heads * HEAD, s,
            kind);
}

PARTS_OF_DTYPES(attends, attend_head)

/* Mix the values of pixels by the softmax of their scores, in each head.

given: queries, keys and values, in the dtype; mixed: the result, (images, pixels,
heads, 8); levels: written where it is not null, the highest score of each pixel as a
power of two and the sum under its softmax, relative to that, float32 (2, images, heads,
pixels). */
EXPORT void attend(const void *given, void *mixed, float *levels, i64 images, i64 heads,
                   i64 pixels, dtype kind) {
    shape s = shape_of(images, heads, pixels);
    attention work = {given, mixed, levels, s};
    part *parts[] = {attends_float32, attends_bfloat16};
    do_parts(parts[kind], &work, images * heads, (3 * HEAD + WIDTH) * s.padded);
}

/* WIDTH queries of the gradient, and the gradients of what they gave. */
typedef struct {
    vector query[HEAD], upper[HEAD];
    vector top, share; /* the inverse of the sum under the softmax */
} lanes;

/* The weights again, the gradients of those, (pixels, WIDTH), and the sums of their
products. */
INLINE vector weigh_again(const lanes *given, const float *key, const float *value,
                          float *weights, float *slopes, shape s) {
    vector along = all(0);
    for (i64 j = 0; j < s.pixels;) {
        vector few = all(0);
        for (i64 end = least(j + PRODUCTS, s.pixels); j < end; j++) {
            vector score = products(given->query, key + j * HEAD);
            vector weight = given->share * exponentiated(score - given->top);
            vector slope = products(given->upper, value + j * HEAD);
            store(weights + j * WIDTH, weight);
            store(slopes + j * WIDTH, slope);
            few += weight * slope;
        }
        along += few;
    }
    return along;
}

/* Add to the gradients of all pixels, (padded, 8), the channels of WIDTH pixels by
their weights, (padded, WIDTH). */
INLINE void add_lanes(const float *weights, const float *channels, float *sums,
                      shape s) {
    for (i64 j = 0; j < s.pixels; j += ABREAST)
        for (i64 first = 0; first < WIDTH; first += PRODUCTS) {
            eight few[ABREAST] = {0};
            EACH (l, PRODUCTS) {
                eight channel = load_eight(channels + (first + l) * HEAD);
                EACH (k, ABREAST)
                    few[k] += weights[(j + k) * WIDTH + first + l] * channel;
            }
            EACH (k, ABREAST) {
                float *sum = sums + (j + k) * HEAD;
                store_eight(sum, load_eight(sum) + few[k]);
            }
        }
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
    i64 block = HEAD * s.padded;
    const float *tops = work->levels + index * s.pixels;
    const float *totals = tops + s.images * s.heads * s.pixels;
    float *query = scratch, *key = query + block, *value = key + block;
    float *upper = value + block, *dkey = upper + block, *dvalue = dkey + block;
    float *weights = dvalue + block, *slopes = weights + WIDTH * s.padded;
    copy_head(work->given, n, head, query, s, kind);
    copy(result_of(work->dmixed, n, head, s, kind), s.heads * HEAD, 1, upper, s, kind);
    clear(dkey, 2 * (block + WIDTH * s.padded)); /* and what follows it */
    for (i64 i = 0; i < s.pixels; i += WIDTH) {
        lanes lanes = {.top = all(0), .share = all(0)};
        for (i64 l = 0; l < least(WIDTH, s.pixels - i); l++) {
            lanes.top[l] = tops[i + l];
            lanes.share[l] = 1 / totals[i + l];
        }
        load_lanes(query + i * HEAD, lanes.query);
        load_lanes(upper + i * HEAD, lanes.upper);
        vector along = weigh_again(&lanes, key, value, weights, slopes, s);
        for (i64 j = 0; j < s.pixels * WIDTH; j += WIDTH)
            store(slopes + j, load(weights + j) * (load(slopes + j) - along));
        vector dquery[HEAD] = {0};
        add_weighted(slopes, key, s.pixels, dquery);
        add_lanes(slopes, query + i * HEAD, dkey, s);
        add_lanes(weights, upper + i * HEAD, dvalue, s);
        EACH (d, HEAD)
            dquery[d] /= ROOT;
        store_lanes(dquery, query + i * HEAD); /* which is needed no more */
    }
    for (i64 j = 0; j < block; j++)
        dkey[j] /= LOG2_E;
    const float *found[] = {query, dkey, dvalue};
    for (role role = QUERY; role <= VALUE; role++)
        put_all(found[role], (void *)head_of(work->dgiven, n, head, role, s, kind),
                stride, s, kind);
}

PARTS_OF_DTYPES(gradient, gradient_of_head)

/* Compute the gradient of `attend` from that of its result, `dmixed`. */
EXPORT void attend_gradient(const void *given, const float *levels, const void *dmixed,
                            void *dgiven, i64 images, i64 heads, i64 pixels,
                            dtype kind) {
    shape s = shape_of(images, heads, pixels);
    attention_gradient work = {given, dmixed, levels, dgiven, s};
    part *parts[] = {gradient_float32, gradient_bfloat16};
    do_parts(parts[kind], &work, images * heads, (6 * HEAD + 2 * WIDTH) * s.padded);
}

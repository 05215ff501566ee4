/* Group normalisation (Wu & He 2018), SiLU where it follows, and their gradients.

Images are (pixels, channels). A loop goes through rows of one or more pixels, `length`
numbers long, so that few channels are no short loop. Sums are in float32. */

#include "common.h"

enum { ROW = 64 };    /* numbers of a row at least, where there are as many */
enum { VECTORS = 4 }; /* whose sums are taken at a time */

typedef struct {
    i64 images, pixels, channels, groups;
    i64 rows, length; /* of an image */
} shape;

static shape shape_of(i64 images, i64 pixels, i64 channels, i64 groups) {
    i64 repeats = 1;
    while (repeats * channels < ROW && pixels % (2 * repeats) == 0)
        repeats *= 2;
    return (shape){images, pixels,           channels,
                   groups, pixels / repeats, repeats * channels};
}

/* Add the repetitions of each channel to its first sum. */
static void fold(float *sums, shape s) {
    for (i64 row = s.channels; row < s.length; row += s.channels)
        for (i64 i = 0; i < s.channels; i++)
            sums[i] += sums[row + i];
}

/* Repeat the channels' numbers to the length of a row. */
static void repeat(float *numbers, shape s) {
    for (i64 i = s.channels; i < s.length; i++)
        numbers[i] = numbers[i - s.channels];
}

/* Copy a number of each group, or of each channel, to a row. */
static void spread_groups(const float *from, float *to, shape s) {
    i64 width = s.channels / s.groups;
    for (i64 group = 0; group < s.groups; group++)
        for (i64 i = 0; i < width; i++)
            to[group * width + i] = from[group];
    repeat(to, s);
}
static void spread_channels(const float *from, float *to, shape s) {
    for (i64 i = 0; i < s.channels; i++)
        to[i] = from[i];
    repeat(to, s);
}

/* Sum what is above the first pixel, so that no digits cancel, and its square: of all
rows, some vectors of each, whose sums stay in registers. */
INLINE void sum_vectors(const void *x, const float *origin, float *total, float *square,
                        i64 first, int vectors, shape s, dtype kind) {
    vector origins[VECTORS], totals[VECTORS], squares[VECTORS];
    EACH (v, vectors) {
        origins[v] = load(origin + first + v * WIDTH);
        totals[v] = squares[v] = all(0);
    }
    for (i64 row = first; row < s.rows * s.length; row += s.length)
        EACH (v, vectors) {
            vector above = load_from(x, row + v * WIDTH, kind) - origins[v];
            totals[v] += above;
            squares[v] += above * above;
        }
    EACH (v, vectors) {
        store(total + first + v * WIDTH, totals[v]);
        store(square + first + v * WIDTH, squares[v]);
    }
}
INLINE void sum_numbers(const void *x, const float *origin, float *total, float *square,
                        i64 first, shape s, dtype kind) {
    for (i64 i = first; i < s.length; i++) {
        float sum = 0, squares = 0;
        for (i64 row = i; row < s.rows * s.length; row += s.length) {
            float above = get(x, row, kind) - origin[i];
            sum += above;
            squares += above * above;
        }
        total[i] = sum;
        square[i] = squares;
    }
}
INLINE void sum(const void *x, const float *origin, float *total, float *square,
                shape s, dtype kind) {
    i64 i = 0;
    for (; i + VECTORS * WIDTH <= s.length; i += VECTORS * WIDTH)
        sum_vectors(x, origin, total, square, i, VECTORS, s, kind);
    for (; i + WIDTH <= s.length; i += WIDTH)
        sum_vectors(x, origin, total, square, i, 1, s, kind);
    sum_numbers(x, origin, total, square, i, s, kind);
}

/* Pool the channels' sums to the groups' means and inverse deviations.

Above the group's first pixel, for the sake of digits again. */
static void pool(const float *origin, const float *total, const float *square,
                 float *mean, float *inverse, float eps, shape s) {
    i64 width = s.channels / s.groups;
    for (i64 group = 0; group < s.groups; group++) {
        i64 first = group * width, last = first + width;
        float middle = 0, variance = 0;
        for (i64 i = first; i < last; i++)
            middle += origin[i] - origin[first] + total[i] / s.pixels;
        middle /= width;
        for (i64 i = first; i < last; i++) {
            float above = total[i] / s.pixels;
            float away = origin[i] - origin[first] + above - middle;
            variance += square[i] / s.pixels - above * above + away * away;
        }
        /* A rounding error can be below zero; a NaN has to stay. */
        variance = variance < 0 ? 0 : variance;
        mean[group] = origin[first] + middle;
        inverse[group] = 1 / __builtin_sqrtf(variance / width + eps);
    }
}

INLINE void scale(const void *restrict x, const float *restrict middle,
                  const float *restrict slope, const float *restrict start,
                  void *restrict y, shape s, int activates, dtype kind) {
    for (i64 row = 0; row < s.rows; row++) {
        const void *xs = at(x, row * s.length, kind);
        void *ys = (void *)at(y, row * s.length, kind);
        for (i64 i = 0; i < s.length; i++) {
            float z = (get(xs, i, kind) - middle[i]) * slope[i] + start[i];
            put(ys, i, activates ? z * sigmoid(z) : z, kind);
        }
    }
}

typedef struct {
    const void *x;
    void *y;
    const float *weight, *bias;
    float *moments;
    float eps;
    shape shape;
} normalisation;

INLINE void normalise_image(const normalisation *work, i64 n, float *scratch,
                            int activates, dtype kind) {
    shape s = work->shape;
    const void *x = at(work->x, n * s.pixels * s.channels, kind);
    void *y = (void *)at(work->y, n * s.pixels * s.channels, kind);
    float *origin = scratch, *total = origin + s.length, *square = total + s.length;
    float *middle = square + s.length, *slope = middle + s.length;
    float *start = slope + s.length, *mean = start + s.length;
    float *inverse = mean + s.groups;
    if (work->moments) {
        mean = work->moments + n * s.groups;
        inverse = mean + s.images * s.groups;
    }
    for (i64 i = 0; i < s.channels; i++)
        origin[i] = get(x, i, kind);
    repeat(origin, s);
    sum(x, origin, total, square, s, kind);
    fold(total, s);
    fold(square, s);
    pool(origin, total, square, mean, inverse, work->eps, s);
    spread_groups(mean, middle, s);
    spread_groups(inverse, slope, s);
    spread_channels(work->bias, start, s);
    for (i64 i = 0; i < s.channels; i++)
        slope[i] *= work->weight[i];
    repeat(slope, s);
    scale(x, middle, slope, start, y, s, activates, kind);
}

PARTS_OF_DTYPES(normalises, normalise_image, 0)
PARTS_OF_DTYPES(activates, normalise_image, 1)

/* Normalise groups of channels, then apply SiLU if it `activates`.

x, y: images and result (images, pixels, channels), in the dtype; weight, bias: float32
(channels,); moments: written where it is not null, means and inverse deviations,
float32 (2, images, groups). */
EXPORT void normalise(const void *x, void *y, const float *weight, const float *bias,
                      float *moments, i64 images, i64 pixels, i64 channels, i64 groups,
                      float eps, int activates, dtype kind) {
    shape s = shape_of(images, pixels, channels, groups);
    normalisation work = {x, y, weight, bias, moments, eps, s};
    part *parts[2][2] = {{normalises_float32, normalises_bfloat16},
                         {activates_float32, activates_bfloat16}};
    do_parts(parts[activates][kind], &work, images, 6 * s.length + 2 * groups);
}

/* The gradient of what is activated, its sums, and those of its products with what is
normalised. */
INLINE void correlate(const void *restrict x, const void *restrict dy,
                      const float *restrict middle, const float *restrict inverse,
                      const float *restrict weight, const float *restrict bias,
                      float *restrict dz, float *restrict sums,
                      float *restrict products, shape s, int activates, dtype kind) {
    for (i64 row = 0; row < s.rows; row++) {
        const void *xs = at(x, row * s.length, kind);
        const void *dys = at(dy, row * s.length, kind);
        float *dzs = dz + row * s.length;
        for (i64 i = 0; i < s.length; i++) {
            float normal = (get(xs, i, kind) - middle[i]) * inverse[i];
            float z = normal * weight[i] + bias[i], p = sigmoid(z);
            float slope = activates ? p * (1 + z * (1 - p)) : 1;
            float gradient = get(dys, i, kind) * slope;
            dzs[i] = gradient;
            sums[i] += gradient;
            products[i] += gradient * normal;
        }
    }
}

/* Find what the means and deviations hand on to each of their pixels. */
static void pool_gradient(const float *weight, const float *sums, const float *products,
                          float *away, float *along, shape s) {
    i64 width = s.channels / s.groups;
    for (i64 group = 0; group < s.groups; group++) {
        i64 first = group * width, last = first + width;
        float share = 1.0f / (width * s.pixels);
        float of_mean = 0, of_deviation = 0;
        for (i64 i = first; i < last; i++) {
            of_mean += weight[i] * sums[i] * share;
            of_deviation += weight[i] * products[i] * share;
        }
        for (i64 i = first; i < last; i++) {
            away[i] = of_mean;
            along[i] = of_deviation;
        }
    }
    repeat(away, s);
    repeat(along, s);
}

INLINE void descend(const float *restrict dz, const void *restrict x,
                    const float *restrict middle, const float *restrict inverse,
                    const float *restrict weight, const float *restrict away,
                    const float *restrict along, const void *restrict onto,
                    void *restrict dx, shape s, dtype kind) {
    for (i64 row = 0; row < s.rows; row++) {
        const void *xs = at(x, row * s.length, kind);
        const void *ontos = at(onto, onto ? row * s.length : 0, kind);
        void *dxs = (void *)at(dx, row * s.length, kind);
        const float *dzs = dz + row * s.length;
        for (i64 i = 0; i < s.length; i++) {
            float normal = (get(xs, i, kind) - middle[i]) * inverse[i];
            float descent = dzs[i] * weight[i] - away[i] - normal * along[i];
            float added = onto ? get(ontos, i, kind) : 0;
            put(dxs, i, descent * inverse[i] + added, kind);
        }
    }
}

typedef struct {
    const void *x, *dy, *onto;
    void *dx;
    const float *weight, *bias, *moments;
    float *slopes;
    shape shape;
} normalisation_gradient;

INLINE void gradient_of_image(const normalisation_gradient *work, i64 n, float *scratch,
                              int activates, dtype kind) {
    shape s = work->shape;
    i64 first = n * s.pixels * s.channels;
    const void *x = at(work->x, first, kind), *dy = at(work->dy, first, kind);
    const void *onto = at(work->onto, work->onto ? first : 0, kind);
    void *dx = (void *)at(work->dx, first, kind);
    const float *mean = work->moments + n * s.groups;
    const float *deviation = mean + s.images * s.groups; /* its inverse */
    float *dweight = work->slopes + (n + 1) * 2 * s.channels;
    float *dbias = dweight + s.channels;
    float *middle = scratch, *inverse = middle + s.length;
    float *weight = inverse + s.length, *bias = weight + s.length;
    float *sums = bias + s.length;
    float *products = sums + s.length, *away = products + s.length;
    float *along = away + s.length, *dz = along + s.length;
    spread_groups(mean, middle, s);
    spread_groups(deviation, inverse, s);
    spread_channels(work->weight, weight, s);
    spread_channels(work->bias, bias, s);
    clear(sums, s.length);
    clear(products, s.length);
    correlate(x, dy, middle, inverse, weight, bias, dz, sums, products, s, activates,
              kind);
    fold(sums, s);
    fold(products, s);
    for (i64 i = 0; i < s.channels; i++) {
        dbias[i] = sums[i];
        dweight[i] = products[i];
    }
    pool_gradient(weight, sums, products, away, along, s);
    descend(dz, x, middle, inverse, weight, away, along, onto, dx, s, kind);
}

PARTS_OF_DTYPES(gradient, gradient_of_image, 0)
PARTS_OF_DTYPES(activated_gradient, gradient_of_image, 1)

/* Compute the gradients of `normalise` from that of its result, `dy`.

With h = (x - mean) / deviation and g the gradient of what is activated, averaged over a
group: dx = (g w - mean(g w) - h mean(g w h)) / deviation.

x, dy, onto, dx: (images, pixels, channels), in the dtype; onto: added to dx, or null;
weight, bias, moments: as `normalise` had and wrote them; slopes: written, the gradients
of the weight and of the bias, after them each image's shares, float32 (1 + images, 2,
channels). */
EXPORT void normalise_gradient(const void *x, const void *dy, const void *onto,
                               void *dx, const float *weight, const float *bias,
                               const float *moments, float *slopes, i64 images,
                               i64 pixels, i64 channels, i64 groups, int activates,
                               dtype kind) {
    shape s = shape_of(images, pixels, channels, groups);
    normalisation_gradient work = {x, dy, onto, dx, weight, bias, moments, slopes, s};
    part *parts[2][2] = {{gradient_float32, gradient_bfloat16},
                         {activated_gradient_float32, activated_gradient_bfloat16}};
    do_parts(parts[activates][kind], &work, images, 8 * s.length + pixels * channels);
    clear(slopes, 2 * channels);
    for (i64 n = 1; n <= images; n++)
        for (i64 i = 0; i < 2 * channels; i++)
            slopes[i] += slopes[n * 2 * channels + i];
}

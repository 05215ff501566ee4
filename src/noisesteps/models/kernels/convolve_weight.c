/* The kernels of a convolution by 3x3: their transform, and their gradient. */

#include "multiply.h"
#include "tiles.h"

/* Channels whose numbers are transposed at a time. */
enum { SQUARE = 8 };

/* What evaluates a polynomial at a LARGE tile's points divides by these there. */
#define OF_ZERO (1 / (P * P * Q * Q))
#define OF_P (1 / (2 * P * P * (P * P - Q * Q)))
#define OF_Q (1 / (2 * Q * Q * (Q * Q - P * P)))

/* Rows become columns: of pairs of numbers, of squares of 2x2, and of 4x4. */
INLINE void transpose(eight rows[SQUARE]) {
    eight pairs[SQUARE], fours[SQUARE];
    EACH (i, 4) {
        eight a = rows[2 * i], b = rows[2 * i + 1];
        pairs[2 * i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
        pairs[2 * i + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
    EACH (i, 4) {
        int k = i / 2 * 4 + i % 2;
        eight a = pairs[k], b = pairs[k + 2];
        fours[k] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        fours[k + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    EACH (i, 4) {
        eight a = fours[i], b = fours[i + 4];
        rows[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
        rows[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* G g and G' u, of one column or row: see `tiles.h` for the points. */
INLINE void transform_line_of_kernel(const eight g[], eight u[], int side) {
    if (side == SMALL) {
        eight ends = (g[0] + g[2]) * 0.5f, middle = g[1] * 0.5f;
        u[0] = g[0];
        u[1] = ends + middle;
        u[2] = ends - middle;
        u[3] = g[2];
    } else {
        eight even = OF_P * (g[0] + P * P * g[2]), odd = OF_P * P * g[1];
        u[1] = even + odd;
        u[2] = even - odd;
        even = OF_Q * (g[0] + Q * Q * g[2]), odd = OF_Q * Q * g[1];
        u[3] = even + odd;
        u[4] = even - odd;
        u[0] = OF_ZERO * g[0];
        u[5] = g[2];
    }
}
INLINE void gather_line_of_kernel(const eight u[], eight g[], int side) {
    if (side == SMALL) {
        eight middle = (u[1] + u[2]) * 0.5f;
        g[0] = u[0] + middle;
        g[1] = (u[1] - u[2]) * 0.5f;
        g[2] = middle + u[3];
    } else {
        eight p = OF_P * (u[1] + u[2]), q = OF_Q * (u[3] + u[4]);
        g[0] = OF_ZERO * u[0] + p + q;
        g[1] = OF_P * P * (u[1] - u[2]) + OF_Q * Q * (u[3] - u[4]);
        g[2] = P * P * p + Q * Q * q + u[5];
    }
}

/* G g G', of `SQUARE` columns of a row of the result. */
INLINE void transform_kernel(eight g[3][3], eight u[MOST][MOST], int side) {
    eight half[3][MOST];
    EACH (j, 3) {
        eight column[] = {g[0][j], g[1][j], g[2][j]};
        transform_line_of_kernel(column, half[j], side);
    }
    EACH (i, side) {
        eight row[] = {half[0][i], half[1][i], half[2][i]};
        transform_line_of_kernel(row, u[i], side);
    }
}

/* G' u G */
INLINE void gather_kernel(eight u[MOST][MOST], eight g[3][3], int side) {
    eight half[MOST][3];
    EACH (j, side) {
        eight column[MOST];
        EACH (i, side)
            column[i] = u[i][j];
        gather_line_of_kernel(column, half[j], side);
    }
    EACH (i, 3) {
        eight row[MOST];
        EACH (j, side)
            row[j] = half[j][i];
        gather_line_of_kernel(row, g[i], side);
    }
}

typedef struct {
    const float *from;
    float *to;
    i64 inputs, outputs;
    int backwards;
} weights;

/* For outputs from `o` and inputs from `c` on; `backwards`, kernels are turned by 180
degrees and the outputs are summed over. */
INLINE void transform_square(const weights *work, i64 o, i64 c, int side) {
    i64 inputs = work->inputs, outputs = work->outputs;
    i64 step = step_of(inputs * outputs);
    int backwards = work->backwards;
    eight g[9][SQUARE]; /* rows are those of the result */
    EACH (p, 9) {
        const float *from = work->from + (o * 9 + (backwards ? 8 - p : p)) * inputs + c;
        EACH (i, SQUARE)
            g[p][i] = load_eight(from + i * 9 * inputs);
        if (!backwards)
            transpose(g[p]);
    }
    i64 rows = backwards ? outputs : inputs, columns = backwards ? inputs : outputs;
    i64 row = backwards ? o : c, column = backwards ? c : o;
    i64 width = width_of_panel(column, columns);
    float *to = work->to + start_of_panel(column, rows) + row * width + column % PANEL;
    for (i64 i = 0; i < SQUARE; i++) {
        eight kernel[3][3], u[MOST][MOST];
        EACH (p, 9)
            kernel[p / 3][p % 3] = g[p][i];
        transform_kernel(kernel, u, side);
        EACH (p, side * side)
            store_eight(to + p * step + i * width, u[p / side][p % side]);
    }
}

/* Row by row of the result, so that its lines of the cache are filled one by one. */
INLINE void transform_rows(const weights *work, i64 index, int side) {
    i64 first = index * SQUARE;
    if (work->backwards)
        for (i64 c = 0; c < work->inputs; c += SQUARE)
            transform_square(work, first, c, side);
    else
        for (i64 o = 0; o < work->outputs; o += SQUARE)
            transform_square(work, o, first, side);
}
static void transforms_small(const void *work, i64 index, float *scratch) {
    transform_rows(work, index, SMALL);
}
static void transforms_large(const void *work, i64 index, float *scratch) {
    transform_rows(work, index, LARGE);
}

/* How many numbers transformed kernels are. */
EXPORT i64 size_of_weight(i64 inputs, i64 outputs, int side) {
    return side * side * step_of(inputs * outputs);
}

/* Transform kernels (outputs, 3, 3, inputs) for `convolve`, to (places, panels, inputs,
outputs of a panel); or, `backwards`, for the convolution that is its gradient, which
takes the outputs' gradient for inputs. */
EXPORT void transform_weight(const float *from, float *to, i64 inputs, i64 outputs,
                             int side, int backwards) {
    weights work = {from, to, inputs, outputs, backwards};
    do_parts(side == LARGE ? transforms_large : transforms_small, &work,
             (backwards ? outputs : inputs) / SQUARE, 0);
}

/* Gradient */

typedef struct {
    const void *x, *dy;
    float *dbiases, *sums;
    i64 images_of_part, bands; /* into which a part's outputs are divided */
    shape shape;
} gradient;

/* A y A', of a vector of channels. */
INLINE void spread_tile(vector y[MOST][MOST], float *to, i64 step, int side) {
    EACH (pass, passes(side)) {
        int rows = side / passes(side), first = pass * rows;
        vector half[MOST][MOST]; /* by rows */
        EACH (j, side - 2) {
            vector column[MOST], m[MOST];
            EACH (i, side - 2)
                column[i] = y[i][j];
            spread_line(column, m, side);
            EACH (i, rows)
                half[i][j] = m[first + i];
        }
        EACH (i, rows) {
            vector m[MOST];
            spread_line(half[i], m, side);
            EACH (j, side)
                store(to + ((first + i) * side + j) * step, m[j]);
        }
    }
}

/* The gradient of a block's places for some outputs, and of the bias: added to the
image's sum of it after a few of its tiles, by way of a `share`, since long sums lose
digits. */
INLINE void spread_block(const gradient *work, block to, i64 first, i64 count,
                         band band, float *share, int side, dtype kind) {
    shape s = work->shape;
    i64 tiles = tiles_of(1, s, side);
    tile tile = tile_at(first, s, side);
    for (i64 t = 0; t < count; t++, tile = after(tile, s, side)) {
        i64 corner = (tile.n * s.height + tile.y) * s.width + tile.x;
        for (i64 k = band.first; k < band.end; k += WIDTH) {
            vector y[MOST][MOST], sum = all(0);
            EACH (i, side - 2) {
                i64 from = (corner + i * s.width) * s.outputs + k;
                vector row = all(0);
                EACH (j, side - 2) {
                    y[i][j] = load_from(work->dy, from + j * s.outputs, kind);
                    row += y[i][j];
                }
                sum += row;
            }
            store(share + k, load(share + k) + sum);
            spread_tile(y, to.numbers + t * s.outputs + k, to.step, side);
        }
        i64 done = (first + t) % tiles + 1; /* of this image */
        if (done % PRODUCTS == 0 || done == tiles) {
            float *sum = work->dbiases + tile.n * s.outputs;
            for (i64 k = band.first; k < band.end; k++)
                sum[k] += share[k];
            clear(share, s.outputs);
        }
    }
}

INLINE void sum_images(const gradient *work, i64 index, float *scratch, int side,
                       scale scale, dtype kind) {
    shape s = work->shape;
    i64 part = index / work->bands, begin = part * work->images_of_part;
    i64 end = least(begin + work->images_of_part, s.images);
    i64 start = tiles_of(begin, s, side), last = tiles_of(end, s, side);
    i64 size = tiles_of_block(s, side, PRODUCTS), step = step_of(s.inputs * s.outputs);
    band band = band_at(index % work->bands, work->bands, s.outputs);
    i64 width = band.end - band.first;
    float *outside = scratch, *share = outside + s.inputs;
    float *sums = work->sums + part * side * side * step + band.first;
    block pixels = {share + s.outputs, step_of(size * s.inputs)};
    block tiles = {pixels.numbers + side * side * pixels.step,
                   step_of(size * s.outputs)};
    clear(outside, s.inputs + s.outputs); /* and the share */
    for (int p = 0; p < side * side; p++)
        for (i64 c = 0; !counts(p, scale) && c < s.inputs; c++)
            clear(sums + p * step + c * s.outputs, width);
    for (i64 n = begin; n < end; n++)
        clear(work->dbiases + n * s.outputs + band.first, width);
    for (i64 first = start; first < last; first += size) {
        i64 count = least(size, last - first);
        transform_block(work->x, outside, first, count, s, pixels, side, scale, kind);
        spread_block(work, tiles, first, count, band, share, side, kind);
        for (int p = 0; p < side * side; p++) {
            if (!counts(p, scale))
                continue;
            matrix left = {pixels.numbers + p * pixels.step, 1, s.inputs};
            matrix right = {tiles.numbers + p * tiles.step + band.first, s.outputs, 1};
            multiply(left, right, sums + p * step, s.outputs, s.inputs, width, count,
                     first > start);
        }
    }
}

PARTS_OF_DTYPES(large, sum_images, LARGE, SAME)
PARTS_OF_DTYPES(small, sum_images, SMALL, SAME)
PARTS_OF_DTYPES(doubled, sum_images, SMALL, DOUBLED)

typedef struct {
    const float *sums;
    float *dweight;
    i64 parts, inputs, outputs;
} gathering;

INLINE void gather_inputs(const gathering *work, i64 index, int side) {
    i64 inputs = work->inputs, outputs = work->outputs, first = index * SQUARE;
    i64 step = step_of(inputs * outputs);
    for (i64 o = 0; o < outputs; o += SQUARE) {
        eight g[SQUARE][3][3];
        for (i64 l = 0; l < SQUARE; l++) {
            const float *from = work->sums + (first + l) * outputs + o;
            eight u[MOST][MOST] = {0};
            for (i64 part = 0; part < work->parts; part++, from += side * side * step)
                EACH (p, side * side)
                    u[p / side][p % side] += load_eight(from + p * step);
            gather_kernel(u, g[l], side);
        }
        for (int p = 0; p < 9; p++) {
            eight rows[SQUARE];
            EACH (l, SQUARE)
                rows[l] = g[l][p / 3][p % 3];
            transpose(rows);
            EACH (i, SQUARE)
                store_eight(work->dweight + ((o + i) * 9 + p) * inputs + first,
                            rows[i]);
        }
    }
}

static void gathers_small(const void *work, i64 index, float *scratch) {
    gather_inputs(work, index, SMALL);
}
static void gathers_large(const void *work, i64 index, float *scratch) {
    gather_inputs(work, index, LARGE);
}

/* Compute the gradients of kernels and bias from that of the result, `dy`.

x: what `convolve` took, half as high and wide if it is DOUBLED; dweight: (outputs, 3,
3, inputs); dbias: (outputs,); dbiases: each image's share, (images, outputs); sums:
memory for `size_of_weight` numbers of each part, which has `images_of_part` images. */
EXPORT void convolve_gradient(const void *x, const void *dy, float *dweight,
                              float *dbias, float *dbiases, float *sums,
                              i64 images_of_part, i64 images, i64 height, i64 width,
                              i64 inputs, i64 outputs, int side, scale scale,
                              dtype kind) {
    shape s = {images, height, width, inputs, outputs};
    i64 parts = (images + images_of_part - 1) / images_of_part;
    i64 bands = bands_of(outputs, parts);
    gradient work = {x, dy, dbiases, sums, images_of_part, bands, s};
    part *large[] = {large_float32, large_bfloat16};
    part *small[2][2] = {{small_float32, small_bfloat16},
                         {doubled_float32, doubled_bfloat16}};
    i64 size = tiles_of_block(s, side, PRODUCTS);
    i64 steps = step_of(size * inputs) + step_of(size * outputs);
    do_parts(side == LARGE ? large[kind] : small[scale][kind], &work, parts * bands,
             inputs + outputs + side * side * steps);
    gathering gathering = {sums, dweight, parts, inputs, outputs};
    do_parts(side == LARGE ? gathers_large : gathers_small, &gathering, inputs / SQUARE,
             0);
    clear(dbias, outputs);
    for (i64 n = 0; n < images; n++)
        for (i64 k = 0; k < outputs; k++)
            dbias[k] += dbiases[n * outputs + k];
}

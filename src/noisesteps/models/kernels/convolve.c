/* Convolution by 3x3 with a margin of 1, and its gradients, with 4 of 9 products.

Lavin & Gray 2016 (arXiv 1509.09308), F(2x2, 3x3): with the matrices A, B and G below, a
tile of 2x2 pixels of the result is A'[(G g G') * (B' d B)]A, where g is the kernel of a
pair of channels, d the 4x4 pixels under the tile, and * goes number by number over 16
"places". So each place asks for a product of two matrices: tiles x inputs by inputs x
outputs. A gradient is the same read backwards, each step transposed.

Images are float32 (images, height, width, channels) of even sides; channels are
multiples of 16. Where an image is doubled first, each pixel repeated in both
directions, the middle two of the 4x4 pixels are alike in each direction, and 7 places
are zero. */

#include "common.h"

enum {
    SIDE = 4,
    PLACES = SIDE * SIDE,
    ROWS = 6,
    MARGIN = 16,
    BLOCK = 48,
    BLOCK_BYTES = 320 * 1024
};

static const unsigned char EVERY[PLACES] = {0, 1, 2,  3,  4,  5,  6,  7,
                                            8, 9, 10, 11, 12, 13, 14, 15};
static const unsigned char DOUBLED[] = {0, 1, 3, 4, 5, 7, 12, 13, 15};

typedef struct {
    i64 images, height, width, inputs, outputs; /* height and width of the result */
    int doubles;
} shape;

typedef struct {
    const unsigned char *place;
    int count;
} places;

static places places_of(shape s) {
    return s.doubles ? (places){DOUBLED, sizeof DOUBLED} : (places){EVERY, PLACES};
}

/* Products of matrices.

result[i][j] (+)= sum over k of left[i * row + k * step] right[k * right_step + j]; of
`rows` x `vectors` numbers, which stay in registers. */

typedef struct {
    const float *numbers;
    i64 row, step;
} matrix;

INLINE void multiply_tile(matrix left, matrix right, float *result, i64 result_row,
                          i64 depth, int adds, int rows, int vectors) {
    vector sums[12][2];
    EACH (i, rows)
        EACH (j, vectors)
            sums[i][j] = adds ? load(result + i * result_row + j * WIDTH) : all(0);
    for (i64 k = 0; k < depth; k++) {
        vector r[2];
        EACH (j, vectors)
            r[j] = load(right.numbers + k * right.row + j * WIDTH);
        EACH (i, rows) {
            vector l = all(left.numbers[i * left.row + k * left.step]);
            EACH (j, vectors)
                sums[i][j] += l * r[j];
        }
    }
    EACH (i, rows)
        EACH (j, vectors)
            store(result + i * result_row + j * WIDTH, sums[i][j]);
}

/* As many rows at once as there are registers for, then the rest. */
INLINE void multiply_columns(matrix left, matrix right, float *result, i64 result_row,
                             i64 rows, i64 depth, int adds, int vectors) {
    const int most = vectors == 1 ? 2 * ROWS : ROWS;
    i64 i = 0;
#define TILES(count)                                                                   \
    for (; i + (count) <= rows; i += (count)) {                                        \
        matrix from = {left.numbers + i * left.row, left.row, left.step};              \
        multiply_tile(from, right, result + i * result_row, result_row, depth, adds,   \
                      count, vectors);                                                 \
    }
    TILES(most)
    TILES(4)
    TILES(2)
    TILES(1)
}

INLINE void multiply(matrix left, matrix right, float *result, i64 rows, i64 columns,
                     i64 depth, int adds) {
    i64 j = 0;
    for (; j + 2 * WIDTH <= columns; j += 2 * WIDTH) {
        matrix from = {right.numbers + j, right.row, 1};
        multiply_columns(left, from, result + j, columns, rows, depth, adds, 2);
    }
    for (; j < columns; j += WIDTH) {
        matrix from = {right.numbers + j, right.row, 1};
        multiply_columns(left, from, result + j, columns, rows, depth, adds, 1);
    }
}

/* The result anew, and added to what it was. */
static void multiply_anew(matrix left, matrix right, float *result, i64 rows,
                          i64 columns, i64 depth) {
    multiply(left, right, result, rows, columns, depth, 0);
}
static void multiply_onto(matrix left, matrix right, float *result, i64 rows,
                          i64 columns, i64 depth) {
    multiply(left, right, result, rows, columns, depth, 1);
}

/* The transforms, of a vector of channels at a time. */

/* B' d B */
INLINE void transform_pixels(vector d[SIDE][SIDE]) {
    EACH (j, SIDE) {
        vector a = d[0][j], b = d[1][j], c = d[2][j];
        d[0][j] = a - c;
        d[1][j] = b + c;
        d[2][j] = c - b;
        d[3][j] = b - d[3][j];
    }
    EACH (i, SIDE) {
        vector a = d[i][0], b = d[i][1], c = d[i][2];
        d[i][0] = a - c;
        d[i][1] = b + c;
        d[i][2] = c - b;
        d[i][3] = b - d[i][3];
    }
}

/* B d B' */
INLINE void spread_pixels(vector d[SIDE][SIDE]) {
    EACH (j, SIDE) {
        vector a = d[0][j], b = d[1][j], c = d[2][j];
        d[1][j] = b - c + d[3][j];
        d[2][j] = b + c - a;
        d[3][j] = -d[3][j];
    }
    EACH (i, SIDE) {
        vector a = d[i][0], b = d[i][1], c = d[i][2];
        d[i][1] = b - c + d[i][3];
        d[i][2] = b + c - a;
        d[i][3] = -d[i][3];
    }
}

/* A' m A */
INLINE void gather_tile(vector m[SIDE][SIDE], vector y[2][2]) {
    vector half[2][SIDE];
    EACH (j, SIDE) {
        half[0][j] = m[0][j] + m[1][j] + m[2][j];
        half[1][j] = m[1][j] - m[2][j] - m[3][j];
    }
    EACH (i, 2) {
        y[i][0] = half[i][0] + half[i][1] + half[i][2];
        y[i][1] = half[i][1] - half[i][2] - half[i][3];
    }
}

/* A y A' */
INLINE void spread_tile(vector y[2][2], vector m[SIDE][SIDE]) {
    vector half[SIDE][2];
    EACH (j, 2) {
        half[0][j] = y[0][j];
        half[1][j] = y[0][j] + y[1][j];
        half[2][j] = y[0][j] - y[1][j];
        half[3][j] = -y[1][j];
    }
    EACH (i, SIDE) {
        m[i][0] = half[i][0];
        m[i][1] = half[i][0] + half[i][1];
        m[i][2] = half[i][0] - half[i][1];
        m[i][3] = -half[i][1];
    }
}

/* Where tiles lie. */

typedef struct {
    i64 n, y, x; /* the image, and the upper left pixel of the result */
} tile;

static tile tile_at(i64 index, shape s) {
    i64 across = s.width / 2, down = s.height / 2;
    return (tile){index / (across * down), index / across % down * 2,
                  index % across * 2};
}

static tile after(tile t, shape s) {
    t.x += 2;
    if (t.x == s.width)
        t.x = 0, t.y += 2;
    if (t.y == s.height)
        t.y = 0, t.n++;
    return t;
}

/* Find the 4x4 pixels under a tile; `outside` the image there is another. */
static void find_pixels(const float *x, const float *outside, tile t, shape s,
                        const float *found[SIDE][SIDE]) {
    i64 height = s.height >> s.doubles, width = s.width >> s.doubles;
    const float *image = x + t.n * height * width * s.inputs;
    for (int i = 0; i < SIDE; i++) {
        i64 y = (t.y + i - 1) >> s.doubles;
        const float *row = image + y * width * s.inputs;
        EACH (j, SIDE) {
            i64 x = (t.x + j - 1) >> s.doubles;
            int inside = y >= 0 && y < height && x >= 0 && x < width;
            found[i][j] = inside ? row + x * s.inputs : outside;
        }
    }
}

/* The transformed block of tiles: its places lie `step` numbers apart. */
typedef struct {
    float *numbers;
    i64 step;
} block;

/* How many tiles to transform at a time: they have to stay in the cache. */
static i64 tiles_of_block(shape s) {
    i64 tiles = BLOCK;
    while (tiles > 2 * ROWS &&
           PLACES * tiles * (s.inputs + s.outputs) * (i64)sizeof(float) > BLOCK_BYTES)
        tiles -= ROWS;
    return tiles;
}

/* A margin keeps places from sharing the same lines of the cache. */
static i64 step_of(shape s, i64 channels) {
    return tiles_of_block(s) * channels + MARGIN;
}

static i64 scratch_of(shape s) {
    i64 steps = step_of(s, s.inputs) + step_of(s, s.outputs);
    return 2 * s.inputs + s.outputs + PLACES * steps;
}

static void transform_block(const float *x, const float *outside, i64 first, i64 count,
                            shape s, block to) {
    tile at = tile_at(first, s);
    for (i64 t = 0; t < count; t++, at = after(at, s)) {
        const float *pixels[SIDE][SIDE];
        find_pixels(x, outside, at, s, pixels);
        for (i64 c = 0; c < s.inputs; c += WIDTH) {
            vector d[SIDE][SIDE];
            EACH (p, PLACES)
                d[p / SIDE][p % SIDE] = load(pixels[p / SIDE][p % SIDE] + c);
            transform_pixels(d);
            float *numbers = to.numbers + t * s.inputs + c;
            EACH (p, PLACES)
                store(numbers + p * to.step, d[p / SIDE][p % SIDE]);
        }
    }
}

static void clear(float *numbers, i64 count) {
    for (i64 i = 0; i < count; i++)
        numbers[i] = 0;
}

/* Weights */

/* Channels whose numbers are transposed at a time. */
enum { SQUARE = 8 };
typedef float eight __attribute__((vector_size(4 * SQUARE), aligned(4), may_alias));

INLINE eight load_eight(const float *from) {
    return *(const eight *)from;
}
INLINE void store_eight(float *to, eight x) {
    *(eight *)to = x;
}

/* How far the places of transformed kernels lie apart, with a margin as above. */
INLINE i64 place_of(i64 inputs, i64 outputs) {
    return inputs * outputs + MARGIN;
}

typedef struct {
    const float *from;
    float *to;
    i64 inputs, outputs;
    int transposed;
} weights;

/* G g G', of `SQUARE` inputs of an output. */
INLINE void transform_kernel(eight g[3][3], eight u[SIDE][SIDE]) {
    eight half[SIDE][3];
    EACH (j, 3) {
        eight ends = (g[0][j] + g[2][j]) * 0.5f, middle = g[1][j] * 0.5f;
        half[0][j] = g[0][j];
        half[1][j] = ends + middle;
        half[2][j] = ends - middle;
        half[3][j] = g[2][j];
    }
    EACH (i, SIDE) {
        eight ends = (half[i][0] + half[i][2]) * 0.5f, middle = half[i][1] * 0.5f;
        u[i][0] = half[i][0];
        u[i][1] = ends + middle;
        u[i][2] = ends - middle;
        u[i][3] = half[i][2];
    }
}

/* For outputs from `o` and inputs from `c` on. */
INLINE void transform_square(const weights *work, i64 o, i64 c) {
    i64 inputs = work->inputs, outputs = work->outputs;
    eight u[SQUARE][SIDE][SIDE];
    for (i64 i = 0; i < SQUARE; i++) {
        eight g[3][3];
        EACH (p, 9)
            g[p / 3][p % 3] = load_eight(work->from + ((o + i) * 9 + p) * inputs + c);
        transform_kernel(g, u[i]);
    }
    for (int p = 0; p < PLACES; p++) {
        float *place = work->to + p * place_of(inputs, outputs);
        for (i64 i = 0; i < SQUARE; i++) {
            if (work->transposed) {
                eight column;
                EACH (l, SQUARE)
                    column[l] = u[l][p / SIDE][p % SIDE][i];
                store_eight(place + (c + i) * outputs + o, column);
            } else {
                store_eight(place + (o + i) * inputs + c, u[i][p / SIDE][p % SIDE]);
            }
        }
    }
}

/* How many numbers transformed kernels are. */
EXPORT i64 size_of_weight(i64 inputs, i64 outputs) {
    return PLACES * place_of(inputs, outputs);
}

static void transform_outputs(const void *data, i64 index, float *scratch) {
    const weights *work = data;
    for (i64 c = 0; c < work->inputs; c += SQUARE)
        transform_square(work, index * SQUARE, c);
}

/* Transform kernels (outputs, 3, 3, inputs) to (16, inputs, outputs), for `convolve`;
or, not `transposed`, to (16, outputs, inputs), for its gradient. */
EXPORT void transform_weight(const float *from, float *to, i64 inputs, i64 outputs,
                             int transposed) {
    weights work = {from, to, inputs, outputs, transposed};
    do_parts(transform_outputs, &work, outputs / SQUARE, 0);
}

/* Forward */

typedef struct {
    const float *x, *weight, *bias, *onto;
    float *y;
    i64 bias_step;
    shape shape;
} convolution;

static void gather_block(const convolution *work, block from, i64 first, i64 count) {
    shape s = work->shape;
    i64 across = s.outputs, down = s.width * s.outputs;
    tile at = tile_at(first, s);
    for (i64 t = 0; t < count; t++, at = after(at, s)) {
        i64 corner = ((at.n * s.height + at.y) * s.width + at.x) * s.outputs;
        for (i64 k = 0; k < s.outputs; k += WIDTH) {
            vector m[SIDE][SIDE], y[2][2];
            vector bias = load(work->bias + at.n * work->bias_step + k);
            const float *numbers = from.numbers + t * s.outputs + k;
            EACH (p, PLACES)
                m[p / SIDE][p % SIDE] = load(numbers + p * from.step);
            gather_tile(m, y);
            EACH (p, 4) {
                i64 to = corner + p / 2 * down + p % 2 * across + k;
                vector sum = y[p / 2][p % 2] + bias;
                store(work->y + to, work->onto ? sum + load(work->onto + to) : sum);
            }
        }
    }
}

static void convolve_block(const void *data, i64 index, float *scratch) {
    const convolution *work = data;
    shape s = work->shape;
    places places = places_of(s);
    i64 tiles = s.images * s.height * s.width / 4, size = tiles_of_block(s);
    i64 first = index * size, count = least(size, tiles - first);
    float *outside = scratch;
    block pixels = {outside + 2 * s.inputs + s.outputs, step_of(s, s.inputs)};
    block sums = {pixels.numbers + PLACES * pixels.step, step_of(s, s.outputs)};
    clear(outside, s.inputs);
    if (s.doubles)
        clear(sums.numbers, PLACES * sums.step);
    transform_block(work->x, outside, first, count, s, pixels);
    for (int i = 0; i < places.count; i++) {
        int p = places.place[i];
        matrix left = {pixels.numbers + p * pixels.step, s.inputs, 1};
        matrix right = {work->weight + p * place_of(s.inputs, s.outputs), s.outputs, 1};
        multiply_anew(left, right, sums.numbers + p * sums.step, count, s.outputs,
                      s.inputs);
    }
    gather_block(work, sums, first, count);
}

/* Convolve images.

x: (images, height, width, inputs), half as high and wide if it `doubles`; weight: from
`transform_weight`; bias: rows (outputs,) `bias_step` numbers apart, one for each image
or, with 0, one for all; onto: added to the result, or null; y: the result (images,
height, width, outputs). */
EXPORT void convolve(const float *x, const float *weight, const float *bias,
                     i64 bias_step, const float *onto, float *y, i64 images, i64 height,
                     i64 width, i64 inputs, i64 outputs, int doubles) {
    shape s = {images, height, width, inputs, outputs, doubles};
    convolution work = {x, weight, bias, onto, y, bias_step, s};
    i64 tiles = images * height * width / 4, size = tiles_of_block(s);
    do_parts(convolve_block, &work, (tiles + size - 1) / size, scratch_of(s));
}

/* Backward */

typedef struct {
    const float *x, *weight, *dy;
    float *dx, *dbias, *sums;
    i64 images_of_part;
    shape shape;
} gradient;

/* The gradient of a block's places, and of the bias: added to the images' sums of it
once a block, by way of a `share`, since long sums lose digits. */
static void spread_block(const gradient *work, block to, i64 first, i64 count,
                         float *share) {
    shape s = work->shape;
    i64 across = s.outputs, down = s.width * s.outputs;
    tile at = tile_at(first, s);
    clear(share, s.outputs);
    for (i64 t = 0; t < count; t++, at = after(at, s)) {
        i64 corner = ((at.n * s.height + at.y) * s.width + at.x) * s.outputs;
        for (i64 k = 0; k < s.outputs; k += WIDTH) {
            vector m[SIDE][SIDE], y[2][2];
            EACH (p, 4)
                y[p / 2][p % 2] =
                    load(work->dy + corner + p / 2 * down + p % 2 * across + k);
            store(share + k,
                  load(share + k) + ((y[0][0] + y[0][1]) + (y[1][0] + y[1][1])));
            spread_tile(y, m);
            float *numbers = to.numbers + t * s.outputs + k;
            EACH (p, PLACES)
                store(numbers + p * to.step, m[p / SIDE][p % SIDE]);
        }
        if (t + 1 == count || after(at, s).n != at.n) {
            float *sum = work->dbias + at.n * s.outputs;
            for (i64 k = 0; k < s.outputs; k++)
                sum[k] += share[k];
            clear(share, s.outputs);
        }
    }
}

/* Add to each pixel of `dx` what the tiles above it hand on. */
static void scatter_block(float *dx, const float *outside, block from, i64 first,
                          i64 count, shape s) {
    tile at = tile_at(first, s);
    for (i64 t = 0; t < count; t++, at = after(at, s)) {
        const float *pixels[SIDE][SIDE];
        find_pixels(dx, outside, at, s, pixels);
        for (i64 c = 0; c < s.inputs; c += WIDTH) {
            vector d[SIDE][SIDE];
            const float *numbers = from.numbers + t * s.inputs + c;
            EACH (p, PLACES)
                d[p / SIDE][p % SIDE] = load(numbers + p * from.step);
            spread_pixels(d);
            EACH (p, PLACES) {
                float *to = (float *)pixels[p / SIDE][p % SIDE] + c;
                store(to, load(to) + d[p / SIDE][p % SIDE]);
            }
        }
    }
}

static void descend_block(const gradient *work, float *sums, i64 first, i64 count,
                          float *outside, block pixels, block tiles) {
    shape s = work->shape;
    places places = places_of(s);
    transform_block(work->x, outside, first, count, s, pixels);
    spread_block(work, tiles, first, count, outside + 2 * s.inputs);
    for (int i = 0; i < places.count; i++) {
        i64 p = places.place[i], square = p * place_of(s.inputs, s.outputs);
        matrix left = {pixels.numbers + p * pixels.step, 1, s.inputs};
        matrix right = {tiles.numbers + p * tiles.step, s.outputs, 1};
        multiply_onto(left, right, sums + square, s.inputs, s.outputs, count);
        left = (matrix){tiles.numbers + p * tiles.step, s.outputs, 1};
        right = (matrix){work->weight + square, s.inputs, 1};
        multiply_anew(left, right, pixels.numbers + p * pixels.step, count, s.inputs,
                      s.outputs);
    }
    scatter_block(work->dx, outside + s.inputs, pixels, first, count, s);
}

static void descend_images(const void *data, i64 index, float *scratch) {
    const gradient *work = data;
    shape s = work->shape;
    i64 image = s.height * s.width, begin = index * work->images_of_part;
    i64 end = least(begin + work->images_of_part, s.images);
    i64 size = tiles_of_block(s), last = end * image / 4;
    i64 given = (image >> 2 * s.doubles) * s.inputs;
    i64 weight = size_of_weight(s.inputs, s.outputs);
    float *outside = scratch, *sums = work->sums + index * weight;
    block pixels = {outside + 2 * s.inputs + s.outputs, step_of(s, s.inputs)};
    block tiles = {pixels.numbers + PLACES * pixels.step, step_of(s, s.outputs)};
    clear(outside,
          2 * s.inputs); /* zeros to read, and what is added outside an image */
    clear(sums, weight);
    clear(work->dx + begin * given, (end - begin) * given);
    clear(work->dbias + begin * s.outputs, (end - begin) * s.outputs);
    for (i64 first = begin * image / 4; first < last; first += size)
        descend_block(work, sums, first, least(size, last - first), outside, pixels,
                      tiles);
}

/* Compute the gradients of `convolve` from that of its result, `dy`.

weight: from `transform_weight`, not transposed; dx: that of the images; dbias: (images,
outputs), each image's share; sums: those of the transformed kernels, (parts, 16,
inputs, outputs), of `images_of_part` images each. */
EXPORT void convolve_gradient(const float *x, const float *weight, const float *dy,
                              float *dx, float *dbias, float *sums, i64 images_of_part,
                              i64 images, i64 height, i64 width, i64 inputs,
                              i64 outputs, int doubles) {
    shape s = {images, height, width, inputs, outputs, doubles};
    gradient work = {x, weight, dy, dx, dbias, sums, images_of_part, s};
    i64 parts = (images + images_of_part - 1) / images_of_part;
    do_parts(descend_images, &work, parts, scratch_of(s));
}

typedef struct {
    const float *sums;
    float *dweight;
    i64 parts, inputs, outputs;
} weight_gradient;

/* G' u G, of `SQUARE` outputs of an input. */
INLINE void gather_kernel(eight u[SIDE][SIDE], eight g[3][3]) {
    eight half[3][SIDE];
    EACH (j, SIDE) {
        eight middle = (u[1][j] + u[2][j]) * 0.5f;
        half[0][j] = u[0][j] + middle;
        half[1][j] = (u[1][j] - u[2][j]) * 0.5f;
        half[2][j] = middle + u[3][j];
    }
    EACH (i, 3) {
        eight middle = (half[i][1] + half[i][2]) * 0.5f;
        g[i][0] = half[i][0] + middle;
        g[i][1] = (half[i][1] - half[i][2]) * 0.5f;
        g[i][2] = middle + half[i][3];
    }
}

static void gather_inputs(const void *data, i64 index, float *scratch) {
    const weight_gradient *work = data;
    i64 inputs = work->inputs, outputs = work->outputs, first = index * SQUARE;
    i64 step = place_of(inputs, outputs);
    for (i64 o = 0; o < outputs; o += SQUARE) {
        eight g[SQUARE][3][3];
        for (i64 l = 0; l < SQUARE; l++) {
            const float *from = work->sums + (first + l) * outputs + o;
            eight u[SIDE][SIDE] = {0};
            for (i64 part = 0; part < work->parts; part++, from += PLACES * step)
                EACH (p, PLACES)
                    u[p / SIDE][p % SIDE] += load_eight(from + p * step);
            gather_kernel(u, g[l]);
        }
        for (i64 i = 0; i < SQUARE; i++)
            for (int p = 0; p < 9; p++) {
                float *to = work->dweight + ((o + i) * 9 + p) * inputs + first;
                EACH (l, SQUARE)
                    to[l] = g[l][p / 3][p % 3][i];
            }
    }
}

/* Add up the parts' sums from `convolve_gradient`, (parts, 16, inputs, outputs), to the
gradient of the kernels (outputs, 3, 3, inputs). */
EXPORT void gather_weight_gradient(const float *sums, float *dweight, i64 parts,
                                   i64 inputs, i64 outputs) {
    weight_gradient work = {sums, dweight, parts, inputs, outputs};
    do_parts(gather_inputs, &work, inputs / SQUARE, 0);
}

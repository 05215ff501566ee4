/* Convolution by 3x3, and the gradient of its images, which is one too. */

#include "multiply.h"
#include "tiles.h"

typedef struct {
    const void *x;
    const float *weight, *bias;
    const void *onto;
    void *y;
    i64 bias_step;
    shape shape;
} convolution;

INLINE void put_pixel(const convolution *work, vector y, i64 pixel, tile tile, i64 k,
                      dtype kind) {
    i64 to = pixel * work->shape.outputs + k;
    if (work->bias)
        y += load(work->bias + tile.n * work->bias_step + k);
    if (work->onto)
        y += load_from(work->onto, to, kind);
    store_to(work->y, to, y, kind);
}

INLINE void put_tile(const convolution *work, vector m[MOST][MOST], tile tile, i64 k,
                     int side, scale scale, dtype kind) {
    i64 height = work->shape.height, width = work->shape.width, n = tile.n;
    if (scale == HALVED) {
        i64 pixel = (n * height / 2 + tile.y / 2) * (width / 2) + tile.x / 2;
        put_pixel(work, gather_sum(m), pixel, tile, k, kind);
    } else {
        vector y[MOST][MOST];
        gather_tile(m, y, side);
        i64 corner = (n * height + tile.y) * width + tile.x;
        EACH (i, side - 2)
            EACH (j, side - 2)
                put_pixel(work, y[i][j], corner + i * width + j, tile, k, kind);
    }
}

INLINE void gather_block(const convolution *work, block from, i64 first, i64 count,
                         int side, scale scale, dtype kind) {
    shape s = work->shape;
    tile tile = tile_at(first, s, side);
    for (i64 t = 0; t < count; t++, tile = after(tile, s, side))
        for (i64 k = 0; k < s.outputs; k += WIDTH) {
            vector m[MOST][MOST];
            const float *numbers = from.numbers + t * s.outputs + k;
            EACH (p, side * side)
                m[p / side][p % side] =
                    counts(p, scale) ? load(numbers + p * from.step) : all(0);
            put_tile(work, m, tile, k, side, scale, kind);
        }
}

INLINE void convolve_block(const convolution *work, i64 index, float *scratch, int side,
                           scale scale, dtype kind) {
    shape s = work->shape;
    i64 size = tiles_of_block(s, side, 2 * ROWS), first = index * size;
    i64 count = least(size, tiles_of(s.images, s, side) - first);
    float *outside = scratch;
    block pixels = {outside + s.inputs, step_of(size * s.inputs)};
    block sums = {pixels.numbers + side * side * pixels.step,
                  step_of(size * s.outputs)};
    clear(outside, s.inputs);
    transform_block(work->x, outside, first, count, s, pixels, side, scale, kind);
    for (int p = 0; p < side * side; p++) {
        if (!counts(p, scale))
            continue;
        matrix left = {pixels.numbers + p * pixels.step, s.inputs, 1};
        matrix right = {work->weight + p * step_of(s.inputs * s.outputs), s.outputs, 1};
        multiply(left, right, sums.numbers + p * sums.step, count, s.outputs, s.inputs,
                 0);
    }
    gather_block(work, sums, first, count, side, scale, kind);
}

PARTS_OF_DTYPES(large, convolve_block, LARGE, SAME)
PARTS_OF_DTYPES(small, convolve_block, SMALL, SAME)
PARTS_OF_DTYPES(doubled, convolve_block, SMALL, DOUBLED)
PARTS_OF_DTYPES(halved, convolve_block, SMALL, HALVED)

/* Convolve images.

x: (images, height, width, inputs), half as high and wide if DOUBLED first; weight: from
`transform_weight`, of that `side`; bias: null, or float32 rows (outputs,) `bias_step`
numbers apart, one for each image or, with 0, one for all; onto: added to the result, or
null; y: the result (images, height, width, outputs), half as high and wide if HALVED.
*/
EXPORT void convolve(const void *x, const float *weight, const float *bias,
                     i64 bias_step, const void *onto, void *y, i64 images, i64 height,
                     i64 width, i64 inputs, i64 outputs, int side, scale scale,
                     dtype kind) {
    shape s = {images, height, width, inputs, outputs};
    convolution work = {x, weight, bias, onto, y, bias_step, s};
    part *large[] = {large_float32, large_bfloat16};
    part *small[3][2] = {{small_float32, small_bfloat16},
                         {doubled_float32, doubled_bfloat16},
                         {halved_float32, halved_bfloat16}};
    i64 tiles = tiles_of(images, s, side), size = tiles_of_block(s, side, 2 * ROWS);
    i64 steps = step_of(size * inputs) + step_of(size * outputs);
    do_parts(side == LARGE ? large[kind] : small[scale][kind], &work,
             (tiles + size - 1) / size, inputs + side * side * steps);
}

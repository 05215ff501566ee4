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
    i64 size, bands; /* of a block in tiles; into which its outputs are divided */
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

/* Results of a block of tiles for some outputs. */
INLINE void gather_block(const convolution *work, block sums, i64 first, i64 count,
                         band band, int side, scale scale, dtype kind) {
    shape s = work->shape;
    tile tile = tile_at(first, s, side);
    for (i64 t = 0; t < count; t++, tile = after(tile, s, side))
        for (i64 k = band.first; k < band.end; k += WIDTH) {
            vector m[MOST][MOST];
            const float *numbers = sums.numbers + t * s.outputs + k;
            EACH (p, side * side)
                m[p / side][p % side] =
                    counts(p, scale) ? load(numbers + p * sums.step) : all(0);
            put_tile(work, m, tile, k, side, scale, kind);
        }
}

INLINE void convolve_block(const convolution *work, i64 index, float *scratch, int side,
                           scale scale, dtype kind) {
    shape s = work->shape;
    i64 first = index / work->bands * work->size;
    i64 count = least(work->size, tiles_of(s.images, s, side) - first);
    band band = band_at(index % work->bands, work->bands, s.outputs);
    float *outside = scratch;
    block pixels = {outside + s.inputs, step_of(work->size * s.inputs)};
    block sums = {pixels.numbers + side * side * pixels.step,
                  step_of(work->size * s.outputs)};
    clear(outside, s.inputs);
    transform_block(work->x, outside, first, count, s, pixels, side, scale, kind);
    for (int p = 0; p < side * side; p++) {
        if (!counts(p, scale))
            continue;
        matrix left = {pixels.numbers + p * pixels.step, s.inputs, 1};
        multiply_panels(left, work->weight + p * step_of(s.inputs * s.outputs),
                        sums.numbers + p * sums.step, count, band, s.outputs, s.inputs);
    }
    gather_block(work, sums, first, count, band, side, scale, kind);
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
    i64 tiles = tiles_of(images, s, side), size = tiles_of_block(s, side, 2 * ROWS);
    i64 threads = thread_count(), blocks = (tiles + size - 1) / size;
    if (blocks > threads)
        blocks = (blocks + threads - 1) / threads * threads; /* as many for each */
    if (blocks)
        size = (tiles + blocks - 1) / blocks;
    i64 bands = bands_of(outputs, blocks);
    convolution work = {x, weight, bias, onto, y, bias_step, s, size, bands};
    part *large[] = {large_float32, large_bfloat16};
    part *small[3][2] = {{small_float32, small_bfloat16},
                         {doubled_float32, doubled_bfloat16},
                         {halved_float32, halved_bfloat16}};
    i64 steps = step_of(size * inputs) + step_of(size * outputs);
    do_parts(side == LARGE ? large[kind] : small[scale][kind], &work,
             (tiles + size - 1) / size * bands, inputs + side * side * steps);
}

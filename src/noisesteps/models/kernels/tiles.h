/* Convolution by 3x3 with a margin of 1, with 4 of 9 products or 1 of 4: what its
kernels share.

Lavin & Gray 2016 (arXiv 1509.09308): with the matrices A and B below and G in
`convolve_weight.c`, a tile of the result is A'[(G g G') * (B' d B)]A, where g is the
kernel of a pair of channels, d the square of pixels under the tile, and * goes number
by number over its "places". So each place asks for a product of two matrices: tiles x
inputs by inputs x outputs.

F(2x2, 3x3) has tiles of 2x2 pixels and 4x4 places, F(4x4, 3x3) of 4x4 and 6x6: 4
or 2.25 products a pixel and pair of channels instead of 9. Both evaluate polynomials at
points of which each gives a place, Toom-Cook's way: 0, 1, -1 and infinity, or 0, +-5/8,
+-3/2 and infinity, which lose fewer digits than the usual +-1 and +-2.

Images are (images, height, width, channels), in float32 or bfloat16; what is multiplied
and summed is float32. Channels are multiples of 16, sides of a tile's. */

#pragma once

#include "common.h"

/* The side of a tile's pixels, and so of its places. */
enum { SMALL = 4, LARGE = 6 };
enum { MOST = LARGE, MARGIN = 16, BLOCK = 48 /* tiles */ };

/* Bytes of the cache of a core's own, the second. */
#ifndef CACHE
#define CACHE (512 * 1024)
#endif

/* Whether images are DOUBLED before they are convolved, each pixel repeated in both
directions, or results HALVED, the sum of four, which is the gradient of that. Tiles are
SMALL then. */
typedef enum { SAME, DOUBLED, HALVED } scale;

typedef struct {
    i64 images, height, width; /* before results are halved, or after images doubled */
    i64 inputs, outputs;
} shape;

/* Whether a place counts: not where the middle two of four pixels cancel, in images
that were doubled, or where they do in the sum of a tile. */
INLINE int counts(int place, scale scale) {
    return scale == SAME || (place / SMALL != 2 && place % SMALL != 2);
}

/* The transforms, of a vector of channels at a time. Points of a LARGE tile are 0, +-P,
+-Q and infinity. */

#define P 0.625f
#define Q 1.5f

/* B' d, of one column or row. */
INLINE void transform_line(const vector d[], vector v[], int side) {
    if (side == SMALL) {
        v[0] = d[0] - d[2];
        v[1] = d[1] + d[2];
        v[2] = d[2] - d[1];
        v[3] = d[1] - d[3];
    } else {
        vector even = d[4] - Q * Q * d[2], odd = P * (d[3] - Q * Q * d[1]);
        v[1] = even + odd;
        v[2] = even - odd;
        even = d[4] - P * P * d[2], odd = Q * (d[3] - P * P * d[1]);
        v[3] = even + odd;
        v[4] = even - odd;
        v[0] = d[4] - (P * P + Q * Q) * d[2] + P * P * Q * Q * d[0];
        v[5] = d[5] - (P * P + Q * Q) * d[3] + P * P * Q * Q * d[1];
    }
}

/* A' m, of one column or row. */
INLINE void gather_line(const vector m[], vector y[], int side) {
    if (side == SMALL) {
        y[0] = m[0] + m[1] + m[2];
        y[1] = m[1] - m[2] - m[3];
    } else {
        vector even = m[1] + m[2], odd = m[1] - m[2];
        vector even_q = m[3] + m[4], odd_q = m[3] - m[4];
        y[0] = m[0] + even + even_q;
        y[1] = P * odd + Q * odd_q;
        y[2] = P * P * even + Q * Q * even_q;
        y[3] = P * P * P * odd + Q * Q * Q * odd_q + m[5];
    }
}

/* A y, of one column or row. */
INLINE void spread_line(const vector y[], vector m[], int side) {
    if (side == SMALL) {
        m[0] = y[0];
        m[1] = y[0] + y[1];
        m[2] = y[0] - y[1];
        m[3] = -y[1];
    } else {
        vector even = y[0] + P * P * y[2], odd = P * (y[1] + P * P * y[3]);
        m[1] = even + odd;
        m[2] = even - odd;
        even = y[0] + Q * Q * y[2], odd = Q * (y[1] + Q * Q * y[3]);
        m[3] = even + odd;
        m[4] = even - odd;
        m[0] = y[0];
        m[5] = y[3];
    }
}

/* How often to go over a tile for some rows of its places each time: the vectors of all
six rows of a LARGE one are more than there are registers. Gathering gained nothing. */
INLINE int passes(int side) {
    return side == LARGE ? 2 : 1;
}

/* A' m A */
INLINE void gather_tile(vector m[MOST][MOST], vector y[MOST][MOST], int side) {
    vector half[MOST][MOST]; /* by columns */
    EACH (j, side) {
        vector column[MOST];
        EACH (i, side)
            column[i] = m[i][j];
        gather_line(column, half[j], side);
    }
    EACH (i, side - 2) {
        vector row[MOST];
        EACH (j, side)
            row[j] = half[j][i];
        gather_line(row, y[i], side);
    }
}

/* The sum of a SMALL tile's four pixels. */
INLINE vector gather_sum(vector m[MOST][MOST]) {
    vector half[SMALL];
    EACH (j, SMALL)
        half[j] = m[0][j] + (m[1][j] + m[1][j]) - m[3][j];
    return half[0] + (half[1] + half[1]) - half[3];
}

/* Where tiles lie. */

typedef struct {
    i64 n, y, x; /* the image, and the upper left pixel */
} tile;

/* Tiles of all images. */
INLINE i64 tiles_of(i64 images, shape s, int side) {
    return images * (s.height / (side - 2)) * (s.width / (side - 2));
}

INLINE tile tile_at(i64 index, shape s, int side) {
    i64 step = side - 2, across = s.width / step, down = s.height / step;
    return (tile){index / (across * down), index / across % down * step,
                  index % across * step};
}

INLINE tile after(tile t, shape s, int side) {
    t.x += side - 2;
    if (t.x == s.width)
        t.x = 0, t.y += side - 2;
    if (t.y == s.height)
        t.y = 0, t.n++;
    return t;
}

/* How many pixels of an image a tile's pixel lies after its first, on a side. */
INLINE i64 offset_of(int i, scale scale) {
    return scale == DOUBLED ? (i + 1) / 2 : i;
}

/* The pixel of an image under a tile's first, which is before the first of the tile. */
INLINE i64 first_under(tile t, shape s, scale scale) {
    int doubled = scale == DOUBLED;
    i64 row = (t.y - 1) >> doubled, column = (t.x - 1) >> doubled;
    return (t.n * (s.height >> doubled) + row) * (s.width >> doubled) + column;
}

/* Whether no pixel under a tile is outside its image. */
INLINE int is_inside(tile t, shape s, int side) {
    return t.y > 0 && t.x > 0 && t.y + side - 2 < s.height && t.x + side - 2 < s.width;
}

/* The pixels under a tile: where the first lies, if all are `inside` the image; else
where each does. */
typedef struct {
    const void *corner, *pixels[MOST][MOST];
} window;

/* Find them; `outside` the image there is another. */
INLINE window window_under(const void *x, const void *outside, tile t, int inside,
                           shape s, int side, scale scale, dtype kind) {
    i64 first = first_under(t, s, scale), width = s.width >> (scale == DOUBLED);
    window under;
    if (inside) {
        under.corner = at(x, first * s.inputs, kind);
        return under;
    }
    EACH (i, side)
        EACH (j, side) {
            i64 row = t.y + i - 1, column = t.x + j - 1;
            int there = row >= 0 && row < s.height && column >= 0 && column < s.width;
            i64 pixel = first + offset_of(i, scale) * width + offset_of(j, scale);
            under.pixels[i][j] = there ? at(x, pixel * s.inputs, kind) : outside;
        }
    return under;
}

INLINE vector load_pixel(const window *window, int inside, int i, int j, i64 c, shape s,
                         scale scale, dtype kind) {
    i64 width = s.width >> (scale == DOUBLED);
    i64 pixel = offset_of(i, scale) * width + offset_of(j, scale);
    if (inside)
        return load_from(window->corner, pixel * s.inputs + c, kind);
    return load_from(window->pixels[i][j], c, kind);
}

/* The transformed numbers of a block of tiles: for each place (tiles, channels). */
typedef struct {
    float *numbers;
    i64 step; /* from place to place */
} block;

/* A margin keeps places from falling into the same sets of the cache. */
INLINE i64 step_of(i64 numbers) {
    return numbers + MARGIN;
}

/* How many tiles to transform at a time, a multiple of a number: they have to stay in
the cache, beside a place of the kernels. */
INLINE i64 tiles_of_block(shape s, int side, i64 unit) {
    i64 tiles = BLOCK, bytes = side * side * (s.inputs + s.outputs) * sizeof(float);
    while (tiles > unit && tiles * bytes > CACHE * 5 / 8)
        tiles -= unit;
    return tiles;
}

/* B' d B, of a vector of channels. */
INLINE void transform_window(const window *window, int inside, i64 c, shape s,
                             float *to, i64 step, int side, scale scale, dtype kind) {
    EACH (pass, passes(side)) {
        int rows = side / passes(side), first = pass * rows;
        vector half[MOST][MOST]; /* by rows */
        EACH (j, side) {
            vector d[MOST], v[MOST];
            EACH (i, side)
                d[i] = load_pixel(window, inside, i, j, c, s, scale, kind);
            transform_line(d, v, side);
            EACH (i, rows)
                half[i][j] = v[first + i];
        }
        EACH (i, rows) {
            vector v[MOST];
            transform_line(half[i], v, side);
            EACH (j, side) {
                int place = (first + i) * side + j;
                if (counts(place, scale))
                    store(to + place * step, v[j]);
            }
        }
    }
}

INLINE void transform_channels(const window *window, int inside, shape s, float *to,
                               i64 step, int side, scale scale, dtype kind) {
    for (i64 c = 0; c < s.inputs; c += WIDTH)
        transform_window(window, inside, c, s, to + c, step, side, scale, kind);
}

INLINE void transform_block(const void *x, const void *outside, i64 first, i64 count,
                            shape s, block to, int side, scale scale, dtype kind) {
    tile tile = tile_at(first, s, side);
    for (i64 t = 0; t < count; t++, tile = after(tile, s, side)) {
        float *numbers = to.numbers + t * s.inputs;
        int inside = is_inside(tile, s, side);
        window under = window_under(x, outside, tile, inside, s, side, scale, kind);
        /* Two loops: one that asks for each vector is slower. */
        if (inside)
            transform_channels(&under, 1, s, numbers, to.step, side, scale, kind);
        else
            transform_channels(&under, 0, s, numbers, to.step, side, scale, kind);
    }
}

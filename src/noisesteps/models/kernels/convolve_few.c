/* Convolution by 3x3 with a margin of 1 to few channels, as the network ends with, and
its gradient.

All nine products of each pixel are taken at once, as a product of matrices whose
columns are the places of a kernel, each for every output; then those of nine neighbours
are summed. */

#include "multiply.h"

enum { FEW = 4 /* as in few_channels.py */, STRIP = 8 /* rows of an image */ };
typedef float four __attribute__((vector_size(4 * FEW), aligned(4), may_alias));

typedef struct {
    const void *x;
    const float *weight, *bias;
    void *y;
    i64 images, height, width, inputs, outputs;
} convolution;

/* Numbers of an image from the `first` on, where they are float32 in place. */
INLINE const float *in_float32(const void *x, i64 first, i64 count, float *converted,
                               dtype kind) {
    if (kind == FLOAT32)
        return (const float *)x + first;
    for (i64 i = 0; i < count; i += WIDTH)
        store(converted + i, load_from(x, first + i, kind));
    return converted;
}

/* The products of a row's pixels go round in memory for three rows. */
typedef struct {
    float *numbers;
    i64 row, columns;
} products;

INLINE products products_of(const convolution *work, float *numbers) {
    i64 columns = (9 * work->outputs + 15) / 16 * 16;
    return (products){numbers, (work->width + 2) * columns, columns};
}
INLINE float *row_at(products p, i64 row) {
    return p.numbers + (row + 3) % 3 * p.row;
}

/* The products of a row; the margin's, and those of rows outside, are zero. */
INLINE void multiply_row(const convolution *work, i64 n, i64 row, products to,
                         float *pixels, dtype kind) {
    i64 width = work->width, inputs = work->inputs;
    float *numbers = row_at(to, row);
    if (row < 0 || row >= work->height) {
        clear(numbers, to.row);
        return;
    }
    i64 first = (n * work->height + row) * width * inputs;
    const float *x = in_float32(work->x, first, width * inputs, pixels, kind);
    clear(numbers, to.columns);
    multiply((matrix){x, inputs, 1}, (matrix){work->weight, to.columns, 1},
             numbers + to.columns, to.columns, width, to.columns, inputs, 0);
    clear(numbers + (width + 1) * to.columns, to.columns);
}

INLINE void sum_row(const convolution *work, i64 n, i64 row, products from,
                    dtype kind) {
    i64 outputs = work->outputs, first = (n * work->height + row) * work->width;
    const float *rows[] = {row_at(from, row - 1), row_at(from, row),
                           row_at(from, row + 1)};
    four bias = {0};
    for (i64 o = 0; o < outputs; o++)
        bias[o] = work->bias[o];
    for (i64 i = 0; i < work->width; i++) {
        four sum = {0};
        EACH (p, 9) {
            i64 place = (i + p % 3) * from.columns + p * outputs;
            sum += *(const four *)(rows[p / 3] + place);
        }
        sum += bias;
        EACH (o, FEW)
            if (o < outputs)
                put(work->y, (first + i) * outputs + o, sum[o], kind);
    }
}

INLINE void convolve_strip(const convolution *work, i64 index, float *scratch,
                           dtype kind) {
    i64 strips = (work->height + STRIP - 1) / STRIP, n = index / strips;
    i64 first = index % strips * STRIP, end = least(first + STRIP, work->height);
    float *pixels = scratch;
    products products = products_of(work, pixels + work->width * work->inputs);
    multiply_row(work, n, first - 1, products, pixels, kind);
    multiply_row(work, n, first, products, pixels, kind);
    for (i64 row = first; row < end; row++) {
        multiply_row(work, n, row + 1, products, pixels, kind);
        sum_row(work, n, row, products, kind);
    }
}

PARTS_OF_DTYPES(convolves, convolve_strip)

/* Convolve images to four channels at most.

x: (images, height, width, inputs), in the dtype; inputs a multiple of 16; weight:
float32 (inputs, 3, 3, outputs), its rows filled up with zeros to a multiple of 16
numbers; bias: float32 (outputs,); y: the result (images, height, width, outputs). */
EXPORT void convolve_few(const void *x, const float *weight, const float *bias, void *y,
                         i64 images, i64 height, i64 width, i64 inputs, i64 outputs,
                         dtype kind) {
    convolution work = {x, weight, bias, y, images, height, width, inputs, outputs};
    part *parts[] = {convolves_float32, convolves_bfloat16};
    do_parts(parts[kind], &work, images * ((height + STRIP - 1) / STRIP),
             width * inputs + 3 * products_of(&work, 0).row);
}

/* Gradient: products with what each pixel gave to its neighbours, (pixels, outputs, 3,
3). */

typedef struct {
    const void *x, *dy;
    const float *weight;
    void *dx;
    float *sums;
    i64 images, height, width, inputs, outputs;
} gradient;

/* Copy the gradients of the results that each pixel of a row is part of, by way of its
own row of them and the two beside it, with zeros around the image. */
INLINE void collect_row(const gradient *work, i64 n, i64 row, float *rows,
                        float *restrict given, dtype kind) {
    i64 width = work->width, outputs = work->outputs, length = (width + 2) * outputs;
    clear(rows, 3 * length);
    for (i64 i = 0; i < 3; i++) {
        i64 y = row + i - 1;
        const void *dy = at(work->dy, (n * work->height + y) * width * outputs, kind);
        if (y >= 0 && y < work->height)
            for (i64 k = 0; k < width * outputs; k++)
                rows[i * length + outputs + k] = get(dy, k, kind);
    }
    for (i64 i = 0; i < width * outputs; i++)
        EACH (p, 9)
            given[9 * i + p] = rows[(2 - p / 3) * length + i + (2 - p % 3) * outputs];
}

/* Of an image: `dx`, and its shares of the gradients of weight and bias. */
INLINE void gradient_of_image(const gradient *work, i64 n, float *scratch, dtype kind) {
    i64 width = work->width, inputs = work->inputs, outputs = work->outputs;
    i64 places = 9 * outputs, size = width * inputs;
    float *dweight = work->sums + n * outputs * (9 * inputs + 1);
    float *dbias = dweight + places * inputs;
    float *pixels = scratch, *found = pixels + size, *given = found + size;
    float *rows = given + width * places;
    double sums[FEW] = {0}; /* of many numbers, and few */
    for (i64 row = 0; row < work->height; row++) {
        i64 first = (n * work->height + row) * size;
        const float *x = in_float32(work->x, first, size, pixels, kind);
        float *dx = kind == FLOAT32 ? (float *)work->dx + first : found;
        collect_row(work, n, row, rows, given, kind);
        multiply((matrix){given, places, 1}, (matrix){work->weight, inputs, 1}, dx,
                 inputs, width, inputs, places, 0);
        for (i64 i = 0; dx == found && i < size; i += WIDTH)
            store_to(work->dx, first + i, load(found + i), kind);
        multiply((matrix){given, 1, places}, (matrix){x, inputs, 1}, dweight, inputs,
                 places, inputs, width, row > 0);
        for (i64 i = 0; i < width; i++)
            for (i64 o = 0; o < outputs; o++)
                sums[o] += given[i * places + o * 9 + 4]; /* the pixel's own */
    }
    for (i64 o = 0; o < outputs; o++)
        dbias[o] = (float)sums[o];
}

PARTS_OF_DTYPES(gradients, gradient_of_image)

/* Compute the gradients of `convolve_few` from that of its result, `dy`.

weight: float32 (outputs, 3, 3, inputs); dx: as x; sums: written, the gradients of the
weight and, after it, of the bias, (outputs,), and after them each image's shares. */
EXPORT void convolve_few_gradient(const void *x, const void *dy, const float *weight,
                                  void *dx, float *sums, i64 images, i64 height,
                                  i64 width, i64 inputs, i64 outputs, dtype kind) {
    i64 size = outputs * (9 * inputs + 1);
    gradient work = {x,      dy,     weight, dx,     sums + size,
                     images, height, width,  inputs, outputs};
    part *parts[] = {gradients_float32, gradients_bfloat16};
    do_parts(parts[kind], &work, images,
             width * (2 * inputs + 9 * outputs) + 3 * (width + 2) * outputs);
    clear(sums, size);
    for (i64 n = 1; n <= images; n++)
        for (i64 i = 0; i < size; i++)
            sums[i] += sums[n * size + i];
}

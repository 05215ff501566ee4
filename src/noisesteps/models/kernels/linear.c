/* Linear layers: products of pixels with a matrix, a convolution by 1x1 among them.

Pixels are rows of channels in float32, whose numbers are multiples of 16. */

#include "multiply.h"

enum { PIXELS = 96 /* of a block; a multiple of 2 * ROWS */ };

typedef struct {
    const float *x, *weight, *bias, *onto;
    float *y;
    i64 pixels, inputs, outputs;
} linear_layer;

static void multiply_block(const void *given, i64 index, float *scratch) {
    const linear_layer *work = given;
    i64 inputs = work->inputs, outputs = work->outputs, first = index * PIXELS;
    i64 count = least(PIXELS, work->pixels - first);
    float *y = work->y + first * outputs;
    matrix left = {work->x + first * inputs, inputs, 1};
    multiply_panels(left, work->weight, y, count, (band){0, outputs}, outputs, inputs);
    for (i64 i = 0; i < count * outputs; i += outputs)
        for (i64 k = 0; k < outputs; k += WIDTH) {
            vector sum = load(y + i + k) + load(work->bias + k);
            if (work->onto)
                sum += load(work->onto + first * outputs + i + k);
            store(y + i + k, sum);
        }
}

/* Compute y = x W' + bias, and onto where it is not null.

x: (pixels, inputs); weight: from `pack_weight`; bias: (outputs,); onto, y: (pixels,
outputs). */
EXPORT void linear(const float *x, const float *weight, const float *bias,
                   const float *onto, float *y, i64 pixels, i64 inputs, i64 outputs) {
    linear_layer work = {x, weight, bias, onto, y, pixels, inputs, outputs};
    do_parts(multiply_block, &work, (pixels + PIXELS - 1) / PIXELS, 0);
}

/* Lay a weight (outputs, inputs) out in panels (inputs, outputs of a panel). */
EXPORT void pack_weight(const float *weight, float *packed, i64 inputs, i64 outputs) {
    for (i64 o = 0; o < outputs; o++) {
        i64 width = width_of_panel(o, outputs);
        float *to = packed + start_of_panel(o, inputs) + o % PANEL;
        for (i64 c = 0; c < inputs; c++)
            to[c * width] = weight[o * inputs + c];
    }
}

/* Products of matrices in float32.

result[i][j] (+)= sum over k of left[i * row + k * step] right[k * row + j]; by `rows`
and `vectors` of columns at a time, whose sums stay in registers. A few products are
summed before they are added to the total, which loses fewer digits. */

#pragma once

#include "common.h"

enum { ROWS = 6 }; /* BLOCK is a multiple of 2 * ROWS and of PRODUCTS */

typedef struct {
    const float *numbers;
    i64 row, step;
} matrix;

/* A matrix on the right that is kept lies in panels of a few columns, so that a product
reads what lies side by side: for each panel (rows, its columns). */
enum { PANEL = 32 };

INLINE i64 start_of_panel(i64 column, i64 rows) {
    return column / PANEL * PANEL * rows;
}
INLINE i64 width_of_panel(i64 column, i64 columns) {
    return least(PANEL, columns - column / PANEL * PANEL);
}

/* Columns that a thread does, where there are fewer rows to share than threads: a
number of panels. */
typedef struct {
    i64 first, end;
} band;

INLINE i64 bands_of(i64 columns, i64 parts) {
    i64 threads = thread_count(), panels = (columns + PANEL - 1) / PANEL;
    return parts && parts < threads ? least((threads + parts - 1) / parts, panels) : 1;
}
INLINE band band_at(i64 index, i64 bands, i64 columns) {
    i64 panels = (columns + PANEL - 1) / PANEL;
    return (band){index * panels / bands * PANEL,
                  least((index + 1) * panels / bands * PANEL, columns)};
}

INLINE void multiply_tile(matrix left, matrix right, float *result, i64 result_row,
                          i64 depth, int adds, int rows, int vectors) {
    vector totals[2 * ROWS][2];
    EACH (i, rows)
        EACH (j, vectors)
            totals[i][j] = adds ? load(result + i * result_row + j * WIDTH) : all(0);
    for (i64 k = 0; k < depth;) {
        vector sums[2 * ROWS][2] = {0};
        for (i64 end = least(k + PRODUCTS, depth); k < end; k++) {
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
                totals[i][j] += sums[i][j];
    }
    EACH (i, rows)
        EACH (j, vectors)
            store(result + i * result_row + j * WIDTH, totals[i][j]);
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

/* The result anew, or added to what it was; its rows are `result_row` numbers apart. */
INLINE void multiply(matrix left, matrix right, float *result, i64 result_row, i64 rows,
                     i64 columns, i64 depth, int adds) {
    i64 j = 0;
    for (; j + 2 * WIDTH <= columns; j += 2 * WIDTH) {
        matrix from = {right.numbers + j, right.row, 1};
        multiply_columns(left, from, result + j, result_row, rows, depth, adds, 2);
    }
    for (; j < columns; j += WIDTH) {
        matrix from = {right.numbers + j, right.row, 1};
        multiply_columns(left, from, result + j, result_row, rows, depth, adds, 1);
    }
}

/* The same, anew, with a matrix of so many `columns` in panels, for a band of them. */
INLINE void multiply_panels(matrix left, const float *panels, float *result, i64 rows,
                            band band, i64 columns, i64 depth) {
    for (i64 j = band.first; j < band.end; j += PANEL) {
        i64 width = width_of_panel(j, columns);
        matrix right = {panels + start_of_panel(j, depth), width, 1};
        multiply(left, right, result + j, columns, rows, width, depth, 0);
    }
}

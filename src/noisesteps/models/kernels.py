"""Loops over images in channels last and in bf16, compiled by Numba.

For CPUs: PyTorch's own kernels of these layers are slow there. Those here take the
addresses of contiguous memory, since handing over arrays would take as long as
normalising small images does; `models.fused` sees to dtypes, shapes and layouts. They
take images, or heads, side by side on a number of threads. Sums are in float32 and in
one order, however many threads there are.

A loop is a function of its own, and goes through arrays of their own: of rows of one
array LLVM does not see that they never overlap, and does not vectorise, which takes
four times as long.

Compiled code is cached beside this file or, where that cannot be written, in the user's
cache folder.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, config, njit, prange, set_num_threads, types
from numba.extending import intrinsic


def _can_cache() -> bool:
    """Whether there is a folder that compiled code can be kept in."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


HEAD = 8  # channels of a head
LOG2_E = np.float32(1.4426950408889634)
ZERO, ONE = np.float32(0), np.float32(1)
LOWEST, HIGHEST = np.float32(-126), np.float32(126)  # exponents of normal numbers
ROW = 64  # numbers that a loop goes through at least, where there are as many
# Not the flags that let a compiler assume that nothing is infinite or not a number:
# a training that diverges has to be found out.
OPTIONS = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "error_model": "numpy",
    "cache": _can_cache(),
}
loop = njit(**OPTIONS)
kernel = njit(parallel=True, **OPTIONS)


def set_threads(threads: int) -> None:
    """Let the kernels use so many threads, or else as many as Numba can start."""
    set_num_threads(min(threads, config.NUMBA_NUM_THREADS))


@intrinsic
def _at(context, address):
    """Return an address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@njit(inline="always")
def _float(bits):
    """Return the number that 16 bits of a bfloat16 stand for."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(inline="always")
def _bfloat16(number):
    """Return the bits of the nearest bfloat16, ties to even."""
    bits = np.float32(number).view(np.uint32)
    odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(inline="always")
def _exp2(x):
    """Compute 2^x to 2e-7 of it, for x cut off at -126 and 126."""
    x = LOWEST if x < LOWEST else x  # not max(), which would lose a NaN
    x = HIGHEST if x > HIGHEST else x
    whole = np.floor(x)
    part = x - whole
    result = np.float32(1.8775767e-3)
    result = result * part + np.float32(8.9893397e-3)
    result = result * part + np.float32(5.5826318e-2)
    result = result * part + np.float32(2.4015361e-1)
    result = result * part + np.float32(6.9315308e-1)
    result = result * part + np.float32(9.9999994e-1)
    exponent = np.int32(np.int32(whole) + np.int32(127))
    return result * np.int32(exponent << np.int32(23)).view(np.float32)


@njit(inline="always")
def _sigmoid(x):
    return ONE / (ONE + _exp2(-x * LOG2_E))


# Group normalisation, and SiLU where it follows


@kernel
def normalise(
    x, y, weight, bias, moments,
    images, pixels, channels, groups, eps, activates,
):  # fmt: skip
    """Normalise groups of channels, then apply SiLU if it `activates`.

    Parameters
    ----------
    x, y
        Addresses of the images and of the result, bfloat16 (images, pixels, channels).
    weight, bias
        Addresses of float32 (channels,).
    moments
        Address of what is written: means and inverse deviations, float32 (2, images,
        groups).
    """
    xs = _images(x, images, pixels, channels)
    ys = _images(y, images, pixels, channels)
    weights = carray(_at(weight), channels, np.float32)
    biases = carray(_at(bias), channels, np.float32)
    means, inverses = carray(_at(moments), (2, images, groups), np.float32)
    for n in prange(images):
        _normalise_image(
            xs[n], ys[n], weights, biases, means[n], inverses[n], eps, activates
        )


@loop
def _images(address, images, pixels, channels):
    """Return images in rows of one or more pixels, long enough for a loop."""
    repeats = 1
    while repeats * channels < ROW and pixels % (2 * repeats) == 0:
        repeats *= 2
    rows = (images, pixels // repeats, repeats * channels)
    return carray(_at(address), rows, np.uint16)


@loop
def _normalise_image(x, y, weight, bias, mean, inverse, eps, activates):
    length, channels = x.shape[1], len(weight)
    width = channels // len(mean)
    origin = np.empty(length, np.float32)
    total = np.zeros(length, np.float32)
    square = np.zeros(length, np.float32)
    middle = np.empty(length, np.float32)
    scale = np.empty(length, np.float32)
    start = np.empty(length, np.float32)
    for i in range(length):
        origin[i] = _float(x[0, i % channels])
    _sum(x, origin, total, square)
    _fold(total, channels)
    _fold(square, channels)
    _pool(total, square, origin, x.size // channels, mean, inverse, width, eps)
    for i in range(length):
        channel = i % channels
        middle[i] = mean[channel // width]
        scale[i] = inverse[channel // width] * weight[channel]
        start[i] = bias[channel]
    if activates:
        _scale_and_activate(x, middle, scale, start, y)
    else:
        _scale(x, middle, scale, start, y)


@loop
def _fold(sums, channels):
    """Add the repetitions of each channel to its first sum."""
    for i in range(channels, len(sums)):
        sums[i % channels] += sums[i]


@loop
def _sum(x, origin, total, square):
    """Sum what is above the first pixel, so that no digits cancel, and its square."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            above = _float(x[row, i]) - origin[i]
            total[i] += above
            square[i] += above * above


@loop
def _pool(total, square, origin, pixels, mean, inverse, width, eps):
    """Pool the channels' sums to the groups' means and inverse deviations."""
    for group in range(len(mean)):
        channels = range(group * width, (group + 1) * width)
        middle = np.float32(0)
        for i in channels:
            middle += origin[i] + total[i] / np.float32(pixels)
        middle /= np.float32(width)
        variance = np.float32(0)
        for i in channels:
            above = total[i] / np.float32(pixels)
            away = origin[i] + above - middle
            variance += square[i] / np.float32(pixels) - above * above + away * away
        # A rounding error below zero; not max(), which would lose a NaN.
        variance = ZERO if variance < ZERO else variance
        mean[group] = middle
        inverse[group] = ONE / np.sqrt(variance / np.float32(width) + np.float32(eps))


@loop
def _scale(x, middle, scale, start, y):
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            z = (_float(x[row, i]) - middle[i]) * scale[i] + start[i]
            y[row, i] = _bfloat16(z)


@loop
def _scale_and_activate(x, middle, scale, start, y):
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            z = (_float(x[row, i]) - middle[i]) * scale[i] + start[i]
            y[row, i] = _bfloat16(z * _sigmoid(z))


@kernel
def normalise_gradient(
    x, dy, dx, weight, bias, moments, slopes,
    images, pixels, channels, groups, activates,
):  # fmt: skip
    """Compute the gradients of `normalise` from that of its result, `dy`.

    With h = (x - mean) / deviation and g the gradient of what is activated, averaged
    over a group: dx = (g w - mean(g w) - h mean(g w h)) / deviation.

    Parameters
    ----------
    x, dy, dx
        Addresses of bfloat16 (images, pixels, channels).
    weight, bias, moments
        As `normalise` had and wrote them.
    slopes
        Address of the weight's and the bias's gradients, float32 (2, images, channels):
        each image's share.
    """
    xs = _images(x, images, pixels, channels)
    dys = _images(dy, images, pixels, channels)
    dxs = _images(dx, images, pixels, channels)
    weights = carray(_at(weight), channels, np.float32)
    biases = carray(_at(bias), channels, np.float32)
    means, inverses = carray(_at(moments), (2, images, groups), np.float32)
    dweights, dbiases = carray(_at(slopes), (2, images, channels), np.float32)
    for n in prange(images):
        _gradient_of_image(
            xs[n], dys[n], dxs[n], weights, biases, means[n], inverses[n],
            dweights[n], dbiases[n], activates,
        )  # fmt: skip


@loop
def _gradient_of_image(
    x, dy, dx, weight, bias, mean, inverse, dweight, dbias, activates
):
    length, channels = x.shape[1], len(weight)
    width = channels // len(mean)
    middle = np.empty(length, np.float32)
    scale = np.empty(length, np.float32)
    slope = np.empty(length, np.float32)
    start = np.empty(length, np.float32)
    sums = np.zeros(length, np.float32)
    products = np.zeros(length, np.float32)
    away = np.empty(length, np.float32)
    along = np.empty(length, np.float32)
    for i in range(length):
        channel = i % channels
        middle[i] = mean[channel // width]
        scale[i] = inverse[channel // width]
        slope[i] = scale[i] * weight[channel]
        start[i] = bias[channel]
    dz = np.empty(x.shape, np.float32)  # of what is activated
    if activates:
        _activate_gradient(x, dy, middle, slope, start, dz)
    else:
        _widen(dy, dz)
    _add_up(dz, sums)
    _correlate(dz, x, middle, scale, products)
    _fold(sums, channels)
    _fold(products, channels)
    dbias[:] = sums[:channels]
    dweight[:] = products[:channels]
    _pool_gradient(dweight, dbias, weight, inverse, x.size, away, along)
    _descend(dz, x, middle, scale, slope, away, along, dx)


@loop
def _pool_gradient(dweight, dbias, weight, inverse, size, away, along):
    """Find what the means and deviations hand on to each of their pixels."""
    channels, groups = len(weight), len(inverse)
    width = channels // groups
    for group in range(groups):
        first, last = group * width, (group + 1) * width
        share = inverse[group] * np.float32(groups) / np.float32(size)
        of_mean = of_deviation = np.float32(0)
        for i in range(first, last):
            of_mean += weight[i] * dbias[i] * share
            of_deviation += weight[i] * dweight[i] * share
        away[first:last] = of_mean
        along[first:last] = of_deviation
    for i in range(channels, len(away)):
        away[i], along[i] = away[i % channels], along[i % channels]


@loop
def _activate_gradient(x, dy, middle, slope, start, dz):
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            z = (_float(x[row, i]) - middle[i]) * slope[i] + start[i]
            s = _sigmoid(z)
            dz[row, i] = _float(dy[row, i]) * s * (ONE + z * (ONE - s))


@loop
def _widen(dy, dz):
    for row in range(dy.shape[0]):
        for i in range(dy.shape[1]):
            dz[row, i] = _float(dy[row, i])


@loop
def _add_up(dz, sums):
    for row in range(dz.shape[0]):
        for i in range(dz.shape[1]):
            sums[i] += dz[row, i]


@loop
def _correlate(dz, x, middle, scale, products):
    for row in range(dz.shape[0]):
        for i in range(dz.shape[1]):
            normal = (_float(x[row, i]) - middle[i]) * scale[i]
            products[i] += dz[row, i] * normal


@loop
def _descend(dz, x, middle, scale, slope, away, along, dx):
    for row in range(dz.shape[0]):
        for i in range(dz.shape[1]):
            normal = (_float(x[row, i]) - middle[i]) * scale[i]
            descent = dz[row, i] * slope[i] - away[i] - normal * along[i]
            dx[row, i] = _bfloat16(descent)


# Attention with heads of 8 channels


@kernel
def attend(projected, mixed, levels, shape):
    """Mix the values of pixels by the softmax of their scores, in each head.

    Parameters
    ----------
    projected, mixed
        Addresses of queries, keys and values, bfloat16 (images, pixels, 3, heads, 8),
        and of the result (images, pixels, heads, 8).
    levels
        Address of what is written: log2 of the sum under each softmax, float32 of
        `shape`.
    shape
        (images, heads, pixels).
    """
    images, heads, pixels = shape
    given = carray(_at(projected), (images, pixels, 3, heads, HEAD), np.uint16)
    result = carray(_at(mixed), (images, pixels, heads, HEAD), np.uint16)
    level = carray(_at(levels), (images, heads, pixels), np.float32)
    for number in prange(images * heads):
        n, head = number // heads, number % heads
        _attend_head(given[n, :, :, head], result[n, :, head], level[n, head])


@loop
def _transposed(given):
    """Return (pixels, 8) as float32 (8, pixels)."""
    result = np.empty((HEAD, len(given)), np.float32)
    for j in range(len(given)):
        for d in range(HEAD):
            result[d, j] = _float(given[j, d])
    return result


@loop
def _attend_head(given, result, levels):
    pixels = len(given)
    key, value = _transposed(given[:, 1]), _transposed(given[:, 2])
    query = np.empty(HEAD, np.float32)
    weights = np.empty(pixels, np.float32)
    mixed = np.empty(HEAD, np.float32)
    unit = LOG2_E / np.sqrt(np.float32(HEAD))
    for i in range(pixels):
        for d in range(HEAD):
            query[d] = _float(given[i, 0, d]) * unit
        _score(query, key, weights)
        highest = _highest(weights)
        total = _exponentiate(weights, highest)
        _mix(weights, value, mixed)
        for d in range(HEAD):
            result[i, d] = _bfloat16(mixed[d] / total)
        levels[i] = highest + np.log2(total)


@loop
def _score(query, key, scores):
    q0, q1, q2, q3 = query[0], query[1], query[2], query[3]
    q4, q5, q6, q7 = query[4], query[5], query[6], query[7]
    for j in range(len(scores)):
        scores[j] = (
            q0 * key[0, j]
            + q1 * key[1, j]
            + q2 * key[2, j]
            + q3 * key[3, j]
            + q4 * key[4, j]
            + q5 * key[5, j]
            + q6 * key[6, j]
            + q7 * key[7, j]
        )


# Without `nnan` a maximum is not vectorised; a NaN still reaches the weights' sum.
@njit(**(OPTIONS | {"fastmath": OPTIONS["fastmath"] | {"nnan"}}))
def _highest(scores):
    highest = scores[0]
    for j in range(len(scores)):
        highest = scores[j] if scores[j] > highest else highest
    return highest


@loop
def _exponentiate(scores, level):
    total = np.float32(0)
    for j in range(len(scores)):
        scores[j] = _exp2(scores[j] - level)
        total += scores[j]
    return total


@loop
def _mix(weights, value, mixed):
    m0 = m1 = m2 = m3 = m4 = m5 = m6 = m7 = np.float32(0)
    for j in range(len(weights)):
        w = weights[j]
        m0 += w * value[0, j]
        m1 += w * value[1, j]
        m2 += w * value[2, j]
        m3 += w * value[3, j]
        m4 += w * value[4, j]
        m5 += w * value[5, j]
        m6 += w * value[6, j]
        m7 += w * value[7, j]
    mixed[0], mixed[1], mixed[2], mixed[3] = m0, m1, m2, m3
    mixed[4], mixed[5], mixed[6], mixed[7] = m4, m5, m6, m7


@kernel
def attend_gradient(projected, levels, dmixed, dprojected, shape):
    """Compute the gradient of `attend` from that of its result, `dmixed`.

    The softmax is computed anew from the levels, as Dao et al. 2022 do, so that no
    matrix of scores is kept.
    """
    images, heads, pixels = shape
    given = carray(_at(projected), (images, pixels, 3, heads, HEAD), np.uint16)
    level = carray(_at(levels), (images, heads, pixels), np.float32)
    gradient = carray(_at(dmixed), (images, pixels, heads, HEAD), np.uint16)
    back = carray(_at(dprojected), (images, pixels, 3, heads, HEAD), np.uint16)
    for number in prange(images * heads):
        n, head = number // heads, number % heads
        _gradient_of_head(
            given[n, :, :, head],
            level[n, head],
            gradient[n, :, head],
            back[n, :, :, head],
        )


@loop
def _gradient_of_head(given, levels, gradient, back):
    pixels = len(given)
    key, value = _transposed(given[:, 1]), _transposed(given[:, 2])
    dkey = np.zeros((HEAD, pixels), np.float32)
    dvalue = np.zeros((HEAD, pixels), np.float32)
    weights = np.empty(pixels, np.float32)
    slopes = np.empty(pixels, np.float32)
    query = np.empty(HEAD, np.float32)
    upper = np.empty(HEAD, np.float32)
    dquery = np.empty(HEAD, np.float32)
    unit = ONE / np.sqrt(np.float32(HEAD))
    for i in range(pixels):
        for d in range(HEAD):
            query[d] = _float(given[i, 0, d]) * unit * LOG2_E
            upper[d] = _float(gradient[i, d])
        _score(query, key, weights)
        _exponentiate(weights, levels[i])
        _score(upper, value, slopes)
        _slope(weights, _dot(weights, slopes), slopes)
        _mix(slopes, key, dquery)
        for d in range(HEAD):
            back[i, 0, d] = _bfloat16(dquery[d] * unit)
            _add(slopes, query[d] / LOG2_E, dkey[d])
            _add(weights, upper[d], dvalue[d])
    for j in range(pixels):
        for d in range(HEAD):
            back[j, 1, d] = _bfloat16(dkey[d, j])
            back[j, 2, d] = _bfloat16(dvalue[d, j])


@loop
def _dot(weights, numbers):
    result = np.float32(0)
    for j in range(len(weights)):
        result += weights[j] * numbers[j]
    return result


@loop
def _slope(weights, along, slopes):
    for j in range(len(weights)):
        slopes[j] = weights[j] * (slopes[j] - along)


@loop
def _add(numbers, factor, result):
    for j in range(len(result)):
        result[j] += numbers[j] * factor

"""Problems of the kinds that "Faster Neighborhood Attention" compares its kernels on, drawn anew.

The paper sweeps batch, length, heads, head dimension, window and dilation for ranks 1 to 3. These
are as many as one likes from the same ranges, small enough that the naive kernels take
milliseconds.
"""

from __future__ import annotations

import math
import random

from benchmarks.gpu.shapes import Shape

LENGTHS = {
    1: (512, 1024, 2048, 4096, 8192, 16384, 32768),
    2: (16, 24, 32, 48, 56, 64, 96, 112, 128, 192, 256),
    3: (8, 12, 16, 20, 24, 32, 40, 48),
}
HEAD_DIMS = (32, 64, 128)
HEADS = (1, 2, 4, 8, 12, 16, 24)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GFLOP = (0.2, 25.0)  # of the forward pass
NUMBERS = (2**20, 2**24)  # of the queries
MOST_SCORES = 2**30  # that the GEMM kernels keep


def _spatial(r: random.Random, rank: int) -> tuple[int, ...]:
    if r.random() < 0.6:  # a square or a cube
        return (r.choice(LENGTHS[rank]),) * rank
    return tuple(r.choice(LENGTHS[rank]) for _ in range(rank))


def _window(r: random.Random, length: int) -> tuple[int, int]:
    """An odd window, small ones as often as large ones, and a dilation that fits: 1, a power of
    two, or the largest.
    """
    size = 2 * round(math.exp(r.uniform(0, math.log(length / 2 - 1)))) + 1
    size = max(3, min(size, length - 1 + length % 2))
    most = length // size
    powers = [2**i for i in range(most.bit_length()) if 2**i <= most]
    return size, r.choice((1, r.choice(powers), most))


def draw(rank: int, count: int) -> list[Shape]:
    """`count` problems of a rank, always the same ones."""
    r, found = random.Random(rank), []
    while len(found) < count:
        spatial = _spatial(r, rank)
        if r.random() < 0.6:  # one for all axes
            axes = [_window(r, min(spatial))] * rank
        else:
            axes = [_window(r, length) for length in spatial]
        shape = Shape(
            f"{rank}d-{len(found)}",
            "sample",
            r.choice(BATCHES),
            spatial,
            r.choice(HEADS),
            r.choice(HEAD_DIMS),
            tuple(size for size, _ in axes),
            dilation=tuple(dilation for _, dilation in axes),
            dtype="float16",
        )
        rows = shape.batch * shape.tokens * shape.heads
        scores = rows * math.prod(shape.window)
        gflop = 4 * scores * shape.head_dim / 1e9
        fits = NUMBERS[0] <= rows * shape.head_dim <= NUMBERS[1] and scores <= MOST_SCORES
        if fits and GFLOP[0] <= gflop <= GFLOP[1]:
            found.append(shape)
    return found

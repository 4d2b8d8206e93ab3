"""The problems of the CPU benchmark: 4 heads, batch 1, float32."""

from __future__ import annotations

from typing import NamedTuple

HEADS = 4


class Problem(NamedTuple):
    """A problem, and how the formulations that need choices treat it best (found by trying)."""

    name: str
    spatial: tuple[int, ...]
    window: tuple[int, ...]
    head_dim: int
    gather_chunk: int  # queries at a time, for `gather`
    block: tuple[int, ...]  # of queries, for `blocked`
    chunk: int  # rows of blocks at a time
    keys_first: bool
    flex_tile: tuple[int, ...]  # token order for FlexAttention: tiles of this shape
    flex_block: int  # its BLOCK_SIZE


PROBLEMS = [
    Problem("2-D 128x128 w 7x7", (128, 128), (7, 7), 32, 128, (4, 4), 1, True, (8, 8), 64),
    Problem(
        "3-D 16x32x32 w 3x5x5", (16, 32, 32), (3, 5, 5), 64, 64, (1, 4, 4), 1, True, (2, 4, 8), 64
    ),
    Problem("1-D 8192 w 255", (8192,), (255,), 64, 32, (64,), 8, False, (64,), 32),
    Problem("2-D 64x64 w 31x31", (64, 64), (31, 31), 64, 32, (8, 16), 1, False, (8, 8), 64),
]
QUICK = [
    Problem("2-D 16x16 w 3x3", (16, 16), (3, 3), 8, 64, (4, 4), 1, True, (4, 4), 16),
    Problem("1-D 256 w 15", (256,), (15,), 8, 64, (16,), 2, False, (16,), 16),
]

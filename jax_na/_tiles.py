"""How the pure-JAX implementation cuts an axis: blocks of queries, and slabs of keys they meet.

An axis of length L and dilation d is d phases of n = ceil(L / d) positions. Queries are cut into
blocks of `block` neighbouring positions. Block b of every phase meets the `slab` key positions from
clip(b * block - shift, 0, padded - slab): slabs are of one size and, between the two ends of the
axis, evenly spaced, so that JAX can cut them with slices and reshapes, whose derivatives are slices
and sums, never a gather or a scatter.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from jax_na import _core
from jax_na._window import Window

# A slab is put together from ceil(slab / block) shifted views.
MAX_VIEWS = 48

# Slabs that are sliced one by one for a chunk.
MAX_BLOCKS = 16

# Slabs are read and written once, scores many times: they may take this many times the room.
SLABS = 8


@dataclasses.dataclass(frozen=True)
class Cost:
    """Prices by which tile sizes are chosen, in units of time, and how much to hold at a time."""

    score: float  # masking, exponentiation and reduction of one score
    product: float  # one multiply-add of the two matrix products
    copy: float  # copying one element of key or value into a slab
    tile: float  # starting one tile
    budget: int  # bytes of the scores, and of the slabs, that are alive at a time


# Fitted to the timings of 4 problems on 2 cores of a Zen 3 CPU, 2026-11: temporaries beyond the
# caches cost more than loops.
CPU = Cost(score=2.0, product=0.04, copy=1.0, tile=500.0, budget=4 << 20)
# Matrix products come for free in comparison, as long as they are large.
ACCELERATOR = Cost(score=1.0, product=0.01, copy=2.0, tile=20000.0, budget=128 << 20)


@dataclasses.dataclass(frozen=True, eq=False)
class AxisTiles:
    """One axis cut into blocks. Positions are those of a phase (a dilation group)."""

    phases: int
    positions: int  # of a phase, the last ones of a shorter phase being no tokens
    left: int  # positions repeated in front of a periodic axis
    right: int  # and behind it
    block: int
    blocks: int
    slab: int
    shift: int
    # [blocks] first position of each slab, counted from the first repeated one.
    starts: np.ndarray
    # [phases or 1, blocks, block] keys that each query sees, counted from the slab's start.
    begin: np.ndarray
    end: np.ndarray
    # [blocks] index in the bias of key 0 of the slab as seen by query 0 of the block.
    bias_start: np.ndarray

    @property
    def padded(self) -> int:
        """Key positions of a phase with the repeated ones."""
        return self.left + self.positions + self.right

    def with_blocks(self, blocks: int) -> AxisTiles:
        """The same with idle blocks at the end, whose queries see the first key of their slab."""
        more = blocks - self.blocks
        if more == 0:
            return self
        starts = np.concatenate([self.starts, self._starts(np.arange(self.blocks, blocks))])
        pad = ((0, 0), (0, more), (0, 0))
        return dataclasses.replace(
            self,
            blocks=blocks,
            starts=starts,
            begin=np.pad(self.begin, pad),
            end=np.pad(self.end, pad, constant_values=1),
            bias_start=np.pad(self.bias_start, (0, more), mode="edge"),
        )

    def _starts(self, blocks: np.ndarray) -> np.ndarray:
        return np.clip(blocks * self.block - self.shift, 0, self.padded - self.slab)


@functools.lru_cache(maxsize=256)
def _phase_intervals(window: Window, length: int, axis: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Window of each query as [phases or 1, positions], empty where no token is; and phases."""
    w, d = window.sizes[axis], window.dilation[axis]
    start, end = _core.windows(
        length, w, window.stride[axis], d, window.is_causal[axis], window.boundary[axis]
    )
    positions = -(-length // d)
    tables = np.full((2, positions * d), -1, np.int64)
    tables[:, :length] = start, end
    tables = tables.reshape(2, positions, d).transpose(0, 2, 1)
    if length % d == 0:
        tables = tables[:, :1]
    return tables[0], tables[1], d


def _cover(low: np.ndarray, high: np.ndarray, block: int, slab: int, padded: int) -> int | None:
    """The shift with which slabs of one size hold positions [low, high) of each block, or None."""
    first = np.arange(len(low)) * block
    # Slabs that the far end pushes back begin early enough; those that the near end pushes up end
    # late enough.
    at_least = np.max(np.where(low < padded - slab, first - low, -padded))
    at_most = np.min(np.where(high > slab, first - high + slab, first[-1] + padded))
    return int(at_least) if at_least <= at_most else None


@functools.lru_cache(maxsize=1024)
def axis_tiles(window: Window, length: int, axis: int, block: int) -> AxisTiles:
    """Cuts one axis of a resolved window, with the smallest slabs that serve."""
    start, end, phases = _phase_intervals(window, length, axis)
    positions = start.shape[1]
    real = end > start
    left = right = 0
    if window.boundary[axis] == "wrap":
        left, right = max(0, -int(start.min())), max(0, int(end.max()) - positions)
    padded = left + positions + right
    blocks = -(-positions // block)
    fill = ((0, 0), (0, blocks * block - positions))
    real = np.pad(real, fill).reshape(-1, blocks, block)
    start = np.pad(start + left, fill).reshape(-1, blocks, block)
    end = np.pad(end + left, fill).reshape(-1, blocks, block)
    low = np.where(real, start, padded).min((0, 2))
    high = np.where(real, end, 0).max((0, 2))

    # Larger slabs always serve where smaller ones do: bisection.
    few, enough = int(np.max(high - low)) - 1, padded
    while enough - few > 1:
        middle = (few + enough) // 2
        if _cover(low, high, block, middle, padded) is None:
            few = middle
        else:
            enough = middle
    slab, shift = enough, _cover(low, high, block, enough, padded)
    assert shift is not None, "a slab of all positions serves"
    firsts = np.arange(blocks) * block
    starts = np.clip(firsts - shift, 0, padded - slab)
    return AxisTiles(
        phases=phases,
        positions=positions,
        left=left,
        right=right,
        block=block,
        blocks=blocks,
        slab=slab,
        shift=shift,
        starts=starts,
        begin=np.where(real, start - starts[:, None], 0),
        end=np.where(real, end - starts[:, None], 1),
        bias_start=starts - left - firsts + window.sizes[axis] - 1,
    )


def _block_sizes(window: Window, length: int, axis: int) -> list[int]:
    """Candidates: powers of two, evened out to fill the last block, and whole stride groups."""
    w, s, d = window.sizes[axis], window.stride[axis], window.dilation[axis]
    positions = -(-length // d)
    sizes = {positions}
    power = 1
    while power < positions:
        sizes.add(-(-positions // -(-positions // power)))
        sizes.add(min(positions, -(-power // s) * s))
        power *= 2
    return [b for b in sorted(sizes) if b * MAX_VIEWS >= min(b + w - 1, positions)]


@functools.lru_cache(maxsize=512)
def choose_tiles(
    window: Window,
    spatial: tuple[int, ...],
    group: int,
    width: int,
    itemsize: int,
    cost: Cost,
) -> tuple[AxisTiles, ...]:
    """The cheapest blocks for `group` query heads per key head and `width` = D + Dv.

    A tile's scores stay below the budget wherever any choice can keep them there.
    """
    cuts = [
        [axis_tiles(window, length, axis, block) for block in _block_sizes(window, length, axis)]
        for axis, length in enumerate(spatial)
    ]
    best, chosen = (math.inf, math.inf), None
    for tiles in itertools.product(*cuts):
        rows = group * math.prod(t.block for t in tiles)
        columns = math.prod(t.slab for t in tiles)
        number = math.prod(t.blocks * t.phases for t in tiles)
        held = itemsize * max(rows * columns, columns * width // SLABS)
        price = rows * columns * (cost.score + cost.product * width) + columns * width * cost.copy
        key = (max(held / cost.budget, 1.0), number * (price + cost.tile))
        if key < best:
            best, chosen = key, tiles
    assert chosen is not None
    return chosen


def chunk_sizes(
    levels: Sequence[int], pad: Sequence[bool], tile_bytes: int, budget: int
) -> list[int]:
    """How many entries of each level to process at a time, outermost level first.

    Inner levels are taken whole as long as they fit, then a part of one, the others one by one. The
    chunks of a level divide it evenly; where `pad` says that a level may be extended, its last
    chunk may be short.
    """
    chunks = [1] * len(levels)
    room = max(budget // max(tile_bytes, 1), 1)
    for level in reversed(range(len(levels))):
        size = levels[level]
        if size <= room:
            chunks[level] = size
            room //= max(size, 1)
            continue
        if pad[level]:
            few = max(room // 8, 1)
            steps = -(-size // min(few, MAX_BLOCKS))
            chunks[level] = -(-size // steps)
        else:
            chunks[level] = max(c for c in range(1, room + 1) if size % c == 0)
        break
    return chunks

"""Neighborhood attention in plain JAX, for any backend, differentiable any number of times.

Queries are cut into tiles, boxes of neighbouring tokens of one dilation group; a tile meets one box of keys, its slab
(_tiles.py). Scores exist for a chunk of tiles at a time: larger problems walk over chunks, heads and batch entries by
`lax.map` and compute them again where a derivative needs them. So memory grows with tokens times the overlap of the
slabs, and no [tokens, tokens] array exists, not even of booleans.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_na._tiles import ACCELERATOR, CPU, AxisTiles, choose_tiles, chunk_sizes
from jax_na._window import Window

# Axes in front of the tiles: key heads, batch entries, dilation groups.
HEADS, BATCH, PHASES, LEADING = 0, 1, 2, 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Chunk:
    """What some tiles need. Arrays have the axes [K, B, P, tiles of each axis...] in front, as far as they vary there."""

    query: jax.Array  # [K, B, P, *blocks, group * block tokens, D]
    key: (
        jax.Array
    )  # [K, B, P, *blocks of cut axes, *slabs of cut axes, *positions of the others, D]
    value: jax.Array  # likewise, Dv
    more_key: jax.Array | None  # [K, B, S, D]
    more_value: jax.Array | None  # [K, B, S, Dv]
    bias: jax.Array | None  # [K, group, 2w - 1 per axis]
    begin: tuple[jax.Array, ...]  # per axis [P or 1, blocks of the axis, block]
    end: tuple[jax.Array, ...]
    bias_start: tuple[jax.Array, ...]  # per axis [blocks of the axis]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    additional_keys: jax.Array | None,
    additional_values: jax.Array | None,
    bias: jax.Array | None,
    *,
    window: Window,
    scale: float,
    precision: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Neighborhood attention of validated arguments.

    Args:
      query: [B, *spatial, N, D].
      key: [B, *spatial, K, D], where K divides N.
      value: [B, *spatial, K, Dv].
      additional_keys: [B, S, K, D] or None.
      additional_values: [B, S, K, Dv] or None.
      bias: [N, 2w - 1 per axis] or None.
      window: resolved for `spatial`.
      scale: factor of the scores.
      precision: of the matrix products, as in `jax.lax.dot_general`.

    Returns:
      out [B, *spatial, N, Dv] in the type of `query`, and lse [B, *spatial, N] in float32 (float64 for float64).

    A key that is not finite may reach, as NaN, the queries of the tiles that meet it without seeing it.
    """
    rank = window.rank
    batch, spatial = query.shape[0], query.shape[1:-2]
    heads, head_dim = query.shape[-2:]
    kv_heads, value_dim = value.shape[-2:]
    group = heads // kv_heads if kv_heads else 1
    accumulator = jnp.promote_types(query.dtype, jnp.float32)
    cost = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    itemsize = accumulator.itemsize
    width = head_dim + value_dim
    tiles = choose_tiles(window, spatial, group, width, itemsize, cost)

    rows = group * math.prod(t.block for t in tiles)
    columns = math.prod(t.slab for t in tiles)
    phases = math.prod(t.phases for t in tiles)
    levels = [kv_heads, batch, phases, *(t.blocks for t in tiles)]
    tile_bytes = itemsize * max(rows * columns, columns * width)
    may_pad = [False] * LEADING + [True] * rank
    chunks = chunk_sizes(levels, may_pad, tile_bytes, cost.budget)
    tiles = tuple(
        t.with_blocks(-(-t.blocks // c) * c) for t, c in zip(tiles, chunks[LEADING:], strict=True)
    )
    levels[LEADING:] = [t.blocks for t in tiles]

    def tables(name: str) -> tuple[jax.Array, ...]:
        arrays = [getattr(t, name).astype(np.int32) for t in tiles]
        if name == "bias_start":
            return tuple(map(jnp.asarray, arrays))
        # The phase of an axis is one digit of the number of the dilation group.
        digits = np.unravel_index(np.arange(phases), [t.phases for t in tiles])
        return tuple(
            jnp.asarray(a if a.shape[0] == 1 else a[g]) for a, g in zip(arrays, digits, strict=True)
        )

    whole = _Chunk(
        query=_cut_queries(query, tiles, group),
        key=_split_phases(key, tiles),
        value=_split_phases(value, tiles),
        more_key=None if additional_keys is None else jnp.moveaxis(additional_keys, 2, 0),
        more_value=None if additional_values is None else jnp.moveaxis(additional_values, 2, 0),
        bias=None if bias is None else bias.reshape(kv_heads, group, *bias.shape[1:]),
        begin=tables("begin"),
        end=tables("end"),
        bias_start=tables("bias_start"),
    )

    def attend(chunk: _Chunk) -> tuple[jax.Array, jax.Array]:
        return _attend(chunk, tiles, group, scale, precision, accumulator)

    out, lse = _walk(whole, 0, levels, chunks, tiles, attend)
    out = _join_queries(out.astype(query.dtype), tiles, batch, spatial, heads)
    return out, _join_queries(lse[..., None], tiles, batch, spatial, heads)[..., 0]


def _phase_axes(rank: int, per_axis: int) -> list[list[int]]:
    """For [B, (part, ..., phase) per axis, ...]: the axes of each part, all first parts before all second ones."""
    return [[1 + a * per_axis + part for a in range(rank)] for part in range(per_axis)]


def _cut_queries(x: jax.Array, tiles: tuple[AxisTiles, ...], group: int) -> jax.Array:
    """[B, *spatial, N, D] -> [K, B, P, *blocks, group * block tokens, D]."""
    rank = len(tiles)
    batch, spatial, (heads, dim) = x.shape[0], x.shape[1:-2], x.shape[-2:]
    fill = [t.blocks * t.block * t.phases - n for t, n in zip(tiles, spatial, strict=True)]
    x = jnp.pad(x, [(0, 0), *((0, f) for f in fill), (0, 0), (0, 0)])
    parts = [size for t in tiles for size in (t.blocks, t.block, t.phases)]
    x = x.reshape(batch, *parts, heads // group, group, dim)
    blocks, tokens, phases = _phase_axes(rank, 3)
    head = 1 + 3 * rank
    x = x.transpose(head, 0, *phases, *blocks, head + 1, *tokens, head + 2)
    return x.reshape(
        heads // group,
        batch,
        math.prod(t.phases for t in tiles),
        *(t.blocks for t in tiles),
        group * math.prod(t.block for t in tiles),
        dim,
    )


def _join_queries(
    x: jax.Array, tiles: tuple[AxisTiles, ...], batch: int, spatial: tuple[int, ...], heads: int
) -> jax.Array:
    """[K, B, P, *blocks, group * block tokens, D] -> [B, *spatial, N, D]."""
    rank = len(tiles)
    kv_heads, dim = x.shape[0], x.shape[-1]
    group = heads // kv_heads if kv_heads else 1
    sizes = [[getattr(t, name) for t in tiles] for name in ("phases", "blocks", "block")]
    x = x.reshape(kv_heads, batch, *sizes[0], *sizes[1], group, *sizes[2], dim)
    phases, blocks, tokens = (
        [first + a for a in range(rank)] for first in (2, 2 + rank, 3 + 2 * rank)
    )
    order = [axis for triple in zip(blocks, tokens, phases, strict=True) for axis in triple]
    x = x.transpose(1, *order, 0, 2 + 2 * rank, 3 + 3 * rank)
    x = x.reshape(batch, *(t.blocks * t.block * t.phases for t in tiles), heads, dim)
    return x[(slice(None), *(slice(n) for n in spatial))]


def _split_phases(x: jax.Array, tiles: tuple[AxisTiles, ...]) -> jax.Array:
    """[B, *spatial, K, D] -> [K, B, P, *padded positions, D], repeated at the ends of periodic axes."""
    rank = len(tiles)
    batch, spatial, (heads, dim) = x.shape[0], x.shape[1:-2], x.shape[-2:]
    fill = [t.positions * t.phases - n for t, n in zip(tiles, spatial, strict=True)]
    x = jnp.pad(x, [(0, 0), *((0, f) for f in fill), (0, 0), (0, 0)])
    x = x.reshape(batch, *(n for t in tiles for n in (t.positions, t.phases)), heads, dim)
    positions, phases = _phase_axes(rank, 2)
    x = x.transpose(1 + 2 * rank, 0, *phases, *positions, 2 + 2 * rank)
    x = x.reshape(
        heads, batch, math.prod(t.phases for t in tiles), *(t.positions for t in tiles), dim
    )
    for axis, t in enumerate(tiles):
        if t.left or t.right:
            front = lax.slice_in_dim(x, t.positions - t.left, t.positions, axis=LEADING + axis)
            back = lax.slice_in_dim(x, 0, t.right, axis=LEADING + axis)
            x = jnp.concatenate([front, x, back], axis=LEADING + axis)
    return x


def _cut_slabs(x: jax.Array, axis: int, tiles: AxisTiles) -> jax.Array:
    """Replaces `axis` (padded positions) by two axes, blocks and the positions of their slabs."""
    starts, block, slab = tiles.starts, tiles.block, tiles.slab
    near = int(np.sum(starts == 0))
    spaced = starts[near : int(np.searchsorted(starts, tiles.padded - slab))]
    far = len(starts) - near - len(spaced)

    def repeat(first: int, times: int) -> jax.Array:
        one = jnp.expand_dims(lax.slice_in_dim(x, first, first + slab, axis=axis), axis)
        return jnp.broadcast_to(one, (*x.shape[:axis], times, slab, *x.shape[axis + 1 :]))

    parts = [repeat(0, near)]
    if len(spaced):
        views = -(-slab // block)
        first, length = int(spaced[0]), (len(spaced) - 1 + views) * block
        span = lax.slice_in_dim(x, first, min(first + length, x.shape[axis]), axis=axis)
        missing = [(0, 0)] * x.ndim
        missing[axis] = (0, length - span.shape[axis])
        span = jnp.pad(span, missing)
        span = span.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
        shifted = [
            lax.slice_in_dim(span, view, view + len(spaced), axis=axis) for view in range(views)
        ]
        joined = jnp.concatenate(shifted, axis=axis + 1)
        parts.append(lax.slice_in_dim(joined, 0, slab, axis=axis + 1))
    parts.append(repeat(tiles.padded - slab, far))
    parts = [part for part in parts if part.shape[axis]]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)


def _cut_axis(x: jax.Array, axis: int, tiles: AxisTiles) -> jax.Array:
    """[K, B, P, *blocks, *slabs, positions of `axis`, ...] -> the same with one more of the blocks and slabs."""
    x = _cut_slabs(x, LEADING + 2 * axis, tiles)
    return jnp.moveaxis(x, LEADING + 2 * axis, LEADING + axis)


def _walk(
    chunk: _Chunk,
    level: int,
    levels: list[int],
    chunks: list[int],
    tiles: tuple[AxisTiles, ...],
    attend: Callable[[_Chunk], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """Walks over the chunks of one level after the other, cutting keys and values on the way."""
    if level == len(levels):
        return attend(chunk)
    axis = level - LEADING
    if axis >= 0:
        chunk = dataclasses.replace(
            chunk,
            key=_cut_axis(chunk.key, axis, tiles[axis]),
            value=_cut_axis(chunk.value, axis, tiles[axis]),
        )

    def inner(chunk: _Chunk) -> tuple[jax.Array, jax.Array]:
        return _walk(chunk, level + 1, levels, chunks, tiles, attend)

    size, step = levels[level], chunks[level]
    if step == size:
        return inner(chunk)

    # Where each array has this level, if it does: those go into the loop, the others stay outside.
    where: dict[str, Any] = {"query": level, "key": level, "value": level}
    if level in (HEADS, BATCH):
        where |= {"more_key": level, "more_value": level}
    if level == HEADS:
        where["bias"] = level
    for name in ("begin", "end"):
        tables = getattr(chunk, name)
        here = [level == PHASES and table.shape[0] > 1 for table in tables]
        where[name] = tuple(0 if h else 1 if a == axis else None for a, h in enumerate(here))
    where["bias_start"] = tuple(0 if a == axis else None for a in range(len(tiles)))
    leaves, treedef = jax.tree.flatten(chunk)
    axes = jax.tree.leaves(
        _Chunk(
            **{
                field.name: None
                if getattr(chunk, field.name) is None
                else jax.tree.map(
                    lambda a: -1 if a is None else a,
                    where.get(field.name, -1),
                    is_leaf=lambda a: a is None,
                )
                for field in dataclasses.fields(_Chunk)
            }
        )
    )

    def split(x: jax.Array, at: int) -> jax.Array:
        x = x.reshape(*x.shape[:at], size // step, step, *x.shape[at + 1 :])
        return jnp.moveaxis(x, at, 0)

    moving = [split(x, at) for x, at in zip(leaves, axes, strict=True) if at >= 0]

    @jax.checkpoint
    def body(part: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        parts = iter(part)
        joined = [x if at < 0 else next(parts) for x, at in zip(leaves, axes, strict=True)]
        return inner(jax.tree.unflatten(treedef, joined))

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, level)
        return x.reshape(*x.shape[:level], size, *x.shape[level + 2 :])

    out, lse = lax.map(body, moving)
    return join(out), join(lse)


def _mask(chunk: _Chunk, tiles: tuple[AxisTiles, ...]) -> jax.Array:
    """Visible pairs: [P or 1, *blocks, *slabs, *block tokens]."""
    rank = len(tiles)
    mask = jnp.ones((1,) * (1 + 3 * rank), bool)
    for axis, t in enumerate(tiles):
        begin, end = chunk.begin[axis][:, :, None], chunk.end[axis][:, :, None]
        position = jnp.arange(t.slab, dtype=begin.dtype)[:, None]
        seen = (position >= begin) & (position < end)  # [P or 1, blocks, slab, block]
        shape = [1] * (1 + 3 * rank)
        shape[0], shape[1 + axis] = seen.shape[:2]
        shape[1 + rank + axis], shape[1 + 2 * rank + axis] = seen.shape[2:]
        mask = mask & seen.reshape(shape)
    return mask


def _bias_of_tiles(chunk: _Chunk, tiles: tuple[AxisTiles, ...]) -> jax.Array:
    """Bias of every pair: [K, group, *blocks, *slabs, *block tokens], blocks being 1 where all are alike."""
    rank = len(tiles)
    x = chunk.bias
    assert x is not None
    # Axis by axis from the last: [K, group, ..., 2w - 1] -> blocks, slab, block at the end of what is done.
    for axis, t in enumerate(tiles):
        at = 2 + 3 * axis
        length = t.block + t.slab
        # Entry e of a block's line is the bias of key c of the slab and query r of the block where c - r + block - 1 = e.
        first = t.bias_start - (t.block - 1)
        front = max(0, -int(first.min()))
        back = max(0, int(first.max()) + length - x.shape[at])
        pad = [(0, 0)] * x.ndim
        pad[at] = (front, back)
        x = jnp.pad(x, pad)
        if np.all(first == first[0]):
            lines = jnp.expand_dims(
                lax.slice_in_dim(x, int(first[0]) + front, int(first[0]) + front + length, axis=at),
                at,
            )
        else:
            begin = chunk.bias_start[axis] - (t.block - 1) + front
            lines = jax.vmap(
                lambda b, x=x, at=at, length=length: lax.dynamic_slice_in_dim(x, b, length, at),
                out_axes=at,
            )(begin)
        x = _skew(lines, at + 1, t.block, t.slab)
    blocks, tokens, slabs = ([2 + 3 * a + part for a in range(rank)] for part in range(3))
    return x.transpose(0, 1, *blocks, *slabs, *tokens)


def _skew(x: jax.Array, axis: int, block: int, slab: int) -> jax.Array:
    """Replaces `axis` (block + slab entries e) by two, query r and key c, such that e = c - r + block - 1."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    length = block + slab
    # Rows of length - 1 laid over copies of length: every row begins one entry earlier than the one above it.
    x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*before, block, length, *after))
    x = x.reshape(*before, block * length, *after)
    x = lax.slice_in_dim(x, block - 1, block - 1 + block * (length - 1), axis=axis)
    x = x.reshape(*before, block, length - 1, *after)
    return lax.slice_in_dim(x, 0, slab, axis=axis + 1)


def _attend(
    chunk: _Chunk,
    tiles: tuple[AxisTiles, ...],
    group: int,
    scale: float,
    precision: Any,
    accumulator: Any,
) -> tuple[jax.Array, jax.Array]:
    """Attention of the tiles of a chunk: [K, B, P, *blocks, rows, Dv] and the same without Dv, in `accumulator`."""
    rank = len(tiles)
    lead = chunk.query.shape[:-2]  # K, B, P, *blocks
    rows = chunk.query.shape[-2]
    block = [t.block for t in tiles]
    slab = [t.slab for t in tiles]
    query = chunk.query
    key = chunk.key.reshape(*lead, math.prod(slab), chunk.key.shape[-1])
    value = chunk.value.reshape(*lead, math.prod(slab), chunk.value.shape[-1])

    def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=accumulator)

    # Scores are kept keys-major: that is the faster product for tiles of few queries.
    scores = product("...qd,...kd->...kq", query, key) * scale
    visible = _mask(chunk, tiles)
    lead_axes = visible.shape[: 1 + rank]
    visible = visible.reshape(1, 1, *lead_axes, math.prod(slab), 1, math.prod(block))
    scores = scores.reshape(*lead, math.prod(slab), group, math.prod(block))
    if chunk.bias is not None:
        bias = _bias_of_tiles(chunk, tiles).astype(accumulator)
        kv_heads, blocks = bias.shape[0], bias.shape[2 : 2 + rank]
        bias = bias.reshape(kv_heads, group, *blocks, math.prod(slab), math.prod(block))
        bias = jnp.moveaxis(bias, 1, -2)
        scores = scores + bias[:, None, None]
    scores = jnp.where(visible, scores, -jnp.inf).reshape(*lead, math.prod(slab), rows)
    largest = scores.max(-2)
    more = None
    if chunk.more_key is not None and chunk.more_value is not None and chunk.more_key.shape[2]:
        queries = query.reshape(*lead[:2], math.prod(lead[2:]) * rows, query.shape[-1])
        more = product("...qd,...kd->...kq", queries, chunk.more_key) * scale
        largest = jnp.maximum(largest, more.max(-2).reshape(largest.shape))
    # Softmax does not depend on what is subtracted, so no derivative goes there. -inf where a bias hides every key.
    largest = lax.stop_gradient(largest)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)

    weights = jnp.exp(scores - largest[..., None, :])
    total = weights.sum(-2)
    out = product("...kq,...kd->...qd", weights.astype(value.dtype), value)
    if more is not None:
        assert chunk.more_value is not None
        weights = jnp.exp(more - largest.reshape(*lead[:2], 1, math.prod(lead[2:]) * rows))
        total = total + weights.sum(-2).reshape(total.shape)
        added = product("...kq,...kd->...qd", weights.astype(value.dtype), chunk.more_value)
        out = out + added.reshape(out.shape)
    nothing = total == 0
    total = jnp.where(nothing, 1, total)
    lse = jnp.where(nothing, -jnp.inf, jnp.log(total) + largest)
    return out / total[..., None], lse

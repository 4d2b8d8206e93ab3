"""Neighborhood attention in plain JAX, for any backend, differentiable any number of times.

Queries are cut into tiles, boxes of neighbouring tokens of one dilation group; a tile meets one box
of keys, its slab (_tiles.py). Scores exist for a chunk of tiles at a time: larger problems walk
over chunks by `lax.map`, and compute the scores again where a derivative needs them. So memory
grows with tokens times the overlap of the slabs, and no [tokens, tokens] array exists, not even of
booleans.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_na._ffi import lse_dtype
from jax_na._labelled import Labelled, by_phase, cut, cut_some, labels_of, pad_end
from jax_na._tiles import ACCELERATOR, CPU, SLABS, AxisTiles, Cost, choose_tiles, chunk_sizes
from jax_na._window import Window


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Chunk:
    """What some tiles need."""

    query: Labelled
    key: Labelled
    value: Labelled
    more_key: Labelled | None
    more_value: Labelled | None
    bias: Labelled | None
    begin: tuple[Labelled, ...]  # per axis: phase (1 if all are alike), block, token
    end: tuple[Labelled, ...]
    bias_start: tuple[Labelled, ...]  # per axis: block


@dataclasses.dataclass(frozen=True)
class _Level:
    """An axis that is walked over, `step` entries at a time."""

    label: str
    size: int
    step: int


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
      out [B, *spatial, N, Dv] in the type of `query`, and lse [B, *spatial, N] in float32 (float64
      for float64).

    A key that is not finite may reach, as NaN, the queries of the tiles that meet it unseen.
    """
    batch, spatial = query.shape[0], query.shape[1:-2]
    heads, head_dim = query.shape[-2:]
    kv_heads, value_dim = value.shape[-2:]
    rank = window.rank
    axes = range(rank)
    group = heads // kv_heads
    accumulator = lse_dtype(query.dtype)
    cost = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    tiles = choose_tiles(window, spatial, group, head_dim + value_dim, accumulator.itemsize, cost)
    # A batch that is not known yet, as in an exported function, is not cut.
    entries = batch if isinstance(batch, int) else 1
    levels = _levels(
        tiles, entries, kv_heads, group, head_dim + value_dim, accumulator.itemsize, cost
    )
    blocks = {level.label: level.size for level in levels}
    tiles = tuple(t.with_blocks(blocks[f"block {a}"]) for a, t in enumerate(tiles))

    # Heads first, and queries tile by tile: a copy that a loop would make anyway.
    query_labels = ["batch", *(f"{part} {a}" for a in axes for part in ("block", "token", "phase"))]
    sizes = [n for t in tiles for n in (t.blocks, t.block, t.phases)]
    padded = pad_end(query, [t.blocks * t.block * t.phases for t in tiles])
    padded = padded.reshape(batch, *sizes, kv_heads, group, head_dim)
    padded = Labelled(padded, (*query_labels, "heads", "group", "dim"))
    tile_order = ["batch", "heads", *labels_of("phase", rank), *labels_of("block", rank), "group"]
    tile_order += [*labels_of("token", rank), "dim"]

    def table(a: int, name: str, *labels: str) -> Labelled:
        array = jnp.asarray(getattr(tiles[a], name).astype(np.int32))
        return Labelled(array, tuple(f"{label} {a}" for label in labels))

    def optional(array: jax.Array | None, *labels: str) -> Labelled | None:
        return None if array is None else Labelled(array, labels)

    if bias is not None:
        bias = bias.reshape(kv_heads, group, *bias.shape[1:])
    whole = _Chunk(
        query=padded.transposed(tile_order),
        key=by_phase(key, tiles),
        value=by_phase(value, tiles),
        more_key=optional(additional_keys, "batch", "more", "heads", "dim"),
        more_value=optional(additional_values, "batch", "more", "heads", "dim"),
        bias=optional(bias, "heads", "group", *(f"entry {a}" for a in axes)),
        begin=tuple(table(a, "begin", "phase", "block", "token") for a in axes),
        end=tuple(table(a, "end", "phase", "block", "token") for a in axes),
        bias_start=tuple(table(a, "bias_start", "block") for a in axes),
    )

    def attend(chunk: _Chunk) -> tuple[jax.Array, jax.Array]:
        return _attend(chunk, tiles, scale, precision, accumulator)

    out, lse = _walk(whole, levels, tiles, attend)
    held = (slice(None), *(slice(n) for n in spatial))
    out = Labelled(out, tuple(tile_order)).ordered(
        [
            ["batch"],
            *([f"block {a}", f"token {a}", f"phase {a}"] for a in axes),
            ["heads", "group"],
            ["dim"],
        ]
    )
    lse = Labelled(lse, tuple(tile_order[:-1])).ordered(
        [["batch"], *([f"block {a}", f"token {a}", f"phase {a}"] for a in axes), ["heads", "group"]]
    )
    return out[held].astype(query.dtype), lse[held]


def _levels(
    tiles: tuple[AxisTiles, ...],
    batch: int,
    kv_heads: int,
    group: int,
    width: int,
    itemsize: int,
    cost: Cost,
) -> list[_Level]:
    """What to walk over, outermost first, and in which steps. Blocks are rounded up to whole
    steps.
    """
    space = [
        (f"{part} {a}", size)
        for a, t in enumerate(tiles)
        for part, size in (("phase", t.phases), ("block", t.blocks))
    ]
    order = [("batch", batch), *space, ("heads", kv_heads)]
    rows = group * math.prod(t.block for t in tiles)
    columns = math.prod(t.slab for t in tiles)
    steps = chunk_sizes(
        [size for _, size in order],
        [label.startswith("block") for label, _ in order],
        itemsize * max(rows * columns, columns * width // SLABS),
        cost.budget,
    )
    return [
        _Level(label, -(-size // step) * step if step else 0, step)
        for (label, size), step in zip(order, steps, strict=True)
    ]


def _walk(
    chunk: _Chunk,
    levels: Sequence[_Level],
    tiles: tuple[AxisTiles, ...],
    attend: Callable[[_Chunk], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """Walks over one level after the other, cutting keys and values on the way.

    Returns what `attend` returns, with the axes of `chunk.query` ("dim" being that of the values).
    """
    if not levels:
        return attend(chunk)
    level, *inner = levels
    label, size, step = level.label, level.size, level.step
    a = int(label.split()[1]) if label.startswith("block") else None
    if step == size:
        if a is not None:
            key, value = cut(chunk.key, a, tiles[a]), cut(chunk.value, a, tiles[a])
            chunk = dataclasses.replace(chunk, key=key, value=value)
        return _walk(chunk, inner, tiles, attend)

    leaves, structure = jax.tree.flatten(chunk, is_leaf=lambda x: isinstance(x, Labelled))

    def part_of(x: Labelled, first: jax.Array) -> Labelled:
        if x.size(label) < size:
            return x
        at = x.labels.index(label)
        part = lax.dynamic_slice_in_dim(x.array, first, step, at, allow_negative_indices=False)
        return Labelled(part, x.labels)

    # Arrays stay whole outside of the loop and are sliced inside: nothing is copied beforehand, and
    # the gradient is accumulated in place.
    @jax.checkpoint
    def body(first: jax.Array) -> tuple[jax.Array, jax.Array]:
        part = jax.tree.unflatten(structure, [part_of(x, first) for x in leaves])
        if a is not None:
            starts = lax.dynamic_slice_in_dim(jnp.asarray(tiles[a].starts, jnp.int32), first, step)
            key, value = (cut_some(x, a, tiles[a].slab, starts) for x in (part.key, part.value))
            part = dataclasses.replace(part, key=key, value=value)
        return _walk(part, inner, tiles, attend)

    at = chunk.query.labels.index(label)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, at)
        return x.reshape(*x.shape[:at], size, *x.shape[at + 2 :])

    out, lse = lax.map(body, jnp.arange(0, size, step, dtype=jnp.int32))
    return join(out), join(lse)


def _visible(chunk: _Chunk, tiles: tuple[AxisTiles, ...]) -> jax.Array:
    """Visible pairs of a chunk: [phases, blocks, slabs, tokens], each of all axes."""
    rank = len(tiles)
    order = [*labels_of("phase", rank), *labels_of("block", rank)]
    order += [*labels_of("slab", rank), *labels_of("token", rank)]
    visible = jnp.ones((1,) * len(order), bool)
    for a, t in enumerate(tiles):
        begin, end = chunk.begin[a].array[:, :, None], chunk.end[a].array[:, :, None]
        position = jnp.arange(t.slab, dtype=begin.dtype)[:, None]
        seen = (position >= begin) & (position < end)
        mine = [order.index(f"{part} {a}") for part in ("phase", "block", "slab", "token")]
        shape = [1] * len(order)
        for at, size in zip(mine, seen.shape, strict=True):
            shape[at] = size
        visible = visible & seen.reshape(shape)
    sizes = list(visible.shape)
    if any(n > 1 for n in sizes[:rank]):
        # Groups that differ on one axis are told apart on all.
        sizes[:rank] = [chunk.query.size(label) for label in order[:rank]]
        visible = jnp.broadcast_to(visible, sizes)
    return visible.reshape(
        [math.prod(sizes[part * rank : part * rank + rank]) for part in range(4)]
    )


def _bias_of_tiles(chunk: _Chunk, tiles: tuple[AxisTiles, ...]) -> Labelled:
    """The bias of every pair: heads, group and, per axis, block (1 where all are alike), token,
    slab.
    """
    assert chunk.bias is not None
    x = chunk.bias.array
    for a, t in enumerate(tiles):
        at = 2 + 3 * a
        # Entry e of a block's line is that of key c of the slab and query r of the block with
        # e = c - r + block - 1; _skew needs one more.
        length = t.block + t.slab
        first = t.bias_start - (t.block - 1)
        front = max(0, -int(first.min()))
        pad = [(0, 0)] * x.ndim
        pad[at] = (front, max(0, int(first.max()) + length - x.shape[at]))
        x = jnp.pad(x, pad)
        first = first + front
        if np.all(first == first[0]):
            line = lax.slice_in_dim(x, int(first[0]), int(first[0]) + length, axis=at)
            lines = jnp.expand_dims(line, at)
        else:

            def line_of(
                start: jax.Array, x: jax.Array = x, length: int = length, at: int = at
            ) -> jax.Array:
                return lax.dynamic_slice_in_dim(x, start, length, at)

            starts = chunk.bias_start[a].array - (t.block - 1) + front
            lines = jax.vmap(line_of, out_axes=at)(starts)
        x = _skew(lines, at + 1, t.block, t.slab)
    parts = [f"{part} {a}" for a in range(len(tiles)) for part in ("block", "token", "slab")]
    return Labelled(x, ("heads", "group", *parts))


def _skew(x: jax.Array, axis: int, block: int, slab: int) -> jax.Array:
    """Replaces `axis`, entries e, by two, query r and key c, such that e = c - r + block - 1."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    length = block + slab
    # Rows of length - 1 laid over copies of length: every row begins one entry earlier than the one
    # above it.
    x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*before, block, length, *after))
    x = x.reshape(*before, block * length, *after)
    x = lax.slice_in_dim(x, block - 1, block - 1 + block * (length - 1), axis=axis)
    x = x.reshape(*before, block, length - 1, *after)
    return lax.slice_in_dim(x, 0, slab, axis=axis + 1)


def _attend(
    chunk: _Chunk,
    tiles: tuple[AxisTiles, ...],
    scale: float,
    precision: Any,
    accumulator: Any,
) -> tuple[jax.Array, jax.Array]:
    """Attention of the tiles of a chunk, with the axes of its queries, in `accumulator`."""
    rank = len(tiles)
    phases, blocks = labels_of("phase", rank), labels_of("block", rank)
    slabs, tokens = labels_of("slab", rank), labels_of("token", rank)
    # Tiles are batch entries of the matrix products: batch, heads, phases, blocks.
    tile = [["batch"], ["heads"], phases, blocks]
    query = chunk.query.ordered([*tile, ["group", *tokens], ["dim"]])
    key = chunk.key.ordered([*tile, slabs, ["dim"]])
    value = chunk.value.ordered([*tile, slabs, ["dim"]])
    group = chunk.query.size("group")
    number, rows = query.shape[:4], query.shape[4]

    def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=accumulator)

    # Scores are kept keys-major: that is the faster product for tiles of few queries.
    scores = product("bhptqd,bhptkd->bhptkq", query, key) * scale
    if chunk.bias is not None:
        bias = _bias_of_tiles(chunk, tiles)
        if any(bias.size(label) > 1 for label in blocks):
            sizes = [
                chunk.query.size(label) if label in blocks else bias.size(label)
                for label in bias.labels
            ]
            bias = Labelled(jnp.broadcast_to(bias.array, sizes), bias.labels)
        bias = bias.ordered([["batch"], ["heads"], phases, blocks, slabs, ["group", *tokens]])
        scores = scores + bias.astype(accumulator)
    # Added as log(0) = -inf and log(1) = 0: XLA computes a logarithm once, for all heads and users,
    # where it would compute a comparison again for every score and use.
    hidden = jnp.log(_visible(chunk, tiles).astype(accumulator))
    hidden = hidden[None, None, :, :, :, None, :]  # batch, heads, query heads of a group
    scores = scores.reshape(*number, key.shape[4], group, rows // group) + hidden
    scores = scores.reshape(*number, key.shape[4], rows)
    largest = scores.max(-2)
    more = None
    if chunk.more_key is not None and chunk.more_value is not None and chunk.more_key.size("more"):
        more_key = chunk.more_key.ordered([["batch"], ["heads"], ["more"], ["dim"]])
        more_value = chunk.more_value.ordered([["batch"], ["heads"], ["more"], ["dim"]])
        more = product("bhptqd,bhkd->bhptkq", query, more_key) * scale
        largest = jnp.maximum(largest, more.max(-2))
    # Softmax does not depend on what is subtracted, so no derivative goes there. It is -inf where a
    # bias hides every key.
    largest = lax.stop_gradient(largest)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)

    weights = jnp.exp(scores - largest[..., None, :])
    total = weights.sum(-2)
    out = product("bhptkq,bhptkd->bhptqd", weights.astype(value.dtype), value)
    if more is not None:
        weights = jnp.exp(more - largest[..., None, :])
        total = total + weights.sum(-2)
        out = out + product("bhptkq,bhkd->bhptqd", weights.astype(value.dtype), more_value)
    nothing = total == 0
    total = jnp.where(nothing, 1, total)
    lse = jnp.where(nothing, -jnp.inf, jnp.log(total) + largest)
    out = out / total[..., None]

    sizes = chunk.query.array.shape[:-1]
    return out.reshape(*sizes, out.shape[-1]), lse.reshape(sizes)

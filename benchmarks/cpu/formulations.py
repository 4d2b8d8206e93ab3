"""Neighborhood attention in plain jax.numpy, as users write it: boundary "shift", stride and
dilation 1.

Query, key and value are [B, *spatial, N, D]; `window` has an entry per axis. Each formulation walks
over chunks of queries where its intermediate arrays would not fit a cache, and recomputes them in
the backward pass.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def _starts(length: int, window: int) -> np.ndarray:
    return np.clip(np.arange(length) - window // 2, 0, length - window)


def _neighbours(spatial: tuple[int, ...], window: tuple[int, ...]) -> np.ndarray:
    """Flat index of every key of every query: [tokens, prod(window)]."""
    rank = len(spatial)
    index: np.ndarray = np.zeros((1,) * (2 * rank), np.int32)
    for axis, (length, w) in enumerate(zip(spatial, window, strict=True)):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = length, w
        keys = _starts(length, w)[:, None] + np.arange(w)
        index = index * length + keys.reshape(shape).astype(np.int32)
    return index.reshape(math.prod(spatial), math.prod(window))


def gather(
    query: jax.Array, key: jax.Array, value: jax.Array, window: tuple[int, ...], chunk: int = 64
) -> jax.Array:
    """Takes the keys and values of every window, `chunk` queries at a time, then two batched
    products.
    """
    _, *spatial, heads, dim = query.shape
    tokens = math.prod(spatial)
    index = jnp.asarray(_neighbours(tuple(spatial), window).reshape(tokens // chunk, chunk, -1))

    def entry(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q = q.reshape(tokens // chunk, chunk, heads, dim) * dim**-0.5
        k, v = (x.reshape(tokens, heads, dim).swapaxes(0, 1) for x in (k, v))

        @jax.checkpoint
        def step(x: tuple[jax.Array, jax.Array]) -> jax.Array:
            q, i = x
            scores = jnp.einsum("ncd,ncwd->ncw", q.swapaxes(0, 1), jnp.take(k, i, 1, mode="clip"))
            taken = jnp.take(v, i, 1, mode="clip")
            return jnp.einsum("ncw,ncwd->ncd", jax.nn.softmax(scores), taken).swapaxes(0, 1)

        return jax.lax.map(step, (q, index)).reshape(*spatial, heads, dim)

    # Not vmap: a batched take is slower.
    return jnp.stack([entry(*qkv) for qkv in zip(query, key, value, strict=True)])


def masked_dense(
    query: jax.Array, key: jax.Array, value: jax.Array, window: tuple[int, ...], chunk: int = 256
) -> jax.Array:
    """All keys for `chunk` queries at a time, hidden ones masked."""
    spatial, (heads, dim) = query.shape[1:-2], query.shape[-2:]
    tokens, batch = math.prod(spatial), query.shape[0]
    places = np.stack([c.ravel() for c in np.indices(spatial)])
    firsts = np.stack([_starts(n, w)[p] for n, w, p in zip(spatial, window, places, strict=True)])
    width = jnp.asarray(window)[:, None, None]
    starts = jnp.asarray(firsts.reshape(len(spatial), -1, chunk).swapaxes(0, 1))
    q, k, v = (
        jnp.moveaxis(x.reshape(batch, tokens, heads, dim), 2, 1)
        for x in (query * dim**-0.5, key, value)
    )

    @jax.checkpoint
    def step(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        q, first = x
        offset = jnp.asarray(places)[:, None, :] - first[:, :, None]
        seen = jnp.all((offset >= 0) & (offset < width), 0)
        scores = jnp.where(seen, jnp.einsum("bnqd,bnkd->bnqk", q, k), -jnp.inf)
        return jnp.einsum("bnqk,bnkd->bnqd", jax.nn.softmax(scores), v)

    by_step = jnp.moveaxis(q.reshape(batch, heads, -1, chunk, dim), 2, 0)
    out = jnp.moveaxis(jax.lax.map(step, (by_step, starts)), 0, 2)
    return jnp.moveaxis(out.reshape(batch, heads, tokens, dim), 1, 2).reshape(query.shape)


def shifted_views(
    query: jax.Array, key: jax.Array, value: jax.Array, window: tuple[int, ...]
) -> jax.Array:
    """A copy of the keys for every slot of the window, each a take along the axes, elementwise
    products.
    """
    spatial = query.shape[1:-2]
    slots = list(itertools.product(*map(range, window)))

    def view(x: jax.Array, slot: tuple[int, ...]) -> jax.Array:
        for axis, (length, w, t) in enumerate(zip(spatial, window, slot, strict=True)):
            x = jnp.take(x, _starts(length, w) + t, 1 + axis, mode="clip")
        return x

    query = query * query.shape[-1] ** -0.5
    scores = jnp.stack([jnp.sum(query * view(key, slot), -1) for slot in slots], -1)
    weights = jax.nn.softmax(scores)
    return sum(
        (weights[..., i, None] * view(value, slot) for i, slot in enumerate(slots)),
        start=jnp.zeros_like(query),
    )


class _Blocks(NamedTuple):
    """An axis cut into blocks of queries and the slabs of keys that they meet."""

    keys: np.ndarray  # [blocks, slab] positions
    seen: np.ndarray  # [blocks, block, slab]


def _blocks(length: int, window: int, block: int) -> _Blocks:
    slab = min(length, block + window - 1)
    first = np.arange(length // block) * block
    keys = np.clip(first - window // 2, 0, length - slab)[:, None] + np.arange(slab)
    start = _starts(length, window).reshape(-1, block)[:, :, None]
    return _Blocks(keys, (keys[:, None] >= start) & (keys[:, None] < start + window))


def blocked(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    window: tuple[int, ...],
    block: tuple[int, ...],
    chunk: int,
    keys_first: bool,
) -> jax.Array:
    """Boxes of `block` queries against the slab of keys that any of them sees, `chunk` rows of
    boxes at a time; `block` divides the axes.

    With `keys_first` scores are held as [keys, queries], which XLA's CPU products do several times
    faster for small boxes.
    """
    batch, *spatial, heads, dim = query.shape
    rank, rows = len(spatial), batch * heads
    q, k, v = (
        jnp.moveaxis(x, -2, 1).reshape(rows, *spatial, dim) for x in (query * dim**-0.5, key, value)
    )
    axes = [_blocks(*axis) for axis in zip(spatial, window, block, strict=True)]
    counts = [chunk, *(len(axis.keys) for axis in axes[1:])]
    slabs = [axis.keys.shape[1] for axis in axes]
    # [rows, (blocks, inside) of every axis, dim] -> [rows, blocks of all, inside of all, dim]
    blocks_first = (
        0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1,
    )  # fmt: skip
    blocks_back = np.argsort(blocks_first)

    def into_slabs(x: jax.Array, first: jax.Array) -> jax.Array:
        for a, keys in enumerate([first, *(axis.keys for axis in axes[1:])]):
            at = 1 + 2 * a
            if keys.shape[0] == 1:  # one slab is a slice
                x = jax.lax.dynamic_slice_in_dim(x, keys[0, 0], slabs[a], at)
                x = jnp.expand_dims(x, at)
                continue
            x = jnp.take(x, keys.reshape(-1), at, mode="clip")
            x = x.reshape(*x.shape[:at], counts[a], slabs[a], *x.shape[at + 1 :])
        return x.transpose(blocks_first).reshape(-1, math.prod(slabs), dim)

    @jax.checkpoint
    def step(x: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, keys, seen = x
        shape = [rows, *itertools.chain(*zip(counts, block, strict=True)), dim]
        boxes = q.reshape(shape).transpose(blocks_first)
        visible = jnp.ones((1,) * (3 * rank), bool)
        for a, of_axis in enumerate([seen, *(axis.seen for axis in axes[1:])]):
            places = [1] * (3 * rank)
            places[a], places[rank + a], places[2 * rank + a] = of_axis.shape
            visible = visible & jnp.reshape(of_axis, places)
        visible = visible.reshape(-1, math.prod(block), math.prod(slabs))
        flat = boxes.reshape(-1, math.prod(block), dim)
        k_slabs, v_slabs = into_slabs(k, keys), into_slabs(v, keys)
        if keys_first:
            scores, axis = jnp.einsum("bqd,bkd->bkq", flat, k_slabs), 1
            visible = visible.swapaxes(1, 2)
        else:
            scores, axis = jnp.einsum("bqd,bkd->bqk", flat, k_slabs), 2
        scores = scores.reshape(rows, *visible.shape)
        scores = jnp.where(visible, scores, -jnp.inf).reshape(-1, *visible.shape[1:])
        weights = jnp.exp(scores - jnp.max(scores, axis, keepdims=True))
        product = "bkq,bkd->bqd" if keys_first else "bqk,bkd->bqd"
        out = jnp.einsum(product, weights, v_slabs) / jnp.sum(weights, axis)[..., None]
        return out.reshape(boxes.shape).transpose(blocks_back).reshape(q.shape)

    steps = spatial[0] // (block[0] * chunk)
    by_step = q.reshape(rows, steps, chunk * block[0], *spatial[1:], dim).swapaxes(0, 1)
    keys, seen = (x.reshape(steps, chunk, *x.shape[1:]) for x in axes[0])
    out = jax.lax.map(step, (by_step, jnp.asarray(keys), jnp.asarray(seen)))
    out = out.swapaxes(0, 1).reshape(batch, heads, *spatial, dim)
    return jnp.moveaxis(out, 1, -2)

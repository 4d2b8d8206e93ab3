"""Neighborhood attention in plain jax.numpy, as users write it: boundary "shift", stride and
dilation 1.

Query, key and value are [B, *spatial, N, D]; `window` has an entry per axis. Each formulation walks
over chunks of queries where its intermediate arrays would not fit a cache, and recomputes them in
the backward pass.
"""

from __future__ import annotations

import itertools
import math

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
    spatial, (heads, dim) = query.shape[1:-2], query.shape[-2:]
    tokens = math.prod(spatial)
    index = jnp.asarray(_neighbours(spatial, window).reshape(tokens // chunk, chunk, -1))

    def one(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q = q.reshape(tokens // chunk, chunk, heads, dim) * dim**-0.5
        k, v = (x.reshape(tokens, heads, dim).swapaxes(0, 1) for x in (k, v))

        @jax.checkpoint
        def step(x: tuple[jax.Array, jax.Array]) -> jax.Array:
            q, i = x
            scores = jnp.einsum("cnd,ncwd->ncw", q, jnp.take(k, i, 1, mode="clip"))
            taken = jnp.take(v, i, 1, mode="clip")
            return jnp.einsum("ncw,ncwd->cnd", jax.nn.softmax(scores), taken)

        return jax.lax.map(step, (q, index)).reshape(*spatial, heads, dim)

    return jax.vmap(one)(query, key, value)


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
    q = query.reshape(batch, -1, chunk, heads, dim).swapaxes(0, 1) * dim**-0.5
    k, v = (x.reshape(batch, tokens, heads, dim) for x in (key, value))

    @jax.checkpoint
    def step(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        q, first = x
        offset = jnp.asarray(places)[:, None, :] - first[:, :, None]
        seen = jnp.all((offset >= 0) & (offset < width), 0)
        scores = jnp.where(seen, jnp.einsum("bqnd,bknd->bnqk", q, k), -jnp.inf)
        return jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(scores), v)

    out = jax.lax.map(step, (q, starts))
    return out.swapaxes(0, 1).reshape(query.shape)


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

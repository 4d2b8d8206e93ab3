"""na_qk and na_av in plain JAX, for any platform and any derivative.

Both walk over the slots of the window and fetch, for every token at once, the key in that slot:
besides inputs and outputs they hold one copy of the keys per axis, not one per slot.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_na._arguments import Arguments
from jax_na._ffi import lse_dtype
from jax_na._operation import vary_alike
from jax_na._window import Window


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Slots:
    """The slots of one axis: for slot t of token i, [kernel_size, tokens]."""

    token: jax.Array  # the key; another visible key of the window where the slot is invisible
    visible: jax.Array
    bias: jax.Array  # index of the bias


def _slots(window: Window, spatial: Sequence[int], axis: int) -> _Slots:
    start, end = map(np.asarray, window.intervals(spatial, axis))
    w, s, d = window.sizes[axis], window.stride[axis], window.dilation[axis]
    token = np.arange(spatial[axis])
    j, group = token // d, token % d
    length = -(-(spatial[axis] - group) // d)
    if window.is_causal[axis]:
        first = np.minimum(j // s * s + s - 1, length - 1) - w + 1
    else:
        # A window that is cut (clip) is cut at one end only.
        first = np.where(start == 0, end - w, start)
    position = first + np.arange(w)[:, None]
    visible = (position >= start) & (position < end)
    position = np.clip(position, start, end - 1)
    return _Slots(
        token=jnp.asarray((position % length * d + group).astype(np.int32)),
        visible=jnp.asarray(visible),
        bias=jnp.asarray((position - j + w - 1).astype(np.int32)),
    )


def qk(given: Arguments, precision: jax.lax.Precision | None) -> jax.Array:
    """Scores [..., *spatial, N, prod(w) + S] of checked arguments, as of :func:`jax_na.na_qk`."""
    window, spatial, rank = given.window, given.spatial, given.window.rank
    heads, head_dim = given.query.shape[-2:]
    kv_heads = given.key.shape[-2]
    group = heads // kv_heads
    batch = math.prod(given.batch)
    kind = given.query.dtype
    accumulator = lse_dtype(kind)
    queries = given.query.reshape(batch, *spatial, kv_heads, group, head_dim)
    keys = given.key.reshape(batch, *spatial, kv_heads, head_dim)

    def walk(axis: int, keys: jax.Array, bias: jax.Array | None) -> jax.Array:
        if axis == rank:
            products = queries.astype(accumulator) * keys.astype(accumulator)[..., None, :]
            scores = given.scale * products.sum(-1)
            if bias is not None:
                # [N, *spatial] -> [*spatial, K, group]
                by_token = jnp.moveaxis(bias.astype(accumulator), 0, -1)
                scores = scores + by_token.reshape(*spatial, kv_heads, group)
            return scores.astype(kind)

        @jax.checkpoint
        def slot(at: _Slots) -> jax.Array:
            fetched = jnp.take(keys, at.token, axis=1 + axis, mode="clip")
            entries = None
            if bias is not None:
                entries = jnp.take(bias, at.bias, axis=1 + axis, mode="clip")
            scores = walk(axis + 1, fetched, entries)
            # Scores are [slots of the inner axes, B, *spatial, K, group].
            visible = at.visible.reshape(-1, *(1,) * (rank - axis + 1))
            return jnp.where(visible, scores, -jnp.inf)

        return lax.map(slot, _slots(window, spatial, axis))

    scores = walk(0, keys, given.bias)
    slots = math.prod(window.sizes)
    scores = jnp.moveaxis(scores.reshape(slots, batch, *spatial, heads), 0, -1)
    if given.additional_keys is not None:
        tokens = given.additional_keys.shape[-3]
        more = jnp.einsum(
            "b...kgd,bskd->b...kgs",
            queries,
            given.additional_keys.reshape(batch, tokens, kv_heads, head_dim),
            precision=precision,
            preferred_element_type=accumulator,
        )
        more = (given.scale * more).astype(kind).reshape(batch, *spatial, heads, tokens)
        scores = jnp.concatenate([scores, more], axis=-1)
    return scores.reshape(*given.batch, *spatial, heads, scores.shape[-1])


def av(
    weights: jax.Array,
    value: jax.Array,
    additional_values: jax.Array | None,
    *,
    window: Window,
    precision: jax.lax.Precision | None,
) -> jax.Array:
    """out [..., *spatial, N, Dv] of checked arguments, as of :func:`jax_na.na_av`."""
    rank = window.rank
    leading, spatial = value.shape[: -rank - 2], value.shape[-rank - 2 : -2]
    kv_heads, value_dim = value.shape[-2:]
    heads = weights.shape[-2]
    slots = math.prod(window.sizes)
    tokens = weights.shape[-1] - slots
    batch, group = math.prod(leading), heads // kv_heads
    accumulator = max(lse_dtype(weights.dtype), lse_dtype(value.dtype), key=lambda t: t.itemsize)
    weights = weights.reshape(batch, *spatial, kv_heads, group, slots + tokens)
    by_slot = jnp.moveaxis(weights[..., :slots], -1, 0)
    by_slot = by_slot.reshape(*window.sizes, batch, *spatial, kv_heads, group)

    def walk(axis: int, total: jax.Array, values: jax.Array, by_slot: jax.Array) -> jax.Array:
        if axis == rank:
            values = values.astype(accumulator)[..., None, :]
            return total + by_slot.astype(accumulator)[..., None] * values

        @jax.checkpoint
        def slot(total: jax.Array, at: tuple[_Slots, jax.Array]) -> tuple[jax.Array, None]:
            table, here = at
            fetched = jnp.take(values, table.token, axis=1 + axis, mode="clip")
            # Weights are [slots of the inner axes, B, *spatial, K, group].
            visible = table.visible.reshape(-1, *(1,) * (rank - axis + 1))
            return walk(axis + 1, total, fetched, jnp.where(visible, here, 0)), None

        return lax.scan(slot, total, (_slots(window, spatial, axis), by_slot))[0]

    total = jnp.zeros((batch, *spatial, kv_heads, group, value_dim), accumulator)
    values = value.reshape(batch, *spatial, kv_heads, value_dim)
    out = walk(0, *vary_alike([total, values, by_slot]))
    if additional_values is not None:
        out = out + jnp.einsum(
            "b...kgs,bskd->b...kgd",
            weights[..., slots:],
            additional_values.reshape(batch, tokens, kv_heads, value_dim),
            precision=precision,
            preferred_element_type=accumulator,
        )
    return out.astype(value.dtype).reshape(*leading, *spatial, heads, value_dim)

"""The two halves of neighborhood attention, for those who need the weights in between.

Both walk over the slots of the window and fetch, for every token at once, the key in that slot:
besides inputs and outputs they hold one copy of the keys per axis, not one per slot.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_na._arguments import as_array, expect_shape, read_arguments, read_precision, window_of
from jax_na._window import Boundary, Window


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


def na_qk(
    query: ArrayLike,
    key: ArrayLike,
    kernel_size: int | Sequence[int | None],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    additional_keys: ArrayLike | None = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    relative_position_bias: ArrayLike | None = None,
    precision: Any = None,
) -> jax.Array:
    """Scores of every query against the keys of its window: scale * q.k + bias.

    ``na_av(softmax(na_qk(...)), value, ...)`` is neighborhood attention.

    Args:
      query: [..., *spatial, N, D] with any number of leading batch axes.
      key: [..., *spatial, K, D] where K divides N; query head n reads key head n // (N // K).
      kernel_size: one entry per axis, whose number (1 to 3) is the rank; an integer means rank 1.
      stride, dilation, is_causal, boundary: as in :func:`jax_na.neighborhood_attention`.
      scale: factor of the products, D ** -0.5 if None.
      additional_keys: [..., S, K, D] that every query sees besides its window.
      relative_position_bias: [N, 2 * w - 1 per axis].
      precision: of the products with `additional_keys`, as in ``jax.numpy.einsum``; those with the
        window are no matrix products and always exact in the accumulator.

    Returns:
      Scores [..., *spatial, N, prod(w) + S] in the type of `query`, accumulated in float32 at
      least; differentiable any number of times. The slots of the window come row-major over its
      axes, the additional keys after them. Slot t of an axis is the key at position start + t,
      where a window that "clip" or causality cuts starts as if it were not cut; slots outside of
      the axis or after a causal query hold ``-inf``.

    Raises:
      ValueError: naming the argument, the axis, the value given and the legal range.

    Source: docs/semantics.md.
    """
    window = window_of(None, kernel_size, stride, dilation, is_causal, boundary)
    # The values of one half are no concern of the other: keys stand in for them.
    given = read_arguments(
        query, key, key, window, scale, additional_keys, additional_keys, relative_position_bias
    )
    precision = read_precision(precision)
    window, spatial, rank = given.window, given.spatial, window.rank
    heads, head_dim = given.query.shape[-2:]
    kv_heads = given.key.shape[-2]
    group = heads // kv_heads
    batch = math.prod(given.batch)
    kind = given.query.dtype
    accumulator = jnp.promote_types(kind, jnp.float32)
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


def na_av(
    weights: ArrayLike,
    value: ArrayLike,
    kernel_size: int | Sequence[int | None],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    additional_values: ArrayLike | None = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    precision: Any = None,
) -> jax.Array:
    """Sums the values of every window with the given weights.

    Args:
      weights: [..., *spatial, N, prod(w) + S], in the order of :func:`na_qk`. Slots that
        :func:`na_qk` fills with ``-inf`` are ignored, whatever they hold.
      value: [..., *spatial, K, Dv] where K divides N; head n of the weights reads head n // (N //
        K).
      kernel_size, stride, dilation, is_causal, boundary: as for :func:`na_qk`.
      additional_values: [..., S, K, Dv], in the type of `value`.
      precision: of the products with `additional_values`.

    Returns:
      out [..., *spatial, N, Dv] in the type of `value`, accumulated in float32 at least;
      differentiable any number of times.

    Raises:
      ValueError: naming the argument, the axis, the value given and the legal range.

    Source: docs/semantics.md.
    """
    window = window_of(None, kernel_size, stride, dilation, is_causal, boundary)
    precision = read_precision(precision)
    rank = window.rank
    weights, value = as_array("weights", weights), as_array("value", value)
    if value.ndim < rank + 2:
        raise ValueError(
            f"value should have at least {rank + 2} dimensions [..., {rank} spatial, heads, "
            f"head_dim] for a kernel_size of {rank} entries, but got shape {value.shape}"
        )
    leading, spatial = value.shape[: -rank - 2], value.shape[-rank - 2 : -2]
    kv_heads, value_dim = value.shape[-2:]
    window = window.resolve(spatial)
    tokens = 0
    if additional_values is not None:
        additional_values = as_array("additional_values", additional_values)
        if additional_values.ndim < 3:
            raise ValueError(
                "additional_values should have dimensions [..., tokens, heads, head_dim], but got "
                f"{additional_values.shape}"
            )
        tokens = additional_values.shape[-3]
        expect_shape(
            "additional_values",
            additional_values,
            (*leading, tokens, kv_heads, value_dim),
            "batch, additional tokens, value's heads, value's head_dim",
        )
        if additional_values.dtype != value.dtype:
            raise ValueError(
                f"additional_values should be of value's type {value.dtype.name}, but got "
                f"{additional_values.dtype.name}"
            )
    slots = math.prod(window.sizes)
    heads = weights.shape[-2] if weights.ndim > 1 else 0
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise ValueError(
            f"value should have a number of heads that divides the {heads} of weights (shape "
            f"{weights.shape}), but got {kv_heads}"
        )
    expect_shape(
        "weights",
        weights,
        (*leading, *spatial, heads, slots + tokens),
        "batch, spatial, heads, slots of the window and additional keys",
    )

    batch, group = math.prod(leading), heads // kv_heads
    accumulator = jnp.result_type(weights, value, jnp.float32)
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
    out = walk(0, total, values, by_slot)
    if additional_values is not None:
        out = out + jnp.einsum(
            "b...kgs,bskd->b...kgd",
            weights[..., slots:],
            additional_values.reshape(batch, tokens, kv_heads, value_dim),
            precision=precision,
            preferred_element_type=accumulator,
        )
    return out.astype(value.dtype).reshape(*leading, *spatial, heads, value_dim)

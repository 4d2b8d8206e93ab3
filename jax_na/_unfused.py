"""The two halves of neighborhood attention, for those who need the weights in between."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_na import _ffi, _slots, _unfused_xla
from jax_na._arguments import (
    Arguments,
    as_array,
    expect_shape,
    read_arguments,
    read_precision,
    window_of,
)
from jax_na._batching import batch_axes
from jax_na._implementations import candidates, is_default, kernels, require
from jax_na._operation import refusing_forward_mode, vary_alike
from jax_na._sharding import without_explicit_axes
from jax_na._window import Boundary, Window

#: Names of their implementations.
_NAMES = ("naive", "xla")


def _canonical(window: Window, x: jax.Array) -> jax.Array:
    """[.., *spatial, heads, features] -> [*batch, z, y, x, heads, features], with one batch axis at
    least.
    """
    axes = x.ndim - window.rank - 2
    x = jnp.expand_dims(x, range(axes, axes + 3 - window.rank))
    return x if axes else x[None]


def _tokens(x: jax.Array | None, like: jax.Array) -> jax.Array:
    """[.., S, heads, features] -> [*batch, S, heads, features]; no tokens for None. `like` is
    canonical.
    """
    batch, (heads, features) = like.shape[: batch_axes(like)], like.shape[-2:]
    if x is None:
        return jnp.zeros((*batch, 0, heads, features), like.dtype)
    return x if x.ndim == len(batch) + 3 else x[None]


def _as_given(window: Window, x: Any, axes: int) -> jax.Array:
    """The inverse of :func:`_canonical`, for `axes` batch axes."""
    x = x if axes else x[0]
    return jnp.squeeze(x, tuple(range(axes, axes + 3 - window.rank)))


def _qk_by_kernels(given: Arguments) -> jax.Array:
    window, heads = given.window, given.query.shape[-2]
    query, key = _canonical(window, given.query), _canonical(window, given.key)
    sizes = (1,) * (3 - window.rank) + tuple(2 * w - 1 for w in window.sizes)
    bias = jnp.zeros((0, heads, *sizes), _ffi.lse_dtype(query.dtype))
    if given.bias is not None:
        bias = given.bias.astype(bias.dtype).reshape(1, heads, *sizes)
    geometry = _ffi.Geometry.of(window, given.spatial, given.scale)
    call = _slots.Call(geometry, heads // key.shape[-2], masked=True)
    operands = vary_alike((query, key, _tokens(given.additional_keys, key), bias))
    return _as_given(window, _slots.products(call, *operands), len(given.batch))


def _av_by_kernels(
    weights: jax.Array, value: jax.Array, window: Window, additional_values: jax.Array | None
) -> jax.Array:
    # The kernels take one type.
    kind = jnp.result_type(weights, value)
    slots = _canonical(window, weights.astype(kind))
    rows = _canonical(window, value.astype(kind))
    more = _tokens(additional_values, rows).astype(kind)
    spatial = value.shape[-window.rank - 2 : -2]
    geometry = _ffi.Geometry.of(window, spatial, 1.0)
    call = _slots.Call(geometry, slots.shape[-2] // rows.shape[-2])
    out = _slots.sums(call, *vary_alike((slots, rows, more)))
    return _as_given(window, out, value.ndim - window.rank - 2).astype(value.dtype)


def _qk_in_jax(given: Arguments, precision: jax.lax.Precision | None) -> jax.Array:
    operands = (given.query, given.key, given.additional_keys, given.bias)

    def scores(query, key, additional_keys, bias):
        changes = {"query": query, "key": key, "additional_keys": additional_keys, "bias": bias}
        return _unfused_xla.qk(dataclasses.replace(given, **changes), precision)

    tokens = 0 if given.additional_keys is None else given.additional_keys.shape[-3]
    shape = (*given.query.shape[:-1], math.prod(given.window.sizes) + tokens)
    result = _ffi.result_like(given.query, shape, given.query.dtype)
    return without_explicit_axes(scores, result, operands)


def _run(
    runners: dict[str, Callable[[], jax.Array]],
    implementation: str | Sequence[str] | None,
    dtype: Any,
    features: int,
) -> jax.Array:
    """By the first of the implementations named that can do it, or the best one if None."""
    if implementation is None:
        if not is_default("cuda") or not kernels("naive", dtype, features, features):
            return runners["xla"]()
        with refusing_forward_mode():
            return jax.lax.platform_dependent(cuda=runners["naive"], default=runners["xla"])
    refusals = []
    for name in candidates(implementation, _NAMES):
        try:
            if name == "xla":
                return runners["xla"]()
            require("naive", dtype, features, features)
            with refusing_forward_mode():
                return runners["naive"]()
        except NotImplementedError as refusal:
            refusals.append(str(refusal))
    raise NotImplementedError("; ".join(refusals))


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
    implementation: str | Sequence[str] | None = None,
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
      implementation: "naive" (CUDA kernels), "xla" (plain JAX), a sequence of names to try in
        order, or None: "naive" where JAX's default platform is CUDA and D is 256 at most, else
        "xla".
      precision: of the products with `additional_keys` in "xla", as for
        :func:`jax_na.neighborhood_attention`; all other products are no matrix products and always
        exact in the accumulator.

    Returns:
      Scores [..., *spatial, N, prod(w) + S] in the type of `query`, accumulated in float32 at
      least; differentiable any number of times, by "naive" in reverse mode only. The slots of the
      window come row-major over its axes, the additional keys after them. Slot t of an axis is the
      key at position start + t, where a window that "clip" or causality cuts starts as if it were
      not cut; slots outside of the axis or after a causal query hold ``-inf``.

    Raises:
      ValueError: naming the argument, the axis, the value given and the legal range.
      NotImplementedError: the implementation cannot do it; the message says why.

    Source: docs/semantics.md.
    """
    window = window_of(None, kernel_size, stride, dilation, is_causal, boundary)
    # The values of one half are no concern of the other: keys stand in for them.
    given = read_arguments(
        query, key, key, window, scale, additional_keys, additional_keys, relative_position_bias
    )
    precision = read_precision(precision)
    runners = {
        "naive": lambda: _qk_by_kernels(given),
        "xla": lambda: _qk_in_jax(given, precision),
    }
    return _run(runners, implementation, given.query.dtype, given.query.shape[-1])


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
    implementation: str | Sequence[str] | None = None,
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
      implementation: as for :func:`na_qk`.
      precision: of the products with `additional_values` in "xla".

    Returns:
      out [..., *spatial, N, Dv] in the type of `value`, accumulated in float32 at least;
      differentiable any number of times, by "naive" in reverse mode only.

    Raises:
      ValueError: naming the argument, the axis, the value given and the legal range.
      NotImplementedError: the implementation cannot do it; the message says why.

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

    in_jax = functools.partial(_unfused_xla.av, window=window, precision=precision)
    result = _ffi.result_like(weights, (*weights.shape[:-1], value_dim), value.dtype)
    runners = {
        "naive": lambda: _av_by_kernels(weights, value, window, additional_values),
        "xla": lambda: without_explicit_axes(in_jax, result, (weights, value, additional_values)),
    }
    return _run(runners, implementation, value.dtype, value_dim)

"""The operations that na_qk and na_av are made of, as custom calls for CUDA with derivatives.

    products    slots = scale * query . key + bias       sums       query = scale * slots key
    transposed  key = scale * slots^T query              bias_sums  bias = slots by distance

Each is linear in each of its operands, and the derivatives of each are the others: reverse mode
goes to any order. Canonical operands: query [*B, z, y, x, N, D], key [*B, z, y, x, K, D],
additional_keys [*B, S, K, D], bias [0 | 1 | *B, N, 2w-1 per axis], slots [*B, z, y, x, N, slots],
with one batch axis or more. Products fill invisible slots, and nothing else reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_na import _ffi
from jax_na._batching import QUERY_DIMS, add_axis, batch_axes, bias_kind
from jax_na._sharding import partitioned


@dataclasses.dataclass(frozen=True)
class Call:
    """What identifies the operations on slots."""

    geometry: _ffi.Geometry
    group: int  # query heads of a key head
    # Whether products fill invisible slots with -inf, or with 0.
    masked: bool = False


def _on_cuda(call: Call, kind: str, *operands: jax.Array) -> tuple[jax.Array, ...]:
    compiled = functools.partial(_ffi.unfused, call.geometry, kind, call.group, call.masked)
    return jax.lax.platform_dependent(*operands, cuda=compiled)


@functools.lru_cache(maxsize=4096)
def _local(call: Call, kind: str, bias: str, kv_heads: int, axes: int) -> Callable[..., Any]:
    results = functools.partial(_ffi.unfused_results, call.geometry, kind, call.group)
    function = functools.partial(_on_cuda, call, kind)
    return partitioned(function, results, kind, call.group, bias, kv_heads, axes)


@functools.lru_cache(maxsize=4096)
def _operation(call: Call, kind: str) -> Callable[..., tuple[jax.Array, ...]]:
    """An operation for every transformation but differentiation, jitted."""
    position = 3 if kind == "products" else None

    @jax.custom_batching.custom_vmap
    def mapped(*operands):
        axes, kv_heads = batch_axes(operands[0]), operands[0].shape[-2] // call.group
        bias = "none" if position is None else bias_kind(operands[position], axes)
        return _local(call, kind, bias, kv_heads, axes)(*operands)

    @mapped.def_vmap
    def _(axis_size, in_batched, *operands):  # pyright: ignore[reportUnusedFunction]
        results = mapped(*add_axis(axis_size, in_batched, operands, position))
        return results, (True,) * len(results)

    return jax.jit(mapped)


def _no_bias(call: Call, heads: int, dtype: Any) -> jax.Array:
    sizes = (2 * w - 1 for w in call.geometry.kernel_size)
    return jnp.zeros((0, heads, *sizes), _ffi.lse_dtype(dtype))


def _unbiased(call: Call, query, key, additional_keys):
    """The products that are a derivative: without a bias, and 0 in invisible slots."""
    call = dataclasses.replace(call, masked=False)
    bias = _no_bias(call, query.shape[-2], query.dtype)
    return products(call, query, key, additional_keys, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def products(call: Call, query, key, additional_keys, bias) -> jax.Array:
    """Scores of every slot."""
    return _operation(call, "products")(query, key, additional_keys, bias)[0]


def _products_forward(call: Call, query, key, additional_keys, bias):
    slots = products(call, query, key, additional_keys, bias)
    return slots, (query, key, additional_keys, bias)


def _as_given(gradients: Any, operands: Any) -> tuple[jax.Array, ...]:
    """The gradients, each laid out as its operand is on the explicit axes of a mesh, which need not
    be as the slots are.
    """

    def one(gradient: jax.Array, operand: jax.Array) -> jax.Array:
        sharding = jax.typeof(operand).sharding
        if jax.typeof(gradient).sharding == sharding:
            return gradient
        return jax.sharding.reshard(gradient, sharding)

    return tuple(map(one, gradients, operands))


def _products_backward(call: Call, residuals, dslots):
    query, key, additional_keys, bias = residuals
    dquery = sums(call, dslots, key, additional_keys)
    dkeys: Any = transposed(call, dslots, query)
    if bias_kind(bias, batch_axes(query)) == "none":
        dbias = jnp.zeros_like(bias)
    else:
        dbias: Any = bias_sums(dataclasses.replace(call, group=1), dslots)
        axes = batch_axes(query)
        if bias_kind(bias, axes) == "shared":
            dbias = jnp.sum(dbias, tuple(range(axes)))[None]
    return _as_given((dquery, *dkeys, dbias), residuals)


products.defvjp(_products_forward, _products_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sums(call: Call, slots, key, additional_keys) -> jax.Array:
    """For every query, the sum of the keys that it sees, weighed by its slots."""
    return _operation(call, "sums")(slots, key, additional_keys)[0]


def _sums_forward(call: Call, slots, key, additional_keys):
    return sums(call, slots, key, additional_keys), (slots, key, additional_keys)


def _sums_backward(call: Call, residuals, dquery):
    slots, key, additional_keys = residuals
    dslots = _unbiased(call, dquery, key, additional_keys)
    dkeys: Any = transposed(call, slots, dquery)
    return _as_given((dslots, *dkeys), residuals)


sums.defvjp(_sums_forward, _sums_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def transposed(call: Call, slots, query) -> tuple[jax.Array, ...]:
    """For every key and additional key, the sum of the queries that see it, weighed by their
    slots.
    """
    return _operation(call, "transposed")(slots, query)


def _transposed_forward(call: Call, slots, query):
    return transposed(call, slots, query), (slots, query)


def _transposed_backward(call: Call, residuals, cotangents):
    slots, query = residuals
    gradients = (_unbiased(call, query, *cotangents), sums(call, slots, *cotangents))
    return _as_given(gradients, residuals)


transposed.defvjp(_transposed_forward, _transposed_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def bias_sums(call: Call, slots) -> jax.Array:
    """The sum of the slots by the distance of their key, [*B, N, 2w-1 per axis]."""
    return _operation(call, "bias_sums")(slots)[0]


def _bias_sums_forward(call: Call, slots):
    return bias_sums(call, slots), slots


def _bias_sums_backward(call: Call, slots, dbias):
    # Every slot gets its entry of the bias: products of rows that are 0.
    query = jnp.zeros_like(slots, shape=(*slots.shape[:-1], 1))
    additional = slots.shape[-1] - math.prod(call.geometry.kernel_size)
    shape = (*slots.shape[:-QUERY_DIMS], additional, slots.shape[-2], 1)
    call = dataclasses.replace(call, masked=False)
    return (products(call, query, query, jnp.zeros_like(slots, shape=shape), dbias),)


bias_sums.defvjp(_bias_sums_forward, _bias_sums_backward)

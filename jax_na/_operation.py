"""The compiled operation on its canonical operands, for every transformation but differentiation.

    custom_jvp (an error) ( custom_vmap ( custom_partitioning ( per platform: custom call | pure JAX
    ) ) )

Canonical operands: query [*B, z, y, x, N, D], key [*B, z, y, x, K, D], value [*B, z, y, x, K, Dv],
additional_keys [*B, S, K, D], additional_values [*B, S, K, Dv], bias [0 | 1 | *B, N, 2w-1 per
axis], origins int32 [2, 3], with one batch axis or more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_na import _ffi, _xla
from jax_na._batching import add_axis, batch_axes, bias_kind
from jax_na._sharding import partitioned, without_explicit_axes
from jax_na._window import Window

_BIAS, _ORIGINS = 5, 6  # positions among the operands


@dataclasses.dataclass(frozen=True)
class Call:
    """What identifies an operation: the geometry, and how it may be computed."""

    geometry: _ffi.Geometry
    options: _ffi.Options
    # The compiled kernels that run, by platform.
    kernels: tuple[tuple[str, str], ...]
    # Whether other platforms run pure JAX (implementation=None) or are refused.
    anywhere: bool


def _window(geometry: _ffi.Geometry) -> Window:
    return Window(
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        geometry.is_causal,
        geometry.boundary,
    )


def _xla_forward(call: Call, query, key, value, additional_keys, additional_values, bias, origins):
    del origins  # only whole axes come here
    geometry = call.geometry
    attend = functools.partial(
        _xla.attention,
        window=_window(geometry),
        scale=geometry.scale,
        precision=call.options.precision,
    )
    has_more = additional_keys.shape[1] > 0

    def whole_batch(bias, query, key, value, more_keys, more_values):
        more = (more_keys, more_values) if has_more else (None, None)
        return attend(query, key, value, more[0], more[1], bias)

    entries = (query, key, value, additional_keys, additional_values)
    kind = bias_kind(bias, 1)
    if kind != "each":
        return whole_batch(None if kind == "none" else bias[0], *entries)
    one = [x[:, None] for x in entries]  # a batch of one for each bias
    out, lse = jax.vmap(whole_batch)(bias, *one)
    return out[:, 0], lse[:, 0]


def _xla_backward(
    call: Call,
    query,
    key,
    value,
    additional_keys,
    additional_values,
    bias,
    origins,
    out,
    lse,
    dout,
    dlse,
):
    del out, lse
    # One bias per batch entry, since the gradient is wanted unsummed.
    each = jnp.broadcast_to(bias, (query.shape[0], *bias.shape[1:])) if bias.shape[0] else bias
    operands = (query, key, value, additional_keys, additional_values, each)
    _, transpose = jax.vjp(
        lambda q, k, v, ak, av, b: _xla_forward(call, q, k, v, ak, av, b, origins), *operands
    )
    return transpose((dout, dlse))


@dataclasses.dataclass(frozen=True)
class _Kind:
    """One of the two custom calls, its stand-in where there is none, and the types of its
    results.
    """

    compiled: Callable[..., Any]
    pure: Callable[..., Any]
    results: Callable[..., Any]


_KINDS = {
    "forward": _Kind(_ffi.forward, _xla_forward, _ffi.forward_results),
    "backward": _Kind(_ffi.backward, _xla_backward, _ffi.backward_results),
}


def _per_platform(call: Call, kind: _Kind) -> Callable[..., Any]:
    branches = {
        platform: functools.partial(
            kind.compiled, call.geometry, platform, implementation, call.options
        )
        for platform, implementation in call.kernels
    }
    if not call.anywhere:
        return lambda *operands: jax.lax.platform_dependent(*operands, **branches)
    # Jitted, since custom_partitioning takes no function that closes over constants (its tables): a
    # jit keeps them inside.
    pure = jax.jit(functools.partial(kind.pure, call))

    def default(*operands):
        return without_explicit_axes(pure, kind.results(*operands), operands)

    return lambda *operands: jax.lax.platform_dependent(*operands, **branches, default=default)


@functools.lru_cache(maxsize=4096)
def _local(
    call: Call, kind: str, group: int, bias: str, kv_heads: int, axes: int
) -> Callable[..., Any]:
    function, results = _per_platform(call, _KINDS[kind]), _KINDS[kind].results
    return partitioned(function, results, kind, group, bias, kv_heads, axes)


@functools.lru_cache(maxsize=4096)
def operation(call: Call, kind: str) -> Callable[..., tuple[jax.Array, ...]]:
    """The "forward" (7 operands to out, lse) or "backward" (11 operands to 6 gradients) operation,
    jitted.
    """

    @jax.custom_batching.custom_vmap
    def mapped(*operands):
        axes, heads, kv_heads = (
            batch_axes(operands[0]),
            operands[0].shape[-2],
            operands[1].shape[-2],
        )
        bias = bias_kind(operands[_BIAS], axes)
        local = _local(call, kind, heads // kv_heads, bias, kv_heads, axes)
        return tuple(local(*operands))

    @mapped.def_vmap
    def _(axis_size, in_batched, *operands):  # pyright: ignore[reportUnusedFunction]
        given = add_axis(axis_size, in_batched, operands, _BIAS, _ORIGINS)
        results = mapped(*given)
        if kind == "backward" and bias_kind(given[_BIAS], batch_axes(given[0])) == "none":
            none = results[_BIAS]  # the gradient of a bias that is not there
            results = (*results[:-1], jnp.broadcast_to(none, (axis_size, *none.shape)))
        return results, (True,) * len(results)

    @jax.custom_jvp
    def guarded(*operands):
        return mapped(*operands)

    @guarded.defjvp
    def _(primals, tangents):  # pyright: ignore[reportUnusedFunction]
        del primals, tangents
        raise NotImplementedError(NO_JVP)

    return jax.jit(guarded)


NO_JVP = (
    "jax_na: the compiled kernels support first derivatives in reverse mode only; for jvp, "
    "jacfwd, hessian and gradients of gradients pass implementation='xla'"
)


@contextlib.contextmanager
def refusing_forward_mode() -> Iterator[None]:
    """Makes the error of a custom_vjp that meets forward mode say what can do it."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise NotImplementedError(NO_JVP) from None


def _varying_axes(x: jax.Array) -> frozenset[str]:
    """The manual axes over which `x` varies inside shard_map; JAX 0.10 gave them a new name."""
    aval = jax.typeof(x)
    return frozenset(
        aval.manual_axis_type.varying if hasattr(aval, "manual_axis_type") else aval.vma
    )


def vary_alike(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Inside shard_map: every array varies over the axes that any of them varies over; the
    transpose sums.
    """
    axes = frozenset[str]().union(*(_varying_axes(x) for x in arrays))

    def vary(x: jax.Array) -> jax.Array:
        missing = tuple(axes - _varying_axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return [vary(x) for x in arrays]

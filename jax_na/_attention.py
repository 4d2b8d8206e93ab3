"""The public functions, and the derivative rule of the compiled operation."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jax_na import _core, _ffi, _xla
from jax_na._arguments import (
    Arguments,
    keeps_float32,
    read_arguments,
    read_flag,
    read_precision,
    window_of,
)
from jax_na._batching import batch_axes, bias_kind, flat
from jax_na._cuda_plan import CudaPlan, check_plan
from jax_na._implementations import candidates, kernels, require, require_order
from jax_na._operation import Call, operation, refusing_forward_mode, vary_alike
from jax_na._sharding import without_explicit_axes
from jax_na._window import Boundary

#: Names of the residuals of the backward pass, for
#: ``jax.checkpoint_policies.save_only_these_names``.
RESIDUAL_NAMES = ("neighborhood_attention_out", "neighborhood_attention_lse")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call: Call, query, key, value, additional_keys, additional_values, bias, origins):
    return operation(call, "forward")(
        query, key, value, additional_keys, additional_values, bias, origins
    )


def _attend_forward(call: Call, *operands):
    out, lse = operation(call, "forward")(*operands)
    out, lse = (
        checkpoint_name(x, name) for x, name in zip((out, lse), RESIDUAL_NAMES, strict=True)
    )
    return (out, lse), (operands, out, lse)


def _attend_backward(call: Call, residuals, cotangents):
    operands, out, lse = residuals
    *gradients, dbias = operation(call, "backward")(*operands, out, lse, *cotangents)
    axes = batch_axes(operands[0])
    if bias_kind(operands[5], axes) == "shared":
        dbias = jnp.sum(dbias, tuple(range(axes)))[None]
    return (*gradients, dbias, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _compiled(a: Arguments, options: _ffi.Options, name: str | None) -> tuple[jax.Array, jax.Array]:
    """By the kernels of the implementation `name`, or of the best one, which is pure JAX where no
    kernels can do it, if it is None.
    """
    rank = a.window.rank
    padding = (1,) * (3 - rank)
    axes = max(len(a.batch), 1)

    no_batch = () if a.batch else (0,)
    missing = (*no_batch, *range(axes, axes + 3 - rank))

    def on_grid(x: jax.Array) -> jax.Array:
        """[*batch, *spatial, heads, features] -> [*batch, z, y, x, heads, features]."""
        return jnp.expand_dims(x, missing)

    def tokens(x: jax.Array | None, features: int) -> jax.Array:
        if x is None:
            x = jnp.zeros((*a.batch, 0, a.key.shape[-2], features), a.query.dtype)
        return jnp.expand_dims(x, no_batch)

    heads, bias_dtype = a.query.shape[-2], _ffi.lse_dtype(a.query.dtype)
    if a.bias is None:
        bias = jnp.zeros((0, heads, *padding, *(2 * w - 1 for w in a.window.sizes)), bias_dtype)
    else:
        bias = jnp.expand_dims(a.bias.astype(bias_dtype), (0, *range(2, 5 - rank)))
    geometry = _ffi.Geometry.of(a.window, a.spatial, a.scale)
    operands = vary_alike(
        [
            on_grid(a.query),
            on_grid(a.key),
            on_grid(a.value),
            tokens(a.additional_keys, a.query.shape[-1]),
            tokens(a.additional_values, a.value.shape[-1]),
            bias,
        ]
    )
    origins = jnp.zeros((2, 3), jnp.int32)
    found = kernels(name, a.query.dtype, a.query.shape[-1], a.value.shape[-1])
    if options.deterministic and name is None:
        require_order(found)
    with refusing_forward_mode():
        results: Any = _attend(Call(geometry, options, found, name is None), *operands, origins)

    out, lse = results
    return jnp.squeeze(out, missing), jnp.squeeze(lse, missing)


def _pure(a: Arguments, precision: jax.lax.Precision | None) -> tuple[jax.Array, jax.Array]:
    axes = len(a.batch)

    def attend(query, key, value, additional_keys, additional_values, bias):
        def merged(x: Any) -> Any:
            return x if x is None or axes == 1 else flat(x, axes)

        out, lse = _xla.attention(
            merged(query),
            merged(key),
            merged(value),
            merged(additional_keys),
            merged(additional_values),
            bias,
            window=a.window,
            scale=a.scale,
            precision=precision,
        )
        return out.reshape(*a.batch, *out.shape[1:]), lse.reshape(*a.batch, *lse.shape[1:])

    operands = (a.query, a.key, a.value, a.additional_keys, a.additional_values, a.bias)
    return without_explicit_axes(attend, _ffi.forward_results(*operands), operands)


def _plan_numbers(
    a: Arguments, implementation: str | Sequence[str] | None, plan: CudaPlan
) -> tuple[int, ...]:
    """Those of a plan that suits the problem, as a custom call reads it."""
    if implementation not in (None, "fused"):
        raise ValueError(
            "plan is for the fused kernels: implementation should be None or 'fused', but got "
            f"{implementation!r}"
        )
    head_dim, value_dim = a.query.shape[-1], a.value.shape[-1]
    problem = _ffi.Geometry.of(a.window, a.spatial, a.scale).problem(
        math.prod(a.batch),
        a.query.shape[-2],
        a.key.shape[-2],
        head_dim,
        value_dim,
        0 if a.additional_keys is None else a.additional_keys.shape[-3],
        0 if a.bias is None else 1,
    )
    fused = ("cuda", "fused") in kernels("fused", a.query.dtype, head_dim, value_dim)
    if _core.has_cuda and not fused:
        raise ValueError(
            f"plan is for the fused kernels, which do not run {a.query.dtype} and head dimensions "
            f"of {head_dim} and {value_dim} on CUDA devices"
        )
    return tuple(check_plan(plan, a.window, problem, a.query.dtype).numbers())


def _run(
    a: Arguments,
    implementation: str | Sequence[str] | None,
    precision: Any,
    plan: CudaPlan | None,
    deterministic: bool,
) -> tuple[jax.Array, jax.Array]:
    precision = read_precision(precision)
    options = _ffi.Options(
        precision, keeps_float32(precision), read_flag("deterministic", deterministic)
    )
    if plan is not None:
        options = dataclasses.replace(options, plan=_plan_numbers(a, implementation, plan))
    refusals = []
    for name in candidates(implementation):
        try:
            if name == "xla":
                if options.deterministic:
                    require_order(())
                return _pure(a, options.precision)
            if name is not None:
                require(name, a.query.dtype, a.query.shape[-1], a.value.shape[-1])
            return _compiled(a, options, name)
        except NotImplementedError as refusal:
            refusals.append(str(refusal))
    raise NotImplementedError("; ".join(refusals))


def neighborhood_attention(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    relative_position_bias: Any = None,
    implementation: str | Sequence[str] | None = None,
    precision: Any = None,
    plan: CudaPlan | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
) -> Any:
    """Neighborhood attention: every token attends to a box of nearby tokens of a 1-D, 2-D or 3-D
    grid.

    ``out = softmax(scale * query key^T + bias) value`` over the keys that each query sees. The rank
    is the length of `kernel_size` (an integer means rank 1); :func:`na1d`, :func:`na2d` and
    :func:`na3d` fix it.

    Args:
      query: [..., *spatial, N, D], any number of leading batch axes; float32, float64, bfloat16 or
        float16.
      key: [..., *spatial, K, D] of the query's type. N must be a multiple of K; query head n reads
        key head n // (N // K).
      value: [..., *spatial, K, Dv] of the query's type.
      kernel_size: keys per query, one entry per axis; None stands for the whole axis.
      stride: neighbouring queries that share a window, 1 to `kernel_size`.
      dilation: gap between neighbouring keys; `kernel_size * dilation` may not exceed the length of
        the axis.
      is_causal: hide the keys after the query, per axis.
      scale: factor of the scores, a number known when tracing; ``D ** -0.5`` if None.
      additional_keys: [..., S, K, D] of the query's type, tokens visible to every query, in one
        softmax with the window.
      additional_values: [..., S, K, Dv] of the query's type.
      boundary: "shift" (the window moves inside), "clip" (it is cut) or "wrap" (the axis is
        periodic), per axis.
      relative_position_bias: [N, 2 * kernel_size - 1 per axis], added to the scores at index key -
        query + kernel_size - 1, in steps of the dilation; of any of the four types, and so is its
        gradient.
      implementation: "fused" (compiled kernels), "gemm" (CUDA kernels that keep scores and weights
        in memory), "naive" (CUDA kernels for what the fused ones do not do there, and to compare
        them with), "xla" (pure JAX: any platform, any derivative), a sequence of names to try in
        order, or None for the best one of the platform that is compiled for; see
        :func:`implementations`.
      precision: of the matrix products, a ``jax.lax.Precision`` or its name; None for what
        ``jax.default_matmul_precision`` says. Float32 on CUDA is multiplied in TF32 by default, and
        to float32's accuracy with anything above "default". The CPU kernels always compute in full
        float32 (float64 for float64).
      plan: how the fused kernels cut the forward pass on CUDA devices, from :func:`cuda_plans` or
        :func:`tune`; None for what is predicted to be the fastest. Other platforms and the backward
        pass plan for themselves; a jax_na built without the CUDA kernels refuses any plan.
      deterministic: insists on gradients that have the same bits in every run of a program, on the
        CPU with any number of threads. The compiled kernels have them by default, but for the
        faster backward kernel for Hopper GPUs; on CUDA "xla" raises, since XLA orders its sums
        itself.
      return_lse: also return the log-sum-exp of the scores.

    Returns:
      out [..., *spatial, N, Dv] of the query's type; with `return_lse` also lse [..., *spatial, N],
      natural logarithm, in float32 (float64 for float64). Both are differentiable.

    Raises:
      ValueError: a wrong argument, before anything is compiled.
      NotImplementedError: the implementation cannot do it; the message names the one that can.

    Source: Hassani et al., "Neighborhood Attention Transformer" (CVPR 2023) and "Faster
      Neighborhood Attention" (NeurIPS 2024); the exact definition is docs/semantics.md.
    """
    window = window_of(None, kernel_size, stride, dilation, is_causal, boundary)
    arguments = read_arguments(
        query, key, value, window, scale, additional_keys, additional_values, relative_position_bias
    )
    out, lse = _run(arguments, implementation, precision, plan, deterministic)
    return (out, lse) if return_lse else out


def na1d(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    relative_position_bias: Any = None,
    implementation: str | Sequence[str] | None = None,
    precision: Any = None,
    plan: CudaPlan | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
) -> Any:
    """1-D neighborhood attention over [..., length, heads, head_dim]: see
    :func:`neighborhood_attention`.

    A scalar `kernel_size` holds for the axis.
    """
    window = window_of(1, kernel_size, stride, dilation, is_causal, boundary)
    return neighborhood_attention(
        query,
        key,
        value,
        window.kernel_size,
        window.stride,
        window.dilation,
        window.is_causal,
        scale,
        additional_keys,
        additional_values,
        boundary=window.boundary,
        relative_position_bias=relative_position_bias,
        implementation=implementation,
        precision=precision,
        plan=plan,
        deterministic=deterministic,
        return_lse=return_lse,
    )


def na2d(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    relative_position_bias: Any = None,
    implementation: str | Sequence[str] | None = None,
    precision: Any = None,
    plan: CudaPlan | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
) -> Any:
    """2-D neighborhood attention over [..., height, width, heads, head_dim]: see
    :func:`neighborhood_attention`.

    A scalar `kernel_size` holds for all axes.
    """
    window = window_of(2, kernel_size, stride, dilation, is_causal, boundary)
    return neighborhood_attention(
        query,
        key,
        value,
        window.kernel_size,
        window.stride,
        window.dilation,
        window.is_causal,
        scale,
        additional_keys,
        additional_values,
        boundary=window.boundary,
        relative_position_bias=relative_position_bias,
        implementation=implementation,
        precision=precision,
        plan=plan,
        deterministic=deterministic,
        return_lse=return_lse,
    )


def na3d(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    additional_keys: Any = None,
    additional_values: Any = None,
    *,
    boundary: Boundary | Sequence[Boundary] = "shift",
    relative_position_bias: Any = None,
    implementation: str | Sequence[str] | None = None,
    precision: Any = None,
    plan: CudaPlan | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
) -> Any:
    """3-D neighborhood attention over [..., depth, height, width, heads, head_dim]: see
    :func:`neighborhood_attention`.

    A scalar `kernel_size` holds for all axes.
    """
    window = window_of(3, kernel_size, stride, dilation, is_causal, boundary)
    return neighborhood_attention(
        query,
        key,
        value,
        window.kernel_size,
        window.stride,
        window.dilation,
        window.is_causal,
        scale,
        additional_keys,
        additional_values,
        boundary=window.boundary,
        relative_position_bias=relative_position_bias,
        implementation=implementation,
        precision=precision,
        plan=plan,
        deterministic=deterministic,
        return_lse=return_lse,
    )

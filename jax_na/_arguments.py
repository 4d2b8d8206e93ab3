"""What users pass, checked against each other before anything is traced or compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_na._window import Boundary, Window

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Checked arguments. Arrays keep the leading batch axes they came with."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    additional_keys: jax.Array | None
    additional_values: jax.Array | None
    bias: jax.Array | None
    window: Window  # resolved
    scale: float
    batch: tuple[int, ...]
    spatial: tuple[int, ...]


def window_of(
    rank: int | None,
    kernel_size: int | Sequence[int | None] | None,
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    boundary: Boundary | Sequence[Boundary],
) -> Window:
    """The window of a function of the given rank; None takes the rank from kernel_size."""
    if isinstance(kernel_size, np.ndarray):
        kernel_size = kernel_size.tolist()
    if rank is not None and not isinstance(kernel_size, Sequence):
        kernel_size = (kernel_size,) * rank
    window = Window(kernel_size, stride, dilation, is_causal, boundary)
    if rank is not None and window.rank != rank:
        raise ValueError(
            f"kernel_size should be one value or {rank} values, one per axis, but got "
            f"{kernel_size!r}"
        )
    return window


def as_array(name: str, value: Any) -> jax.Array:
    """`value` as an array of a supported floating-point type."""
    array = jnp.asarray(value)
    if array.dtype.name not in DTYPES:
        raise ValueError(
            f"{name} should be of type {', '.join(DTYPES)}, but got {array.dtype.name}"
        )
    return array


def expect_shape(name: str, array: jax.Array, shape: tuple[int, ...], meaning: str) -> None:
    """Raises unless `array` has exactly this shape; `meaning` says what the axes are."""
    if array.shape != shape:
        raise ValueError(f"{name} shape should be {shape} ({meaning}), but got {array.shape}")


def expect_dtype(name: str, array: jax.Array, query: jax.Array) -> None:
    """Raises unless `array` has the query's type."""
    if array.dtype != query.dtype:
        raise ValueError(
            f"{name} should be of query's type {query.dtype.name}, but got {array.dtype.name}"
        )


def read_scale(scale: float | None, head_dim: int) -> float:
    """The factor of the scores: a finite number known when tracing; head_dim ** -0.5 if None."""
    if scale is None:
        return head_dim**-0.5
    try:
        if isinstance(scale, str):
            raise TypeError
        number = float(scale)
    except (TypeError, ValueError, jax.errors.ConcretizationTypeError):
        raise ValueError(
            f"scale should be a number known when tracing (multiply query by a traced one), "
            f"but got {scale!r}"
        ) from None
    if not math.isfinite(number):
        raise ValueError(f"scale should be finite, but got {number}")
    return number


def read_precision(precision: Any) -> jax.lax.Precision | None:
    """None, or a jax.lax.Precision by value or name."""
    try:
        return None if precision is None else jax.lax.Precision(precision)
    except ValueError:
        names = ", ".join(repr(p.name.lower()) for p in jax.lax.Precision)
        raise ValueError(
            f"precision should be None or one of {names}, but got {precision!r}"
        ) from None


def keeps_float32(precision: jax.lax.Precision | None) -> bool:
    """Whether the CUDA kernels are to multiply float32 to its accuracy, not in TF32. None stands
    for ``jax.default_matmul_precision``, read as XLA does on GPUs: "high" is TF32 there.
    """
    if precision is not None:
        return precision != jax.lax.Precision.DEFAULT
    config: Any = jax.config
    name = config.jax_default_matmul_precision or ""
    algorithms = ("F32_F32_F32", "F64_F64_F64")  # and sums of products of parts
    return name in ("highest", "float32", *algorithms) or name[-3:] in ("_X3", "_X6", "_X9")


def read_flag(name: str, value: Any) -> bool:
    """True or False, known when tracing."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} should be True or False, but got {value!r}")
    return bool(value)


def read_heads(name: str, array: jax.Array, query: jax.Array) -> int:
    """Number of heads of a key or value tensor, which should divide the query's."""
    heads, kv_heads = query.shape[-2], array.shape[-2]
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(
            f"{name} should have a number of heads that divides query's {heads}, but got {kv_heads}"
        )
    return kv_heads


def read_arguments(
    query: Any,
    key: Any,
    value: Any,
    window: Window,
    scale: float | None,
    additional_keys: Any,
    additional_values: Any,
    bias: Any,
) -> Arguments:
    """Checks every argument against every other.

    Raises:
      ValueError: naming the argument, the axis, the value given and the legal range.
    """
    query, key, value = as_array("query", query), as_array("key", key), as_array("value", value)
    rank = window.rank
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < rank + 2:
            raise ValueError(
                f"{name} should have at least {rank + 2} dimensions [..., {rank} spatial, "
                f"heads, head_dim] for a "
                f"kernel_size of {rank} entries, but got shape {array.shape}"
            )
    batch, spatial = query.shape[: -rank - 2], query.shape[-rank - 2 : -2]
    heads, head_dim = query.shape[-2:]
    if heads < 1 or head_dim < 1:
        raise ValueError(
            f"query should have at least 1 head of head_dim at least 1, but got shape {query.shape}"
        )
    kv_heads = read_heads("key", key, query)
    if value.shape[-1] < 1:
        raise ValueError(f"value should have a head_dim of at least 1, but got shape {value.shape}")
    expect_shape(
        "key",
        key,
        (*batch, *spatial, kv_heads, head_dim),
        "batch, spatial, key heads, query's head_dim",
    )
    expect_shape(
        "value",
        value,
        (*batch, *spatial, kv_heads, value.shape[-1]),
        "batch, spatial, key's heads, value's head_dim",
    )
    expect_dtype("key", key, query)
    expect_dtype("value", value, query)
    window = window.resolve(spatial)
    scale = read_scale(scale, head_dim)

    if (additional_keys is None) != (additional_values is None):
        given, missing = ("additional_keys", "additional_values")[
            :: 1 if additional_values is None else -1
        ]
        raise ValueError(f"{missing} should be given with {given}, but got None")
    if additional_keys is not None:
        additional_keys = as_array("additional_keys", additional_keys)
        additional_values = as_array("additional_values", additional_values)
        if additional_keys.ndim < 3:
            raise ValueError(
                f"additional_keys should have dimensions [..., tokens, heads, head_dim], but "
                f"got {additional_keys.shape}"
            )
        tokens = additional_keys.shape[-3]
        meaning = "batch, additional tokens, key's heads"
        expect_shape(
            "additional_keys",
            additional_keys,
            (*batch, tokens, kv_heads, head_dim),
            f"{meaning}, head_dim",
        )
        expect_shape(
            "additional_values",
            additional_values,
            (*batch, tokens, kv_heads, value.shape[-1]),
            f"{meaning}, value's head_dim",
        )
        expect_dtype("additional_keys", additional_keys, query)
        expect_dtype("additional_values", additional_values, query)
    if bias is not None:
        bias = as_array("relative_position_bias", bias)
        shape = (heads, *(2 * w - 1 for w in window.sizes))
        expect_shape("relative_position_bias", bias, shape, "heads, 2 * kernel_size - 1 per axis")
    return Arguments(
        query, key, value, additional_keys, additional_values, bias, window, scale, batch, spatial
    )

"""The compiled custom calls: their registration, and the one place that names their targets."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_na import _core
from jax_na._window import BOUNDARIES, Boundary, Window

#: Where there are custom calls, as (platform, implementation).
TARGETS = {
    ("cpu", "fused"): "jax_na_cpu",
    ("cuda", "fused"): "jax_na_cuda_fused",
    ("cuda", "naive"): "jax_na_cuda_naive",
}


#: The custom calls of na_qk and na_av on CUDA: see cuda/naive/unfused.h.
UNFUSED_TARGETS = {
    kind: f"jax_na_cuda_unfused_{kind}" for kind in ("products", "sums", "transposed", "bias_sums")
}


def _runtime_ffi_version() -> tuple[int, int]:
    """XLA's FFI API version, as the headers of the installed jaxlib give it."""
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    text = header.read_text()
    numbers = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    if None in numbers:
        raise ImportError(f"jax_na cannot read the version of XLA's FFI API in {header.name}")
    major, minor = (int(number.group(1)) for number in numbers if number)
    return major, minor


def _register() -> None:
    # A library built with newer headers than the runtime's registers without complaint, and then no
    # backend starts.
    built, runtime = tuple(_core.ffi_api_version), _runtime_ffi_version()
    if built[0] != runtime[0] or built[1] > runtime[1]:
        raise ImportError(
            f"jax_na was built for XLA FFI API {built[0]}.{built[1]}, but the installed jaxlib has "
            f"{runtime[0]}.{runtime[1]}: upgrade jax and jaxlib (0.9.1 or later)"
        )
    for platform, xla_name in (("cpu", "cpu"), ("cuda", "CUDA")):
        for name, stages in _core.handlers(platform).items():
            jax.ffi.register_ffi_target(name, stages, platform=xla_name, api_version=1)


_register()


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The static part of a call: what is not an array, on three axes (leading ones of length 1
    where the rank is less).
    """

    length: tuple[int, int, int]
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    is_causal: tuple[bool, bool, bool]
    boundary: tuple[Boundary, Boundary, Boundary]
    scale: float

    @classmethod
    def of(cls, window: Window, spatial: tuple[int, ...], scale: float) -> Geometry:
        """That of a resolved window on axes of these lengths."""
        lead = 3 - window.rank

        def triple(leading: Any, entries: Iterable[Any]) -> Any:
            return (leading,) * lead + tuple(entries)

        return cls(
            length=triple(1, spatial),
            kernel_size=triple(1, window.sizes),
            stride=triple(1, window.stride),
            dilation=triple(1, window.dilation),
            is_causal=triple(False, window.is_causal),
            boundary=triple("shift", window.boundary),
            scale=scale,
        )

    def problem(
        self,
        batch: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        value_dim: int,
        additional: int,
        bias_batch: int,
    ) -> _core.Problem:
        """The problem with tensors of these sizes; an empty batch counts as one."""
        return _core.Problem.of(
            max(batch, 1),
            heads,
            kv_heads,
            head_dim,
            value_dim,
            additional,
            self.length,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.is_causal,
            self.boundary,
            bias_batch,
        )

    def attributes(self) -> dict[str, np.ndarray | np.float64]:
        """The attributes of the custom calls (the FFI takes arrays, not tuples)."""
        boundary = [BOUNDARIES.index(b) for b in self.boundary]
        axes = {
            "length": self.length,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "dilation": self.dilation,
            "is_causal": self.is_causal,
            "boundary": boundary,
        }
        return {name: np.array(value, np.int64) for name, value in axes.items()} | {
            "scale": np.float64(self.scale)
        }


def result_like(x: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, alike: int | None = None):
    """The type of a result whose first `alike` dimensions (all that both have, if None) are laid
    out as those of `x`.

    It keeps the explicit sharding and the varying manual axes of `x`, which a bare shape would lose
    without a word.
    """
    aval = jax.typeof(x)
    sharding = aval.sharding
    spec = tuple(sharding.spec)[: len(shape) if alike is None else alike]
    spec += (None,) * (len(shape) - len(spec))
    return aval.update(
        shape=shape, dtype=dtype, sharding=sharding.update(spec=jax.sharding.PartitionSpec(*spec))
    )


def lse_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """LSE and bias are float64 for float64 tensors and float32 for all others."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def forward_results(query, key, value, *others):
    """The types of out and lse."""
    del key, others
    return (
        result_like(query, (*query.shape[:-1], value.shape[-1]), query.dtype),
        result_like(query, query.shape[:-1], lse_dtype(query.dtype)),
    )


def backward_results(query, key, value, additional_keys, additional_values, bias, *others):
    """The types of the six gradients."""
    del others
    bias_batch = query.shape[0] if bias.shape[0] else 0
    inputs = (query, key, value, additional_keys, additional_values)
    return (
        *(result_like(x, x.shape, x.dtype) for x in inputs),
        result_like(bias, (bias_batch, *bias.shape[1:]), bias.dtype),
    )


def _extra_attributes(platform: str, precision: jax.lax.Precision | None) -> dict[str, np.int64]:
    if platform == "cpu":
        return {}
    highest = precision not in (None, jax.lax.Precision.DEFAULT)
    return {"precision": np.int64(highest)}


def forward(
    geometry: Geometry,
    platform: str,
    implementation: str,
    precision: jax.lax.Precision | None,
    *operands: jax.Array,
):
    """out [B, z, y, x, N, Dv] and lse [B, z, y, x, N] by a custom call.

    Operands: query [B, z, y, x, N, D], key [.., K, D], value [.., K, Dv], additional_keys
    [B, S, K, D], additional_values [B, S, K, Dv] (S = 0: none), bias [0 | 1 | B, N, 2w-1 per axis],
    origins int32 [2, 3].
    """
    call = jax.ffi.ffi_call(
        TARGETS[platform, implementation] + "_forward", forward_results(*operands)
    )
    return call(*operands, **geometry.attributes(), **_extra_attributes(platform, precision))


def backward(
    geometry: Geometry,
    platform: str,
    implementation: str,
    precision: jax.lax.Precision | None,
    *operands: jax.Array,
):
    """The gradients of the first six operands by a custom call; that of bias is [B, N, 2w-1 per
    axis], unsummed.

    Operands: those of :func:`forward`, then out, lse and their cotangents.
    """
    results = backward_results(*operands)
    if platform == "cuda":
        results = (*results, _workspace(geometry, implementation, *operands[:6]))
    call = jax.ffi.ffi_call(TARGETS[platform, implementation] + "_backward", results)
    found = call(*operands, **geometry.attributes(), **_extra_attributes(platform, precision))
    return tuple(found[:6])


def _workspace(
    geometry: Geometry, implementation: str, query, key, value, additional_keys, _, bias
):
    """The type of the scratch space of a CUDA backward pass."""
    problem = geometry.problem(
        query.shape[0],
        query.shape[-2],
        key.shape[-2],
        query.shape[-1],
        value.shape[-1],
        additional_keys.shape[1],
        bias.shape[0],
    )
    if implementation == "naive":
        size = _core.cuda_naive_backward_workspace(problem, query.dtype == jnp.float64)
    else:
        size = _core.cuda_fused_backward_workspace(problem)
    return result_like(query, (size,), jnp.dtype(jnp.uint8), alike=0)


def products(geometry: Geometry, masked: bool, query, key, additional_keys, bias):
    """Scores [B, z, y, x, N, slots] by a custom call: scale * query . key + bias, and -inf (or, not
    masked, 0) in invisible slots.

    Operands: query [B, z, y, x, N, D], key [.., K, D], additional_keys [B, S, K, D], bias
    [0 | 1 | B, N, 2w-1 per axis].
    """
    slots = math.prod(geometry.kernel_size) + additional_keys.shape[1]
    call = jax.ffi.ffi_call(
        UNFUSED_TARGETS["products"],
        result_like(query, (*query.shape[:-1], slots), query.dtype),
    )
    operands = (query, key, additional_keys, bias)
    return call(*operands, **geometry.attributes(), masked=np.int64(masked))


def sums(geometry: Geometry, slots, key, additional_keys):
    """scale * the sum of every query's rows, weighed by its slots: [B, z, y, x, N, D]."""
    result = result_like(slots, (*slots.shape[:-1], key.shape[-1]), slots.dtype)
    call = jax.ffi.ffi_call(UNFUSED_TARGETS["sums"], result)
    return call(slots, key, additional_keys, **geometry.attributes())


def transposed(geometry: Geometry, kv_heads: int, slots, query):
    """scale * the sum of the queries that see a key, weighed by their slots: [B, z, y, x, K, D],
    and [B, S, K, D] for additional keys.
    """
    (batch, *_, heads, count), features = slots.shape, query.shape[-1]
    additional = count - math.prod(geometry.kernel_size)
    problem = geometry.problem(batch, heads, kv_heads, features, features, additional, 0)
    size, _ = _core.cuda_unfused_workspaces(problem, slots.dtype == jnp.float64)
    results = transposed_results(geometry, kv_heads, slots, query)
    scratch = result_like(slots, (size,), jnp.dtype(jnp.uint8), alike=0)
    call = jax.ffi.ffi_call(UNFUSED_TARGETS["transposed"], (*results, scratch))
    return tuple(call(slots, query, **geometry.attributes())[:2])


def transposed_results(geometry: Geometry, kv_heads: int, slots, query):
    """The types of the results of :func:`transposed`."""
    additional = slots.shape[-1] - math.prod(geometry.kernel_size)
    batch, *spatial, heads, _ = slots.shape
    rows = (kv_heads, query.shape[-1])
    return (
        # Shards of heads need not be shards of key heads.
        result_like(
            slots, (batch, *spatial, *rows), slots.dtype, alike=5 if kv_heads == heads else 4
        ),
        result_like(slots, (batch, additional, *rows), slots.dtype, alike=1),
    )


def bias_sums(geometry: Geometry, slots):
    """The sum of the slots by the distance of their key: [B, N, 2w-1 per axis]."""
    batch, *_, heads, count = slots.shape
    additional = count - math.prod(geometry.kernel_size)
    problem = geometry.problem(batch, heads, heads, 1, 1, additional, max(batch, 1))
    _, size = _core.cuda_unfused_workspaces(problem, slots.dtype == jnp.float64)
    result = bias_sums_result(geometry, slots)
    scratch = result_like(slots, (size,), jnp.dtype(jnp.uint8), alike=0)
    call = jax.ffi.ffi_call(UNFUSED_TARGETS["bias_sums"], (result, scratch))
    return call(slots, **geometry.attributes())[0]


def bias_sums_result(geometry: Geometry, slots):
    """The type of the result of :func:`bias_sums`."""
    shape = (slots.shape[0], slots.shape[4], *(2 * w - 1 for w in geometry.kernel_size))
    return result_like(slots, shape, lse_dtype(slots.dtype), alike=1)

"""The compiled custom calls: their registration, and the one place that names their targets."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from jax_na import _core
from jax_na._window import BOUNDARIES, Boundary

#: Where there are custom calls, as (platform, implementation).
TARGETS = {
    ("cpu", "fused"): "jax_na_cpu",
    ("cuda", "fused"): "jax_na_cuda_fused",
    ("cuda", "gemm"): "jax_na_cuda_gemm",
}

#: Calls whose last result is scratch space, as (platform, implementation, kind).
_IN_WORKSPACE = {
    ("cuda", "fused", "backward"),
    ("cuda", "gemm", "forward"),
    ("cuda", "gemm", "backward"),
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


def result_like(x: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype):
    """The type of a result whose leading dimensions are laid out as those of `x`.

    It keeps the explicit sharding and the varying manual axes of `x`, which a bare shape would lose
    without a word.
    """
    aval = jax.typeof(x)
    sharding = aval.sharding
    spec = tuple(sharding.spec)[: len(shape)]
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
    results = forward_results(*operands)
    return _call(geometry, platform, implementation, "forward", precision, results, *operands)


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
    return _call(geometry, platform, implementation, "backward", precision, results, *operands)


def _call(geometry, platform, implementation, kind, precision, results, *operands):
    """The results of a custom call, without its scratch space."""
    count = len(results)
    if (platform, implementation, kind) in _IN_WORKSPACE:
        results = (*results, _workspace(geometry, implementation, kind, *operands[:4]))
    call = jax.ffi.ffi_call(TARGETS[platform, implementation] + f"_{kind}", results)
    found = call(*operands, **geometry.attributes(), **_extra_attributes(platform, precision))
    return tuple(found[:count])


def _workspace(
    geometry: Geometry, implementation: str, kind: str, query, key, value, additional_keys
):
    """The type of the scratch space of a CUDA call."""
    problem = _core.Problem.of(
        max(query.shape[0], 1),
        query.shape[-2],
        key.shape[-2],
        query.shape[-1],
        value.shape[-1],
        additional_keys.shape[1],
        geometry.length,
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        geometry.is_causal,
        geometry.boundary,
    )
    size = getattr(_core, f"cuda_{implementation}_{kind}_workspace")(problem)
    aval = jax.typeof(query)
    sharding = aval.sharding.update(spec=jax.sharding.PartitionSpec(None))
    return aval.update(shape=(size,), dtype=jnp.dtype(jnp.uint8), sharding=sharding)

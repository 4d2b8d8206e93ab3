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

FORWARD = "jax_na_cpu_forward"
BACKWARD = "jax_na_cpu_backward"


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
    for name, handler in _core.handlers().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu", api_version=1)


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


def forward(geometry: Geometry, *operands: jax.Array):
    """out [B, z, y, x, N, Dv] and lse [B, z, y, x, N] by the CPU custom call.

    Operands: query [B, z, y, x, N, D], key [.., K, D], value [.., K, Dv], additional_keys [B, S, K,
      D],
    additional_values [B, S, K, Dv] (S = 0: none), bias [0 | 1 | B, N, 2w-1 per axis], origins int32
    [2, 3].
    """
    return jax.ffi.ffi_call(FORWARD, forward_results(*operands))(*operands, **geometry.attributes())


def backward(geometry: Geometry, *operands: jax.Array):
    """The gradients of the first six operands by the CPU custom call; that of bias is [B, N, 2w-1
    per axis], unsummed.

    Operands: those of :func:`forward`, then out, lse and their cotangents.
    """
    return jax.ffi.ffi_call(BACKWARD, backward_results(*operands))(
        *operands, **geometry.attributes()
    )

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
from jax_na._batching import batch_axes, bias_kind
from jax_na._window import BOUNDARIES, Boundary, Window

#: Where there are custom calls, as (platform, implementation).
TARGETS = {
    ("cpu", "fused"): "jax_na_cpu",
    ("cuda", "fused"): "jax_na_cuda_fused",
    ("cuda", "gemm"): "jax_na_cuda_gemm",
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
    """The types of the six gradients; that of a shared bias is not summed over the batch."""
    del others
    inputs = (query, key, value, additional_keys, additional_values)
    axes = batch_axes(query)
    if bias_kind(bias, axes) == "shared":
        each = jax.typeof(bias)
        # Summed over the batch it has to have the type of the bias, so no axis of the mesh is named
        # that the bias does not have.
        spec = (*(None,) * axes, *tuple(each.sharding.spec)[1:])
        dbias = each.update(
            shape=(*query.shape[:axes], *bias.shape[1:]),
            sharding=each.sharding.update(spec=jax.sharding.PartitionSpec(*spec)),
        )
    else:
        dbias = result_like(bias, bias.shape, bias.dtype)
    return (*(result_like(x, x.shape, x.dtype) for x in inputs), dbias)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caller leaves to the kernels, or insists on."""

    precision: jax.lax.Precision | None = None  # of pure JAX
    exact: bool = False  # whether the CUDA kernels multiply float32 to its accuracy
    # Whether gradients have to have the same bits in every run. All else has them in any case.
    deterministic: bool = False
    # The numbers of the plan of the fused forward pass on CUDA, or a single one for the best.
    plan: tuple[int, ...] = (0,)

    def attributes(
        self, platform: str, implementation: str, kind: str, dtype: jnp.dtype
    ) -> dict[str, Any]:
        """The attributes of the custom calls that say so."""
        if platform == "cpu":  # exact and deterministic
            return {}
        # Products of 16-bit numbers are exact in any case.
        found: dict[str, Any] = {"precision": np.int64(dtype == jnp.float32 and self.exact)}
        if kind == "forward" and implementation == "fused":
            found["plan"] = np.array(self.plan, np.int64)
        if kind == "backward":
            found["deterministic"] = np.int64(self.deterministic)
        return found


def forward(
    geometry: Geometry,
    platform: str,
    implementation: str,
    options: Options,
    *operands: jax.Array,
):
    """out [B, z, y, x, N, Dv] and lse [B, z, y, x, N] by a custom call.

    Operands: query [B, z, y, x, N, D], key [.., K, D], value [.., K, Dv], additional_keys
    [B, S, K, D], additional_values [B, S, K, Dv] (S = 0: none), bias [0 | 1 | B, N, 2w-1 per axis],
    origins int32 [2, 3].
    """
    results = forward_results(*operands)
    return _call(geometry, platform, implementation, "forward", options, results, *operands)


def backward(
    geometry: Geometry,
    platform: str,
    implementation: str,
    options: Options,
    *operands: jax.Array,
):
    """The gradients of the first six operands by a custom call; that of bias is [B, N, 2w-1 per
    axis], unsummed.

    Operands: those of :func:`forward`, then out, lse and their cotangents.
    """
    results = backward_results(*operands)
    return _call(geometry, platform, implementation, "backward", options, results, *operands)


def _call(geometry, platform, implementation, kind, options, results, *operands):
    """The results of a custom call, without its scratch space."""
    count = len(results)
    size = workspace_size(geometry, platform, implementation, kind, options, *operands[:6])
    if size is not None:
        workspace = result_like(operands[0], (size,), jnp.dtype(jnp.uint8), alike=0)
        results = (*results, workspace)
    call = jax.ffi.ffi_call(TARGETS[platform, implementation] + f"_{kind}", results)
    attributes = options.attributes(platform, implementation, kind, operands[0].dtype)
    found = call(*operands, **geometry.attributes(), **attributes)
    return tuple(found[:count])


def workspace_size(
    geometry: Geometry,
    platform: str,
    implementation: str,
    kind: str,
    options: Options,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    additional_keys: jax.Array,
    _: jax.Array,
    bias: jax.Array,
) -> int | None:
    """Bytes of scratch space that a call needs; None where it has no such result."""
    if platform == "cpu" or (kind == "forward" and implementation != "gemm"):
        return None
    if not isinstance(query.shape[0], int):
        raise NotImplementedError(
            "jax_na: what the CUDA kernels need scratch space for (gradients, and 'gemm') takes a "
            f"batch that is known when it is compiled, but got {query.shape[0]}; "
            "implementation='xla' takes any"
        )
    problem = geometry.problem(
        query.shape[0],
        query.shape[-2],
        key.shape[-2],
        query.shape[-1],
        value.shape[-1],
        additional_keys.shape[1],
        bias.shape[0],
    )
    if query.size:
        problem = problem.slab(query.shape[1:4], key.shape[1:4])
    if implementation == "naive":
        return _core.cuda_naive_backward_workspace(problem, query.dtype == jnp.float64)
    if implementation == "gemm" and kind == "forward":
        return _core.cuda_gemm_forward_workspace(problem)
    if implementation == "gemm":
        return _core.cuda_gemm_backward_workspace(problem, query.dtype.name)
    return _core.cuda_fused_backward_workspace(problem, query.dtype.name, options.deterministic)


def unfused_results(geometry: Geometry, kind: str, group: int, *operands: jax.Array):
    """The types of the results of :func:`unfused`."""
    first = operands[0]  # the query, or slots
    axes = batch_axes(first)
    batch, spatial, (heads, last) = first.shape[:axes], first.shape[axes:-2], first.shape[-2:]
    window = math.prod(geometry.kernel_size)
    if kind == "products":
        slots = window + operands[2].shape[-3]
        return (result_like(first, (*first.shape[:-1], slots), first.dtype),)
    if kind == "sums":
        return (result_like(first, (*first.shape[:-1], operands[1].shape[-1]), first.dtype),)
    if kind == "bias_sums":
        sizes = (2 * w - 1 for w in geometry.kernel_size)
        return (result_like(first, (*batch, heads, *sizes), lse_dtype(first.dtype), alike=axes),)
    rows = (heads // group, operands[1].shape[-1])
    # Shards of heads need not be shards of key heads.
    alike = axes + (4 if group == 1 else 3)
    return (
        result_like(first, (*batch, *spatial, *rows), first.dtype, alike=alike),
        result_like(first, (*batch, last - window, *rows), first.dtype, alike=axes),
    )


def unfused(geometry: Geometry, kind: str, group: int, masked: bool, *operands: jax.Array):
    """One of the operations of jax_na/_slots.py by a custom call for CUDA.

    Args:
      geometry: of the window.
      kind: "products" (query, key, additional_keys, bias to slots), "sums" (slots, key,
        additional_keys to query), "transposed" (slots, query to key and additional_keys) or
        "bias_sums" (slots to bias, [B, N, 2w-1 per axis]).
      group: query heads of a key head.
      masked: whether products fill invisible slots with -inf, or with 0.
    """
    results = unfused_results(geometry, kind, group, *operands)
    attributes: dict[str, Any] = dict(geometry.attributes())
    if kind == "products":
        attributes["masked"] = np.int64(masked)
    count = len(results)
    if kind in ("transposed", "bias_sums"):
        slots = operands[0]
        batch, *_, heads, last = slots.shape
        features = operands[1].shape[-1] if kind == "transposed" else 1
        additional = last - math.prod(geometry.kernel_size)
        problem = geometry.problem(
            batch, heads, heads // group, features, features, additional, max(batch, 1)
        )
        sizes = _core.cuda_unfused_workspaces(problem, slots.dtype == jnp.float64)
        size = sizes[0 if kind == "transposed" else 1]
        results = (*results, result_like(slots, (size,), jnp.dtype(jnp.uint8), alike=0))
    call = jax.ffi.ffi_call(UNFUSED_TARGETS[kind], results)
    return tuple(call(*operands, **attributes)[:count])

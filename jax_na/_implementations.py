"""Which implementations there are, and which of them run a problem on a platform."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jax_na import _core
from jax_na._arguments import DTYPES

NAMES = ("fused", "gemm", "naive", "xla")

#: What the CUDA kernels on tensor cores ("fused", "gemm") can do.
CUDA_DTYPES = ("float32", "bfloat16", "float16")
CUDA_HEAD_DIMS = "a multiple of 8 up to 256"
#: The features of a row that the naive kernels hold in registers.
NAIVE_MOST_FEATURES = 256


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute neighborhood attention, as seen from one platform."""

    name: str
    available: bool
    reason: str  # what it runs, or why it does not

    def __str__(self) -> str:
        return f"{self.name}: {'available' if self.available else 'not available'}; {self.reason}"


def _platform(name: str | None) -> str:
    name = jax.default_backend() if name is None else name
    return "cuda" if name == "gpu" else name  # JAX's other name for it


def _fused(platform: str) -> Implementation:
    available = platform == "cpu" or (platform == "cuda" and _core.has_cuda)
    if platform == "cpu":
        reason = (
            f"compiled CPU kernels ({_core.cpu_instruction_set}); first derivatives in reverse mode"
        )
    elif available:
        reason = (
            f"tensor-core kernels for {', '.join(CUDA_DTYPES)} and head dimensions of "
            f"{CUDA_HEAD_DIMS}, from compute capability 8.0 on; first derivatives in reverse mode"
        )
    elif platform == "cuda":
        reason = (
            "this jax_na was built without a CUDA compiler: implementation=None runs 'xla' there"
        )
    else:
        reason = (
            f"there are no compiled kernels for {platform!r}: implementation=None runs 'xla' there"
        )
    return Implementation("fused", available, reason)


def _gemm(platform: str) -> Implementation:
    available = platform == "cuda" and _core.has_cuda
    if available:
        reason = (
            "CUDA kernels on tensor cores that keep the scores and weights of all windows in "
            f"memory, for {', '.join(CUDA_DTYPES)} and head dimensions of {CUDA_HEAD_DIMS}; first "
            "derivatives in reverse mode"
        )
    elif platform == "cuda":
        reason = "this jax_na was built without a CUDA compiler"
    else:
        reason = f"its kernels are for CUDA devices, and there are none for {platform!r}"
    return Implementation("gemm", available, reason)


def _naive(platform: str) -> Implementation:
    available = platform == "cuda" and _core.has_cuda
    if available:
        reason = (
            f"CUDA kernels without tiles, for {', '.join(DTYPES)} and head dimensions up to "
            f"{NAIVE_MOST_FEATURES}; first derivatives in reverse mode"
        )
    elif platform == "cuda":
        reason = "this jax_na was built without a CUDA compiler"
    else:
        reason = f"its kernels are for CUDA devices, and there are none for {platform!r}"
    return Implementation("naive", available, reason)


def implementations(platform: str | None = None) -> tuple[Implementation, ...]:
    """Lists every implementation and whether it runs on `platform` ("cpu", "cuda", "tpu", ...;
    default: JAX's default).

    ``implementation=None`` runs the first available one there that can do the problem.
    """
    platform = _platform(platform)
    return (
        _fused(platform),
        _gemm(platform),
        _naive(platform),
        Implementation("xla", True, "pure JAX on any platform, differentiable any number of times"),
    )


def _cuda_refusal(name: str, dtype: jnp.dtype, head_dim: int, value_dim: int) -> str:
    """Why the CUDA kernels of an implementation cannot do a problem; empty where they can."""
    for axis, features in (("head_dim", head_dim), ("value_dim", value_dim)):
        if name == "naive" and features > NAIVE_MOST_FEATURES:
            return f"its kernels take a {axis} up to {NAIVE_MOST_FEATURES}, but got {features}"
        if name != "naive" and (features % 8 or not 8 <= features <= 256):
            return f"its CUDA kernels take a {axis} that is {CUDA_HEAD_DIMS}, but got {features}"
    if name != "naive" and dtype.name not in CUDA_DTYPES:
        return f"its CUDA kernels take {', '.join(CUDA_DTYPES)}, but got {dtype.name}"
    return ""


def kernels(
    name: str | None, dtype: jnp.dtype, head_dim: int, value_dim: int
) -> tuple[tuple[str, str], ...]:
    """The compiled kernels that can do a problem, as (platform, implementation), one for each
    platform: of the implementation `name`, or the best ones if it is None.
    """
    found = [("cpu", "fused")] if name in (None, "fused") else []
    for one in ("fused", "naive") if name is None else (name,):
        if _core.has_cuda and not _cuda_refusal(one, dtype, head_dim, value_dim):
            found.append(("cuda", one))
            break
    return tuple(found)


def require(name: str, dtype: jnp.dtype, head_dim: int, value_dim: int) -> None:
    """Raises where the implementation `name` cannot do a problem on the default platform."""
    listed = {one.name: one for one in implementations()}
    if not listed[name].available:
        raise NotImplementedError(
            f"jax_na: implementation={name!r} is not available: {listed[name].reason}"
        )
    refusal = is_default("cuda") and _cuda_refusal(name, dtype, head_dim, value_dim)
    if refusal:
        others = "'xla'"
        if name != "naive" and not _cuda_refusal("naive", dtype, head_dim, value_dim):
            others = "'naive' or 'xla'"
        raise NotImplementedError(
            f"jax_na: implementation={name!r} cannot do this problem: {refusal}; pass "
            f"implementation={others}"
        )


def require_order(found: Sequence[tuple[str, str]]) -> None:
    """Raises where pure JAX would run on CUDA, for want of kernels there among the ones `found`:
    the order of its sums is XLA's.
    """
    if is_default("cuda") and "cuda" not in dict(found):
        raise NotImplementedError(
            "jax_na: implementation='xla' is not deterministic on CUDA by itself: there, leave "
            "deterministic=True out and set XLA_FLAGS=--xla_gpu_deterministic_ops=true"
        )


def is_default(platform: str) -> bool:
    """Whether JAX runs on `platform` by default."""
    return _platform(None) == platform


def candidates(
    implementation: str | Sequence[str] | None, legal: Sequence[str] = NAMES
) -> tuple[str | None, ...]:
    """The names to try in order, of the `legal` ones; None alone means the best one of the platform
    that is compiled for.

    Raises:
      ValueError: an unknown name, or no name at all.
    """
    if implementation is None:
        return (None,)
    if isinstance(implementation, str):
        names = (implementation,)
    elif isinstance(implementation, Sequence):
        names = tuple(implementation)
    else:
        raise ValueError(
            "implementation should be None, a name or a sequence of names, but got "
            f"{implementation!r}"
        )
    for name in names:
        if name not in legal:
            raise ValueError(
                f"implementation should be None or from {', '.join(map(repr, legal))}, but "
                f"got {name!r}"
            )
    if not names:
        raise ValueError(
            "implementation should name at least one implementation, but got an empty sequence"
        )
    return names

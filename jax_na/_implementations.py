"""Which implementations there are, and which of them run a problem on a platform."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jax_na import _core

NAMES = ("fused", "gemm", "xla")

#: What the CUDA kernels that use tensor cores can do.
CUDA_DTYPES = ("float32", "bfloat16", "float16")
CUDA_HEAD_DIMS = "a multiple of 8 up to 256"


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


def implementations(platform: str | None = None) -> tuple[Implementation, ...]:
    """Lists every implementation and whether it runs on `platform` ("cpu", "cuda", "tpu", ...;
    default: JAX's default).

    The first available one is what ``implementation=None`` runs there, where it can do the problem.
    """
    platform = _platform(platform)
    fused = platform == "cpu" or (platform == "cuda" and _core.has_cuda)
    if platform == "cpu":
        reason = (
            f"compiled CPU kernels ({_core.cpu_instruction_set}); first derivatives in reverse mode"
        )
    elif fused:
        reason = (
            f"tensor-core kernels for {', '.join(CUDA_DTYPES)} and head dimensions of "
            f"{CUDA_HEAD_DIMS}, from compute capability 8.0 on; first derivatives in reverse "
            "mode; implementation=None runs 'xla' for other problems"
        )
    elif platform == "cuda":
        reason = (
            "this jax_na was built without a CUDA compiler: implementation=None runs 'xla' there"
        )
    else:
        reason = (
            f"there are no compiled kernels for {platform!r}: implementation=None runs 'xla' there"
        )
    gemm = platform == "cuda" and _core.has_cuda
    return (
        Implementation("fused", fused, reason),
        Implementation("gemm", gemm, _gemm_reason(platform)),
        Implementation("xla", True, "pure JAX on any platform, differentiable any number of times"),
    )


def _gemm_reason(platform: str) -> str:
    if platform != "cuda":
        return f"its kernels are for CUDA, not {platform!r}: pass implementation='xla'"
    if not _core.has_cuda:
        return "this jax_na was built without a CUDA compiler: pass implementation='xla'"
    return (
        "matrix products with scores and weights in memory, [..., heads, window]; types and head "
        "dimensions of 'fused'; first derivatives in reverse mode"
    )


def _cuda_refusal(dtype: jnp.dtype, head_dim: int, value_dim: int) -> str:
    """Why the fused CUDA kernels cannot do a problem; empty where they can."""
    if dtype.name not in CUDA_DTYPES:
        return f"its CUDA kernels take {', '.join(CUDA_DTYPES)}, but got {dtype.name}"
    for name, features in (("head_dim", head_dim), ("value_dim", value_dim)):
        if features % 8 or not 8 <= features <= 256:
            return f"its CUDA kernels take a {name} that is {CUDA_HEAD_DIMS}, but got {features}"
    return ""


def compiled_kernels(
    name: str, dtype: jnp.dtype, head_dim: int, value_dim: int
) -> tuple[tuple[str, str], ...]:
    """The compiled kernels of an implementation that can do a problem, as (platform,
    implementation).
    """
    kernels = [("cpu", name)] if name == "fused" else []
    if _core.has_cuda and not _cuda_refusal(dtype, head_dim, value_dim):
        kernels.append(("cuda", name))
    return tuple(kernels)


def require(name: str, dtype: jnp.dtype, head_dim: int, value_dim: int) -> None:
    """Raises where a compiled implementation cannot do a problem on the default platform."""
    listed = next(i for i in implementations() if i.name == name)
    if not listed.available:
        raise NotImplementedError(
            f"jax_na: implementation={name!r} is not available: {listed.reason}"
        )
    refusal = _platform(None) == "cuda" and _cuda_refusal(dtype, head_dim, value_dim)
    if refusal:
        raise NotImplementedError(
            f"jax_na: implementation={name!r} cannot do this problem: {refusal}; pass "
            "implementation='xla'"
        )


def candidates(implementation: str | Sequence[str] | None) -> tuple[str | None, ...]:
    """The names to try in order; None alone means the best one of the platform that is compiled
    for.

    Raises:
      ValueError: an unknown name, or no name at all.
    """
    if implementation is None:
        return (None,)
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation)
    for name in names:
        if name not in NAMES:
            raise ValueError(
                f"implementation should be None or from {', '.join(map(repr, NAMES))}, but "
                f"got {name!r}"
            )
    if not names:
        raise ValueError(
            "implementation should name at least one implementation, but got an empty sequence"
        )
    return names

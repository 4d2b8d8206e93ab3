"""The custom calls by themselves, on operands of a slab, by any compiled kernels.

Layouts are those of `jax_na._ffi.forward` and `backward`: three axes, and origins that say where on
the whole axis the tensors' first tokens lie.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from jax_na import _core, _ffi
from jax_na._ffi import Geometry

NOWHERE = np.zeros((2, 3), np.int32)
_EXACT = _ffi.Options(jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The compiled kernels of an implementation on a platform, and what they can do."""

    platform: str
    implementation: str

    def __str__(self) -> str:
        return f"{self.platform}-{self.implementation}"

    @property
    def on_tensor_cores(self) -> bool:
        return self.platform == "cuda" and self.implementation != "naive"

    @property
    def dtypes(self) -> tuple[str, ...]:
        return ("float32", "bfloat16", "float16") + (() if self.on_tensor_cores else ("float64",))

    @property
    def exact(self) -> str:
        """The most exact type."""
        return "float32" if self.on_tensor_cores else "float64"

    @property
    def tolerance(self) -> float:
        """Of results in the most exact type."""
        return 5e-5 if self.on_tensor_cores else 1e-10

    @property
    def largest_factor(self) -> float:
        """Of scores. The fused kernels subtract a rounded maximum from exact products: a score of
        1e9 may exceed it by 100, and exp2 of the difference leaves float32 soon after.
        """
        return 1e4 if self.on_tensor_cores else math.inf

    @property
    def keep_nan_apart(self) -> bool:
        """Whether NaN and infinity reach only what sees them; products of tiles spread them."""
        return not self.on_tensor_cores

    def features(self, count: int) -> int:
        """The least number of features from `count` on."""
        return -(-count // 8) * 8 if self.on_tensor_cores else count

    def fit(self, problem: Any) -> Any:
        """The problem, with head dimensions that the kernels take."""
        return dataclasses.replace(
            problem,
            head_dim=self.features(problem.head_dim),
            value_dim=self.features(problem.value_dim),
        )

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def forward(self, geometry: Geometry, *operands: Any):
        """out and lse of 7 operands, the origins traced like all others."""
        return _ffi.forward(geometry, self.platform, self.implementation, _EXACT, *operands)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def backward(self, geometry: Geometry, *operands: Any):
        """The six gradients of 11 operands."""
        return _ffi.backward(geometry, self.platform, self.implementation, _EXACT, *operands)


ON_CPU = Kernels("cpu", "fused")


def kernels_here() -> list[Kernels]:
    """All that run on JAX's default device."""
    if jax.default_backend() == "cpu":
        return [ON_CPU]
    if jax.default_backend() == "gpu" and _core.has_cuda:
        return [Kernels("cuda", name) for name in ("fused", "gemm", "naive")]
    return []
